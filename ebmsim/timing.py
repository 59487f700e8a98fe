"""One pass over a kernel table on a device: seconds per kernel, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ebmsim.cost.compute import beside_products, unit_share
from ebmsim.cost.kernels import Kernels, host_costs, host_replay
from ebmsim.cost.machine import Machine
from ebmsim.cost.products import Choice, choices, group_seconds
from ebmsim.cost.schedule import Groups, StagePlan, first_pass, overlapped, planned, steady_pass
from ebmsim.cost.ways import Ways
from ebmsim.graph.kernels import KernelTable
from ebmsim.graph.rows import Rows
from ebmsim.lowered import Pass
from ebmsim.policy import Policy, Profile


@dataclass(frozen=True)
class Priced:
    """The costs of all rows of a lowered workload on one device, and what they were computed from."""

    rows: Rows
    ways: Ways
    machine: Machine
    profile: Profile
    policy: Policy
    costs: Kernels

    @cached_property
    def device(self) -> Any:
        """Seconds of every row on the device."""
        return self.costs.seconds(self.profile.knee)

    @cached_property
    def host(self) -> Any:
        """Seconds of the host to issue every row."""
        return host_costs(self.rows, self.machine, self.profile, self.policy)

    @cached_property
    def unit_seconds(self) -> Any:
        """Seconds of all units that every row keeps from the kernels of other streams.

        share of units · ((1 - sharing) t + sharing · t_compute): what a kernel leaves idle inside its units is shared
        to a measured part, and wholly in the roofline.
        """
        share = unit_share(self.rows, self.ways, self.machine, self.profile, self.policy)
        shared = 1.0 if self.policy.fidelity == "roofline" else self.profile.sharing
        busy = np.minimum(self.costs.compute, self.device)
        return share * ((1.0 - shared) * self.device + shared * busy)

    @cached_property
    def groups(self) -> Groups | None:
        """Every row with its product on one group of systolic arrays alone; None unless there are unequal groups.

        The groups share what is not arrays: vector work, and the units that kernels without a product keep. The
        roofline has no groups: its products take the peak of all of them.
        """
        rows, how = self.rows, (self.machine, self.profile, self.policy)
        if len(self.machine.subarrays) < 2 or not len(rows.products) or self.policy.fidelity == "roofline":
            return None
        compute = beside_products(rows, group_seconds(rows.products, *how), *how)
        vector = beside_products(rows, np.zeros(len(rows.products)), *how)
        shared = np.where(rows.product >= 0, vector, self.unit_seconds)
        return Groups(self.costs.combined(compute, self.costs.memory, self.profile.knee), shared)

    @cached_property
    def choices(self) -> list[Choice]:
        """How every product is best computed."""
        return choices(self.rows.products, self.ways, self.machine, self.profile, self.policy)

    @property
    def replay(self) -> float:
        """Seconds of the host before the first launch of a pass."""
        return float(host_replay(self.machine, self.profile, self.policy))


@dataclass(frozen=True)
class Timing:
    """One pass timed: its seconds and joules, and by how much it was stretched: the limit of power throttles it."""

    pass_: Pass
    priced: Priced = field(repr=False)
    seconds: float
    joules: float
    stretched: float

    @property
    def table(self) -> KernelTable:
        """The launches."""
        return self.pass_.table

    @cached_property
    def costs(self) -> Kernels:
        """Costs of every launch."""
        return self.priced.costs.spread(self.pass_.order)

    @cached_property
    def host(self) -> Any:
        """Seconds of the host per launch."""
        return _host(self.pass_, self.priced)

    @cached_property
    def device(self) -> Any:
        """Seconds of the device per launch, as streams leave them."""
        return _device(self.pass_, self.priced)

    @cached_property
    def advance(self) -> Any:
        """Advance of the completion time over every launch; sums to the seconds."""
        return _advance(self.pass_, self.priced, self.host, self.device) * self.stretched

    @cached_property
    def plans(self) -> tuple[StagePlan, ...]:
        """Where the branches of every stage ran, in seconds from the start of the pass; none in a single stream."""
        if _streams(self.priced) == 1:
            return ()
        ends = np.concatenate([[0.0], np.cumsum(self.advance)])
        return tuple(
            plan.between(float(ends[plan.kernels[0]]), float(ends[plan.kernels[-1] + 1]))
            for plan in planned(*_in_streams(self.pass_, self.priced))
        )


def time_pass(pass_: Pass, priced: Priced) -> Timing:
    """Time one pass: a steady step of a long run, or one that starts with an empty queue."""
    machine = priced.machine
    if _in_totals(pass_, priced):
        busy = float(pass_.counts @ priced.device)
        issued = float(pass_.counts @ priced.host) + priced.replay
        seconds = max(busy, issued) if machine.host.asynchronous else busy + issued
    else:
        seconds = float(_advance(pass_, priced, _host(pass_, priced), _device(pass_, priced)).sum())
    joules = float(pass_.counts @ priced.costs.joules)
    # Dynamic power above what the limit leaves stretches the pass: the device throttles.
    least = joules / (machine.power.limit - machine.power.static)
    stretched = max(1.0, least / seconds) if seconds > 0 else 1.0
    return Timing(pass_, priced, seconds * stretched, joules, stretched)


def _in_totals(pass_: Pass, priced: Priced) -> bool:
    """Whether sums over rows are enough: one stream, and no launch that waits for another in particular."""
    waits = not pass_.steady or len(pass_.breaks) > 0
    return _streams(priced) == 1 and not (waits and priced.machine.host.asynchronous)


def _streams(priced: Priced) -> int:
    return min(priced.policy.streams, int(priced.machine.launch.concurrent_kernels))


def _host(pass_: Pass, priced: Priced) -> Any:
    host = priced.host[pass_.order]
    host[:1] += priced.replay
    return host


def _device(pass_: Pass, priced: Priced) -> Any:
    if _streams(priced) == 1:
        return priced.device[pass_.order]
    return overlapped(*_in_streams(pass_, priced))


def _in_streams(pass_: Pass, priced: Priced) -> tuple[KernelTable, Any, Any, Any, int, Any, Groups | None]:
    """What a pass in streams is planned from: the arguments of `planned`."""
    order, groups = pass_.order, priced.groups
    event = priced.profile.host_cost.get("elementwise", 0.0) * priced.machine.host.speed
    levels = priced.costs.spread(order).traffic.seconds
    if groups is not None:
        groups = Groups(groups.seconds[:, order], groups.shared[order])
    return pass_.table, priced.device[order], levels, priced.unit_seconds[order], _streams(priced), event, groups


def _advance(pass_: Pass, priced: Priced, host: Any, device: Any) -> Any:
    if not priced.machine.host.asynchronous:
        return device + host
    wait = 0.0 if priced.policy.fidelity == "roofline" else priced.machine.host.synchronise
    return (steady_pass if pass_.steady else first_pass)(host, device, pass_.breaks, wait)
