"""EBM-IMP against what its paper and code say: sizes, products, the sampling program."""

from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.spec.expression import evaluate
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_imp.yaml")
FILE = parse_workload(DOCUMENT)

# Multiply-adds of the 14 convolutions as (pixels, inputs, outputs), nine taps each, and of the last layer.
CONVOLUTIONS = [
    (1024, 3, 128),
    *[(1024, 128, 128)] * 2,
    *[(256, 128, 128)] * 2,
    (256, 128, 256),
    (256, 256, 256),
    (256, 128, 256),  # bypass
    *[(64, 256, 256)] * 4,
    *[(16, 256, 256)] * 2,
]
MACS = sum(9 * pixels * a * b for pixels, a, b in CONVOLUTIONS) + 256


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def product_flops(program: Program, phase: str) -> int:
    """FLOPs of convolutions and matrix products in a phase, every section once."""
    tensors = program.graph.tensors
    total = 0
    for node in program.graph.nodes:
        if node.phase == phase and OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total


def parameters(workload: Workload) -> tuple[int, int]:
    """Used and allocated."""
    program = compose(workload, 1)
    held = [program.graph.tensors[t] for t in program.weights.values()]
    used = sum(t.elements for t in held if t.role == "weight")
    when = "conditional_energy" if workload.parameters["classes"] else "energy"
    text = FILE.components[when].unused_parameters
    return used, used + int(evaluate(text, workload.parameters))


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_every_preset_composes(preset: str, spectral_norm: bool) -> None:
    assert check_workload(settled(preset, spectral_norm=spectral_norm)) == []


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize(
    ("preset", "used", "allocated"),
    [("default", 5_315_841, 7_519_496), ("conditional", 5_350_529, 7_567_880)],
)
def test_parameters(preset: str, used: int, allocated: int, spectral_norm: bool) -> None:
    """Allocated: 30.08 MB and 30.27 MB. The used ones of the conditional network follow from the label's tables."""
    assert parameters(settled(preset, spectral_norm=spectral_norm)) == (used, allocated)


def test_used_parameters_of_the_conditional_network() -> None:
    """Ten rows instead of one for 3,712 channels of biases and gains, and 1,280 common gains."""
    assert parameters(settled("conditional"))[0] - parameters(settled())[0] == 9 * 3712 + 1280


@pytest.mark.parametrize(
    ("preset", "overrides", "millions", "gigamacs"),
    [
        ("large", {}, 18.59, 1.362),
        ("wider", {"classes": 0}, 41.9, 3.174),
        ("wider", {"classes": 0, "f": 256}, 74.3, 5.439),
    ],
)
def test_the_other_networks(preset: str, overrides: dict[str, int], millions: float, gigamacs: float) -> None:
    workload = settled(preset, **overrides)
    assert parameters(workload)[0] / 1e6 == pytest.approx(millions, abs=0.05)
    assert product_flops(compose(workload, 1), "forward") / 2e9 == pytest.approx(gigamacs, abs=0.0005)


@pytest.mark.parametrize("chains", [1, 3])
def test_products_of_one_evaluation(chains: int) -> None:
    """852.9 million multiply-adds a sample, forward and input gradient alike."""
    program = compose(settled(), chains)
    assert round(MACS / 1e6, 1) == 852.9
    assert product_flops(program, "forward") == 2 * MACS * chains
    assert product_flops(program, "backward-input") == 2 * MACS * chains


@pytest.mark.parametrize("preset", ["large", "small"])
def test_the_input_gradient_costs_what_the_forward_costs(preset: str) -> None:
    program = compose(settled(preset), 2)
    assert product_flops(program, "forward") == product_flops(program, "backward-input")


def test_the_label_adds_eighteen_small_products() -> None:
    """Forward only: nothing of the label's path sees the image."""
    plain, labelled = compose(settled(), 1), compose(settled("conditional"), 1)
    assert sum(n.op == "linear" for n in labelled.graph.nodes) == 18 + 1
    assert product_flops(labelled, "forward") - product_flops(plain, "forward") == 2 * 10 * 3712
    assert product_flops(labelled, "backward-input") == product_flops(plain, "backward-input")


@pytest.mark.parametrize("chains", [1, 5])
def test_normalising_in_every_forward(chains: int) -> None:
    """Three matrix-vector products and a division per weight of the 14 convolutions: 37 MFLOP for any batch."""
    plain, normed = compose(settled(), chains), compose(settled(spectral_norm=True), chains)
    weights = sum(9 * a * b for _, a, b in CONVOLUTIONS)
    outputs = sum(b for _, _, b in CONVOLUTIONS)
    dots = sum(9 * a for _, a, _ in CONVOLUTIONS)
    extra = product_flops(normed, "forward") - product_flops(plain, "forward")
    assert extra == 2 * (3 * weights + dots)
    divided = [n for n in normed.graph.nodes if n.op == "div" and n.name.endswith(".w")]
    assert sum(normed.graph.tensors[n.outputs[0]].elements for n in divided) == weights
    assert (6 * weights + weights) / 1e6 == pytest.approx(37, abs=0.5)
    buffers = [normed.graph.tensors[t] for t in normed.weights.values()]
    assert sum(t.elements for t in buffers if t.role == "buffer") == outputs
    assert product_flops(normed, "backward-input") == product_flops(plain, "backward-input")


def test_tensors_written_by_a_forward() -> None:
    """2.32 million elements a sample, every operator unfused; 0.51 million feed an activation."""
    program = compose(settled(), 1)
    tensors = program.graph.tensors
    forward = [n for n in program.graph.nodes if n.phase == "forward" and OPERATORS[n.op].category != "view"]
    assert sum(tensors[n.outputs[0]].elements for n in forward) / 1e6 == pytest.approx(2.32, abs=0.005)
    active = [n for n in forward if n.op in ("leaky_relu", "relu")]
    assert sum(tensors[n.inputs[0]].elements for n in active) / 1e6 == pytest.approx(0.51, abs=0.005)


@pytest.mark.parametrize(("chains", "expected"), [(1, 41.9), (2, 56.6), (16, 81.9), (128, 86.7)])
def test_intensity_of_a_forward(chains: int, expected: float) -> None:
    """FLOPs per byte with every operator unfused, four bytes per element."""
    program = compose(settled(), chains)
    tensors = program.graph.tensors
    flops = moved = 0
    for node in program.graph.nodes:
        if node.phase == "forward" and OPERATORS[node.op].category != "view":
            inputs, outputs = ([tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            flops += WORK[node.op](inputs, outputs, dict(node.attributes)).flops
            moved += sum(4 * tensors[t].elements for t in (*node.inputs, *node.outputs))
    assert flops / moved == pytest.approx(expected, abs=0.05)


def test_the_sampling_program() -> None:
    """Each step: one gradient, 3,072 normal numbers per chain added before it, clamps of gradient and sample."""
    program = compose(settled(), 1)
    step = next(s for s in program.sections if s.label == "step")
    assert step.repeat == 100
    nodes = program.graph.nodes[step.first : step.last]
    ops = [n.op for n in nodes if n.phase in ("rng", "update")]
    assert ops == ["random_normal", "add", "clamp", "scale", "sub", "clamp"]
    assert nodes[0].op == "random_normal" and nodes[1].op == "add" and nodes[2].op == "conv2d"
    assert program.graph.tensors[nodes[0].outputs[0]].elements == 3072
    assert sum(n.phase == "forward" and n.name.endswith("energy") and n.op == "linear" for n in nodes) == 1
    assert sum(n.op == "conv2d" for n in nodes) == sum(n.op == "conv2d_input_gradient" for n in nodes) == 14


def test_settings() -> None:
    workload = settled()
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [workload.setting(n) for n in names] == [128, 100, 60, 128, 75_000]
