"""EBM-CDT against what its code says: sizes, products block by block, sampler, composition, training.

Counts are those of yilundu/improved_contrastive_divergence@7d3d4ee.
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

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cdt.yaml")
FILE = parse_workload(DOCUMENT)
SCALES = ("main", "mid", "small")

# Blocks of a published network, scale by scale, as (block, side, channels, channels after halving or 0) with the
# parameters and millions of multiply-adds of a printed table of layers.
CIFAR = {
    "main": [
        ("res_1a", 32, 64, 0, 74_112, 75.497),
        ("res_1b", 32, 64, 64, 111_040, 113.246),
        ("res_2a", 16, 64, 0, 74_112, 18.874),
        ("res_2b", 16, 64, 128, 147_968, 37.749),
        ("res_3a", 8, 128, 0, 295_680, 18.874),
        ("res_3b", 8, 128, 256, 590_848, 37.749),
        ("res_4a", 4, 256, 0, 1_181_184, 18.874),
        ("res_4b", 4, 256, 512, 2_361_344, 37.749),
    ],
    "mid": [
        ("res_1a", 16, 64, 0, 74_112, 18.874),
        ("res_1b", 16, 64, 64, 111_040, 28.312),
        ("res_2a", 8, 64, 0, 74_112, 4.719),
        ("res_2b", 8, 64, 128, 147_968, 9.437),
        ("res_3a", 4, 128, 0, 295_680, 4.719),
        ("res_3b", 4, 128, 256, 590_848, 9.437),
    ],
    "small": [
        ("res_1a", 8, 64, 0, 74_112, 4.719),
        ("res_1b", 8, 64, 64, 111_040, 7.078),
        ("res_2a", 4, 64, 0, 74_112, 1.180),
        ("res_2b", 4, 64, 128, 147_968, 2.359),
    ],
}
CELEBA = {
    "main": [
        ("res_1a", 128, 64, 128, 148_736, 2416.0),
        ("res_1b", 64, 128, 128, 444_800, 1812.0),
        ("res_2a", 32, 128, 128, 444_800, 452.986),
        ("res_2b", 16, 128, 256, 592_384, 150.996),
        ("res_3a", 8, 256, 0, 1_184_256, 75.500),
        ("res_3b", 8, 256, 512, 2_364_416, 150.997),
        ("res_4a", 4, 512, 0, 4_727_808, 75.502),
        ("res_4b", 4, 512, 1024, 9_447_424, 150.999),
    ],
    "mid": [
        ("res_1a", 64, 128, 128, 444_800, 1812.0),
        ("res_1b", 32, 128, 128, 444_800, 452.986),
        ("res_2a", 16, 128, 128, 444_800, 113.247),
        ("res_2b", 8, 128, 256, 592_384, 37.750),
        ("res_3a", 4, 256, 0, 1_184_256, 18.876),
        ("res_3b", 4, 256, 512, 2_364_416, 37.751),
    ],
    "small": [
        ("res_1a", 32, 128, 128, 444_800, 452.986),
        ("res_1b", 16, 128, 128, 444_800, 113.247),
        ("res_2a", 8, 128, 128, 444_800, 28.313),
        ("res_2b", 4, 128, 256, 592_384, 9.438),
    ],
}
# Preset -> blocks; (side, channels) of every stem; (side, channels) of the attention; classes of the label or 0.
Network = tuple[dict[str, list[tuple[str, int, int, int, int, float]]], list[tuple[int, int]], tuple[int, int], int]
NETWORKS: dict[str, Network] = {
    "default": (CIFAR, [(32, 64), (16, 64), (8, 64)], (8, 128), 0),
    "celeba": (CELEBA, [(128, 64), (64, 128), (32, 128)], (4, 512), 2),
}
# Parameters of each scale and millions of multiply-adds, as printed.
TOTALS = {
    "default": {"main": (4_859_234, 362.284), "mid": (1_295_809, 75.940), "small": (409_153, 15.446)},
    "celeba": {"main": (19_685_762, 5319.0), "mid": (5_479_553, 2487.0), "small": (1_930_625, 607.523)},
}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=32)
def program(chains: int = 1, preset: str = "default", **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def under(composed: Program, prefix: str) -> int:
    """Learned elements whose key starts with a prefix."""
    held = [composed.graph.tensors[t] for key, t in composed.weights.items() if key.startswith(prefix)]
    return sum(t.elements for t in held if t.role == "weight")


def unused(workload: Workload) -> int:
    parts = {name: component.unused_parameters for name, component in FILE.components.items()}
    return sum(int(Composer(workload, 1).value(text, ("components", name))) for name, text in parts.items())


def flops_of(composed: Program, node: Node) -> int:
    shapes = [[composed.graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops if node.op in WORK else 0


def macs(composed: Program, prefix: str, phase: str = "forward") -> float:
    """Multiply-adds of the products whose name starts with a prefix."""
    nodes = [n for n in composed.graph.nodes if n.phase == phase and n.name.startswith(prefix)]
    return sum(flops_of(composed, n) for n in nodes) / 2


def rounded(count: float) -> float:
    """Millions as printed: thousandths, beyond a thousand whole ones."""
    return round(count / 1e6, 3 if count < 1e9 else 0)


def block(side: int, c: int, out: int, classes: int) -> tuple[int, int]:
    """Parameters and multiply-adds: two standardised convolutions, norms and label maps, a convolution that halves."""
    maps = 2 * 2 * c * classes
    held = 2 * (9 * c * c + c + 2 * c) + maps + (4 * c if classes else 0) + ((9 * c + 1) * out if out else 0)
    return held, 9 * (2 * c * c + c * out) * side**2 + maps


# --- The file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("logic", ["conjunction", "negation", "disjunction"])
def test_every_preset_composes(preset: str, logic: str) -> None:
    workload = settled(preset, logic=logic)
    assert check_workload(workload) == []
    assert how_trained(workload).terms == ("contrastive", "kl")


def test_taxonomy() -> None:
    """The paper counts layers within a scale, the components are whole scales; the reason says so."""
    tags = FILE.taxonomy
    assert (tags.compositionality, tags.dependency) == ("hetero", "mixed-parallel")
    assert tags.paper is not None
    assert (tags.paper.compositionality, tags.paper.dependency) == ("hetero", "mixed-parallel")
    assert derive(settled()) == derive(settled("celeba_conjunction")) == ("hetero", "fully-parallel")
    assert check_tags(settled()) == [] and "fully-parallel" in tags.reason


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", (64, 400, 15_000, 64, 32, 1, 10, 20)),
        ("conjunction", (64, 400, 15_000, 64, 32, 2, 10, 20)),
        ("celeba", (64, 280, 10_000, 128, 128, 1, 10, 20)),
        ("celeba_fid", (64, 420, 12_000, 128, 128, 1, 20, 15)),
        ("celeba_figure", (16, 620, 12_000, 128, 128, 1, 0, 20)),
        ("imagenet", (64, 450, 10_000, 128, 128, 1, 5, 60)),
    ],
)
def test_settings(preset: str, expected: tuple[int, ...]) -> None:
    names = ("chains", "steps", "iterations", "f", "image", "models", "rounds", "round_steps")
    given = settled(preset).parameters
    assert tuple(given[n] for n in names) == expected
    assert (given["training_steps"], given["training_batch"]) == (40, 128)


# --- The networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", NETWORKS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_block(preset: str, scale: str) -> None:
    blocks, *_, classes = NETWORKS[preset]
    composed = program(1, preset)
    for name, side, c, out, size, millions in blocks[scale]:
        found = under(composed, f"{scale}.{name}."), macs(composed, f"{scale}.{name}.")
        assert found == block(side, c, out, classes)
        assert (found[0], rounded(found[1])) == (size, millions)


@pytest.mark.parametrize("preset", NETWORKS)
def test_stems_attention_and_heads(preset: str) -> None:
    blocks, stems, (side, c), _ = NETWORKS[preset]
    composed = program(1, preset)
    for scale, (width, out) in zip(SCALES, stems, strict=True):
        assert (under(composed, f"{scale}.stem."), macs(composed, f"{scale}.stem.")) == (28 * out, 27 * out * width**2)
        top = blocks[scale][-1][3]
        assert (under(composed, f"{scale}.energy."), macs(composed, f"{scale}.energy.")) == (top + 1, top)
    pixels = side * side
    products = pixels * (2 * c * c // 8 + c * c) + pixels**2 * (c // 8 + c)
    held = 2 * (c + 1) * c // 8 + (c + 1) * c + 1
    assert (under(composed, "main.self_attn."), macs(composed, "main.self_attn.")) == (held, products)
    expected = {"default": (20_641, 1.901), "celeba": (328_321, 5.390)}[preset]
    assert (held, round(products / 1e6, 3)) == expected
    assert under(composed, "mid.self_attn.") == under(composed, "small.self_attn.") == 0


@pytest.mark.parametrize("preset", NETWORKS)
def test_totals(preset: str) -> None:
    composed = program(1, preset)
    for scale, (size, millions) in TOTALS[preset].items():
        assert under(composed, f"{scale}.") == size
        assert rounded(macs(composed, f"{scale}.")) == millions
    parts = [macs(composed, f"{scale}.") for scale in SCALES]
    used = under(composed, "")
    if preset == "default":
        assert (used, used + unused(settled())) == (6_564_196, 6_643_044)
        assert round(sum(parts) / 1e6, 1) == 453.7
        assert [round(100 * part / sum(parts), 1) for part in parts] == [79.9, 16.7, 3.4]
    else:
        assert (used + unused(settled("celeba")), round(sum(parts) / 1e9, 3)) == (27_095_943, 8.413)
        assert [round(100 * part / sum(parts), 1) for part in parts] == [63.2, 29.6, 7.2]


@pytest.mark.parametrize("network", ["cifar10", "celeba"])
def test_a_label_is_stored_whether_it_is_used_or_not(network: str) -> None:
    """Two linear maps for every block, from the classes to gain and bias."""
    plain, labelled = (settled(network=network, conditional=on) for on in (False, True))
    held = [under(compose(w, 1), "") + unused(w) for w in (plain, labelled)]
    assert held[0] == held[1]
    blocks = {"cifar10": CIFAR, "celeba": CELEBA}[network]
    classes = {"cifar10": 10, "celeba": 2}[network]
    films = sum(2 * (classes + 1) * 2 * c for scale in SCALES for _, _, c, *_ in blocks[scale])
    assert unused(plain) - unused(labelled) == films
    nodes = compose(labelled, 1).graph.nodes
    assert sum(n.op == "linear" for n in nodes if n.phase == "forward") == 2 * sum(map(len, blocks.values())) + 3


@pytest.mark.parametrize("scale", SCALES)
def test_weights_are_standardised_in_every_call(scale: str) -> None:
    """Mean over inputs, rows and columns, difference, deviation, a small constant, quotient; whatever the batch."""
    composed = program(3)
    tensors = composed.graph.tensors
    nodes = [n for n in composed.graph.nodes if n.name.startswith(f"{scale}.res_") and n.phase == "forward"]
    divided = [tensors[n.outputs[0]] for n in nodes if n.op == "div"]
    assert sum(t.elements for t in divided) == sum(2 * 9 * c * c for _, _, c, *_ in CIFAR[scale])
    assert not any(t.chain_axis for t in divided)
    one = [n for n in nodes if ".res_2b.second.conv." in n.name and OPERATORS[n.op].category != "view"]
    assert [n.op for n in one] == ["reduce_mean"] * 3 + ["sub", "reduce_std", "shift", "div", "conv2d"]


def test_norms() -> None:
    """Of every channel by itself up to 128 channels, of 32 groups beyond."""
    norms = [n for n in program().graph.nodes if n.op.endswith("_norm")]
    assert Counter((n.branch, n.op) for n in norms) == {
        ("main[0]", "instance_norm"): 12,
        ("main[0]", "group_norm"): 4,
        ("mid[0]", "instance_norm"): 12,
        ("small[0]", "instance_norm"): 8,
    }
    assert {n.attribute("groups") for n in norms if n.op == "group_norm"} == {32}


def test_the_first_halving_is_made_twice() -> None:
    pools = [n.branch for n in program().graph.nodes if n.op == "avg_pool2d" and ".halved" in n.name]
    assert Counter(pools) == {"mid[0]": 1, "small[0]": 2}


# FLOPs per byte of a forward's convolutions and products: input, weight and output moved once, four bytes each.
@pytest.mark.parametrize(
    ("preset", "scale", "expected"),
    [
        ("default", "main", (30.4, 153.9, 159.0)),
        ("default", "mid", (24.6, 141.1, 146.6)),
        ("default", "small", (16.6, 122.6, 129.1)),
        ("celeba", "main", (81.5, 200.9, 203.2)),
        ("celeba", "mid", (121.3, 255.9, 258.2)),
        ("celeba", "small", (97.6, 250.4, 253.5)),
    ],
)
def test_intensity_of_products(preset: str, scale: str, expected: tuple[float, ...]) -> None:
    for chains, intensity in zip((1, 64, 128), expected, strict=True):
        composed = program(chains, preset)
        tensors = composed.graph.tensors
        flops = moved = 0
        for node in composed.graph.nodes:
            if node.phase == "forward" and node.op in ("conv2d", "matmul", "linear") and node.name.startswith(scale):
                flops += flops_of(composed, node)
                moved += sum(4 * tensors[t].elements for t in (*node.inputs, *node.outputs))
        assert flops / moved == pytest.approx(intensity, abs=0.0501)


# --- Sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [p for p in FILE.presets if p != "small"])
def test_evaluations_of_an_inference(preset: str) -> None:
    """A forward and an input gradient of every scale of every model a step; augmentation after each round."""
    composed, given = program(1, preset), settled(preset).parameters
    forwards: Counter[str] = Counter()
    backwards = hosts = copies = 0
    for section in composed.sections:
        for node in composed.graph.nodes[section.first : section.last]:
            if node.op == "conv2d" and node.name.endswith("stem.conv1"):
                forwards[node.branch.split("[")[0]] += section.repeat
            image = node.op == "conv2d_input_gradient" and composed.graph.tensors[node.outputs[0]].shape[1] == 3
            backwards += section.repeat * image
            hosts += section.repeat * (node.op == "host")
            copies += section.repeat * (node.op == "to_host")
    count = int(given["models"]) * int(given["steps"])
    assert forwards == dict.fromkeys(SCALES, count) and backwards == 3 * count
    assert (hosts, copies) == (given["rounds"], int(given["rounds"]) + 1)


def test_the_gradient_goes_back_to_the_image_alone() -> None:
    """Its products are the forward's without the labels', and attention's twice: both operands see the image."""
    composed = program(2, "conditional")
    nodes = composed.graph.nodes
    labels = sum(macs(composed, n.name) for n in nodes if n.name.endswith("latent_map") and n.phase == "forward")
    attention = sum(flops_of(composed, n) / 2 for n in nodes if n.op == "matmul" and n.phase == "forward")
    assert macs(composed, "", "backward-input") == macs(composed, "") - labels + attention
    assert labels == 2 * 2 * 20 * sum(2 * c for scale in SCALES for _, _, c, *_ in CIFAR[scale]) / 2


def test_a_step_and_what_stands_between_rounds() -> None:
    composed = program(2)
    nodes = composed.graph.nodes
    step = next(s for s in composed.sections if s.label == "step")
    sampler = [n.op for n in nodes[step.first : step.last] if n.name.startswith("sampler.")]
    assert sampler == ["random_normal", "scale", "add", "scale", "sub", "clamp"]
    between = next(s for s in composed.sections if s.label == "once" and s.repeat == 10)
    assert [n.op for n in nodes[between.first : between.last]] == ["to_host", "host", "to_device"]
    host = nodes[between.first + 1]
    assert WORK["host"]([(64, 3, 32, 32)], [(64, 3, 32, 32)], dict(host.attributes)).seconds == 64 * 0.0004


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", ["concat", "shift", "reduce_sum"]),
        ("conjunction", ["concat", "shift", "concat", "add", "reduce_sum"]),
        ("celeba_negation", ["concat", "shift", "concat", "scale", "add", "reduce_sum"]),
        (
            "celeba_disjunction",
            ["concat", "concat", "concat", "scale", "scale", "logsumexp", "scale", "scale", "reduce_sum"],
        ),
    ],
)
def test_energies_are_joined_as_in_the_code(preset: str, expected: list[str]) -> None:
    """Scales side by side; models added to a sum that begins with 0, or stacked for their soft minimum."""
    composed = program(2, preset)
    joins = [n for n in composed.graph.nodes if n.phase == "forward" and not n.branch]
    kernels = [n for n in joins if OPERATORS[n.op].category != "view"]
    assert [n.op for n in kernels] == expected
    shapes = [composed.graph.tensors[t].shape for t in kernels[-1].inputs]
    assert shapes == [(2, 1, 3)]
    factors = [n.attribute("by") for n in kernels if n.op == "scale"]
    assert factors == {"celeba_negation": [-0.001], "celeba_disjunction": [-1, 100, -1, 0.01]}.get(preset, [])


def test_models_have_weights_of_their_own() -> None:
    composed = program(1, "celeba_conjunction")
    assert under(composed, "") == 4 * under(program(1, "celeba"), "")


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["conjunction", "celeba_disjunction"])
def test_one_model_is_trained(preset: str) -> None:
    workload = settled(preset)
    iteration = compose_training(workload)
    tensors = iteration.graph.tensors
    single = compose(settled(preset, models=1, logic="conjunction"), 1)
    assert sum(tensors[t].elements for t in iteration.weights) == under(single, "")
    assert iteration.how.average and iteration.how.clip
    assert not any(n.branch.endswith("[1]") for n in iteration.graph.nodes)
    # three forwards (data, negatives, the moved sample) and one that makes the last step's gradient
    stems = [n for n in iteration.graph.nodes if n.op == "conv2d" and n.name == "main.stem.conv1"]
    assert len(stems) == 4 and {tensors[n.inputs[0]].shape[0] for n in stems} == {128}
    assert {"forward_positive", "forward_negative", "second_order", "update"} <= iteration.parts.keys()


@pytest.mark.parametrize(("preset", "seconds"), [("default", 228 * 0.0004), ("celeba", 228 * 0.0012)])
def test_images_of_the_buffer_are_augmented_on_the_host(preset: str, seconds: float) -> None:
    """The batch, and 100 more to be repelled from."""
    assert how_trained(settled(preset)).host_seconds == pytest.approx(seconds)
