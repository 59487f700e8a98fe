"""EBM-CVG against counts made by instantiating the original code, and against layer formulas (see the workload file).

The networks are compared floor by floor: floor k has images of side 8 · 2^k, four, five or six floors in all.
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Node
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cvg.yaml")
FILE = parse_workload(DOCUMENT)
# Parameters of every block from the first convolution to the last, and MFLOP of it with norms and activations.
TABLES = {
    "clevr": (
        """
        5376 812352 812352 812352 812352 812352 812352 2954112 3543936 2951808 6974976 7748928 6418368 12691584
        13575936 24787968 20066304 20066304 29803392 12506496 11400192 16712256 5904768 5167104 7381248 1587456
        1218432 2030784 1218432 1218432 1218432 10758
        """,
        """
        169.87 21832 21832 5495.1 5458.1 5458.1 1374 7091.3 8301.8 1366.9 3500.7 3897.7 768.07 1563.5 1676.9
        3038.4 2508 2508 7759.7 6335.1 5768.2 17444 13141 11629 31889 11820 8790.2 30591 35160 35160 35160
        380.63
        """,
    ),
    "base": (
        """
        5376 960000 960000 960000 960000 3643392 4233216 4233216 3247104 8008896 8782848 8782848 6861312
        14070144 14954496 14954496 26757120 21444864 21444864 21444864 31772544 13540416 12434112 12434112
        18189120 6594048 5856384 5856384 8365824 1735104 1366080 1366080 1366080 10758
        """,
        """
        42.467 5459.2 5459.2 5459.2 1374.5 7398.2 8608.7 8608.7 1367.6 3729.8 4126.8 4126.8 768.99 1791.8 1905.2
        1905.2 3267.9 2736.3 2736.3 2736.3 7989.4 6564.1 5997.3 5997.3 17674 13448 11936 11936 32198 11821
        8791.3 8791.3 8791.3 95.158
        """,
    ),
    "upsampler": (
        """
        10560 960000 960000 960000 960000 960000 960000 2657280 3247104 3247104 4233216 4233216 3247104 12595200
        14954496 11802624 14954496 14954496 26757120 21444864 21444864 33247488 21444864 21444864 30297600
        7331712 5856384 9103488 4870272 4870272 7379712 1735104 1366080 2326080 1366080 1366080 1366080 10758
        """,
        """
        1359 87339 87339 21983 21835 21835 5496.2 16948 21790 5466.9 8608.7 8608.7 1367.6 5954.1 7163.3 1365.1
        1905.2 1905.2 3267.9 2736.3 2736.3 8178.3 10488 10488 30737 14961 11936 33710 35098 35098 116140 47284
        35164 122380 140650 140650 140650 1522.5
        """,
    ),
    "latent": (
        """
        11840 4801280 4801280 921920 15746560 17384960 3687040 59345920 65899520 14746880 31138560 31138560
        97038080 49164800 49164800 63911680 83925760 83925760 90479360 25989760 21892480 23530880 6953280
        5928640 5928640 12164
        """,
        """
        94.372 54647 54647 1887.4 31667 35027 1887.4 29298 32655 1887.4 3780.5 3780.5 12110 6088.4 6088.4 13638
        41887 41887 67890 52660 44263 70263 72297 63891 63891 111.41
        """,
    ),
}


class Net(NamedTuple):
    """A U-Net: its place, what it belongs to, rows it sees, and multiples of its width from the bottom up."""

    preset: str
    root: str
    branch: str
    rows: int
    multiples: tuple[int, ...]
    deep: bool = False

    @property
    def latent(self) -> bool:
        return self.preset == "stable_diffusion"

    @property
    def film(self) -> bool:
        return self.preset == "glide"


NETS = {
    "clevr": Net("default", "unet.net", "unet[0]", 3, (4, 3, 2, 1, 1)),
    "base": Net("glide", "unet.net", "unet[0]", 3, (4, 3, 2, 1), deep=True),
    "upsampler": Net("glide", "sampler.upsampler.unet", "", 1, (4, 4, 2, 2, 1, 1)),
    "latent": Net("stable_diffusion", "latent_unet.net", "latent_unet[2]", 1, (4, 4, 2, 1)),
}
TEXT = 50257 * 512 + 2 * 128 * 512 + 16 * (12 * 512**2 + 13 * 512) + 2 * 512
CLIP = (49408 + 77) * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768
RELATIONS = (4 + 3 + 9 + 3 + 3) * 153 + 765 * 256 + 256 + 7 * 256 + 768
POSITIONS = 2 * 768 + 768 + 768
TIME = 192 * 768 + 768 * 768 + 2 * 768
TOTALS = {
    "default": {"label": RELATIONS, "unet": 224_978_732 - 202_022},
    "clevr_pos": {"label": POSITIONS, "unet": 224_779_782 - 3_072},
    "glide": {"text": TEXT, "unet": 385_030_726 - TEXT, "sampler": 398_361_286},
    "glide_cached": {"text_once": TEXT, "unet": 385_030_726 - TEXT, "sampler": 398_361_286},
    "stable_diffusion": {"clip": CLIP, "latent_unet": 859_520_964, "decoder": 49_490_199},
}


def settled(preset: str = "default", **values: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, values)


@lru_cache(maxsize=16)
def program(preset: str) -> Program:
    return compose(settled(preset), 1)


def flops_of(composed: Program, node: Node) -> int:
    shapes = [[composed.graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops if node.op in WORK else 0


def parameters(composed: Program) -> Counter[str]:
    """Learned elements by component; `sampler` is the upsampler."""
    count: Counter[str] = Counter()
    for key, number in composed.weights.items():
        tensor = composed.graph.tensors[number]
        if tensor.role == "weight":
            count[key.split(".")[0]] += tensor.elements
    return count


def step(composed: Program) -> list[Node]:
    section = next(s for s in composed.sections if s.label == "step")
    return list(composed.graph.nodes[section.first : section.last])


class Count(NamedTuple):
    """Parameters and products' FLOPs of one row."""

    parameters: int
    flops: int

    def __add__(self, other: "Count") -> "Count":  # type: ignore[override]
        return Count(self.parameters + other.parameters, self.flops + other.flops)


def conv(a: int, b: int, pixels: int, kernel: int = 3) -> Count:
    return Count(kernel**2 * a * b + b, 2 * kernel**2 * a * b * pixels)


def linear(a: int, b: int, rows: int = 1, bias: bool = True) -> Count:
    return Count(a * b + b * bias, 2 * a * b * rows)


def norm(c: int) -> Count:
    return Count(2 * c, 0)


def residual(net: Net, a: int, b: int, pixels: int) -> Count:
    emb = 1280 if net.latent else 768
    total = norm(a) + conv(a, b, pixels) + linear(emb, 2 * b if net.film else b) + norm(b) + conv(b, b, pixels)
    return total + conv(a, b, pixels, 1) if a != b else total


def attention(net: Net, c: int, n: int) -> Count:
    if not net.latent:
        told = 128 if net.film else 0
        text = conv(512, 2 * c, told, 1) if told else Count(0, 0)
        return norm(c) + conv(c, 3 * c, n, 1) + text + Count(0, 4 * n * (n + told) * c) + conv(c, c, n, 1)
    total = norm(c) + conv(c, c, n, 1) + conv(c, c, n, 1)
    for keys, width in ((n, c), (77, 768)):
        total += norm(c) + linear(c, c, n, False) + linear(width, c, keys, False) + linear(width, c, keys, False)
        total += Count(0, 4 * n * keys * c) + linear(c, c, n)
    return total + norm(c) + linear(c, 8 * c, n) + linear(4 * c, c, n)


def blocks(net: Net) -> Iterator[tuple[tuple[str, ...], Count]]:
    """Prefixes of names and counts of every block, down and up again."""
    width = 320 if net.latent else 192
    highest = len(net.multiples) - 1
    top = 8 * 2**highest
    yield (f"{net.root}.conv_in",), conv(4 if net.latent else 6 if highest == 5 else 3, width, top**2)
    yield from floor(net, f"{net.root}.top", highest, width)
    last = f"{net.root}.norm", f"{net.root}.conv_out"
    yield last, norm(width) + conv(width, 4 if net.latent else 6, top**2)


def floor(net: Net, name: str, k: int, above: int) -> Iterator[tuple[tuple[str, ...], Count]]:
    unit, n = (320 if net.latent else 192), (8 * 2**k) ** 2
    c, highest = unit * net.multiples[k], k == len(net.multiples) - 1
    attends = k > 0 if net.latent else k < 3

    def stage(entering: int) -> Count:
        return residual(net, entering, c, n) + (attention(net, c, n) if attends else Count(0, 0))

    skips = [above, *[c] * (3 if net.deep else 2)]
    for i, entering in enumerate(skips[:-1], 1):
        yield (f"{name}.down{i}.",), stage(entering)
    below = c
    if k:
        down = conv(c, c, n // 4) if net.latent else residual(net, c, c, n // 4)
        yield (f"{name}.shrink.",), down
        yield from floor(net, f"{name}.below", k - 1, c)
        below = unit * net.multiples[k - 1]
    else:
        middle = residual(net, c, c, n) + attention(net, c, n) + residual(net, c, c, n)
        yield (f"{name}.middle1.", f"{name}.below."), middle
    for i in range(len(skips) - 1, -1, -1):
        found, names = stage(below + skips[i]), (f"{name}.up{i}.",)
        if i == 0 and not highest:
            found += conv(c, c, 4 * n) if net.latent else residual(net, c, c, 4 * n)
            names = (*names, f"{name}.grow.")
        yield names, found
        below = c


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize("preset", TOTALS)
def test_parameters(preset: str) -> None:
    assert parameters(program(preset)) == TOTALS[preset]


def test_parameters_of_the_conditions() -> None:
    assert (RELATIONS, POSITIONS) == (202_022, 3_072)
    assert TEXT + 512 * 768 + 768 == 76_695_808
    assert round(CLIP / 1e6, 2) == 123.06


@pytest.mark.parametrize("name", NETS)
def test_every_block(name: str) -> None:
    """Parameters as published; FLOPs of the products as derived, and somewhat less than with all operators."""
    net, composed = NETS[name], program(NETS[name].preset)
    published = zip(*(column.split() for column in TABLES[name]), strict=True)
    nodes = [n for n in composed.graph.nodes if n.branch == net.branch]
    for (prefixes, derived), (count, mflop) in zip(blocks(net), published, strict=True):
        held = [number for key, number in composed.weights.items() if key.startswith(prefixes)]
        assert sum(composed.graph.tensors[t].elements for t in held) == derived.parameters == int(count)
        mine = sum(flops_of(composed, n) for n in nodes if n.name.startswith(prefixes))
        assert mine == net.rows * derived.flops
        assert derived.flops / 1e6 * 0.9999 < float(mflop) < derived.flops / 1e6 * 1.19


@pytest.mark.parametrize(("name", "gflop"), [("clevr", 347.62), ("base", 238.29), ("upsampler", 1281.09)])
def test_products_of_a_forward(name: str, gflop: float) -> None:
    """Blocks, time, and the text encoder of 13.42 GFLOP."""
    net, composed = NETS[name], program(NETS[name].preset)
    text = 16 * (128 * 24 * 512**2 + 4 * 128**2 * 512)
    whole = sum(count.flops for _, count in blocks(net)) + 2 * (TIME - 2 * 768)
    whole += text + 2 * 512 * 768 if net.film else 0
    label = 2 * (2 * 765 * 256) if name == "clevr" else 0
    parts = (net.branch, "label[0]", "text[0]") if net.branch else ("",)
    mine = sum(flops_of(composed, n) for n in composed.graph.nodes if n.branch in parts)
    assert mine == net.rows * (whole + label)
    assert round((whole + label) / 1e9, 2) == gflop
    assert round(text / 1e9, 2) == 13.42


def test_products_of_stable_diffusion() -> None:
    """803.27 GFLOP under each of four conditions, one after another; text before and image after them once."""
    composed = program("stable_diffusion")
    each = sum(count.flops for _, count in blocks(NETS["latent"])) + 2 * (320 * 1280 + 1280**2)
    count: Counter[str] = Counter()
    for node in composed.graph.nodes:
        count[node.branch] += flops_of(composed, node)
    assert [count[f"latent_unet[{i}]"] for i in range(4)] == [each] * 4
    assert round(each / 1e9, 2) == 803.27
    assert count["clip[0]"] == 6 * 12 * (77 * 24 * 768**2 + 4 * 77**2 * 768)
    assert count["decoder[0]"] / 1e12 == pytest.approx(2.5, abs=0.05)
    assert {n.branch for n in step(composed) if n.branch} == {f"latent_unet[{i}]" for i in range(4)}


@pytest.mark.parametrize(
    ("preset", "rows", "tflop"),
    [("default", 3, 104), ("clevr_pos", 6, 209), ("glide", 3, 106), ("stable_diffusion", 1, 161)],
)
def test_an_inference(preset: str, rows: int, tflop: float) -> None:
    """Evaluations in all, and TFLOP without Stable Diffusion's text and image."""
    composed = program(preset)
    final = [n for n in step(composed) if n.name.endswith(".net.conv_out")]
    assert [composed.graph.tensors[n.outputs[0]].shape[0] for n in final] == [rows] * len(final)
    assert len(final) == (4 if preset == "stable_diffusion" else 1)
    assert not any(n.phase.startswith("backward") for n in composed.graph.nodes)
    total = sum(
        s.repeat * flops_of(composed, n)
        for s in composed.sections
        for n in composed.graph.nodes[s.first : s.last]
        if not n.branch.startswith(("clip", "decoder"))
    )
    assert round(total / 1e12) == tflop


def test_the_upsampler_has_a_loop_of_its_own() -> None:
    composed = program("glide")
    repeats = [(s.label, s.repeat) for s in composed.sections]
    assert repeats == [("once", 1), ("once", 1), ("step", 100), ("once", 1), ("once", 27), ("once", 1)]
    large = composed.sections[-2]
    nodes = composed.graph.nodes[large.first : large.last]
    assert sum(n.name == "sampler.upsampler.unet.conv_out" for n in nodes) == 1


@pytest.mark.parametrize("preset", ["glide", "glide_cached"])
def test_cached_text_is_once(preset: str) -> None:
    composed = program(preset)
    layers = sum(".text.layer" in n.name and n.name.endswith(".qkv") for n in step(composed))
    assert layers == (0 if preset == "glide_cached" else 16)
    first = composed.graph.nodes[: composed.sections[0].last]
    assert sum(n.name.endswith(".qkv") for n in first) == 16 - layers


def test_what_a_step_asks_of_the_host() -> None:
    """Eight coefficients' tables, levels kept, frequencies and the level are sent; the host waits for masked rows."""
    for preset, masked in (("default", 14), ("clevr_pos", 4), ("glide", 0)):
        nodes = step(program(preset))
        assert sum(n.op == "to_device" for n in nodes) == 8 + 3
        assert sum(n.op == "synchronise" for n in nodes) == 8 + 3 + masked
    latent = step(program("stable_diffusion"))
    assert sum(n.op == "to_host" for n in latent) == 6
    assert not any(n.op in ("to_device", "random_normal") for n in latent)


def test_taxonomy() -> None:
    assert derive(settled()) == ("hetero", "sequential")
    assert derive(settled("stable_diffusion")) == ("hetero", "mixed-parallel")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [1, 100, 0, 16, 740_000]),
        ("clevr_pos", [1, 100, 0, 16, 740_000]),
        ("glide", [1, 100, 0, 16, 0]),
        ("stable_diffusion", [1, 50, 0, 16, 0]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


def test_training() -> None:
    """A row an image: one forward, one backward; every weight is updated. What is pre-trained is not trained."""
    iteration = compose_training(settled())
    assert list(iteration.parts) == ["forward_positive", "backward_positive", "update"]
    assert sum(iteration.graph.tensors[t].elements for t in iteration.weights) == 224_978_732
    ((first, last),) = iteration.parts["forward_positive"]
    last_conv = [n for n in iteration.graph.nodes[first:last] if n.name == "unet.net.conv_out"]
    assert [iteration.graph.tensors[n.outputs[0]].shape for n in last_conv] == [(16, 6, 128, 128)]
    assert sum(n.op == "adam" for n in iteration.graph.nodes) == len(iteration.weights)
    for preset in ("glide", "stable_diffusion"):
        assert not any(n.op == "adam" for n in compose_training(settled(preset)).graph.nodes)
