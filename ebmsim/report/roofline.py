"""Where kernels and components stand on the hierarchical roofline: one intensity for every memory level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ebmsim.cost.compute import vector_rate
from ebmsim.cost.products import dtypes
from ebmsim.graph.kernels import CATEGORIES

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate


class Point(NamedTuple):
    """A kernel with all launches equal to it, or a component with all its kernels, in a steady step.

    rate: FLOP/s on the device, FLOPs over seconds. intensities: FLOPs over the bytes that cross each level, innermost
    first; inf where none do. seconds: on the device, of all launches, each alone. bound: what binds, as in the
    estimate. slowest: the level that takes longest for its bytes.
    """

    name: str
    category: str
    launches: int
    flops: float
    seconds: float
    rate: float
    intensities: tuple[float, ...]
    bound: str
    slowest: str


def ceilings(e: Estimate) -> dict[str, float]:
    """FLOP/s of every engine and dtype that the step uses, at the sustained clock: (per unit and cycle) units clock."""
    table, p = e.timing.table, e.timing.priced
    machine = p.machine
    per_second = machine.units * machine.clock
    found = {}
    for category, dtype in dtypes(p.profile, machine, p.policy)._asdict().items():
        if (table.product[3][table.category == CATEGORIES.index(category)] > 0).any():
            found[f"matrix {dtype}"] = float(machine.matrix[dtype] * per_second)
    if (table.flops > table.product_flops).any():
        dtype = p.policy.dtype if p.policy.dtype in machine.vector else "fp32"
        found[f"vector {dtype}"] = float(vector_rate(machine, p.policy) * per_second)
    return found


def slopes(e: Estimate) -> dict[str, float]:
    """B/s of every level that holds data between kernels, innermost first: achieved ones, full in the roofline."""
    moved = e.timing.costs.traffic
    return {name: float(rate) for name, rate in zip(moved.levels, moved.bandwidth, strict=True)}


def kernels(e: Estimate) -> list[Point]:
    """The distinct kernels of a steady step, those without FLOPs among them (rate 0)."""
    order = e.timing.pass_.order
    _, first, same = np.unique(order, return_index=True, return_inverse=True)
    return [
        _point(e, e.timing.table.names[i], CATEGORIES[e.timing.table.category[i]], np.flatnonzero(same == group))
        for group, i in enumerate(first)
    ]


def components(e: Estimate) -> list[Point]:
    """The components that run in a step, forward and backward together, in the order of the file."""
    owner = np.array([branch.partition("[")[0] for branch in e.timing.table.branches])
    mine = [(c.name, np.flatnonzero(owner == c.name)) for c in e.lowered.components]
    return [_point(e, name, "", launches) for name, launches in mine if len(launches)]


def _point(e: Estimate, name: str, category: str, launches: Any) -> Point:
    """The launches of a step, by number, as one point."""
    moved = e.timing.costs.traffic
    flops = float(e.timing.table.flops[launches].sum())
    device = e.timing.priced.device[e.timing.pass_.order][launches]
    seconds = float(device.sum())
    amounts = [float(amount[launches].sum()) for amount in moved.bytes]
    times = [float(level[launches].sum()) for level in moved.seconds]
    shares: dict[str, float] = {}
    for launch, time in zip(launches, device, strict=True):
        bound = e.bound_of_kernels[launch]
        shares[bound] = shares.get(bound, 0.0) + float(time)
    return Point(
        name=name,
        category=category,
        launches=len(launches),
        flops=flops,
        seconds=seconds,
        rate=flops / seconds if seconds else 0.0,
        intensities=tuple(flops / amount if amount else np.inf for amount in amounts),
        bound=max(shares, key=lambda key: shares[key]),
        slowest=moved.levels[int(np.argmax(times))],
    )
