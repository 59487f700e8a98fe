"""EBM-CVR against counts made by instantiating the original code (arXiv 2111.09297, see the workload file)."""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

import ebmsim
from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

FILE = Path(ebmsim.__file__).parents[1] / "workload_graphs" / "ebm_cvr.yaml"
DOCUMENT = load_document(FILE)
PARSED = parse_workload(DOCUMENT)
# Products of the spectral norm: no chain axis, and not in the published-code counts of convolutions and products.
SPECTRAL = ("norm_matvec", "norm_dot")
CNNS = ("main", "mid", "small")
# (f, condition): parameters of main, mid, small, and of all with the embedder; None where only a rounded one is known.
PARAMETERS = {
    (128, "emb"): (32008898, 11549890, 4797730, 48525862),
    (128, "clip"): (28.863, 9.977, 4.011, 42852038),
    (128, "clip_all"): (23.620, 7.356, 2.701, 33676454),
    (64, "emb"): (11.155, 4.464, 1.988, 17776598),
    (64, "clip"): (9.582, 3.678, 1.595, 14855286),
    (64, "clip_all"): (6.960, 2.367, 0.940, 10267222),
}
# GFLOP of one image and one relation, convolutions and matrix products: main, mid, small and their sum.
FORWARD = {
    (128, "emb"): (46.813, 9.784, 2.006, 58.603),
    (128, "clip"): (46.806, 9.781, 2.004, 58.592),
    (128, "clip_all"): (46.796, 9.776, 2.002, 58.574),
    (64, "emb"): (11.889, 2.466, 0.510, 14.864),
    (64, "clip"): (11.886, 2.464, 0.509, 14.859),
    (64, "clip_all"): (11.880, 2.462, 0.508, 14.850),
}
BACKWARD = {128: (47.391, 9.810, 2.019, 59.220), 64: (12.178, 2.479, 0.516, 15.173)}
WIDTH = {"emb": 1536, "clip": 1152, "clip_all": 512}
# A network as stages of residual blocks: (side, channels, channels after halving or 0). Sides are for image 128.
BLOCKS = {
    "main": (
        [(128, 1, 0), (128, 1, 1), (64, 1, 0), (64, 1, 2), (32, 2, 0), (32, 2, 4), (16, 4, 0), (16, 4, 8)],
        (32, 2),
        [],
    ),
    "mid": ([(64, 1, 0), (64, 1, 1), (32, 1, 0), (32, 1, 2), (16, 2, 0), (16, 2, 4)], (16, 2), [64]),
    "small": ([(32, 1, 0), (32, 1, 1), (16, 1, 0), (16, 1, 2)], (16, 1), [64, 32]),
}


def workload(preset: str = "", **values: object) -> Workload:
    return settle(DOCUMENT, PARSED, preset, values)


@lru_cache(maxsize=16)
def program(chains: int = 1, preset: str = "", **values: object) -> Program:
    return compose(workload(preset, **values), chains)


def parameters(composed: Program) -> Counter[str]:
    """Learned elements by component."""
    count: Counter[str] = Counter()
    for key, tensor in composed.weights.items():
        held = composed.graph.tensors[tensor]
        if held.role == "weight":
            count[key.split(".")[0]] += held.elements
    return count


def flops_of(composed: Program, node: Node) -> int:
    shapes = [[composed.graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops if node.op in WORK else 0


def product_flops(composed: Program, branch: str, phase: str, spectral: bool = False) -> int:
    nodes = [n for n in composed.graph.nodes if n.branch == branch and n.phase == phase]
    return sum(flops_of(composed, n) for n in nodes if n.name.endswith(SPECTRAL) == spectral)


def forward_flops(name: str, f: int, z: int) -> int:
    """Convolutions, linear layers and attention of a network, from its stages."""
    blocks, (side, width), blurs = BLOCKS[name]
    total = sum(2 * 3 * 9 * (s // 2) ** 2 for s in (128, 64)[: len(blurs)])
    first = blocks[0][0]
    total += 2 * 27 * f * first**2
    for s, c, out in blocks:
        total += 2 * (2 * 9 * (c * f) ** 2 * s**2 + 2 * z * 2 * c * f + 9 * c * f * out * f * s**2)
    c, n = width * f, side**2
    total += 2 * n * (2 * c * (c // 8) + c * c) + 2 * n * n * (c // 8 + c)
    return total + 2 * blocks[-1][2] * f


def parameters_of(name: str, f: int, z: int) -> int:
    blocks, (_, width), _ = BLOCKS[name]
    total = 27 * f + f + blocks[-1][2] * f + 1
    for _, c, out in blocks:
        total += 2 * (9 * (c * f) ** 2 + 3 * c * f + 2 * c * f * (z + 1)) + (9 * c * f + 1) * out * f
    c = width * f
    return total + 2 * (c * c // 8 + c // 8) + c * c + c + 1


def test_the_file_is_free_of_problems() -> None:
    for preset in ("", *PARSED.presets):
        assert check_workload(workload(preset)) == []


@pytest.mark.parametrize(("f", "condition"), PARAMETERS)
def test_parameters(f: int, condition: str) -> None:
    count = parameters(program(f=f, condition=condition))
    *each, total = PARAMETERS[f, condition]
    for name, expected in zip(CNNS, each, strict=True):
        assert count[name] == parameters_of(name, f, WIDTH[condition])
        assert expected == (count[name] if isinstance(expected, int) else round(count[name] / 1e6, 3))
    assert count["embedder"] == {"emb": 169344, "clip": 544, "clip_all": 0}[condition]
    assert sum(count.values()) == total


@pytest.mark.parametrize(("f", "condition"), FORWARD)
def test_forward_flops(f: int, condition: str) -> None:
    composed = program(f=f, condition=condition)
    counts = [product_flops(composed, f"{name}[0]", "forward") for name in CNNS]
    assert counts == [forward_flops(name, f, WIDTH[condition]) for name in CNNS]
    assert [round(c / 1e9, 3) for c in (*counts, sum(counts))] == pytest.approx(FORWARD[f, condition], abs=1e-9)


@pytest.mark.parametrize("f", BACKWARD)
def test_input_gradient_flops(f: int) -> None:
    composed = program(f=f)
    counts = [product_flops(composed, f"{name}[0]", "backward-input") for name in CNNS]
    assert [round(c / 1e9, 3) for c in (*counts, sum(counts))] == pytest.approx(BACKWARD[f], abs=1e-9)
    # Nothing goes back to the condition: no FiLM map, no spectral norm, no embedder.
    assert not any("latent_map" in n.name or "norm_m" in n.name for n in composed.graph.nodes if "back" in n.phase)
    assert product_flops(composed, "embedder[0]", "backward-input") == 0


# Stages of the three networks at f = 128, MFLOP of convolutions and products: the printed values less the
# pointwise work (add and mul 1, sigmoid 4, group norm 8, softmax 5, average pool 9 per element written).
@pytest.mark.parametrize(
    ("branch", "stage", "printed", "pointwise"),
    [
        ("main", "res_1a", 9730.3, 2 * (8 + 1 + 1 + 4 + 1) * 128 * 128**2 + 128 * 128**2),
        ("main", "res_1b", 14569, 31 * 128 * 128**2 + (9 + 5) * 128 * 64**2),
        ("main", "res_2b", 4853.3, 31 * 128 * 64**2 + 14 * 256 * 32**2),
        ("main", "res_3a", 2427.2, 31 * 256 * 32**2),
        ("main", "res_3b", 4844.9, 31 * 256 * 32**2 + 14 * 512 * 16**2),
        ("main", "res_4a", 2426.3, 31 * 512 * 16**2),
        ("main", "res_4b", 4843.1, 31 * 512 * 16**2 + 14 * 1024 * 8**2),
        ("mid", "res_1a", 2433.7, 31 * 128 * 64**2),
        ("mid", "res_1b", 3643.5, 31 * 128 * 64**2 + 14 * 128 * 32**2),
        ("mid", "res_2b", 1214.5, 31 * 128 * 32**2 + 14 * 256 * 16**2),
        ("mid", "res_3a", 609.16, 31 * 256 * 16**2),
        ("mid", "res_3b", 1213.6, 31 * 256 * 16**2 + 14 * 512 * 8**2),
        ("small", "res_1a", 609.62, 31 * 128 * 32**2),
        ("small", "res_1b", 912.06, 31 * 128 * 32**2 + 14 * 128 * 16**2),
        ("small", "res_2a", 153.58, 31 * 128 * 16**2),
        ("small", "res_2b", 304.81, 31 * 128 * 16**2 + 14 * 256 * 8**2),
        ("main", "res_2b.attention", 777.52, 5 * 1024**2 + 2 * 256 * 1024),
        ("mid", "res_2b.attention", 80.151, 5 * 256**2 + 2 * 256 * 256),
        ("small", "res_1b.attention", 29.753, 5 * 256**2 + 2 * 128 * 256),
        ("mid", "blur", 0.22118, 0),
        ("main", "stem", 113.25, 0),
        ("mid", "stem", 28.312, 0),
        ("small", "stem", 7.0779, 0),
        ("main", "res_2a", 2433.7, 31 * 128 * 64**2),
        ("mid", "res_2a", 609.62, 31 * 128 * 32**2),
        ("small", "blur0", 0.22118, 0),
        ("small", "blur1", 0.055296, 0),
        ("main", "energy", 0.002048, 0),
        ("mid", "energy", 0.001024, 0),
        ("small", "energy", 0.000512, 0),
    ],
)
def test_stages(branch: str, stage: str, printed: float, pointwise: int) -> None:
    composed = program(f=128)
    nodes = [n for n in composed.graph.nodes if n.name.startswith(f"{branch}.{stage}") and n.phase == "forward"]
    counted = [n for n in nodes if not n.name.endswith(SPECTRAL) and (".attention." in n.name) == ("." in stage)]
    found = sum(flops_of(composed, n) for n in counted)
    decimals = len(str(printed).partition(".")[2])
    assert (found + pointwise) / 1e6 == pytest.approx(printed, abs=0.5001 * 10.0**-decimals)


def test_spectral_norm_stands_apart() -> None:
    """One matrix-vector product, one dot product and one division per residual convolution, at any chain count."""
    convolutions = {"main": 16, "mid": 12, "small": 8}
    weights = {"main": 12.98, "mid": 3.54, "small": 1.18}
    for chains in (1, 3):
        composed = program(chains, f=128)
        tensors = composed.graph.tensors
        for name in CNNS:
            nodes = [n for n in composed.graph.nodes if n.branch == f"{name}[0]" and ".norm_" in n.name]
            assert len(nodes) == 3 * convolutions[name]
            assert not any(tensors[t].chain_axis for n in nodes for t in n.outputs)
            divided = sum(tensors[n.outputs[0]].elements for n in nodes if n.op == "div")
            assert round(divided / 1e6, 2) == weights[name]
            vectors = convolutions[name] * 128 * sum(c for _, c, _ in BLOCKS[name][0]) // len(BLOCKS[name][0])
            assert product_flops(composed, f"{name}[0]", "forward", spectral=True) == 2 * (divided + vectors)
    without = program(f=128, spectral_norm=False)
    assert parameters(without) == parameters(program(f=128))
    assert product_flops(without, "main[0]", "forward") == forward_flops("main", 128, 1536)


def test_operators_of_a_forward() -> None:
    """As the paper's code has them: 153, 121 and 89; the spectral norms come on top."""
    composed = program(f=128)
    expected = {"main": 153, "mid": 121, "small": 89}
    for name in CNNS:
        branch = [n for n in composed.graph.nodes if n.branch == f"{name}[0]" and n.phase == "forward"]
        kernels = [n for n in branch if OPERATORS[n.op].category != "view" and ".norm_" not in n.name]
        assert len(kernels) == expected[name] - 1  # the permutation of the query is folded into its product


@pytest.mark.parametrize(("projection", "expected"), [(True, 63428096), (False, 63165952)])
def test_clip_text_tower(projection: bool, expected: int) -> None:
    composed = program(condition="clip_all", clip_cached=False, text_projection=projection)
    assert parameters(composed)["clip"] == expected
    nodes = [n for n in composed.graph.nodes if n.branch == "clip[0]"]
    assert {n.phase for n in nodes} == {"once"}
    flops = product_flops(composed, "clip[0]", "once")
    per_layer = 2 * 77 * 512 * (1536 + 512 + 2 * 2048) + 4 * 77 * 77 * 512
    assert flops == 12 * per_layer + 2 * 512 * 512 * projection
    if projection:
        assert round(flops / 1e9, 3) == 5.960
    held = [composed.weights[key] for key in composed.weights if key.startswith("clip.")]
    assert set(held) <= composed.frozen


@pytest.mark.parametrize(("condition", "texts"), [("clip", 2), ("clip_all", 1)])
def test_clip_runs_once_for_every_text(condition: str, texts: int) -> None:
    one = product_flops(program(condition="clip_all", clip_cached=False), "clip[0]", "once")
    composed = program(4, condition=condition, clip_cached=False, relations=3)
    runs = [product_flops(composed, f"clip[{m}]", "once") for m in range(3)]
    assert runs == [texts * one] * 3  # whatever the number of chains
    cached = program(condition=condition)
    assert not any(n.branch.startswith("clip") for n in cached.graph.nodes)
    assert parameters(composed) - Counter(clip=63428096) == parameters(cached)


def test_label_embedder() -> None:
    composed = program()
    nodes = [n for n in composed.graph.nodes if n.branch == "embedder[0]"]
    assert [n.op for n in nodes].count("embedding") == 11
    assert round(product_flops(composed, "embedder[0]", "forward") / 1e6, 2) == 0.66
    assert composed.graph.tensors[nodes[-1].outputs[0]].shape == (1, 1536)


def test_relations_share_weights_and_add_work() -> None:
    one, three = program(f=64), program(f=64, preset="three_relations")
    assert parameters(one) == parameters(three)
    for name in CNNS:
        for phase in ("forward", "backward-input"):
            each = [product_flops(three, f"{name}[{m}]", phase) for m in range(3)]
            assert each == [product_flops(one, f"{name}[0]", phase)] * 3


def test_one_step_of_sampling() -> None:
    composed = program(2, preset="small")
    assert [(s.label, s.repeat) for s in composed.sections] == [("once", 1), ("once", 1), ("step", 4)]
    step = composed.sections[-1]
    nodes = composed.graph.nodes[step.first : step.last]
    update = [n.op for n in nodes if not n.branch and n.phase in ("rng", "update")]
    assert update == ["random_normal", "scale", "add", "scale", "sub", "clamp"]
    tensors = composed.graph.tensors
    assert all(tensors[t].chain_axis for n in nodes if n.branch == "" for t in n.outputs)
    assert tensors[composed.graph.results[0]].shape == (2, 3, 32, 32)
