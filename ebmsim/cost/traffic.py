"""Bytes that cross each memory level, and the seconds they take."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.graph.lower import KernelTable
from ebmsim.hardware import Level
from ebmsim.spec.policy import Profile


class Traffic(NamedTuple):
    """Per level outside the units, innermost first: its name, bytes and seconds per kernel."""

    levels: tuple[str, ...]
    bytes: tuple[Any, ...]
    seconds: tuple[Any, ...]

    def slowest(self) -> Any:
        """Seconds of the level that takes longest (all levels move at the same time)."""
        return np.maximum.reduce(np.broadcast_arrays(*self.seconds))


def hit(distance: Any, capacity: Any, resident: float, evicted: float) -> Any:
    """Fraction of a tensor still held by a level when it is touched again.

    1 while the bytes touched in between are at most `resident` of the capacity, 0 from `evicted` of it on, linear
    between. Falls with distance, grows with capacity.
    """
    low, high = resident * capacity, evicted * capacity
    return np.clip((high - distance) / (high - low), 0.0, 1.0)


def _sum_by_kernel(table: KernelTable, values: Any) -> Any:
    """Accesses added up per kernel, along the last axis."""
    values = np.asarray(values)
    if values.ndim == 1:
        return np.bincount(table.access_kernel, weights=values, minlength=len(table))
    starts = np.searchsorted(table.access_kernel, np.arange(len(table)))
    padded = np.concatenate([values, np.zeros((*values.shape[:-1], 1))], axis=-1)
    sums = np.add.reduceat(padded, np.minimum(starts, values.shape[-1]), axis=-1)
    return np.where(np.diff(np.append(starts, values.shape[-1])) > 0, sums, 0.0)


def _holders(machine: Machine) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Levels that hold data between kernels, and the levels behind them that serve their misses."""
    inner = machine.levels[1:-1] if len(machine.levels) > 2 else machine.levels[:-1]
    return inner, machine.levels[len(machine.levels) - len(inner) :]


def traffic(table: KernelTable, machine: Machine, profile: Profile, *, cold: bool, bound: bool) -> Traffic:
    """Traffic of every kernel at every level that holds data between kernels, and at main memory.

    Each tensor is read once and written once by a kernel; what a level still holds from before does not reach the
    next one. Beyond that (not in the bound) a product whose operands exceed a level re-reads them: with blocking into
    a level of S elements at least 2 b m n k / √S elements cross. cold: the first step, when nothing is held yet.
    bound: full bandwidth instead of the achieved fraction. Hardware with stationary weights keeps them once they fit.
    """
    distance = table.cold if cold else table.distance
    holders, behind = _holders(machine)
    names, amounts, seconds = [], [], []
    first = holders[0] if holders else machine.levels[-1]
    if holders:
        amount = table.read + table.written
        names.append(first.name)
        amounts.append(amount)
        seconds.append(amount / (first.bandwidth * (1.0 if bound else first.efficiency)))
    missing = table.access_bytes
    kept = np.zeros(())
    if not holders:
        behind = (machine.levels[-1],)
    for index, level in enumerate(behind):
        if index < len(holders):
            holder = holders[index]
            kept = np.maximum(kept, hit(distance, holder.capacity, profile.resident, profile.evicted))
            if machine.features.stationary_weights:
                stays = table.access_weight & np.isfinite(distance) & (table.weight_bytes <= holder.capacity)
                kept = np.where(stays, 1.0, kept)
            amount = _sum_by_kernel(table, missing * (1.0 - kept))
            if not bound:
                amount = amount + _rereads(table, holder)
        else:
            amount = _sum_by_kernel(table, missing)
        names.append(level.name)
        amounts.append(amount)
        seconds.append(amount / (level.bandwidth * (1.0 if bound else level.efficiency)))
    return Traffic(tuple(names), tuple(amounts), tuple(seconds))


def _rereads(table: KernelTable, holder: Level) -> Any:
    """Bytes a blocked product reads beyond its operands once: max(0, 2 b m n k e / √(S/e) - operands)."""
    b, m, n, k = table.product
    e = table.element_bytes
    least = 2.0 * b * m * n * k * e / np.sqrt(holder.capacity / e)
    return np.maximum(0.0, least - b * (m * k + k * n) * e)
