"""EBM-MBP against what its code says: sizes, products, steps, training; and both planners executed in torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training, how_trained
from ebmsim.spec.expression import evaluate
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_mbp.yaml")
FILE = parse_workload(DOCUMENT)
# Numbers of a state, of an action, and where goals are in a state.
STATE = {"point": 2, "maze": 2, "reacher": 4, "arm": 20, "collision": 48}
ACTION = {"reacher": 2, "arm": 7}
POSITION = {"point": slice(0, 2), "maze": slice(0, 2), "reacher": slice(0, 2), "arm": slice(14, 17)}
# Multiply-adds of one transition of the arm.
ARM = 40 * 128 + 2 * 128 * 128 + 128


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def section_nodes(program: Program, label: str) -> list[Node]:
    return [n for s in program.sections if s.label == label for n in program.graph.nodes[s.first : s.last]]


def macs(graph: Graph, nodes: list[Node], phase: str = "") -> int:
    """Multiply-adds of matrix products, in a phase or in all."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category == "matmul" and phase in ("", node.phase):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total // 2


def parameters(program: Program, component: str = "") -> int:
    held = {k: program.graph.tensors[t] for k, t in program.weights.items() if k.startswith(component)}
    return sum(t.elements for t in held.values() if t.role == "weight")


# --- sizes and settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("overrides", [{}, {"planner": "mppi"}, {"planner": "langevin"}, {"batched": True}], ids=str)
def test_every_preset_composes(preset: str, overrides: dict[str, object]) -> None:
    assert check_workload(settled(preset, **overrides)) == []


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [8, 80, 0, 240, 2500]),
        ("mppi", [8, 80, 0, 240, 2500]),
        ("evaluation", [1, 80, 0, 30, 2500]),
        ("online", [8, 80, 80, 8, 2500]),
        ("point", [16, 10, 0, 240, 5000]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


@pytest.mark.parametrize(
    ("task", "total"),
    [("point", 33_792), ("maze", 33_792), ("reacher", 34_304), ("arm", 38_400), ("collision", 45_568)],
)
@pytest.mark.parametrize("batched", [False, True])
def test_parameters(task: str, total: int, batched: bool) -> None:
    """Three hidden layers, and a last one without bias; once whatever the number of transitions."""
    assert total == (2 * STATE[task] + 1) * 128 + 2 * 129 * 128 + 128
    program = compose(settled(task=task, batched=batched), 1)
    assert parameters(program, "transition") == parameters(program) == total


def test_what_is_stored() -> None:
    """38,400 used (0.154 MB), and three layers more that are never called."""
    workload = settled()
    unused = evaluate(FILE.components["transition"].unused_parameters, workload.parameters)
    used = parameters(compose(workload, 1))
    assert unused == 3 * (128 * 128 + 128) == 49_536
    assert used + unused == 87_936
    assert 4 * used / 1e6 == pytest.approx(0.154, abs=0.0005)


@pytest.mark.parametrize(("task", "total"), [("arm", 3_648), ("reacher", 2_464)])
def test_learned_actions(task: str, total: int) -> None:
    """Of a pair of states, 20 times a plan; 3.55 thousand multiply-adds each for the arm."""
    d, a = STATE[task], ACTION[task]
    program = compose(settled("learned_actions", task=task), 3)
    assert parameters(program, "actions") == (2 * d + 1) * 32 + 2 * 33 * 32 + 32 * a == total
    nodes = [n for n in section_nodes(program, "once") if n.branch == "actions[0]"]
    assert macs(program.graph, nodes) == 3 * 20 * (2 * d * 32 + 2 * 32 * 32 + 32 * a)
    assert pytest.approx(3_550, abs=5) == 40 * 32 + 2 * 32 * 32 + 32 * 7


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "expected"),
    [("point", 33_408), ("maze", 33_408), ("reacher", 33_920), ("arm", 38_016), ("collision", 45_184)],
)
@pytest.mark.parametrize("batched", [False, True])
def test_products_of_a_transition(task: str, expected: int, batched: bool) -> None:
    """All are passed back, too: the state is an input of the first layer."""
    program = compose(settled(task=task, batched=batched), 3)
    nodes, transitions = section_nodes(program, "step"), 19 if task == "collision" else 20
    for phase in ("forward", "backward-input"):
        assert macs(program.graph, nodes, phase) == 3 * transitions * expected


def test_products_of_the_layers() -> None:
    program = compose(settled(), 1)
    nodes = [n for n in section_nodes(program, "step") if n.branch == "transition[0]" and n.op == "linear"]
    assert [macs(program.graph, [n]) for n in nodes] == [5_120, 16_384, 16_384, 128]


def test_products_of_a_step() -> None:
    """Langevin: 6.08 million multiply-adds and as many back; MPPI: 486.6 million, forward only."""
    langevin, mppi = (compose(settled(p), 8) for p in ("default", "mppi"))
    steps = [section_nodes(p, "step") for p in (langevin, mppi)]
    assert macs(langevin.graph, steps[0], "forward") == 20 * 8 * ARM == pytest.approx(6.08e6, abs=5e3)
    assert macs(mppi.graph, steps[1], "forward") == 80 * 20 * 8 * ARM == pytest.approx(486.6e6, abs=5e4)
    assert macs(mppi.graph, steps[1], "backward-input") == 0
    # correlating the perturbations along the plan
    assert macs(mppi.graph, steps[1], "update") == 8 * 80 * 20 * 20 * 20


@pytest.mark.parametrize("planner", ["langevin", "mppi"])
def test_products_of_an_inference(planner: str) -> None:
    """80 steps and the transitions' energies of the finished plan; by Langevin 122 million multiply-adds in steps."""
    program = compose(settled(planner=planner), 1)
    step = macs(program.graph, section_nodes(program, "step"))
    assert [s.repeat for s in program.sections if s.label == "step"] == [80]
    assert macs(program.graph, section_nodes(program, "once")) == 20 * ARM
    if planner == "langevin":
        assert 80 * step == pytest.approx(122e6, rel=0.005)


@pytest.mark.parametrize(
    ("task", "chains", "planner", "expected"),
    [
        *(("point", c, p, e) for c, p, e in [(1, "langevin", 6.8), (8, "langevin", 17.0), (8, "mppi", 21.5)]),
        *(("arm", c, p, e) for c, p, e in [(1, "langevin", 7.0), (8, "langevin", 18.1), (8, "mppi", 23.4)]),
    ],
)
def test_intensity_of_the_products(task: str, chains: int, planner: str, expected: float) -> None:
    """FLOPs per byte of 20, 160 and 12,800 transitions in one batch, unfused, four bytes per element."""
    program = compose(settled(task=task, planner=planner, batched=True), chains)
    nodes = [n for n in section_nodes(program, "step") if n.op == "linear"]
    moved = sum(4 * program.graph.tensors[t].elements for n in nodes for t in (*n.inputs, *n.outputs))
    assert 2 * macs(program.graph, nodes) / moved == pytest.approx(expected, abs=0.06)


def test_one_batch_launches_less() -> None:
    looped, batched = (section_nodes(compose(settled(batched=b), 8), "step") for b in (False, True))
    assert sum(n.op == "linear" for n in looped) == 20 * sum(n.op == "linear" for n in batched) == 80


# --- steps, actions, training ----------------------------------------------------------------------------------------


def test_the_steps() -> None:
    program = compose(settled(), 1)
    own = [n.op for n in section_nodes(program, "step") if n.phase in ("rng", "update") and n.op != "slice"]
    assert own == ["random_normal", "scale", "add", "scale", "sub", "concat"]
    for task, clamped in (("arm", 0), ("point", 1), ("collision", 0)):
        program = compose(settled(task=task, planner="mppi"), 1)
        nodes = section_nodes(program, "step")
        drawn = [program.graph.tensors[n.outputs[0]].elements for n in nodes if n.op == "random_normal"]
        assert drawn == [80 * 20 * {"arm": 20, "point": 2, "collision": 6}[task]]
        assert sum(n.op == "clamp" for n in nodes) == clamped
        assert sum(n.op == "softmax" for n in nodes) == 1


@pytest.mark.parametrize(("preset", "tries"), [("default", 8 * 2_000 / 8), ("evaluation", 20 * 4_000), ("point", 0)])
def test_the_search_for_actions(preset: str, tries: float) -> None:
    """Simulator steps of the slowest worker: 2,000 a plan, at evaluation 4,000 a transition."""
    workload = settled(preset)
    program = compose(workload, workload.setting("chains"))
    found = [n for n in section_nodes(program, "once") if n.op == "host"]
    shapes = [[program.graph.tensors[n.inputs[0]].shape] for n in found]
    seconds = sum(WORK["host"](s, s, dict(n.attributes)).seconds for s, n in zip(shapes, found, strict=True))
    step = workload.parameters["simulator_step"]
    assert isinstance(step, float)
    assert seconds == pytest.approx(tries * step)
    assert how_trained(workload).host_seconds == pytest.approx(tries * step)
    assert "host" not in [n.op for n in section_nodes(program, "step")]


@pytest.mark.parametrize(("preset", "transitions", "costs"), [("default", 240, False), ("online", 160, True)])
def test_an_update(preset: str, transitions: int, costs: bool) -> None:
    """Single transitions; with planning counted, whole plans. Every parameter is updated."""
    iteration = compose_training(settled(preset))
    for part in ("forward_positive", "forward_negative"):
        nodes = [n for first, last in iteration.parts[part] for n in iteration.graph.nodes[first:last]]
        assert macs(iteration.graph, nodes) == transitions * ARM
        assert any(n.branch.startswith("costs") for n in nodes) == costs
    updated = [iteration.graph.tensors[n.inputs[0]] for n in iteration.graph.nodes if n.op == "adam"]
    assert sum(t.elements for t in updated) == 38_400


def test_taxonomy() -> None:
    assert derive(settled()) == ("hetero", "fully-parallel")
    assert FILE.taxonomy.paper is None


# --- planning in torch -----------------------------------------------------------------------------------------------


def transition(w: dict[str, Tensor], pair: Tensor, task: str) -> Tensor:
    """Energies of [rows, 2, state]."""
    if task == "arm":
        pair = torch.cat([pair[..., :-3], torch.zeros_like(pair[..., -3:])], -1)
    x = pair.flatten(1)
    for name in ("mlp.fc1", "mlp.fc2", "mlp.fc3"):
        x = fn.leaky_relu(fn.linear(x, w[f"{name}.weight"], w[f"{name}.bias"]), 0.2)
    energy: Tensor = fn.linear(x, w["w6"].abs())[:, 0]
    return energy


def plan_energy(w: dict[str, Tensor], x: Tensor, v: dict[str, Tensor], task: str, planner: str) -> Tensor:
    """Energies of plans [rows, states, state]."""
    last = x.shape[1] - 1
    costs = task != "collision"
    each = [transition(w, x[:, i : i + 2], task) for i in range(last)]
    energy = sum((last - i if costs and planner == "langevin" else 1) * e for i, e in enumerate(each))
    assert isinstance(energy, Tensor)
    if not costs:
        return energy
    s = x[..., :-6] if task == "arm" and planner == "langevin" else x
    velocity = (s[:, 1:] - s[:, :-1]).square().mean((1, 2))
    acceleration = (s[:, 2:] - 2 * s[:, 1:-1] + s[:, :-2]).square().mean((1, 2))
    off = x[..., POSITION[task]] - v["goal"].repeat_interleave(len(x) // len(v["goal"]), 0)
    distance = ((v["late"] if planner == "mppi" else 1) * off).square().mean((1, 2))
    return energy + 0.1 * velocity + 0.01 * acceleration + distance


def langevin(w: dict[str, Tensor], x: Tensor, v: dict[str, Tensor], task: str) -> Tensor:
    free = v["hidden"].expand(-1, -1, -1, 6).flatten(2) if task == "collision" else 1.0
    noisy = (x + 0.01 * v["noise"] * free).requires_grad_()
    (gradient,) = torch.autograd.grad(plan_energy(w, noisy, v, task, "langevin").sum(), noisy)
    moved = (noisy - gradient * free).detach()
    return moved if task == "collision" else torch.cat([v["start"], moved[:, 1:]], 1)


def mppi(w: dict[str, Tensor], x: Tensor, v: dict[str, Tensor], task: str) -> Tensor:
    kicks = (v["noise"] @ v["root"].mT + v["mean"]).mT  # [plans, candidates, states, state]
    if task == "collision":
        kicks = (kicks[..., None, :] * v["hidden"][:, None]).flatten(3)
        plans = x[:, None] + kicks
    else:
        plans = x[:, None, 1:] + kicks
        plans = torch.cat([v["start"][:, None].expand(-1, plans.shape[1], -1, -1), plans], 2)
    energies = plan_energy(w, plans.flatten(0, 1), v, task, "mppi").view(plans.shape[:2])
    mean: Tensor = (plans * (-10000 * energies).softmax(1)[..., None, None]).sum(1)
    return mean if task in ("arm", "collision") else mean.clamp(-1, 1)


CASES = [
    ("arm", "langevin", False),
    ("arm", "mppi", False),
    ("arm", "langevin", True),
    ("point", "langevin", False),
    ("point", "mppi", True),
    ("reacher", "mppi", False),
    ("collision", "langevin", False),
    ("collision", "mppi", False),
]


@pytest.mark.parametrize(("task", "planner", "batched"), CASES)
def test_torch_plans_and_counts_the_same(
    task: str, planner: str, batched: bool, run: Callable[..., dict[int, Any]]
) -> None:
    """One step and no random numbers but those given: equal plans, parameters and FLOPs."""
    chains = 3
    program = compose(settled("small", task=task, planner=planner, batched=batched, steps=1), chains)
    graph = program.graph
    drawn = [n for n in graph.nodes if n.op == "random_normal"]
    kept = [n for n in graph.nodes if n.op not in ("random_normal", "host")]
    written = {t for n in kept for t in n.outputs}
    generator = torch.Generator().manual_seed(4)
    # so small that the softmax weighs several candidates, and that clamps are not always at work
    values = {
        i: 0.3 * torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for i, t in enumerate(graph.tensors)
        if i not in written and t.role != "constant"
    }
    key = dict(program.weights)
    for name, t in key.items():
        values[t] *= 0.002 if name.startswith("sampler.kicks") else 1
        if name.endswith("weights"):
            values[t] = torch.arange(3.0, 0, -1, dtype=torch.float64)[:, None]
    v = {graph.tensors[i].name: x for i, x in values.items() if graph.tensors[i].role == "input"}
    v["noise"] = values[drawn[0].outputs[0]]
    v |= {name.rpartition(".")[2]: values[t] for name, t in key.items() if graph.tensors[t].role == "buffer"}
    weights = {name.partition(".")[2]: values[t] for name, t in key.items() if graph.tensors[t].role == "weight"}
    assert parameters(program) == sum(w.numel() for w in weights.values())

    x = v["previous"] if task == "collision" else torch.cat([v["start"], v["previous"]], 1)
    expected = (langevin if planner == "langevin" else mppi)(weights, x, v, task)
    found = run(Graph(graph.tensors, tuple(kept)), values)[graph.results[0]]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, x, atol=1e-4)

    rows = x.repeat_interleave(4 if planner == "mppi" else 1, 0).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        energy = plan_energy(weights, rows * 1, v, task, planner).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, rows)
    step = section_nodes(program, "step")
    assert 2 * macs(graph, step, "forward") == forward.get_total_flops() > 0
    assert 2 * macs(graph, step, "backward-input") == (backward.get_total_flops() if planner == "langevin" else 0)
