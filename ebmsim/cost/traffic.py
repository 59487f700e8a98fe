"""Bytes that cross each memory level, and the seconds they take."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.graph.rows import Products, Rows
from ebmsim.hardware import Level
from ebmsim.policy import Profile


class Traffic(NamedTuple):
    """Per level outside the units, innermost first: its name, bytes per kernel, and the bandwidth they cross at."""

    levels: tuple[str, ...]
    bytes: tuple[Any, ...]
    bandwidth: tuple[Any, ...]

    @property
    def seconds(self) -> tuple[Any, ...]:
        """Seconds per kernel at every level."""
        return tuple(amount / rate for amount, rate in zip(self.bytes, self.bandwidth, strict=True))

    def slowest(self) -> Any:
        """Seconds of the level that takes longest (all levels move at the same time)."""
        return reduce(np.maximum, self.seconds)


def hit(distance: Any, capacity: Any, resident: float, evicted: float) -> Any:
    """Fraction of a tensor still held by a level when it is touched again.

    1 while the bytes touched in between are at most `resident` of the capacity, 0 from `evicted` of it on, linear
    between. Falls with distance, grows with capacity.
    """
    low, high = resident * capacity, evicted * capacity
    return np.clip((high - distance) / (high - low), 0.0, 1.0)


def _holders(machine: Machine) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Levels that hold data between kernels, and the levels behind them that serve their misses."""
    inner = machine.levels[1:-1] if len(machine.levels) > 2 else machine.levels[:-1]
    return inner, machine.levels[len(machine.levels) - len(inner) :]


def traffic(rows: Rows, machine: Machine, profile: Profile, *, bound: bool) -> Traffic:
    """Traffic of every kernel at every level that holds data between kernels, and at main memory.

    Each tensor is read once and written once by a kernel; what a level still holds from before does not reach the
    next one. Beyond that (not in the bound) a product whose operands exceed a level re-reads them, and kernels that
    need their input twice read it again. bound: full bandwidth instead of the achieved fraction. Hardware with
    stationary weights keeps them once they fit.
    """
    holders, behind = _holders(machine)
    twice = not bound and bool(rows.again.any())
    names, amounts = [], []
    if holders:
        names.append(holders[0].name)
        amounts.append(rows.moved + rows.again if twice else rows.moved)
    alike = kinds(rows, machine)
    again = np.flatnonzero(rows.again if twice else ())
    of_accesses = held(alike.distance, alike.set, machine, profile)
    of_again = held(rows.again_distance[again], np.inf, machine, profile)
    for holder, level, kept, kept_again in zip(holders, behind, of_accesses, of_again, strict=True):
        amount = _missed(rows, alike.of_access, kept)
        amount[..., again] += rows.again[again] * (1.0 - kept_again)
        if not bound and len(rows.products):
            amount = _with_rereads(amount, rows, holder)
        names.append(level.name)
        amounts.append(amount)
    if not holders:
        names.append(machine.levels[-1].name)
        amounts.append(rows.moved + rows.again if twice else rows.moved)
    rates = [
        level.bandwidth if bound else level.bandwidth * level.efficiency for level in machine.levels[-len(names) :]
    ]
    return Traffic(tuple(names), tuple(amounts), tuple(rates))


class Kinds(NamedTuple):
    """Accesses that are held alike: distance and bytes of the set of every kind, and the kind of every access."""

    distance: Floats
    set: Any
    of_access: Ints


def kinds(rows: Rows, machine: Machine) -> Kinds:
    """The kinds of accesses of some rows; sets are told apart only where weights can be stationary."""
    if not machine.features.stationary_weights:
        return Kinds(rows.distances, np.inf, rows.access_distance)
    sets, of_access = np.unique(rows.access_set, return_inverse=True)
    distance, held_sets = np.repeat(rows.distances, len(sets)), np.tile(sets, len(rows.distances))
    return Kinds(distance, held_sets, rows.access_distance * len(sets) + of_access)


def held(distance: Any, set_: Any, machine: Machine, profile: Profile) -> list[Any]:
    """Fraction of accesses that do not reach each level behind a holder, because that or one further in has them.

    Stationary weights (`set_` the bytes of all of them) stay once they fit.
    """
    found = []
    kept: Any = np.zeros(np.shape(distance))
    for holder in _holders(machine)[0]:
        kept = np.maximum(kept, hit(distance, holder.capacity, profile.resident, profile.evicted))
        stays = np.isfinite(distance) & (set_ <= holder.capacity) if machine.features.stationary_weights else False
        found.append(np.where(stays, 1.0, kept) if np.any(stays) else kept)
    return found


def _missed(rows: Rows, kind: Any, kept: Any) -> Any:
    """Σ over the accesses of every row of bytes × (1 - kept), `kept` being that of every kind."""
    if not len(rows):
        return np.zeros((*np.shape(kept)[:-1], 0))
    if np.ndim(kept) == 1:
        return np.add.reduceat(rows.access_bytes * (1.0 - kept)[kind], rows.access_start)
    # The same as a product of matrices, for many devices at once.
    row = np.repeat(np.arange(len(rows)), np.diff(rows.access_start, append=len(rows.access_bytes)))
    kinds_ = kept.shape[-1]
    bytes_ = np.bincount(row * kinds_ + kind, rows.access_bytes, len(rows) * kinds_).reshape(-1, kinds_)
    # Rows lie along the first axis in memory, along which sums over them are fast.
    return np.moveaxis((bytes_ @ (1.0 - kept).reshape(-1, kinds_).T).reshape(-1, *kept.shape[:-1]), 0, -1)


def _with_rereads(amount: Any, rows: Rows, holder: Level) -> Any:
    smallest = replace(holder, capacity=np.min(holder.capacity))
    if not rereads(rows.products, smallest).any():
        return amount
    again = rereads(rows.products, holder)
    return amount + np.where(rows.product >= 0, again[..., rows.product], 0.0)


def rereads(products: Products, holder: Level) -> Any:
    """Bytes a blocked product reads beyond its operands once: max(0, 2 b m n k e / √(S/e) - b (m k + k n) e).

    With blocking into a level of S bytes at least 2 b m n k / √(S/e) elements of e bytes cross it.
    """
    b, m, n, k = products.shape
    e = products.element_bytes
    least = 2.0 * b * m * n * k * e / np.sqrt(holder.capacity / e)
    return np.maximum(0.0, least - b * (m * k + k * n) * e)
