"""EBM-EqM against what its paper and code say: sizes, products, evaluations, guidance, conditioning, the VAE."""

import time
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.lower import lower
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

PATH = Path(__file__).parents[2] / "workload_graphs" / "ebm_eqm.yaml"
DOCUMENT = load_document(PATH)
FILE = parse_workload(DOCUMENT)
# Preset: depth, width, patch, and parameters with the fixed table, as printed by the code's constructor.
CONFIGURATIONS = {
    "default": (28, 1152, 2, 675_129_632, 118.62),
    "xl_4": (28, 1152, 4, 675_074_432, 29.04),
    "xl_8": (28, 1152, 8, 675_683_072, 7.39),
    "l_2": (24, 1024, 2, 458_102_816, 80.70),
    "b_2": (12, 768, 2, 130_512_416, 23.01),
    "b_4": (12, 768, 4, 130_475_648, 5.57),
    "s_2": (12, 384, 2, 32_963_360, 6.06),
}
DEPTH, WIDTH, TOKENS = 28, 1152, 256
# Multiply-adds of one row of EqM-XL/2.
ATTENTION = DEPTH * 2 * TOKENS**2 * WIDTH
TIME = 256 * WIDTH + WIDTH**2
MODULATION = (6 * DEPTH + 2) * WIDTH**2
PATCHES = TOKENS * 4 * 4 * WIDTH
LINEAR = DEPTH * TOKENS * 12 * WIDTH**2
HEAD = TOKENS * WIDTH * 4 * 8
FORWARD = PATCHES + LINEAR + ATTENTION + HEAD + TIME + MODULATION


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=32)
def program(preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def macs(graph: Graph, nodes: list[Node]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


def step(p: Program, *phases: str) -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    return [n for n in p.graph.nodes[section.first : section.last] if not phases or n.phase in phases]


def step_macs(p: Program, phase: str) -> float:
    return macs(p.graph, step(p, phase))


def elements(p: Program, owner: str, role: str) -> int:
    held = {key: p.graph.tensors[t] for key, t in p.weights.items() if key.startswith(owner)}
    return sum(t.elements for t in held.values() if t.role == role)


def forward(depth: int, width: int, patch: int) -> int:
    tokens = (32 // patch) ** 2
    once = 256 * width + width**2 + (6 * depth + 2) * width**2
    each = 4 * patch**2 * width + 12 * depth * width**2 + 8 * patch**2 * width
    return once + tokens * each + depth * 2 * tokens**2 * width


def parameters(depth: int, width: int, patch: int) -> int:
    """Patches, time and label, layers (adaLN, qkv, projection, MLP), last modulation and layer; then the table."""
    layer = (6 + 3 + 1 + 4) * (width**2 + width) + 4 * width**2 + width
    ends = (4 * patch**2 + 1) * width + 257 * width + width**2 + width + 1001 * width
    last = 2 * (width**2 + width) + 8 * patch**2 * (width + 1)
    return ends + depth * layer + last + (32 // patch) ** 2 * width


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


def test_the_file_loads_fast() -> None:
    """Well under 0.3 s; the best of three, as the machine may be busy."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        document = load_document(PATH)
        settle(document, parse_workload(document))
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3


@pytest.mark.parametrize("preset", CONFIGURATIONS)
@pytest.mark.parametrize("form", ["implicit", "dot"])
def test_parameters(preset: str, form: str) -> None:
    depth, width, patch, expected, _ = CONFIGURATIONS[preset]
    p = program(preset, form=form)
    owner = "field." if form == "implicit" else "energy."
    table = elements(p, f"{owner}net.positions", "buffer")
    assert elements(p, owner, "weight") + table == parameters(depth, width, patch) == expected
    assert table == (32 // patch) ** 2 * width


@pytest.mark.parametrize("preset", CONFIGURATIONS)
def test_products_of_a_forward(preset: str) -> None:
    """To the last multiply-add, two rows with guidance."""
    depth, width, patch, _, giga = CONFIGURATIONS[preset]
    p = program(preset, guidance=4.0)
    assert step_macs(p, "forward") == 2 * forward(depth, width, patch)
    assert forward(depth, width, patch) / 1e9 == pytest.approx(giga, abs=0.005)


def test_a_row_of_the_largest() -> None:
    assert forward(DEPTH, WIDTH, 2) == FORWARD
    assert pytest.approx(114.4, abs=0.05) == (FORWARD - ATTENTION) / 1e9
    assert pytest.approx(4.23, abs=0.005) == ATTENTION / 1e9


@pytest.mark.parametrize("form", ["dot", "mean", "l2"])
def test_the_input_gradient(form: str) -> None:
    """Each linear layer once, each attention product twice, nothing of the conditioning: 122.6 G a row."""
    p = program(form=form, guidance=1)
    backward = FORWARD - TIME - MODULATION + ATTENTION
    assert step_macs(p, "backward-input") == backward
    assert backward / 1e9 == pytest.approx(122.6, abs=0.05)
    assert 2 * (step_macs(p, "forward") + backward) / 1e9 == pytest.approx(482, abs=0.5)


def test_the_implicit_form_has_no_backward() -> None:
    p = program("implicit")
    assert step(p, "backward-input") == []
    assert step_macs(p, "forward") == 2 * FORWARD
    assert sum(n.op == "attention" for n in step(p)) == DEPTH
    assert not any(n.op in ("softmax", "matmul") for n in step(p))


def test_attention_of_the_explicit_form_is_written_out() -> None:
    """The scores, 4.2 MB in fp32 a row and layer, are written and read by softmax and the second product."""
    p = program(guidance=1)
    scores = [n for n in step(p, "forward") if n.name.endswith(".scores")]
    assert len(scores) == DEPTH and not any(n.op == "attention" for n in p.graph.nodes)
    assert {4 * p.graph.tensors[n.outputs[0]].elements for n in scores} == {4 * 16 * TOKENS**2}
    assert pytest.approx(4.2e6, rel=2e-3) == 4 * 16 * TOKENS**2


@pytest.mark.parametrize(("form", "tera"), [("implicit", 59.1), ("dot", 120)])
def test_an_inference(form: str, tera: float) -> None:
    """249 evaluations, one a step; guidance doubles the rows and with them every product."""
    one, two = program(form=form, guidance=1), program(form=form)
    for p in (one, two):
        assert sum(s.repeat for s in p.sections if s.label == "step") == 249
        assert sum(n.name.endswith("net.patches") for n in step(p)) == 1
    flops = 249 * 2 * macs(one.graph, step(one))
    assert flops / 1e12 == pytest.approx(tera, rel=2e-3)
    assert macs(two.graph, step(two)) == 2 * macs(one.graph, step(one))
    rows = {p.graph.tensors[n.inputs[0]].shape for p in (one, two) for n in step(p) if n.name.endswith("net.patches")}
    assert rows == {(1, 4, 32, 32), (2, 4, 32, 32)}


def test_the_intensity_of_one_guided_image() -> None:
    """Forward FLOPs of its two rows per byte of the transformer in fp32: 175.7."""
    assert pytest.approx(175.7, abs=0.05) == 2 * 2 * FORWARD / (4 * 675_129_632)


def test_the_sampling_programs() -> None:
    """Guidance on three of four channels, then the step; Nesterov looks ahead before it; the clock ticks on."""
    own = [[n.op for n in step(program(**s), "update")] for s in ({}, {"guidance": 1}, {"momentum": 0.3})]
    views = {"slice", "reshape"}
    plain, unguided, nesterov = ([op for op in ops if op not in views] for ops in own)
    guidance = ["sub", "scale", "add", "concat", "concat"]
    move = ["scale", "add", "shift"]
    assert plain == ["concat", *guidance, *move]
    assert unguided == move
    assert nesterov == ["scale", "scale", "add", *plain]
    p = program()
    pull = next(n for n in step(p) if n.name.endswith(".pull"))
    assert p.graph.tensors[pull.outputs[0]].shape == (1, 1, 3, 32, 32)
    assert not any(n.phase == "rng" for n in step(p))


@pytest.mark.parametrize("form", ["implicit", "dot"])
def test_hoisting_moves_the_conditioning(form: str) -> None:
    """227.4 M parameters, 33.7 % of the model, leave the step, and so do their products; nothing else does."""
    plain, hoisted = program(form=form), program(form=form, hoisted=True)
    rows, biases = 2, (6 * DEPTH + 2) * WIDTH + 2 * WIDTH
    moved = TIME + MODULATION + biases
    assert step_macs(plain, "forward") - step_macs(hoisted, "forward") == rows * (TIME + MODULATION)
    assert step_macs(plain, "backward-input") == step_macs(hoisted, "backward-input")
    once = hoisted.graph.nodes[hoisted.sections[0].first : hoisted.sections[0].last]
    assert macs(hoisted.graph, [n for n in once if n.branch == "modulations[0]"]) == rows * (TIME + MODULATION)
    weights = [lower(p.graph, step(p), "fp32", cyclic=True).read_weights.sum() for p in (plain, hoisted)]
    # With the weights go the rows of the label table that are looked up.
    assert weights[0] - weights[1] == 4 * (moved + rows * WIDTH)
    owner = "field." if form == "implicit" else "energy."
    whole = moved + 1001 * WIDTH
    assert elements(plain, owner, "weight") - elements(hoisted, owner, "weight") == whole
    assert elements(hoisted, "modulations.", "weight") == whole
    assert moved / 1e6 == pytest.approx(227.4, abs=0.05)
    assert moved / 675_129_632 == pytest.approx(0.337, abs=5e-4)


def test_the_code_conditions_every_step_and_waits_for_it() -> None:
    """The frequencies are copied from the host each time, and the host waits."""
    assert sum(n.op in ("to_device", "synchronise") for n in step(program())) == 2
    assert not any(n.op in ("to_device", "synchronise") for n in step(program(hoisted=True)))


def residual(c_in: int, c_out: int, pixels: int) -> tuple[int, int]:
    """Parameters and multiply-adds: two norms, two convolutions, a shortcut where the width changes."""
    taps = 9 * c_in * c_out + 9 * c_out * c_out + (c_in * c_out if c_in != c_out else 0)
    biases = 2 * c_out + (c_out if c_in != c_out else 0)
    return 2 * c_in + 2 * c_out + taps + biases, pixels * taps


def conv(c_in: int, c_out: int, taps: int, pixels: int) -> tuple[int, int]:
    return (c_in * taps + 1) * c_out, c_in * taps * c_out * pixels


def middle() -> list[tuple[int, int]]:
    attention = (2 * 512 + 4 * 512 * 513, 1024 * 4 * 512**2 + 2 * 1024**2 * 512)
    return [residual(512, 512, 1024), attention, residual(512, 512, 1024)]


def decoder() -> list[tuple[int, int]]:
    parts = [conv(4, 4, 1, 1024), conv(4, 512, 9, 1024), *middle()]
    for c_in, c_out, side in ((512, 512, 32), (512, 512, 64), (512, 256, 128), (256, 128, 256)):
        parts += [residual(c_in, c_out, side**2), *[residual(c_out, c_out, side**2)] * 2]
        parts += [conv(c_out, c_out, 9, 4 * side**2)] if side < 256 else []
    return [*parts, (2 * 128, 0), conv(128, 3, 9, 256**2)]


def encoder() -> list[tuple[int, int]]:
    parts = [conv(3, 128, 9, 256**2)]
    for c_in, c_out, side in ((128, 128, 256), (128, 256, 128), (256, 512, 64), (512, 512, 32)):
        parts += [residual(c_in, c_out, side**2), residual(c_out, c_out, side**2)]
        parts += [conv(c_out, c_out, 9, (side // 2) ** 2)] if side > 32 else []
    return [*parts, *middle(), (2 * 512, 0), conv(512, 8, 9, 1024), conv(8, 8, 1, 1024)]


@pytest.mark.parametrize("preset", ["default", "implicit"])
def test_the_decoder_runs_once(preset: str) -> None:
    """49.49 M parameters and 311.1 G multiply-adds an image, whatever the guidance, after the last step."""
    size, products = (sum(part[i] for part in decoder()) for i in (0, 1))
    p = program(preset, chains=3)
    last = p.sections[-1]
    nodes = p.graph.nodes[last.first : last.last]
    assert (last.label, last.repeat) == ("once", 1)
    assert macs(p.graph, nodes) == 3 * products
    assert elements(p, "decoder.", "weight") == size == 49_490_199
    assert products / 1e9 == pytest.approx(311.1, abs=0.05)
    assert nodes[-1].op == "to_host" and p.graph.tensors[nodes[-1].outputs[0]].shape == (3, 256, 256, 3)


def spans(iteration: Iteration, *names: str) -> float:
    runs = [span for name in names for span in iteration.parts.get(name, [])]
    return sum(macs(iteration.graph, list(iteration.graph.nodes[a:b])) for a, b in runs)


@lru_cache(maxsize=4)
def iteration(form: str, fused: bool) -> Iteration:
    return compose_training(settled(form=form, fused_attention=fused, training_batch=1))


def test_the_encoder_makes_the_data_of_training() -> None:
    size, products = (sum(part[i] for part in encoder()) for i in (0, 1))
    found = iteration("dot", False)
    learned = {t.name: t.elements for t in found.graph.tensors if t.role == "weight"}
    assert spans(found, "data") == products
    assert sum(n for name, n in learned.items() if name.startswith("encoder.")) == size == 34_163_664
    assert products / 1e9 == pytest.approx(136.4, abs=0.05)


@pytest.mark.parametrize("fused", [False, True])
def test_training_of_the_implicit_form(fused: bool) -> None:
    """Forward and a full backward: three times the forward's products, 712 GFLOP an image.

    The first layers of patches and time ask for no gradient of their input; fused attention recomputes its scores.
    """
    found = iteration("implicit", fused)
    unasked, again = PATCHES + 256 * WIDTH, ATTENTION / 2 if fused else 0
    assert spans(found, "forward_positive") == FORWARD
    assert spans(found, "backward_positive") == 2 * FORWARD - unasked + again
    assert 2 * spans(found, "forward_positive", "backward_positive") == pytest.approx(712e9, rel=0.01)
    assert "second_order" not in found.parts


def test_training_of_the_explicit_form() -> None:
    """Of a linear layer six products (forward, input gradient, four back through both), of attention nine.

    The last layer has five, as what its input gradient is given, the sample, is not learned. Patches have five, as no
    gradient reaches the sample. Conditioning has three, time's first layer two.
    """
    found = iteration("dot", False)
    expected = 6 * LINEAR + 9 * ATTENTION + 5 * HEAD + 5 * PATCHES + 3 * (TIME + MODULATION) - 256 * WIDTH
    assert spans(found, "second_order") == expected
    assert set(found.parts) == {"data", "second_order", "update"}


def test_settings_and_tags() -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled().setting(n) for n in names] == [1, 249, 0, 256, 80 * (1_281_167 // 256)]
    assert settled("published").setting("iterations") == 1400 * (1_281_167 // 256)
    assert derive(settled()) == derive(settled("implicit")) == ("mono", "sequential")
