"""A device as the engine sees it: plain figures in SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Number: TypeAlias = Any
"""A float, or a numpy array that broadcasts with the other figures (a sweep varies them together)."""

TECHNOLOGIES = ("hbm", "gddr", "lpddr", "none")
"""Kinds of main memory; none: all levels are on the chip."""


@dataclass(frozen=True)
class Level:
    """One level of memory, in totals of the device."""

    name: str
    capacity: Number  # B
    bandwidth: Number  # B/s
    efficiency: Number  # achieved fraction of the bandwidth
    energy: Number  # J/B
    technology: str = ""  # one of TECHNOLOGIES, of the main memory; "" where nobody says


@dataclass(frozen=True)
class SubArray:
    """Equal systolic arrays, in totals of the device."""

    rows: Number
    columns: Number
    arrays: Number

    @property
    def cells(self) -> Number:
        """Multiply-accumulate cells."""
        return self.rows * self.columns * self.arrays


@dataclass(frozen=True)
class Matrix:
    """The engine of matrix products. A dtype without a peak is not supported."""

    organisation: str  # tiles, systolic or simd
    peak: Mapping[str, Number]  # FLOP/s by dtype, dense
    clocks: Mapping[str, Number]  # Hz, of the dtypes whose peak is quoted at a clock of their own
    subarrays: tuple[SubArray, ...]  # none unless systolic, one unless there are unequal arrays
    dataflow: str  # weight-stationary, output-stationary or input-stationary
    weights_double_buffered: bool  # or results, where they are stationary
    multicast: Number  # units that share one fetch of an operand

    @property
    def cells(self) -> Number:
        """Multiply-accumulate cells of all systolic arrays."""
        return sum(group.cells for group in self.subarrays)


@dataclass(frozen=True)
class Vector:
    """Arithmetic outside products; all rates at the clock of the device."""

    peak: Mapping[str, Number]  # FLOP/s by dtype
    special: Number  # results/s of exp, log, sin, rsqrt
    random: Number  # normal random numbers/s


@dataclass(frozen=True)
class Host:
    """What feeds the device. Without a link (a CPU) its bandwidth is infinite and its latency 0."""

    link_bandwidth: Number  # B/s, one direction
    link_latency: Number  # s
    speed: Number  # cost of an operator relative to the reference host; lower is faster
    asynchronous: bool
    synchronise: Number  # s


@dataclass(frozen=True)
class Link:
    """From a device to others of its kind, each direction at the same time. A device without one runs alone."""

    bandwidth: Number  # B/s, one direction, all links of the device together
    latency: Number  # s, of one message
    efficiency: Number  # achieved fraction of the bandwidth


@dataclass(frozen=True)
class Launch:
    """Gaps on the device between two kernels, by execution, and what starting them costs."""

    eager: Number  # s
    graph: Number  # s
    persistent: Number  # s
    replay: Number  # s of the host, for one captured graph or executable
    concurrent_kernels: Number


@dataclass(frozen=True)
class Power:
    """Where the watts go."""

    limit: Number  # W
    static: Number  # W
    energy: Mapping[str, Number]  # J/FLOP by dtype


@dataclass(frozen=True)
class Features:
    """Hardware made for Energy-Based Models; the defaults are those of a device without any."""

    stationary_weights: bool = False
    transposed_weights: Number = 1.0  # relative rate of products with transposed weights
    rng_overlapped: bool = False
    resident_loop: bool = False


@dataclass(frozen=True)
class Calibration:
    """Coefficients of the software profile that were fitted to this very device, and what stands behind them.

    coefficients: figures of `software` in place of the profile's own. environment: what was measured on, in words.
    residuals: what the fit leaves, by category of kernels and size.
    """

    software: str
    date: str
    environment: Mapping[str, str]
    coefficients: Mapping[str, Any]
    residuals: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Hardware:
    """A device. `memory` is innermost first; its last level is the main memory.

    sources: mark (vendor, measured or estimate) and origin of the figures, by path such as
    "memory.dram.bandwidth". references: what the tags in the sources stand for.
    """

    name: str
    title: str
    kind: str  # cpu, gpu, tpu or accelerator
    software: str  # the default software profile
    validated: bool
    references: Mapping[str, str]
    units: Number
    clock: Number  # Hz, at which the peaks are quoted
    sustained_clock: Number  # Hz, under load
    matrix: Matrix
    vector: Vector
    memory: tuple[Level, ...]
    host: Host
    launch: Launch
    power: Power
    features: Features
    notes: tuple[str, ...]
    sources: Mapping[str, tuple[str, str]]
    calibration: Calibration | None = None
    link: Link | None = None

    def matrix_clock(self, dtype: str) -> Number:
        """The clock in Hz at which the matrix peak of `dtype` is quoted. Raises nothing."""
        return self.matrix.clocks.get(dtype, self.clock)
