"""RRR against what its paper and code say: layers, energies of rows, evaluations of every sampler, the toy."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "rrr.yaml")
FILE = parse_workload(DOCUMENT)
PARAMETERS, W, EMBEDDING = 125_121_667, 128, 512

# Layer: channels before and after, side of what comes out, side of the attention behind it or 0; parameters of the
# residual block and of the attention; millions of multiply-adds of both. In units of W where they are channels.
LAYERS = {
    "in1": (1, 1, 64, 0, 361_344, 0, 1208.0, 0),
    "in4": (1, 1, 32, 0, 361_344, 0, 302.1, 0),
    "in5": (1, 2, 32, 32, 1_050_368, 263_680, 939.7, 805.3),
    "in6": (2, 2, 32, 32, 1_312_512, 263_680, 1208.1, 805.3),
    "in8": (2, 2, 16, 0, 1_312_512, 0, 302.1, 0),
    "in9": (2, 3, 16, 16, 2_509_568, 592_128, 591.6, 201.3),
    "in11": (3, 3, 16, 16, 2_853_504, 592_128, 679.7, 201.3),
    "in12": (3, 3, 8, 0, 2_853_504, 0, 170.1, 0),
    "in13": (3, 4, 8, 8, 4_591_360, 1_051_648, 277.1, 71.3),
    "in15": (4, 4, 8, 8, 4_984_320, 1_051_648, 302.3, 71.3),
    "mid": (4, 4, 8, 8, 4_984_320, 1_051_648, 302.3, 71.3),
    "mid2": (4, 4, 8, 0, 4_984_320, 0, 302.3, 0),
    "out2": (8, 4, 8, 8, 7_869_440, 1_051_648, 486.8, 71.3),
    "out3": (7, 4, 8, 8, 7_213_824, 1_051_648, 444.9, 71.3),
    "up3": (4, 4, 16, 0, 4_984_320, 0, 1208.2, 0),
    "out4": (7, 3, 16, 16, 4_968_448, 592_128, 1220.7, 201.3),
    "out6": (6, 3, 16, 16, 4_476_672, 592_128, 1094.9, 201.3),
    "out7": (5, 3, 16, 16, 3_984_896, 592_128, 969.1, 201.3),
    "up7": (3, 3, 32, 0, 2_853_504, 0, 2718.1, 0),
    "out8": (5, 2, 32, 32, 2_362_112, 263_680, 2281.8, 805.3),
    "out10": (4, 2, 32, 32, 2_034_176, 263_680, 1946.3, 805.3),
    "out11": (3, 2, 32, 32, 1_706_240, 263_680, 1610.7, 805.3),
    "up11": (2, 2, 64, 0, 1_312_512, 0, 4832.0, 0),
    "out12": (3, 1, 64, 0, 706_048, 0, 2617.3, 0),
    "out15": (2, 1, 64, 0, 541_952, 0, 1946.2, 0),
}
# Gradients of all rows: at levels without and with a corrector in all, before the moves of each level, in a move.
SAMPLERS = {
    "none": (100, 0, 0, 1, 100),
    "ula": (100, 0, 20, 1, 1080),
    "default": (100, 1, 20, 1, 1129),
    "uhmc": (100, 0, 10, 4, 2060),
    "hmc": (100, 0, 10, 5, 2550),
}
TOY = 100 * 32 + (2 * 128 + 128) + 4 * (256 + 129 * 256 + 33 * 256 + 257 * 256 + 257 * 128) + 129 * 2
TOY_MACS = 2 * 128 + 4 * (128 * 256 + 32 * 256 + 256 * 256 + 256 * 128) + 128 * 2


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=16)
def program(preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def macs(graph: Graph, nodes: Sequence[Node]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


def step(p: Program, phase: str = "") -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    return [n for n in p.graph.nodes[section.first : section.last] if phase in ("", n.phase)]


def weights(p: Program, owner: str = "") -> int:
    held = {key: p.graph.tensors[t] for key, t in p.weights.items()}
    return sum(t.elements for key, t in held.items() if t.role == "weight" and key.startswith(owner))


def residual(c: int, out: int) -> int:
    skip = 0 if c == out else c * out + out
    return 2 * c + 9 * c * out + out + (EMBEDDING + 1) * out + 2 * out + 9 * out * out + out + skip


def residual_macs(c: int, out: int, side: int) -> int:
    skip = 0 if c == out else c * out
    return side * side * (9 * c * out + 9 * out * out + skip) + EMBEDDING * out


def attention(c: int) -> int:
    return 2 * c + (c + 1) * 3 * c + (c + 1) * c


def attention_macs(c: int, side: int) -> int:
    return 4 * side**2 * c * c + 2 * side**4 * c


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize("sampler", ["none", "ula", "mala", "hmc", "uhmc", "annealed"])
def test_every_sampler_runs_with_either_network(sampler: str) -> None:
    for network in ("unet", "mlp"):
        small = {"size": 8, "w": 32, "head": 32, "levels": 4, "corrected": 2, "chains": 2}
        assert check_workload(settled("default", sampler=sampler, network=network, **small)) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_layer(layer: str) -> None:
    """Parameters by formula and as tabulated; multiply-adds of one row by formula, and to the tabulated digit."""
    before, after, side, attended, of_block, of_attention, m_block, m_attention = LAYERS[layer]
    c, out, p = before * W, after * W, program("none")
    inner = "layer." if layer.startswith("out") else ""
    alone = layer in ("in4", "in8", "in12", "mid2") or layer.startswith("up")
    block, mixer = (
        (f"unet.{layer}.", "-") if alone else (f"unet.{layer}.{inner}res.", f"unet.{layer}.{inner}attention.")
    )
    assert weights(p, block) == residual(c, out) == of_block
    assert weights(p, mixer) == (attention(out) if attended else 0) == of_attention

    forward = step(p, "forward")
    products = [macs(p.graph, [n for n in forward if n.name.startswith(part)]) / 3 for part in (block, mixer)]
    assert products == [residual_macs(c, out, side), attention_macs(out, attended) if attended else 0]
    assert [round(m / 1e6, 1) for m in products] == [m_block, m_attention]


def test_the_whole_unet() -> None:
    """125.1 million parameters; 50.1 GMAC forward and 54.3 backward for each of three rows, 626 GFLOP in all."""
    p = program("none")
    ends = (W + 1) * EMBEDDING + (EMBEDDING + 1) * EMBEDDING + 4 * EMBEDDING + 28 * W + 2 * W + 9 * W * 3 + 3
    several = {"in1": 3, "in6": 2, "in11": 2, "in15": 2, "out2": 3, "out6": 2, "out10": 2, "out15": 3}
    layers = sum(
        several.get(n, 1) * (residual(b * W, a * W) + (attention(a * W) if at else 0))
        for n, (b, a, _, at, *_) in LAYERS.items()
    )
    assert weights(p) == ends + layers == PARAMETERS

    each = {
        n: residual_macs(b * W, a * W, s) + (attention_macs(a * W, at) if at else 0)
        for n, (b, a, s, at, *_) in LAYERS.items()
    }
    time = W * EMBEDDING + EMBEDDING**2
    forward = sum(several.get(n, 1) * m for n, m in each.items()) + time + 2 * 64**2 * 9 * 3 * W
    assert macs(p.graph, step(p, "forward")) == 3 * forward
    # back: no products of the embedding, those of two operands that both depend on the image twice
    shifts = sum(several.get(n, 1) * EMBEDDING * a * W for n, (_, a, *_) in LAYERS.items())
    twice = sum(several.get(n, 1) * 2 * at**4 * a * W for n, (_, a, _, at, *_) in LAYERS.items())
    backward = forward - time - shifts + twice
    assert macs(p.graph, step(p, "backward-input")) == 3 * backward
    assert (round(forward / 1e9, 1), round(backward / 1e9, 1)) == (50.1, 54.3)
    assert round(2 * (forward + backward) / 1e9) == 209 and round(6 * (forward + backward) / 1e9) == 626


def passes(p: Program, rows: int, first: str, of_first: str) -> tuple[float, float]:
    """Forwards and gradients of an inference, each of all rows, by the first layer's products."""
    forwards = backwards = 0
    for section in p.sections:
        nodes = p.graph.nodes[section.first : section.last]
        forwards += section.repeat * sum(n.phase != "backward-input" and n.name == first for n in nodes)
        backwards += section.repeat * sum(n.phase == "backward-input" and n.name == of_first for n in nodes)
        assert all(p.graph.tensors[n.outputs[0]].shape[0] == rows for n in nodes if n.name in (first, of_first))
    return forwards, backwards


@pytest.mark.parametrize("preset", SAMPLERS)
def test_gradients_of_an_inference(preset: str) -> None:
    """Each forward has its backward; reverse diffusion is once beside a corrector and the step without one."""
    levels, before, moves, each, total = SAMPLERS[preset]
    p = program(preset)
    assert levels + 49 * (before + moves * each) == total
    assert passes(p, 3, "unet.in0", "unet.in0'conv2d_input_gradient") == (total, total)
    found = [n for n in step(p) if n.name == "unet.in0"]
    assert len(found) == each
    assert settled(preset).setting("steps") == (levels if preset == "none" else 49 * moves)
    assert [s.repeat for s in p.sections if s.label == "step"] == [settled(preset).setting("steps")]


def test_order_of_levels() -> None:
    """49 levels with MALA behind them, each of 20 proposals after a gradient to start from; then 51 without."""
    sections = [(s.label, s.repeat) for s in program().sections if s.last - s.first > 100]
    assert sections == [("once", 49), ("once", 49), ("step", 980), ("once", 51)]


def test_a_proposal_of_mala() -> None:
    """Noise and arithmetic on all rows; both log densities, one decision for the host; no kernel chooses."""
    p = program()
    own = [n for n in step(p) if n.name.startswith("sampler.") and OPERATORS[n.op].category != "view"]
    accept = [n.op for n in own if n.phase == "accept"]
    one = ["sub", "scale", "sub", "square", "reduce_sum", "scale", "scale"]
    assert accept == [*one, *one, "sub", "add", "sub", "to_host"]
    # guidance of the gradient with the wait for the level, guidance of the energy
    assert [n.op for n in own if n.name.startswith("sampler.g_new.")] == [
        *["sub", "reduce_sum", "scale", "add", "copy"],
        "to_host",
        "scale",
    ]
    assert [n.op for n in own if n.name.startswith("sampler.e_new.")] == [
        *["reduce_sum"] * 3,
        "sub",
        "scale",
        "add",
        "scale",
    ]
    noise = next(n for n in own if n.op == "random_normal")
    assert p.graph.tensors[noise.outputs[0]].shape == (1, 3, 3 * 64 * 64)


@pytest.mark.parametrize(("preset", "in_forward", "in_sampler"), [("ula", 7, 1), ("default", 7, 2), ("none", 7, 9)])
def test_waits_of_a_step(preset: str, in_forward: int, in_sampler: int) -> None:
    """Frequencies and six masks in a forward; a look-up and MALA's decision, or 8 tables and a map."""
    nodes = step(program(preset))
    waits = [n for n in nodes if n.op in ("to_host", "synchronise")]
    assert sum(n.phase == "forward" or n.name == "unet.e.arrived" for n in waits) == in_forward
    level = [n for n in waits if n.name == "sampler.synchronise1"]
    assert len(waits) - in_forward - len(level) == in_sampler


def test_rows_of_the_batch() -> None:
    """A row for every label and one without: products grow with labels, weights do not."""
    more = program("none", labels=4)
    assert 3 * macs(more.graph, step(more)) == 5 * macs(program("none").graph, step(program("none")))
    assert weights(more) == PARAMETERS
    labels = [
        p.graph.tensors[n.inputs[0]].shape[0] for p in (program("none"), more) for n in step(p) if n.op == "embedding"
    ]
    assert labels == [3, 5]


@pytest.mark.parametrize(
    ("preset", "combined"),
    [
        ("toy", ["add"]),
        ("toy_mixture", ["neg", "scale", "logsumexp", "neg"]),
        ("toy_negation", ["scale", "scale", "sub"]),
    ],
)
def test_toy(preset: str, combined: list[str]) -> None:
    """Two MLPs of 565,506 parameters and 0.558 MMAC; a step has six gradients and two energies of both."""
    p = program(preset, 1000)
    assert weights(p) == 2 * TOY == 2 * 565_506
    assert round(TOY_MACS / 1e6, 3) == 0.558
    forward = macs(p.graph, step(p, "forward"))
    assert forward == 6 * 2 * 1000 * TOY_MACS
    assert macs(p.graph, step(p, "accept")) == 2 * 2 * 1000 * TOY_MACS
    # the embedding's products are not of the sample
    assert macs(p.graph, step(p, "backward-input")) == forward - 6 * 2 * 1000 * 4 * 32 * 256
    assert passes(p, 1000, "mlp.fc_in", "mlp.fc_in'matmul") == (990 * 8, 990 * 6)

    own = [n.op for n in step(p, "accept") if not n.branch and OPERATORS[n.op].category != "view"]
    assert all(op in own for op in combined)
    tags = derive(settled(preset))
    assert (tags.compositionality, tags.dependency) == ("homo-ds", "fully-parallel")


def test_training_differentiates_the_gradient() -> None:
    """One denoising term through the input gradient, with one row a sample; the toy's MLPs are trained one by one."""
    for preset, owned, average in (("default", PARAMETERS, False), ("toy", TOY, True)):
        iteration = compose_training(settled(preset))
        assert set(iteration.parts) == {"second_order", "update"}
        assert iteration.how.terms == ("denoising",) and iteration.how.average is average
        assert sum(iteration.graph.tensors[t].elements for t in iteration.weights) == owned
        batch = settled(preset).setting("training_batch")
        first = next(n for n in iteration.graph.nodes if n.name in ("unet.in0", "mlp.fc_in"))
        assert iteration.graph.tensors[first.outputs[0]].shape[0] == batch


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [1, 980, 0, 16, 93_750]),
        ("none", [1, 100, 0, 16, 93_750]),
        ("hmc", [1, 490, 0, 16, 93_750]),
        ("toy", [1000, 990, 0, 1000, 15_001]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


@pytest.mark.parametrize(("rows", "expected"), [(3, 136), (16, 166), (32, 171)])
def test_intensity_of_the_products(rows: int, expected: int) -> None:
    """FLOPs per byte of a forward's products, unfused, four bytes per element, biases left out; rows as a batch."""
    p = program("none", labels=rows - 1)
    nodes = [n for n in step(p, "forward") if OPERATORS[n.op].category in ("matmul", "convolution")]
    moved = sum(4 * p.graph.tensors[t].elements for n in nodes for t in (*n.inputs[:2], *n.outputs))
    assert round(2 * macs(p.graph, nodes) / moved) == expected
