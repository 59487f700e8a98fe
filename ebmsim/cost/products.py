"""Seconds of matrix products and convolutions: output tiles over units, or folds over systolic arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.systolic import Lane, dealt_cycles, dealt_pieces, fold_cycles, placed
from ebmsim.cost.ways import Ways, takes
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.rows import Products
from ebmsim.policy import Algorithm, Policy, Profile, arithmetic

# What is stationary in the two placements of a product, by dataflow: as it is, and transposed.
_STATIONARY = {
    "weight-stationary": ("weights stationary", "activations stationary"),
    "input-stationary": ("activations stationary", "weights stationary"),
    "output-stationary": ("outputs stationary", "outputs stationary, transposed"),
}


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


class Placement(NamedTuple):
    """A way to place products on systolic arrays: what is stationary, and what is dealt to the groups of arrays.

    pieces: stationary columns, or members of the batch. lanes: what each group makes of them.
    """

    name: str
    dealt: str
    pieces: Any
    lanes: tuple[Lane, ...]


def placements(products: Products, machine: Machine) -> list[Placement]:
    """The ways to place products: as they are or transposed, b ⌈S_R/R⌉ ⌈S_C/C⌉ folds of the stationary operand.

    A product may be transposed as a whole, n for m, so that either operand is the stationary one. Several groups of
    arrays share the stationary columns of every member of the batch, or the members.
    """
    b, m, n, k = products.shape
    found = []
    for name, sizes in zip(_STATIONARY[machine.dataflow], ((m, n, k), (n, m, k)), strict=True):
        along_rows, along_columns, streamed = placed(*sizes, machine.dataflow)
        columns, members = [], []
        for group in machine.subarrays:
            cycles = fold_cycles(streamed, group.rows, group.columns, machine.double_buffered)
            high, wide = np.ceil(along_rows / group.rows), np.ceil(along_columns / group.columns)
            columns.append(Lane(group.columns, b * high, group.arrays, *cycles))
            members.append(Lane(1.0, high * wide, group.arrays, *cycles))
        found.append(Placement(name, "columns", along_columns, tuple(columns)))
        if len(machine.subarrays) > 1:
            found.append(Placement(name, "of the batch", b, tuple(members)))
    return found


def systolic_ways(products: Products, machine: Machine, rate: Any) -> Any:
    """Seconds of every placement of products, along a leading axis, all groups of arrays together.

        T = cycles · 2 cells / (rate · units · clock)

    The rate of a dtype against that of all cells (2 each per cycle) stretches the cycles: fp32 in six bf16 passes takes
    six times as long. A group has the share of the rate that it has of the cells.
    """
    cycle = _cycle(machine, rate)
    seconds = [dealt_cycles(place.pieces, place.lanes) * cycle for place in placements(products, machine)]
    return np.stack(np.broadcast_arrays(*seconds))


def group_seconds(products: Products, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Seconds of every product on every group of systolic arrays alone, along a leading axis, by its best placement."""
    rate = product_rate(products, machine, dtypes(profile, machine, policy))
    places, cycle = placements(products, machine), _cycle(machine, rate)
    alone = []
    for group in range(len(machine.subarrays)):
        alone.append(np.minimum.reduce([dealt_cycles(place.pieces, [place.lanes[group]]) for place in places]) * cycle)
    return np.stack(np.broadcast_arrays(*alone))


def _cycle(machine: Machine, rate: Any) -> Any:
    """Seconds that a cycle of the arrays takes at a rate (FLOPs per unit and cycle)."""
    cells = sum(group.cells for group in machine.subarrays)
    return 2.0 * cells / (rate * machine.units) / machine.clock


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
    if machine.organisation == "systolic":
        return _systolic_choices(products, machine, product_rate(products, machine, dtypes(profile, machine, policy)))
    found = []
    seconds = way_seconds(products, ways, machine, profile, policy)
    for start, stop in zip(ways.start, np.append(ways.start[1:], len(seconds)), strict=True):
        best = int(start + seconds[start:stop].argmin())
        full = float(ways.tiles[best] / machine.units)
        waves = profile.last_wave * np.ceil(full) + (1.0 - profile.last_wave) * max(full, 1.0)
        name = ways.names[ways.name[best]]
        found.append(Choice(name, min(1.0, full), float(ways.tiles[best]), float(waves), float(seconds[best])))
    return found


def _systolic_choices(products: Products, machine: Machine, rate: Any) -> list[Choice]:
    places = placements(products, machine)
    seconds = systolic_ways(products, machine, rate)
    cells = sum(group.cells for group in machine.subarrays)
    found = []
    for i, best in enumerate(seconds.argmin(0)):
        place = places[best]
        lanes = [Lane(*[float(np.broadcast_to(part, len(products))[i]) for part in lane]) for lane in place.lanes]
        pieces = dealt_pieces(float(place.pieces[i]), lanes)
        folds = [lane.work(part) for lane, part in zip(lanes, pieces, strict=True)]
        busy = [min(1.0, work / lane.arrays) for lane, work in zip(lanes, folds, strict=True)]
        share = sum(part * group.cells for part, group in zip(busy, machine.subarrays, strict=True)) / cells
        rounds = max(float(lane.rounds(part)) for lane, part in zip(lanes, pieces, strict=True))
        name = place.name + _taken(place, pieces, machine)
        found.append(Choice(name, float(share), float(sum(folds)), rounds, float(seconds[best, i])))
    return found


def _taken(place: Placement, pieces: Sequence[float], machine: Machine) -> str:
    """The groups that take part, in words; nothing where there is only one."""
    if len(pieces) == 1:
        return ""
    used = [(f"{g.rows:g} × {g.columns:g}", n) for g, n in zip(machine.subarrays, pieces, strict=True) if n]
    if len(used) == 1:
        return f" on {used[0][0]}"
    return " on " + " and ".join(f"{group} ({n:g} {place.dealt})" for group, n in used)
