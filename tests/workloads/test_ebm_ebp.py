"""EBM-EBP against what its sources say: ensemble, energy, rollouts of a planning iteration, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_ebp.yaml")
FILE = parse_workload(DOCUMENT)
# Inputs and outputs of the linear layers of one member, and of the energy.
MEMBER = [(24, 200), (200, 200), (200, 200), (200, 200), (200, 36)]
PHASES = ("forward", "backward-input")
ENERGY = [(42, 400), (400, 400), (400, 400), (400, 400), (400, 1)]


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def product_flops(graph: Graph, node: Node) -> int:
    if node.op not in WORK:
        return 0
    shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](shapes[0], shapes[1], dict(node.attributes)).product_flops


def step(program: Program) -> list[Node]:
    section = next(s for s in program.sections if s.label == "step")
    return list(program.graph.nodes[section.first : section.last])


def products(program: Program, component: str, phase: str = "forward") -> list[int]:
    """Multiply-adds of every product of a component in a step."""
    nodes = [n for n in step(program) if n.branch.startswith(f"{component}[") and n.phase == phase]
    return [flops // 2 for n in nodes if (flops := product_flops(program.graph, n))]


def parameters(workload: Workload, component: str) -> int:
    program = compose(workload, 1)
    held = {key: program.graph.tensors[t] for key, t in program.weights.items() if key.startswith(f"{component}.")}
    return sum(t.elements for t in held.values() if t.role == "weight")


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []
    assert compose_training(settled(preset, training_batch=2)).parts


@pytest.mark.parametrize(("width", "total", "macs"), [(400, 498_801, 497_200), (256, 208_641, 207_616)])
def test_the_energy(width: int, total: int, macs: int) -> None:
    layers = [(42, width), *[(width, width)] * 3, (width, 1)]
    assert sum(a * b + b for a, b in layers) == total
    assert sum(a * b for a, b in layers) == macs
    workload = settled(energy_width=width)
    assert parameters(workload, "energies") == total
    assert products(compose(workload, 1), "energies") == [30 * 500 * 20 * a * b for a, b in layers]


def test_the_ensemble() -> None:
    """Five members of 132,836, and two bounds of 18 variances that they share; all members in one product."""
    one = sum(a * b + b for a, b in MEMBER)
    assert one + 36 == 132_872 and 5 * one + 36 == 664_216
    assert parameters(settled(), "dynamics") == parameters(settled("langevin"), "dynamics") == 664_216
    assert sum(a * b for a, b in MEMBER) == 132_000
    program = compose(settled(), 1)
    assert products(program, "dynamics") == [500 * 20 * a * b for a, b in MEMBER] * 30
    batches = {program.graph.tensors[n.inputs[0]].shape[:3] for n in step(program) if n.op == "matmul"}
    assert batches == {(1, 5, 2000)}


@pytest.mark.parametrize(("preset", "energy"), [("default", 149.2), ("per_candidate", 7.46)])
def test_products_of_an_iteration(preset: str, energy: float) -> None:
    """39.6 billion multiply-adds of rollouts; of energies 149.2, or 7.46 of mean trajectories."""
    program = compose(settled(preset), 1)
    assert sum(products(program, "dynamics")) / 1e9 == pytest.approx(39.6, abs=1e-9)
    assert sum(products(program, "energies")) / 1e9 == pytest.approx(energy, abs=0.05)


def test_products_of_an_action() -> None:
    """Five iterations: 944 billion multiply-adds, 235 with energies of means, 198 without energies."""
    found = []
    for preset in ("default", "per_candidate"):
        program = compose(settled(preset), 1)
        nodes = program.graph.nodes
        flops = [s.repeat * product_flops(program.graph, n) for s in program.sections for n in nodes[s.first : s.last]]
        found.append(sum(flops) / 2e9)
    assert found == pytest.approx([944, 235], abs=0.5)
    assert 5 * sum(products(compose(settled(), 1), "dynamics")) / 1e9 == pytest.approx(198)


def test_cem_goes_forward_only() -> None:
    """One evaluation a step; 500 candidates, of which 50 make the next plan; the host looks at the variance."""
    program = compose(settled(), 1)
    nodes = step(program)
    assert {n.phase for n in nodes} == {"forward", "rng", "update"}
    own = [n.op for n in nodes if n.name.startswith("sampler.")]
    assert own.count("to_host") == own.count("topk") == own.count("gather") == own.count("random_normal") == 1
    best = next(n for n in nodes if n.op == "topk")
    assert [program.graph.tensors[t].shape for t in (best.inputs[0], best.outputs[0])] == [(1, 500), (1, 50)]
    assert [s.repeat for s in program.sections if s.label == "step"] == [5]


@pytest.mark.parametrize("preset", ["default", "langevin"])
def test_a_rollout_is_sequential(preset: str) -> None:
    """Every time draws 18 numbers for each particle, and reads the state that the time before has written."""
    program = compose(settled(preset), 1)
    drawn = [n for n in step(program) if n.op == "random_normal" and n.branch.startswith("dynamics[")]
    rows = 2000 if preset == "default" else 1
    assert [program.graph.tensors[n.outputs[0]].shape for n in drawn] == [(1, 5, rows, 18)] * 30
    last = [
        n for n in step(program) if n.op == "softplus" and n.branch.startswith("dynamics[") and n.phase == "forward"
    ]
    reached = set(last[0].outputs)
    for node in step(program):
        if reached & set(node.inputs):
            reached |= set(node.outputs)
    assert all(n.outputs[0] in reached for n in last[::2])


def test_langevin_goes_back_through_the_rollout() -> None:
    """Every product forward has one of the same size back to the actions, through all times."""
    program = compose(settled("langevin"), 1)
    assert products(program, "energy") == [30 * 5 * a * b for a, b in ENERGY]
    assert products(program, "energy", "backward-input") == [30 * 5 * a * b for a, b in reversed(ENERGY)]
    assert products(program, "dynamics") == [5 * a * b for a, b in MEMBER] * 30
    assert sorted(products(program, "dynamics", "backward-input")) == sorted(products(program, "dynamics"))
    own = [n.op for n in step(program) if n.name.startswith("sampler.")]
    assert own == ["scale", "sub", "random_normal", "scale", "add", "clamp"]


@pytest.mark.parametrize(
    ("layers", "rows", "expected"),
    [(ENERGY, 1, 0.5), (ENERGY, 500, 58.6), (ENERGY, 10_000, 75.5), (MEMBER, 1, 0.5), (MEMBER, 500, 34.3)],
)
def test_intensity_of_the_products(layers: list[tuple[int, int]], rows: int, expected: float) -> None:
    """FLOPs per byte of one forward's products, four bytes per element, biases among the weights."""
    network = "energies" if layers is ENERGY else "dynamics"
    program = compose(settled(horizon=2, candidates=rows, particles=5, judged="mean"), 1)
    at_once = 2 * rows if network == "energies" else 5 * rows
    assert products(program, network)[:5] == [at_once * a * b for a, b in layers]
    moved = sum(4 * (rows * a + a * b + b + rows * b) for a, b in layers)
    assert 2 * rows * sum(a * b for a, b in layers) / moved == pytest.approx(expected, abs=0.05)


def test_training_is_about_single_transitions() -> None:
    """Denoising of the energy alone: the input gradient is differentiated, nothing is sampled, dynamics are held."""
    iteration = compose_training(settled())
    assert set(iteration.parts) == {"second_order", "update"}
    assert {t.shape for t in iteration.graph.tensors if t.role == "sample"} == {(256, 1, 42)}
    assert sum(iteration.graph.tensors[t].elements for t in iteration.weights) == 498_801
    forward = [n for n in iteration.graph.nodes if n.op == "linear" and n.phase == "forward"]
    assert [product_flops(iteration.graph, n) // 2 for n in forward[:5]] == [256 * a * b for a, b in ENERGY]


def test_tags_and_settings() -> None:
    assert derive(settled()) == derive(settled("langevin")) == ("hetero", "mixed-parallel")
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled().setting(n) for n in names] == [1, 5, 0, 256, 8000]
    assert settled("langevin").setting("steps") == 10


class Planned(nn.Module):
    """Ensemble, energy and cost of a plan, members side by side: batched products, as PETS has them."""

    def __init__(self, members: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(0.1 * torch.randn(members, a, b)) for a, b in MEMBER)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, b)) for _, b in MEMBER)
        self.bounds = nn.ParameterList(nn.Parameter(torch.zeros(18)) for _ in range(2))
        layers = [m for a, b in ENERGY for m in (nn.Linear(a, b), nn.SiLU())]
        self.energy = nn.Sequential(*layers[:-1])

    def forward(self, plan: torch.Tensor, particles: int) -> torch.Tensor:
        """plan: [candidates, horizon, 6]; the total of costs and energies."""
        count, horizon, _ = plan.shape
        members = self.weights[0].shape[0]
        now = torch.zeros(members, count * particles // members, 18)
        states, total = [now], torch.zeros(())
        for t in range(horizon):
            action = plan[:, t].repeat(particles // members, 1).expand(members, -1, -1)
            seen = torch.cat([now[..., 1:2], now[..., 2:3].sin(), now[..., 2:3].cos(), now[..., 3:]], -1)
            h = torch.cat([seen, action], -1)
            for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                h = torch.bmm(h, w) + b
                h = h * h.sigmoid() if i < 4 else h
            high = self.bounds[0] - nn.functional.softplus(self.bounds[0] - h[..., 18:])
            low = self.bounds[1] + nn.functional.softplus(high - self.bounds[1])
            change = h[..., :18] + torch.randn_like(low) * low.exp().sqrt()
            now = torch.cat([change[..., :1], now[..., 1:] + change[..., 1:]], -1)
            states.append(now)
            total = total - now[..., 0].sum() + 0.1 * action.square().sum()
            total = total + self.energy(torch.cat([states[-2], action, now], -1)).sum()
        return total


@pytest.mark.parametrize("planner", ["cem", "langevin"])
def test_torch_counts_the_same(planner: str) -> None:
    candidates, particles = (6, 10) if planner == "cem" else (1, 5)
    torch.manual_seed(1)
    model = Planned(5).requires_grad_(False)
    plan = torch.rand(candidates, 3, 6, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        total = model(plan * 1, particles)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(total, plan)
    workload = settled(planner=planner, horizon=3, candidates=candidates, particles=particles)
    program = compose(workload, 1)
    found = [sum(product_flops(program.graph, n) for n in step(program) if n.phase == p) for p in PHASES]
    assert found[0] == forward.get_total_flops()
    assert found[1] == (backward.get_total_flops() if planner == "langevin" else 0)
    energy = "energies" if planner == "cem" else "energy"
    ours = parameters(workload, "dynamics") + parameters(workload, energy)
    assert ours == sum(p.numel() for p in model.parameters()) == 664_216 + 498_801
