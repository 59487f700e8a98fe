"""One pass over a kernel table on a device: seconds per kernel, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ebmsim.cost.kernels import Kernels, expanded, host_costs, kernel_costs
from ebmsim.cost.machine import Machine
from ebmsim.cost.schedule import first_pass, overlapped, steady_pass, synchronisations
from ebmsim.graph.lower import KernelTable
from ebmsim.spec.policy import Policy, Profile


@dataclass(frozen=True)
class Timing:
    """One step timed: costs of each distinct kernel, advance of the completion time per kernel, and its totals."""

    table: KernelTable
    each: Kernels
    host: Any
    device: Any
    advance: Any
    seconds: float
    joules: float
    throttled: float

    @cached_property
    def costs(self) -> Kernels:
        """Costs of every launch."""
        return expanded(self.each, self.table.order)


def time_table(
    table: KernelTable, machine: Machine, profile: Profile, policy: Policy, *, cold: bool = False, steady: bool = True
) -> Timing:
    """Time one pass over a table: a steady step of a long run, or a pass that starts with an empty queue."""
    each = kernel_costs(table.rows, machine, profile, policy, policy.fidelity, cold=cold)
    host = host_costs(table, machine, profile, policy, policy.fidelity)
    event = profile.host_cost.get("elementwise", 0.0) * machine.host.speed
    device = np.asarray(each.seconds)[table.order]
    streams = min(policy.streams, int(machine.launch.concurrent_kernels))
    if streams > 1:
        device = overlapped(table, expanded(each, table.order), streams, event)
    wait = 0.0 if policy.fidelity == "roofline" else machine.host.synchronise
    breaks = synchronisations(table)
    if machine.host.asynchronous:
        advance = (steady_pass if steady else first_pass)(host, device, breaks, wait)
    else:
        advance = device + host
    seconds = float(np.sum(advance))
    joules = float(np.sum(each.joules[table.order]))
    # Dynamic power above what the limit leaves stretches the step: the device throttles.
    least = joules / (machine.power.limit - machine.power.static)
    throttled = max(1.0, least / seconds) if seconds > 0 else 1.0
    return Timing(table, each, host, device, advance * throttled, seconds * throttled, joules, throttled)
