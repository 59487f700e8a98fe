"""Every formula once, for many devices: seconds, energy and memory over all axes of a machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ebmsim import sampling
from ebmsim.cost.kernels import kernel_joules
from ebmsim.cost.machine import Machine
from ebmsim.errors import EbmsimError
from ebmsim.sweep.engine.launches import flat, pass_seconds
from ebmsim.sweep.engine.points import Axes, alike_in, axes_of, boxes, in_line, part_of, runs_of, some_of, timed_shape
from ebmsim.sweep.engine.states import states_of
from ebmsim.sweep.engine.sums import sums_of
from ebmsim.sweep.engine.work import Prepared, work_of

# Devices of one capacity that are computed at once, and near ones of a group.
_BOX, _NEAR = 2048, 700
# Sums that are held at once.
_HELD = 2_000_000


def evaluate(prepared: Prepared, machine: Machine) -> dict[str, Any]:
    """Figures of estimates over the axes of a machine, by the names they have in an Estimate.

    t_samp, t_samp_first, t_once, t_inf, t_inf_eq6, t_train (s); step_joules, inference_joules, mean_power_watts;
    inference_bytes, training_bytes, fits, training_fits. Those of training only where there is any. `machine` is that
    of a device whose figures are arrays (`figures.with_figures`). Results have the shape that all axes broadcast to.
    Raises EbmsimError for more than one stream.
    """
    if prepared.policy.streams > 1:
        raise EbmsimError("a grid is evaluated with one stream")
    shape = axes_of(machine).shape
    # No time depends on the capacity of main memory.
    timed = replace(machine, levels=(*machine.levels[:-1], replace(machine.levels[-1], capacity=math.inf)))
    axes = axes_of(timed)
    if axes.separate:
        seconds, moved = _on_a_grid(prepared, timed, axes)
    else:
        seconds, moved = _in_groups(prepared, in_line(timed, axes.shape))
        seconds = seconds.reshape(-1, *axes.shape)
        moved = [amount.reshape(*axes.shape, -1) for amount in moved]
    seconds, joules = _throttled(prepared, machine, seconds, moved)
    found = _figures(prepared, machine, seconds, joules)
    return {name: np.broadcast_to(value, shape) for name, value in found.items()}


def _on_a_grid(prepared: Prepared, machine: Machine, axes: Axes) -> tuple[Any, list[Any]]:
    """Seconds of every pass (passes × axes), and its bytes at every level (axes of capacities × passes)."""
    work = work_of(prepared, machine)
    shape = timed_shape(machine)
    capacities = tuple(n if a in axes.capacity else 1 for a, n in enumerate(shape))
    most = max(1, min(_BOX, _HELD // (len(work.plan.launches) * int(np.prod(capacities)))))
    parts = list(boxes(shape, axes.capacity, most))
    states = states_of(work, machine, capacities, most)
    seconds: Any = np.empty((len(prepared.passes), *shape))
    for index in parts:
        here = part_of(machine, index)
        sums = sums_of(work, states, work.ways, here, capacities)
        for i, found in enumerate(pass_seconds(work.plan, sums, here, prepared.profile, prepared.policy)):
            seconds[(i, *index)] = found
    return seconds, [amount @ work.moves for amount in work.traffic(work.moving, machine).bytes]


def _in_groups(prepared: Prepared, machine: Machine) -> tuple[Any, list[Any]]:
    """The same for devices along one axis: those alike in capacity share states, those alike in units ways."""
    work = work_of(prepared, machine)
    count = axes_of(machine).shape[0]
    parts = max(1, round((count / _NEAR) ** 0.5))
    capacities = [level.capacity for level in machine.levels[:-1] if np.ndim(level.capacity)]
    slab, group = alike_in(capacities[-1] if capacities else 0.0, count, parts), alike_in(machine.units, count, parts)
    ways = [work.candidates(some_of(machine, group == i)) for i in range(group.max() + 1)]
    # Sorted, so that near devices lie side by side.
    order = np.lexsort((np.broadcast_to(np.ravel(machine.units), count), group, slab))
    machine, slab, group = some_of(machine, order), slab[order], group[order]
    seconds: Any = np.empty((len(prepared.passes), count))
    moved = []
    for cell in runs_of(slab):
        devices, groups = some_of(machine, cell), group[cell]
        alike = work.narrowed(devices)
        states = states_of(alike, devices, (1,), _NEAR)
        amounts = [amount @ alike.moves for amount in alike.traffic(alike.moving, devices).bytes]
        moved.append([np.broadcast_to(amount, (len(groups), amount.shape[-1])) for amount in amounts])
        for piece in runs_of(groups):
            here = some_of(devices, piece)
            sums = sums_of(alike, states, ways[groups[piece.start]], here, (1,))
            for i, found in enumerate(pass_seconds(work.plan, sums, here, prepared.profile, prepared.policy)):
                seconds[i, cell][piece] = found
    back = np.argsort(order)
    return seconds[:, back], [np.concatenate(level)[back] for level in zip(*moved, strict=True)]


def _throttled(prepared: Prepared, machine: Machine, seconds: Any, moved: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Seconds and joules of every pass: dynamic power above what the limit leaves stretches what takes any time."""
    p = prepared
    joules = kernel_joules(p.lowered.rows, moved, machine, p.profile, p.policy, lambda column: column @ p.counts)
    least = joules / (machine.power.limit - machine.power.static)
    each = [joules[..., i] for i in range(len(p.passes))]
    return [np.where(mine > 0, np.maximum(mine, least[..., i]), 0.0) for i, mine in enumerate(seconds)], each


def _figures(prepared: Prepared, machine: Machine, seconds: Sequence[Any], joules: Sequence[Any]) -> dict[str, Any]:
    lowered, policy = prepared.lowered, prepared.policy
    w, static = lowered.facts, flat(machine.power.static)
    chains, steps = w.setting("chains"), w.setting("steps") * lowered.launches
    number = {id(pass_): i for i, pass_ in enumerate(prepared.passes)}

    def timed(pass_: Any) -> tuple[Any, Any]:
        return seconds[number[id(pass_)]], joules[number[id(pass_)]]

    step, dynamic = timed(lowered.step)
    first = np.maximum(timed(lowered.first)[0], step)
    outside = [(*timed(pass_), pass_.repeat * lowered.launches) for pass_ in lowered.once]
    once: Any = sum(time * repeat for time, _, repeat in outside)
    t_inf = sampling.t_inf(once, first, step, steps)
    step_joules = dynamic + static * step
    capacity = flat(machine.levels[-1].capacity)
    found = {
        "t_samp": step,
        "t_samp_first": first,
        "t_once": once,
        "t_inf": t_inf,
        "t_inf_eq6": sampling.t_inf_eq6(timed(lowered.one_chain)[0], chains, w.setting("steps")),
        "step_joules": step_joules,
        "inference_joules": dynamic * steps + sum(energy * repeat for _, energy, repeat in outside) + static * t_inf,
        "mean_power_watts": np.divide(step_joules, step, out=np.zeros(np.shape(step_joules)), where=step > 0),
        "inference_bytes": lowered.inference_bytes,
        "fits": lowered.inference_bytes <= capacity,
    }
    if lowered.iteration is not None and lowered.training_step is not None:
        iteration = timed(lowered.iteration)[0] + flat(lowered.host_seconds(machine, policy))
        sample = timed(lowered.training_step)[0]
        found["t_train"] = sampling.t_train(w.setting("iterations"), iteration, sample, lowered.training.steps)
        found["training_bytes"] = lowered.training_bytes
        found["training_fits"] = lowered.training_bytes <= capacity
    return found
