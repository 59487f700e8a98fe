"""Seconds of arithmetic per kernel: products on tiles or systolic arrays, everything else on the vector engine."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.systolic import fold_cycles
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.lower import CATEGORIES, PHASES, KernelTable, products_of
from ebmsim.spec.policy import Policy, Profile, arithmetic

MATMUL, CONVOLUTION = CATEGORIES.index("matmul"), CATEGORIES.index("convolution")
BACKWARD_INPUT = PHASES.index("backward-input")
# Elements in flight per unit that fill it (threads a GPU unit holds).
_RESIDENT_THREADS = 2048.0


class Ways(NamedTuple):
    """Ways to compute the products of a table, along a leading axis.

    seconds on chip (inf where a way does not apply), share of the units kept busy, and detail: tiles, waves, seconds
    of arithmetic, seconds of operands (for a systolic array folds, folds per array, seconds, 0). Algorithms that
    transform a convolution come last and have the detail of the first tile, which theirs is derived from.
    """

    names: tuple[str, ...]
    seconds: Any
    share: Any
    detail: tuple[Any, ...]


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


def product_ways(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Ways:
    """Every way the profile knows to compute the products of a table, along a leading axis."""
    rate = product_rate(table, machine, dtypes(profile, machine, policy))
    rate = np.where(table.phase == BACKWARD_INPUT, machine.features.transposed_weights, 1.0) * rate
    if machine.organisation == "systolic":
        return _systolic(table, machine, rate)
    tiled = _tiles(table, machine, profile, rate)
    names, seconds, share = list(tiled.names), [tiled.seconds], [tiled.share]
    for name, algorithm in profile.algorithms.items():
        direct = tiled.detail[2][:1] * profile.tiles[0][2]
        gained = np.maximum(direct / (algorithm.saving * algorithm.efficiency), tiled.detail[3][:1])
        names.append(name)
        seconds.append(np.where(_takes(table, algorithm), gained, np.inf))
        share.append(tiled.share[:1])
    return Ways(tuple(names), np.concatenate(seconds), np.concatenate(share), tiled.detail)


def _tiles(table: KernelTable, machine: Machine, profile: Profile, rate: Any) -> Ways:
    """Output tiles spread over the units in waves.

    tiles = b ⌈m/M⌉ ⌈n/N⌉ s, waves = ⌈tiles / units⌉, and a wave takes 2 M N ⌈k/s⌉ / (rate · efficiency · clock): a
    last wave that is not full costs a whole one, and so does a tile at the edge. Beside the arithmetic the operands
    of every tile come from the innermost level shared by all units: b (m k ⌈n/N⌉ + n k ⌈m/M⌉) elements, and with
    s > 1 parts 2 s m n partial sums of 4 bytes.
    """
    b, m, n, k = table.product
    shared = machine.levels[-2:][0]
    axes = max(np.ndim(x) for x in (machine.units, machine.clock, shared.bandwidth, rate))
    choices = [(t[0], t[1], t[2], s) for t in profile.tiles for s in profile.split_k]
    rows, columns, efficiency, parts = (
        np.array(c, dtype=np.float64).reshape(-1, *[1] * max(axes, 1)) for c in zip(*choices, strict=True)
    )
    inner = np.ceil(np.ceil(k / parts) / profile.inner) * profile.inner
    down, across = np.ceil(m / rows), np.ceil(n / columns)
    tiles = b * down * across * parts
    waves = np.ceil(tiles / machine.units)
    math = waves * (2.0 * rows * columns * inner) / (rate * efficiency * machine.clock)
    operands = b * k * (m * across + n * down) * table.element_bytes
    partial = np.where(parts > 1, 8.0 * parts * b * m * n, 0.0)
    moved = (operands + partial) / (shared.bandwidth * shared.efficiency)
    # More parts than inner elements make no sense.
    legal = (parts == 1) | (k >= parts * profile.inner)
    names = [f"{r:g}×{c:g} tiles" + (f", inner axis in {s} parts" if s > 1 else "") for r, c, _, s in choices]
    seconds = np.where(legal, np.maximum(math, moved), np.inf)
    return Ways(tuple(names), seconds, np.minimum(1.0, tiles / machine.units), (tiles, waves, math, moved))


def _systolic(table: KernelTable, machine: Machine, rate: Any) -> Ways:
    """Folds of the stationary operand over all arrays, either operand stationary.

    The rate of a dtype against the array's own (2 R C per cycle and array) stretches the cycles: fp32 in six bf16
    passes takes six times as long.
    """
    b, m, n, k = table.product
    native = 2.0 * machine.rows * machine.columns * machine.arrays
    stretch = native / rate
    count = machine.arrays * machine.units
    found = []
    for stationary, streamed in ((n, m), (m, n)):
        folds = b * np.ceil(k / machine.rows) * np.ceil(stationary / machine.columns)
        each = np.ceil(folds / count)
        cycles = fold_cycles(each, streamed, machine.rows, machine.columns, machine.double_buffered)
        seconds = cycles * stretch / machine.clock
        found.append((seconds, np.minimum(1.0, folds / count), folds, each, seconds))
    seconds, share, folds, each, math = (np.stack(np.broadcast_arrays(*column)) for column in zip(*found, strict=True))
    names = ("weights stationary", "activations stationary")
    return Ways(names, seconds, share, (folds, each, math, np.zeros_like(math)))
