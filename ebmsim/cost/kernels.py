"""Seconds and joules of every kernel: compute and memory combined, and what binds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.compute import CONVOLUTION, MATMUL, Compute, bound_seconds, compute_seconds, dtypes
from ebmsim.cost.machine import Machine
from ebmsim.cost.traffic import Traffic, traffic
from ebmsim.graph.lower import CATEGORIES, PHASES, KernelTable
from ebmsim.spec.policy import Policy, Profile

MOVEMENT, HOST, RNG = (CATEGORIES.index(c) for c in ("movement", "host", "rng"))


class Kernels(NamedTuple):
    """Per kernel, along the last axis: seconds on the device and what they are made of, joules."""

    seconds: Any
    compute: Compute
    traffic: Traffic
    memory: Any
    fixed: Any
    link: Any
    joules: Any


def gap(machine: Machine, policy: Policy) -> Any:
    """Seconds between two kernels on the device, by execution; a loop resident on the device has the persistent one."""
    if policy.execution == "persistent" or machine.features.resident_loop:
        return machine.launch.persistent
    return machine.launch.graph if policy.execution == "graph" else machine.launch.eager


def knee(compute: Any, memory: Any, exponent: float) -> Any:
    """(cᵖ + mᵖ)^(1/p): compute and memory time of a product overlap, but not perfectly near the knee."""
    if exponent == 4:
        c, m = compute * compute, memory * memory
        return np.sqrt(np.sqrt(c * c + m * m))
    largest = np.maximum(compute, memory)
    ratio = np.minimum(compute, memory) / np.maximum(largest, 1e-300)
    return largest * (1.0 + ratio**exponent) ** (1.0 / exponent)


def kernel_costs(
    table: KernelTable, machine: Machine, profile: Profile, policy: Policy, fidelity: str, *, cold: bool = False
) -> Kernels:
    """Cost of every kernel of a table.

    roofline: max(compute, slowest level), no fixed time. Otherwise fixed + knee(compute, memory) for products and
    fixed + max(compute, memory) for kernels that stream. Copies over the host link take latency + bytes / bandwidth.
    """
    bound = fidelity == "roofline"
    moved = traffic(table, machine, profile, cold=cold, bound=bound)
    memory = moved.slowest()
    is_product = table.product[3] > 0
    if bound:
        least = bound_seconds(table, machine, profile, policy)
        compute = Compute(least, np.ones(len(table)), np.full(len(table), -1), ())
        fixed: Any = 0.0
        seconds = np.maximum(least, memory)
    else:
        compute = compute_seconds(table, machine, profile, policy)
        fixed = profile.kernel_time + gap(machine, policy)
        together = np.maximum(compute.seconds, memory)
        seconds = fixed + np.where(is_product, knee(compute.seconds, memory, profile.knee), together)
    crosses = (table.category == MOVEMENT) & np.isin(table.ops, ("to_device", "to_host"))
    latency = 0.0 if bound else machine.host.link_latency
    link = np.where(crosses, latency + table.written / machine.host.link_bandwidth, 0.0)
    on_host = table.category == HOST
    seconds = np.where(crosses, link, np.where(on_host, 0.0, seconds))
    if machine.features.rng_overlapped:
        seconds = np.where(table.category == RNG, 0.0, seconds)
    return Kernels(seconds, compute, moved, memory, fixed, link, _joules(table, machine, profile, policy, moved))


def _joules(table: KernelTable, machine: Machine, profile: Profile, policy: Policy, moved: Traffic) -> Any:
    """FLOPs times energy per FLOP of their arithmetic, plus bytes at each level times its energy per byte."""
    energy = machine.power.energy
    plain = energy.get(policy.dtype, energy.get("fp32", 0.0))
    names = dtypes(profile, machine, policy)
    product = np.where(
        table.category == CONVOLUTION, energy.get(names[CONVOLUTION], plain), energy.get(names[MATMUL], plain)
    )
    joules = table.product_flops * product + (table.flops - table.product_flops + table.special) * plain
    per_byte = {level.name: level.energy for level in machine.levels}
    for name, amount in zip(moved.levels, moved.bytes, strict=True):
        joules = joules + amount * per_byte[name]
    return joules


def host_costs(table: KernelTable, machine: Machine, profile: Profile, policy: Policy, fidelity: str) -> Any:
    """Host seconds to issue each kernel, and work on the host itself.

    eager: a cost per operator kind, more in autograd. graph: one replay a step. compiled: one cheap call per kernel,
    or one executable a step where the stack traces. persistent: nothing.
    """
    given = table.seconds
    if fidelity == "roofline":
        return given
    first = np.zeros(len(table))
    first[:1] = 1.0
    speed = machine.host.speed
    if policy.execution == "persistent" or machine.features.resident_loop:
        return given
    if policy.execution == "graph" or (policy.execution == "compiled" and profile.traces):
        return given + machine.launch.replay * first
    issued = table.category != HOST
    if policy.execution == "compiled":
        return given + np.where(issued, profile.compiled_cost * speed, 0.0)
    cost = np.array([profile.host_cost.get(c, 0.0) for c in CATEGORIES])[table.category]
    back = np.isin(table.phase, [PHASES.index("backward-input"), PHASES.index("backward-weight")])
    cost = given + cost * speed * np.where(back, profile.backward, 1.0)
    return cost + machine.launch.replay * first if profile.traces else cost
