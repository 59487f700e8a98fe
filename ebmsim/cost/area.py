"""Silicon area and manufacturing cost of a design, from its figures and a few published densities.

    area = matrix + vector + sram + interface + overhead
    cost = die + memory + package

Against published dies this is right within a factor of about two and mostly too small (docs/validation/area.md,
written by ebmsim/cost/dies.py): use it to rank designs. Inside, areas are m² and money is nominal dollars. Figures of
the hardware may be arrays that broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import pi
from typing import Any

import numpy as np

from ebmsim.cost.area_model import DEFAULT, NODES, AreaModel, MainMemory
from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware, Number

_MM2 = 1e-6  # m²
_BITS = {"fp64": 64, "fp32": 32, "tf32": 19, "bf16": 16, "fp16": 16, "fp8": 8, "int8": 8, "fp4": 4, "int4": 4}


@dataclass(frozen=True)
class Area:
    """Silicon of a design by part, in m²; an array where a figure of the hardware is one."""

    matrix: Number
    vector: Number
    sram: Number
    interface: Number  # to main memory and host
    overhead: Number  # control, ties between units, wiring and free space

    @property
    def total(self) -> Number:
        """m²."""
        return self.matrix + self.vector + self.sram + self.interface + self.overhead

    @property
    def total_mm2(self) -> Number:
        """mm²."""
        return self.total / _MM2


@dataclass(frozen=True)
class Cost:
    """What making one device costs, in nominal dollars: wafers of 2020, memory of 2023 to 2025, packages of 2022 on.

    Not in it: design, masks, intellectual property, board, power supply, cooling, final test, margin.
    """

    die: Number
    memory: Number
    package: Number  # substrate, interposer, and what is lost in assembly

    @property
    def total(self) -> Number:
        """Dollars."""
        return self.die + self.memory + self.package


def area(hardware: Hardware, model: AreaModel = DEFAULT) -> Area:
    """Silicon area of a device. Raises SpecError for a CPU, and for a device that does not say what its main memory is.

        matrix    = mac · s · max over types of relative · max(0, peak / (2 clock) - lanes)
        vector    = s (lane · lanes + mac (relative₆₄ · fp64 lanes + relative₃₂ · special + random))
        sram      = sram · 8 bits · capacity on chip · cell
        interface = links · (phy + controller / density) + the same of the host link
        overhead  = (units · unit / density + control · s) + (1/allocated - 1) · all before

    s is the density of logic at 16 nm over that at the node, lanes those of 32 bits, special what exceeds the units in
    them. One array serves all types of a matrix engine, so the most demanding one counts; what the lanes do by
    themselves (fp32 products of a GPU) is not counted twice. A random engine is counted where it runs beside the
    network. Links are bandwidth over the rate of one, not rounded up. Left out: links to other devices, spare units,
    video, graphics and ray tracing; that a larger systolic array needs fewer ports; clock (fast logic is larger).
    """
    node, kind = model.nodes[model.node], _kind(hardware, model)
    shrink = NODES[16].density / node.density
    lanes = _lanes(hardware)
    matrix = model.mac * shrink * _multipliers(hardware, lanes, model)
    vector = shrink * (model.lane * lanes + model.mac * _beside(hardware, lanes, model))
    on_chip = hardware.memory if np.isinf(kind.rate) else hardware.memory[:-1]
    sram = model.sram * 8 * node.cell * reduce(np.add, (level.capacity for level in on_chip), 0.0)
    link = hardware.host.link_bandwidth
    host_lanes = np.where(np.isinf(link), 0.0, link)[()] / model.lane_rate
    interface = _links(hardware, kind) * (kind.phy + kind.controller / node.density) + host_lanes * (
        model.lane_phy + model.lane_controller / node.density
    )
    ties = hardware.units * model.unit / node.density + model.control * shrink
    overhead = ties + (1 / model.allocated - 1) * (matrix + vector + sram + interface + ties)
    return Area(matrix, vector, sram, interface, overhead)


def cost(hardware: Hardware, model: AreaModel = DEFAULT) -> Cost:
    """What making a device costs. Raises SpecError as `area` does.

        die     = dies · wafer / (N(A) · Y(A)),  A = area / dies,  Y = (1 + A · defects / clustering)^-clustering
        N(A)    = π r² / S - 2 π r / √(2 S),  S = (√A + scribe)²
        memory  = price · capacity
        package = substrate · silicon + interposer + (1/bonded - 1) · what is bonded

    N is dies per wafer, Y the share without a defect. Silicon is the dies and the stacks of memory beside them, which
    need an interposer; so do several dies. Left out: that dies with a defect are sold with units switched off, which
    makes large dies cheaper than here; the reticle (no die above 26 × 33 mm = 858 mm²), which is for the caller.
    """
    node, kind = model.nodes[model.node], _kind(hardware, model)
    silicon = area(hardware, model).total
    each = silicon / model.dies
    good = (1 + each * node.defects / model.clustering) ** -model.clustering
    die = model.dies * _apiece(node.wafer, each, model) / good
    memory = kind.price * hardware.memory[-1].capacity
    placed = silicon + kind.footprint * _links(hardware, kind)
    package, bonded, kept = model.substrate * placed, die, model.bonded
    if kind.footprint or model.dies > 1:
        interposer = _apiece(model.interposer, model.interposer_margin * placed, model)
        package, bonded, kept = package + interposer, die + interposer, model.bonded_interposer
    if kind.footprint:
        bonded = bonded + memory
    return Cost(die, memory, package + (1 / kept - 1) * bonded)


def _kind(hardware: Hardware, model: AreaModel) -> MainMemory:
    """The main memory, by what the device says of its last level."""
    if hardware.kind == "cpu":
        hint = "areas are those of GPUs and accelerators; most of a CPU is cores that no figure describes"
        raise SpecError([Problem(f"no area model of a CPU ({hardware.name})", hint=hint)])
    level = hardware.memory[-1]
    if not level.technology:
        message = f"{hardware.name} does not say what its main memory is, '{level.name}'"
        hint = f"write memory.{level.name}.technology: {', '.join(model.memories)}"
        raise SpecError([Problem(message, hint=hint)])
    return model.memories[level.technology]


def _links(hardware: Hardware, kind: MainMemory) -> Number:
    return hardware.memory[-1].bandwidth / kind.rate


def _lanes(hardware: Hardware) -> Number:
    """Lanes of 32 bits: multiply-adds per cycle of the type nearest to that width, packed into it."""
    peaks = hardware.vector.peak
    dtype = min(peaks, key=lambda name: abs(_BITS[name] - 32))
    return peaks[dtype] / (2 * hardware.clock) * (_BITS[dtype] / 32)


def _multipliers(hardware: Hardware, lanes: Number, model: AreaModel) -> Number:
    """Multiply-adds of the matrix engine beyond those of the lanes, in areas of a 16-bit one."""
    counts = {name: peak / (2 * hardware.matrix_clock(name)) for name, peak in hardware.matrix.peak.items()}
    sizes = (model.relative[name] * np.maximum(0.0, count - lanes) for name, count in counts.items())
    return reduce(np.maximum, sizes, 0.0)


def _beside(hardware: Hardware, lanes: Number, model: AreaModel) -> Number:
    """What stands beside the lanes, in areas of a 16-bit multiply-add: fp64, special functions, random numbers."""
    vector, cycles = hardware.vector, hardware.clock
    doubles = model.relative["fp64"] * vector.peak.get("fp64", 0.0) / (2 * cycles)
    specials = np.maximum(0.0, vector.special / cycles - model.specials_per_lane * lanes)
    random = model.random_macs * vector.random / cycles if hardware.features.rng_overlapped else 0.0
    return doubles + model.relative["fp32"] * (specials + random)


def _apiece(wafer: float, piece: Any, model: AreaModel) -> Number:
    """Dollars of one of the pieces that a round wafer is cut into; infinite where it yields none."""
    side = np.sqrt(piece) + model.scribe
    pieces = pi * (model.radius / side) ** 2 - 2 * pi * model.radius / (np.sqrt(2) * side)
    with np.errstate(divide="ignore"):
        return wafer / np.maximum(pieces, 0.0)
