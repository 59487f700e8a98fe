"""The cost formulas against brute force: completion times, residency, tiles, reuse, liveness."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ebmsim.cost.machine import Machine, machine_of
from ebmsim.cost.products import launch_seconds, way_seconds
from ebmsim.cost.schedule import Stage, completion, first_pass, longest_chain, overlapped, steady_pass
from ebmsim.cost.traffic import hit
from ebmsim.cost.ways import Ways, ways_of
from ebmsim.estimation import priced
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.kernels import BYTES
from ebmsim.graph.lower import lower, view_roots
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.rows import Products
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_hardware, load_profile, load_workload
from ebmsim.spec.workload import Workload

SECONDS = st.floats(0, 10, allow_subnormal=False)
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), min_size=1, max_size=12)


# --- dispatch -------------------------------------------------------------------------------------------------------


def split(pairs: list[tuple[float, float]]) -> tuple[Any, Any]:
    return np.array([d for d, _ in pairs]), np.array([k for _, k in pairs])


@given(PAIRS)
def test_completion_is_the_largest_of_all_waits(pairs: list[tuple[float, float]]) -> None:
    """c_n = max over i of Σ_{j≤i} d_j + Σ_{i≤j≤n} k_j."""
    d, k = split(pairs)
    for n in range(len(d)):
        worst = max(sum(d[: i + 1]) + sum(k[i : n + 1]) for i in range(n + 1))
        assert completion(d, k)[n] == pytest.approx(worst)


@given(PAIRS)
def test_passes_sum_to_their_totals(pairs: list[tuple[float, float]]) -> None:
    d, k = split(pairs)
    assert first_pass(d, k, [], 0.0).sum() == pytest.approx(completion(d, k)[-1])
    assert steady_pass(d, k, [], 0.0).sum() == pytest.approx(max(d.sum(), k.sum()))


@given(PAIRS)
def test_a_long_run_tends_to_the_steady_pass(pairs: list[tuple[float, float]]) -> None:
    """The second of two further turns of a long loop, walked kernel by kernel."""
    d, k = split(pairs)
    issued = done = 0.0
    ends = []
    for _ in range(40):
        for host, device in pairs:
            issued += host
            done = max(done, issued) + device
        ends.append(done)
    # After finitely many turns the slower of the two sets the pace, however close they are.
    assume(abs(d.sum() - k.sum()) * 38 >= d.sum() + k.sum() or d.sum() == k.sum())
    assert ends[-1] - ends[-2] == pytest.approx(steady_pass(d, k, [], 0.0).sum(), abs=1e-9)


@given(PAIRS, st.data(), st.floats(0, 5))
def test_every_stretch_between_synchronisations_starts_empty(
    pairs: list[tuple[float, float]], data: st.DataObject, wait: float
) -> None:
    d, k = split(pairs)
    breaks = sorted(data.draw(st.sets(st.integers(0, len(d) - 1), min_size=1)))
    total, start = 0.0, 0
    for stop in [*breaks, len(d) - 1]:
        if start <= stop:
            total += completion(d[start : stop + 1], k[start : stop + 1])[-1]
            start = stop + 1
    for run in (first_pass, steady_pass):
        advance = run(d, k, np.array(breaks), wait)
        assert advance.sum() == pytest.approx(total + wait * len(breaks))
        assert (advance >= -1e-9).all()


@given(st.lists(st.tuples(st.integers(0, 3), SECONDS, st.sets(st.integers(0, 11))), min_size=1, max_size=12))
def test_longest_chain_of_branches_that_wait_for_one_another(kernels: list[tuple[int, float, set[int]]]) -> None:
    """Every path through the kernels, walked one by one: in a branch, and from what a kernel reads."""
    before = [
        {j for j in range(i) if j in reads or kernels[j][0] == branch} for i, (branch, _, reads) in enumerate(kernels)
    ]

    def ends(i: int) -> float:
        return kernels[i][1] + max([ends(j) for j in before[i]], default=0.0)

    table = SimpleNamespace(
        phase=[0] * len(kernels),
        branches=[f"b[{branch}]" for branch, _, _ in kernels],
        awaited=np.array([(i, j) for i, js in enumerate(before) for j in js if kernels[i][0] != kernels[j][0]]),
    )
    stage = Stage(0, (), np.arange(len(kernels)))
    seconds = np.array([t for _, t, _ in kernels])
    assert longest_chain(table, stage, seconds) == pytest.approx(max(map(ends, range(len(kernels)))))


class Launches(SimpleNamespace):
    """As much of a kernel table as a schedule reads."""

    def __len__(self) -> int:
        return len(self.phase)


@given(st.lists(st.tuples(st.integers(0, 2), SECONDS, SECONDS, SECONDS), min_size=1, max_size=12), st.integers(1, 4))
def test_streams_are_limited_by_every_resource(kernels: list[tuple[int, float, float, float]], streams: int) -> None:
    """Never below the longest branch, the units' seconds or a level's; never above one stream; enough reach it."""
    table = Launches(phase=[0] * len(kernels), branches=[f"b[{b}]" for b, *_ in kernels], awaited=[])
    seconds, units, level = (np.array(column) for column in list(zip(*kernels, strict=True))[1:])
    units, level = np.minimum(units, seconds), np.minimum(level, seconds)
    total = overlapped(table, seconds, [level], units, streams, 0.0).sum()
    branches = [sum(t for b, t, *_ in kernels if b == branch) for branch in range(3)]
    floor = max(max(branches), units.sum(), level.sum())
    assert floor - 1e-9 <= total <= seconds.sum() + 1e-9
    if streams >= sum(length > 0 for length in branches) > 1:
        assert total == pytest.approx(floor)


def test_sharing_goes_from_whole_kernels_to_their_arithmetic() -> None:
    """Unit-seconds that kernels keep: share · t without sharing, share · t_compute with all of it."""
    hardware, profile, policy = load_hardware("rtx5090"), load_profile("torch-cuda"), Policy(fidelity="analytical")
    lowered = lower_workload(load_workload("ebm_cmp", "small"), policy, profile)
    none, half, all_ = (priced(lowered, hardware, policy, replace(profile, sharing=s)) for s in (0.0, 0.5, 1.0))
    busy = np.minimum(none.costs.compute, none.device)
    np.testing.assert_allclose(none.unit_seconds * busy, all_.unit_seconds * none.device)
    np.testing.assert_allclose(half.unit_seconds, (none.unit_seconds + all_.unit_seconds) / 2)
    assert (all_.unit_seconds < 0.5 * none.unit_seconds).any()


# --- memory ---------------------------------------------------------------------------------------------------------


@given(
    st.floats(0, 1e12) | st.just(math.inf),
    st.floats(0, 1e12),
    st.floats(1e3, 1e11),
    st.floats(1, 100),
    st.floats(0.1, 1),
    st.floats(1.0001, 2),
)
def test_hit_is_a_fraction_that_falls_with_distance_and_grows_with_capacity(
    distance: float, further: float, capacity: float, more: float, resident: float, evicted: float
) -> None:
    here = float(hit(distance, capacity, resident, evicted))
    assert 0 <= here <= 1
    assert hit(distance + further, capacity, resident, evicted) <= here
    assert hit(distance, capacity * more, resident, evicted) >= here - 1e-12
    assert here == 1 or distance > resident * capacity
    assert here == 0 or distance < evicted * capacity


# --- tiles --------------------------------------------------------------------------------------------------------


PRODUCTS = st.tuples(st.integers(1, 4), st.integers(1, 300), st.integers(1, 300), st.integers(1, 600))
CUDA = load_profile("torch-cuda")
STRICT = Policy(math="strict")
RATE = 256.0


def one_product(product: tuple[int, ...], size: float, window: tuple[int, ...] = (0, 0, 0, 0)) -> Products:
    columns = [np.array(values, dtype=float).reshape(4, 1) for values in (product, window)]
    return Products(columns[0], columns[1], np.array([window[0] > 0]), np.array([False]), np.zeros(1), size)


def only(**changes: Any) -> Profile:
    """The CUDA profile with some of its choices taken away."""
    return replace(CUDA, **changes)


def timed(products: Products, profile: Profile, **figures: Any) -> tuple[Ways, Any, Machine]:
    """The ways of a product, and their seconds on an RTX 5090 with figures changed, 256 FLOPs per unit and cycle."""
    machine = machine_of(load_hardware("rtx5090"))
    machine = replace(machine, matrix=dict.fromkeys(machine.matrix, RATE), **figures)
    ways = ways_of(products, profile)
    return ways, way_seconds(products, ways, machine, profile, STRICT), machine


@given(PRODUCTS, st.sampled_from(CUDA.tiles), st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_waves_are_those_of_a_loop(product: tuple[int, ...], tile: list[float], parts: int, units: int) -> None:
    """Tiles dealt to units one by one; a wave takes one tile's cycles, a last one in part."""
    b, m, n, k = product
    profile = only(split_k=[parts], tiles=[tile])
    ways, found, machine = timed(one_product(product, 4.0), profile, units=units)
    step = int(profile.inner / 4)
    for_vectors = (tile[0] == 1 and m > 1) or (tile[1] == 1 and n > 1)
    if (parts > 1 and k < 2 * parts * step) or for_vectors:
        assert len(found) == 0
        return
    rows, columns, fraction = int(tile[0]), int(tile[1]), tile[2]
    load = [0] * units
    count = 0
    for _ in range(b):
        for _ in range(0, m, rows):
            for _ in range(0, n, columns):
                for _ in range(parts):
                    load[count % units] += 1
                    count += 1
    assert ways.tiles.tolist() == [count]
    waves = profile.last_wave * max(load) + (1 - profile.last_wave) * max(1.0, count / units)
    inner = next(i for i in range(0, 10_000, step) if i * parts >= k)
    taken = inner * (min(rows, m) + min(columns, n)) * 4 / profile.feed
    cycles = max(2 * rows * columns * inner / (RATE * fraction), inner * profile.loop, taken) + profile.prologue
    l2 = machine.levels[-2]
    fetched = sum(
        k * (min(rows, m - i) + min(columns, n - j)) * 4
        for _ in range(b)
        for i in range(0, m, rows)
        for j in range(0, n, columns)
    )
    partial = 8 * parts * b * m * n / (l2.bandwidth * l2.efficiency) + profile.split_time if parts > 1 else 0.0
    expected = max(waves * cycles / machine.clock, fetched / (l2.bandwidth * l2.efficiency)) + partial
    assert found.tolist() == pytest.approx([expected])
    assert found[0] >= 2 * b * m * n * k / (RATE * machine.clock * units) * (1 - 1e-12)


@given(PRODUCTS)
def test_an_operand_made_on_the_chip_is_not_fetched(product: tuple[int, ...]) -> None:
    b, _, n, k = product
    tile = ((64.0, 128.0, 1.0),)
    products = replace(one_product(product, 2.0), chained=np.ones(1))
    ways = ways_of(products, only(tiles=tile, split_k=[1]))
    rows = len(range(0, product[1], 64))
    assert ways.operands.tolist() == [b * rows * n * k * 2.0]


@given(PRODUCTS, st.integers(1, 300), st.floats(1e8, 1e10), st.floats(1e9, 1e14), st.sampled_from([2.0, 4.0]))
def test_ways_left_out_are_never_the_best(
    product: tuple[int, ...], units: int, clock: float, bandwidth: float, size: float
) -> None:
    """The best of the ways kept is the best of all, tile by tile and part by part."""
    products = one_product(product, size)
    levels = machine_of(load_hardware("rtx5090")).levels
    levels = (*levels[:-2], replace(levels[-2], bandwidth=bandwidth), levels[-1])
    figures = {"units": units, "clock": clock, "levels": levels}
    kept = timed(products, CUDA, **figures)[1].min()
    singles = [only(tiles=[tile], split_k=[parts]) for tile in CUDA.tiles for parts in CUDA.split_k]
    every = [timed(products, single, **figures)[1] for single in singles]
    assert kept == min(seconds.min() for seconds in every if len(seconds))


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_winograd_multiplies_every_point_of_every_tile(
    images: int, height: int, width: int, channels: int, filters: int
) -> None:
    """Products of the transformed convolution, counted tile by tile, and the bytes its transforms read and write."""
    winograd = CUDA.algorithms["winograd"]
    q, r = winograd.output, winograd.kernel
    tiles = sum(1 for _ in range(images) for _ in range(0, height, q) for _ in range(0, width, q))
    points = sum(1 for _ in range(q + r - 1) for _ in range(q + r - 1))
    assert (winograd.points, winograd.saving) == (points, q * q * r * r / points)
    tile = CUDA.convolution_tiles[-1]
    profile = only(convolution_tiles=[tile], split_k=[1])
    product = (1, images * height * width, filters, channels * r * r)
    ways, found, machine = timed(one_product(product, 4.0, (r, 1, height, width)), profile)
    # The same products, batched, without the transforms.
    inside = only(tiles=((*tile[:2], tile[2] * winograd.fraction),), split_k=[1], feed=1e30)
    levels = (*machine.levels[:-2], replace(machine.levels[-2], bandwidth=1e30), machine.levels[-1])
    _, alone, _ = timed(one_product((points, tiles, filters, channels), 4.0), inside, levels=levels)
    moved = 2 * 4 * points * (tiles * channels + tiles * filters + channels * filters)
    l2 = machine.levels[-2]
    transforms = moved / (l2.bandwidth * l2.efficiency * winograd.transforms)
    launches = 3 * launch_seconds(machine, CUDA, STRICT)
    of_winograd = found[ways.algorithm == 0]
    assert of_winograd.tolist() == pytest.approx((alone + transforms + launches).tolist())


# --- reuse and liveness ---------------------------------------------------------------------------------------------


def touches(graph: Graph, nodes: list[Node]) -> list[tuple[int, int, float, bool]]:
    """Kernel, tensor, bytes and direction of every access of fp32 nodes that are not views."""
    root = view_roots(graph)
    size = {"float": BYTES["fp32"], "index": 8.0, "mask": 1.0}
    found = []
    for index, node in enumerate(n for n in nodes if OPERATORS[n.op].category != "view"):
        shapes = [[graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs)]
        work = WORK[node.op](*shapes, dict(node.attributes))
        limits = work.read
        for position, t in enumerate(node.inputs):
            held = graph.tensors[root.get(t, t)]
            elements = min(graph.tensors[t].elements, held.elements, *([limits[position]] if limits else []))
            found.append((index, root.get(t, t), elements * size[graph.tensors[t].kind], False))
        for t in node.outputs:
            part = graph.tensors[t].elements if work.written is None else work.written
            found.append((index, root.get(t, t), part * size[graph.tensors[t].kind], True))
    return found


def rounded_up(found: float, exact: float) -> bool:
    """Whether a distance is the exact one, or the end of the step of a logarithmic grid that it lies in."""
    return bool(exact * (1 - 1e-9) <= found <= exact * 2 ** (1 / 8) * (1 + 1e-9))


@settings(max_examples=15)
@given(...)
def test_reuse_and_liveness_are_those_of_a_walk(workload: Workload) -> None:
    program = compose(workload, 2)
    nodes = [n for s in program.sections if s.label == "step" for n in program.graph.nodes[s.first : s.last]]
    table = lower(program.graph, nodes, "fp32", cyclic=True)
    accesses = touches(program.graph, nodes)
    assert [a[2] for a in accesses] == table.access_bytes.tolist()

    # Every touch of every tensor over two turns, and the bytes that passed before each.
    turn = len(accesses)
    passed = np.concatenate([[0.0], np.cumsum([a[2] for a in accesses * 2])])
    moments: dict[int, list[int]] = {}
    for i, access in enumerate(accesses * 2):
        moments.setdefault(access[1], []).append(i)
    for i, (_, tensor, amount, write) in enumerate(accesses):
        same = moments[tensor]
        if write:
            assert rounded_up(table.distance[i], passed[max(j for j in same if j < turn) + 1] - passed[i])
            continue
        # What passed between this touch and the last one, in this turn or the turn before, and the tensor itself.
        before = max(j for j in same if j < i + turn)
        assert rounded_up(table.distance[i], passed[i + turn] - passed[before + 1] + amount)
        in_turn = max((j for j in same if j < i), default=None)
        assert rounded_up(table.cold[i], math.inf if in_turn is None else passed[i] - passed[in_turn + 1] + amount)

    written = {t: amount for _, t, amount, write in reversed(accesses) if write}
    span = {t: [accesses[i][0] for i in moments[t] if i < turn] for t in written}
    peak = max(
        sum(amount for t, amount in written.items() if min(span[t]) <= kernel <= max(span[t]))
        for kernel in range(len(table))
    )
    assert table.live_bytes == pytest.approx(peak)
