"""EBM-IGM against what its paper and code say: sizes, products, what flows back to the labels, rows, hoisting."""

from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_igm.yaml")
FILE = parse_workload(DOCUMENT)
Cost = tuple[int, int, int]  # parameters, multiply-adds of a row forward, and back to the label
# Channels, elements of a label, tokens of the context, side of the latent, whether projections are linear.
UNETS = {
    "default": ((128, 256, 512), 2, 1, 8),
    "celeba": ((128, 256, 512), 6, 1, 16),
    "wide": ((256, 512, 768), 2, 1, 8),
    "animals": ((320, 640, 1280), 1024, 77, 64),
}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=16)
def program(preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def macs(graph: Graph, nodes: list[Node] | tuple[Node, ...]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


def step(p: Program, phase: str = "", owner: str = "") -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    nodes = p.graph.nodes[section.first : section.last]
    return [n for n in nodes if n.phase.startswith(phase) and n.name.startswith(owner)]


def step_macs(p: Program, phase: str = "", owner: str = "") -> float:
    return macs(p.graph, step(p, phase, owner))


def parameters(p: Program, owner: str) -> int:
    held = [p.graph.tensors[t] for name, t in p.weights.items() if name.startswith(owner)]
    return sum(t.elements for t in held if t.role == "weight")


def added(*costs: Cost) -> Cost:
    return (sum(c[0] for c in costs), sum(c[1] for c in costs), sum(c[2] for c in costs))


def conv(i: int, o: int, side: int, taps: int = 9) -> Cost:
    """A convolution, `side` that of its result; its input gradient costs what it costs."""
    products = taps * i * o * side * side
    return taps * i * o + o, products, products


def residual(i: int, o: int, side: int, time: int = 0) -> Cost:
    """Two norms, two convolutions, a shortcut where the width changes, the level's shift, which does not lead back."""
    shift = (time * o + o, time * o, 0) if time else (0, 0, 0)
    shortcut = conv(i, o, side, 1) if i != o else (0, 0, 0)
    return added((2 * i + 2 * o, 0, 0), conv(i, o, side), conv(o, o, side), shortcut, shift)


def linear(i: int, o: int, rows: int, bias: bool = True) -> Cost:
    return i * o + bias * o, rows * i * o, rows * i * o


def attend(w: int, t: int, given: int, keys: int) -> Cost:
    """q, k and v without bias, the two products (five in the kernel that goes back), a projection."""
    pairs = (0, 2 * t * keys * w, 5 * t * keys * w)
    kv = linear(given, w, keys, False)
    return added(linear(w, w, t, False), kv, kv, pairs, linear(w, w, t))


def transformer(w: int, s: int, label: int, context: int) -> Cost:
    """Norms, projections at both ends, self- and cross-attention, a gated MLP."""
    t = s * s
    ends = added(conv(w, w, s, 1), conv(w, w, s, 1), (8 * w, 0, 0))
    mlp = added(linear(w, 8 * w, t), linear(4 * w, w, t))
    return added(ends, attend(w, t, w, t), attend(w, t, label, context), mlp)


def unet(preset: str) -> dict[str, Cost]:
    """Every block by its name in the file, with what leads back to the label."""
    (a, b, c), label, context, side = UNETS[preset]
    time = 4 * a

    def stage(i: int, o: int, s: int) -> Cost:
        return added(residual(i, o, s, time), transformer(o, s, label, context))

    half, quarter, least = side // 2, side // 4, side // 8
    return {
        "time": (*added(linear(a, time, 1), linear(time, time, 1))[:2], 0),
        "conv_in": (*conv(4, a, side)[:2], 0),
        # Back through the first stage: from its end to the first cross-attention's keys and values.
        "d0a": (*stage(a, a, side)[:2], first_stage(a, side, label, context)),
        "d0b": stage(a, a, side),
        "d0": conv(a, a, half),
        "d1a": stage(a, b, half),
        "d1b": stage(b, b, half),
        "d1": conv(b, b, quarter),
        "d2a": stage(b, c, quarter),
        "d2b": stage(c, c, quarter),
        "d2": conv(c, c, least),
        "d3a": residual(c, c, least, time),
        "d3b": residual(c, c, least, time),
        "mid_a": stage(c, c, least),
        "mid_b": residual(c, c, least, time),
        **{f"u0{x}": residual(2 * c, c, least, time) for x in "abc"},
        "u0": conv(c, c, quarter),
        "u1a": stage(2 * c, c, quarter),
        "u1b": stage(2 * c, c, quarter),
        "u1c": stage(c + b, c, quarter),
        "u1": conv(c, c, half),
        "u2a": stage(c + b, b, half),
        "u2b": stage(2 * b, b, half),
        "u2c": stage(b + a, b, half),
        "u2": conv(b, b, side),
        "u3a": stage(b + a, a, side),
        "u3b": stage(2 * a, a, side),
        "u3c": stage(2 * a, a, side),
        "norm_out": (2 * a, 0, 0),
        "conv_out": conv(a, 4, side),
    }


def first_stage(w: int, s: int, label: int, context: int) -> int:
    t = s * s
    after = added(conv(w, w, s, 1), linear(w, 8 * w, t), linear(4 * w, w, t), linear(w, w, t))[2]
    return after + 5 * t * context * w + 2 * linear(label, w, context, False)[2]


def whole(preset: str) -> Cost:
    return added(*unet(preset).values())


def encoder(image: int) -> list[Cost]:
    parts = [conv(3, 128, image)]
    for level, (i, o) in enumerate(((128, 128), (128, 256), (256, 512), (512, 512))):
        s = image >> level
        parts += [residual(i, o, s), residual(o, o, s)] + ([conv(o, o, s // 2)] if level < 3 else [])
    s = image // 8
    middle = added((1024, 0, 0), *[linear(512, 512, s * s)] * 4, (0, 2 * s**4 * 512, 0))
    parts += [residual(512, 512, s), middle, residual(512, 512, s)]
    return [*parts, (1024, 0, 0), conv(512, 8, s), conv(8, 8, s, 1)]


VAE = added(*encoder(64))


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize(
    ("preset", "size", "millions"),
    [
        ("default", 134_588_292, 853.723),
        ("celeba", 134_628_228, 3473.275),
        ("wide", 342_708_484, 2823.596),
        ("animals", 865_910_724, 402.1e3),
    ],
)
def test_the_unet(preset: str, size: int, millions: float) -> None:
    """Parameters to the last one; multiply-adds of a row."""
    p, (held, forward, _) = program(preset), whole(preset)
    owner = "energy" if preset in ("default", "wide") else "errors"
    assert parameters(p, owner) == held == size
    assert forward / 1e6 == pytest.approx(millions, abs=0.0005 if millions < 1e5 else 50)
    rows = {"celeba": 24, "animals": 6}.get(preset, 5 + 1)
    assert step_macs(p, "forward", owner) == rows * forward


@pytest.mark.parametrize("preset", ["default", "celeba"])
def test_every_block_of_the_unet(preset: str) -> None:
    p = program(preset)
    net = "energy.composed.net.unet" if preset == "default" else "errors.net.unet"
    for name, (held, forward, _) in unet(preset).items():
        nodes = [n for n in step(p, "forward") if n.name == f"{net}.{name}" or n.name.startswith(f"{net}.{name}.")]
        assert nodes, name
        assert macs(p.graph, nodes) == forward * (6 if preset == "default" else 24), name
        exact = [t for key, t in p.weights.items() if key.startswith(f"{net}.{name}.")]
        assert sum(p.graph.tensors[t].elements for t in exact if p.graph.tensors[t].role == "weight") == held, name


@pytest.mark.parametrize(
    ("name", "held", "millions"),
    [
        ("d0a", 361_344 + 330_880, 18.940 + 22.037),
        ("d1a", 1_050_368 + 1_317_120, 14.811 + 21.112),
        ("d2b", 4_984_320 + 5_255_680, 19.137 + 20.994),
        ("mid_a", 4_984_320 + 5_255_680, 4.981 + 5.247),
        ("u0a", 7_869_440, 7.864),
        ("u1c", 6_558_208 + 5_255_680, 25.428 + 20.994),
        ("u1", 2_359_808, 37.749),
        ("u2a", 2_690_048 + 1_317_120, 41.026 + 21.112),
        ("u3c", 541_952 + 330_880, 30.474 + 22.037),
        ("conv_out", 4_612, 0.295),
    ],
)
def test_published_blocks(name: str, held: int, millions: float) -> None:
    found = unet("default")[name]
    assert found[0] == held
    assert found[1] / 1e6 == pytest.approx(millions, abs=0.0011)


@pytest.mark.parametrize(("image", "giga"), [(64, 8.460), (128, 33.89), (512, 558.3)])
def test_the_vae(image: int, giga: float) -> None:
    held, forward, _ = added(*encoder(image))
    p = program(image=image) if image < 512 else program("animals")
    assert parameters(p, "latent") == held == 34_163_664
    assert step_macs(p, "forward", "latent") == forward
    assert forward / 1e9 == pytest.approx(giga, abs=0.05 if image == 512 else 0.005)


@pytest.mark.parametrize(
    ("preset", "objects", "published"), [("clevr3", 3, 14.36), ("clevr", 5, 17.73), ("clevr8", 8, 22.78)]
)
def test_a_step(preset: str, objects: int, published: float) -> None:
    """One image, objects + 1 rows forward, objects rows back.

    The published sums take all products but conv_in, the first residual block and the level's to lead back, attention
    like any other; here self-attention and queries of the first transformer do not, and attention costs five for two.
    """
    p = program(preset)
    _, forward, back = whole("default")
    assert step_macs(p, "forward") == VAE[1] + (objects + 1) * forward
    assert step_macs(p, "backward-input") == objects * back
    assert step_macs(p) / 1e9 == pytest.approx(published, rel=5e-3)
    assert sum(s.repeat for s in p.sections if s.label == "step") == 2000
    assert back / forward == pytest.approx(0.972, abs=0.01)


def test_what_flows_back_ends_at_the_first_cross_attention() -> None:
    names = {n.name.split("'")[0] for n in step(program(), "backward-input") if n.op != "add"}
    first = {name for name in names if name.startswith("energy.composed.net.unet.d0a.")}
    assert "energy.composed.net.unet.d0a.attn.cross.k" in first
    assert not any(".res." in name or ".self." in name or ".norm1" in name for name in first)
    assert not any(".time" in name or "conv_in" in name or "latent" in name for name in names)


def test_the_prediction_without_a_label() -> None:
    """One row of the same weights, which nothing flows back through."""
    both, one = program(), program(unconditional=False)
    forward = whole("default")[1]
    assert step_macs(both) - step_macs(one) == forward
    assert parameters(both, "energy") == parameters(one, "energy")
    assert step_macs(both, "backward-input") == step_macs(one, "backward-input")


def test_hoisting_encodes_once() -> None:
    """71, 62 and 52 % of the forward's products; the latent is still drawn anew."""
    for objects, share in ((3, 0.71), (5, 0.62), (8, 0.52)):
        p = program(objects=objects)
        assert VAE[1] / step_macs(p, "forward") == pytest.approx(share, abs=0.005)
    plain, hoisted = program(), program("hoisted")
    assert step_macs(plain) - step_macs(hoisted) == VAE[1]
    first = hoisted.sections[0]
    assert macs(hoisted.graph, hoisted.graph.nodes[first.first : first.last]) == VAE[1]
    draws = [sum(n.op == "random_normal" for n in step(p)) for p in (plain, hoisted)]
    assert draws == [2, 2]  # the latent and its noise


@pytest.mark.parametrize(("preset", "calls", "tera"), [("celeba", 1, 117.2e-3), ("animals", 6, 2.97)])
def test_labels_from_a_finite_set(preset: str, calls: int, tera: float) -> None:
    """Forwards alone: 24 rows in one call, or six calls; errors of all combinations are added up."""
    p = program(preset)
    assert step(p, "backward") == []
    assert sum(n.name.endswith("unet.conv_out") and n.op == "conv2d" for n in step(p)) == calls
    assert step_macs(p) / 1e12 == pytest.approx(tera, rel=2e-3)
    assert sum(s.repeat for s in p.sections if s.label == "step") == 1000
    combinations = {"celeba": 8, "animals": 3}[preset]
    assert sum(n.op == "assign" for n in step(p)) == combinations
    assert [n.op for n in step(p, "update")] == ["add"]


def test_the_text_encoder_runs_once() -> None:
    p, t, w = program("animals"), 77, 1024
    layer = 4 * (w * w + w) + 8 * w * w + 5 * w + 4 * w
    assert parameters(p, "text") == 49_408 * w + t * w + 23 * layer + 2 * w
    assert parameters(p, "text") / 1e6 == pytest.approx(340.4, abs=0.05)
    first = p.sections[0]
    once = macs(p.graph, p.graph.nodes[first.first : first.last])
    assert once == 3 * 23 * (t * 12 * w * w + 2 * t * t * w)


def test_the_host_waits_thrice_a_step() -> None:
    """For the schedule's table, the empty label and the number of objects; less where they are not needed."""
    waits = [
        sum(n.op in ("synchronise", "to_host") for n in step(p))
        for p in (program(), program(unconditional=False), program("celeba"))
    ]
    assert waits == [3, 2, 1]


def spans(found: Iteration, name: str) -> float:
    return sum(macs(found.graph, found.graph.nodes[a:b]) for a, b in found.parts[name])


@pytest.mark.parametrize(("preset", "rows", "image"), [("default", 6, 64), ("clevr3", 6, 64), ("celeba", 3, 128)])
def test_training(preset: str, rows: int, image: int) -> None:
    """Five rows and one without a label, or three; a frozen encoder; U-Net forward, twice that back (attention 5/2)."""
    found = compose_training(settled(preset, training_batch=1))
    held, forward, _ = whole("celeba" if preset == "celeba" else "default")
    assert set(found.parts) == {"forward_positive", "backward_positive", "update"}
    assert spans(found, "forward_positive") == added(*encoder(image))[1] + rows * forward
    assert spans(found, "backward_positive") / (rows * forward) == pytest.approx(2, abs=0.02)
    assert sum(found.graph.tensors[t].elements for t in found.weights) == held


def test_settings_and_tags() -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled().setting(n) for n in names] == [1, 2000, 0, 128, 80_000]
    assert [settled("celeba").setting(n) for n in names] == [1, 1000, 0, 64, 30_000]
    assert derive(settled()) == ("hetero", "sequential")
