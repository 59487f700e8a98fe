"""EBM-CGID against its paper and code: sizes of the blocks, products, evaluations, samplers, training."""

from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cgid.yaml")
FILE = parse_workload(DOCUMENT)
W, TIME = 64, 256
# Parameters and multiply-adds of a sample.
Size = tuple[int, int]


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=16)
def program(preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def step(p: Program) -> list[Node]:
    (section,) = [s for s in p.sections if s.label == "step"]
    return list(p.graph.nodes[section.first : section.last])


def macs(graph: Graph, nodes: list[Node]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


# --- sizes of the networks, block by block ----------------------------------------------------------------------------


def conv(c_in: int, c: int, taps: int, n: int, bias: bool = True) -> Size:
    return c_in * c * taps + (c if bias else 0), c_in * c * taps * n


def linear(c_in: int, c: int) -> Size:
    return conv(c_in, c, 1, 1)


def both(*parts: Size) -> Size:
    return sum(p for p, _ in parts), sum(m for _, m in parts)


def residual(c_in: int, c: int, n: int, time: int = 0) -> Size:
    """Two convolutions, each with a norm, a shortcut where the width changes, and scale and shift from the level."""
    parts = [conv(c_in, c, 9, n), conv(c, c, 9, n), (4 * c, 0)]
    parts += [conv(c_in, c, 1, n)] if c_in != c else []
    return both(*parts, *([linear(time, 2 * c)] if time else []))


def attention(c: int, n: int, norms: int = 2, full: bool = False) -> Size:
    """384 channels of queries, keys and values; two products, of n² or of 32² numbers a head."""
    products = 2 * 4 * 32 * n * (n if full else 32)
    return both(conv(c, 384, 1, n, bias=False), conv(128, c, 1, n), (norms * c, products))


def temporal(c_in: int, c: int, n: int) -> Size:
    parts = [conv(c_in, c, 5, n), conv(c, c, 5, n), (4 * c, 0), linear(W, c)]
    return both(*parts, *([conv(c_in, c, 1, n)] if c_in != c else []))


def stage(c_in: int, c_mid: int, c: int, n: int) -> Size:
    return both(temporal(c_in, c_mid, n), temporal(c_mid, c, n), attention(c, n, norms=1))


P0, P1, P2, P3 = (64 // 2**k * (64 // 2**k) for k in range(4))
# Component: block: what its layers add up to, and the printed number of parameters.
BLOCKS: dict[str, dict[str, tuple[Size, int]]] = {
    "unet2d": {
        "conv_in": (conv(21, W, 49, P0), 65_920),
        "time": (both(linear(W, TIME), linear(TIME, TIME)), 82_432),
        "down0": (both(residual(W, W, P0, TIME), residual(W, W, P0, TIME), attention(W, P0)), 246_976),
        "shrink": (conv(4 * W, W, 1, P1), 16_448),
        "down1": (both(residual(W, W, P1, TIME), residual(W, W, P1, TIME), attention(W, P1)), 246_976),
        "widen": (conv(W, 2 * W, 9, P1), 73_856),
        "middle": (both(*[residual(2 * W, 2 * W, P1, TIME)] * 2, attention(2 * W, P1, 1, True)), 788_736),
        "up0": (both(*[residual(3 * W, 2 * W, P1, TIME)] * 2, attention(2 * W, P1)), 985_728),
        "grow": (conv(2 * W, W, 9, P0), 73_792),
        "up1": (both(*[residual(2 * W, W, P0, TIME)] * 2, attention(W, P0)), 337_216),
        "conv_up": (conv(W, W, 9, P0), 36_928),
        "final": (residual(2 * W, W, P0, TIME), 152_128),
        "conv_out": (conv(W, 21, 1, P0), 1_365),
    },
    "force": {
        "conv_in": (conv(4, W, 49, P0), 12_608),
        "down0": (both(*[residual(W, W, P0)] * 2, attention(W, P0)), 181_184),
        "shrink0": (conv(4 * W, W, 1, P1), 16_448),
        "down1": (both(*[residual(W, W, P1)] * 2, attention(W, P1)), 181_184),
        "shrink1": (conv(4 * W, 2 * W, 1, P2), 32_896),
        "down2": (both(*[residual(2 * W, 2 * W, P2)] * 2, attention(2 * W, P2)), 657_280),
        "shrink2": (conv(8 * W, 4 * W, 1, P3), 131_328),
        "down3": (both(*[residual(4 * W, 4 * W, P3)] * 2, attention(4 * W, P3)), 2_494_208),
        "widen": (conv(4 * W, 8 * W, 9, P3), 1_180_160),
        "middle": (both(*[residual(8 * W, 8 * W, P3)] * 2, attention(8 * W, P3, 1, True)), 9_706_496),
        "forces": (linear(8 * W, 2), 1_026),
    },
    "unet1d": {
        "time": (both(linear(W, TIME), linear(TIME, W)), 33_088),
        "down0": (stage(8, W, W, 24), 106_560),
        "shrink0": (conv(W, W, 3, 12), 12_352),
        "down1": (stage(W, 2 * W, 2 * W, 12), 379_008),
        "shrink1": (conv(2 * W, 2 * W, 3, 6), 49_280),
        "down2": (stage(2 * W, 4 * W, 4 * W, 6), 1_347_840),
        "shrink2": (conv(4 * W, 4 * W, 3, 3), 196_864),
        "down3": (stage(4 * W, 8 * W, 8 * W, 3), 5_054_976),
        "middle": (both(*[temporal(8 * W, 8 * W, 3)] * 2, attention(8 * W, 3, 1)), 5_578_752),
        "up0": (stage(16 * W, 8 * W, 4 * W, 3), 5_757_440),
        # a transposed convolution has four taps for every number that comes in
        "grow0": (conv(4 * W, 4 * W, 4, 3), 262_400),
        "up1": (stage(8 * W, 4 * W, 2 * W, 6), 1_486_080),
        "grow1": (conv(2 * W, 2 * W, 4, 6), 65_664),
        "up2": (stage(4 * W, 2 * W, W, 12), 394_880),
        "grow2": (conv(W, W, 4, 12), 16_448),
        "final": (both(conv(W, W, 5, 24), (2 * W, 0)), 20_672),
        "conv_out": (conv(W, 8, 1, 24), 520),
    },
}
# Parameters, giga multiply-adds and GFLOP as published with the layers.
TOTALS = {
    "unet2d": (3_108_501, 5.2335, 10.4670),
    "force": (14_594_818, 2.0767, 4.1534),
    "unet1d": (20_762_824, 0.0802, 0.1604),
}
PRESET = {"unet2d": "default", "force": "default", "unet1d": "nbody"}
FORWARD = {name: both(*[size for size, _ in blocks.values()])[1] for name, blocks in BLOCKS.items()}


def block_of(key: str, component: str) -> str:
    """The block that a node or weight is of: the start of its name behind the component's."""
    name = key.removeprefix(f"{component}.").partition(".")[0].partition("_")[0]
    whole = key.removeprefix(f"{component}.").partition(".")[0]
    return whole if whole in BLOCKS[component] else "time" if whole == "time1" else name


@pytest.mark.parametrize("component", BLOCKS)
def test_parameters_and_products_of_every_block(component: str) -> None:
    p = program(PRESET[component])
    learned: Counter[str] = Counter()
    for key, t in p.weights.items():
        if key.startswith(f"{component}.") and p.graph.tensors[t].role == "weight":
            learned[block_of(key, component)] += p.graph.tensors[t].elements
    products: Counter[str] = Counter()
    for node in step(p):
        if node.branch == f"{component}[0]" and node.phase == "forward" and (found := macs(p.graph, [node])):
            products[block_of(node.name, component)] += int(found)
    expected = BLOCKS[component]
    assert {name: (learned[name], products[name]) for name in learned} == {
        name: size for name, (size, _) in expected.items()
    }
    assert {name: size[0] for name, (size, _) in expected.items()} == {name: n for name, (_, n) in expected.items()}
    total, giga, gflop = TOTALS[component]
    assert (sum(learned.values()), sum(products.values())) == (total, FORWARD[component])
    assert FORWARD[component] / 1e9 == pytest.approx(giga, abs=5e-5)
    assert 2 * FORWARD[component] / 1e9 == pytest.approx(gflop, abs=5e-5)


@pytest.mark.parametrize(
    ("component", "block", "mega"),
    [
        ("unet2d", "conv_in", 539.49),
        ("unet2d", "shrink", 33.554),
        ("unet2d", "widen", 150.99),
        ("unet2d", "grow", 603.98),
        ("unet2d", "conv_up", 301.99),
        ("unet2d", "conv_out", 11.01),
        ("force", "conv_in", 102.76),
        ("force", "shrink0", 33.554),
        ("force", "shrink1", 16.777),
        ("force", "shrink2", 16.777),
        ("force", "widen", 150.99),
        ("unet1d", "shrink0", 0.29491),
        ("unet1d", "shrink1", 0.58982),
        ("unet1d", "shrink2", 1.1796),
        ("unet1d", "grow0", 1.5729),
        ("unet1d", "grow1", 0.78643),
        ("unet1d", "grow2", 0.39322),
    ],
)
def test_printed_work_of_single_convolutions(component: str, block: str, mega: float) -> None:
    """To the digits printed; blocks of several layers are printed with what is no product."""
    assert 2 * BLOCKS[component][block][0][1] / 1e6 == pytest.approx(mega, rel=5e-5)


# --- presets and evaluations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes_and_has_the_published_networks(preset: str) -> None:
    assert check_workload(settled(preset)) == []
    p = program(preset)
    learned = sum(p.graph.tensors[t].elements for t in p.weights.values() if p.graph.tensors[t].role == "weight")
    if preset != "small":
        names = ["unet1d"] if settled(preset).parameters["task"] == "nbody" else ["unet2d", "force"]
        assert learned == sum(TOTALS[name][0] for name in names)
    assert all(c.unused_parameters == 0 for c in FILE.components.values())


def calls(p: Program, component: str, node: str, phase: str = "forward") -> int:
    """How often a network's layer runs in an inference."""
    return sum(
        s.repeat
        for s in p.sections
        for n in p.graph.nodes[s.first : s.last]
        if n.phase == phase
        and n.branch.startswith(f"{component}[")
        and n.name.startswith(f"{component}.{node}")
        and OPERATORS[n.op].category == "convolution"
    )


@pytest.mark.parametrize("preset", ["default", "airfoil1"])
def test_evaluations_of_the_airfoil(preset: str) -> None:
    """Each of 1000 steps: the U-Net forward, the surrogate forward and back for six frames, nothing else back."""
    p = program(preset)
    assert calls(p, "unet2d", "conv_in") == 1000
    assert calls(p, "force", "conv_in") == calls(p, "force", "conv_in'", "backward-input") == 6000
    assert not any(n.branch.startswith("unet2d") for n in step(p) if n.phase == "backward-input")
    assert {s.repeat for s in p.sections if s.label == "step"} == {1000}
    assert {s.repeat for s in p.sections if s.label == "once"} == {1}


@pytest.mark.parametrize(("preset", "looped"), [("nbody", 1), ("nbody4", 6 * 3), ("nbody8", 28)])
def test_evaluations_of_nbody(preset: str, looped: int) -> None:
    """Ten turns at each level; in each a call for every pair and window, one after another on the whole batch."""
    p = program(preset, chains=2)
    assert calls(p, "unet1d", "conv_out") == 10_000 * looped
    outputs = [n for n in step(p) if n.name == "unet1d.conv_out"]
    assert {p.graph.tensors[n.outputs[0]].shape for n in outputs} == {(2, 8, 24)}
    assert [(s.label, s.repeat) for s in p.sections[-3:]] == [("once", 1000), ("step", 10_000), ("once", 1000)]
    assert not any(n.branch.startswith("unet1d") for n in step(p) if n.phase == "backward-input")


def test_work_of_a_step_and_of_a_run() -> None:
    """A row: 10.47 + 6 · (4.15 + 4.24) = 60.9 GFLOP, 2.43 TFLOP a step; the surrogate five times the denoiser."""
    p = program()
    nodes = step(p)
    back = 2 * macs(p.graph, [n for n in nodes if n.phase == "backward-input" and n.branch.startswith("force")]) / 6
    assert back / 1e9 == pytest.approx(4.245, abs=5e-4)
    row = 2 * macs(p.graph, nodes)
    assert row / 1e9 == pytest.approx(60.9, abs=0.05)
    assert settled().setting("chains") * row / 1e12 == pytest.approx(2.43, abs=0.005)
    forces = 6 * (2 * FORWARD["force"] + back)
    assert forces / (2 * FORWARD["unet2d"]) == pytest.approx(4.8, abs=0.05)


@pytest.mark.parametrize(("preset", "peta"), [("nbody", 0.080), ("nbody4", 1.44)])
def test_work_of_a_run_of_nbody(preset: str, peta: float) -> None:
    workload, p = settled(preset), program(preset)
    run = workload.setting("chains") * workload.setting("steps") * 2 * macs(p.graph, step(p))
    assert run / 1e15 == pytest.approx(peta, rel=0.005)


# --- samplers ---------------------------------------------------------------------------------------------------------


def own(p: Program) -> Counter[str]:
    """Kernels of the sampler itself in a step."""
    return Counter(n.op for n in step(p) if n.phase in ("update", "rng") and OPERATORS[n.op].category != "view")


def test_the_sampler_of_the_airfoil() -> None:
    """Coefficients of the level; the shared flow written back; posterior, noise, weighted guidance."""
    assert own(program()) == {
        # level, schedule cloned and reversed, detached sample, shared flow
        "copy": 5,
        "gather": 7,
        "reduce_mean": 1,
        "assign": 1,
        # scaled sample and noise, both parts of the mean, noise, weighted gradient
        "mul": 6,
        "sub": 2,
        "clamp": 1,
        "add": 2,
        # schedule, logarithm of the variance
        "scale": 2,
        "exp": 1,
        "random_normal": 2,
        "concat": 1,
    }
    assert own(program("airfoil1")) == own(program()) - Counter({"copy": 1})


def test_boundaries_share_the_flow() -> None:
    """Noise of the flow is drawn once for nb boundaries; their mean is as large, and so are the masks' sums."""
    for nb in (1, 2, 3):
        p = program(nb=nb)
        drawn = [p.graph.tensors[n.outputs[0]].elements for n in step(p) if n.phase == "rng"]
        assert drawn == [18 * 64 * 64 // nb, 3 * 64 * 64]
        (mean,) = [n for n in step(p) if n.op == "reduce_mean" and n.phase == "update"]
        (total,) = [n for n in step(p) if n.op == "reduce_sum" and n.branch == "scene[0]" and n.phase == "forward"]
        assert [p.graph.tensors[t].elements for n in (mean, total) for t in (*n.inputs, *n.outputs)] == [
            *(18 * 64 * 64, 18 * 64 * 64 // nb),
            *(3 * 64 * 64, 3 * 64 * 64 // nb),
        ]
        products = [n for n in step(p) if n.branch == "overlap[0]" and n.phase == "forward"]
        assert macs(p.graph, products) == nb * 16 * 16
        assert settled(nb=nb).setting("chains") == 20 * nb


def test_the_sampler_of_nbody() -> None:
    """A turn: posterior mean less the gradient, re-noised; eta is computed and not used."""
    assert own(program("nbody")) == {
        "copy": 1,
        # posterior 6, eta 2, re-noising 2
        "gather": 10,
        "mul": 6,
        "sub": 2,
        "add": 2,
        "clamp": 1,
        "div": 3,
        "sqrt": 3,
        "scale": 1,
        "random_normal": 1,
    }
    p = program("nbody")
    last = p.sections[-1]
    after = [n.op for n in p.graph.nodes[last.first : last.last]]
    assert after == ["random_normal", "scale", "exp", "mul", "add"]


@pytest.mark.parametrize(("preset", "n", "windows"), [("nbody", 2, 1), ("nbody4", 4, 3), ("nbody8", 8, 1)])
def test_what_calls_give_is_put_together(preset: str, n: int, windows: int) -> None:
    """Either half of a call to its body; sums over the others and over windows, 10 instants apart; the host waits."""
    p = program(preset)
    looped, instants = n * (n - 1) // 2 * windows, 24 + 10 * (windows - 1)
    combined = [x for x in step(p) if x.phase == "forward" and not x.branch]
    shapes = [p.graph.tensors[x.outputs[0]].shape[1:] for x in combined if x.op == "zeros"]
    assert shapes == [(windows, instants, n * n, 4), (windows, instants, 4 * n)]
    # both halves of every call, the ones of every window, the result
    assert sum(x.op == "assign" for x in combined) == 2 * looped + windows + 1
    waits = [x for x in step(p) if x.op in ("synchronise", "to_host")]
    # numbers of a pair for every call, ones of a window, places twice, the mean of the noise
    assert len(waits) == looped + windows + 2 + 1


def test_the_host_never_waits_for_the_airfoil() -> None:
    assert not any(n.op in ("synchronise", "to_host", "to_device") for n in step(program()))


# --- taxonomy and training --------------------------------------------------------------------------------------------


def test_taxonomy() -> None:
    assert derive(settled()) == ("hetero", "mixed-parallel")
    assert derive(settled("nbody4")) == ("hetero", "fully-parallel")
    assert derive(settled("nbody4", guided=False)) == ("homo-dw", "fully-parallel")
    assert "scene" in FILE.components["force"].inputs and FILE.taxonomy.reason


@pytest.mark.parametrize(("preset", "component", "batch"), [("default", "unet2d", 48), ("nbody4", "unet1d", 64)])
def test_training(preset: str, component: str, batch: int) -> None:
    """The denoiser alone: a forward and a full backward, but for the gradients of the sample and the level's waves."""
    workload = settled(preset)
    iteration = compose_training(workload)
    assert set(iteration.parts) == {"forward_positive", "backward_positive", "update"}

    def of(part: str) -> float:
        ((first, last),) = iteration.parts[part]
        return macs(iteration.graph, list(iteration.graph.nodes[first:last]))

    unasked = W * TIME
    if component == "unet2d":
        unasked += conv(21, W, 49, P0)[1]
    else:  # the first block reads the sample twice
        unasked += conv(8, W, 5, 24)[1] + conv(8, W, 1, 24)[1]
    assert of("forward_positive") == batch * FORWARD[component]
    assert of("backward_positive") == batch * (2 * FORWARD[component] - unasked)
    assert sum(iteration.graph.tensors[t].elements for t in iteration.weights) == TOTALS[component][0]
    assert (iteration.how.average, iteration.how.clip) == (True, True)
    assert (workload.setting("training_steps"), workload.setting("training_batch")) == (0, batch)


def test_the_surrogate_is_frozen() -> None:
    p = program()
    learned = {key: t for key, t in p.weights.items() if p.graph.tensors[t].role == "weight"}
    assert {key.partition(".")[0] for key, t in learned.items() if t in p.frozen} == {"force"}
    assert {key.partition(".")[0] for key, t in learned.items() if t not in p.frozen} == {"unet2d"}
