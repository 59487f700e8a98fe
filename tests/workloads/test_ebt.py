"""EBT against what its paper and code say: sizes, products, evaluations, candidates, training."""

import time
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

PATH = Path(__file__).parents[2] / "workload_graphs" / "ebt.yaml"
DOCUMENT = load_document(PATH)
FILE = parse_workload(DOCUMENT)
V, S = 50_277, 256
OBSERVED, ROWS = S + 1, 2 * S + 1  # with the step embedding
# Depth, width, heads.
SIZES = {
    "xxs": (6, 384, 6),
    "xs": (12, 384, 6),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (24, 1536, 16),
    "xl": (24, 2048, 32),
}
# As published or computed: parameters of the blocks and all in M, MB in fp32, GMACs of body, attention and vocabulary,
# GFLOPs of a forward and of a step.
TEXT = {
    "xxs": (6.19, 44.81, 179, 3.18, 0.61, 4.94, 17.45, 36.12),
    "xs": (12.39, 51.01, 204, 6.35, 1.22, 4.94, 25.02, 52.48),
    "small": (49.5, 126.8, 507, 25.4, 2.43, 9.88, 75.5, 155.8),
    "medium": (176.2, 279.2, 1117, 90.4, 6.48, 13.2, 220.1, 453.1),
    "large": (396.4, 550.9, 2204, 203, 9.72, 19.8, 465.6, 950.7),
    "xl": (704.6, 910.7, 3643, 361, 13.0, 26.4, 801.6, 1629),
}
# Parameters in M, MB in fp32, GMACs and GFLOPs of a forward.
IMAGE = {
    "xxs": (11.24, 45, 0.383, 0.766),
    "small": (86.8, 347, 2.87, 5.75),
    "medium": (305.2, 1221, 10.07, 20.1),
    "large": (685.8, 2743, 22.47, 44.93),
    "xl": (1218.5, 4874, 39.8, 79.5),
}


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=64)
def program(preset: str = "default", **overrides: object) -> Program:
    return compose(settled(preset, **overrides), 1)


@lru_cache(maxsize=8)
def iteration(preset: str = "default", **overrides: object) -> Iteration:
    return compose_training(settled(preset, training_batch=1, **overrides))


def macs(graph: Graph, nodes: list[Node] | tuple[Node, ...]) -> dict[str, int]:
    """Multiply-adds by node."""
    found: dict[str, int] = {}
    for node in nodes:
        if node.op in WORK:
            shapes = ([graph.tensors[t].shape for t in tensors] for tensors in (node.inputs, node.outputs))
            products = WORK[node.op](*shapes, dict(node.attributes)).product_flops // 2
            if products:
                found[node.name] = found.get(node.name, 0) + products
    return found


def step(p: Program, phase: str = "") -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    return [n for n in p.graph.nodes[section.first : section.last] if phase in ("", n.phase)]


def once(p: Program) -> list[tuple[int, list[Node]]]:
    """Sections outside the steps, with how often each runs."""
    return [(s.repeat, list(p.graph.nodes[s.first : s.last])) for s in p.sections if s.label == "once"]


def inference(p: Program) -> int:
    """Multiply-adds of a whole inference."""
    return sum(s.repeat * sum(macs(p.graph, p.graph.nodes[s.first : s.last]).values()) for s in p.sections)


def learned(p: Program, owner: str) -> int:
    held = [p.graph.tensors[t] for key, t in p.weights.items() if key.startswith(f"{owner}.")]
    return sum(t.elements for t in held if t.role == "weight")


def of_text(depth: int, width: int) -> tuple[int, int, int, int]:
    """Multiply-adds of a forward: blocks, attention of both streams, vocabulary, head."""
    attention = 2 * depth * width * (OBSERVED**2 + S * OBSERVED)
    return 7 * width**2 * depth * ROWS, attention, S * V * width, 2 * S * width


def of_image(depth: int, width: int) -> dict[str, int]:
    """Multiply-adds of a forward: patches, modulations, linears of the blocks, attention, head."""
    return {
        "patches": 64 * 3 * 16**2 * width,
        "modulations": (6 * depth + 2) * width**2,
        "linears": 64 * 6 * depth * width**2,
        "attention": depth * 2 * 64**2 * width,
        "head": 64 * width,
    }


def printed(value: float, text: float) -> bool:
    """Whether a value rounds to what is printed, give or take one of the last digit."""
    digits = len(f"{text:g}".partition(".")[2])
    return abs(value - text) <= 1.0001 * 10**-digits


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


@pytest.mark.parametrize("size", TEXT)
def test_parameters_of_the_text_models(size: str) -> None:
    """Seven matrices a block, gains, two tables of the vocabulary, the head, a row for each landscape; a step size."""
    depth, width, heads = SIZES[size]
    blocks, rest = 7 * width**2 * depth, 2 * V * width + (2 * depth + 1) * width + width + 2 * width
    p = program(f"text_{size}")
    assert learned(p, "text") == blocks + rest
    assert learned(p, "sampler") == 1 and learned(program("s2"), "sampler") == 0
    assert learned(program("s2"), "text") == learned(program(), "text") - 384
    body, total, megabytes, *_ = TEXT[size]
    assert printed(blocks / 1e6, body) and printed((blocks + rest) / 1e6, total)
    assert printed(4 * (blocks + rest) / 1e6, megabytes)
    assert settled(f"text_{size}").parameters["heads"] == heads


@pytest.mark.parametrize("size", TEXT)
def test_products_of_the_text_models(size: str) -> None:
    """Backward every linear layer once, also in the observed stream, and every product of attention twice."""
    depth, width, _ = SIZES[size]
    p = program(f"text_{size}")
    body, attention, vocabulary, head = of_text(depth, width)
    found = macs(p.graph, step(p, "forward"))
    in_attention = sum(n for name, n in found.items() if ".observed." in name or ".candidates." in name)
    assert (in_attention, found["text.vocab_to_embed"], found["text.head"]) == (attention, vocabulary, head)
    assert sum(found.values()) == body + attention + vocabulary + head
    backward = sum(macs(p.graph, step(p, "backward-input")).values())
    assert backward == body + 2 * attention + vocabulary + head
    _, _, _, *giga, forward, whole = TEXT[size]
    assert all(printed(n / 1e9, g) for n, g in zip((body, attention, vocabulary), giga, strict=True))
    assert printed(2 * sum(found.values()) / 1e9, forward)
    assert printed(2 * (sum(found.values()) + backward) / 1e9, whole)


@pytest.mark.parametrize("size", IMAGE)
def test_the_image_models(size: str) -> None:
    depth, width, _ = SIZES[size]
    p = program(f"image_{size}")
    block = 12 * (width**2 + width)  # adaLN 6, qkv 3, projection 1, MLP 2
    ends = (3 * 16**2 + 1) * width + width + 2 * (width**2 + width) + width
    assert learned(p, "image") == depth * block + ends
    positions = p.graph.tensors[p.weights["image.positions"]]
    assert positions.role == "buffer" and positions.elements == 64 * width
    parts = of_image(depth, width)
    assert sum(macs(p.graph, step(p, "forward")).values()) == sum(parts.values())
    million, megabytes, giga, gflops = IMAGE[size]
    assert printed(learned(p, "image") / 1e6, million) and printed(4 * learned(p, "image") / 1e6, megabytes)
    assert printed(sum(parts.values()) / 1e9, giga) and printed(2 * sum(parts.values()) / 1e9, gflops)


def test_layers_of_the_large_image_model() -> None:
    """Parameters and millions of multiply-adds, layer by layer."""
    p = program("image_large")
    sizes = {
        "patches": (1_181_184, 75.5),
        "condition": (1_536, 0),
        "block0.adaln.linear": (14_164_992, 14.2),
        "block0.attention.qkv": (7_082_496, 453.0),
        "block0.attention.proj": (2_360_832, 151.0),
        "block0.fc1": (2_360_832, 151.0),
        "block0.fc2": (2_360_832, 151.0),
        "adaln.linear": (4_721_664, 4.7),
        "head": (1_536, 0.1),
    }
    found = macs(p.graph, step(p, "forward"))
    for layer, (elements, millions) in sizes.items():
        assert learned(p, f"image.{layer}") == elements
        assert printed(found.get(f"image.{layer}", 0) / 1e6, millions)
    assert learned(p, "image.block0") == 28_329_984
    scores = found["image.block0.attention.scores"]
    assert printed(2 * scores / 1e6, 12.6)


def test_a_step_of_the_large_image_model() -> None:
    """The gradient goes back to the image alone; with what would go back to the condition a step has 90.5 GFLOPs."""
    p, parts = program("image_large"), of_image(*SIZES["large"][:2])
    backward = sum(macs(p.graph, step(p, "backward-input")).values())
    assert backward == sum(parts.values()) + parts["attention"] - parts["modulations"]
    assert printed(2 * (sum(parts.values()) + backward + parts["modulations"]) / 1e9, 90.5)


# GFLOPs of an inference by candidates and steps of each.
COSTS = {
    "xxs": {(1, 2): 89.7, (1, 3): 126, (2, 3): 252, (5, 3): 629, (10, 3): 1258, (1, 12): 451},
    "small": {(1, 2): 387, (1, 3): 543, (2, 3): 1086, (5, 3): 2714, (10, 3): 5428, (1, 12): 1945},
    "large": {(1, 2): 2367, (10, 3): 33179, (1, 12): 11875},
    "xl": {(1, 3): 5689, (5, 3): 28445},
}


@pytest.mark.parametrize(
    ("size", "candidates", "each", "giga"), [(s, *mk, g) for s, c in COSTS.items() for mk, g in c.items()]
)
def test_products_of_an_inference(size: str, candidates: int, each: int, giga: float) -> None:
    """Steps, and one forward more for every candidate."""
    p = program(f"text_{size}", candidates=candidates, steps=candidates * each)
    depth, width, _ = SIZES[size]
    body, attention, vocabulary, head = of_text(depth, width)
    forward, backward = body + attention + vocabulary + head, body + 2 * attention + vocabulary + head
    assert inference(p) == candidates * (each * (forward + backward) + forward)
    assert printed(2 * inference(p) / 1e9, giga)


def test_an_image_in_three_steps() -> None:
    """271 GFLOPs with what would go back to the condition; no forward after them."""
    p, parts = program("image_large"), of_image(*SIZES["large"][:2])
    assert inference(p) == 3 * sum(macs(p.graph, step(p)).values())
    assert printed(2 * (inference(p) + 3 * parts["modulations"]) / 1e9, 271)
    assert sum(s.repeat for s in p.sections if s.label == "step") == 3


def test_what_a_step_does_in_the_vocabulary() -> None:
    """12.87 M numbers, 51.5 MB, in noise, softmax, gradient and update; advanced inference looks for no NaN."""
    p, plain = program(), program("plain")
    own = [n for n in step(p) if n.name.startswith("sampler.")]
    assert [n.op for n in own] == ["random_normal", "mul", "add", "softmax", "mul", "sub"]
    assert {p.graph.tensors[n.outputs[0]].elements for n in own} == {S * V}
    assert pytest.approx(51.5e6, rel=1e-3) == 4 * S * V
    own = [n for n in step(plain) if n.name.startswith("sampler.")]
    looked = ["equal", "reduce_min", "to_host", "abs", "equal", "reduce_max", "to_host"]
    assert [n.op for n in own] == ["softmax", *looked, "mul", "sub"]
    with_noise = [n.op for n in step(program("s2", advanced=False)) if n.name.startswith("sampler.")]
    assert with_noise == ["random_normal", "mul", "add", "softmax", *looked, "mul", "sub"]
    assert [n.op for n in step(program("image_xxs")) if n.name.startswith("sampler.")] == [*looked, "mul", "sub"]


def test_observed_tokens_are_looked_up_once() -> None:
    p = program()
    places = [n for _, nodes in once(p) for n in nodes if n.name == "text.observed"]
    assert len(places) == 1 and not any(n.name == "text.observed" for n in step(p))
    assert sum(n.name == "text.step" for n in step(p)) == 1


def test_candidates() -> None:
    """Each has its steps and a forward; their states are joined after each, and the best is taken by position."""
    p = program("best_of_5")
    assert sum(s.repeat for s in p.sections if s.label == "step") == 15
    forwards = [times for times, nodes in once(p) if any(n.name == "text.vocab_to_embed" for n in nodes)]
    assert forwards == [5]
    joined = [
        (times, n) for times, nodes in once(p) for n in nodes if n.op == "concat" and n.name.startswith("sampler")
    ]
    # Of K + 1 states those of 2, 3, … M candidates are written.
    written = sum(times * p.graph.tensors[n.outputs[0]].elements for times, n in joined)
    assert written == (3 + 1) * sum(range(2, 5 + 1)) * S * V
    ops = [n.op for _, nodes in once(p) for n in nodes]
    assert ops.count("argmin") == 1 and ops.count("gather") == 1 + SIZES["xxs"][0]
    drawn = sum(
        p.graph.tensors[n.outputs[0]].elements for _, nodes in once(p) for n in nodes if n.op == "random_normal"
    )
    assert drawn == (1 + 5) * S * V
    assert p.graph.tensors[p.graph.results[0]].shape == (1, S, V)


@pytest.mark.parametrize(("preset", "giga"), [("text_xxs", 217), ("text_small", 935), ("text_large", 5704)])
def test_training_of_s1(preset: str, giga: float) -> None:
    """Of a linear layer six products, of attention nine, at each of two steps.

    The vocabulary's has five, as no gradient reaches the state, and the head three, as the energy is not in the loss.
    With the sixth, which the code computes and does not use, it is the published count.
    """
    depth, width, _ = SIZES[preset.removeprefix("text_")]
    body, attention, vocabulary, head = of_text(depth, width)
    found = iteration(preset)
    nodes = [n for first, last in found.parts["second_order"] for n in found.graph.nodes[first:last]]
    total = sum(macs(found.graph, nodes).values())
    assert total == 2 * (6 * body + 9 * attention + 5 * vocabulary + 3 * head)
    assert printed(2 * (total + 2 * vocabulary + 2 * 3 * head) / 1e9, giga)
    assert len(found.parts["second_order"]) == 4 and set(found.parts) == {"data", "second_order", "update"}


def test_training_of_s2_goes_back_through_one_step() -> None:
    """163 GFLOPs a sequence, in the mean over two and three steps."""
    found = iteration("s2")
    nodes = [n for first, last in found.parts["second_order"] for n in found.graph.nodes[first:last]]
    body, attention, vocabulary, head = of_text(*SIZES["xxs"][:2])
    last_step = sum(macs(found.graph, nodes).values())
    assert last_step == 6 * body + 9 * attention + 5 * vocabulary + 3 * head
    sampled = sum(macs(program("s2").graph, step(program("s2"))).values())
    assert printed(2 * (1.5 * sampled + last_step + vocabulary) / 1e9, 163)


def test_training_of_the_large_image_model() -> None:
    """Six and nine as in the text model; five of the patches, three of the modulations, which no gradient passes twice.

    271 GFLOPs with six of all.
    """
    found = iteration("image_large")
    nodes = [n for first, last in found.parts["second_order"] for n in found.graph.nodes[first:last]]
    parts = of_image(*SIZES["large"][:2])
    saved = parts["patches"] + 3 * parts["modulations"] + 3 * parts["head"]
    total = sum(macs(found.graph, nodes).values())
    assert total == 6 * sum(parts.values()) + 3 * parts["attention"] - saved
    assert printed(2 * (total + saved) / 1e9, 271)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [8, 2, 2, 32, 105_000]),
        ("text_xs", [8, 2, 2, 46, 105_000]),
        ("text_large", [8, 2, 2, 256, 105_000]),
        ("best_of_10", [8, 30, 2, 32, 105_000]),
        ("s2", [8, 2, 3, 128 * 3 // 2, 1_000_000]),
        ("image_large", [128, 3, 1, 128, 100_000]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


@pytest.mark.parametrize("preset", ["default", "image_large", "best_of_10"])
def test_tags(preset: str) -> None:
    assert derive(settled(preset)) == ("mono", "sequential")
