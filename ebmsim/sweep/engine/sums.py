"""Sums of kernel seconds by column: every state computed once, on the axes of its arithmetic and bandwidths alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.kernels import knee
from ebmsim.cost.machine import Machine
from ebmsim.graph.kernels import Ints
from ebmsim.graph.rows import Rows
from ebmsim.sweep.engine.states import Block, States, raised
from ebmsim.sweep.engine.ways import Candidates
from ebmsim.sweep.engine.work import Work

# Elements that are computed at once: a few such arrays stay in a core's own cache.
_CACHE = 32768


def sums_of(work: Work, states: States, ways: Candidates | None, machine: Machine, capacities: tuple[int, ...]) -> Any:
    """Device seconds of the launches of every column: columns × the axes of a machine.

    machine: one of those that the states are of. capacities: as the states have them.
    """
    ndim, exponent = 1 + len(capacities), work.prepared.profile.knee
    arithmetic, place = _arithmetic(work, states.own, machine, ways, ndim)
    moved = work.traffic(states.varying, machine)
    plain = _Terms(
        arithmetic,
        [_rows_first(amount, ndim) for amount in moved.bytes],
        [1.0 / _rows_first(rate, ndim) for rate in moved.bandwidth],
    )
    rates = [raised(rate, exponent) for rate in plain.rates]
    powers = plain._replace(arithmetic=raised(arithmetic, exponent), rates=rates)
    changes = _Changes(len(work.plan.launches) * int(np.prod(capacities)))
    for block in states.blocks:
        changes.add(block.weights, _seconds(block, powers if block.powers else plain, place, exponent))
    parts = [_at_capacities(part, capacities, shape) for shape, part in changes.sums().items()]
    parts.append(_rows_first(work.pages, ndim) + _rows_first(work.launched, ndim) * work.fixed(machine))
    if len(states.other):
        parts.append(_rows_first(work.other(states.other, machine) @ states.others, ndim))
    return _added(parts)


class _Changes:
    """Weighted sums of seconds (lines × points) by the shape of the points, of enough states at once to be worth it."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._waiting: dict[tuple[int, ...], list[tuple[Any, Any]]] = {}
        self._sums: dict[tuple[int, ...], Any] = {}

    def add(self, weights: Any, seconds: Any) -> None:
        """Add weights @ seconds."""
        waiting = self._waiting.setdefault(seconds.shape[1:], [])
        waiting.append((weights, seconds.reshape(len(seconds), -1)))
        if sum(len(each) for _, each in waiting) >= self._lines:
            self._sum(seconds.shape[1:])

    def _sum(self, shape: tuple[int, ...]) -> None:
        from scipy.sparse import hstack

        waiting = self._waiting.pop(shape)
        weights = hstack([weights for weights, _ in waiting], format="csc") if len(waiting) > 1 else waiting[0][0]
        part = weights @ (np.concatenate([seconds for _, seconds in waiting]) if len(waiting) > 1 else waiting[0][1])
        if shape in self._sums:
            self._sums[shape] += part
        else:
            self._sums[shape] = part

    def sums(self) -> dict[tuple[int, ...], Any]:
        """All sums by shape."""
        for shape in list(self._waiting):
            self._sum(shape)
        return self._sums


def _added(parts: list[Any]) -> Any:
    """Σ of parts that broadcast, in place of the largest where that has the shape of all."""
    parts = sorted(parts, key=np.size)
    total = parts.pop()
    for part in parts:
        fits = np.broadcast_shapes(total.shape, part.shape) == total.shape
        total = np.add(total, part, out=total if fits else None)
    return total


def _arithmetic(work: Work, own: Rows, machine: Machine, ways: Candidates | None, ndim: int) -> tuple[Any, Ints]:
    """Seconds of arithmetic along the first axis, and the place there of every product and of every row of its own."""
    products, place = work.products(machine, ways)
    vector = _rows_first(work.arithmetic(own, machine), ndim)
    products = products.reshape(len(products), *[1] * (ndim - products.ndim), *products.shape[1:])
    mine = np.flatnonzero(own.product >= 0)
    if len(mine) and len(products):
        beside = products[place[own.product[mine]]]
        vector = np.array(np.broadcast_to(vector, np.broadcast_shapes(vector.shape, (len(vector), *beside.shape[1:]))))
        vector[mine] = np.maximum(vector[mine], beside)
    places = np.concatenate([place, len(products) + np.arange(len(own))])
    if not len(vector):
        return products, places
    shape = np.broadcast_shapes(products.shape[1:], vector.shape[1:])
    return np.concatenate([np.broadcast_to(part, (len(part), *shape)) for part in (products, vector)]), places


class _Terms(NamedTuple):
    """What seconds are made of on some devices, rows along the first axis.

    arithmetic: seconds. varying: bytes of rows that are a device's own, by level. rates: seconds of a byte, by level.
    Arithmetic and rates are to the power of the knee's exponent for states that have one.
    """

    arithmetic: Any
    varying: list[Any]
    rates: list[Any]


def _seconds(block: Block, terms: _Terms, place: Ints, exponent: float) -> Any:
    """Seconds of the states of a block (states × axes), a few at a time: (cᵖ + mᵖ)^(1/p), or the larger."""
    kneed, has_arithmetic, levels = block.kind
    ones = (1,) * (terms.arithmetic.ndim - 1)
    amounts = terms.varying if block.bytes is None else [a.reshape(-1, *ones) for a in block.bytes]
    rates = [terms.rates[level] for level in levels]
    shapes = [rate.shape[1:] for rate in rates] + [terms.arithmetic.shape[1:]] * has_arithmetic
    shape = np.broadcast_shapes(*shapes, *[a.shape[1:] for a in amounts])
    found = np.empty((len(block.arithmetic), *shape))
    size = max(1, _CACHE // int(np.prod(shape)))
    for start in range(0, len(found), size):
        part = slice(start, start + size)
        if block.bytes is None:
            here = [amounts[j][block.varying[part]] for j in levels]
            here = [raised(amount, exponent) for amount in here] if block.powers else here
        else:
            here = [amount[part] for amount in amounts]
        memory = _longest(here, rates)
        if not has_arithmetic:
            found[part] = memory
            continue
        arithmetic = terms.arithmetic[place[block.arithmetic[part]]]
        if memory is None:
            found[part] = arithmetic
        elif block.powers:
            root(np.add(arithmetic, memory, out=found[part]), exponent)
        elif kneed:
            found[part] = knee(arithmetic, memory, exponent)
        else:
            np.maximum(arithmetic, memory, out=found[part])
    return found


def _longest(amounts: list[Any], rates: list[Any]) -> Any:
    """The longest of amounts times rates; None of none."""
    longest = None
    for amount, rate in zip(amounts, rates, strict=True):
        seconds = amount * rate
        longest = (
            seconds
            if longest is None
            else np.maximum(longest, seconds, out=longest if longest.shape == seconds.shape else None)
        )
    return longest


def _at_capacities(changes: Any, capacities: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Sums at every capacity from changes (columns and capacities × points of a shape), on the axes of a machine."""
    count = int(np.prod(capacities))
    columns = len(changes) // count
    if count == 1:
        return changes.reshape(columns, *shape)
    sums = changes.reshape(columns, count, -1)
    for k in range(1, count):
        sums[:, k] += sums[:, k - 1]
    sums = sums.reshape(columns, *capacities, *shape)
    axes = len(shape)
    order = [1 + a + side for a in range(axes) for side in (0, axes)]
    return sums.transpose(0, *order).reshape(columns, *np.multiply(capacities, shape))


def _rows_first(values: Any, ndim: int) -> Any:
    """Values with kernels along the last axis, with them along the first of `ndim` axes."""
    values = np.moveaxis(np.atleast_1d(values), -1, 0)
    return np.ascontiguousarray(values).reshape(len(values), *[1] * (ndim - values.ndim), *values.shape[1:])


def root(values: Any, exponent: float) -> Any:
    """values^(1 / exponent), in place."""
    if exponent % 2:
        return values if exponent == 1 else np.power(values, 1.0 / exponent, out=values)
    return root(np.sqrt(values, out=values), exponent / 2)
