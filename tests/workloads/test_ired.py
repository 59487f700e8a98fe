"""IRED against what its paper and code say: the four networks, what flows back, evaluations per inference."""

from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.spec.expression import evaluate
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ired.yaml")
FILE = parse_workload(DOCUMENT)

# Multiply-adds of one forward, layer by layer.
TIME_MLP = 2 * 128 * 128 + 2 * 128 * 1024
TIME_GRAPH = 512 * 32 + 32 * 32
MACS = {
    "default": TIME_MLP + 1200 * 512 + 2 * 512 * 512 + 512 * 400,
    "inverse": TIME_MLP + 800 * 512 + 2 * 512 * 512 + 512 * 400,
    "low_rank": TIME_MLP + 800 * 512 + 2 * 512 * 512 + 512 * 400,
    "connectivity": TIME_GRAPH
    + 32 * (12 * (68 + 96) + 12**2 * (68 + 256) + 12**3 * (204 + 384))  # unary, binary, ternary of both layers
    + 12**2 * 32,
    "shortest_path": TIME_GRAPH + 8 * 20 * 20 * 64 * (206 + 392) + 8 * 20 * 64,
    "sudoku": 128 * 64 + 64 * 64 + 12 * 64 * 768 + 81 * (9 * 18 * 384 + 12 * 25 * 384 * 384 + 384 * 9),
}
NETWORK = {"default": "mlp", "connectivity": "logic_machine", "shortest_path": "path", "sudoku": "sudoku"}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def macs(program: Program, phase: str, section: int) -> float:
    """Multiply-adds of one run of a section's convolutions and matrix products in a phase."""
    s = program.sections[section]
    return sum(product_flops(program, n) for n in program.graph.nodes[s.first : s.last] if n.phase == phase) / 2


def product_flops(program: Program, node: Node) -> int:
    if OPERATORS[node.op].category not in ("matmul", "convolution"):
        return 0
    inputs, outputs = ([program.graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
    return WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops


def step_section(program: Program) -> int:
    return next(i for i, s in enumerate(program.sections) if s.label == "step")


def evaluations(program: Program) -> tuple[int, int]:
    """Forwards (one time MLP each) and gradients that the sampler uses, over an inference."""
    forwards = backwards = 0
    for section in program.sections:
        nodes = program.graph.nodes[section.first : section.last]
        forward = [n for n in nodes if n.op == "linear" and n.name.endswith(".time.linear1")]
        forwards += section.repeat * len(forward)
        results = {n.outputs[0] for n in nodes if n.phase == "backward-input"}
        used = {t for n in nodes if n.name in ("sampler.removed", "sampler.move") for t in n.inputs}
        backwards += section.repeat * len(results & used)
    return forwards, backwards


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize(
    ("preset", "used", "allocated"),
    [
        ("default", 1_642_640, 1_642_640),
        ("inverse", 1_437_840, 1_437_840),
        ("low_rank", 1_437_840, 1_437_840),
        ("connectivity", 52_129, 52_129),
        ("shortest_path", 55_937, 55_937),
        ("sudoku", 44_918_921, 47_280_521),
    ],
)
def test_parameters(preset: str, used: int, allocated: int) -> None:
    workload = settled(preset)
    program = compose(workload, 1)
    held = [program.graph.tensors[t] for t in program.weights.values()]
    unused = FILE.components[NETWORK.get(preset, "mlp")].unused_parameters
    assert sum(t.elements for t in held if t.role == "weight") == used
    assert used + int(evaluate(unused, workload.parameters)) == allocated


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("default", 1.638),
        ("inverse", 1.434),
        ("low_rank", 1.434),
        ("connectivity", 34.1),
        ("shortest_path", 122.5),
        ("sudoku", 3590),
    ],
)
def test_products_of_a_forward(preset: str, millions: float) -> None:
    """The same for the denoising evaluation, for a step's gradient and for its second energy."""
    program = compose(settled(preset), 1)
    step = step_section(program)
    assert MACS[preset] / 1e6 == pytest.approx(millions, rel=5e-4 if millions < 10 else 2e-3)
    assert macs(program, "forward", step - 1) == MACS[preset]
    assert macs(program, "forward", step) == MACS[preset]
    assert macs(program, "accept", step) == MACS[preset]


def test_products_of_a_forward_grow_with_the_graph() -> None:
    """113 million multiply-adds on 18 nodes."""
    program = compose(settled("connectivity", nodes=18), 1)
    assert macs(program, "forward", step_section(program)) / 1e6 == pytest.approx(113, abs=0.5)


@pytest.mark.parametrize(
    ("preset", "skipped"),
    [
        ("default", TIME_MLP),
        ("inverse", TIME_MLP),
        ("shortest_path", TIME_GRAPH),
        ("sudoku", 128 * 64 + 64 * 64 + 12 * 64 * 768),
        # what the energy does not read: unary and ternary groups of the second layer
        ("connectivity", TIME_GRAPH + 32 * (12 * 96 + 12**3 * 384)),
    ],
)
def test_the_input_gradient_skips_the_time(preset: str, skipped: int) -> None:
    program = compose(settled(preset), 1)
    step = step_section(program)
    assert macs(program, "backward-input", step) == MACS[preset] - skipped
    assert macs(program, "backward-input", step - 1) == MACS[preset] - skipped


def test_the_input_gradient_of_the_mlp() -> None:
    """1.343 million multiply-adds."""
    program = compose(settled(), 1)
    assert macs(program, "backward-input", step_section(program)) == 1_343_488


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("default", (110, 60)), ("connectivity", (110, 60)), ("shortest_path", (110, 60)), ("sudoku", (410, 210))],
)
def test_evaluations_of_an_inference(preset: str, expected: tuple[int, int]) -> None:
    """At each of 10 landscapes one gradient, then per step one gradient and one more energy."""
    assert evaluations(compose(settled(preset), 1)) == expected


def test_products_of_an_inference() -> None:
    """261 million multiply-adds per answer; 1.07 TFLOP for 2,048 answers."""
    program = compose(settled(), 1)
    flops = sum(
        s.repeat * product_flops(program, n) for s in program.sections for n in program.graph.nodes[s.first : s.last]
    )
    assert flops / 2 == 110 * 1_638_400 + 60 * 1_343_488
    assert flops / 2e6 == pytest.approx(261, abs=0.5)
    assert 2048 * flops / 1e12 == pytest.approx(1.07, abs=0.005)


@pytest.mark.parametrize(
    ("preset", "chains", "expected"),
    [
        ("default", 64, 24.8),
        ("default", 256, 59.0),
        ("default", 2048, 98.8),
        ("inverse", 512, 72.5),
        ("inverse", 2048, 92.0),
    ],
)
def test_intensity_of_the_products(preset: str, chains: int, expected: float) -> None:
    """FLOPs per byte of one forward's matrix products, unfused, four bytes per element, biases left out."""
    program = compose(settled(preset), chains)
    section = program.sections[step_section(program)]
    nodes = [n for n in program.graph.nodes[section.first : section.last] if n.op == "linear" and n.phase == "forward"]
    moved = sum(4 * program.graph.tensors[t].elements for n in nodes for t in (*n.inputs[:2], *n.outputs))
    assert sum(product_flops(program, n) for n in nodes) / moved == pytest.approx(expected, abs=0.05)


def test_one_section_per_part_of_a_landscape() -> None:
    """Copies and the start once; denoising, steps and the way to the next landscape at every one of them."""
    program = compose(settled(), 1)
    assert [(s.label, s.repeat) for s in program.sections][-3:] == [("once", 10), ("step", 50), ("once", 10)]
    noise = [n for n in program.graph.nodes if n.op == "random_normal"]
    assert len(noise) == 1 and program.graph.nodes.index(noise[0]) < program.sections[-3].first


@pytest.mark.parametrize("preset", ["default", "sudoku"])
def test_a_step_accepts_or_refuses(preset: str) -> None:
    program = compose(settled(preset), 1)
    section = program.sections[step_section(program)]
    nodes = program.graph.nodes[section.first : section.last]
    own = [n.op for n in nodes if n.name.startswith("sampler.")]
    known = ["select"] if preset == "sudoku" else []
    assert own == ["mul", "sub", *known, "clamp", "less", "reshape", "select"]
    assert [n.op for n in nodes if n.name.startswith("sampler.") and n.phase == "accept"] == own[-3:]


def test_largest_tensor_of_the_logic_machine() -> None:
    """The second layer's ternary input, N³×384: 2.65 MB a sample at N = 12."""
    program = compose(settled("connectivity"), 1)
    joined = [program.graph.tensors[n.outputs[0]] for n in program.graph.nodes if n.op == "concat"]
    assert max(4 * t.elements for t in joined) / 1e6 == pytest.approx(2.65, abs=0.005)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [2048, 50, 2, 2048, 1_300_000]),
        ("validation", [256, 50, 2, 2048, 1_300_000]),
        ("connectivity", [64, 50, 0, 512, 1_300_000]),
        ("sudoku", [64, 200, 0, 64, 1_300_000]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    workload = settled(preset)
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [workload.setting(n) for n in names] == expected
