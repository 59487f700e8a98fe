"""Why one device is faster than another: the speed-up as a product of factors, one for each group of figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import machine_of
from ebmsim.cost.products import dtypes
from ebmsim.errors import Problem, SpecError
from ebmsim.estimation import Estimate, estimate_lowered
from ebmsim.hardware import Hardware, Level
from ebmsim.sweep.figures import with_figures
from ebmsim.sweep.sensitivity import answer

# What is swapped, and its name: rates of arithmetic are those per unit and cycle.
PARTS = {
    "arithmetic": "arithmetic",
    "units": "units and clock",
    "bandwidth": "memory bandwidth",
    "capacity": "memory capacity",
    "host": "host and launch",
    "features": "features",
    "software": "software",
    "power": "power",
}


class Factor(NamedTuple):
    """What one group of figures contributes to a speed-up.

    factor: the mean over all orders in which groups can be swapped, of logarithms. least, most: over all orders.
    """

    group: str
    factor: float
    least: float
    most: float


@dataclass(frozen=True)
class Decomposition:
    """The speed-up T before / T after, and the factors whose product it is."""

    before: Estimate
    after: Estimate
    of: str
    speedup: float
    factors: tuple[Factor, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints; the logarithms sum to that of the speed-up."""
        factors = [factor._asdict() | {"log": math.log(factor.factor)} for factor in self.factors]
        return {"over": self.before.hardware.name, "of": self.of, "speedup": self.speedup, "factors": factors}


def decomposition(before: Estimate, after: Estimate, of: str = "t_inf") -> Decomposition:
    """The speed-up from one device to another, by groups of figures.

    The figures of the first device are replaced by those of the second group by group, in every order. A group's
    logarithm is the mean, over all orders of the n groups, of what its turn changes (Shapley, A value for n-person
    games, 1953): with v(S) = -ln T once the groups S are replaced,

        ln factor_g = Σ over S without g of |S|! (n - |S| - 1)! / n! · (v(S + g) - v(S))

    which sum to the logarithm of the whole. 2ⁿ estimates, of at most 8 groups. Rates per unit and cycle hold where
    other units or clocks come in. What cannot be told apart is one group: units and arithmetic of engines of different
    organisation, bandwidth and capacity of different numbers of levels, arithmetic and a software that asks for a dtype
    which the other device does not have. Raises SpecError for different workloads.
    """
    if before.workload != after.workload:
        raise SpecError([Problem("expected one workload with the same settings on both devices")])
    groups = _groups(before, after)
    differing = [group for group in groups if any(_figures(before, p) != _figures(after, p) for p in groups[group])]
    logs = np.zeros((2,) * len(differing))
    for swapped in product((0, 1), repeat=len(differing)):
        of_group = dict(zip(differing, swapped, strict=True))
        given = {part: (before, after)[of_group.get(g, 0)] for g, parts in groups.items() for part in parts}
        logs[swapped] = -math.log(answer(_mixture(given), of))
    shares = {name: _factor(name, logs, axis) for axis, name in enumerate(differing)}
    factors = tuple(shares.get(name, Factor(name, 1.0, 1.0, 1.0)) for name in groups)
    return Decomposition(before, after, of, answer(before, of) / answer(after, of), factors)


def _factor(name: str, logs: Any, axis: int) -> Factor:
    turns = np.diff(logs, axis=axis).squeeze(axis)
    return Factor(name, math.exp(shapley(logs, axis)), math.exp(turns.min()), math.exp(turns.max()))


def shapley(values: Any, axis: int) -> float:
    """The Shapley value of one player. values: v(S), an axis of two for every player: without and with it.

    Σ over S without the player of (v(S + player) - v(S)) / (n C(n - 1, |S|)).
    """
    count = np.ndim(values)
    turns = np.diff(values, axis=axis).squeeze(axis)
    sizes = np.indices(turns.shape).sum(axis=0) if turns.ndim else np.zeros((), dtype=int)
    ways = np.array([math.comb(count - 1, size) for size in range(count)])
    return float((turns / (count * ways[sizes])).sum())


def _groups(a: Estimate, b: Estimate) -> dict[str, tuple[str, ...]]:
    """The parts that are swapped together, by the name of the group."""
    together = []
    if a.hardware.matrix.organisation != b.hardware.matrix.organisation:
        together.append(("arithmetic", "units"))
    if len(a.hardware.memory) != len(b.hardware.memory):
        together.append(("bandwidth", "capacity"))
    if not (_computes(a, b) and _computes(b, a)):
        together.append(("arithmetic", "software"))
    of = {part: frozenset({part}) for part in PARTS}
    for first, second in together:
        merged = of[first] | of[second]
        of |= dict.fromkeys(merged, merged)
    ordered = [tuple(part for part in PARTS if part in group) for group in dict.fromkeys(of.values())]
    return {", ".join(PARTS[part] for part in group): group for group in ordered}


def _computes(software: Estimate, device: Estimate) -> bool:
    """Whether a device has the dtypes that the software of another estimate computes in."""
    try:
        dtypes(software.profile, machine_of(device.hardware), software.policy)
    except SpecError:
        return False
    return True


def _figures(e: Estimate, part: str) -> Any:
    """The figures of a part, to compare."""
    h = e.hardware
    return {
        "arithmetic": (h.matrix, h.vector, h.units, h.clock),
        "units": (h.units, h.sustained_clock),
        "bandwidth": [(level.bandwidth, level.efficiency) for level in h.memory],
        "capacity": [level.capacity for level in h.memory],
        "host": (h.host, h.launch),
        "features": h.features,
        "software": (e.policy, e.profile),
        "power": (h.power, [level.energy for level in h.memory]),
    }[part]


def _mixture(given: Mapping[str, Estimate]) -> Estimate:
    """The estimate of a device, and its software, each part of which is that of a given estimate."""
    device = {part: e.hardware for part, e in given.items()}
    units = device["units"]
    mixed = with_figures(device["arithmetic"], {"units": units.units, "sustained_clock": units.sustained_clock})
    mixed = replace(
        mixed,
        memory=_levels(device["bandwidth"], device["capacity"], device["power"]),
        host=device["host"].host,
        launch=device["host"].launch,
        features=device["features"].features,
        power=device["power"].power,
    )
    software = given["software"]
    return estimate_lowered(software.lowered, mixed, software.policy, software.profile)


def _levels(bandwidth: Hardware, capacity: Hardware, power: Hardware) -> tuple[Level, ...]:
    """Levels by their place, innermost first. With other numbers of them, energies stay with their levels."""
    if len(bandwidth.memory) != len(power.memory):
        return bandwidth.memory
    return tuple(
        replace(level, capacity=other.capacity, energy=third.energy)
        for level, other, third in zip(bandwidth.memory, capacity.memory, power.memory, strict=True)
    )
