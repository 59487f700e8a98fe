"""Seconds of matrix products and convolutions: output tiles over units, or folds over systolic arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.systolic import fold_cycles
from ebmsim.cost.ways import Ways, takes
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.rows import Products
from ebmsim.policy import Algorithm, Policy, Profile, arithmetic


class Arithmetic(NamedTuple):
    """The dtypes in which matrix products and convolutions are computed."""

    matmul: str
    convolution: str


def dtypes(profile: Profile, machine: Machine, policy: Policy) -> Arithmetic:
    """The arithmetic of matrix products and convolutions. Raises SpecError where the device has none."""
    chosen = []
    for category in Arithmetic._fields:
        name = arithmetic(profile, machine.matrix, policy, category)
        if not name:
            have = ", ".join(machine.matrix)
            raise SpecError([Problem(f"{machine.name} has no peak for {policy.dtype} products", hint=f"it has {have}")])
        chosen.append(name)
    return Arithmetic(*chosen)


def product_rate(products: Products, machine: Machine, names: Arithmetic) -> Any:
    """FLOPs per unit and cycle of every product's arithmetic, transposed weights included."""
    rate = np.where(products.convolution, machine.matrix[names.convolution], machine.matrix[names.matmul])
    return rate * np.where(products.to_input, machine.features.transposed_weights, 1.0)


def saving(products: Products, profile: Profile, names: Arithmetic) -> Any:
    """The largest saving any registered algorithm gives a product; 1 where only the direct one applies."""
    return _best(products, profile, names, lambda algorithm: algorithm.saving, np.maximum)


def least_energy(products: Products, profile: Profile, names: Arithmetic) -> Any:
    """Energy of a product by the algorithm that takes least, over that of the direct one."""
    return _best(products, profile, names, lambda algorithm: algorithm.energy, np.minimum)


def _best(
    products: Products,
    profile: Profile,
    names: Arithmetic,
    figure: Callable[[Algorithm], float],
    better: Callable[[Any, Any], Any],
) -> Any:
    best = np.ones(len(products))
    for algorithm in profile.algorithms.values():
        if algorithm.arithmetic == names.convolution:
            best = np.where(takes(products, algorithm), better(best, figure(algorithm)), best)
    return best


def product_seconds(products: Products, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds on chip of every product, by the best way there is."""
    if machine.organisation == "systolic":
        names = dtypes(profile, machine, policy)
        return systolic_ways(products, machine, product_rate(products, machine, names)).min(0)
    return np.minimum.reduceat(way_seconds(products, ways, machine, profile, policy), ways.start, axis=-1)


def gap(machine: Machine, policy: Policy) -> Any:
    """Seconds between two kernels on the device, by execution; a loop resident on the device has the persistent one."""
    if policy.execution == "persistent" or machine.features.resident_loop:
        return machine.launch.persistent
    return machine.launch.graph if policy.execution == "graph" else machine.launch.eager


def launch_seconds(machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds on the device that every kernel takes beside its work."""
    return profile.kernel_time + profile.kernel_cycles / machine.clock + gap(machine, policy)


def way_seconds(products: Products, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds of every way, along the last axis; inf where the arithmetic is not the way's own.

        full   = tiles / units            waves = l ⌈full⌉ + (1 - l) max(full, 1)
        cycles = max(flops / rate, floor) + prologue + stored
        T      = max(waves · cycles / clock, operands / W) + packed / (units · clock) + extra / W + split
                 + launches · (fixed time of a kernel) + time of the algorithm

    W is the bandwidth of the innermost level shared by all units times the units that share a fetch, l the profile's
    `last_wave`: a last wave that is not full costs that share of a whole one.
    """
    names = dtypes(profile, machine, policy)
    shared = machine.levels[-2:][0]
    bandwidth = shared.bandwidth * shared.efficiency
    rate = product_rate(products, machine, names)[..., ways.product]
    full = ways.tiles / machine.units
    waves = profile.last_wave * np.ceil(full) + (1.0 - profile.last_wave) * np.maximum(full, 1.0)
    cycles = np.maximum(ways.flops / rate, ways.floor) + profile.prologue + ways.stored
    seconds = np.maximum(waves * (cycles / machine.clock), ways.operands / (bandwidth * machine.multicast))
    launch = launch_seconds(machine, profile, policy)
    if ways.packed.any():
        seconds = seconds + ways.packed / (machine.units * machine.clock)
    seconds = seconds + (ways.extra / bandwidth + ways.split * profile.split_time + ways.launches * launch)
    for index, algorithm in enumerate(ways.algorithms):
        if algorithm.time:
            seconds = seconds + np.where(ways.algorithm == index, algorithm.time, 0.0)
        if algorithm.arithmetic != names.convolution:
            seconds = np.where(ways.algorithm == index, np.inf, seconds)
    return seconds


def systolic_ways(products: Products, machine: Machine, rate: Any) -> Any:
    """Seconds with either operand stationary, along a leading axis: folds of it over all arrays.

    The rate of a dtype against the array's own (2 R C per cycle and array) stretches the cycles: fp32 in six bf16
    passes takes six times as long.
    """
    _, m, n, _ = products.shape
    stretch = 2.0 * machine.rows * machine.columns * machine.arrays / rate
    found = []
    for stationary, streamed in ((n, m), (m, n)):
        each = np.ceil(systolic_folds(products, machine, stationary) / (machine.arrays * machine.units))
        cycles = fold_cycles(each, streamed, machine.rows, machine.columns, machine.double_buffered)
        found.append(cycles * stretch / machine.clock)
    return np.stack(found)


def systolic_folds(products: Products, machine: Machine, stationary: Any) -> Any:
    """Tiles of the stationary operand that fit an array: b ⌈k/R⌉ ⌈stationary/C⌉."""
    b, _, _, k = products.shape
    return b * np.ceil(k / machine.rows) * np.ceil(stationary / machine.columns)


class Choice(NamedTuple):
    """The way a product is computed on one device: its name, the share of units busy, and its figures.

    parts: tiles, or folds. rounds: waves, or folds on each array.
    """

    name: str
    share: float
    parts: float
    rounds: float
    seconds: float


def choices(products: Products, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> list[Choice]:
    """The best way of every product on one device (no figure of it an array)."""
    found = []
    if machine.organisation == "systolic":
        names = dtypes(profile, machine, policy)
        seconds = systolic_ways(products, machine, product_rate(products, machine, names))
        _, m, n, _ = products.shape
        arrays = machine.arrays * machine.units
        for i, best in enumerate(seconds.argmin(0)):
            folds = float(systolic_folds(products, machine, (n, m)[best])[i])
            name = ("weights stationary", "activations stationary")[best]
            found.append(Choice(name, min(1.0, folds / arrays), folds, np.ceil(folds / arrays), seconds[best, i]))
        return found
    seconds = way_seconds(products, ways, machine, profile, policy)
    for start, stop in zip(ways.start, np.append(ways.start[1:], len(seconds)), strict=True):
        best = int(start + seconds[start:stop].argmin())
        full = float(ways.tiles[best] / machine.units)
        waves = profile.last_wave * np.ceil(full) + (1.0 - profile.last_wave) * max(full, 1.0)
        name = ways.names[ways.name[best]]
        found.append(Choice(name, min(1.0, full), float(ways.tiles[best]), float(waves), float(seconds[best])))
    return found
