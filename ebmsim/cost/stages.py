"""Stages of a pass: branches that could run side by side, and when their kernels end in given streams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.graph.kernels import KernelTable


class Stage(NamedTuple):
    """A run of kernels of one phase, by branch: branches may wait for one another, but not for what comes after."""

    phase: int
    branches: tuple[Any, ...]
    kernels: Any


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


class Run(NamedTuple):
    """Kernels of one branch that run on end: only the first waits for others, only the last is waited for.

    branch: its number in order of appearance. kernels: in the table. waits: earlier runs of other branches.
    """

    branch: int
    kernels: slice
    waits: tuple[int, ...]


def runs_of(table: KernelTable, stage: Stage) -> list[Run]:
    first, last = int(stage.kernels[0]), int(stage.kernels[-1])
    waits: dict[int, list[int]] = {}
    for kernel, source in table.awaited:
        if first <= source and kernel <= last:
            waits.setdefault(int(kernel), []).append(int(source))
    awaited = {source for sources in waits.values() for source in sources}
    names = table.branches
    starts = [
        k for k in range(first, last + 1) if k == first or names[k] != names[k - 1] or k in waits or k - 1 in awaited
    ]
    number = {name: i for i, name in enumerate(dict.fromkeys(names[k] for k in starts))}
    ends = [*starts[1:], last + 1]
    run_of = {end - 1: i for i, end in enumerate(ends)}
    return [
        Run(number[names[k]], slice(k, end), tuple(run_of[source] for source in waits.get(k, ())))
        for k, end in zip(starts, ends, strict=True)
    ]


def lengths_of(runs: Sequence[Run], seconds: Any) -> list[float]:
    return [float(seconds[run.kernels].sum()) for run in runs]


def ends_of(runs: Sequence[Run], seconds: Sequence[Sequence[float]], stream: Sequence[int]) -> list[float]:
    """When every run ends: issued in order, it starts after the run before it in its stream and those it waits for.

    seconds: of every run, by stream. stream: of every branch.
    """
    free = [0.0] * len(seconds)
    ends: list[float] = []
    for index, run in enumerate(runs):
        mine = stream[run.branch]
        free[mine] = max([free[mine], *[ends[source] for source in run.waits]]) + seconds[mine][index]
        ends.append(free[mine])
    return ends


def longest_chain(table: KernelTable, stage: Stage, seconds: Any) -> float:
    """Seconds of the longest chain of kernels in a stage: each waits for the one before in its branch, and for the
    kernels of other branches whose results it reads. It is the time with a stream for every branch.
    """
    runs = runs_of(table, stage)
    return max(ends_of(runs, [lengths_of(runs, seconds)] * len(runs), range(len(runs))))
