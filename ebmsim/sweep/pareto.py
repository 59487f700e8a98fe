"""Pareto fronts: the designs that no other design matches in every figure and beats in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ebmsim.errors import Problem, SpecError

# Rows, and pairs of rows, up to which every one is compared with every other.
_FEW = 64
_FEW_PAIRS = 65_536


def front(values: Any, maximise: Iterable[int] = ()) -> Any:
    """Rows of an n × d array that no other row dominates, as ascending indices.

    A row dominates another if it is at most as large in every column and smaller in one; columns in `maximise` count
    the other way round. Equal rows do not dominate each other: all of them are kept. A row with a NaN is never kept and
    dominates nothing. Exact: figures are compared, never added. O(n log n) for d ≤ 2, O(n (log n)^(d-2)) beyond (Kung,
    Luccio and Preparata, Journal of the ACM 22(4), 1975). Raises SpecError for other shapes and unknown columns.

    The front of several parts is the front of their fronts together.
    """
    points = _minimised(values, tuple(maximise))
    known = np.flatnonzero(~np.isnan(points).any(axis=1))
    return np.sort(known[_front(points[known])])


def _minimised(values: Any, maximise: tuple[int, ...]) -> Any:
    """The values as an array of their own, less being better in every column."""
    points = np.array(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise SpecError([Problem(f"expected rows and columns of figures, found the shape {points.shape}")])
    width = points.shape[1]
    unknown = [column for column in maximise if not 0 <= column < width]
    if unknown:
        raise SpecError([Problem(f"expected a column from 0 to {width - 1}, found {column}") for column in unknown])
    columns = list(dict.fromkeys(maximise))
    points[:, columns] = -points[:, columns]
    return points


def _front(points: Any) -> Any:
    """Indices of the rows that no other dominates, in any order.

    Rows with less in the first column cannot be dominated by the others, and those they match in the other columns are
    dominated.
    """
    count, width = points.shape
    if width == 1:
        return np.flatnonzero(points[:, 0] == points[:, 0].min(initial=np.inf))
    if width == 2:
        return _staircase(points)
    if count <= _FEW:
        return np.flatnonzero(~_dominated(points))
    low = _lower_part(points[:, 0])
    if low is None:
        return _front(points[:, 1:])
    inner, outer = np.flatnonzero(low), np.flatnonzero(~low)
    first = inner[_front(points[inner])]
    outer = outer[~_matched(points[first, 1:], points[outer, 1:])]
    return np.concatenate([first, outer[_front(points[outer])]])


def _staircase(points: Any) -> Any:
    """The front in two columns: rows with less in the second than all rows with less in the first."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    x, y = points[order].T
    starts = np.flatnonzero(np.append(True, x[1:] != x[:-1])) if len(x) else np.zeros(0, dtype=np.intp)
    least = y[starts]
    before = np.append(np.inf, np.minimum.accumulate(least)[:-1]) if len(starts) else least
    steps = np.diff(np.append(starts, len(x)))
    # The first step has nothing before it: it stays even where its second column is infinite.
    falls = least < before
    falls[:1] = True
    return order[(y == np.repeat(least, steps)) & np.repeat(falls, steps)]


def _dominated(points: Any) -> Any:
    """Whether another row dominates each, all compared with all."""
    no_larger = _no_larger(points, points)
    return (no_larger & ~no_larger.T).any(axis=0)


def _no_larger(rows: Any, others: Any) -> Any:
    """Whether row i is at most as large as other row j in every column."""
    found = rows[:, None, 0] <= others[:, 0]
    for column in range(1, rows.shape[1]):
        found &= rows[:, None, column] <= others[:, column]
    return found


def _matched(rows: Any, others: Any) -> Any:
    """Whether each of `others` has a row that is at most as large in every column."""
    width = others.shape[1]
    if not len(rows) or not len(others):
        return np.zeros(len(others), dtype=bool)
    if width == 1:
        return others[:, 0] >= rows[:, 0].min()
    if width == 2:
        return _above_staircase(rows, others)
    if len(rows) * len(others) <= _FEW_PAIRS:
        return _no_larger(rows, others).any(axis=0)
    if len(rows) <= _FEW:
        return _matched_one_by_one(rows, others)
    low = _lower_part(np.concatenate([rows[:, 0], others[:, 0]]))
    if low is None:
        return _matched(rows[:, 1:], others[:, 1:])
    near, far = low[: len(rows)], low[len(rows) :]
    found = np.zeros(len(others), dtype=bool)
    found[far] = _matched(rows[near], others[far])
    found[~far] = _matched(rows[near, 1:], others[~far, 1:])
    left = ~far & ~found
    found[left] = _matched(rows[~near], others[left])
    return found


def _above_staircase(rows: Any, others: Any) -> Any:
    """The same in two columns: the least second column among rows up to the first one."""
    order = np.argsort(rows[:, 0])
    x, y = rows[order, 0], np.minimum.accumulate(rows[order, 1])
    place = np.searchsorted(x, others[:, 0], side="right")
    return (place > 0) & (y[place - 1] <= others[:, 1])


def _matched_one_by_one(rows: Any, others: Any) -> Any:
    """The same, one row after another; others that found theirs are compared no more."""
    left = np.arange(len(others))
    for row in rows:
        left = left[~(row <= others[left]).all(axis=1)]
    found = np.ones(len(others), dtype=bool)
    found[left] = False
    return found


def _lower_part(values: Any) -> Any:
    """About the lower half of the values, cut between different ones; None where all are equal."""
    cut = np.partition(values, len(values) // 2)[len(values) // 2]
    low = values < cut
    if low.any():
        return low
    low = values <= cut
    return None if low.all() else low
