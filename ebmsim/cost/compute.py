"""Seconds of arithmetic per kernel: products on tiles or systolic arrays, everything else on the vector engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.systolic import fold_cycles
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.lower import CATEGORIES, KernelTable
from ebmsim.spec.policy import Policy, Profile, arithmetic

MATMUL, CONVOLUTION = CATEGORIES.index("matmul"), CATEGORIES.index("convolution")


class Option(NamedTuple):
    """One way to compute every product of a table: seconds on chip, and the share of the units it keeps busy."""

    name: str
    seconds: Any
    share: Any
    detail: Any


class Compute(NamedTuple):
    """Seconds on chip per kernel, share of the units busy, and which option a product kernel takes (-1: none)."""

    seconds: Any
    share: Any
    option: Any
    options: tuple[str, ...]


def dtypes(profile: Profile, machine: Machine, policy: Policy) -> dict[int, str]:
    """The arithmetic of matrix products and convolutions by category. Raises SpecError where the device has none."""
    chosen = {}
    for category in ("matmul", "convolution"):
        name = arithmetic(profile, machine.matrix, policy, category)
        if not name:
            have = ", ".join(machine.matrix)
            raise SpecError([Problem(f"{machine.name} has no peak for {policy.dtype} products", hint=f"it has {have}")])
        chosen[CATEGORIES.index(category)] = name
    return chosen


def product_rate(table: KernelTable, machine: Machine, names: dict[int, str]) -> Any:
    """FLOPs per unit and cycle of every kernel's product arithmetic."""
    return np.where(table.category == CONVOLUTION, machine.matrix[names[CONVOLUTION]], machine.matrix[names[MATMUL]])


def vector_rate(machine: Machine, policy: Policy) -> Any:
    """FLOPs per unit and cycle of elementwise arithmetic; fp32 where the dtype has no rate of its own."""
    return machine.vector.get(policy.dtype, machine.vector.get("fp32", next(iter(machine.vector.values()))))


def vector_seconds(table: KernelTable, machine: Machine, policy: Policy) -> Any:
    """max(FLOPs / rate, transcendental / rate, random numbers / rate): three engines side by side.

    FLOPs here are those outside the product.
    """
    cycles = machine.units * machine.clock
    rest = table.flops - table.product_flops
    arithmetic = rest / (vector_rate(machine, policy) * cycles)
    special = table.special / (machine.special * cycles)
    return np.maximum(np.maximum(arithmetic, special), table.random / (machine.random * cycles))


def saving(table: KernelTable, profile: Profile) -> Any:
    """The largest saving any registered algorithm gives a kernel's product; 1 where only the direct one applies."""
    best = np.ones(len(table))
    for algorithm in profile.algorithms.values():
        best = np.where(_takes(table, algorithm), np.maximum(best, algorithm.saving), best)
    return best


def _takes(table: KernelTable, algorithm: Any) -> Any:
    return (table.window == algorithm.kernel) & (table.stride == algorithm.stride) & (table.product[0] == 1)


def bound_seconds(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Any:
    """Least seconds of arithmetic: the cheapest algorithm at the sustained peak, all units busy."""
    rate = product_rate(table, machine, dtypes(profile, machine, policy))
    product = table.product_flops / (saving(table, profile) * rate * machine.units * machine.clock)
    return np.maximum(product, vector_seconds(table, machine, policy))


def compute_seconds(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Compute:
    """Seconds of arithmetic with the best option for every product kernel."""
    vector = vector_seconds(table, machine, policy)
    options = list(product_options(table, machine, profile, policy))
    is_product = table.product[3] > 0
    seconds, share, option = options[0].seconds, options[0].share, np.zeros(np.shape(options[0].seconds), dtype=np.int8)
    for index, each in enumerate(options[1:], 1):
        better = each.seconds < seconds
        share = np.where(better, each.share, share)
        option = np.where(better, np.int8(index), option)
        seconds = np.where(better, each.seconds, seconds)
    elements = (table.written + table.read) / table.element_bytes
    busy = np.clip(elements / (2048.0 * machine.units), 1.0 / machine.units, 1.0)
    return Compute(
        np.where(is_product, np.maximum(seconds, vector), vector),
        np.where(is_product, share, busy),
        np.where(is_product, option, np.int8(-1)),
        tuple(o.name for o in options),
    )


def product_options(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Iterator[Option]:
    """Every way the profile knows to compute the products of a table."""
    rate = product_rate(table, machine, dtypes(profile, machine, policy))
    transposed = machine.features.transposed_weights
    back = np.where(table.phase == 1, transposed, 1.0) * rate
    if machine.organisation == "systolic":
        yield from _systolic(table, machine, back)
        return
    for m, n, efficiency in profile.tiles:
        for parts in profile.split_k:
            yield _tiles(table, machine, profile, back, (int(m), int(n), efficiency, parts))
    for name, algorithm in profile.algorithms.items():
        taken = _takes(table, algorithm)
        tile = profile.tiles[0]
        direct = _tiles(table, machine, profile, back, (int(tile[0]), int(tile[1]), 1.0, 1))
        gained = direct.seconds / (algorithm.saving * algorithm.efficiency)
        yield Option(name, np.where(taken, gained, np.inf), direct.share, direct.detail)


def _tiles(
    table: KernelTable, machine: Machine, profile: Profile, rate: Any, choice: tuple[int, int, float, int]
) -> Option:
    """Output tiles spread over the units in waves.

    tiles = b ⌈m/M⌉ ⌈n/N⌉ s, waves = ⌈tiles / units⌉, and a wave takes 2 M N ⌈k/s⌉ / (rate · efficiency · clock): a
    last wave that is not full costs a whole one, and so does a tile at the edge. Beside the arithmetic the operands
    of every tile come from the innermost level shared by all units: b m n k (1/M + 1/N) elements, and with s > 1
    parts 2 s m n partial sums of 4 bytes.
    """
    rows, columns, efficiency, parts = choice
    b, m, n, k = table.product
    inner = np.ceil(np.ceil(k / parts) / profile.inner) * profile.inner
    tiles = b * np.ceil(m / rows) * np.ceil(n / columns) * parts
    waves = np.ceil(tiles / machine.units)
    math = waves * 2.0 * rows * columns * inner / (rate * efficiency * machine.clock)
    shared = machine.levels[-2] if len(machine.levels) > 1 else machine.levels[-1]
    operands = (
        b * (np.ceil(m / rows) * rows * k * np.ceil(n / columns) + n * k * np.ceil(m / rows)) * table.element_bytes
    )
    partial = 8.0 * parts * b * m * n if parts > 1 else 0.0
    # More parts than inner elements make no sense.
    legal = (k >= parts * profile.inner) if parts > 1 else True
    moved = (operands + partial) / (shared.bandwidth * shared.efficiency)
    name = f"{rows}×{columns} tiles" + (f", inner axis in {parts} parts" if parts > 1 else "")
    return Option(
        name,
        np.where(legal, np.maximum(math, moved), np.inf),
        np.minimum(1.0, tiles / machine.units),
        (tiles, waves, math, moved),
    )


def _systolic(table: KernelTable, machine: Machine, rate: Any) -> Iterator[Option]:
    """Folds of the stationary operand over all arrays, either operand stationary.

    The rate of a dtype against the array's own (2 R C per cycle and array) stretches the cycles: fp32 in six bf16
    passes takes six times as long.
    """
    b, m, n, k = table.product
    native = 2.0 * machine.rows * machine.columns * machine.arrays
    stretch = np.maximum(native / rate, 1e-9)
    count = machine.arrays * machine.units
    for name, stationary, streamed in (("weights stationary", n, m), ("activations stationary", m, n)):
        folds = b * np.ceil(k / machine.rows) * np.ceil(stationary / machine.columns)
        each = np.ceil(folds / count)
        cycles = fold_cycles(each, streamed, machine.rows, machine.columns, machine.double_buffered)
        seconds = cycles * stretch / machine.clock
        yield Option(name, seconds, np.minimum(1.0, folds / count), (folds, each, seconds, 0.0))
