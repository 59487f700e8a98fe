"""The conventional models that stand beside energy-based ones: parameters, products and evaluations, by formula."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.expression import evaluate
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

FOLDER = Path(__file__).parents[2] / "workload_graphs"
# The model, what it stands beside, the task in Table I, whether the comparison's own model is documented.
BASELINES = {
    "mlp_reverse": ("ired", "Reasoning", True),
    "cubes_generator": ("ebm_cmp", "Compositional Reasoning", False),
    "stylegan2": ("ebm_cvr", "Image Generation", True),
    "score_unet": ("rrr", "Compositional Image Generation", False),
    "resnet50": ("ebm_igm", "Scene Understanding", False),
}
DOCUMENTS = {name: load_document(FOLDER / f"{name}.yaml") for name in (*BASELINES, "ired", "rrr")}
FILES = {name: parse_workload(document) for name, document in DOCUMENTS.items()}


def settled(name: str, preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENTS[name], FILES[name], preset, overrides)


@lru_cache(maxsize=32)
def program(name: str, preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(name, preset, **overrides), chains)


def steps(p: Program) -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    return list(p.graph.nodes[section.first : section.last])


def macs(p: Program, nodes: Sequence[Node]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([p.graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


def layer(p: Program, prefix: str) -> float:
    """Multiply-adds of the nodes of a step below a name."""
    return macs(p, [n for n in steps(p) if n.name.startswith(prefix)])


def weights(p: Program, prefix: str = "") -> int:
    held = {key: p.graph.tensors[t] for key, t in p.weights.items()}
    return sum(t.elements for key, t in held.items() if t.role == "weight" and key.startswith(prefix))


def launched(nodes: Sequence[Node]) -> list[str]:
    return [n.op for n in nodes if OPERATORS[n.op].category != "view"]


# --- all


@pytest.mark.parametrize("name", BASELINES)
def test_what_it_stands_beside(name: str) -> None:
    found = FILES[name].baseline
    assert found is not None
    assert (found.of, found.task, found.documented) == BASELINES[name]
    assert FILES[name].taxonomy.paper is None
    assert derive(settled(name)) == ("mono", "sequential")


@pytest.mark.parametrize(("name", "preset"), [(name, p) for name in BASELINES for p in FILES[name].presets])
def test_every_preset_composes(name: str, preset: str) -> None:
    assert check_workload(settled(name, preset)) == []


@pytest.mark.parametrize(
    ("name", "preset", "chains", "passes", "first"),
    [
        ("mlp_reverse", "default", 2048, 10, "mlp.fc1"),
        ("cubes_generator", "default", 64, 1, "generator.fc_dense"),
        ("cubes_generator", "faces", 64, 1, "generator.fc_dense"),
        ("stylegan2", "default", 32, 1, "generator.first.y"),
        ("score_unet", "default", 1, 100, "unet.in0"),
        ("score_unet", "few_steps", 1, 10, "unet.in0"),
        ("resnet50", "default", 1, 1, "resnet.conv1.conv"),
    ],
)
def test_evaluations(name: str, preset: str, chains: int, passes: int, first: str) -> None:
    """Forwards of an inference, all of them in steps, and nothing is differentiated."""
    p = program(name, preset)
    found = 0.0
    for section in p.sections:
        nodes = p.graph.nodes[section.first : section.last]
        found += section.repeat * sum(n.name == first for n in nodes)
        assert not any("backward" in n.phase for n in nodes)
        assert section.label == "step" or macs(p, nodes) == 0
    assert found == passes == settled(name, preset).setting("steps")
    assert settled(name, preset).setting("chains") == chains


# --- mlp_reverse


@pytest.mark.parametrize(
    ("preset", "parameters", "inputs"), [("default", 1_642_640, 1200), ("inverse", 1_437_840, 800)]
)
def test_mlp(preset: str, parameters: int, inputs: int) -> None:
    """IRED's network without its energy: the same parameters and products; 33 MFLOP for a sum in 10 steps."""
    layers = [(128, 128), (128, 128), (inputs, 512), (512, 512), (128, 1024), (512, 512), (128, 1024), (512, 400)]
    p = program("mlp_reverse", preset)
    assert weights(p) == sum(a * b + b for a, b in layers) == parameters
    assert macs(p, steps(p)) == sum(a * b for a, b in layers)
    ired = program("ired", preset)
    assert weights(ired) == parameters
    assert macs(ired, [n for n in steps(ired) if n.phase == "forward"]) == macs(p, steps(p))
    if preset == "default":
        assert round(10 * 2 * macs(p, steps(p)) / 1e6) == 33


def test_mlp_shares_what_ired_takes() -> None:
    for preset in ("default", "inverse", "low_rank", "validation", "small"):
        ours, theirs = settled("mlp_reverse", preset).parameters, settled("ired", preset).parameters
        for key in ("chains", "training_batch", "iterations", "task", "rank", "h", "bound"):
            assert ours[key] == theirs[key]


def test_a_step_of_reverse_diffusion() -> None:
    """Denoised, clamped and scaled, as at each landscape of IRED; noise in between if asked for."""
    denoise, on = ["mul", "mul", "sub", "clamp", "mul"], ["clamp", "div", "mul"]
    for noisy in (True, False):
        nodes = steps(program("mlp_reverse", noisy=noisy))
        own = [n.op for n in nodes if n.name.startswith("sampler.")]
        assert own == ["random_normal", *denoise, *(["mul", "add"] if noisy else []), *on]
    ired = program("ired")
    theirs = [
        [n.op for n in ired.graph.nodes[s.first : s.last] if n.name.startswith("sampler.")]
        for s in ired.sections
        if s.repeat == 10
    ]
    assert theirs == [denoise, on]


def test_mlp_learns_by_denoising_alone() -> None:
    iteration = compose_training(settled("mlp_reverse"))
    assert iteration.how.terms == ("denoising",)
    assert "second_order" not in iteration.parts
    assert sum(iteration.graph.tensors[t].elements for t in iteration.weights) == 1_642_640


# --- cubes_generator

# Blocks of the generator: channels before and after, both in units of f, and the side of what enters.
BLOCKS = {"res_1": (4, 2, 4), "res_2": (2, 2, 8), "res_3": (2, 1, 16), "res_4": (1, 1, 32), "res_5": (1, 1, 64)}


@pytest.mark.parametrize(
    ("preset", "f", "label", "kernels", "billions"),
    [("default", 64, 3, 1_820_352, 0.161), ("faces", 128, 6, 7_564_672, 1.880)],
)
def test_generator_of_cubes(preset: str, f: int, label: int, kernels: int, billions: float) -> None:
    """1.82 M weights of kernels and the first layer, 0.161 GMAC of convolutions and the first layer."""
    p = program("cubes_generator", preset)
    blocks = {k: v for k, v in BLOCKS.items() if k != "res_5" or preset == "faces"}
    held, total = 2 * f * 64 * f + 64 * f + 27 * f, 2 * f * 64 * f
    for name, (a, b, side) in blocks.items():
        a, b = a * f, b * f
        filters = 9 * (a * b + b * b + (a * b if a != b else 0))
        of_label = label * (a + 2 * b) + b
        assert weights(p, f"generator.{name}.") == filters + of_label
        convolutions = [n for n in steps(p) if n.op == "conv2d" and n.name.startswith(f"generator.{name}.")]
        assert macs(p, convolutions) == filters * side**2
        held, total = held + filters, total + filters * side**2
    total += 27 * f * (128 if preset == "faces" else 64) ** 2
    assert held == kernels and round(total / 1e9, 3) == billions
    found = macs(p, [n for n in steps(p) if n.op == "conv2d"]) + layer(p, "generator.fc_dense")
    assert found == total


def test_parameters_of_the_generator() -> None:
    """Every convolution owns two biases, a gain and an offset; blocks use gain and offsets of their own two."""
    f, label = 64, 3
    convolutions = [(a * f, b * f) for a, b in [(4, 2), (2, 2), (4, 2), (2, 2), (2, 2), (2, 1), (1, 1), (2, 1)]]
    convolutions += [(f, f), (f, f)]
    owned = sum(9 * a * b + b + label * b + label * a + a for a, b in convolutions)
    owned += 27 * f + 3 + 3 + f + f  # the last is without label
    owned += 2 * f * 64 * f + 64 * f
    unused = FILES["cubes_generator"].components["generator"].unused_parameters
    used = weights(program("cubes_generator"))
    assert used == 1_824_768
    assert used + int(evaluate(unused, settled("cubes_generator").parameters)) == owned == 1_829_702


def test_weights_of_cubes_are_normalised() -> None:
    """Three products with each kernel in one power iteration, five with the first layer's two."""
    p = program("cubes_generator")
    raw = {key: p.graph.tensors[t] for key, t in p.weights.items() if key.endswith(".raw")}
    kernels = sum(t.elements for t in raw.values())
    dense = raw["generator.dense.raw"].elements
    assert len(raw) == 12 and kernels == 1_820_352 - 4096
    dots = sum(t.shape[0] for t in raw.values())
    assert macs(p, [n for n in steps(p) if n.op == "matmul"]) == 3 * kernels + 2 * dense + dots


# --- stylegan2


def style_widths(image: int, base: int = 32768, most: int = 512) -> dict[int, int]:
    return {2**k: min(base >> k, most) for k in range(2, image.bit_length())}


@pytest.mark.parametrize(
    ("preset", "image", "condition", "parameters", "billions"),
    [
        ("default", 128, 512, 29_853_469, 30.6),
        ("unconditional_256", 256, 0, 30_034_338, 45.1),
        ("faces_1024", 1024, 0, 30_370_060, 74.1),
    ],
)
def test_stylegan2(preset: str, image: int, condition: int, parameters: int, billions: float) -> None:
    """30.37 M parameters as published for faces; 45.1 GMAC at 256 × 256 as is known."""
    p = program("stylegan2", preset)
    width = style_widths(image)
    mapping = 8 * (512 * 512 + 512) + ((condition + 1) * 512 + 512 * 512 if condition else 0)
    synthesis, products = 16 * width[4], 0
    for side, c in width.items():
        for before, large in [(width.get(side // 2, 0), side // 2), (c, side)]:
            if before:
                synthesis += 9 * before * c + c + 1 + 513 * before
                products += 9 * before * c * large**2
        synthesis += 3 * c + 3 + 513 * c
    assert weights(p) == mapping + synthesis == parameters
    filters = [n for n in steps(p) if n.op.startswith("conv") and dict(n.attributes)["groups"] == 1]
    threes = [n for n in filters if p.graph.tensors[n.inputs[1]].shape[-1] == 3]
    assert macs(p, threes) == products and round(products / 1e9, 1) == billions
    assert macs(p, [n for n in filters if n not in threes]) == sum(3 * c * side**2 for side, c in width.items())
    assert layer(p, "generator.first.") + layer(p, "generator.later") == 8 * 512 * 512 + bool(condition) * 512 * 512


def test_kernels_of_a_modulated_convolution() -> None:
    """Affine layer, noise, lengths of each image's weights, the convolution, what follows it."""
    affine, noise = ["scale", "linear"], ["random_normal", "mul"]
    lengths, after = ["mul", "square", "reduce_sum", "shift", "rsqrt"], ["mul", "add", "add", "leaky_relu", "scale"]
    p = program("stylegan2")
    for name, convolution in (("conv0", ["conv_transpose2d", "conv2d"]), ("conv1", ["conv2d"])):
        nodes = [n for n in steps(p) if n.name.startswith(f"generator.b64.{name}.")]
        assert launched(nodes) == [*affine, *noise, *lengths, "mul", *convolution, *after]
    batch = program("stylegan2", chains=3)
    lengths_of = next(n for n in steps(batch) if n.name == "generator.b128.conv1.square1")
    assert batch.graph.tensors[lengths_of.outputs[0]].shape == (3, 256, 256, 3, 3)


# --- score_unet


def test_score_network_is_rrr_without_energy() -> None:
    """The same kernels in a forward and in what the sampler does, but for the energy and its gradient."""
    ours, theirs = program("score_unet"), program("rrr", "none")
    assert weights(ours) == weights(theirs) == 125_121_667
    found = {phase: launched([n for n in steps(ours) if n.phase == phase]) for phase in ("forward", "update", "rng")}
    wanted = {phase: launched([n for n in steps(theirs) if n.phase == phase]) for phase in found}
    assert wanted["forward"] == [*found["forward"], "square", "scale", "reduce_sum"]
    assert sorted(found["update"]) == sorted(wanted["update"]) and found["rng"] == wanted["rng"]
    forward = macs(theirs, [n for n in steps(theirs) if n.phase == "forward"])
    assert macs(ours, steps(ours)) == forward
    assert round(2 * forward / 3 / 1e9, 1) == 100.2
    assert round(100 * 2 * forward / 1e12) == 30


def test_rows_and_few_steps() -> None:
    p, few, more = program("score_unet"), program("score_unet", "few_steps"), program("score_unet", labels=4)
    assert 3 * macs(more, steps(more)) == 5 * macs(p, steps(p))
    assert macs(few, steps(few)) == macs(p, steps(p))
    # 8 coefficients of an ancestral step, 12 of DDIM and the schedule
    for found, tables in ((p, 8), (few, 12)):
        waits = [n for n in steps(found) if n.op == "synchronise" and n.name.startswith("sampler.x.")]
        assert len(waits) == tables


# --- resnet50


@pytest.mark.parametrize(
    ("preset", "side", "outputs", "parameters", "products"),
    [("imagenet", 224, 1000, 25_557_032, 4_089_184_256), ("default", 64, 10, 23_528_522, 333_664_256)],
)
def test_resnet50(preset: str, side: int, outputs: int, parameters: int, products: int) -> None:
    """25.6 M parameters and 4.09 GMAC as published; 0.33 GMAC at 64 × 64."""
    held, total = 3 * 49 * 64 + 2 * 64, 3 * 49 * 64 * (side // 2) ** 2
    before, size = 64, side // 4
    for c, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            halved = size // 2 if block == 0 and c > 64 else size
            first, second, third = before * c, 9 * c * c, 4 * c * c
            beside = 4 * before * c if block == 0 else 0
            held += first + second + third + beside + 2 * (c + c + 4 * c + (4 * c if beside else 0))
            total += first * size**2 + (second + third + beside) * halved**2
            before, size = 4 * c, halved
    p = program("resnet50", preset)
    assert weights(p) == held + 2049 * outputs == parameters
    assert macs(p, steps(p)) == total + 2048 * outputs == products
    assert launched(steps(p)).count("batch_norm") == launched(steps(p)).count("conv2d") == 53
