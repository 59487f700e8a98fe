"""The points of a sweep: which chunk holds which, and their coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ebmsim.design import Axis, Sampling, Sweep
from ebmsim.errors import SpecError

# Points of a Latin hypercube, which has to be made as a whole.
LARGEST_HYPERCUBE = 10_000_000
# Small cells of one chunk: each may need its workload lowered, which takes longer than many points.
_CELLS = 16
# Points of a quasi-random design that are evaluated at once: near ones among many share work.
_AT_ONCE = 100_000
_NOT_ARRAYS = ("launch.concurrent_kernels",)


@dataclass(frozen=True)
class Layout:
    """How a sweep is cut: cells into blocks, which are evaluated at once, and those put together into chunks.

    outer: axes that no array can hold; each combination of their values is a cell. inner: the other axes. shape: points
    of a cell along its axes. block: points of a block along them. each: blocks of a chunk.
    """

    outer: tuple[Axis, ...]
    inner: tuple[Axis, ...]
    shape: tuple[int, ...]
    block: tuple[int, ...]
    each: int

    @property
    def cells(self) -> int:
        """Combinations of the outer axes."""
        return math.prod(len(axis.values) for axis in self.outer)

    @property
    def points(self) -> int:
        """Points of the whole sweep."""
        return self.cells * math.prod(self.shape)

    @property
    def chunks(self) -> int:
        """Chunks of the whole sweep."""
        return -(-self.cells * math.prod(self._cuts) // self.each)

    def blocks(self, chunk: int) -> range:
        """The blocks of a chunk."""
        return range(chunk * self.each, min((chunk + 1) * self.each, self.cells * math.prod(self._cuts)))

    def cell(self, block: int) -> Mapping[str, Any]:
        """The values of the outer axes in a block, by name."""
        at = _unravelled(block // math.prod(self._cuts), [len(axis.values) for axis in self.outer])
        return {axis.name: axis.values[i] for axis, i in zip(self.outer, at, strict=True)}

    def slices(self, block: int) -> tuple[slice, ...]:
        """Where a block lies in its cell."""
        at = _unravelled(block % math.prod(self._cuts), self._cuts)
        triples = zip(at, self.block, self.shape, strict=True)
        return tuple(slice(i * b, min(n, (i + 1) * b)) for i, b, n in triples)

    @property
    def _cuts(self) -> tuple[int, ...]:
        """Blocks of a cell along its axes."""
        return tuple(-(-n // b) for n, b in zip(self.shape, self.block, strict=True))


def _unravelled(index: int, shape: Sequence[int]) -> list[int]:
    """The place of an index in a shape of any size, the last axis fastest."""
    at: list[int] = []
    for count in reversed(shape):
        index, here = divmod(index, count)
        at.append(here)
    return at[::-1]


def layout(sweep: Sweep) -> Layout:
    """The layout of a sweep: outer axes slowest, blocks that hold something of every other axis.

    Raises SpecError for ranges without points, which only a search takes.
    """
    outer = tuple(a for a in sweep.axes if not is_inner(a))
    inner = tuple(a for a in sweep.axes if is_inner(a))
    if sweep.sampling is None and (endless := [a.name for a in inner if not a.values]):
        message, hint = "missing key 'points' of a range in a sweep", "ebmsim search needs none"
        raise SpecError(sweep.document.problem(("axes", name), message, hint) for name in endless)
    if sweep.sampling is not None:
        shape: tuple[int, ...] = (sweep.sampling.points,)
    else:
        shape = tuple(len(axis.values) for axis in inner)
    block = _block(shape, min(sweep.chunk, _AT_ONCE) if sweep.sampling else sweep.chunk)
    most = _CELLS if block == shape else sweep.chunk if sweep.sampling else 1
    return Layout(outer, inner, shape, block, max(1, min(most, sweep.chunk // math.prod(block))))


def is_inner(axis: Axis) -> bool:
    """Whether one array evaluates all values of an axis."""
    return axis.numeric and axis.figure not in _NOT_ARRAYS


def _block(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Points along every axis of a block of at most `most`: the longest axis is halved until it fits."""
    block = list(shape)
    while math.prod(block) > most:
        longest = block.index(max(block))
        block[longest] = -(-block[longest] // 2)
    return tuple(block)


def coordinates(sweep: Sweep, plan: Layout, block: int) -> dict[str, Any]:
    """Values of the inner axes in a block, by name: arrays, each along an axis of its own, or all along one."""
    cut = plan.slices(block)
    if sweep.sampling is None:
        values = [np.array(axis.values, dtype=np.float64)[part] for axis, part in zip(plan.inner, cut, strict=True)]
        return dict(zip([axis.name for axis in plan.inner], np.ix_(*values) if values else (), strict=True))
    unit = _unit(sweep.sampling, len(plan.inner), cut[0])
    return {axis.name: _placed(axis, unit[:, i]) for i, axis in enumerate(plan.inner)}


def _unit(sampling: Sampling, dimensions: int, part: slice) -> Any:
    """Points of a quasi-random design in the unit cube."""
    if dimensions == 0:
        return np.zeros((part.stop - part.start, 0))
    if sampling.method == "sobol":
        from scipy.stats.qmc import Sobol

        engine = Sobol(dimensions, scramble=True, seed=sampling.seed)
        return engine.fast_forward(part.start).random(part.stop - part.start) if part.start else _quiet(engine, part)
    return _hypercube(sampling, dimensions)[part]


def _quiet(engine: Any, part: slice) -> Any:
    """The first points of a Sobol sequence, of which any number is taken."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The balance properties")
        return engine.random(part.stop)


@lru_cache(maxsize=1)
def _hypercube(sampling: Sampling, dimensions: int) -> Any:
    from scipy.stats.qmc import LatinHypercube

    return LatinHypercube(dimensions, seed=sampling.seed).random(sampling.points)


def _placed(axis: Axis, unit: Any) -> Any:
    """Values of an axis at places from 0 to 1 along it."""
    if axis.low is None or axis.high is None:
        count = len(axis.values)
        return np.array(axis.values, dtype=np.float64)[np.minimum((unit * count).astype(np.int64), count - 1)]
    if axis.log:
        values = axis.low * (axis.high / axis.low) ** unit
        return np.round(values) if axis.whole else values
    if axis.whole:
        return np.minimum(np.floor(axis.low + unit * (axis.high - axis.low + 1)), axis.high)
    return axis.low + unit * (axis.high - axis.low)
