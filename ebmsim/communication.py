"""Messages between devices over their links: what a collective operation takes.

A message of n bytes takes latency + n / bandwidth. Every device sends to one neighbour and receives from another at the
same time, on a ring. Not counted: starting a collective (4 to 10 µs in NCCL's own model), the sums themselves, links of
different speed (nodes of eight and a network between them), and work that goes on beside a message.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware
from ebmsim.policy import Policy


class Wire(NamedTuple):
    """What a link achieves: B/s in one direction, and s for a message."""

    bandwidth: float
    latency: float


def wire_of(hardware: Hardware, policy: Policy, devices: int) -> Wire:
    """The link of a device: all of its bandwidth and no latency in the roofline, as all fixed times there.

    Raises SpecError for several devices without a link.
    """
    link = hardware.link
    if link is None:
        if devices > 1:
            message = f"expected a device with a link to others for {devices} devices, {hardware.name} has none"
            raise SpecError([Problem(message, hint="give its file a section 'link' with bandwidth and latency")])
        return Wire(math.inf, 0.0)
    if policy.fidelity == "roofline":
        return Wire(link.bandwidth, 0.0)
    return Wire(link.bandwidth * link.efficiency, link.latency)


def all_reduce(size: float, devices: int, wire: Wire) -> float:
    """Seconds until all devices have the sum of an array of `size` bytes on each.

        2 (D - 1) / D · size / bandwidth + 2 (D - 1) · latency

    on a ring: D - 1 messages of size / D that add up, D - 1 that hand the sums round. Source: Patarasuk and Yuan,
    Bandwidth optimal all-reduce algorithms for clusters of workstations, 2009.
    """
    return 2 * (devices - 1) / devices * size / wire.bandwidth + 2 * (devices - 1) * wire.latency


def passed_on(size: float, hops: int, wire: Wire) -> float:
    """Seconds of a broadcast of `size` bytes to `hops` other devices, or of a sum over them into one.

        size / bandwidth + hops · latency

    in small pieces that every device hands to the next one. Source: bandwidths of broadcast and reduce as in
    doc/PERFORMANCE.md of NCCL tests; latency of every hop as in NCCL's src/graph/tuning.cc.
    """
    return size / wire.bandwidth + hops * wire.latency if hops else 0.0


def gather(size: float, devices: int, wire: Wire) -> float:
    """Seconds until one device has `size` bytes that lie on others.

        size / bandwidth + ⌈log₂ D⌉ · latency

    along a binomial tree, what arrives at the last device being the limit. Source: Thakur, Rabenseifner and Gropp,
    Optimization of collective communication operations in MPICH, 2005.
    """
    return size / wire.bandwidth + math.ceil(math.log2(devices)) * wire.latency if devices > 1 else 0.0
