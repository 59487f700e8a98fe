"""Kernels at capacities: what the seconds of each are made of, told apart once for all devices of a range.

A kernel at a capacity is a state: its arithmetic, and the bytes it moves. Where nothing changes from one capacity to
the next a kernel stays in its state, and equal states of different kernels are one.
"""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.graph.rows import Rows
from ebmsim.sweep.engine.points import changed, ends
from ebmsim.sweep.engine.rows import KNEED, OTHER, alike, chosen
from ebmsim.sweep.engine.work import Work

# Exponents up to which powers of bytes and of seconds a byte are numbers that a float can hold.
_LARGEST_POWER = 8
# Seconds of one block: of states times devices.
_BLOCK = 500_000


class Kind(NamedTuple):
    """What the seconds of a state are made of: arithmetic or not, and the levels that can take longest.

    kneed: a knee of both, else the larger.
    """

    kneed: bool
    arithmetic: bool
    levels: tuple[int, ...]


class Block(NamedTuple):
    """States of one kind, as many as are computed at once.

    powers: whether arithmetic and memory meet in a knee as cᵖ + mᵖ; bytes are then to the power of its exponent p.
    arithmetic: whose seconds of arithmetic they have: a product's, or, after all products, those of one of `own`.
    bytes: at the kind's levels, or None: of which of `varying` they are then. weights: what they count for, columns and
    capacities × states (a sparse matrix): the change from one capacity to the next.
    """

    kind: Kind
    powers: bool
    arithmetic: Ints
    bytes: Floats | None
    varying: Ints
    weights: Any


class States(NamedTuple):
    """The states of some devices, in blocks.

    own: rows with arithmetic outside products. varying: rows whose bytes vary from device to device of a capacity.
    other: rows of the part OTHER, and their weights by column.
    """

    blocks: tuple[Block, ...]
    own: Rows
    varying: Rows
    other: Rows
    others: Floats


def states_of(work: Work, machine: Machine, capacities: tuple[int, ...], points: int) -> States:
    """The states of some devices.

    capacities: how many there are along each axis of the machine, where nothing else varies along the same axes;
    otherwise 1 along each, and bytes are a device's own. points: devices of one capacity that are computed at once.
    """
    rows = work.rows
    least, most = _bytes(work, machine, capacities)
    varying = (least != most).any((0, 1))
    rates = min(points, max(np.size(level.bandwidth) for level in machine.levels))
    kinds, kind = _kinds(work, machine, least, most)
    own = np.flatnonzero(work.vector & (work.part != OTHER))
    arithmetic = np.where(work.part == KNEED, rows.product, -1)
    arithmetic[own] = np.arange(len(own)) + (0 if work.bound else len(rows.products))
    # Only what matters tells states apart.
    arithmetic = np.where(np.array([k.arithmetic for k in kinds])[kind], arithmetic, -1)
    bytes_ = np.array([[level in k.levels for k in kinds] for level in range(len(most))])[:, kind] * most
    row, start, stop = _runs(work.part != OTHER, kind, bytes_)
    kind, arithmetic, bytes_ = kind[start, row], arithmetic[start, row], bytes_[:, start, row]
    which = np.where(varying, np.cumsum(varying) - 1, -1)[row]
    first, state = alike(bytes_.T, (kind, which < 0, which, arithmetic))
    weights = _weights(work, (row, start, stop), state, len(first), int(np.prod(capacities)))
    kind, which, arithmetic, bytes_ = kind[first], which[first], arithmetic[first], bytes_[:, first]
    blocks, exponent = [], work.prepared.profile.knee
    changes = np.flatnonzero((np.diff(kind) != 0) | (np.diff(which < 0) != 0)) + 1
    for group in np.split(np.arange(len(first)), changes):
        mine = kinds[kind[group[0]]]
        size = max(32, _BLOCK // (points if mine.arithmetic else rates))
        for at in range(0, len(group), size):
            part = slice(group[at], group[at : at + size][-1] + 1)
            amounts = bytes_[list(mine.levels), part] if which[part.start] < 0 else None
            powers = mine.kneed and bool(mine.levels) and exponent <= _LARGEST_POWER
            if amounts is not None and powers:
                amounts = raised(amounts, exponent)
            blocks.append(Block(mine, powers, arithmetic[part], amounts, which[part], weights[:, part]))
    column, row, weight = work.entries
    others = np.zeros((len(rows), len(work.plan.launches)))
    others[row, column] = weight
    other, varied = np.flatnonzero(work.part == OTHER), np.flatnonzero(varying)
    return States(tuple(blocks), chosen(rows, own), chosen(rows, varied), chosen(rows, other), others[other])


def _bytes(work: Work, machine: Machine, capacities: tuple[int, ...]) -> tuple[Any, Any]:
    """The least and the most bytes of every row (levels × capacities × rows); equal unless they are a device's own."""
    shape = (*capacities, len(work.rows))
    if np.prod(capacities) > 1:
        moved = work.traffic(work.rows, machine)
        found = np.stack([np.broadcast_to(amount, shape).reshape(-1, shape[-1]) for amount in moved.bytes])
        return found, found

    def at_end(end: Any) -> Any:
        device = changed(machine, lambda path, values: end(values) if path == "levels.capacity" else values)
        return np.stack([np.broadcast_to(amount, shape[-1:]) for amount in work.traffic(work.rows, device).bytes])

    least, most = at_end(np.max), at_end(np.min)
    return least[:, None], most[:, None]


def _kinds(work: Work, machine: Machine, least: Any, most: Any) -> tuple[list[Kind], Any]:
    """All kinds of states, and which one each row is of at every capacity, given the least and the most bytes.

    What takes at least as long on all devices as another does on any decides alone.
    """
    levels = len(least)
    choices = [(), *[(level,) for level in range(levels)], tuple(range(levels))]
    kinds = [Kind(*kind) for kind in product((False, True), (False, True), choices)]
    rates = work.traffic(chosen(work.rows, np.zeros(0, dtype=np.int64)), machine).bandwidth
    low = np.stack([amount / np.max(rate) for amount, rate in zip(least, rates, strict=True)])
    high = np.stack([amount / np.min(rate) for amount, rate in zip(most, rates, strict=True)])
    longest = low.argmax(0)
    others = high.copy()
    np.put_along_axis(others, longest[None], 0.0, axis=0)
    chosen_ = np.where(low.max(0) >= others.max(0), 1 + longest, 1 + levels)
    fastest, slowest = np.zeros(len(work.rows)), np.where(work.vector, np.inf, 0.0)
    found = ends(machine)
    if found is not None:
        fastest, slowest = (np.where(work.vector, work.arithmetic(work.rows, end), 0.0) for end in found)
    kneed = work.part == KNEED
    arithmetic = kneed | (slowest > low.max(0))
    chosen_ = np.where(np.where(kneed, 0.0, fastest) >= high.max(0), 0, chosen_)
    chosen_ = np.where(arithmetic | (chosen_ > 0), chosen_, 1)
    return kinds, (kneed * 2 + arithmetic) * len(choices) + chosen_


def _runs(live: Any, kind: Any, bytes_: Any) -> tuple[Any, Any, Any]:
    """Where the states of live rows begin: rows, the capacity at which each does, and the one at which it is left."""
    begins = np.ones(kind.shape, dtype=np.bool_)
    begins[1:] = (kind[1:] != kind[:-1]) | (bytes_[:, 1:] != bytes_[:, :-1]).any(0)
    row, start = np.nonzero((begins & live).T)
    stop = np.append(start[1:], 0)
    return row, start, np.where(stop > start, stop, len(kind))


def _weights(work: Work, runs: tuple[Any, Any, Any], state: Any, states: int, capacities: int) -> Any:
    """What states count for, columns and capacities × states: a run from where it begins, and no more where it ends."""
    from scipy.sparse import csc_array

    row, start, stop = runs
    column, of_entry, weight = work.entries
    order = np.argsort(of_entry, kind="stable")
    begin = np.searchsorted(of_entry[order], np.arange(len(work.rows) + 1))
    lengths = np.diff(begin)[row]
    run = np.repeat(np.arange(len(row)), lengths)
    entry = order[np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + begin[row][run]]
    ends_ = stop[run] < capacities
    line = column[entry] * capacities
    lines = np.concatenate([line + start[run], (line + stop[run])[ends_]])
    values = np.concatenate([weight[entry], -weight[entry][ends_]])
    places = np.concatenate([state[run], state[run][ends_]])
    return csc_array((values, (lines, places)), shape=(len(work.plan.launches) * capacities, states))


def raised(values: Any, exponent: float) -> Any:
    """values^exponent."""
    if exponent % 2:
        return values**exponent
    return raised(values * values, exponent / 2)
