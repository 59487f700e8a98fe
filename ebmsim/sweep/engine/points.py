"""The devices of a sweep as one machine whose figures are arrays: its axes, its extremes, and parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine

_PLAIN = (float, int, str, bool, np.float64, type(None))
# Figures of which less is faster, and those of which neither more nor less always is.
_LESS = ("host.link_latency", "host.speed", "host.synchronise", "launch")
_NEITHER = ("subarrays",)
# Figures that no time but throttling depends on.
_UNTIMED = ("power", "levels.energy")
# Points along a single axis that are not worth sorting.
_FEW = 64


def changed(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """A machine, or a part of one, with every figure that is an array changed, given its path and values."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, np.ndarray):
        return change(path, value)
    if isinstance(value, tuple):
        return tuple([changed(entry, change, path) for entry in value])
    if isinstance(value, type) or not (is_dataclass(value) or isinstance(value, Mapping)):
        return value
    inner = value if isinstance(value, Mapping) else vars(value)
    new = {}
    for key, entry in inner.items():
        if type(entry) not in _PLAIN:
            found = changed(entry, change, f"{path}.{key}" if path else key)
            if found is not entry:
                new[key] = found
    if not new:
        return value
    whole: Any = value
    return {**value, **new} if isinstance(value, Mapping) else replace(whole, **new)


def arrays(machine: Machine) -> list[tuple[str, Any]]:
    """The paths and values of all figures that are arrays."""
    found: list[tuple[str, Any]] = []

    def seen(path: str, values: Any) -> Any:
        found.append((path, values))
        return values

    changed(machine, seen)
    return found


def smallest(part: Any) -> Any:
    """A machine, or a part of one, with the least value of every figure."""
    return changed(part, lambda path, values: float(values.min()))


def largest(part: Any) -> Any:
    """The same with the largest."""
    return changed(part, lambda path, values: float(values.max()))


def ends(machine: Machine) -> tuple[Machine, Machine] | None:
    """The fastest and the slowest device within the ranges of all figures; None where no figure says which is."""
    if any(path.startswith(_NEITHER) for path, _ in arrays(machine)):
        return None

    def end(fast: bool) -> Any:
        return changed(machine, lambda p, v: float(v.min() if fast == p.startswith(_LESS) else v.max()))

    return end(True), end(False)


class Axes(NamedTuple):
    """The axes of a machine: points along each, and those along which capacities vary and nothing else does.

    separate: whether capacities have such axes at all, that is, whether the points are a grid.
    """

    shape: tuple[int, ...]
    capacity: tuple[int, ...]
    separate: bool


def axes_of(machine: Machine) -> Axes:
    """The axes of a machine.

    Not separate: capacities share an axis with other figures, or everything varies along a single axis.
    """
    figures = arrays(machine)
    shape = np.broadcast_shapes(*[values.shape[:-1] for _, values in figures])
    capacity, others = set[int](), set[int]()
    for path, values in figures:
        mine = capacity if path == "levels.capacity" else others
        mine.update(len(shape) + 1 - values.ndim + a for a, n in enumerate(values.shape[:-1]) if n > 1)
    single = len(capacity | others) == 1 and len(figures) > 1
    return Axes(shape, tuple(sorted(capacity)), not capacity & others and not (single and np.prod(shape) > _FEW))


def timed_shape(machine: Machine) -> tuple[int, ...]:
    """The shape of a machine's points, but for axes on which only power varies."""
    figures = [(path, values) for path, values in arrays(machine) if not path.startswith(_UNTIMED)]
    shape = np.broadcast_shapes(*[values.shape[:-1] for _, values in figures])
    return (1,) * (len(axes_of(machine).shape) - len(shape)) + shape


def in_line(machine: Machine, shape: tuple[int, ...]) -> Machine:
    """The machine with all points of a shape along one axis."""
    found: Machine = changed(machine, lambda path, values: np.broadcast_to(values, (*shape, 1)).reshape(-1, 1))
    return found


def some_of(machine: Machine, points: Any) -> Machine:
    """Some of the points along the only axis of a machine."""
    found: Machine = changed(machine, lambda path, values: values[points])
    return found


def part_of(machine: Machine, index: Sequence[slice]) -> Machine:
    """A part of a grid, given a slice for every axis."""

    def cut(path: str, values: Any) -> Any:
        mine = index[len(index) + 1 - values.ndim :]
        return values[tuple(i if n > 1 else slice(None) for i, n in zip(mine, values.shape[:-1], strict=True))]

    found: Machine = changed(machine, cut)
    return found


def boxes(shape: Sequence[int], fixed: Sequence[int], most: int) -> Iterator[tuple[slice, ...]]:
    """A grid in boxes of at most `most` points, the first axes cut first; fixed axes are neither counted nor cut."""
    size = list(shape)
    free = [a for a in range(len(shape)) if a not in fixed]
    for axis in free:
        others = int(np.prod([size[a] for a in free])) // size[axis]
        parts = -(-size[axis] // max(1, most // others))
        size[axis] = -(-size[axis] // parts)
    for corner in np.ndindex(*[-(-n // s) for n, s in zip(shape, size, strict=True)]):
        yield tuple(slice(i * s, min(n, (i + 1) * s)) for i, s, n in zip(corner, size, shape, strict=True))


def alike_in(figure: Any, count: int, parts: int) -> Any:
    """Of every device along one axis, which of some parts of equal size it is in, each alike in a figure."""
    found = np.zeros(count, dtype=np.int64)
    if np.ndim(figure):
        found[np.argsort(np.ravel(figure), kind="stable")] = np.arange(count) * parts // count
    return found


def runs_of(parts: Any) -> list[slice]:
    """Where every part begins and ends, those of equal number side by side."""
    edges = np.flatnonzero(np.diff(parts)) + 1
    return [slice(int(a), int(b)) for a, b in zip([0, *edges], [*edges, len(parts)], strict=True)]
