"""Sums of kernel seconds over a grid whose compute and memory terms vary along axes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from ebmsim.cost.kernels import Kernels

# Elements of one block: a few such arrays stay in a core's own cache.
_BLOCK = 32768
# Share of kernels that change from one point of an axis to the next, up to which the changes alone are computed.
_SELDOM = 0.4
# Elements that must be saved for each point of that axis, which is a walk of its own.
_WORTH = 60_000


def bounds(costs: Kernels, count: int) -> tuple[Any, list[Any]]:
    """Smallest and largest seconds of every kernel on the grid: of arithmetic, and of each memory level."""

    def least_and_most(values: Any) -> Any:
        flat = np.broadcast_to(values, np.broadcast_shapes(np.shape(values), (count,))).reshape(-1, count)
        return np.stack([flat.min(0), flat.max(0)])

    levels = []
    for amount, rate in zip(costs.traffic.bytes, costs.traffic.bandwidth, strict=True):
        least, most = least_and_most(amount)
        levels.append(np.stack([least / np.max(rate), most / np.min(rate)]))
    return least_and_most(costs.compute), levels


def totals(costs: Kernels, weights: Any, groups: Sequence[Sequence[int]], knee: float) -> dict[int, Any]:
    """Σ over kernels of weight × seconds by column of weights, on axes that broadcast to those of the grid.

    `groups` are the columns that share most of their kernels: those of a group are summed in one walk over the grid.

    A kernel that one term (arithmetic, or one memory level) binds everywhere adds that term alone, on the term's own
    axes. The others are combined on the product of axes, in blocks.
    """
    count, axes = len(weights), _axes(costs)
    if axes == 0:
        return dict(enumerate(costs.seconds(knee) @ weights))
    compute, levels = bounds(costs, count)
    least = np.stack([compute[0], *[level[0] for level in levels]])
    most = np.stack([compute[1], *[level[1] for level in levels]])
    free = costs.free | (np.reshape(costs.link, (-1, count)) > 0).any(0)
    kneed = costs.kneed & ~free
    open_ = ~free & ~kneed
    steady = np.where(free, np.where(costs.free, 0.0, costs.link), costs.fixed)
    bound = []
    for i, term in enumerate([(costs.compute, 1.0), *zip(costs.traffic.bytes, costs.traffic.bandwidth, strict=True)]):
        binds = open_ & (least[i] >= np.delete(most, i, axis=0).max(0))
        open_ = open_ & ~binds
        bound.append((binds, *term))
    sums: dict[int, Any] = {}
    for columns in groups:
        mine = weights[:, columns]
        enters = (mine != 0).any(1)
        part: Any = _wide(steady @ mine, axes + 1)
        for binds, amount, rate in bound:
            chosen = binds & enters
            if chosen.any():
                part = part + _wide(_of(amount, chosen) @ mine[chosen], axes + 1) / rate
        for chosen, exponent in ((kneed & enters, knee), (open_ & enters, 0.0)):
            if chosen.any():
                part = part + _combined(costs, chosen, mine[chosen], exponent, axes)
        sums |= {column: part[..., i] for i, column in enumerate(columns)}
    return sums


def _axes(costs: Kernels) -> int:
    shapes = [costs.compute, costs.fixed, costs.link, *costs.traffic.bytes, *costs.traffic.bandwidth]
    return max(0, *(np.ndim(values) - 1 for values in shapes))


def _wide(values: Any, ndim: int) -> Any:
    """Values with leading axes of size 1 up to a number of axes."""
    return np.reshape(values, (*[1] * (ndim - np.ndim(values)), *np.shape(values)))


def _of(values: Any, chosen: Any) -> Any:
    """The values of the chosen kernels; one value may stand for all."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] == 1:
        values = np.broadcast_to(values, (*values.shape[:-1], len(chosen)))
    return values[..., chosen]


def _combined(costs: Kernels, chosen: Any, weights: Any, exponent: float, axes: int) -> Any:
    """The kernels whose larger term changes over the grid, or that no single term binds."""
    terms = [_of(values, chosen) for values in (costs.compute, *costs.traffic.bytes)]
    first, weights = _merged(terms, weights)
    compute, *amounts = [values[..., first] for values in terms]
    parts = [amount / rate for amount, rate in zip(amounts, costs.traffic.bandwidth, strict=True)]
    memory, compute = _wide(reduce(np.maximum, parts), axes + 1), _wide(compute, axes + 1)
    varies = _varying(compute) | _varying(memory)
    result: Any = 0.0
    for mask in np.unique(varies, axis=1).T:
        mine = (varies == mask[:, None]).all(0)
        at = tuple(slice(None) if v else slice(0, 1) for v in mask)
        # Along an axis on which none of these kernels varies, one value serves all points.
        result = result + _stepped(compute[at][..., mine], memory[at][..., mine], weights[mine], exponent)
    return result


def _stepped(compute: Any, memory: Any, weights: Any, exponent: float) -> Any:
    """`_products`, walked along one axis of memory's own on which kernels seldom change: where none does, it stays."""
    alone = [a for a in range(memory.ndim - 1) if memory.shape[a] > 1 and compute.shape[a] == 1]
    others = {a: tuple(i for i in range(memory.ndim - 1) if i != a) for a in alone}
    changes = {a: (np.diff(memory, axis=a) != 0).any(others[a]) for a in alone}
    axis = min(alone, key=lambda a: changes[a].mean(), default=None)
    saved = 0.0 if axis is None else (_SELDOM - changes[axis].mean()) * compute[..., 0].size * memory.size
    if axis is None or saved < _WORTH * memory.shape[axis]:
        return _products(compute, memory, weights, exponent)
    points = np.split(memory, memory.shape[axis], axis)
    found = [_products(compute, points[0], weights, exponent)]
    for before, after, changed in zip(points, points[1:], changes[axis], strict=False):
        step: Any = 0.0
        if changed.any():
            both = np.concatenate([after[..., changed], before[..., changed]], axis=-1)
            twice = np.concatenate([compute[..., changed]] * 2, axis=-1)
            step = _products(twice, both, np.concatenate([weights[changed], -weights[changed]]), exponent)
        found.append(found[-1] + step)
    return np.concatenate(found, axis)


def _varying(values: Any) -> Any:
    """For every axis and kernel, whether the kernel's values differ along that axis."""
    axes = values.ndim - 1
    found = np.zeros((axes, values.shape[-1]), dtype=np.bool_)
    for axis in range(axes):
        if values.shape[axis] > 1:
            differs = values != values.take([0], axis=axis)
            found[axis] = differs.reshape(-1, values.shape[-1]).any(0)
    return found


def _products(compute: Any, memory: Any, weights: Any, exponent: float) -> Any:
    """Σ weight × knee(compute, memory) (exponent 0: the larger) over the axes of both, block by block.

    A block holds as many points of memory's axes as stay in a core's cache; all points of the axes that are compute's
    alone pass over it.
    """
    if exponent:
        compute, memory = compute**exponent, memory**exponent
    axes, count = compute.ndim - 1, compute.shape[-1]
    shape = np.broadcast_shapes(compute.shape[:-1], memory.shape[:-1])
    alone = [a for a in range(axes) if memory.shape[a] == 1]
    shared = [a for a in range(axes) if memory.shape[a] > 1]
    order = (*alone, *shared)
    c = compute.transpose(*order, axes).reshape(
        int(np.prod([compute.shape[a] for a in alone])), int(np.prod([compute.shape[a] for a in shared])), count
    )
    if 1 < c.shape[1] < int(np.prod([shape[a] for a in shared])):
        wide = [compute.shape[a] if a in alone else shape[a] for a in order]
        c = np.broadcast_to(compute.transpose(*order, axes), (*wide, count)).reshape(len(c), -1, count)
    m = np.ascontiguousarray(memory.transpose(*order, axes).reshape(-1, count))
    sums = np.empty((len(c), len(m), weights.shape[1]))
    size = min(len(m), max(1, _BLOCK // count))
    points = min(len(c), max(1, _BLOCK // (count * size)))
    joint = np.empty((points, size, count))
    for start in range(0, len(m), size):
        part = m[start : start + size]
        here = c if c.shape[1] == 1 else c[:, start : start + size]
        for i in range(0, len(c), points):
            other = here[i : i + points]
            block = joint[: len(other), : len(part)]
            if not exponent:
                np.maximum(part, other, out=block)
            else:
                np.add(part, other, out=block)
                np.sqrt(block, out=block) if exponent == 2 else np.power(block, 1.0 / exponent, out=block)
            sums[i : i + points, start : start + size] = block @ weights
    return sums.reshape(*[shape[a] for a in order], -1).transpose(*np.argsort(order), axes)


def _merged(terms: Sequence[Any], weights: Any) -> tuple[Any, Any]:
    """Kernels whose terms are proportional at every point made one: which are left, and their weights.

    terms: seconds of arithmetic, bytes at every level. Proportional: but for the last 12 of 52 bits, so that sums keep
    twelve digits.
    """
    count = len(weights)
    flat = np.concatenate([values.reshape(-1, count) for values in terms])
    scale = flat.max(0)
    keys = np.ascontiguousarray(((flat / scale).view(np.int64) + 2048 >> 12).T)
    seen: dict[bytes, int] = {}
    group = np.array([seen.setdefault(key.tobytes(), len(seen)) for key in keys])
    first = np.unique(group, return_index=True)[1]
    added = np.zeros((len(seen), weights.shape[1]))
    np.add.at(added, group, weights * (scale / scale[first][group])[:, None])
    return first, added
