"""Pareto fronts equal those of comparing every row with every other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from ebmsim.errors import SpecError
from ebmsim.report.plots_sweep import plot_front
from ebmsim.sweep import pareto
from ebmsim.sweep.pareto import front

# Few different figures, so that ties are many; NaN and both infinities among them.
TIED = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40).map(lambda shape: (shape[0], 1 + shape[1] % 6)),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, 3.0, np.inf, np.nan]),
    fill=st.nothing(),
)


def compared(values: Any) -> list[int]:
    """The front as it is defined, row by row."""
    found = []
    for i, row in enumerate(values):
        no_larger, smaller = (values <= row).all(axis=1), (values < row).any(axis=1)
        if not np.isnan(row).any() and not (no_larger & smaller).any():
            found.append(i)
    return found


@given(values=TIED)
def test_a_front_is_what_no_row_dominates(values: Any) -> None:
    assert front(values).tolist() == compared(values)


@settings(max_examples=100)
@given(values=TIED, few=st.sampled_from([1, 2, 8]))
def test_parts_however_small_give_the_same(values: Any, few: int) -> None:
    # Rows are compared all with all only where they are few: with fewer, every cut is taken on small arrays too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pareto, "_FEW", few)
        patch.setattr(pareto, "_FEW_PAIRS", few)
        assert front(values).tolist() == compared(values)


@given(values=TIED, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_front_of_parts_is_that_of_their_fronts(values: Any, cuts: list[int]) -> None:
    parts = np.split(np.arange(len(values)), sorted(min(cut, len(values)) for cut in cuts))
    survivors = np.concatenate([part[front(values[part])] for part in parts])
    assert survivors[front(values[survivors])].tolist() == front(values).tolist()


@given(values=TIED, data=st.data())
def test_columns_to_maximise_are_their_negatives(values: Any, data: st.DataObject) -> None:
    columns = data.draw(st.lists(st.integers(0, values.shape[1] - 1), max_size=3))
    negated = values.copy()
    negated[:, sorted(set(columns))] *= -1.0
    before = values.copy()
    assert front(values, maximise=columns).tolist() == front(negated).tolist()
    assert np.array_equal(values, before, equal_nan=True)


def drawn(name: str, count: int, width: int) -> Any:
    random = np.random.default_rng(width)
    if name == "uniform":
        return random.random((count, width))
    if name == "tied":
        return random.integers(0, 20, (count, width)).astype(float)
    values = random.exponential(size=(count, width))
    return values / values.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("name", ["uniform", "tied", "all on the front"])
def test_ten_thousand_rows_equal_comparison(name: str, width: int) -> None:
    values = drawn(name, 10_000, width)
    found = front(values)
    assert found.tolist() == compared(values)
    if name == "all on the front":
        # Rows that sum to 1 dominate each other only where rounding decides.
        assert len(found) > 9_900


def test_a_million_rows_keep_what_their_parts_keep() -> None:
    values = drawn("uniform", 1_000_000, 3)
    found = front(values)
    parts = [i + front(values[i : i + 50_000]) for i in range(0, len(values), 50_000)]
    survivors = np.concatenate(parts)
    assert found.tolist() == survivors[np.array(compared(values[survivors]))].tolist()


def test_equal_rows_stay_and_nan_goes() -> None:
    values = [[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [2.0, 2.0], [np.nan, 0.0]]
    assert front(values).tolist() == [0, 1, 2]
    assert front(np.zeros((0, 3))).tolist() == []


@pytest.mark.parametrize(
    ("values", "maximise", "message"),
    [
        ([1.0, 2.0], (), "expected rows and columns of figures, found the shape (2,)"),
        (np.zeros((3, 0)), (), "expected rows and columns of figures, found the shape (3, 0)"),
        ([[1.0, 2.0]], (2,), "expected a column from 0 to 1, found 2"),
        ([[1.0, 2.0]], (-1,), "expected a column from 0 to 1, found -1"),
    ],
)
def test_other_shapes_and_columns_are_refused(values: Any, maximise: tuple[int, ...], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        front(values, maximise)
    assert str(caught.value) == message


def test_a_picture_has_all_points_and_the_front(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    random = np.random.default_rng(0)
    x, y = np.exp(random.normal(size=(2, 2_000)))
    found = front(np.stack([x, y], axis=1))
    axes = Figure().subplots()
    assert plot_front(axes, x, y, found, "T_inf, s", "energy, J") is axes
    points, line = axes.lines
    assert np.array_equal(points.get_xdata(), x) and np.array_equal(points.get_ydata(), y)
    assert np.array_equal(line.get_xdata(), np.sort(x[found]))
    assert axes.get_xscale() == axes.get_yscale() == "log"
    # Less of one costs more of the other all along the front.
    assert (np.diff(line.get_ydata()) <= 0).all() and line.get_linestyle() == "-"
    # With a third figure the front is no line in these two.
    of_three = front(np.stack([x, y, random.random(len(x))], axis=1))
    assert plot_front(Figure().subplots(), x, y, of_three).lines[1].get_linestyle() == "None"
    path = tmp_path / "front.png"
    axes.figure.savefig(path)
    assert path.stat().st_size > 1_000
