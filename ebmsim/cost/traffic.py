"""Bytes that cross each memory level, and the seconds they take."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
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
    kept: Any = np.zeros(())
    kept_inside: Any = np.zeros(())
    for holder, level in zip(holders, behind, strict=False):
        kept = np.maximum(kept, hit(rows.distances, holder.capacity, profile.resident, profile.evicted))
        of_access = kept[..., rows.access_distance]
        if machine.features.stationary_weights:
            stays = np.isfinite(rows.distances)[rows.access_distance] & (rows.access_set <= holder.capacity)
            of_access = np.where(stays, 1.0, of_access)
        missed = rows.access_bytes * (1.0 - of_access)
        amount = np.add.reduceat(missed, rows.access_start, axis=-1) if len(rows) else missed
        if twice:
            inside = hit(rows.again_distance, holder.capacity, profile.resident, profile.evicted)
            kept_inside = np.maximum(kept_inside, inside)
            amount = amount + rows.again * (1.0 - kept_inside)
        if not bound and len(rows.products):
            again = rereads(rows.products, holder)
            amount = amount + np.where(rows.product >= 0, again[..., rows.product], 0.0)
        names.append(level.name)
        amounts.append(amount)
    if not holders:
        names.append(machine.levels[-1].name)
        amounts.append(rows.moved + rows.again if twice else rows.moved)
    rates = [
        level.bandwidth if bound else level.bandwidth * level.efficiency for level in machine.levels[-len(names) :]
    ]
    return Traffic(tuple(names), tuple(amounts), tuple(rates))


def rereads(products: Products, holder: Level) -> Any:
    """Bytes a blocked product reads beyond its operands once: max(0, 2 b m n k e / √(S/e) - b (m k + k n) e).

    With blocking into a level of S bytes at least 2 b m n k / √(S/e) elements of e bytes cross it.
    """
    b, m, n, k = products.shape
    e = products.element_bytes
    least = 2.0 * b * m * n * k * e / np.sqrt(holder.capacity / e)
    return np.maximum(0.0, least - b * (m * k + k * n) * e)
