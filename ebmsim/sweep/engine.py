"""Estimates over a grid of devices: every formula once, on arrays whose axes are the swept figures.

Compute terms live on the axes that arithmetic depends on, memory terms on theirs; only the sum over kernels of their
combination spans the product of both. What is summed is what `time_table` sums for one device.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ebmsim import sampling
from ebmsim.cost.kernels import Kernels, combine, host_costs, kernel_costs
from ebmsim.cost.machine import Machine
from ebmsim.cost.schedule import synchronisations
from ebmsim.errors import EbmsimError
from ebmsim.graph.lower import KernelTable
from ebmsim.lowered import Lowered
from ebmsim.spec.policy import Policy, Profile

# Elements of one block: a few such arrays stay in a core's own cache.
_BLOCK = 32_768


def evaluate(lowered: Lowered, machine: Machine, profile: Profile, policy: Policy) -> dict[str, Any]:
    """t_samp, t_samp_first, t_once, t_inf, t_inf_eq6, t_train (s) and step_joules over the axes of a machine.

    `machine` comes from `Machine.swept`. Arrays have the shape that all axes broadcast to. Raises EbmsimError for more
    than one stream, and for host figures that are swept.
    """
    if policy.streams > 1:
        raise EbmsimError("a grid is evaluated with one stream")
    w = lowered.workload
    chains, steps = w.setting("chains"), w.setting("steps") * lowered.launches

    def timed(table: KernelTable, cold: bool = False, steady: bool = True) -> tuple[Any, Any]:
        return _time(table, machine, profile, policy, cold=cold, steady=steady)

    step, joules = timed(lowered.step)
    first = np.maximum(timed(lowered.step, cold=True, steady=False)[0], step)
    once: Any = 0.0
    for table, repeat in lowered.once:
        once = once + timed(table, cold=True, steady=False)[0] * repeat
    once = once * lowered.launches
    one = step if lowered.one_chain is lowered.step else timed(lowered.one_chain)[0]
    found = {
        "t_samp": step,
        "t_samp_first": first,
        "t_once": once,
        "t_inf": sampling.t_inf(once, first, step, steps),
        "t_inf_eq6": sampling.t_inf_eq6(one, chains, w.setting("steps")),
        "step_joules": joules + machine.power.static * step,
    }
    if lowered.iteration is not None and lowered.training_step is not None:
        pass_ = timed(lowered.iteration)[0] + lowered.host_seconds(machine, policy)
        sample = step if lowered.training_step is lowered.step else timed(lowered.training_step)[0]
        found["t_train"] = sampling.t_train(w.setting("iterations"), pass_, sample, w.setting("training_steps"))
    shape = np.broadcast_shapes(*[np.shape(value) for value in found.values()])
    return {name: np.broadcast_to(value, shape) for name, value in found.items()}


def _time(
    table: KernelTable, machine: Machine, profile: Profile, policy: Policy, *, cold: bool, steady: bool
) -> tuple[Any, Any]:
    """Seconds and joules of one pass over a table, at every point."""
    rows, bound = table.rows, policy.fidelity == "roofline"
    costs = kernel_costs(rows, machine, profile, policy, policy.fidelity, cold=cold, combined=False)
    host = host_costs(table, machine, profile, policy, policy.fidelity)
    counts = np.bincount(table.order, minlength=len(rows)).astype(np.float64)
    joules = costs.joules @ counts
    breaks = synchronisations(table)
    wait = 0.0 if bound else machine.host.synchronise
    if not machine.host.asynchronous:
        seconds = totals(rows, costs, counts[:, None], profile, bound)[..., 0] + host.sum()
    elif steady and len(breaks) == 0:
        seconds = np.maximum(totals(rows, costs, counts[:, None], profile, bound)[..., 0], host.sum())
    else:
        seconds = _from_empty(table, costs, host, breaks, wait, profile, bound)
    seconds = np.maximum(seconds, joules / _flat(machine.power.limit - machine.power.static))
    return seconds, joules


def _flat(value: Any) -> Any:
    """A figure of the machine without its kernel axis."""
    return value[..., 0] if np.ndim(value) else value


def _from_empty(
    table: KernelTable, costs: Kernels, host: Any, breaks: Any, wait: Any, profile: Profile, bound: bool
) -> Any:
    """Stretches between synchronisations, each from an empty queue: Σ k + max over i of (D_i - Σ_{j<i} k_j).

    Only launches that can be the maximum somewhere on the grid are tried: those whose D_i - Σ k at the fastest point
    reaches the best one at the slowest point.
    """
    rows = table.rows
    low, high = _extremes(rows, costs, profile, bound)
    columns: list[Any] = []
    stretches: list[tuple[int, list[int], list[float]]] = []
    start = 0
    for stop in [*[int(b) + 1 for b in breaks], len(table)]:
        if stop == start:
            continue
        order, issued = table.order[start:stop], np.cumsum(host[start:stop])
        fast = issued - (np.cumsum(low[order]) - low[order])
        slow = issued - (np.cumsum(high[order]) - high[order])
        tried = np.flatnonzero(fast >= slow.max() * (1 - 1e-12) - 1e-300)
        total = len(columns)
        columns.append(np.bincount(order, minlength=len(rows)))
        before = []
        for i in tried:
            before.append(len(columns))
            columns.append(np.bincount(order[:i], minlength=len(rows)))
        stretches.append((total, before, [float(issued[i]) for i in tried]))
        start = stop
    sums = totals(rows, costs, np.stack(columns, axis=1).astype(np.float64), profile, bound)
    seconds: Any = 0.0
    for total, before, issued_at in stretches:
        ahead = [at - sums[..., column] for at, column in zip(issued_at, before, strict=True)]
        seconds = seconds + sums[..., total] + np.maximum.reduce(ahead)
    return seconds + wait * len(breaks)


def _extremes(rows: KernelTable, costs: Kernels, profile: Profile, bound: bool) -> tuple[Any, Any]:
    """Seconds of every row at the fastest and at the slowest values of its terms."""
    found = []
    for pick in (np.min, np.max):
        c, m, f, x = (
            pick(np.reshape(a, (-1, np.shape(a)[-1])), axis=0) if np.ndim(a) > 1 else np.asarray(a)
            for a in (costs.compute.seconds, costs.memory, costs.fixed, costs.link)
        )
        found.append(np.broadcast_to(combine(rows, c, m, f, x, profile, bound, costs.free), (len(rows),)))
    return found[0], found[1]


def totals(rows: KernelTable, costs: Kernels, weights: Any, profile: Profile, bound: bool) -> Any:
    """Σ over rows of weight × seconds for every column of weights, at every point of the grid.

    A row whose larger term is the same one everywhere needs no product of axes; the others are combined in blocks:
    one block per point of the compute axes, as many points of the memory axes as stay in a core's cache.
    """
    count = len(rows)
    compute, memory = (np.asarray(a, dtype=np.float64) for a in (costs.compute.seconds, costs.memory))
    axes = max(compute.ndim, memory.ndim) - 1
    if axes == 0:
        return combine(rows, compute, memory, costs.fixed, costs.link, profile, bound, costs.free) @ weights
    compute = np.broadcast_to(compute, (*[1] * (axes + 1 - compute.ndim), *compute.shape[:-1], count))
    memory = np.broadcast_to(memory, (*[1] * (axes + 1 - memory.ndim), *memory.shape[:-1], count))
    shape = np.broadcast_shapes(compute.shape[:-1], memory.shape[:-1])
    flat_c, flat_m = compute.reshape(-1, count), memory.reshape(-1, count)
    plain = costs.plain
    knee = (rows.product[3] > 0) & plain & (not bound)
    least_c, most_c, least_m, most_m = flat_c.min(0), flat_c.max(0), flat_m.min(0), flat_m.max(0)
    by_memory, by_compute = ~knee & (most_c <= least_m), ~knee & (least_c > most_m)
    other = plain & ~knee & ~by_memory & ~by_compute
    by_memory, by_compute = by_memory & plain, by_compute & plain
    base = np.where(plain, costs.fixed, np.where(costs.free, 0.0, costs.link)) @ weights
    alone_m = (memory[..., by_memory] @ weights[by_memory]) + base
    alone_c = compute[..., by_compute] @ weights[by_compute]
    result = np.empty((*shape, weights.shape[1]))
    result[...] = alone_m
    result += alone_c
    for chosen, exponent in ((knee, profile.knee), (other, 0.0)):
        if chosen.any():
            c, m, w = _merged(compute[..., chosen], memory[..., chosen], weights[chosen])
            varies = _varying(c) | _varying(m)
            for mask in np.unique(varies, axis=1).T:
                mine = (varies == mask[:, None]).all(0)
                at = tuple(slice(None) if v else slice(0, 1) for v in mask)
                # Along an axis on which none of these rows varies, one value serves all points.
                result += _products(c[at][..., mine], m[at][..., mine], w[mine], exponent)
    return result


def _varying(values: Any) -> Any:
    """For every axis and row, whether the row's values differ along that axis."""
    axes = values.ndim - 1
    found = np.zeros((axes, values.shape[-1]), dtype=np.bool_)
    for axis in range(axes):
        if values.shape[axis] > 1:
            differs = values != values.take([0], axis=axis)
            found[axis] = differs.reshape(-1, values.shape[-1]).any(0)
    return found


def _products(compute: Any, memory: Any, weights: Any, exponent: float) -> Any:
    """Σ weight × knee(compute, memory) (exponent 0: the larger) over the axes of both, block by block."""
    if exponent:
        compute, memory = compute**exponent, memory**exponent
    axes = compute.ndim - 1
    shape = np.broadcast_shapes(compute.shape[:-1], memory.shape[:-1])
    result = np.empty((*shape, weights.shape[1]))
    outer = [a for a in range(axes) if compute.shape[a] > 1]
    size = max(1, _BLOCK // compute.shape[-1])
    # The axes of arithmetic are walked; along the others a block holds as many points as stay in a core's cache.
    for point in np.ndindex(*[shape[a] for a in outer]):
        index: list[Any] = [slice(None)] * axes
        for a, i in zip(outer, point, strict=True):
            index[a] = i
        c = compute[tuple(index[a] if a in outer else 0 for a in range(axes))]
        m = memory[tuple((index[a] if memory.shape[a] > 1 else 0) if a in outer else slice(None) for a in range(axes))]
        m = m.reshape(-1, m.shape[-1])
        block = np.empty((len(m), weights.shape[1]))
        for start in range(0, len(m), size):
            joint = m[start : start + size] + c if exponent else np.maximum(m[start : start + size], c)
            if exponent == 4:
                np.sqrt(joint, out=joint)
                np.sqrt(joint, out=joint)
            elif exponent:
                joint **= 1.0 / exponent
            block[start : start + size] = joint @ weights
        target = result[tuple(index)]
        target[...] = block.reshape(target.shape)
    return result


def _merged(compute: Any, memory: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Rows with equal terms at every point made one, their weights added."""
    c, m = (np.ascontiguousarray(a.reshape(-1, a.shape[-1]).T) for a in (compute, memory))
    seen: dict[tuple[bytes, bytes], int] = {}
    group = np.array([seen.setdefault((c[i].tobytes(), m[i].tobytes()), len(seen)) for i in range(len(c))])
    if len(seen) == len(c):
        return compute, memory, weights
    first = np.unique(group, return_index=True)[1]
    added = np.zeros((len(seen), weights.shape[1]))
    np.add.at(added, group, weights)
    return compute[..., first], memory[..., first], added
