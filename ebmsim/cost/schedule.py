"""When kernels finish: the host issues one after another, the device runs behind it; branches in streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.assignment import assign, dealt, list_schedule
from ebmsim.cost.stages import Run, Stage, ends_of, lengths_of, longest_chain, runs_of, stages
from ebmsim.graph.kernels import PHASES, KernelTable


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


class Placement(NamedTuple):
    """A branch in its stream, from the start of its first kernel to the end of its last one, in s.

    group: of the systolic arrays, where its products have one to themselves.
    """

    branch: str
    stream: int
    start: float
    finish: float
    group: int | None = None


class StagePlan(NamedTuple):
    """How the branches of a stage run: in which streams, and the seconds that the stage takes.

    phase: name of the phase. kernels: launches of the stage.
    """

    phase: str
    kernels: Any
    seconds: float
    placements: tuple[Placement, ...]

    def between(self, start: float, end: float) -> StagePlan:
        """The same plan stretched evenly over the time from `start` to `end`."""
        last = max(placed.finish for placed in self.placements)
        scale = (end - start) / last if last > 0 else 0.0
        moved = [p._replace(start=start + scale * p.start, finish=start + scale * p.finish) for p in self.placements]
        return self._replace(placements=tuple(moved))


class Groups(NamedTuple):
    """Unequal groups of systolic arrays: seconds of every kernel on each of them alone, along a leading axis.

    shared: seconds that every kernel takes of the units that all groups share.
    """

    seconds: Any
    shared: Any


class _Way(NamedTuple):
    """Streams to run branches in: seconds of every run in each of them, and the least that they take together.

    groups: the group of arrays that each stream has to itself; none where all share the device.
    """

    streams: list[list[float]]
    floor: float
    groups: list[int | None]


def planned(
    table: KernelTable,
    given: Any,
    levels: Any,
    units: Any,
    streams: int,
    event: Any,
    groups: Groups | None = None,
) -> tuple[StagePlan, ...]:
    """How every stage with several branches runs in at most `streams` streams.

    A stage takes, over s = 1 … streams, the least of: the time until its last kernel ends when branches are assigned to
    s streams and kernels issued in order wait for one another, but at least the longest chain, the seconds of all units
    its kernels keep to themselves and the time each memory level needs for all their bytes, plus two events per further
    stream. given: seconds of every kernel alone. levels: those of each memory level. units: those of all units that it
    keeps from other streams. With groups of arrays, s of them with a stream each are tried as well.
    """
    found = []
    for stage in stages(table):
        mine = stage.kernels
        if len(stage.branches) < 2 or not table.branches[mine[0]]:
            continue
        runs = runs_of(table, stage)
        moved = max(level[mine].sum() for level in levels)
        alone = [lengths_of(runs, given)] * len(stage.branches)
        floor = max(longest_chain(table, stage, given), moved, units[mine].sum())
        ways = [_Way(alone, floor, [None] * len(alone))]
        if groups is not None:
            lengths = [lengths_of(runs, seconds) for seconds in groups.seconds]
            fastest = sorted(range(len(lengths)), key=lambda group: sum(lengths[group]))
            ways.append(_Way([lengths[group] for group in fastest], max(moved, groups.shared[mine].sum()), [*fastest]))
        found.append(_best(table, stage, runs, ways, float(given[mine].sum()), streams, event))
    return tuple(found)


def _best(
    table: KernelTable,
    stage: Stage,
    runs: Sequence[Run],
    ways: Sequence[_Way],
    serial: float,
    streams: int,
    event: Any,
) -> StagePlan:
    count = len(stage.branches)
    best, taken, chosen = serial, ways[0], (0,) * count
    for s in range(2, min(streams, count) + 1):
        events = 2.0 * event * (s - 1)
        for way in ways:
            if s > len(way.streams) or best <= way.floor + events:
                continue
            for stream in _assignments(runs, way.streams[:s], way.floor):
                seconds = max(way.floor, *ends_of(runs, way.streams, stream)) + events
                if seconds < best:
                    best, taken, chosen = seconds, way, stream
    return StagePlan(PHASES[stage.phase], stage.kernels, best, _placements(table, runs, taken, chosen))


def _assignments(runs: Sequence[Run], seconds: Sequence[Sequence[float]], floor: float) -> Iterator[tuple[int, ...]]:
    """Streams of the branches: the best if none waits for another, in order of issue, and as their first kernels wait.

    In order of issue each takes the stream where it ends first: best where the last kernel of every branch adds to what
    the branch before left.
    """
    of = [run.branch for run in runs]
    durations = np.stack([np.bincount(of, weights=mine) for mine in seconds], axis=1)
    yield assign(durations, floor).machine
    if not any(run.waits for run in runs):
        return
    yield dealt(durations).machine
    first = {run.branch: run for run in reversed(runs)}
    waits = [(branch, runs[source].branch) for branch, run in first.items() for source in run.waits]
    if waits:
        yield list_schedule(durations, waits).machine


def _placements(table: KernelTable, runs: Sequence[Run], way: _Way, stream: Sequence[int]) -> tuple[Placement, ...]:
    found: dict[int, Placement] = {}
    for index, (run, end) in enumerate(zip(runs, ends_of(runs, way.streams, stream), strict=True)):
        mine = stream[run.branch]
        start = end - way.streams[mine][index]
        first = Placement(table.branches[run.kernels.start], mine, start, end, way.groups[mine])
        found[run.branch] = found.get(run.branch, first)._replace(finish=end)
    return tuple(found.values())


def overlapped(
    table: KernelTable,
    given: Any,
    levels: Any,
    units: Any,
    streams: int,
    event: Any,
    groups: Groups | None = None,
) -> Any:
    """Device seconds per kernel when branches run in at most `streams` streams, as `planned` has them.

    The kernels of a stage are scaled down to its time, which is never more than one stream takes.
    """
    seconds = np.array(given)
    for plan in planned(table, given, levels, units, streams, event, groups):
        serial = seconds[plan.kernels].sum()
        seconds[plan.kernels] *= plan.seconds / serial if serial > 0 else 1.0
    return seconds


def by_phase(table: KernelTable, values: Any) -> dict[str, float]:
    """Values of kernels added up per phase."""
    sums = np.bincount(table.phase, weights=values, minlength=len(PHASES))
    return dict(zip(PHASES, sums.tolist(), strict=True))
