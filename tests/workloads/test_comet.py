"""COMET against what its code says: sizes, products, steps, what is once, training."""

from itertools import pairwise
from pathlib import Path

import pytest

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.expression import evaluate
from ebmsim.spec.library import load_profile
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "comet.yaml")
FILE = parse_workload(DOCUMENT)
F = 64
# Preset, and the number of latents where it is not that of the preset: what the figures below are of.
GLOBAL128, GLOBAL64, LOCAL = ("default", 4), ("global64", 4), ("clevr", 5)
LATENT = {"default": 64, "global64": 64, "clevr": 16}
SIDE = {"default": 128, "global64": 64, "clevr": 64}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def nodes_of(program: Program, label: str, branch: str = "") -> list[Node]:
    sections = [s for s in program.sections if s.label == label]
    nodes = [n for s in sections for n in program.graph.nodes[s.first : s.last]]
    return [n for n in nodes if n.branch.startswith(branch)]


def macs(graph: Graph, nodes: list[Node]) -> int:
    """Multiply-adds of products and convolutions."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total // 2


def layers(program: Program, label: str, branch: str) -> dict[str, int]:
    """Multiply-adds of a forward by layer, those of layers of the same name added up."""
    found: dict[str, int] = {}
    for node in nodes_of(program, label, branch):
        if node.phase in ("forward", "once") and (count := macs(program.graph, [node])):
            found[node.name] = found.get(node.name, 0) + count
    return found


def parameters(program: Program, part: str = "") -> int:
    held = {k: program.graph.tensors[t] for k, t in program.weights.items() if k.startswith(part)}
    return sum(t.elements for t in held.values() if t.role == "weight")


# --- what the layers should be ---------------------------------------------------------------------------------------

# (pixels, input, output channels and taps) of convolutions, or (rows, inputs, outputs, 1) of linear layers.
Layer = tuple[int, int, int, int]


def size(layer: Layer) -> int:
    _, a, b, taps = layer
    return (a * taps + 1) * b


def work(layer: Layer) -> int:
    pixels, a, b, taps = layer
    return pixels * a * b * taps


def conditioned(side: int, c: int, out: int, latent: int) -> list[Layer]:
    return [(1, latent, 2 * c, 1)] * 2 + [(side * side, c, c, 9)] * 2 + [(side * side, c, out, 9)]


def energy_blocks(preset: str) -> list[list[Layer]]:
    """Stem, residual blocks, last layer."""
    side, latent = SIDE[preset], LATENT[preset]
    widths = [16, 32, 64, 64, 64, 128] if preset == "default" else [64, 64, 64, 128]
    first = side if preset == "default" else side // 2
    stem = [(side * side, 3, widths[0], 9)]
    if preset == "clevr":
        stem = [(side * side, 3, F // 2, 9), (side * side, 2, F // 2, 9)]
    blocks = [conditioned(first >> i, a, b, latent) for i, (a, b) in enumerate(pairwise(widths))]
    return [stem, *blocks, [(1, 128, 1, 1)]]


def encoder_layers(preset: str, concepts: int) -> list[list[Layer]]:
    """Stem and residual blocks, then a layer each; those of a slot run once per object."""
    side, latent = SIDE[preset], LATENT[preset]
    blocks = [[(side * side, 3, F, 9)]]
    blocks += [[((side >> i) ** 2, F, F, 9)] * 3 for i in range(4 if preset == "clevr" else 3)]
    if preset != "clevr":
        return [*blocks, [(1, F, F, 1)], [(1, F, concepts * latent, 1)]]
    slot = [(16, 2 * F, F, 1), (16, F, 1, 1), (1, 2 * F, F, 1), (1, F, 4 * F, 1), (1, F, 4 * F, 1)]
    return [*blocks, *([x] for x in slot), [(concepts, F, latent, 1)]]


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("overrides", [{}, {"encoder_in_loop": True}, {"composed": 7}, {"concepts": 3}], ids=str)
def test_every_preset_composes(preset: str, overrides: dict[str, object]) -> None:
    assert check_workload(settled(preset, **overrides)) == []


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [1, 30, 4, 10, 12, 200]),
        ("celeba", [16, 10, 4, 10, 12, 500]),
        ("global64", [16, 10, 2, 10, 12, 500]),
        ("clevr", [16, 5, 5, 5, 24, 1000]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "concepts", "training_steps", "training_batch", "step_size")
    assert [settled(preset).parameters[n] for n in names] == expected


def test_taxonomy() -> None:
    """As the paper words it when the encoder is a branch of every step."""
    derived = {"default": "mixed-parallel", "parallel_encoder": "fully-parallel", "single": "sequential"}
    assert {preset: derive(settled(preset)) for preset in derived} == {k: ("hetero", v) for k, v in derived.items()}


@pytest.mark.parametrize(
    ("case", "total", "blocks"),
    [
        (GLOBAL64, 421_121, [1_792, 127_424, 127_424, 164_352, 129]),
        (LOCAL, 383_969, [896 + 608, 115_136, 115_136, 152_064, 129]),
        (GLOBAL128, 478_529, [448, 13_440, 45_312, 127_424, 127_424, 164_352, 129]),
    ],
)
def test_parameters_of_the_energy(case: tuple[str, int], total: int, blocks: list[int]) -> None:
    """The same for any number of concepts, which share them."""
    preset, concepts = case
    assert [sum(map(size, block)) for block in energy_blocks(preset)] == blocks
    assert parameters(compose(settled(preset, concepts=concepts), 1), "energy") == sum(blocks) == total


@pytest.mark.parametrize(("case", "total"), [(GLOBAL64, 354_944), (GLOBAL128, 354_944), (LOCAL, 495_825)])
def test_parameters_of_the_encoder(case: tuple[str, int], total: int) -> None:
    """Slots share theirs."""
    preset, concepts = case
    program = compose(settled(preset, concepts=concepts), 1)
    expected = sum(size(layer) for block in encoder_layers(preset, concepts) for layer in block)
    assert parameters(program, "encoder") == expected == total


@pytest.mark.parametrize(
    ("case", "total"),
    [(GLOBAL64, 1_348_161), (("global64", 2), 1_265_985), (LOCAL, 1_305_490), (GLOBAL128, 1_399_329)],
)
def test_what_is_stored(case: tuple[str, int], total: int) -> None:
    """The modules that the code makes and does not call."""
    preset, concepts = case
    workload, z = settled(preset, concepts=concepts), LATENT[preset]
    gains = 2 * (z + 1) * (F // 4 if preset == "default" else F)
    masks = size((1, z + 2, 32, 9)) + 3 * size((1, 32, 32, 9)) + size((1, 32, z, 1))
    upsampling = 3 * (3 * size((1, F, F, 9)) + 4 * F)
    norms = (4 if preset == "clevr" else 3) * 4 * F
    decode = size((1, F, concepts * z, 9)) + (16 * F if preset == "clevr" else 0)
    unused = sum(
        int(evaluate(FILE.components[c].unused_parameters, workload.parameters)) for c in ("encoder", "energy")
    )
    assert unused == gains + masks + upsampling + norms + decode + (z + 1) * 8 * F
    assert parameters(compose(workload, 1)) + unused == total


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "millions", "blocks"),
    [
        (GLOBAL64, 158.122, [7.078, 113.263, 28.328, 9.454, 0.000128]),
        (LOCAL, 156.906, [3.539 + 2.359, 113.250, 28.316, 9.441, 0.000128]),
        (GLOBAL128, 460.124, [7.078, 150.999, 151.003, 113.263, 28.328, 9.454, 0.000128]),
    ],
)
def test_products_of_an_energy(case: tuple[str, int], millions: float, blocks: list[float]) -> None:
    preset, concepts = case
    derived = energy_blocks(preset)
    assert [sum(map(work, block)) / 1e6 for block in derived] == pytest.approx(blocks, abs=0.0011)
    program = compose(settled(preset, concepts=concepts), 1)
    for instance in range(concepts):
        found = layers(program, "step", f"energy[{instance}]")
        assert sorted(found.values()) == sorted(work(layer) for block in derived for layer in block)
        assert sum(found.values()) / 1e6 == pytest.approx(millions, abs=0.0005)


@pytest.mark.parametrize(("case", "millions"), [(GLOBAL64, 601.641), (LOCAL, 609.569), (GLOBAL128, 2_407)])
def test_products_of_the_encoder(case: tuple[str, int], millions: float) -> None:
    preset, concepts = case
    found = layers(compose(settled(preset, concepts=concepts), 1), "once", "encoder")
    derived = encoder_layers(preset, concepts)
    slots = derived[5:-1] if preset == "clevr" else []
    expected = [work(x) * (concepts if [x] in slots else 1) for block in derived for x in block]
    assert sorted(found.values()) == sorted(expected)
    assert sum(found.values()) / 1e6 == pytest.approx(millions, abs=0.5 if preset == "default" else 0.0005)


def test_products_of_a_slot() -> None:
    found = {k.rpartition(".")[2]: v for k, v in layers(compose(settled("clevr"), 1), "once", "encoder").items()}
    expected = {"at_fc1": 131_072, "at_fc2": 1_024, "map_embed": 8_192, "lstm_ih": 16_384, "lstm_hh": 16_384}
    assert {name: found[name] for name in expected} == {k: 5 * v for k, v in expected.items()}
    assert found["embed_fc2"] == 5_120


@pytest.mark.parametrize("preset", ["default", "global64", "clevr"])
def test_what_flows_back_to_the_image(preset: str) -> None:
    """All convolutions of the image; latents and positions are given."""
    program = compose(settled(preset), 3)
    back = macs(program.graph, [n for n in nodes_of(program, "step") if n.phase == "backward-input"])
    blocks = energy_blocks(preset)
    one = sum(work(x) for block in blocks for x in block if x[1:] not in ((2, F // 2, 9),) and x[3] == 9)
    assert back == 3 * int(settled(preset).parameters["concepts"]) * (one + work(blocks[-1][0]))


def test_products_of_a_reconstruction() -> None:
    """4 concepts and 10 steps at 64 pixels: about 13.3 billion multiply-adds."""
    program = compose(settled("global64", concepts=4), 1)
    total = sum(s.repeat * macs(program.graph, list(program.graph.nodes[s.first : s.last])) for s in program.sections)
    assert total / 1e9 == pytest.approx(13.3, abs=0.1)


# --- sampler ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "steps", "energies"), [("default", 30, 4), ("single", 30, 1), ("clevr", 5, 5)])
def test_steps(preset: str, steps: int, energies: int) -> None:
    """As many forwards and gradients as concepts; one update, clamped; nothing drawn in the demo."""
    program = compose(settled(preset), 1)
    assert [s.repeat for s in program.sections if s.label == "step"] == [steps]
    nodes = nodes_of(program, "step")
    first = [n for n in nodes if n.name == "energy.conv1.y"]
    assert [n.phase for n in first].count("forward") == energies
    back = [n for n in nodes if n.op == "conv2d_input_gradient" and n.name.startswith("energy.conv1.y")]
    assert len(back) == energies
    assert [n.op for n in nodes if n.phase == "update"] == ["scale", "sub", "clamp"]
    assert sum(n.phase == "rng" for n in nodes) == (preset == "clevr")
    assert sum(n.op == "add" and not n.branch and n.phase == "forward" for n in nodes) == energies - 1


def test_the_encoder_is_once_or_in_every_step() -> None:
    once, looped = (compose(settled(p), 1) for p in ("default", "parallel_encoder"))
    work_once = macs(once.graph, nodes_of(once, "once", "encoder"))
    assert work_once == macs(looped.graph, nodes_of(looped, "step", "encoder_in_loop")) > 0
    assert not nodes_of(once, "step", "encoder") and not nodes_of(looped, "once", "encoder")
    assert parameters(once) == parameters(looped)


def test_the_grid_of_positions_is_copied_in_every_evaluation() -> None:
    """Twice for each of five objects, one grid per image; or it stays on the device."""
    for resident, expected in ((False, 10), (True, 0)):
        program = compose(settled("clevr", resident=resident), 16)
        copies = [n for n in nodes_of(program, "step") if n.op == "to_device"]
        assert len(copies) == sum(n.op == "synchronise" for n in nodes_of(program, "step")) == expected
        assert all(program.graph.tensors[n.outputs[0]].shape == (16, 1, 64, 64) for n in copies)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "parallel_encoder", "single", "clevr"])
def test_training(preset: str) -> None:
    """A new encoding and all concepts in every iteration, one step of K_t differentiated, clipped updates."""
    workload = settled(preset)
    iteration = compose_training(workload)
    assert set(iteration.parts) == {"data", "second_order", "update"}
    assert iteration.how.clip and not iteration.how.average and iteration.how.unrolled == (1, 1)
    trained = sum(iteration.graph.tensors[t].elements for t in iteration.weights)
    assert trained == parameters(compose(settled(preset, encoder_in_loop=False), 1))
    evaluated = [n for n in iteration.graph.nodes if n.name == "energy.energy_map" and n.op == "linear"]
    assert sum(n.phase == "forward" for n in evaluated) == workload.parameters["concepts"]
    lowered = lower_workload(workload, Policy(), load_profile("ideal"))
    assert lowered.training.steps == workload.setting("training_steps") - 1


def test_distance_of_features() -> None:
    """VGG-16 on both images and back to one: three times the products of its thirteen layers, none of them trained."""
    with_it, without = (compose_training(settled("celeba", perceptual=p)) for p in (True, False))
    widths = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    widths += [(256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]
    halvings = [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    vgg: list[Layer] = [((128 >> h) ** 2, a, b, 9) for (a, b), h in zip(widths, halvings, strict=True)]
    last: list[Layer] = [((128 >> h) ** 2, c, 1, 1) for h, c in enumerate((64, 128, 256, 512, 512))]
    added = macs(with_it.graph, list(with_it.graph.nodes)) - macs(without.graph, list(without.graph.nodes))
    assert added == 12 * (3 * sum(map(work, vgg)) + 2 * sum(map(work, last)))
    assert len(with_it.weights) == len(without.weights)
    fixed = {t.name: t.elements for t in with_it.graph.tensors if t.role == "buffer" and t.name.startswith("loss.")}
    assert sum(v for k, v in fixed.items() if ".stage" in k) == sum(map(size, vgg)) == 14_714_688
    assert sum(v for k, v in fixed.items() if ".distance" in k) == 1_472
