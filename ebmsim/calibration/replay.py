"""Measured kernels replayed: the time the cost model gives each, and how far that is from the measurement."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ebmsim.calibration.tables import Measurement, as_measured
from ebmsim.cost.kernels import kernel_costs
from ebmsim.cost.machine import machine_of
from ebmsim.cost.ways import every_way
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.graph.rows import Rows, rows_of
from ebmsim.hardware import Hardware
from ebmsim.policy import Policy, Profile, arithmetic

# 80 % of a normal distribution lies within this many standard deviations.
EIGHTY = 1.2816
# Bounds of the size bands, in s of measured time.
BANDS = (0.0, 10e-6, 100e-6, 1e-3, float("inf"))


class Part(NamedTuple):
    """Measurements of one dtype and execution, distinct kernels; order: rows of all launches, owner: whose they are."""

    index: Any
    rows: Rows
    order: Any
    owner: Any


@dataclass(frozen=True)
class Prepared:
    """Measurements made ready to be predicted on any device, with the host seconds in each (`call`).

    calls: of which category those seconds are, "" where there are none.
    """

    measurements: tuple[Measurement, ...]
    measured: Any
    call: Any
    parts: dict[tuple[str, str], Part]
    calls: tuple[str, ...] = field(default=())

    def with_calls(self, seconds: Mapping[str, float]) -> Prepared:
        """The same with other host seconds in the measurements, by category; those not given stay."""
        call = [seconds.get(name, before) for name, before in zip(self.calls, self.call, strict=True)]
        return replace(self, call=np.array(call))


def prepare(measurements: Sequence[Measurement]) -> Prepared:
    """Lower all measurements, equal kernels of one operator once."""
    parts = {}
    calls, named = np.zeros(len(measurements)), [""] * len(measurements)
    kinds = [(m.dtype, m.protocol.execution) for m in measurements]
    for kind in sorted(set(kinds)):
        index = [i for i, other in enumerate(kinds) if other == kind]
        launched = [as_measured(measurements[i]) for i in index]
        told_apart = sorted({kind for table, _ in launched for kind in table.kinds})
        rows, orders = rows_of([(table, False) for table, _ in launched], told_apart)
        timed = [order[first:] for order, (_, first) in zip(orders, launched, strict=True)]
        owner = np.repeat(np.arange(len(index)), [len(order) for order in timed])
        parts[kind] = Part(np.array(index), rows, np.concatenate(timed), owner)
        for i, (table, first) in zip(index, launched, strict=True):
            call = measurements[i].protocol.call
            # Once: the host is ahead of the kernels after the first.
            names = [CATEGORIES[c] for c in table.category[first:]]
            known = [name if name in call else "elementwise" for name in names]
            calls[i], named[i] = max((call.get(name, 0.0), name) for name in known)
    measured = np.array([m.seconds for m in measurements])
    return Prepared(
        tuple(measurements), measured, calls, parts, tuple(n if c else "" for n, c in zip(named, calls, strict=True))
    )


def predict(prepared: Prepared, hardware: Hardware, profile: Profile) -> Any:
    """Seconds of every measurement: kernels one after another, the limit of power kept, the call's host time added.

    Products are computed as torch does by default, but for convolutions in fp32, which these tables hold strictly so.
    Raises SpecError where the device has no peak for a dtype.
    """
    machine = machine_of(hardware)
    found = np.empty(len(prepared.measured))
    for (dtype, execution), part in prepared.parts.items():
        policy = Policy(dtype=dtype, math="strict", execution=execution, fidelity="analytical")
        ways = every_way(part.rows.products, profile)
        costs = kernel_costs(part.rows, ways, machine, profile, policy)
        seconds = np.bincount(part.owner, costs.seconds(profile.knee)[part.order], len(part.index))
        joules = np.bincount(part.owner, costs.joules[part.order], len(part.index))
        found[part.index] = np.maximum(seconds, joules / (machine.power.limit - machine.power.static))
    return found + prepared.call


def check_dtypes(measurements: Sequence[Measurement], hardware: Hardware, profile: Profile, file: str) -> None:
    """Raise SpecError for dtypes in which the device multiplies nothing, with the first line of each."""
    problems = []
    for dtype in sorted({m.dtype for m in measurements}):
        policy = Policy(dtype=dtype, math="strict")
        if not arithmetic(profile, hardware.matrix.peak, policy, "matmul"):
            line = next(m.line for m in measurements if m.dtype == dtype)
            have = ", ".join(hardware.matrix.peak)
            message = f"{hardware.name} has no peak for {dtype} products"
            problems.append(Problem(message, file, line, 1, "dtype", f"it has {have}"))
    if problems:
        raise SpecError(problems)


def deviation_of(measurement: Measurement, profile: Profile) -> float:
    """The deviation of the log error of a measured kernel, the part common to a whole model included."""
    return math.hypot(profile.common_error, profile.deviation(category_of(measurement), measurement.dtype))


def category_of(measurement: Measurement) -> str:
    """The kernel category of what was measured."""
    return {"linear": "matmul", "matmul": "matmul", "conv2d": "convolution"}.get(measurement.kind, "elementwise")


class Errors(NamedTuple):
    """Absolute errors of predictions as fractions of the measured times."""

    rows: int
    median_ape: float
    mape: float
    p90_ape: float


def errors(predicted: Any, measured: Any) -> Errors:
    """Median, mean and 90th percentile of |predicted / measured - 1|."""
    ape = np.abs(predicted / measured - 1.0)
    return Errors(len(ape), float(np.median(ape)), float(ape.mean()), float(np.quantile(ape, 0.9)))


def alike(measurements: Sequence[Measurement]) -> dict[tuple[str, str, str, int], list[int]]:
    """Which measurements are of one kind, phase, dtype and band of measured time."""
    found: dict[tuple[str, str, str, int], list[int]] = {}
    for i, m in enumerate(measurements):
        band = int(np.searchsorted(BANDS, m.seconds, side="right")) - 1
        found.setdefault((m.kind, m.phase, m.dtype, band), []).append(i)
    return found


def groups(prepared: Prepared, predicted: Any) -> list[dict[str, Any]]:
    """Errors by kind, phase, dtype and size band, largest groups first within a kind."""
    found = []
    for (kind, phase, dtype, band), index in sorted(alike(prepared.measurements).items()):
        low, high = BANDS[band], BANDS[band + 1]
        group = {
            "kind": kind,
            "phase": phase,
            "dtype": dtype,
            "from_s": low,
            "to_s": None if high == BANDS[-1] else high,
        }
        found.append(group | errors(predicted[index], prepared.measured[index])._asdict())
    return found
