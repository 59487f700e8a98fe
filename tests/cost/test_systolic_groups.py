"""Products on the systolic arrays of a device: dataflows, several arrays, unequal ones, against brute force."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim import systolic_cycles
from ebmsim.cost.machine import Machine, machine_of
from ebmsim.cost.products import choices, group_seconds, product_seconds
from ebmsim.cost.systolic import Lane, dealt_cycles, dealt_pieces
from ebmsim.cost.ways import ways_of
from ebmsim.estimation import estimate
from ebmsim.graph.rows import Products
from ebmsim.hardware import Hardware, SubArray
from ebmsim.policy import Policy
from ebmsim.report.explain import explain_kernel
from ebmsim.spec.hardware import parse_hardware
from ebmsim.spec.library import folder, load_hardware, load_profile, load_workload
from ebmsim.spec.located import parse_document
from ebmsim.sweep.figures import figures_of, with_figures

TPU, PROFILE, POLICY = load_hardware("tpu_v6e"), load_profile("xla-tpu"), Policy(dtype="bf16")
LONG = {"ws": "weight-stationary", "os": "output-stationary", "is": "input-stationary"}
CELL = 2 * TPU.clock  # FLOP/s of a cell

SIZES = st.tuples(st.integers(1, 4), st.integers(1, 200), st.integers(1, 200), st.integers(1, 200))
GROUPS = st.lists(
    st.builds(SubArray, st.sampled_from([4, 8, 32]), st.sampled_from([4, 8, 64]), st.integers(1, 4)),
    min_size=1,
    max_size=3,
)


def device(*groups: SubArray, dataflow: str = "weight-stationary", buffered: bool = True) -> Hardware:
    """A TPU with other arrays, all of whose cells have the rate of its own."""
    peak = {"bf16": CELL * sum(g.cells for g in groups)}
    matrix = replace(TPU.matrix, peak=peak, subarrays=groups, dataflow=dataflow, weights_double_buffered=buffered)
    return replace(TPU, matrix=matrix)


def products(*sizes: tuple[float, ...]) -> Products:
    shape = np.array(sizes, dtype=float).T
    none = np.zeros(len(sizes))
    return Products(shape, np.zeros_like(shape), none > 0, none > 0, none, 2.0)


def seconds(hardware: Hardware, *sizes: tuple[float, ...]) -> Any:
    some = products(*sizes)
    return product_seconds(some, ways_of(some, PROFILE), machine_of(hardware), PROFILE, POLICY)


# --- one group ------------------------------------------------------------------------------------------------------


@given(SIZES, st.sampled_from(list(LONG)), st.booleans())
def test_a_product_on_one_array_takes_its_cycles(size: tuple[int, ...], dataflow: str, buffered: bool) -> None:
    """As it is or transposed, whichever is faster."""
    _, m, n, k = size
    sizes = {"rows": 8, "cols": 16, "dataflow": dataflow, "double_buffered": buffered}
    best = min(systolic_cycles(m, n, k, **sizes), systolic_cycles(n, m, k, **sizes))
    found = seconds(device(SubArray(8, 16, 1), dataflow=LONG[dataflow], buffered=buffered), (1, m, n, k))
    assert found == pytest.approx([best / TPU.clock])


def tiles(b: int, along_rows: int, along_columns: int, group: SubArray) -> Iterator[tuple[int, int, int]]:
    for member in range(b):
        for i in range(0, along_rows, group.rows):
            for j in range(0, along_columns, group.columns):
                yield member, i, j


@given(SIZES, st.sampled_from(list(LONG)), st.integers(1, 5), st.booleans())
def test_folds_are_dealt_to_the_arrays_in_turn(
    size: tuple[int, ...], dataflow: str, arrays: int, buffered: bool
) -> None:
    b, m, n, k = size
    group = SubArray(16, 32, arrays)
    ends = []
    for x, y in ((m, n), (n, m)):
        along_rows, along_columns, streamed = {"ws": (k, y, x), "os": (x, y, k), "is": (k, x, y)}[dataflow]
        load = [0] * arrays
        for index, _ in enumerate(tiles(b, along_rows, along_columns, group)):
            load[index % arrays] += 1
        cycles = 0
        for fold in range(max(load)):
            alone = 2 * 16 + 32 + streamed - 2
            cycles += max(streamed, 16) if buffered and fold else alone
        ends.append(cycles)
    found = seconds(device(group, dataflow=LONG[dataflow], buffered=buffered), size)
    assert found == pytest.approx([min(ends) / TPU.clock])


def test_the_dataflow_of_the_device_counts() -> None:
    """A deep, narrow product: results stay while k streams past them, or weights are loaded fold by fold."""
    ws, os_ = (seconds(device(SubArray(128, 128, 1), dataflow=LONG[d]), (1, 64, 64, 8192)) for d in ("ws", "os"))
    assert os_ == pytest.approx([(2 * 128 + 128 + 8192 - 2) / TPU.clock])
    assert ws == pytest.approx([(2 * 128 + 128 + 64 - 2 + 63 * 128) / TPU.clock])
    # Weights and inputs change places when a product is transposed.
    assert seconds(device(SubArray(128, 128, 1), dataflow=LONG["is"]), (1, 64, 64, 8192)) == ws


def test_a_larger_array_can_be_slower() -> None:
    """Few vectors, little depth: fill and drain of a larger array take longer than they save."""
    small, large = (seconds(device(SubArray(side, side, 1)), (1, 8, 8, 8)) for side in (8, 256))
    assert large > 10 * small


def test_a_rate_below_that_of_the_cells_stretches_the_cycles() -> None:
    hardware = device(SubArray(16, 16, 2))
    slow = replace(hardware, matrix=replace(hardware.matrix, peak={"bf16": hardware.matrix.peak["bf16"] / 6}))
    assert seconds(slow, (3, 50, 60, 70)) == pytest.approx(6 * seconds(hardware, (3, 50, 60, 70)))


# --- several groups -------------------------------------------------------------------------------------------------

LANES = st.lists(
    st.builds(
        Lane, *[st.integers(1, 6)] * 3, first=st.integers(6, 20), step=st.integers(1, 6)
    ),
    min_size=1,
    max_size=3,
)  # fmt: skip


def splits(pieces: int, count: int) -> Iterator[tuple[int, ...]]:
    if count == 1:
        yield (pieces,)
        return
    for first in range(pieces + 1):
        for rest in splits(pieces - first, count - 1):
            yield (first, *rest)


def end(lanes: list[Lane], parts: Any) -> float:
    """When the last lane has done its part, folds dealt to its arrays one by one."""
    ends = [0]
    for lane, part in zip(lanes, parts, strict=True):
        load = [0] * lane.arrays
        for fold in range(lane.folds * len(range(0, int(part), lane.width))):
            load[fold % lane.arrays] += 1
        if part:
            ends.append(lane.first + (max(load) - 1) * lane.step)
    return max(ends)


@given(st.integers(1, 25), LANES)
def test_pieces_are_dealt_so_that_the_last_group_ends_soonest(pieces: int, lanes: list[Lane]) -> None:
    best = min(end(lanes, split) for split in splits(pieces, len(lanes)))
    assert dealt_cycles(pieces, lanes) == best
    dealt = dealt_pieces(pieces, lanes)
    assert sum(dealt) == pieces and end(lanes, dealt) == best


def test_one_group_of_a_list_is_the_plain_form() -> None:
    text = (folder("hardware") / "tpu_v6e.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not re.match("  (matrix.)?(arrays|rows|columns):", line)]
    listed = "\n".join(lines).replace("  dataflow:", "  subarrays: [{rows: 256, columns: 256, arrays: 4}]\n  dataflow:")
    found = parse_hardware(parse_document(listed))
    assert found.matrix == TPU.matrix
    sizes = [(1, 300, 512, 512), (7, 1, 9, 1000), (1, 4096, 4096, 4096)]
    assert seconds(found, *sizes).tolist() == seconds(TPU, *sizes).tolist()


@settings(max_examples=50)
@given(GROUPS, st.lists(SIZES, min_size=1, max_size=4), st.sampled_from(list(LONG)), st.booleans(), st.data())
def test_another_group_or_array_or_more_clock_is_never_slower(
    groups: list[SubArray], sizes: list[tuple[int, ...]], dataflow: str, buffered: bool, data: st.DataObject
) -> None:
    how: dict[str, Any] = {"dataflow": LONG[dataflow], "buffered": buffered}
    before = seconds(device(*groups, **how), *sizes)
    (extra,) = data.draw(GROUPS.filter(lambda found: len(found) == 1))
    at = data.draw(st.integers(0, len(groups)))
    after = [seconds(device(*groups[:at], extra, *groups[at:], **how), *sizes)]
    which = data.draw(st.integers(0, len(groups) - 1))
    more = replace(groups[which], arrays=groups[which].arrays + data.draw(st.integers(1, 3)))
    after.append(seconds(device(*groups[:which], more, *groups[which + 1 :], **how), *sizes))
    faster = device(*groups, **how)
    after.append(seconds(replace(faster, sustained_clock=1.5 * faster.sustained_clock), *sizes))
    for found in after:
        assert (found <= before * (1 + 1e-12)).all()


@settings(max_examples=50)
@given(GROUPS, st.lists(SIZES, min_size=1, max_size=4), st.sampled_from(list(LONG)))
def test_a_group_alone_is_a_device_that_has_only_it(
    groups: list[SubArray], sizes: list[tuple[int, ...]], dataflow: str
) -> None:
    whole = device(*groups, dataflow=LONG[dataflow])
    found = group_seconds(products(*sizes), machine_of(whole), PROFILE, POLICY)
    assert found.shape == (len(groups), len(sizes))
    for alone, group in zip(found, groups, strict=True):
        assert alone == pytest.approx(seconds(device(group, dataflow=LONG[dataflow]), *sizes))
    together = seconds(whole, *sizes)
    assert (together <= found.min(0) * (1 + 1e-12)).all()
    work = np.array([2 * np.prod(size) for size in sizes])
    assert (together >= work / whole.matrix.peak["bf16"] * (1 - 1e-12)).all()


def test_arrays_of_figures_are_their_points() -> None:
    hardware = device(SubArray(64, 64, 4), SubArray(32, 16, 8))
    values = {"matrix.subarrays[0].rows": [32.0, 64.0], "matrix.subarrays[1].arrays": [4.0, 8.0, 20.0], "units": [1, 2]}
    axes = dict(zip(values, np.ix_(*values.values(), [0.0])[:-1], strict=True))
    sizes = [(1, 300, 70, 512), (7, 1, 9, 1000), (64, 40, 40, 64)]
    grid = seconds(with_figures(hardware, axes), *sizes)
    alone = group_seconds(products(*sizes), machine_of(with_figures(hardware, axes)), PROFILE, POLICY)
    assert grid.shape == (2, 3, 2, 3) and alone.shape == (2, 2, 3, 2, 3)
    for at in np.ndindex(2, 3, 2):
        point = {path: numbers[i] for (path, numbers), i in zip(values.items(), at, strict=True)}
        one = with_figures(hardware, point)
        assert grid[at] == pytest.approx(seconds(one, *sizes), rel=1e-12)
        found = group_seconds(products(*sizes), machine_of(one), PROFILE, POLICY)
        assert alone[:, *at] == pytest.approx(found, rel=1e-12)


# --- figures by path, and what is said of a product -----------------------------------------------------------------


def test_peaks_follow_the_cells() -> None:
    hardware = device(SubArray(64, 64, 4), SubArray(32, 16, 8))
    paths = [path for path in figures_of(hardware) if "subarrays" in path]
    assert paths == [f"matrix.subarrays[{i}].{name}" for i in (0, 1) for name in ("rows", "columns", "arrays")]
    assert with_figures(hardware, figures_of(hardware)) == hardware
    more = with_figures(hardware, {"matrix.subarrays[1].columns": 64})
    assert more.matrix.subarrays == (SubArray(64, 64, 4), SubArray(32, 64, 8))
    assert more.matrix.peak["bf16"] == pytest.approx(CELL * more.matrix.cells)
    twice = with_figures(TPU, {"units": 2, "matrix.arrays": 12})
    assert twice.matrix.peak["bf16"] == pytest.approx(3 * TPU.matrix.peak["bf16"])
    assert twice.vector.peak["fp32"] == 2 * TPU.vector.peak["fp32"]
    assert not [path for path in figures_of(load_hardware("a100")) if path.startswith("matrix.rows")]


def chosen(machine: Machine, *sizes: tuple[float, ...]) -> Any:
    some = products(*sizes)
    return choices(some, ways_of(some, PROFILE), machine, PROFILE, POLICY)


def test_what_a_product_took_is_named() -> None:
    hardware = device(SubArray(128, 128, 4), SubArray(64, 64, 8))
    sizes = [(1, 4096, 768, 4096), (1, 8, 8, 8), (96, 8, 64, 64)]
    both, small, batch = found = chosen(machine_of(hardware), *sizes)
    # A column of 128 takes 32 folds on 4 arrays, one of 64 takes 64 on 8: 4 of each in 32 rounds fill all cells.
    assert both.name == "weights stationary on 128 × 128 (512 columns) and 64 × 64 (256 columns)"
    assert (both.parts, both.rounds, both.share) == (4 * 32 + 4 * 64, 32, 1)
    assert small.name == "weights stationary on 64 × 64" and small.parts == small.rounds == 1
    assert small.share == pytest.approx(64 * 64 / hardware.matrix.cells)
    # Folds of 390 and 198 cycles, then 128 and 64 each: 390 + 3 · 128 = 198 + 9 · 64.
    assert batch.name == "weights stationary on 128 × 128 (16 of the batch) and 64 × 64 (80 of the batch)"
    assert batch.seconds == pytest.approx(774 / TPU.clock)
    assert [choice.seconds for choice in found] == seconds(hardware, *sizes).tolist()
    (plain,) = chosen(machine_of(device(SubArray(128, 128, 4))), (1, 500, 256, 512))
    assert (plain.name, plain.parts, plain.rounds) == ("weights stationary", 8, 2)
    (outputs,) = chosen(machine_of(device(SubArray(16, 64, 1), dataflow=LONG["os"])), (1, 64, 16, 999))
    assert outputs.name == "outputs stationary, transposed"


def test_explain_shows_the_groups() -> None:
    hardware = device(SubArray(128, 128, 4), SubArray(16, 16, 8))
    found = estimate(load_workload("ired", "small"), hardware, replace(POLICY, software="xla-tpu"))
    product = next(row["kernel"] for row in found.to_rows() if row["op"] == "linear")
    assert "stationary on 1" in explain_kernel(found, product)
