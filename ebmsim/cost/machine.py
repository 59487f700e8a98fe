"""A device in the form the formulas use: rates per unit and cycle, so that units and clock can be swept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ebmsim.hardware import Features, Hardware, Host, Launch, Level, Power


@dataclass(frozen=True)
class Machine:
    """A device, or a whole grid of devices.

    Every figure is a float or an array whose last axis has size 1: kernels lie along that axis. units: SMs, cores or
    TensorCores. clock: sustained, Hz. matrix, vector: FLOPs per unit and cycle, by dtype. special, random: results per
    unit and cycle. arrays: systolic arrays per unit. multicast: units that share one fetch of a product's operand.
    levels: innermost first.
    """

    name: str
    units: Any
    clock: Any
    matrix: Mapping[str, Any]
    vector: Mapping[str, Any]
    special: Any
    random: Any
    organisation: str
    arrays: Any
    rows: int
    columns: int
    double_buffered: bool
    multicast: Any
    levels: tuple[Level, ...]
    host: Host
    launch: Launch
    power: Power
    features: Features

    def swept(self, **axes: Any) -> Machine:
        """The machine with arrays in place of figures: units, clock, arrays, or a level's field as `dram_bandwidth`.

        Each array should have its own axis; an axis of size 1 for the kernels is appended here. Raises ValueError for
        an unknown name.
        """
        machine = self
        known = {f.name for f in fields(Machine)}
        for name, values in axes.items():
            array: Any = np.asarray(values, dtype=np.float64)[..., None]
            level, _, field = name.partition("_")
            if name in ("units", "clock", "arrays", "special", "random") and name in known:
                change: dict[str, Any] = {name: array}
                machine = replace(machine, **change)
            elif field in ("bandwidth", "capacity", "efficiency") and level in [x.name for x in machine.levels]:
                change = {field: array}
                levels = tuple(replace(x, **change) if x.name == level else x for x in machine.levels)
                machine = replace(machine, levels=levels)
            else:
                raise ValueError(f"no figure '{name}' to sweep on {self.name}")
        return machine


def machine_of(hardware: Hardware) -> Machine:
    """The figures of a device per unit and cycle."""
    matrix = {d: peak / (hardware.units * hardware.matrix_clock(d)) for d, peak in hardware.matrix.peak.items()}
    per_cycle = hardware.units * hardware.clock
    return Machine(
        name=hardware.name,
        units=hardware.units,
        clock=hardware.sustained_clock,
        matrix=matrix,
        vector={d: peak / per_cycle for d, peak in hardware.vector.peak.items()},
        special=hardware.vector.special / per_cycle,
        random=hardware.vector.random / per_cycle,
        organisation=hardware.matrix.organisation,
        arrays=hardware.matrix.arrays / hardware.units,
        rows=int(hardware.matrix.rows),
        columns=int(hardware.matrix.columns),
        double_buffered=hardware.matrix.weights_double_buffered,
        multicast=hardware.matrix.multicast,
        levels=hardware.memory,
        host=hardware.host,
        launch=hardware.launch,
        power=hardware.power,
        features=hardware.features,
    )
