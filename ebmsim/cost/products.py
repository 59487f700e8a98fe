"""Seconds of matrix products and convolutions: output tiles over units, fast convolutions, systolic arrays."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.systolic import fold_cycles
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.lower import CATEGORIES, PHASES, KernelTable
from ebmsim.spec.policy import Algorithm, Policy, Profile, arithmetic

MATMUL, CONVOLUTION = CATEGORIES.index("matmul"), CATEGORIES.index("convolution")
BACKWARD_INPUT = PHASES.index("backward-input")
PARTIAL_SUM_BYTES = 4.0


class Ways(NamedTuple):
    """Ways to compute the products of a table, along a leading axis.

    seconds on chip (inf where a way does not apply), share of the units kept busy, and detail: tiles, waves, seconds
    of arithmetic, seconds of operands (for a systolic array folds, folds per array, seconds, 0).
    """

    names: tuple[str, ...]
    seconds: Any
    share: Any
    detail: tuple[Any, ...]


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


def saving(table: KernelTable, profile: Profile, names: dict[int, str]) -> Any:
    """The largest saving any registered algorithm gives a kernel's product; 1 where only the direct one applies."""
    best = np.ones(len(table))
    for algorithm in profile.algorithms.values():
        best = np.where(_takes(table, algorithm, names), np.maximum(best, algorithm.saving), best)
    return best


def _takes(table: KernelTable, algorithm: Algorithm, names: dict[int, str]) -> Any:
    kernel, stride, _, _ = table.window
    fits = (kernel == algorithm.kernel) & (stride == algorithm.stride) & (table.product[0] == 1)
    return fits & (names[CONVOLUTION] == algorithm.arithmetic)


def product_ways(table: KernelTable, machine: Machine, profile: Profile, policy: Policy) -> Ways:
    """Every way the profile knows to compute the products of a table, along a leading axis."""
    names = dtypes(profile, machine, policy)
    rate = product_rate(table, machine, names)
    rate = np.where(table.phase == BACKWARD_INPUT, machine.features.transposed_weights, 1.0) * rate
    if machine.organisation == "systolic":
        return _systolic(table, machine, rate)
    is_convolution = table.category == CONVOLUTION
    size = table.element_bytes
    found = [_where(~is_convolution, _tiled(table.product, machine, profile, rate, profile.tiles, size))]
    if is_convolution.any():
        direct = _tiled(table.product, machine, profile, rate, profile.convolution_tiles)
        found.append(_where(is_convolution, direct))
        for name, algorithm in profile.algorithms.items():
            way = _transformed(table, machine, profile, rate, name, algorithm)
            found.append(_where(_takes(table, algorithm, names), way))
    return _joined(found)


def _where(applies: Any, ways: Ways) -> Ways:
    return ways._replace(seconds=np.where(applies, ways.seconds, np.inf))


def _joined(found: list[Ways]) -> Ways:
    """All ways along one axis."""
    names = tuple(name for ways in found for name in ways.names)
    if len(found) == 1:
        return found[0]
    columns = []
    for values in zip(*[(ways.seconds, ways.share, *ways.detail) for ways in found], strict=True):
        shape = np.broadcast_shapes(*[np.shape(v)[1:] for v in values])
        columns.append(np.concatenate([np.broadcast_to(v, (len(v), *shape)) for v in values]))
    return Ways(names, columns[0], columns[1], tuple(columns[2:]))


def _tiled(
    product: Any, machine: Machine, profile: Profile, rate: Any, tiles: list[list[float]], operand_bytes: float = 0.0
) -> Ways:
    """Output tiles spread over the units in waves.

        tiles  = b ⌈m/M⌉ ⌈n/N⌉ s        full = tiles / units        waves = l ⌈full⌉ + (1 - l) max(full, 1)
        cycles = max(2 M N k' / (rate · fraction), k' · loop, k' (M' + N') e / feed) + prologue
        T      = max(waves · cycles / clock, b k (m ⌈n/N⌉ + n ⌈m/M⌉) e / W) + [s > 1] (8 s b m n / W + split)

    k' = ⌈k/s⌉ padded to the profile's `inner`, M' = min(M, m), N' = min(N, n), s the parts of the inner axis (partial
    sums of 4 bytes, written and read), W the bandwidth of the innermost level shared by all units times the units that
    share a fetch, l the profile's `last_wave`. Operands of convolutions are not counted (operand_bytes 0): the taps of
    a window share them. Not counted: several tiles on a unit at a time, stream-K, swizzling.
    """
    b, m, n, k = product
    shared = machine.levels[-2:][0]
    bandwidth = shared.bandwidth * shared.efficiency * machine.multicast
    axes = max(np.ndim(x) for x in (machine.units, machine.clock, bandwidth, rate))
    choices = [(*t, s) for t in tiles for s in profile.split_k]
    rows, columns, fraction, parts = (
        np.array(c, dtype=np.float64).reshape(-1, *[1] * max(axes, 1)) for c in zip(*choices, strict=True)
    )
    inner = np.ceil(np.ceil(k / parts) / profile.inner) * profile.inner
    down, across = np.ceil(m / rows), np.ceil(n / columns)
    count = b * down * across * parts
    full = count / machine.units
    waves = profile.last_wave * np.ceil(full) + (1.0 - profile.last_wave) * np.maximum(full, 1.0)
    arithmetic = (2.0 * rows * columns) * inner / (rate * fraction)
    at_least = inner * profile.loop
    operands: Any = 0.0
    if operand_bytes:
        at_least = np.maximum(
            at_least, inner * (np.minimum(rows, m) + np.minimum(columns, n)) * (operand_bytes / profile.feed)
        )
        operands = b * k * (m * across + n * down) * operand_bytes / bandwidth
    math = waves * ((np.maximum(arithmetic, at_least) + profile.prologue) / machine.clock)
    partial = np.where(parts > 1, 2.0 * PARTIAL_SUM_BYTES * parts * b * m * n / bandwidth + profile.split_time, 0.0)
    # More parts than inner elements make no sense.
    legal = (parts == 1) | (k >= 2.0 * parts * profile.inner)
    names = [f"{r:g}×{c:g} tiles" + (f", inner axis in {s} parts" if s > 1 else "") for r, c, _, s in choices]
    seconds = np.where(legal, np.maximum(math, operands) + partial, np.inf)
    return Ways(tuple(names), seconds, np.minimum(1.0, full), (count, waves, math, operands + partial))


def _transformed(
    table: KernelTable, machine: Machine, profile: Profile, rate: Any, name: str, algorithm: Algorithm
) -> Ways:
    """Winograd's convolution F(q × q, r × r): (q + r - 1)² products over ⌈h/q⌉ ⌈w/q⌉ tiles of every image.

    Images, filters and results are transformed by kernels of their own: 2 (V + U + G) bytes at a share of the shared
    level's bandwidth, V, U and G the transformed images, results and filters, and three more launches. Source: Lavin
    and Gray, arXiv:1509.09308.
    """
    _, m, n, k = table.product
    window, _, height, width = table.window
    q, points = algorithm.output, float(algorithm.points)
    images = m / np.maximum(height * width, 1.0)
    tiles = images * np.ceil(height / q) * np.ceil(width / q)
    channels = k / np.maximum(window * window, 1.0)
    product = np.stack([np.full_like(m, points), tiles, n, channels])
    inside = _tiled(product, machine, profile, rate * algorithm.fraction, profile.convolution_tiles)
    shared = machine.levels[-2:][0]
    moved = 2.0 * points * (tiles * channels + tiles * n + channels * n) * table.element_bytes
    transforms = moved / (shared.bandwidth * shared.efficiency * algorithm.transforms)
    launches = 3.0 * (profile.kernel_time + profile.kernel_cycles / machine.clock)
    names = tuple(f"{name}, {way}" for way in inside.names)
    count, waves, math, operands = inside.detail
    return Ways(
        names, inside.seconds + transforms + launches, inside.share, (count, waves, math, operands + transforms)
    )


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
