"""EBM-CMP against what its two codes say: sizes, products layer by layer, sampler, combination, training.

Counts are those of yilundu/improved_contrastive_divergence@7d3d4ee and yilundu/ebm_compositionality@c7ac543.
"""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.check import check_tags
from ebmsim.graph.compose import Composer, check_workload, compose
from ebmsim.graph.graph import Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training, how_trained
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cmp.yaml")
FILE = parse_workload(DOCUMENT)

# The PyTorch networks at width 64: (block, side, channels, channels after halving or 0); MAC in millions of the two
# convolutions of a block and of the one that ends it, as rounded in a table of layers.
BLOCKS = {
    "main": [
        ("res_1a", 128, 32, 64),
        ("res_1b", 64, 64, 64),
        ("res_2a", 32, 64, 64),
        ("res_2b", 16, 64, 128),
        ("res_3a", 8, 128, 0),
        ("res_3b", 8, 128, 256),
        ("res_4a", 4, 256, 0),
        ("res_4b", 4, 256, 512),
    ],
    "mid": [
        ("res_1a", 64, 64, 64),
        ("res_1b", 32, 64, 64),
        ("res_2a", 16, 64, 64),
        ("res_2b", 8, 64, 128),
        ("res_3a", 4, 128, 0),
        ("res_3b", 4, 128, 256),
    ],
    "small": [("res_1a", 32, 64, 64), ("res_1b", 16, 64, 64), ("res_2a", 8, 64, 64), ("res_2b", 4, 64, 128)],
}
STEM = {"main": (128, 32), "mid": (64, 64), "small": (32, 64)}
LAYERS = {
    "stem": (896, 14.2),
    "res_1a": (19_008, 302.0, 18_496, 302.0),
    "res_1b": (74_880, 302.0, 36_928, 151.0),
    "res_2a": (74_880, 75.5, 36_928, 37.7),
    "res_2b": (74_880, 18.9, 73_856, 18.9),
    "res_3a": (297_216, 18.9),
    "res_3b": (297_216, 18.9, 295_168, 18.9),
    "self_attn": (82_241, 1.4),
    "res_4a": (1_184_256, 18.9),
    "res_4b": (1_184_256, 18.9, 1_180_160, 18.9),
    "energy": (513, 0.0),
}
# The TensorFlow network: (convolution, kernel, side, channels in, channels out), and millions of MAC.
CONVOLUTIONS = [
    ("c1_pre", "k_pre", 128, 3, 64, 28.3),
    ("res_optim.branch.conv_1", "k_optim_1", 128, 64, 64, 604.0),
    ("res_optim.branch.conv_2", "k_optim_2", 128, 64, 64, 604.0),
    *[
        (f"res_{name}.{conv}", f"k_{name}_{i}", side, c if i != 2 else 2 * c, 2 * c, millions)
        for name, side, c in ((3, 64, 64), (5, 32, 128), (7, 16, 256))
        for i, conv, millions in ((1, "branch.conv_1", 302.0), (2, "branch.conv_2", 604.0), (3, "bypass", 302.0))
    ],
    *[(f"res_9.branch.conv_{i}", f"k_9_{i}", 8, 512, 512, 151.0) for i in (1, 2)],
    *[(f"res_10.branch.conv_{i}", f"k_10_{i}", 4, 512, 512, 37.7) for i in (1, 2)],
]
ONE = {"attributes": 1}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=16)
def program(chains: int = 1, preset: str = "default", **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def parameters(composed: Program) -> Counter[str]:
    """Learned elements by component instance."""
    count: Counter[str] = Counter()
    for key, tensor in composed.weights.items():
        held = composed.graph.tensors[tensor]
        if held.role == "weight":
            count[key.split(".")[0]] += held.elements
    return count


def under(composed: Program, prefix: str) -> int:
    """Learned elements whose key starts with a prefix."""
    held = [composed.graph.tensors[t] for key, t in composed.weights.items() if key.startswith(prefix)]
    return sum(t.elements for t in held if t.role == "weight")


def unused(workload: Workload, name: str) -> int:
    return int(Composer(workload, 1).value(workload.file.components[name].unused_parameters, ("components", name)))


def flops_of(composed: Program, node: Node) -> int:
    shapes = [[composed.graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops if node.op in WORK else 0


def macs(
    composed: Program, prefix: str, phase: str = "forward", products: tuple[str, ...] = ("conv2d", "matmul")
) -> float:
    """Multiply-adds in convolutions and products of nodes by their name; labels' linear layers apart."""
    nodes = [n for n in composed.graph.nodes if n.phase == phase and n.name.startswith(prefix)]
    return sum(flops_of(composed, n) for n in nodes if n.op.startswith(products)) / 2


def product_flops(composed: Program, phase: str) -> int:
    return sum(flops_of(composed, n) for n in composed.graph.nodes if n.phase == phase)


def trunk(name: str, f: int = 64) -> int:
    """Multiply-adds of a network's convolutions and attention, from its blocks."""
    w = f // 64
    side, out = STEM[name]
    total = 27 * out * w * side**2
    for _, s, c, after in BLOCKS[name]:
        total += 9 * (2 * c * c + c * after) * w * w * s**2
    if name == "main":
        c = 256 * w
        total += 16 * (2 * c * c // 8 + c * c) + 16 * 16 * (c // 8 + c)
    return total


# --- The file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("logic", ["conjunction", "negation", "disjunction"])
def test_every_preset_composes(preset: str, logic: str) -> None:
    workload = settled(preset, logic=logic)
    assert check_workload(workload) == []
    assert how_trained(workload).terms


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", ("homo-ds", "fully-parallel")),
        ("resnet128", ("homo-ds", "fully-parallel")),
        ("multiscale", ("hetero", "fully-parallel")),
        ("pretrained", ("hetero", "mixed-parallel")),
    ],
)
def test_taxonomy(preset: str, expected: tuple[str, str]) -> None:
    """As declared for the networks themselves; scales and mappers are components of their own, with a reason."""
    workload = settled(preset)
    assert derive(workload) == expected
    tags = workload.file.taxonomy
    assert (
        (tags.compositionality, tags.dependency)
        == ("homo-ds", "fully-parallel")
        == (tags.paper.compositionality, tags.paper.dependency)
    )
    assert check_tags(workload) == [] and "multiscale" in tags.reason


def test_settings() -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations", "rounds", "attributes")
    assert [settled().parameters[n] for n in names] == [64, 400, 40, 128, 10_000, 10, 3]
    assert [settled("repository").parameters[n] for n in ("steps", "rounds")] == [280, 10]
    assert [settled("resnet128").parameters[n] for n in names] == [16, 100, 60, 16, 24_000, 0, 4]
    assert [settled(steps=k).parameters["rounds"] for k in (10, 100, 1000)] == [0, 5, 10]


# --- The PyTorch networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "used", "allocated"),
    [
        ("default", {"main": 4_931_778}, 4_931_778 + 3),
        ("multiscale", {"main": 4_931_778, "mid": 1_375_809, "small": 486_081}, 6_793_671),
        ("pretrained", {"mapper": 789_504, "main": 6_955_458}, 7_744_965),
        (
            "pretrained_multiscale",
            {"mapper": 789_504, "main": 6_955_459, "mid": 2_420_290, "small": 1_008_322},
            11_173_575,
        ),
    ],
)
def test_parameters(preset: str, used: dict[str, int], allocated: int) -> None:
    """Of one attribute; three factors of the scales are allocated always, and used by the published file alone."""
    workload = settled(preset, attributes=1)
    assert parameters(program(1, preset, attributes=1)) == used
    assert sum(used.values()) + sum(unused(workload, name) for name in used) == allocated


def test_attributes_have_weights_of_their_own() -> None:
    """Three networks are 59.2 MB, or 56.4 MiB; four of the TensorFlow ones four times as large as one."""
    count = parameters(program())
    assert count == dict.fromkeys(["main", "main[1]", "main[2]"], 4_931_778)
    assert round(4 * count.total() / 1e6, 1) == 59.2 and round(4 * count.total() / 2**20, 1) == 56.4
    assert len(parameters(program(1, "resnet128"))) == 4


def test_attention_switched_off_stays_allocated() -> None:
    without = parameters(program(1, "default", attention=False, attributes=1))["main"]
    assert 4_931_778 - without == 82_241 == unused(settled(attention=False), "main") - 3
    assert parameters(program(1, "default", f=128, **ONE))["main"] / 1e6 == pytest.approx(19.7, abs=0.05)
    assert sum(parameters(program(1, "wide", **ONE)).values()) / 1e6 == pytest.approx(27.1, abs=0.05)


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_of_the_main_trunk(layer: str) -> None:
    """Parameters and multiply-adds, the convolution that halves a block apart from the block's own two."""
    composed = program()
    expected = LAYERS[layer]
    size, millions = under(composed, f"main.{layer}."), macs(composed, f"main.{layer}.")
    if len(expected) == 4:
        down, halving = (
            under(composed, f"main.{layer}.conv_downsample"),
            macs(composed, f"main.{layer}.conv_downsample"),
        )
        assert (down, round(halving / 1e6, 1)) == expected[2:]
        size, millions = size - down, millions - halving
    assert (size, round(millions / 1e6, 1)) == expected[:2]


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_of_every_trunk(name: str) -> None:
    composed = program(1, "multiscale")
    side, out = STEM[name]
    assert macs(composed, f"{name}.stem.") == 27 * out * side**2
    for block, s, c, after in BLOCKS[name]:
        assert macs(composed, f"{name}.{block}.") == (2 * 9 * c * c + 9 * c * after) * s**2
        # Two convolutions with biases, two norms, two linear maps of a label of two; a convolution with bias.
        own = 2 * (9 * c * c + c) + 2 * 2 * c + 2 * (2 + 1) * 2 * c
        assert under(composed, f"{name}.{block}.") == own + ((9 * c + 1) * after if after else 0)


@pytest.mark.parametrize(("f", "main", "every"), [(64, 1.337, 2.115), (128, 5.32, 8.41)])
def test_products_of_one_forward(f: int, main: float, every: float) -> None:
    composed = program(1, "multiscale", f=f)
    count = {name: macs(composed, f"{name}.") for name in BLOCKS}
    assert count == {name: trunk(name, f) for name in BLOCKS}
    digits = 3 if f == 64 else 2
    assert (round(count["main"] / 1e9, digits), round(sum(count.values()) / 1e9, digits)) == (main, every)
    if f == 64:
        assert [round(count[name] / 1e9, 3) for name in ("mid", "small")] == [0.625, 0.153]


@pytest.mark.parametrize("preset", ["pretrained", "pretrained_multiscale"])
def test_the_published_file_maps_labels(preset: str) -> None:
    """Four linear layers for an attribute, 512 instead of 2 features into every block; two blurs; else the same."""
    composed = program(1, preset, **ONE)
    names = [name for name in BLOCKS if preset == "pretrained_multiscale" or name == "main"]
    assert macs(composed, "mapper.", products=("linear",)) == 2 * 512 + 3 * 512**2
    films = sum(2 * 512 * 2 * c for name in names for _, _, c, _ in BLOCKS[name])
    heads = 512 + (256 + 128 if len(names) > 1 else 0)
    assert sum(macs(composed, f"{n}.", products=("linear",)) for n in names) == films + heads
    blurs = 27 * (64**2 + 64**2 + 32**2) if len(names) > 1 else 0
    convolutions = sum(macs(composed, f"{n}.") for n in names)
    assert convolutions == sum(map(trunk, names)) + blurs
    plain = sum(trunk(n) for n in names)
    assert product_flops(composed, "forward") / 2 == pytest.approx(plain, rel=0.0035)


def test_weights_are_standardised_in_every_call() -> None:
    """Mean over inputs, rows and columns, difference, deviation, a small constant, quotient; four read the kernel."""
    composed = program(3)
    tensors = composed.graph.tensors
    nodes = [n for n in composed.graph.nodes if n.name.startswith("main.res_4a.second.conv.") and n.phase == "forward"]
    kernels = [n for n in nodes if OPERATORS[n.op].category != "view"]
    ops = ["reduce_mean"] * 3 + ["sub", "reduce_std", "shift", "div", "conv2d"]
    assert [n.op for n in kernels] == ops
    assert not any(tensors[t].chain_axis for n in kernels[:-1] for t in n.outputs)
    weight = 9 * 256 * 256
    passes = [n.op for n in kernels[:-1] if tensors[n.inputs[0]].elements == weight]
    assert passes == ["reduce_mean", "sub", "reduce_std", "div"]
    assert sum(n.op == "reduce_std" for n in composed.graph.nodes if n.phase == "forward") == 3 * 2 * len(
        BLOCKS["main"]
    )


def test_norms() -> None:
    """Of every channel by itself up to 128 channels, of 32 groups beyond."""
    norms = [n for n in program().graph.nodes if n.branch == "main[0]" and n.op.endswith("_norm")]
    assert Counter(n.op for n in norms) == {"instance_norm": 12, "group_norm": 4}
    assert {n.attribute("groups") for n in norms if n.op == "group_norm"} == {32}


@pytest.mark.parametrize("preset", ["default", "multiscale", "resnet128"])
def test_the_gradient_goes_back_to_the_image_alone(preset: str) -> None:
    """Its products are the forward's without those of the labels, which do not see the image.

    Those of attention come twice: both of their operands see it.
    """
    composed = program(2, preset)
    assert not any("latent_map" in n.name or ".gb" in n.name for n in composed.graph.nodes if "back" in n.phase)
    films = [n for n in composed.graph.nodes if n.op == "linear" and n.phase == "forward"]
    labels = sum(flops_of(composed, n) for n in films if not n.name.endswith(("energy_map", "fc5")))
    attention = sum(flops_of(composed, n) for n in composed.graph.nodes if n.op == "matmul" and n.phase == "forward")
    assert product_flops(composed, "backward-input") == product_flops(composed, "forward") - labels + attention


# FLOPs per byte of a forward's convolutions and products, input, weight and output moved once, four bytes each.
@pytest.mark.parametrize(
    ("preset", "name", "chains", "expected"),
    [
        *[("default", "main", c, e) for c, e in ((1, 58.6), (2, 74.7), (16, 98.3), (64, 101.8), (256, 102.7))],
        *[("multiscale", "mid", 64, 129.5), ("multiscale", "small", 64, 127.2), ("multiscale", "", 64, 110.3)],
        *[("multiscale", "", c, e) for c, e in ((1, 65.1), (2, 82.2), (16, 106.8), (256, 111.3))],
        *[("resnet128", "", c, e) for c, e in ((1, 101.6), (2, 146.2), (16, 237.4), (64, 254.4), (256, 259.0))],
    ],
)
def test_intensity_of_products(preset: str, name: str, chains: int, expected: float) -> None:
    composed = program(chains, preset, **ONE)
    tensors = composed.graph.tensors
    flops = moved = 0
    for node in composed.graph.nodes:
        if node.phase == "forward" and node.op in ("conv2d", "matmul", "linear") and node.name.startswith(name):
            flops += flops_of(composed, node)
            moved += sum(4 * tensors[t].elements for t in (*node.inputs[:2], *node.outputs))
    assert flops / moved == pytest.approx(expected, abs=0.0501)


# --- The TensorFlow network ------------------------------------------------------------------------------------------


def test_parameters_of_the_tensorflow_network() -> None:
    """15,741,256 variables for an attribute; those that no convolution applies and the attention are not used."""
    composed = program(1, "resnet128", **ONE)
    kernels = sum(9 * a * b for _, _, _, a, b, _ in CONVOLUTIONS)
    for _, kernel, _, a, b, _ in CONVOLUTIONS:
        assert under(composed, f"resnet.{kernel}.raw") == 9 * a * b
    # Shifts of both convolutions of a block, gains and offsets of the second, for labels of two; the last layer.
    labels = sum(2 * a + (2 + 2 + 1) * b for name, _, _, a, b, _ in CONVOLUTIONS if name.endswith("conv_1"))
    count = parameters(composed)["resnet"]
    assert count == kernels + labels + 513
    assert count + unused(settled("resnet128"), "resnet") == 15_741_256
    biases = sum(b for *_, b, _ in CONVOLUTIONS)
    first = sum(2 * b + a for name, _, _, a, b, _ in CONVOLUTIONS if name.endswith("conv_1"))
    bypass = sum(2 * b + 2 * a + a for name, _, _, a, b, _ in CONVOLUTIONS if name.endswith("bypass"))
    attention = 2 * (64 * 32 + 32) + 64 * 64 + 64 + 1
    assert unused(settled("resnet128"), "resnet") == biases + first + bypass + (64 + 3 + 3) + attention


def test_products_of_the_tensorflow_network() -> None:
    composed = program(1, "resnet128", **ONE)
    for name, _, side, a, b, millions in CONVOLUTIONS:
        count = macs(composed, f"resnet.{name}")
        assert count == 9 * a * b * side**2 and round(count / 1e6, 1) == pytest.approx(millions, abs=0.05)
    assert round(macs(composed, "resnet.") / 1e9, 3) == 5.238


def test_kernels_are_normalised_once_per_inference() -> None:
    """A power iteration of three products, one more and a dot product; then a division, before the sampling loop."""
    for chains in (1, 3):
        composed = program(chains, "resnet128", **ONE)
        tensors = composed.graph.tensors
        once = [n for n in composed.graph.nodes if n.phase == "once" and n.branch]
        assert not any(tensors[t].chain_axis for n in once for t in n.outputs)
        weights = sum(9 * a * b for _, _, _, a, b, _ in CONVOLUTIONS)
        outputs = sum(b for *_, b, _ in CONVOLUTIONS)
        assert sum(flops_of(composed, n) for n in once) == 2 * (3 * weights + outputs)
        assert (
            sum(tensors[n.outputs[0]].elements for n in once if n.op == "div" and n.name.endswith("normed")) == weights
        )
        step = [n for s in composed.sections if s.label == "step" for n in composed.graph.nodes[s.first : s.last]]
        assert not any(".k_" in n.name for n in step)
        made = {t for n in once for t in n.outputs}
        assert sum(n.op == "conv2d" and n.inputs[1] in made for n in step) == len(CONVOLUTIONS)


# --- Sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "steps", "rounds"), [("default", 400, 10), ("repository", 280, 10), ("resnet128", 100, 0)]
)
def test_evaluations_of_an_inference(preset: str, steps: int, rounds: int) -> None:
    """A forward and an input gradient of every network at every step; augmentation after each round."""
    composed = program(1, preset)
    attributes = settled(preset).parameters["attributes"]
    first = "resnet" if preset == "resnet128" else "main"
    forwards = backwards = copies = 0
    for section in composed.sections:
        nodes = composed.graph.nodes[section.first : section.last]
        stems = [n for n in nodes if n.branch.startswith(first) and n.name.endswith((".conv1", ".c1_pre"))]
        forwards += section.repeat * sum(n.phase == "forward" and n.op == "conv2d" for n in stems)
        backs = [
            n for n in nodes if n.op == "conv2d_input_gradient" and composed.graph.tensors[n.outputs[0]].shape[1] == 3
        ]
        backwards += section.repeat * len(backs)
        copies += section.repeat * sum(n.op == "to_host" for n in nodes)
    assert (forwards, backwards, copies) == (attributes * steps, attributes * steps, rounds)


def test_products_of_an_inference() -> None:
    """3 networks × 5.35 GFLOP × 64 images × 400 steps: 411 TFLOP, less what the labels take."""
    composed = program(64)
    flops = sum(
        s.repeat * flops_of(composed, n) for s in composed.sections for n in composed.graph.nodes[s.first : s.last]
    )
    assert flops / 1e12 == pytest.approx(411, abs=0.5)


def test_a_step() -> None:
    """Noise scaled and added before the gradient; N - 1 sums of gradients; step, difference, clamp."""
    composed = program(2)
    section = next(s for s in composed.sections if s.label == "step")
    nodes = composed.graph.nodes[section.first : section.last]
    assert [n.op for n in nodes if n.name.startswith("sampler.")] == [
        "random_normal",
        "scale",
        "add",
        "scale",
        "sub",
        "clamp",
    ]
    assert nodes[3].name == "main.y.slice1"
    image = (2, 3, 128, 128)
    tensors = composed.graph.tensors
    sums = [n for n in nodes if n.phase == "backward-input" and n.op == "add" and tensors[n.outputs[0]].shape == image]
    assert len(sums) == 2
    assert [n.op for n in nodes if n.phase == "forward" and not n.branch] == ["add", "add"]


def test_between_rounds() -> None:
    """The images go to the host in four bytes an element, are augmented one after another, and come back."""
    composed = program(2)
    nodes = composed.graph.nodes
    section = next(s for s in composed.sections if s.repeat == 10)
    host = nodes[section.first : section.last]
    assert [n.op for n in host] == ["to_host", "host", "to_device"]
    seconds = settled().parameters["augmentation"]
    assert WORK["host"]([(64, 3, 128, 128)], [(64, 3, 128, 128)], dict(host[1].attributes)).seconds == 64 * seconds


@pytest.mark.parametrize(("preset", "negated"), [("default", [1]), ("multiscale", [1]), ("resnet128", [1, 2])])
def test_negation(preset: str, negated: list[int]) -> None:
    composed = program(1, preset, logic="negation")
    scaled = [n for n in composed.graph.nodes if n.op == "scale" and n.phase == "forward" and n.branch]
    names = ["main", "mid", "small"] if preset == "multiscale" else ["resnet" if preset == "resnet128" else "main"]
    assert [n.branch for n in scaled] == [f"{name}[{i}]" for name in names for i in negated]
    assert {n.attribute("by") for n in scaled} == {-0.001}


@pytest.mark.parametrize(
    ("preset", "shape", "before", "after"),
    [
        ("default", (2, 3, 1), ["concat"], []),
        ("resnet128", (2, 4, 1), ["concat"], []),
        # each scale by itself in the repository, their weighted sum in the published file
        ("multiscale", (2, 3, 3), ["concat"] * 4, ["reduce_sum"]),
        ("pretrained_multiscale", (2, 3, 1), ["concat"] * 3 + ["add"] * 2, []),
    ],
)
def test_disjunction(preset: str, shape: tuple[int, ...], before: list[str], after: list[str]) -> None:
    composed = program(2, preset, logic="disjunction")
    nodes = [n for n in composed.graph.nodes if n.phase == "forward" and not n.branch]
    kernels = [n for n in nodes if OPERATORS[n.op].category != "view"]
    assert [n.op for n in kernels] == [*before, "scale", "scale", "logsumexp", "scale", "scale", *after]
    assert [n.attribute("by") for n in kernels if n.op == "scale"] == [-1, 100, -1, 0.01]
    (minimum,) = [n for n in kernels if n.op == "logsumexp"]
    tensors = composed.graph.tensors
    assert tensors[minimum.inputs[0]].shape == shape and tensors[minimum.outputs[0]].shape == (shape[0], shape[2])


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "terms", "parameters_"),
    [("default", ("contrastive", "kl"), 4_931_778), ("resnet128", ("contrastive",), 15_719_297)],
)
def test_one_attribute_is_trained(preset: str, terms: tuple[str, ...], parameters_: int) -> None:
    workload = settled(preset, logic="negation")
    iteration = compose_training(workload)
    tensors = iteration.graph.tensors
    assert sum(tensors[t].elements for t in iteration.weights) == parameters_
    assert how_trained(workload)[:3] == (terms, preset == "default", preset == "default")
    updated = [n for n in iteration.graph.nodes if n.op == "adam"]
    assert len(updated) == len(iteration.weights)
    assert not any(n.branch.endswith("[1]") for n in iteration.graph.nodes)
    batch = workload.setting("training_batch")
    data = [t for t in tensors if t.role == "sample"]
    assert {t.shape for t in data} == {(batch, 3, 128, 128)} and len(data) == 1 + len(terms)


def test_images_of_the_buffer_are_augmented_on_the_host() -> None:
    """The batch, and 100 more to be repelled from."""
    seconds = settled().parameters["augmentation"]
    assert how_trained(settled()).host_seconds == pytest.approx((128 + 100) * seconds)
    assert how_trained(settled("resnet128")).host_seconds == 0
