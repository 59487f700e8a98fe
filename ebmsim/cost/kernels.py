"""Seconds and joules of every kernel: compute and memory combined, and what binds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.compute import Compute, bound_seconds, compute_seconds
from ebmsim.cost.machine import Machine
from ebmsim.cost.products import CONVOLUTION, MATMUL, dtypes, saving
from ebmsim.cost.traffic import Traffic, traffic
from ebmsim.graph.lower import CATEGORIES, PHASES, KernelTable
from ebmsim.spec.policy import Policy, Profile

MOVEMENT, HOST, RNG = (CATEGORIES.index(c) for c in ("movement", "host", "rng"))


class Kernels(NamedTuple):
    """Per kernel, along the last axis: seconds on the device and what they are made of, joules.

    free: kernels that take no time of the device. plain: those that are neither free nor copies over the host link.
    """

    seconds: Any
    compute: Compute
    traffic: Traffic
    memory: Any
    fixed: Any
    link: Any
    joules: Any
    free: Any
    plain: Any


def expanded(costs: Kernels, order: Any) -> Kernels:
    """Costs of distinct kernels spread to every launch."""
    size = int(order.max()) + 1 if len(order) else 0

    def spread(values: Any) -> Any:
        values = np.asarray(values)
        if values.ndim == 0 or values.shape[-1] == 1:
            values = np.broadcast_to(values if values.ndim else values[None], (*values.shape[:-1], size))
        return values[..., order]

    compute, moved = costs.compute, costs.traffic
    return Kernels(
        spread(costs.seconds),
        Compute(spread(compute.seconds), spread(compute.share), spread(compute.option), compute.options),
        Traffic(moved.levels, tuple(map(spread, moved.bytes)), tuple(map(spread, moved.seconds))),
        spread(costs.memory),
        spread(costs.fixed),
        spread(costs.link),
        spread(costs.joules),
        spread(costs.free),
        spread(costs.plain),
    )


def gap(machine: Machine, policy: Policy) -> Any:
    """Seconds between two kernels on the device, by execution; a loop resident on the device has the persistent one."""
    if policy.execution == "persistent" or machine.features.resident_loop:
        return machine.launch.persistent
    return machine.launch.graph if policy.execution == "graph" else machine.launch.eager


def knee(compute: Any, memory: Any, exponent: float) -> Any:
    """(cᵖ + mᵖ)^(1/p): compute and memory time of a product overlap, but not perfectly near the knee."""
    if exponent == 2:
        return np.sqrt(compute * compute + memory * memory)
    largest = np.maximum(compute, memory)
    ratio = np.minimum(compute, memory) / np.maximum(largest, 1e-300)
    return largest * (1.0 + ratio**exponent) ** (1.0 / exponent)


def kernel_costs(
    table: KernelTable,
    machine: Machine,
    profile: Profile,
    policy: Policy,
    fidelity: str,
    *,
    cold: bool = False,
    combined: bool = True,
) -> Kernels:
    """Cost of every kernel of a table; `combined` False leaves the seconds to `combine`, part by part."""
    bound = fidelity == "roofline"
    moved = traffic(table, machine, profile, cold=cold, bound=bound)
    memory = moved.slowest()
    if bound:
        least = bound_seconds(table, machine, profile, policy)
        compute = Compute(least, np.ones(len(table)), np.full(len(table), -1), ())
    else:
        compute = compute_seconds(table, machine, profile, policy)
    fixed = 0.0 if bound else profile.kernel_time + profile.kernel_cycles / machine.clock + gap(machine, policy)
    crosses = _crosses(table)
    latency = 0.0 if bound else machine.host.link_latency
    link = np.where(crosses, latency + table.written / machine.host.link_bandwidth, 0.0)
    free = table.category == HOST
    if machine.features.rng_overlapped:
        free = free | (table.category == RNG)
    seconds = combine(table, compute.seconds, memory, fixed, link, profile, bound, free) if combined else None
    joules = _joules(table, machine, profile, policy, moved)
    return Kernels(seconds, compute, moved, memory, fixed, link, joules, free, ~(crosses | free))


def _crosses(table: KernelTable) -> Any:
    """Kernels that are copies over the host link."""
    if not (table.category == MOVEMENT).any():
        return np.zeros(len(table), dtype=np.bool_)
    return np.array([op in ("to_device", "to_host") for op in table.ops])


def combine(
    table: KernelTable, compute: Any, memory: Any, fixed: Any, link: Any, profile: Profile, bound: bool, free: Any
) -> Any:
    """Seconds on the device.

    roofline: max(compute, slowest level). Otherwise fixed + knee(compute, memory) for products and fixed +
    max(compute, memory) for kernels that stream. Copies over the host link take latency + bytes / bandwidth; `free`
    kernels (work on the host, overlapped random numbers) take no time of the device.
    """
    together = np.maximum(compute, memory)
    if not bound:
        together = np.where(table.product[3] > 0, knee(compute, memory, profile.knee), together)
    return np.where(free, 0.0, np.where(link > 0, link, fixed + together))


def _joules(table: KernelTable, machine: Machine, profile: Profile, policy: Policy, moved: Traffic) -> Any:
    """FLOPs times energy per FLOP of their arithmetic, plus bytes at each level times its energy per byte.

    Products count the arithmetic of the cheapest algorithm, so that no figure of a device that only changes the choice
    of algorithm can raise the power; those in fp32 take `product_energy` times the energy of their FLOPs.
    """
    energy = machine.power.energy
    plain = energy.get(policy.dtype, energy.get("fp32", 0.0))
    names = dtypes(profile, machine, policy)
    matmul, convolution = (
        energy.get(names[c], plain) * (profile.product_energy if names[c] == "fp32" else 1.0)
        for c in (MATMUL, CONVOLUTION)
    )
    product = np.where(table.category == CONVOLUTION, convolution, matmul) / saving(table, profile, names)
    joules = table.product_flops * product + (table.flops - table.product_flops + table.special) * plain
    per_byte = {level.name: level.energy for level in machine.levels}
    for name, amount in zip(moved.levels, moved.bytes, strict=True):
        if np.any(per_byte[name]):
            joules = joules + amount * per_byte[name]
    return joules


def host_costs(table: KernelTable, machine: Machine, profile: Profile, policy: Policy, fidelity: str) -> Any:
    """Host seconds to issue each kernel, and work on the host itself.

    eager: a cost per operator kind, more in autograd. graph: one replay a step. compiled: one cheap call per kernel,
    or one executable a step where the stack traces. persistent: nothing.
    """
    given = table.rows.seconds
    replay = np.zeros(len(table))
    replay[:1] = machine.launch.replay
    if fidelity == "roofline" or policy.execution == "persistent" or machine.features.resident_loop:
        return given[table.order]
    if policy.execution == "graph" or (policy.execution == "compiled" and profile.traces):
        return given[table.order] + replay
    speed = machine.host.speed
    rows = table.rows
    if policy.execution == "compiled":
        issued = np.where(rows.category != HOST, profile.compiled_cost * speed, 0.0)
        return (given + issued)[table.order]
    cost = np.array([profile.host_cost.get(c, 0.0) for c in CATEGORIES])[rows.category]
    back = (rows.phase == PHASES.index("backward-input")) | (rows.phase == PHASES.index("backward-weight"))
    each = (given + cost * speed * np.where(back, profile.backward, 1.0))[table.order]
    return each + replay if profile.traces else each
