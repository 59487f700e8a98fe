"""The launches of passes as columns: sums of kernel seconds that are asked for, and the time of a pass from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.kernels import host_replay
from ebmsim.cost.machine import Machine
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.lowered import Pass
from ebmsim.policy import Policy, Profile


class Stretch(NamedTuple):
    """Launches from after one synchronisation through the next, in segments, each a column.

    columns: one more than `work` and `issue` are long, which hold, for each launch that the device may wait for, the
    host seconds until it is issued: of stated times, and of issuing kernels on the reference host. Such a launch begins
    every segment but the first. Without any, order does not matter.
    """

    columns: slice
    work: Floats
    issue: Floats
    first: bool


class Plan(NamedTuple):
    """The columns that passes are made of. launches: row of every launch, by column. stretches: of every pass.

    work, issue: host seconds of every pass, as in a Stretch. breaks: synchronisations of every pass.
    """

    launches: tuple[Ints, ...]
    stretches: tuple[tuple[Stretch, ...], ...]
    work: Floats
    issue: Floats
    breaks: tuple[int, ...]


def plan_of(
    passes: Sequence[Pass], asynchronous: bool, work: Floats, issue: Floats, speed: Any, low: Floats, high: Floats
) -> Plan:
    """The columns of passes.

    work, issue: host seconds of every row, stated and on the reference host. speed: of the hosts. low, high: the least
    and the most seconds that a row takes of the device.

    Where a device waits for launches, a stretch takes Σ k + max over its launches of (D_i - Σ_{j<i} k_j), D_i the host
    time to have issued launch i.
    """
    launches: list[Ints] = []
    stretches = []
    for pass_ in passes:
        in_order = asynchronous and (not pass_.steady or len(pass_.breaks) > 0)
        found = []
        for start, stop in _spans(pass_) if in_order else [(0, len(pass_.order))]:
            order = pass_.order[start:stop]
            stated, issued = np.cumsum(work[order]), np.cumsum(issue[order])
            tried = np.zeros(0, dtype=np.int64)
            if in_order:
                tried = _may_be_last(stated, issued, (np.min(speed), np.max(speed)), low[order], high[order])
            columns = slice(len(launches), len(launches) + len(tried) + 1)
            launches += np.split(order, tried)
            found.append(Stretch(columns, stated[tried], issued[tried], start == 0))
        stretches.append(tuple(found))
    host = [np.array([values[pass_.order].sum() for pass_ in passes]) for values in (work, issue)]
    return Plan(tuple(launches), tuple(stretches), host[0], host[1], tuple(len(pass_.breaks) for pass_ in passes))


def _spans(pass_: Pass) -> Iterator[tuple[int, int]]:
    start = 0
    for stop in [*(int(b) + 1 for b in pass_.breaks), len(pass_.order)]:
        if stop > start:
            yield start, stop
        start = stop


def _may_be_last(stated: Any, issued: Any, speed: tuple[Any, Any], low: Any, high: Any) -> Any:
    """Launches that the device may wait for longest, given the least and the most that each takes of it.

    One is out if a later one always waits at least as long, since the host takes more between the two than the device
    can, or an earlier one, since the device takes more.
    """
    late = stated + speed[0] * issued - (np.cumsum(high) - high)
    early = stated + speed[1] * issued - (np.cumsum(low) - low)
    after = np.append(np.maximum.accumulate(late[::-1])[::-1][1:], -np.inf)
    before = np.append(-np.inf, np.maximum.accumulate(early)[:-1])
    return np.flatnonzero((late >= after) & (early > before))


def pass_seconds(plan: Plan, sums: Any, machine: Machine, profile: Profile, policy: Policy) -> list[Any]:
    """Seconds of every pass but for throttling, from device seconds by column (along the first axis)."""
    replay, speed = flat(host_replay(machine, profile, policy)), flat(machine.host.speed)
    wait = 0.0 if policy.fidelity == "roofline" else flat(machine.host.synchronise)
    found = []
    for stretches, work, issue, breaks in zip(plan.stretches, plan.work, plan.issue, plan.breaks, strict=True):
        seconds = sum(_stretch(stretch, sums, speed, replay) for stretch in stretches)
        if any(len(stretch.work) for stretch in stretches):
            seconds = seconds + wait * breaks
        else:
            issuing = work + speed * issue + replay
            seconds = np.maximum(seconds, issuing) if machine.host.asynchronous else seconds + issuing
        found.append(seconds)
    return found


def _stretch(stretch: Stretch, sums: Any, speed: Any, replay: Any) -> Any:
    """Σ k + max over the launches that may be waited for of (D_i - Σ_{j<i} k_j)."""
    segments = sums[stretch.columns]
    if not len(stretch.work):
        return segments[0]
    busy, ahead = np.array(segments[0]), None
    for segment, work, issue in zip(segments[1:], stretch.work.tolist(), stretch.issue.tolist(), strict=True):
        waits = work + speed * issue - busy
        ahead = waits if ahead is None else np.maximum(ahead, waits, out=waits)
        busy += segment
    return busy + ahead + (replay if stretch.first else 0.0)


def flat(value: Any) -> Any:
    """A figure of the machine without its kernel axis."""
    return value[..., 0] if np.ndim(value) else value
