"""Estimates over a grid of devices: every formula once, on arrays whose axes are the swept figures.

Compute terms live on the axes that arithmetic depends on, memory terms on theirs; only the sum over kernels of their
combination spans the product of both. All passes of a workload are summed in one walk over the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ebmsim import sampling
from ebmsim.cost.kernels import Kernels, host_costs, host_replay, kernel_costs
from ebmsim.cost.machine import Machine
from ebmsim.errors import EbmsimError
from ebmsim.graph.rows import counted
from ebmsim.lowered import Lowered, Pass
from ebmsim.policy import Policy, Profile
from ebmsim.sweep.totals import bounds, totals


def evaluate(lowered: Lowered, machine: Machine, profile: Profile, policy: Policy) -> dict[str, Any]:
    """Figures of estimates over the axes of a machine, by the names they have in an Estimate.

    t_samp, t_samp_first, t_once, t_inf, t_inf_eq6, t_train (s); step_joules, inference_joules, mean_power_watts;
    inference_bytes, training_bytes, fits, training_fits. Those of training only where there is any.

    `machine` is that of a device whose figures are arrays (`figures.with_figures`). Results have the shape that all
    axes broadcast to. Raises EbmsimError for more than one stream.
    """
    if policy.streams > 1:
        raise EbmsimError("a grid is evaluated with one stream")
    w = lowered.facts
    chains, steps = w.setting("chains"), w.setting("steps") * lowered.launches
    passes = {"step": lowered.step, "first": lowered.first, "one": lowered.one_chain}
    passes |= {f"once{i}": pass_ for i, pass_ in enumerate(lowered.once)}
    if lowered.iteration is not None and lowered.training_step is not None:
        passes |= {"iteration": lowered.iteration, "sample": lowered.training_step}
    distinct = list({id(pass_): pass_ for pass_ in passes.values()}.values())
    timed = dict(zip(map(id, distinct), _time(distinct, lowered, machine, profile, policy), strict=True))
    step, joules = timed[id(passes["step"])]
    first = np.maximum(timed[id(passes["first"])][0], step)
    once: Any = sum(timed[id(pass_)][0] * pass_.repeat * lowered.launches for pass_ in lowered.once)
    t_inf = sampling.t_inf(once, first, step, steps)
    static, capacity = flat(machine.power.static), flat(machine.levels[-1].capacity)
    dynamic: Any = joules * steps + sum(timed[id(p)][1] * p.repeat * lowered.launches for p in lowered.once)
    found = {
        "t_samp": step,
        "t_samp_first": first,
        "t_once": once,
        "t_inf": t_inf,
        "t_inf_eq6": sampling.t_inf_eq6(timed[id(passes["one"])][0], chains, w.setting("steps")),
        "step_joules": joules + static * step,
        "inference_joules": dynamic + static * t_inf,
        "mean_power_watts": joules / step + static,
        "inference_bytes": lowered.inference_bytes,
        "fits": lowered.inference_bytes <= capacity,
    }
    if lowered.training_bytes is not None:
        found |= {"training_bytes": lowered.training_bytes, "training_fits": lowered.training_bytes <= capacity}
    if "iteration" in passes:
        iteration = timed[id(passes["iteration"])][0] + lowered.host_seconds(machine, policy)
        sample = timed[id(passes["sample"])][0]
        found["t_train"] = sampling.t_train(w.setting("iterations"), iteration, sample, lowered.training.steps)
    shape = np.broadcast_shapes(*[np.shape(value) for value in found.values()])
    return {name: np.broadcast_to(value, shape) for name, value in found.items()}


def _time(
    passes: Sequence[Pass], lowered: Lowered, machine: Machine, profile: Profile, policy: Policy
) -> list[tuple[Any, Any]]:
    """Seconds and joules of every pass, at every point: what `time_pass` gives for one device.

    A pass is cut into stretches between the launches after which the host waits. Where order matters, a stretch takes
    Σ k + max over its launches of (D_i - Σ_{j<i} k_j), D_i the host time to have issued launch i.
    """
    costs = kernel_costs(lowered.rows, lowered.ways, machine, profile, policy)
    host = host_costs(lowered.rows, machine, profile, policy)
    replay = host_replay(machine, profile, policy)
    low, high = _extremes(costs, profile.knee, len(lowered.rows))
    columns: list[Any] = []
    groups: list[list[int]] = []
    plans: list[list[tuple[int, list[int], list[float]]]] = []
    for pass_ in passes:
        in_order = machine.host.asynchronous and (not pass_.steady or len(pass_.breaks) > 0)
        plan = []
        for start, stop in _stretches(pass_) if in_order else [(0, len(pass_.order))]:
            order = pass_.order[start:stop]
            issued = np.cumsum(host[order]) + (replay if start == 0 else 0.0)
            # Only launches that can be the maximum somewhere on the grid are tried: those whose D_i - Σ k at the
            # fastest point reaches the best one at the slowest point.
            tried: Any = []
            if in_order:
                fast = issued - (np.cumsum(low[order]) - low[order])
                slow = issued - (np.cumsum(high[order]) - high[order])
                tried = np.flatnonzero(fast >= slow.max() * (1 - 1e-12) - 1e-300)
            total = len(columns)
            columns.append(counted(order, len(lowered.rows)))
            before = []
            for i in tried:
                before.append(len(columns))
                columns.append(counted(order[:i], len(lowered.rows)))
            plan.append((total, before, [float(issued[i]) for i in tried]))
        plans.append(plan)
        groups.append([total for total, _, _ in plan])
        groups += [[column for _, before, _ in plan for column in before]] if in_order else []
    sums = totals(costs, np.stack(columns, axis=1), [group for group in groups if group], profile.knee)
    joules = costs.joules @ np.stack([pass_.counts for pass_ in passes], axis=1)
    wait = 0.0 if policy.fidelity == "roofline" else machine.host.synchronise
    limit = flat(machine.power.limit - machine.power.static)
    found = []
    for index, (pass_, plan) in enumerate(zip(passes, plans, strict=True)):
        seconds: Any = 0.0
        for total, before, issued_at in plan:
            busy = sums[total]
            ahead = [at - sums[column] for at, column in zip(issued_at, before, strict=True)]
            seconds = seconds + (busy + np.maximum.reduce(ahead) if ahead else busy)
        if any(before for _, before, _ in plan):
            seconds = seconds + wait * len(pass_.breaks)
        else:
            issuing = pass_.counts @ host + replay
            seconds = np.maximum(seconds, issuing) if machine.host.asynchronous else seconds + issuing
        found.append((np.maximum(seconds, joules[..., index] / limit), joules[..., index]))
    return found


def _stretches(pass_: Pass) -> list[tuple[int, int]]:
    """Launches from after one synchronisation through the next."""
    stops = [*(int(b) + 1 for b in pass_.breaks), len(pass_.order)]
    return [(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True) if stop > start]


def flat(value: Any) -> Any:
    """A figure of the machine without its kernel axis."""
    return value[..., 0] if np.ndim(value) else value


def _extremes(costs: Kernels, knee: float, count: int) -> tuple[Any, Any]:
    """Seconds of every row at the fastest and at the slowest values of its terms."""
    compute, levels = bounds(costs, count)
    picked = [
        costs._replace(fixed=_picked(costs.fixed, pick), link=_picked(costs.link, pick)) for pick in (np.min, np.max)
    ]
    memory = [np.maximum.reduce([level[i] for level in levels]) for i in (0, 1)]
    low, high = (picked[i].combined(compute[i], memory[i], knee) for i in (0, 1))
    return low, high


def _picked(values: Any, pick: Any) -> Any:
    values = np.atleast_1d(values)
    return pick(values.reshape(-1, values.shape[-1]), axis=0)
