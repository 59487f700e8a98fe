"""When kernels finish: the host issues one after another, the device runs behind it; branches in streams."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.graph.kernels import PHASES, KernelTable


class Stage(NamedTuple):
    """A run of kernels of one phase, by branch: branches may wait for one another, but not for what comes after."""

    phase: int
    branches: tuple[Any, ...]
    kernels: Any


def completion(host: Any, device: Any) -> Any:
    """Completion time of every kernel from an empty queue: c_i = max(c_{i-1}, D_i) + k_i.

    D_i is the host time to have issued kernel i. Equal to max over j ≤ i of (D_j + Σ_{j..i} k), along the last axis.
    """
    issued = np.cumsum(host, axis=-1)
    done = np.cumsum(device, axis=-1)
    return done + np.maximum.accumulate(issued - (done - device), axis=-1)


def first_pass(host: Any, device: Any, breaks: Any, wait: Any) -> Any:
    """Advance of the completion time over every kernel when the queue starts empty; `wait` at each synchronisation."""
    return _advance(host, device, breaks, wait, steady=False)


def steady_pass(host: Any, device: Any, breaks: Any, wait: Any) -> Any:
    """Advance over every kernel of a step in a long run of equal steps.

    Without a synchronisation it sums to max(Σ d, Σ k); with some, every stretch between two starts with an empty queue.
    """
    return _advance(host, device, breaks, wait, steady=True)


def _advance(host: Any, device: Any, breaks: Any, wait: Any, *, steady: bool) -> Any:
    host, device = np.broadcast_arrays(np.asarray(host, dtype=np.float64), np.asarray(device, dtype=np.float64))
    if host.shape[-1] == 0:
        return np.zeros(host.shape)
    if len(breaks) == 0:
        if steady and host.sum() <= device.sum():
            # The host runs ahead for good: nothing ever waits.
            return device
        done = completion(host, device)
        if not steady:
            return np.diff(done, axis=-1, prepend=0.0)
        end = done[..., -1:]
        issued = np.cumsum(host, axis=-1) + np.sum(host, axis=-1, keepdims=True)
        sums = np.cumsum(device, axis=-1)
        second = sums + np.maximum(end, np.maximum.accumulate(issued - (sums - device), axis=-1))
        return np.diff(second, axis=-1, prepend=end)
    parts = []
    start = 0
    for stop in [*breaks, host.shape[-1] - 1]:
        if start > stop:
            continue
        done = completion(host[..., start : stop + 1], device[..., start : stop + 1])
        part = np.diff(done, axis=-1, prepend=0.0)
        if stop in breaks:
            part[..., -1] += wait
        parts.append(part)
        start = stop + 1
    return np.concatenate(parts, axis=-1)


def synchronisations(table: KernelTable) -> Any:
    """Kernels after which the host waits for the device."""
    return np.flatnonzero(np.isin(table.ops, ("synchronise", "to_host", "host")))


def stages(table: KernelTable) -> list[Stage]:
    """Maximal runs of kernels of one phase in which several branches could run side by side.

    A kernel outside any branch ends a run: it joins what came before.
    """
    found: list[Stage] = []
    start = 0
    for index in range(1, len(table) + 1):
        if (
            index < len(table)
            and table.phase[index] == table.phase[start]
            and bool(table.branches[index]) == bool(table.branches[start])
        ):
            continue
        span = np.arange(start, index)
        groups: dict[str, list[int]] = {}
        for k in span:
            groups.setdefault(table.branches[k], []).append(int(k))
        found.append(Stage(int(table.phase[start]), tuple(np.array(g) for g in groups.values()), span))
        start = index
    return found


def longest_chain(table: KernelTable, stage: Stage, seconds: Any) -> float:
    """Seconds of the longest chain of kernels in a stage: each waits for the one before in its branch, and for the
    kernels of other branches whose results it reads.
    """
    first = int(stage.kernels[0])
    awaited: dict[int, list[int]] = {}
    for kernel, source in table.awaited:
        if source >= first:
            awaited.setdefault(int(kernel), []).append(int(source))
    done: dict[int, float] = {}
    at: dict[str, float] = {}
    for k in map(int, stage.kernels):
        begin = max([at.get(table.branches[k], 0.0), *[done[source] for source in awaited.get(k, ())]])
        done[k] = at[table.branches[k]] = begin + float(seconds[k])
    return max(at.values())


def overlapped(table: KernelTable, given: Any, levels: Any, units: Any, streams: int, event: Any) -> Any:
    """Device seconds per kernel when the branches of a stage run in at most `streams` streams.

    A stage with several branches takes, over s = 1 … streams, the least of: the longest of s streams (branches dealt
    longest first), but at least the longest chain of kernels that wait for one another, the seconds of all units its
    kernels keep to themselves and the time each memory level needs for all their bytes, plus two events per further
    stream. Its kernels are scaled down to that time. Never more than one stream takes. given: seconds of every kernel
    alone. levels: those of each memory level. units: those of all units that it keeps from other streams.
    """
    seconds = np.array(given)
    for stage in stages(table):
        if len(stage.branches) < 2 or not table.branches[stage.kernels[0]]:
            continue
        serial = seconds[stage.kernels].sum()
        floor = max(units[stage.kernels].sum(), longest_chain(table, stage, seconds))
        for level in levels:
            floor = max(floor, level[stage.kernels].sum())
        lengths = sorted((seconds[branch].sum() for branch in stage.branches), reverse=True)
        best = serial
        for count in range(2, min(streams, len(lengths)) + 1):
            loads = [0.0] * count
            for length in lengths:
                loads[loads.index(min(loads))] += length
            best = min(best, max(max(loads), floor) + 2.0 * event * (count - 1))
        seconds[stage.kernels] *= best / serial if serial > 0 else 1.0
    return seconds


def by_phase(table: KernelTable, values: Any) -> dict[str, float]:
    """Values of kernels added up per phase."""
    sums = np.bincount(table.phase, weights=values, minlength=len(PHASES))
    return dict(zip(PHASES, sums.tolist(), strict=True))
