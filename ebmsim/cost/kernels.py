"""Seconds and joules of every kernel: compute and memory combined, and what binds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.compute import bound_seconds, by_kind, compute_seconds
from ebmsim.cost.machine import Machine
from ebmsim.cost.products import dtypes, launch_seconds, least_energy
from ebmsim.cost.traffic import Traffic, traffic
from ebmsim.cost.ways import Ways
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.graph.rows import FORWARD, Rows
from ebmsim.policy import Policy, Profile

HOST, RNG = (CATEGORIES.index(c) for c in ("host", "rng"))


class Kernels(NamedTuple):
    """Per kernel, along the last axis: what its seconds on the device are made of, and its joules.

    compute: seconds. fixed: seconds beside them. link: seconds on the host link. free: kernels that take no
    time of the device. kneed: kernels whose compute and memory do not overlap perfectly.
    """

    compute: Any
    traffic: Traffic
    fixed: Any
    link: Any
    joules: Any
    free: Any
    kneed: Any

    @property
    def memory(self) -> Any:
        """Seconds of the slowest memory level."""
        return self.traffic.slowest()

    def seconds(self, exponent: float) -> Any:
        """Seconds on the device, `exponent` being that of the knee.

        fixed + knee(compute, memory) for products, fixed + max(compute, memory) for kernels that stream (all kernels
        in the roofline). Copies over the host link take latency + bytes / bandwidth; `free` kernels (work on the host,
        overlapped random numbers) no time of the device.
        """
        return self.combined(self.compute, self.memory, exponent)

    def combined(self, compute: Any, memory: Any, exponent: float) -> Any:
        """The same with given compute and memory terms."""
        together = np.maximum(compute, memory)
        if self.kneed.any():
            together = np.where(self.kneed, knee(compute, memory, exponent), together)
        return np.where(self.free, 0.0, np.where(self.link > 0, self.link, self.fixed + together))

    def spread(self, order: Any) -> Kernels:
        """The same for every launch, given the row of each."""

        def launches(values: Any) -> Any:
            values = np.asarray(values)
            return values[..., order] if values.ndim and values.shape[-1] > 1 else np.broadcast_to(values, order.shape)

        moved = self.traffic
        spread = moved._replace(bytes=tuple(map(launches, moved.bytes)))
        return Kernels(*[spread if part is moved else launches(part) for part in self])


def knee(compute: Any, memory: Any, exponent: float) -> Any:
    """(cᵖ + mᵖ)^(1/p): compute and memory time of a product overlap, but not perfectly near the knee."""
    if exponent == 2:
        return np.sqrt(compute * compute + memory * memory)
    largest = np.maximum(compute, memory)
    ratio = np.minimum(compute, memory) / np.maximum(largest, 1e-300)
    return largest * (1.0 + ratio**exponent) ** (1.0 / exponent)


def kernel_costs(rows: Rows, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Kernels:
    """Cost of every row at the policy's fidelity."""
    bound = policy.fidelity == "roofline"
    moved = traffic(rows, machine, profile, bound=bound)
    compute: Any
    if bound:
        compute = bound_seconds(rows, machine, profile, policy)
    else:
        compute = compute_seconds(rows, ways, machine, profile, policy)
    fixed: Any = 0.0 if bound else launch_seconds(machine, profile, policy) + page_seconds(rows, profile)
    link = link_seconds(rows, machine, policy)
    kneed = (rows.product >= 0) & (not bound)
    joules = kernel_joules(rows, moved.bytes, machine, profile, policy)
    return Kernels(compute, moved, fixed, link, joules, takes_no_time(rows, machine), kneed)


def link_seconds(rows: Rows, machine: Machine, policy: Policy) -> Any:
    """latency + bytes / bandwidth of copies over the host link; 0 of other kernels."""
    latency = 0.0 if policy.fidelity == "roofline" else machine.host.link_latency
    return np.where(rows.crosses, latency + rows.written / machine.host.link_bandwidth, 0.0)


def takes_no_time(rows: Rows, machine: Machine) -> Any:
    """Rows that take no time of the device: work on the host, and random numbers that are drawn beside the network."""
    free = rows.category == HOST
    return free | (rows.category == RNG) if machine.features.rng_overlapped else free


def page_seconds(rows: Rows, profile: Profile) -> Any:
    """Seconds to take memory anew from the system for results of `fresh_from` bytes and more, page by page."""
    if not np.isfinite(profile.fresh_bandwidth):
        return 0.0
    return np.where(rows.fresh >= profile.fresh_from, rows.fresh / profile.fresh_bandwidth, 0.0)


def _each(column: Any) -> Any:
    return column


def kernel_joules(
    rows: Rows,
    amounts: Sequence[Any],
    machine: Machine,
    profile: Profile,
    policy: Policy,
    total: Callable[[Any], Any] = _each,
) -> Any:
    """FLOPs times energy per FLOP of their arithmetic, plus bytes at each level (`amounts`) times its energy per byte.

    Products count the energy of the algorithm that takes least, so that no figure of a device that only changes the
    choice of algorithm can raise the power; those in fp32 take `product_energy` times the energy of their FLOPs.
    total: sums of columns over rows, for the joules of whole passes; amounts are then sums already.
    """
    energy = machine.power.energy
    plain = energy.get(policy.dtype, energy.get("fp32", 0.0))
    joules = total(rows.flops + rows.special) * plain
    if len(rows.products):
        names = dtypes(profile, machine, policy)
        flops = rows.product_flops * least_energy(rows.products, profile, names)[rows.product]
        is_convolution = rows.products.convolution[rows.product]
        for name, mine in zip(names, (~is_convolution, is_convolution), strict=True):
            factor = profile.product_energy if name == "fp32" else 1.0
            joules = joules + total(np.where(mine, flops, 0.0)) * (energy.get(name, plain) * factor)
    for level, amount in zip(machine.levels[-len(amounts) :], amounts, strict=True):
        if np.any(level.energy):
            joules = joules + amount * level.energy
    return joules


def host_costs(rows: Rows, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Host seconds to issue every row, and work on the host itself."""
    return rows.seconds + issue_seconds(rows, machine, profile, policy) * machine.host.speed


def issue_seconds(rows: Rows, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds of the reference host to issue every row.

    eager: a cost per kind or category, a factor on it in autograd, more again with every doubling of the kernels that
    ran since the last one of its kind, as code leaves the core's nearest caches; times for every gradient, for every
    view, and for every operator and view that autograd records. compiled: one cheap call per kernel, unless the stack
    traces. graph, persistent: nothing per kernel.
    """
    if not _issues(machine, profile, policy):
        return np.zeros(len(rows))
    if policy.execution == "compiled":
        return np.where(rows.category != HOST, profile.compiled_cost, 0.0)
    cost = by_kind(rows, profile.host_cost)
    cost = cost * np.where(rows.back == FORWARD, 1.0, profile.backward)
    cost = cost * (1.0 + profile.change * np.log2(1.0 + rows.since))
    cost = cost + profile.gradient * rows.starts + profile.view * rows.views
    return cost + profile.recording * rows.recorded * (1.0 + rows.views)


def host_replay(machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Host seconds to start one captured graph or executable a pass: where kernels are not issued one by one.

    A stack that traces eager execution starts one as well. persistent execution and the roofline pay nothing.
    """
    if policy.fidelity == "roofline" or policy.execution == "persistent" or machine.features.resident_loop:
        return 0.0
    traced = profile.traces and policy.execution == "eager"
    return machine.launch.replay if traced or not _issues(machine, profile, policy) else 0.0


def _issues(machine: Machine, profile: Profile, policy: Policy) -> bool:
    """Whether the host issues kernels one by one."""
    if policy.fidelity == "roofline" or machine.features.resident_loop:
        return False
    return policy.execution == "eager" or (policy.execution == "compiled" and not profile.traces)
