"""Cycles of one systolic array: against a grid of cells walked cycle by cycle, and against SCALE-Sim's own output."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim import SpecError, systolic_cycles

# --- a grid of cells, in plain Python -------------------------------------------------------------------------------
#
# Every value is a token that moves at most one cell a cycle and carries what it belongs to; a cell reads only what its
# neighbours held in the cycle before. Two values in one register at a time, or a weight or result lost, is a collision.


class CollisionError(Exception):
    pass


def put(register: dict[Any, Any], at: Any, token: Any) -> None:
    if at in register:
        raise CollisionError(at)
    register[at] = token


def entering(starts: list[int], time: int, length: int) -> tuple[int, int] | None:
    """Which fold, and which of its `length` words, passes a point at a time; a point takes one word a cycle."""
    found = [(fold, time - start) for fold, start in enumerate(starts) if 0 <= time - start < length]
    if len(found) > 1:
        raise CollisionError("two words at an edge")
    return found[0] if found else None


def cut(matrix: Any, height: int, width: int) -> list[tuple[int, int, Any]]:
    """Tiles of a matrix with their place, filled up with zeros."""
    found = []
    for i in range(0, len(matrix), height):
        for j in range(0, len(matrix[0]), width):
            tile = np.zeros((height, width), dtype=int)
            part = matrix[i : i + height, j : j + width]
            tile[: part.shape[0], : part.shape[1]] = part
            found.append((i, j, tile))
    return found


def loaded(inputs: Any, weights: Any, rows: int, columns: int, folds: list[Any], interval: int, result: Any) -> int:
    """inputs (T × K) · weights (K × N), weights stationary; the cycles up to the last result.

    Weights go down their column, one row a cycle, each to its row. An input vector enters skewed, element r a cycle
    after element r - 1, and moves right; its first one makes a cell take the new weight. Partial sums move down.
    """
    length = len(inputs)
    starts = [rows + fold * interval for fold in range(len(folds))]
    waiting: dict[Any, Any] = {}  # weights on their way or waiting for their fold: fold, row, value
    weight: dict[Any, int] = {}
    moving: dict[Any, Any] = {}  # fold, vector, value
    sums: dict[Any, Any] = {}
    left, time = len(folds) * length * columns, 0
    while left:
        next_waiting: dict[Any, Any] = {}
        next_moving: dict[Any, Any] = {}
        next_sums: dict[Any, Any] = {}
        for r in range(rows):
            for c in range(columns):
                vector = moving.get((r, c - 1)) if c else entering(starts, time - r, length)
                if vector is not None:
                    fold, v = vector[:2]
                    i, j, _ = folds[fold]
                    value = vector[2] if c else (int(inputs[v, i + r]) if i + r < inputs.shape[1] else 0)
                    if v == 0:
                        if (r, c) not in waiting or waiting[r, c][:2] != (fold, r):
                            raise CollisionError("weight not there in time")
                        weight[r, c] = waiting.pop((r, c))[2]
                    above = sums[r - 1, c] if r else (fold, v, 0)
                    assert above[:2] == (fold, v)
                    total = above[2] + weight[r, c] * value
                    next_moving[r, c] = (fold, v, value)
                    next_sums[r, c] = (fold, v, total)
                    if r == rows - 1:
                        left -= 1
                        if j + c < result.shape[1]:
                            result[v, j + c] += total
        for (r, c), token in waiting.items():
            put(next_waiting, (r, c) if token[1] == r else (r + 1, c), token)
        for c in range(columns):
            word = entering([start - rows for start in starts], time - c, rows)
            if word is not None:
                fold, row = word[0], rows - 1 - word[1]
                put(next_waiting, (0, c), (fold, row, int(folds[fold][2][row, c])))
        waiting, moving, sums = next_waiting, next_moving, next_sums
        time += 1
    return time


def drained(a: Any, b: Any, rows: int, columns: int, folds: list[Any], interval: int, result: Any) -> int:
    """a (M × K) · b (K × N), results stationary; the cycles up to the last result.

    a enters from the left and b from above, both skewed. A finished sum waits in a second register until the lowest
    cell of its column has finished; then the column moves down, and a result a cycle leaves it.
    """
    length = a.shape[1]
    starts = [fold * interval for fold in range(len(folds))]
    right: dict[Any, Any] = {}
    down: dict[Any, Any] = {}
    sums = dict.fromkeys([(r, c) for r in range(rows) for c in range(columns)], 0)
    done: dict[Any, Any] = {}  # fold, row, value
    leaving: dict[int, int] = {}  # by column, the fold that drains
    left, time = len(folds) * rows * columns, 0
    while left:
        next_right: dict[Any, Any] = {}
        next_down: dict[Any, Any] = {}
        next_done: dict[Any, Any] = {}
        for (r, c), token in done.items():
            if leaving.get(c) != token[0]:
                put(next_done, (r, c), token)
            elif r < rows - 1:
                put(next_done, (r + 1, c), token)
            else:
                left -= 1
                i, j = folds[token[0]]
                if i + token[1] < result.shape[0] and j + c < result.shape[1]:
                    result[i + token[1], j + c] = token[2]
        for r in range(rows):
            for c in range(columns):
                first = right.get((r, c - 1)) if c else entering(starts, time - r, length)
                second = down.get((r - 1, c)) if r else entering(starts, time - c, length)
                if first is None:
                    continue
                assert second is not None and first[:2] == second[:2]
                fold, k = first[:2]
                i, j = folds[fold]
                x = first[2] if c else (int(a[i + r, k]) if i + r < len(a) else 0)
                y = second[2] if r else (int(b[k, j + c]) if j + c < b.shape[1] else 0)
                next_right[r, c], next_down[r, c] = (fold, k, x), (fold, k, y)
                sums[r, c] += x * y
                if k == length - 1:
                    put(next_done, (r, c), (fold, r, sums[r, c]))
                    sums[r, c] = 0
        for c in range(columns):
            lowest = next_done.get((rows - 1, c))
            if c in leaving and not any(at[1] == c and token[0] == leaving[c] for at, token in next_done.items()):
                del leaving[c]
            if lowest is not None and lowest[1] == rows - 1:
                if c in leaving:
                    raise CollisionError("two tiles drain at once")
                leaving[c] = lowest[0]
        right, down, done = next_right, next_down, next_done
        time += 1
    return time


def walked(m: int, n: int, k: int, rows: int, columns: int, dataflow: str, double_buffered: bool) -> int:
    """Cycles of a product of random numbers on the grid, the result checked.

    Alone: every fold in an empty array. Double-buffered: folds follow one another at the smallest distance at which
    nothing collides.
    """
    random = np.random.default_rng(m + 10 * n + 100 * k)
    a, b = random.integers(1, 100, (m, k)), random.integers(1, 100, (k, n))
    one: Callable[..., int] = drained if dataflow == "os" else loaded
    # An input-stationary array computes the transposed product with the roles of a and b exchanged.
    x, y = (b.T, a.T) if dataflow == "is" else (a, b)
    if dataflow == "os":
        folds: list[Any] = [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)]
    else:
        folds = cut(y, rows, columns)
    if not double_buffered:
        result = np.zeros((len(x), y.shape[1]), dtype=int)
        cycles = sum(one(x, y, rows, columns, [fold], 1, result) for fold in folds)
        assert (result == x @ y).all()
        return cycles
    for interval in range(1, max(rows, m, n, k) + 1):
        result = np.zeros((len(x), y.shape[1]), dtype=int)
        try:
            cycles = one(x, y, rows, columns, folds, interval, result)
        except CollisionError:
            continue
        assert (result == x @ y).all()
        return cycles
    raise AssertionError("no interval without collisions")


SMALL = st.integers(1, 7)
SIDES = st.integers(1, 4)
SHORT = ("ws", "os", "is")


@pytest.mark.parametrize("double_buffered", [False, True])
@pytest.mark.parametrize("dataflow", SHORT)
@settings(max_examples=60, deadline=None)
@given(SMALL, SMALL, SMALL, SIDES, SIDES)
def test_the_formula_is_what_a_grid_of_cells_takes(
    dataflow: str, double_buffered: bool, m: int, n: int, k: int, rows: int, columns: int
) -> None:
    found = systolic_cycles(m, n, k, rows=rows, cols=columns, dataflow=dataflow, double_buffered=double_buffered)
    assert found == walked(m, n, k, rows, columns, dataflow, double_buffered)


def test_the_table_of_the_assumptions() -> None:
    """512 × 512 × 512 on 128 × 128 cells: 16 folds of 128 + 512 + 254 cycles."""
    found = {
        (dataflow, convention, buffered): systolic_cycles(
            512, 512, 512, rows=128, cols=128, dataflow=dataflow, convention=convention, double_buffered=buffered
        )
        for dataflow in ("ws", "os")
        for convention, buffered in (
            ("hardware", False), ("hardware", True), ("scalesim", False), ("scalesim-paper", False)
        )
    }  # fmt: skip
    assert list(found.values()) == [14304, 8574, 14303, 14304, 14304, 8574, 12255, 14304]


def test_one_fold_by_hand() -> None:
    """2 × 3 cells, 4 vectors: 2 cycles to load, 4 to stream, 3 for the skew; the last of 3 results is drained in 2."""
    assert systolic_cycles(4, 3, 2, rows=2, cols=3, dataflow="ws") == 2 + 4 + 3
    assert systolic_cycles(2, 3, 4, rows=2, cols=3, dataflow="os") == 4 + 3 + 2
    assert systolic_cycles(3, 4, 2, rows=2, cols=3, dataflow="is") == 2 + 4 + 3


@given(SMALL, SMALL, SMALL, SIDES, SIDES, st.sampled_from(SHORT), st.booleans())
def test_never_faster_than_the_work_of_all_cells_nor_slower_for_buffers(
    m: int, n: int, k: int, rows: int, columns: int, dataflow: str, buffered: bool
) -> None:
    alone, overlapped = (
        systolic_cycles(m, n, k, rows=rows, cols=columns, dataflow=dataflow, double_buffered=b) for b in (False, True)
    )
    assert m * n * k <= overlapped * rows * columns
    assert overlapped <= alone


# --- SCALE-Sim ------------------------------------------------------------------------------------------------------

# Compute cycles that SCALE-Sim 3.0.0 (PyPI scalesim, MIT) prints for a GEMM of m, n, k with ample bandwidth; those of
# 196, 784 and 49 rows are convolutions of ResNet-18 as products.
PRINTED = [
    ("is", 16, 64, 197, 197, 64, 4655),
    ("is", 128, 128, 1, 1, 1, 382),
    ("os", 16, 64, 100, 100, 100, 2491),
    ("os", 64, 16, 197, 197, 64, 7383),
    ("os", 128, 128, 196, 256, 1152, 5623),
    ("os", 256, 256, 49, 512, 4608, 10235),
    ("ws", 32, 32, 196, 256, 2304, 167039),
    ("ws", 128, 128, 784, 128, 1152, 10493),
    ("ws", 256, 256, 49, 512, 4608, 29339),
]


@pytest.mark.parametrize(("dataflow", "rows", "columns", "m", "n", "k", "cycles"), PRINTED)
def test_what_scale_sim_prints(dataflow: str, rows: int, columns: int, m: int, n: int, k: int, cycles: int) -> None:
    sizes = {"rows": rows, "cols": columns, "dataflow": dataflow}
    assert systolic_cycles(m, n, k, convention="scalesim", **sizes) == cycles


FOLDER = os.environ.get("EBMSIM_MEASUREMENTS", "")
TABLE = Path(FOLDER, "scalesim_cases.csv")


@pytest.mark.skipif(not FOLDER or not TABLE.is_file(), reason="EBMSIM_MEASUREMENTS names no folder of tables")
def test_every_row_of_the_table() -> None:
    with TABLE.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    for dataflow in SHORT:
        mine = [row for row in rows if row["dataflow"] == dataflow]
        m, n, k, height, width, cycles = (
            np.array([int(row[name]) for row in mine])
            for name in ("M", "N", "K", "array_rows", "array_cols", "compute_cycles")
        )
        found = systolic_cycles(m, n, k, rows=height, cols=width, dataflow=dataflow, convention="scalesim")
        assert (found == cycles).all()


@given(SMALL, SMALL, SMALL, SIDES, SIDES, st.sampled_from(SHORT))
def test_conventions_beside_one_another(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> None:
    """The papers' formula is the count of folds alone; the tool's lacks a cycle, and the drain of results."""
    hardware, printed, published = (
        systolic_cycles(m, n, k, rows=rows, cols=columns, dataflow=dataflow, convention=name)
        for name in ("hardware", "scalesim", "scalesim-paper")
    )
    assert published == hardware
    results = -(-m // rows) * -(-n // columns) if dataflow == "os" else 0
    assert printed == hardware - results * rows - 1


# --- arrays, names, refusals ----------------------------------------------------------------------------------------


def test_arrays_broadcast() -> None:
    m, rows = np.array([[1], [30], [500]]), np.array([8, 16, 32, 100])
    found = systolic_cycles(m, 70, 90, rows=rows, cols=2 * rows, dataflow="os", double_buffered=True)
    assert found.shape == (3, 4)
    for i, j in np.ndindex(3, 4):
        one = systolic_cycles(
            int(m[i, 0]), 70, 90, rows=int(rows[j]), cols=2 * int(rows[j]), dataflow="os", double_buffered=True
        )
        assert isinstance(one, int) and found[i, j] == one


def test_short_names_are_those_of_hardware_files() -> None:
    for short, name in (("ws", "weight-stationary"), ("os", "output-stationary"), ("is", "input-stationary")):
        one, other = (systolic_cycles(50, 40, 30, rows=8, cols=4, dataflow=d) for d in (short, name))
        assert one == other


def test_whole_numbers_of_other_types() -> None:
    assert systolic_cycles(2.0, np.int64(3), np.float32(4), rows=2, cols=3, dataflow="os") == 9


def refusal(*sizes: Any, **more: Any) -> str:
    with pytest.raises(SpecError) as caught:
        systolic_cycles(*sizes, **{"rows": 2, "cols": 2, "dataflow": "ws"} | more)
    return str(caught.value)


def test_all_problems_at_once() -> None:
    assert refusal(0, 2.5, "3", rows=-1, cols=True, dataflow="os-stationary", convention="scale-sim") == (
        "m: expected a whole number from 1 to 1e9, found 0\n"
        "n: expected a whole number from 1 to 1e9, found 2.5\n"
        "k: expected a whole number from 1 to 1e9, found '3'\n"
        "rows: expected a whole number from 1 to 1e9, found -1\n"
        "cols: expected a whole number from 1 to 1e9, found True\n"
        "dataflow: unknown dataflow 'os-stationary'\n"
        "    nearest: output-stationary, input-stationary, weight-stationary\n"
        "convention: unknown convention 'scale-sim'\n"
        "    did you mean 'scalesim'?\n"
        "7 errors"
    )


@pytest.mark.parametrize(
    ("m", "shown"),
    [
        (float("nan"), "nan"), (float("inf"), "inf"), (10**10, "10000000000"), (10**30, str(10**30)), (None, "None"),
        ([3, 0, 4], "0"), ([1, [2, 3]], "[1, [2, 3]]"), ([], "[]"), (1j, "1j"),
    ],
)  # fmt: skip
def test_sizes_that_are_refused(m: Any, shown: str) -> None:
    assert refusal(m, 1, 1) == f"m: expected a whole number from 1 to 1e9, found {shown}"


def test_combinations_that_are_refused() -> None:
    assert refusal([1, 2], [1, 2, 3], 1) == "expected sizes that broadcast, found shapes m (2,), n (3,)"
    assert refusal(1, 1, 1, convention="scalesim", double_buffered=True) == (
        "double_buffered: the convention 'scalesim' knows no double buffering"
    )
    assert refusal(1, 1, 1, double_buffered=1) == "double_buffered: expected True or False, found 1"
    assert refusal(1, 1, 1, dataflow=["ws"]).startswith("dataflow: unknown dataflow ['ws']")
