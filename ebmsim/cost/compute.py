"""Seconds of arithmetic per kernel: products by the best way there is, everything else on the vector engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.products import choices, dtypes, product_rate, product_seconds, saving
from ebmsim.cost.ways import Ways
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.graph.rows import Rows
from ebmsim.policy import Policy, Profile

# Elements in flight per unit that fill it (threads a GPU unit holds).
_RESIDENT_THREADS = 2048.0


def vector_rate(machine: Machine, policy: Policy) -> Any:
    """FLOPs per unit and cycle of elementwise arithmetic; fp32 where the dtype has no rate of its own."""
    return machine.vector.get(policy.dtype, machine.vector.get("fp32", next(iter(machine.vector.values()))))


def vector_cycles(rows: Rows, machine: Machine, policy: Policy) -> Any:
    """max(FLOPs / rate, transcendental / rate, random numbers / rate): three engines of a unit side by side.

    FLOPs here are those outside the product.
    """
    cycles = np.maximum(rows.flops / vector_rate(machine, policy), rows.special / machine.special)
    return np.maximum(cycles, rows.random / machine.random)


def vector_seconds(rows: Rows, machine: Machine, policy: Policy) -> Any:
    """Seconds of arithmetic outside products: (units · clock) cycles a second."""
    return vector_cycles(rows, machine, policy) / (machine.units * machine.clock)


def loop_cycles(rows: Rows, profile: Profile) -> Any:
    """Elements touched × cycles of one: what a kernel's code takes of a unit at least, where it was measured.

    The profile's `element_cycles` are of kinds of kernels or of categories, 0 where it has neither.
    """
    if not profile.element_cycles:
        return 0.0
    return by_kind(rows, profile.element_cycles) * (rows.moved / rows.element_bytes)


def by_kind(rows: Rows, figures: Mapping[str, float]) -> Any:
    """The figure of every row's kind, else of its category, else 0."""
    of_category = np.array([figures.get(c, 0.0) for c in CATEGORIES])[rows.category]
    if not rows.kinds:
        return of_category
    of_kind = np.array([figures.get(kind, np.nan) for kind in rows.kinds])[rows.kind]
    return np.where((rows.kind >= 0) & ~np.isnan(of_kind), of_kind, of_category)


def bound_seconds(rows: Rows, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Least seconds of arithmetic: the cheapest algorithm at the sustained peak, all units busy."""
    vector = vector_seconds(rows, machine, policy)
    if not len(rows.products):
        return vector
    names = dtypes(profile, machine, policy)
    rate = product_rate(rows.products, machine, names) * saving(rows.products, profile, names)
    product = rows.product_flops / (rate[..., rows.product] * machine.units * machine.clock)
    return np.maximum(product, vector)


def compute_seconds(rows: Rows, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds of arithmetic, products by the best way there is."""
    products = product_seconds(rows.products, ways, machine, profile, policy) if len(rows.products) else None
    return beside_products(rows, products, machine, profile, policy)


def beside_products(rows: Rows, products: Any, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """The same with given seconds of the products (None without any): max of both, (units · clock) cycles a second."""
    cycles = np.maximum(vector_cycles(rows, machine, policy), loop_cycles(rows, profile))
    vector = cycles / (machine.units * machine.clock)
    if products is None:
        return vector
    together = np.maximum(products[..., rows.product], vector)
    return together if (rows.product >= 0).all() else np.where(rows.product >= 0, together, vector)


def unit_share(rows: Rows, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Share of the units that every row keeps busy on one device.

    Products: tiles or folds over units. Others: elements touched over the threads that fill the units.
    """
    threads = _RESIDENT_THREADS * machine.units
    share = np.clip(rows.moved / rows.element_bytes / threads, 1.0 / machine.units, 1.0)
    if not len(rows.products):
        return share
    busy = np.array([c.share for c in choices(rows.products, ways, machine, profile, policy)])
    return np.where(rows.product >= 0, busy[rows.product], share)
