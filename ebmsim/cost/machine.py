"""A device in the form the formulas use: rates per unit and cycle, so that units and clock can be swept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ebmsim.hardware import Features, Hardware, Host, Launch, Level, Power, SubArray

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Machine:
    """A device, or a whole grid of devices.

    Every figure is a float or an array whose last axis has size 1 (`sweep.figures`): kernels lie along that axis.
    units: SMs, cores or TensorCores. clock: sustained, Hz. matrix, vector: FLOPs per unit and cycle, by dtype. special,
    random: results per unit and cycle. subarrays: groups of systolic arrays, in totals. multicast: units that share one
    fetch of a product's operand. levels: innermost first.
    """

    name: str
    units: Any
    clock: Any
    matrix: Mapping[str, Any]
    vector: Mapping[str, Any]
    special: Any
    random: Any
    organisation: str
    dataflow: str
    subarrays: tuple[SubArray, ...]
    double_buffered: bool
    multicast: Any
    levels: tuple[Level, ...]
    host: Host
    launch: Launch
    power: Power
    features: Features


def machine_of(hardware: Hardware) -> Machine:
    """The figures of a device per unit and cycle."""
    per_cycle = hardware.units * hardware.clock
    return Machine(
        name=hardware.name,
        units=hardware.units,
        clock=hardware.sustained_clock,
        matrix={d: _rate(p, hardware.units * hardware.matrix_clock(d)) for d, p in hardware.matrix.peak.items()},
        vector={d: _rate(peak, per_cycle) for d, peak in hardware.vector.peak.items()},
        special=_rate(hardware.vector.special, per_cycle),
        random=_rate(hardware.vector.random, per_cycle),
        organisation=hardware.matrix.organisation,
        dataflow=hardware.matrix.dataflow,
        subarrays=hardware.matrix.subarrays,
        double_buffered=hardware.matrix.weights_double_buffered,
        multicast=hardware.matrix.multicast,
        levels=hardware.memory,
        host=hardware.host,
        launch=hardware.launch,
        power=hardware.power,
        features=hardware.features,
    )


def _rate(total: Any, per: Any) -> Any:
    """A total over a count; one number where it is the same at every point of a grid but for rounding."""
    rate = total / per
    if np.ndim(rate) and np.ptp(rate) <= _ROUNDING * np.max(rate):
        return float(np.ravel(rate)[0])
    return rate
