"""Seconds of arithmetic per kernel: products by the best way there is, everything else on the vector engine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.products import dtypes, product_rate, product_ways, saving
from ebmsim.graph.lower import KernelTable, products_of
from ebmsim.spec.policy import Policy, Profile

# Elements in flight per unit that fill it (threads a GPU unit holds).
_RESIDENT_THREADS = 2048.0


class Compute(NamedTuple):
    """Seconds on chip per kernel, share of the units busy, and which option a product kernel takes (-1: none)."""

    seconds: Any
    share: Any
    option: Any
    options: tuple[str, ...]


def vector_rate(machine: Machine, policy: Policy) -> Any:
    """FLOPs per unit and cycle of elementwise arithmetic; fp32 where the dtype has no rate of its own."""
    return machine.vector.get(policy.dtype, machine.vector.get("fp32", next(iter(machine.vector.values()))))


def vector_seconds(table: KernelTable, machine: Machine, policy: Policy) -> Any:
    """max(FLOPs / rate, transcendental / rate, random numbers / rate): three engines side by side.

    FLOPs here are those outside the product.
    """
    rest = table.flops - table.product_flops
    cycles = np.maximum(rest / vector_rate(machine, policy), table.special / machine.special)
    return np.maximum(cycles, table.random / machine.random) / (machine.units * machine.clock)


def bound_seconds(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Least seconds of arithmetic: the cheapest algorithm at the sustained peak, all units busy."""
    names = dtypes(profile, machine, policy)
    rate = product_rate(table, machine, names)
    product = table.product_flops / (saving(table, profile, names) * rate * machine.units * machine.clock)
    return np.maximum(product, vector_seconds(table, machine, policy))


def compute_seconds(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Compute:
    """Seconds of arithmetic with the best option for every product kernel."""
    vector = vector_seconds(table, machine, policy)
    is_product = table.product[3] > 0
    elements = (table.written + table.read) / table.element_bytes
    busy = np.clip(elements / (_RESIDENT_THREADS * machine.units), 1.0 / machine.units, 1.0)
    if not is_product.any():
        return Compute(vector, busy, np.full(len(table), -1), ())
    ways = product_ways(products_of(table), machine, profile, policy)
    best = ways.seconds.argmin(0)
    seconds = np.take_along_axis(ways.seconds, best[None], 0)[0][..., table.product_order]
    share = np.take_along_axis(np.broadcast_to(ways.share, ways.seconds.shape), best[None], 0)[0]
    share, best = share[..., table.product_order], best[..., table.product_order]
    return Compute(
        np.where(is_product, np.maximum(seconds, vector), vector),
        np.where(is_product, share, busy),
        np.where(is_product, best, -1),
        ways.names,
    )
