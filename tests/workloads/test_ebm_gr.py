"""EBM-GR against what its paper and code say: the MLP's sizes, evaluations of an inference, draws, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as fn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.expression import evaluate
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_gr.yaml")
FILE = parse_workload(DOCUMENT)
# Inputs, width, widening, outputs and levels of the MLP; calls per evaluation and rows of each.
SIZES = {
    "default": (8, 128, 2, 1, 100, 46, 1),
    "batched": (8, 128, 2, 1, 100, 1, 46),
    "sat20": (6, 128, 2, 1, 100, 1, 91),
    "sat50": (6, 128, 2, 1, 100, 1, 218),
    "colouring": (28, 256, 2, 1, 1000, 1, 146),
    "crossword": (1666, 1024, 1, 1666, 100, 2, 5),
}
COMPONENT = {"default": "line", "batched": "lines", "sat20": "clauses", "sat50": "clauses", "colouring": "edges"}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def macs(preset: str) -> list[int]:
    """Multiply-adds of the MLP for a row: first layer, of a block the four linears, last layer."""
    x, h, w, out, *_ = SIZES[preset]
    return [x * h, *[w * h * h, w * h * h, w * w * h * h, w * h * h] * 3, h * out]


def product_flops(graph: Graph, node: Node) -> int:
    if node.op not in WORK:
        return 0
    shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](shapes[0], shapes[1], dict(node.attributes)).product_flops


def step(program: Program) -> list[Node]:
    section = next(s for s in program.sections if s.label == "step")
    return list(program.graph.nodes[section.first : section.last])


def parameters(workload: Workload, preset: str) -> tuple[int, int]:
    """Used and allocated."""
    program = compose(workload, 1)
    held = [program.graph.tensors[t] for t in program.weights.values()]
    used = sum(t.elements for t in held if t.role == "weight")
    unused = FILE.components[COMPONENT.get(preset, "words")].unused_parameters
    return used, used + int(evaluate(unused, workload.parameters))


def evaluations(workload: Workload, calls: int) -> tuple[int, int]:
    """Gradients and energies without one, over an inference."""
    program = compose(workload, 1)
    forwards = backwards = 0
    for s in program.sections:
        nodes = program.graph.nodes[s.first : s.last]
        forwards += s.repeat * sum(n.op == "embedding" for n in nodes)
        backwards += s.repeat * sum(".mlp.first'" in n.name and product_flops(program.graph, n) > 0 for n in nodes)
    assert forwards % calls == backwards % calls == 0
    return backwards // calls, (forwards - backwards) // calls


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize(
    ("preset", "used", "allocated"),
    [
        ("default", 508_289, 608_641),
        ("batched", 508_289, 608_641),
        ("sat20", 508_033, 608_385),
        ("colouring", 2_235_137, 2_632_449),
        ("crossword", 16_112_258, 19_271_298),
    ],
)
def test_parameters(preset: str, used: int, allocated: int) -> None:
    """Allocated beside: the table of ten annealed landscapes, and a linear of each block for it."""
    x, h, w, out, levels, *_ = SIZES[preset]
    block = 2 * (h * w * h + w * h) + (w * h * w * h + w * h) + (w * h * h + h)
    assert levels * h + (x * h + h) + 3 * block + (h * out + out) == used
    assert used + 10 * h + 3 * (h * w * h + w * h) == allocated
    assert parameters(settled(preset), preset) == (used, allocated)


@pytest.mark.parametrize(
    ("preset", "total"),
    [
        ("default", 492_672),
        ("batched", 492_672),
        ("sat20", 492_416),
        ("sat50", 492_416),
        ("colouring", 1_973_504),
        ("crossword", 15_994_880),
    ],
)
def test_products_of_a_constraint(preset: str, total: int) -> None:
    """Layer by layer forward; the way back to the sample skips the level's linear in each block."""
    workload = settled(preset, chains=1, particles=3)
    graph = (program := compose(workload, 1)).graph
    calls, rows = SIZES[preset][5:]
    forward = [product_flops(graph, n) // 2 for n in step(program) if n.op == "linear" and n.phase == "forward"]
    assert forward == [3 * rows * m for m in macs(preset)] * calls
    assert sum(macs(preset)) == total
    back = sum(product_flops(graph, n) for n in step(program) if n.phase == "backward-input") // 2
    assert back == 3 * rows * calls * (total - sum(macs(preset)[2:14:4]))


def test_products_of_a_board() -> None:
    """22.7 million multiply-adds forward, 40.8 million with the way back, 81.6 MFLOP; 394,368 of a line back."""
    program = compose(settled(particles=1), 1)
    both = [
        sum(product_flops(program.graph, n) for n in step(program) if n.phase == p)
        for p in ("forward", "backward-input")
    ]
    assert both == [2 * 46 * 492_672, 2 * 46 * 394_368]
    assert both[0] / 2e6 == pytest.approx(22.7, abs=0.05)
    assert sum(both) / 1e6 == pytest.approx(81.6, abs=0.05)


def test_products_of_an_inference() -> None:
    """212 billion multiply-adds per particle of a board; 5.4 PFLOP for 12,800 of them."""
    program = compose(settled(), 1)
    nodes = program.graph.nodes
    flops = sum(s.repeat * product_flops(program.graph, n) for s in program.sections for n in nodes[s.first : s.last])
    assert flops / 2 / 128 == 46 * (5150 * (492_672 + 394_368) + 101 * 492_672)
    assert flops / 2e9 / 128 == pytest.approx(212, abs=0.5)
    assert 100 * flops / 1e15 == pytest.approx(5.4, abs=0.05)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        ("pem", (5150, 101)),
        ("reverse", (100, 0)),
        ("ula", (1080, 0)),
        ("mala", (100 + 49 * 21, 49 * 21)),
        ("hmc", (100 + 49 * 10 * 5, 49 * 10 * 5)),
        ("uhmc", (100 + 49 * 10 * 4, 0)),
    ],
)
@pytest.mark.parametrize("task", ["queens", "crossword"])
def test_evaluations_of_an_inference(sampler: str, expected: tuple[int, int], task: str) -> None:
    workload = settled(sampler=sampler, task=task, chains=1, batched=True)
    assert evaluations(workload, 2 if task == "crossword" else 1) == expected


def test_evaluations_of_colouring() -> None:
    assert evaluations(settled("colouring", particles=2), 1) == (501_500, 1001)


@pytest.mark.parametrize("levels", [2, 3, 4, 7, 100])
def test_the_triangle_is_exact(levels: int) -> None:
    """Level i takes i + 1 gradients down and one to be left, whether levels are odd or even in number."""
    workload = settled("small", levels=levels, batched=True)
    assert evaluations(workload, 1) == (sum(i + 1 for i in range(levels)) + levels, levels + 1)


def test_particles_are_drawn_once_per_level() -> None:
    program = compose(settled(), 1)
    found = [(s.label, s.repeat) for s in program.sections[2:]]
    assert found == [("once", 100), ("step", 5150), ("once", 100), ("once", 1), ("once", 1)]
    drawn = [n for n in program.graph.nodes if n.op == "categorical"]
    section = program.sections[2]
    assert len(drawn) == 1 and drawn[0] in program.graph.nodes[section.first : section.last]
    assert program.graph.tensors[drawn[0].outputs[0]].shape == (1, 128)
    assert not any(n.op in ("categorical", "softmax") for n in step(program))


def test_a_move() -> None:
    """Clean answer, mean, noise; a level's eight coefficients; counts of 16 lines and of 128 cells of diagonals."""
    nodes = step(compose(settled(), 1))
    own = [n for n in nodes if n.name.startswith("sampler.x.")]
    assert sum(n.op == "to_device" for n in own) == 8
    arithmetic = [
        n.op for n in own if n.name.count(".") == 2 and n.op in ("mul", "sub", "clamp", "exp", "random_normal")
    ]
    assert arithmetic == ["mul", "mul", "sub", "clamp", "mul", "mul", "random_normal", "exp", "mul", "mul"]
    assert sum(n.op == "shift" and ".counts." in n.name for n in nodes) == 16 + 128


def test_lines_of_a_board() -> None:
    """Rows and columns whole, then 15 diagonals and 15 anti-diagonals of 1 to 8 cells."""
    program = compose(settled(), 1)
    cut = [n for n in step(program) if n.op == "gather" and n.name.startswith("line.")]
    lengths = [program.graph.tensors[n.outputs[0]].shape[-1] for n in cut]
    assert lengths == [*range(1, 9), *range(7, 0, -1)] * 2
    filled = [n for n in step(program) if n.name == "line.line" and n.op == "pad"]
    assert {program.graph.tensors[n.outputs[0]].shape for n in filled} == {(128, 8)}


@pytest.mark.parametrize(("rows", "expected"), [(100, 24), (128, 27), (1024, 43), (12800, 46.5)])
def test_intensity_of_the_products(rows: int, expected: float) -> None:
    """FLOPs per byte of a forward's matrix products, four bytes per element, biases left out."""
    program = compose(settled(particles=1, batched=True), 1)
    linear = [n for n in step(program) if n.op == "linear" and n.phase == "forward"]
    flops = moved = 0
    for n in linear:
        inputs, outputs = (program.graph.tensors[t].shape[-1] for t in (n.inputs[0], n.outputs[0]))
        flops += 2 * rows * inputs * outputs
        moved += 4 * (rows * inputs + inputs * outputs + rows * outputs)
    assert flops / moved == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("preset", "width"), [("default", 8), ("sat20", 3), ("colouring", 28), ("crossword", 130)])
def test_training_is_about_single_constraints(preset: str, width: int) -> None:
    """No sampling; the gradient is differentiated again; two energies beside it, none for crosswords."""
    iteration = compose_training(settled(preset, training_batch=4))
    contrastive = {"forward_positive", "forward_negative", "backward_positive", "backward_negative"}
    assert set(iteration.parts) - {"data"} == {"second_order", "update"} | (
        set() if preset == "crossword" else contrastive
    )
    samples = {t.shape for t in iteration.graph.tensors if t.role == "sample"}
    assert samples == {(4, width)}
    assert settled(preset).setting("training_steps") == 0
    products = [n for n in iteration.graph.nodes if n.op == "linear" and n.phase == "forward"]
    assert sum(product_flops(iteration.graph, n) for n in products) % (2 * 4 * sum(macs(preset))) == 0


def test_taxonomy() -> None:
    assert derive(settled()) == ("homo-dw", "fully-parallel")


def test_settings() -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled().setting(n) for n in names] == [100, 5150, 0, 2048, 10_000]
    assert [settled("sat20").setting(n) for n in names] == [1024, 5150, 0, 1024, 15_000]
    assert [settled("colouring").setting(n) for n in names] == [1, 501_500, 0, 1024, 50_010]


class Block(nn.Module):
    def __init__(self, h: int, wide: int) -> None:
        super().__init__()
        self.widened, self.timed = nn.Linear(h, wide), nn.Linear(h, wide)
        self.inner, self.narrowed = nn.Linear(wide, wide), nn.Linear(wide, h)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        h = self.widened(fn.relu(fn.layer_norm(x, x.shape[-1:]))) + self.timed(e)
        change: torch.Tensor = self.narrowed(fn.relu(self.inner(fn.relu(h))))
        return x + change


class MLP(nn.Module):
    """The residual MLP of all tasks, with the level's linear in each block."""

    def __init__(self, x: int, h: int, w: int, out: int, levels: int) -> None:
        super().__init__()
        self.time, self.first, self.last = nn.Embedding(levels, h), nn.Linear(x, h), nn.Linear(h, out)
        self.blocks = nn.ModuleList(Block(h, w * h) for _ in range(3))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x, e = self.first(x), self.time(t)
        for block in self.blocks:
            x = block(x, e)
        length: torch.Tensor = self.last(x).norm(dim=-1)
        return length


@pytest.mark.parametrize("preset", ["default", "batched", "sat20", "colouring", "crossword"])
def test_torch_counts_the_same(preset: str) -> None:
    x, h, w, out, levels, calls, rows = SIZES[preset]
    model = MLP(x, h, w, out, levels).requires_grad_(False)
    given = torch.rand(2 * rows, x, requires_grad=True)
    level = torch.zeros(2 * rows, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        energy = sum(model(given * 1, level).sum() for _ in range(calls))
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, given)
    program = compose(settled(preset, chains=1, particles=2), 1)
    found = [
        sum(product_flops(program.graph, n) for n in step(program) if n.phase == p)
        for p in ("forward", "backward-input")
    ]
    assert found == [forward.get_total_flops(), backward.get_total_flops()]
    assert parameters(settled(preset), preset)[0] == sum(p.numel() for p in model.parameters())
