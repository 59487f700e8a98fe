"""EBM-CL against what its code says: sizes, products layer by layer, one evaluation of all classes, training.

Counts are those of ShuangLI59/ebm-continual-learning@0450d69.
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

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cl.yaml")
FILE = parse_workload(DOCUMENT)


def conv(c_in: int, c_out: int, side: int) -> tuple[int, int]:
    """Parameters and multiply-adds of a 3×3 convolution with bias that writes side × side."""
    return (9 * c_in + 1) * c_out, 9 * c_in * c_out * side**2


def linear(c_in: int, c_out: int, rows: int = 1) -> tuple[int, int]:
    """Of a linear layer with bias on so many rows."""
    return (c_in + 1) * c_out, rows * c_in * c_out


def mlp(inputs: int, h: int, classes: int, agnostic: bool) -> dict[str, tuple[int, int]]:
    second = {"head.fc2": linear(h, h, classes)} if agnostic else {}
    table = {"gates.y_ebm": (classes * h, 0), "trunk.fc1": linear(inputs, h)}
    return {**table, **second, "head.classifier": linear(h, 1, classes)}


# (Parameters, multiply-adds) by layer, one image against all classes; batch norms and masks beside them.
LAYERS: dict[str, dict[str, tuple[int, int]]] = {
    "split_mnist": mlp(784, 400, 10, False),
    "split_mnist_agnostic": mlp(784, 400, 10, True),
    "permuted_mnist": mlp(1024, 1000, 100, False),
    "permuted_mnist_agnostic": mlp(1024, 1000, 100, True),
    "default": {
        "trunk.conv1.": conv(3, 32, 32),
        "trunk.conv2.": conv(32, 32, 30),
        "trunk.conv3.": conv(32, 64, 15),
        "trunk.conv4.": conv(64, 64, 13),
        "trunk.fc1": linear(2304, 1024),
        "gates.y_ebm": (10 * 1024, 0),
        "head.classifier": linear(1024, 1, 10),
    },
    "cifar100": {
        "frozen.conv1.conv": conv(3, 16, 32),
        "frozen.conv2.conv": conv(16, 32, 16),
        "frozen.conv3.conv": conv(32, 64, 8),
        "frozen.conv4.conv": conv(64, 128, 4),
        "frozen.conv5": conv(128, 256, 2),
        **{f"frozen.conv{i}.bn": (2 * c, 0) for i, c in ((1, 16), (2, 32), (3, 64), (4, 128))},
        "head.fc1.product": (1024 * 2000, 100 * 1024 * 2000),
        "head.fc1.bias": (2000, 0),
        "head.fc1.mask": (0, 100 * 100 * 2000),
        "head.fc2.product": (2000 * 2000, 100 * 2000 * 2000),
        "head.fc2.bias": (2000, 0),
        "head.fc2.mask": (0, 100 * 100 * 2000),
        "head.classifier": linear(2000, 1, 100),
    },
}
# Parameters used and stored, and millions of multiply-adds, as printed.
TOTALS = {
    "split_mnist": (318_401, 478_801, 0.318),
    "split_mnist_agnostic": (478_801, 478_801, 1.918),
    "permuted_mnist": (1_126_001, 2_127_001, 1.124),
    "permuted_mnist_agnostic": (2_127_001, 2_127_001, 101.124),
    "default": (2_437_153, 3_486_753, 21.926),
    "cifar100": (6_447_089, 6_447_089, 650.161),
}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=32)
def program(chains: int = 1, preset: str = "default", **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def under(composed: Program, prefix: str, role: str = "weight") -> int:
    """Elements held under a prefix."""
    held = [composed.graph.tensors[t] for key, t in composed.weights.items() if key.startswith(prefix)]
    return sum(t.elements for t in held if t.role == role)


def flops_of(composed: Program, node: Node) -> int:
    shapes = [[composed.graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops if node.op in WORK else 0


def macs(composed: Program, prefix: str = "") -> float:
    return sum(flops_of(composed, n) for n in composed.graph.nodes if n.name.startswith(prefix)) / 2


# --- The file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    workload = settled(preset)
    assert check_workload(workload) == []
    assert how_trained(workload).terms == ("unrolled",)


def test_taxonomy() -> None:
    """The paper counts classes, which are independent; of the networks one reads the two others."""
    tags = FILE.taxonomy
    assert (tags.compositionality, tags.dependency) == ("hetero", "fully-parallel")
    assert tags.paper is not None
    assert (tags.paper.compositionality, tags.paper.dependency) == ("hetero", "fully-parallel")
    for preset in LAYERS:
        assert derive(settled(preset)) == ("hetero", "mixed-parallel")
    assert check_tags(settled()) == [] and "mixed-parallel" in tags.reason
    assert any("Langevin" in note for note in FILE.notes)


# Samples of the smallest task in the training data, tasks, and epochs of each where boundaries are not known.
@pytest.mark.parametrize(
    ("preset", "iterations"),
    [
        ("default", 5 * 2000),
        ("cifar100", 10 * 5000),
        ("split_mnist", 5 * 2000),
        ("permuted_mnist", 10 * 2000),
        ("cifar10_agnostic", 10_000 // 128 * 5 * 50),
        ("cifar100_agnostic", 5_000 // 128 * 10 * 50),
        ("split_mnist_agnostic", 11_263 // 128 * 5 * 10),  # fours and fives
        ("permuted_mnist_agnostic", 60_000 // 128 * 10 * 10),
    ],
)
def test_settings(preset: str, iterations: int) -> None:
    given = settled(preset).parameters
    assert given["iterations"] == iterations
    assert (given["chains"], given["steps"], given["training_batch"]) == (128, 1, 128)
    assert given["candidates"] == given["classes"] == (100 if "permuted" in preset or "100" in preset else 10)


# --- The networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", LAYERS)
def test_layers(preset: str) -> None:
    composed = program(1, preset)
    assert {name: (under(composed, name), macs(composed, name)) for name in LAYERS[preset]} == LAYERS[preset]


@pytest.mark.parametrize("preset", TOTALS)
def test_totals(preset: str) -> None:
    """No layer is beside those of the table; stored, but unused, is a second linear layer."""
    composed, workload = program(1, preset), settled(preset)
    used, products = (sum(column) for column in zip(*LAYERS[preset].values(), strict=True))
    parts = {name: component.unused_parameters for name, component in FILE.components.items()}
    unused = sum(int(Composer(workload, 1).value(text, ("components", name))) for name, text in parts.items())
    assert (under(composed, ""), macs(composed)) == (used, products)
    assert (used, used + unused, round(products / 1e6, 3)) == TOTALS[preset]


def test_masks_are_no_weights() -> None:
    """Two tables of classes by features, and what batch norm keeps; nothing else but constant ones is a buffer."""
    composed = program(1, "cifar100")
    masks = [under(composed, f"head.fc{i}.masks", "buffer") for i in (1, 2)]
    statistics = 2 * (16 + 32 + 64 + 128)
    assert masks == [100 * 2000] * 2 and under(composed, "frozen.", "buffer") == statistics
    assert under(composed, "", "buffer") == sum(masks) + statistics + 2 * 2000 + 100


# FLOPs per byte of convolutions and products: input, weight and output moved once, four bytes each. The printed figures
# have the masks read once for every image.
@pytest.mark.parametrize(
    ("preset", "one", "many"),
    [
        ("split_mnist", 0.5, 20.8),
        ("split_mnist_agnostic", 2.0, 56.7),
        ("permuted_mnist_agnostic", 21.7, 159.0),
        ("default", 4.2, 62.0),
        ("cifar100", 39.5, 176.8),
    ],
)
def test_intensity_of_products(preset: str, one: float, many: float) -> None:
    for chains, expected in ((1, one), (128, many)):
        composed = program(chains, preset)
        tensors = composed.graph.tensors
        flops = moved = 0
        for node in composed.graph.nodes:
            if node.op in ("conv2d", "matmul", "linear"):
                flops += flops_of(composed, node)
                moved += sum(4 * tensors[t].elements for t in (*node.inputs, *node.outputs))
                moved += 4 * (chains - 1) * tensors[node.inputs[1]].elements if node.op == "matmul" else 0
        assert flops / moved == pytest.approx(expected, abs=0.0501)


# --- The evaluation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", LAYERS)
def test_an_inference_is_one_forward(preset: str) -> None:
    """All classes in one pass, nothing backward, no random number; then the class of the least energy."""
    composed = program(3, preset)
    (step,) = [s for s in composed.sections if s.label == "step"]
    nodes = composed.graph.nodes[step.first : step.last]
    assert step.repeat == 1 and {n.phase for n in nodes} == {"forward", "update"}
    assert not any("back" in n.phase or OPERATORS[n.op].category == "rng" for n in composed.graph.nodes)
    classes = settled(preset).parameters["classes"]
    choice = nodes[-1]
    assert choice.op == ("argmax" if preset == "cifar100" else "argmin")
    assert composed.graph.tensors[choice.inputs[0]].shape == (3, classes)
    assert composed.graph.tensors[choice.outputs[0]].shape == (3,)
    last = composed.graph.nodes[step.last :]
    assert [n.op for n in last] == ["to_host"]


@pytest.mark.parametrize("preset", LAYERS)
def test_classes_seen_so_far(preset: str) -> None:
    """Fewer candidates take fewer rows of the gated part, the same weights and the same work on the image."""
    whole, half = program(1, preset), program(1, preset, candidates=5)
    assert under(whole, "") == under(half, "")
    share = settled(preset).parameters["classes"]
    assert macs(half, "head") * share == 5 * macs(whole, "head")
    assert macs(half) - macs(half, "head") == macs(whole) - macs(whole, "head")


def test_an_image_meets_its_classes_without_a_copy() -> None:
    """The features broadcast; only where a product follows at once, for CIFAR-100, are they copied."""
    copies = {p: sum(n.op == "copy" for n in program(2, p).graph.nodes) for p in LAYERS}
    assert copies == {p: int(p == "cifar100") for p in LAYERS}


# --- Training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", LAYERS)
def test_training_sees_two_classes_once(preset: str) -> None:
    """One forward with the right class and a wrong one, one backward to the weights, Adam; the trunk once."""
    workload = settled(preset)
    iteration = compose_training(workload)
    tensors, nodes = iteration.graph.tensors, iteration.graph.nodes
    frozen = sum(size for name, (size, _) in LAYERS[preset].items() if name.startswith("frozen"))
    assert sum(tensors[t].elements for t in iteration.weights) == TOTALS[preset][0] - frozen
    updates = Counter(tensors[n.inputs[0]].name for n in nodes if n.op == "adam")
    assert set(updates.values()) == {1} and len(updates) == len(iteration.weights)
    heads = [n for n in nodes if n.name == "head.classifier"]
    assert [tensors[n.outputs[0]].shape for n in heads] == [(128, 2, 1)]
    assert sum(n.phase == "forward" and n.name in ("trunk.fc1", "frozen.conv5") for n in nodes) == 1
    assert not any(n.phase == "backward-weight" and n.branch == "frozen[0]" for n in nodes)
    assert not (iteration.how.average or iteration.how.clip)


@pytest.mark.parametrize(("preset", "seconds"), [("default", 14e-6), ("cifar100", 20e-6)])
def test_wrong_classes_are_drawn_on_the_host(preset: str, seconds: float) -> None:
    assert how_trained(settled(preset)).host_seconds == pytest.approx(128 * seconds)
