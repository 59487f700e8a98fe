"""The cost formulas against brute force: completion times, residency, systolic folds, tiles, reuse, liveness."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ebmsim.cost.machine import machine_of
from ebmsim.cost.products import _tiled, _transformed
from ebmsim.cost.schedule import completion, first_pass, steady_pass
from ebmsim.cost.systolic import fold_cycles
from ebmsim.cost.traffic import hit
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.lower import BYTES, lower, view_roots
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.spec.library import load_hardware, load_profile
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


# --- systolic arrays and tiles --------------------------------------------------------------------------------------


def walked_cycles(folds: int, streamed: int, rows: int, columns: int, double_buffered: bool) -> int:
    """Every vector followed through the array: element r of vector v meets row r, column c at start + v + r + c."""
    ready, free, end = rows, 0, 0
    for _ in range(folds):
        start = max(ready, free)
        end = max(start + v + r + c + 1 for v in range(streamed) for r in range(rows) for c in range(columns))
        if double_buffered:
            # The other buffer fills from the moment this one is in use.
            ready, free = start + rows, start + streamed
        else:
            ready = end + rows
    return end


@settings(max_examples=100)
@given(st.integers(0, 4), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_fold_cycles_are_those_of_a_walk(folds: int, streamed: int, rows: int, columns: int, buffered: bool) -> None:
    assert fold_cycles(folds, streamed, rows, columns, buffered) == walked_cycles(
        folds, streamed, rows, columns, buffered
    )


PRODUCTS = st.tuples(st.integers(1, 4), st.integers(1, 300), st.integers(1, 300), st.integers(1, 600))
CUDA = load_profile("torch-cuda")


@given(PRODUCTS, st.sampled_from(CUDA.tiles), st.sampled_from([1, 2, 4]), st.integers(1, 40))
def test_waves_are_those_of_a_loop(product: tuple[int, ...], tile: list[float], parts: int, units: int) -> None:
    """Tiles dealt to units one by one; a wave takes one tile's cycles, a last one that is not full its share of them."""
    machine = replace(machine_of(load_hardware("rtx5090")), units=units)
    profile = CUDA.model_copy(update={"split_k": [parts]})
    b, m, n, k = product
    rows, columns, fraction = int(tile[0]), int(tile[1]), tile[2]
    ways = _tiled(np.array(product, dtype=float).reshape(4, 1), machine, profile, 1000.0, [tile], 4.0)
    tiles, waves, math_seconds, _ = (np.asarray(x).item() for x in ways.detail)
    count = sum(1 for _ in range(b) for _ in range(0, m, rows) for _ in range(0, n, columns) for _ in range(parts))
    load = [0] * units
    for index in range(count):
        load[index % units] += 1
    assert tiles == count
    even = max(1.0, count / units)
    assert waves == pytest.approx(profile.last_wave * max(load) + (1 - profile.last_wave) * even)
    assert ways.share.item() == pytest.approx(min(1, count / units))
    inner = next(i for i in range(0, 10_000, profile.inner) if i * parts >= k)
    # Elements of both operands that one tile takes in, walked.
    taken = sum(1 for _ in range(min(rows, m))) + sum(1 for _ in range(min(columns, n)))
    cycles = [2 * rows * columns * inner / (1000.0 * fraction), inner * profile.loop, inner * taken * 4 / profile.feed]
    assert math_seconds == pytest.approx(waves * (max(cycles) + profile.prologue) / machine.clock)
    assert (ways.seconds.item() == math.inf) == (parts > 1 and k < 2 * parts * profile.inner)
    assert math_seconds >= 2 * b * m * n * k / (1000.0 * machine.clock * units) * (1 - 1e-12)


@given(PRODUCTS, st.integers(1, 40))
def test_operands_are_those_of_a_loop_over_tiles(product: tuple[int, ...], units: int) -> None:
    """Every tile fetches its rows of one operand and its columns of the other, once."""
    b, m, n, k = product
    machine = replace(machine_of(load_hardware("rtx5090")), units=units)
    rows, columns = 64, 128
    ways = _tiled(
        np.array(product, dtype=float).reshape(4, 1),
        machine,
        CUDA.model_copy(update={"split_k": [1]}),
        1e9,
        [[rows, columns, 1.0]],
        2.0,
    )
    fetched = sum(
        k * (min(rows, m - i) + min(columns, n - j)) * 2
        for _ in range(b)
        for i in range(0, m, rows)
        for j in range(0, n, columns)
    )
    l2 = machine.levels[-2]
    assert np.asarray(ways.detail[3]).item() == pytest.approx(fetched / (l2.bandwidth * l2.efficiency))


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
    table: Any = SimpleNamespace(
        product=np.array([1.0, images * height * width, filters, channels * r * r]).reshape(4, 1),
        window=np.array([r, 1.0, height, width]).reshape(4, 1),
        element_bytes=4.0,
    )
    machine = machine_of(load_hardware("rtx5090"))
    ways = _transformed(table, machine, CUDA, 256.0, "winograd", winograd)
    product = np.array([points, tiles, filters, channels], dtype=float).reshape(4, 1)
    inside = _tiled(product, machine, CUDA, 256.0 * winograd.fraction, CUDA.convolution_tiles)
    moved = 2 * 4 * points * (tiles * channels + tiles * filters + channels * filters)
    l2 = machine.levels[-2]
    extra = moved / (l2.bandwidth * l2.efficiency * winograd.transforms)
    extra += 3 * (CUDA.kernel_time + CUDA.kernel_cycles / machine.clock)
    legal = np.isfinite(inside.seconds)
    assert ways.seconds[legal] == pytest.approx(inside.seconds[legal] + extra)


# --- reuse and liveness ---------------------------------------------------------------------------------------------


def touches(graph: Graph, nodes: list[Node]) -> list[tuple[int, int, float, bool]]:
    """Kernel, tensor, bytes and direction of every access of fp32 nodes that are not views."""
    root = view_roots(graph)
    size = {"float": BYTES["fp32"], "index": 8.0, "mask": 1.0}
    found = []
    for index, node in enumerate(n for n in nodes if OPERATORS[n.op].category != "view"):
        shapes = [[graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs)]
        limits = WORK[node.op](*shapes, dict(node.attributes)).read
        for position, t in enumerate(node.inputs):
            held = graph.tensors[root.get(t, t)]
            elements = min(graph.tensors[t].elements, held.elements, *([limits[position]] if limits else []))
            found.append((index, root.get(t, t), elements * size[graph.tensors[t].kind], False))
        found += [(index, t, graph.tensors[t].elements * size[graph.tensors[t].kind], True) for t in node.outputs]
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

    written = {t: amount for _, t, amount, write in accesses if write}
    span = {t: [accesses[i][0] for i in moments[t] if i < turn] for t in written}
    peak = max(
        sum(amount for t, amount in written.items() if min(span[t]) <= kernel <= max(span[t]))
        for kernel in range(len(table))
    )
    assert table.live_bytes == pytest.approx(peak)
