"""When the kernels of a pass run, what they keep busy, and when the host issues them: what a timeline is drawn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ebmsim.cost.compute import loop_cycles, vector_rate
from ebmsim.cost.kernels import takes_no_time
from ebmsim.cost.products import dtypes, group_seconds, product_rate, product_seconds, saving
from ebmsim.cost.schedule import StagePlan
from ebmsim.cost.stages import Stage, ends_of, lengths_of, runs_of, stages
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.timing import Timing


class Wait(NamedTuple):
    """The host waits for the device after a launch, in s from the start of the pass."""

    launch: int
    start: float
    end: float


class Spans(NamedTuple):
    """Seconds from the start of a pass, one entry per launch.

    start, end: on the device, in `stream`, on the group of systolic arrays `group` (-1: on all of them). alone: seconds
    of the kernel with nothing beside it. issue, issued: when the host begins and ends to issue it.
    """

    start: Floats
    end: Floats
    stream: Ints
    group: Ints
    alone: Floats
    issue: Floats
    issued: Floats
    waits: tuple[Wait, ...]


def spans_of(timing: Timing) -> Spans:
    """The spans behind the advances of a pass.

    A kernel ends when the completion time has advanced over it, less the host's wait after a synchronisation, and
    begins its seconds of the device before. Kernels of a stage in streams run as its plan has them, stretched evenly
    over the stage. What the limit of power stretches is stretched as a whole, the host included.
    """
    done = np.cumsum(timing.advance)
    end = done - _wait(timing)
    # Rounding must not let a kernel begin before the one in front of it ends.
    start = np.clip(end - timing.device * timing.stretched, np.concatenate([[0.0], done])[:-1], end)
    nowhere = np.full(len(done), -1, dtype=np.int64)
    alone = np.array(timing.priced.device[timing.pass_.order])
    issue, issued, waits = _host(timing, done, start)
    found = Spans(start, end, np.zeros_like(nowhere), nowhere, alone, issue, issued, waits)
    planned = {int(plan.kernels[0]): plan for plan in timing.plans}
    for stage in stages(timing.table) if planned else ():
        plan = planned.get(int(stage.kernels[0]))
        if plan is not None:
            _place(timing, stage, plan, found, done)
    return found


def _wait(timing: Timing) -> Floats:
    """Seconds that the host's wake after a synchronisation adds behind each launch."""
    machine, pass_ = timing.priced.machine, timing.pass_
    wait = np.zeros(len(pass_.order))
    if machine.host.asynchronous and timing.priced.policy.fidelity != "roofline":
        wait[pass_.breaks] = machine.host.synchronise * timing.stretched
    return wait


def _host(timing: Timing, done: Floats, start: Floats) -> tuple[Floats, Floats, tuple[Wait, ...]]:
    """Begin and end of the issue of every launch, and the waits of the host.

    Asynchronous: one after another from the last synchronisation on; in a steady step without any, the host has begun
    by its lead before the step. Synchronous: each right before its kernel.
    """
    host = np.asarray(timing.host) * timing.stretched
    if not timing.priced.machine.host.asynchronous:
        return start - host, start, ()
    issued = np.cumsum(host)
    breaks = timing.pass_.breaks.tolist()
    if timing.pass_.steady and not breaks:
        issued -= _lead(host, np.asarray(timing.device) * timing.stretched)
    waits = []
    for stop in breaks:
        waits.append(Wait(stop, float(issued[stop]), float(done[stop])))
        issued[stop + 1 :] += done[stop] - issued[stop]
    return issued - host, issued, tuple(waits)


def _lead(host: Floats, device: Floats) -> float:
    """Seconds by which the host begins a steady step before the device does: the least with which none waits in vain.

        lead = max over i of (D_i - Σ_{j<i} k_j) - max(0, Σ d - Σ k)

    D_i is the host time to have issued kernel i. A host that is slower than the device begins when it has issued the
    step before; one that is faster gains on the device from step to step, which is not drawn.
    """
    ahead = np.cumsum(host) - np.concatenate([[0.0], np.cumsum(device)])[:-1]
    return float(ahead.max(initial=0.0) - max(0.0, host.sum() - device.sum()))


def _place(timing: Timing, stage: Stage, plan: StagePlan, spans: Spans, done: Floats) -> None:
    """Enter where the kernels of a stage run as planned, over the time that the stage takes."""
    runs = runs_of(timing.table, stage)
    # Branches are numbered as they appear, and so are their placements.
    streams = [placed.stream for placed in plan.placements]
    group = {placed.stream: placed.group for placed in plan.placements}
    seconds = [_alone(timing, group.get(stream)) for stream in range(max(streams) + 1)]
    ends = ends_of(runs, [lengths_of(runs, mine) for mine in seconds], streams)
    origin = float(done[stage.kernels[0] - 1]) if stage.kernels[0] else 0.0
    scale = (float(done[stage.kernels[-1]]) - origin) / max(ends) if max(ends) > 0 else 0.0
    free = [0.0] * len(seconds)
    for run, end in zip(runs, ends, strict=True):
        mine = streams[run.branch]
        spans.alone[run.kernels] = seconds[mine][run.kernels]
        inside = end - np.cumsum(spans.alone[run.kernels][::-1])[::-1]
        edges = origin + scale * np.clip(np.append(inside, end), free[mine], end)
        spans.start[run.kernels], spans.end[run.kernels] = edges[:-1], edges[1:]
        place = group[mine]
        spans.stream[run.kernels], spans.group[run.kernels] = mine, -1 if place is None else place
        free[mine] = end


def _alone(timing: Timing, group: int | None) -> Floats:
    """Seconds of every launch alone, on one group of arrays or on all of them."""
    priced = timing.priced
    seconds = priced.device if group is None or priced.groups is None else priced.groups.seconds[group]
    return np.asarray(seconds)[timing.pass_.order]


def engines(timing: Timing, spans: Spans) -> dict[str, Floats]:
    """Seconds that every launch keeps each engine busy, with nothing beside it.

    matrix: its product by the best way, on its group of arrays. vector, special, random: operations over the rate of
    all units, vector at least what a kernel's code takes of them. Kernels that take no time of the device, and copies
    over the host link, keep none busy.
    """
    p = timing.priced
    rows, machine, order = p.rows, p.machine, timing.pass_.order
    vector = rows.flops / vector_rate(machine, p.policy)
    if p.policy.fidelity != "roofline":
        vector = np.maximum(vector, loop_cycles(rows, p.profile))
    cycles = {"vector": vector, "special": rows.special / machine.special, "random": rows.random / machine.random}
    per_second = machine.units * machine.clock
    busy = {"matrix": _matrix(timing, spans)} | {name: (c / per_second)[order] for name, c in cycles.items()}
    idle = (takes_no_time(rows, machine) | rows.crosses)[order]
    return {name: np.where(idle, 0.0, seconds) for name, seconds in busy.items()}


def _matrix(timing: Timing, spans: Spans) -> Floats:
    """Seconds of every launch's product on the matrix engine; 0 without one."""
    p = timing.priced
    rows, machine, order = p.rows, p.machine, timing.pass_.order
    product = rows.product[order]
    if not len(rows.products):
        return np.zeros(len(order))
    if p.policy.fidelity == "roofline":
        names = dtypes(p.profile, machine, p.policy)
        rate = product_rate(rows.products, machine, names) * saving(rows.products, p.profile, names)
        return np.where(product >= 0, rows.product_flops[order] / (rate[product] * machine.units * machine.clock), 0.0)
    seconds = product_seconds(rows.products, p.ways, machine, p.profile, p.policy)[None]
    if (spans.group >= 0).any():
        # The last line is that of all arrays together: group -1.
        seconds = np.concatenate([group_seconds(rows.products, machine, p.profile, p.policy), seconds])
    group = np.where(spans.group < 0, len(seconds) - 1, spans.group)
    return np.where(product >= 0, seconds[group, product], 0.0)
