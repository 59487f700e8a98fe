"""The coefficients of area and cost, each with its origin. None is fitted to the dies it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from ebmsim.errors import Problem, SpecError

_MM2 = 1e-6  # m²
_UM2 = 1e-12  # m²


class Node(NamedTuple):
    """What a process offers; 16 stands for 12, 14 and 16 nm."""

    density: float  # transistors/m² of logic
    cell: float  # m² of one bit of SRAM
    wafer: float  # dollars, 300 mm
    defects: float  # 1/m²


class MainMemory(NamedTuple):
    """What one link of a kind of main memory takes on the die, and what the memory costs."""

    rate: float  # B/s of a link
    phy: float  # m², the analog half: it does not shrink with the node
    controller: float  # transistors
    price: float  # dollars/B
    footprint: float  # m² beside the die on one interposer, for each link; 0 where the memory is on the board


NODES: Mapping[int, Node] = {
    65: Node(3.3e6 / _MM2, 0.499 * _UM2, 1937, 0.07e4),
    28: Node(15.3e6 / _MM2, 0.127 * _UM2, 2891, 0.07e4),
    16: Node(28.9e6 / _MM2, 0.070 * _UM2, 3984, 0.08e4),
    7: Node(96.3e6 / _MM2, 0.027 * _UM2, 9346, 0.09e4),
    5: Node(138.2e6 / _MM2, 0.021 * _UM2, 16988, 0.11e4),
}
MAIN_MEMORIES: Mapping[str, MainMemory] = {
    "hbm": MainMemory(819e9, 10.45 * _MM2, 552.7e6, 15e-9, 110 * _MM2),  # HBM3, 1024 bits
    "gddr": MainMemory(80e9, 7.9 * _MM2, 0, 3.4e-9, 0),  # GDDR6, 32 bits at 20 Gb/s
    "lpddr": MainMemory(25.6e9, 1.45 * _MM2, 90.4e6, 2.4e-9, 0),  # LPDDR5, 32 bits at 6.4 Gb/s
    "none": MainMemory(inf, 0, 0, 0, 0),  # all levels are on the chip
}
# Areas of multiply-adds with their sum in fp32 (integers: int32), relative to 16-bit floats.
RELATIVE: Mapping[str, float] = {
    "fp64": 10.4,
    "fp32": 2.04,
    "tf32": 1.2,
    "bf16": 1.0,
    "fp16": 1.0,
    "fp8": 0.5,
    "int8": 0.5,
    "fp4": 0.25,
    "int4": 0.25,
}

_CSET = "CSET, AI Chips: What They Are and Why They Matter (Khan and Mann, 2020), as tabulated in LLMCompass's code"
_TURING = "die photos of TU106 and TU116, 12 nm (Qesa; techpowerup.com 254452, 2019)"
_TPU1 = "TPU v1, 28 nm, at most 331 mm² (Jouppi et al., ISCA 2017, Fig. 2)"
_LLMCOMPASS = "LLMCompass (Zhang et al., ISCA 2024, Table II and cost_model.py)"
_ACTUARY = "Chiplet Actuary (Feng and Ma, DAC 2022), parameters"
SOURCES: Mapping[str, tuple[str, str]] = {
    "nodes.density": ("estimate", f"{_CSET}: densest logic cells"),
    "nodes.cell": ("vendor", "TSMC's high-density cells: IEDM and ISSCC papers as listed by WikiChip"),
    "nodes.wafer": ("estimate", f"{_CSET}: sale prices of 2020"),
    "nodes.defects": ("estimate", f"{_ACTUARY}; TSMC showed 0.10 to 0.11 /cm² at 5 nm, 0.09 at 7 nm (AnandTech 16028)"),
    "memories.rate": ("vendor", "JEDEC: 6.4 Gb/s (HBM3, LPDDR5) and 20 Gb/s (GDDR6) a pin"),
    "memories.phy": (
        "estimate",
        f"HBM: HBM2E links in photos of A100 and MI210, LPDDR: DDR5 links, both {_LLMCOMPASS}; GDDR: the 145 mm² of "
        "interface and Infinity Cache in Navi 21, 7 nm (3DCenter, by appuals.com 2022), less 128 MiB by `sram`, over 8",
    ),
    "memories.controller": ("estimate", f"{_LLMCOMPASS}; GDDR: in its phy"),
    "memories.price": (
        "estimate",
        "HBM3E contracts of 2025 about 15 dollars/GB; GDDR6 spot 3.36 in June 2023 (DRAMeXchange, by 3DCenter); DDR5 "
        "spot 2.4 in October 2023 (LLMCompass), taken for LPDDR",
    ),
    "memories.footprint": ("estimate", "an HBM2E stack, about 10 × 11 mm"),
    "mac": ("measured", f"1.25 mm² of tensor cores in a TPC of 1024 multiply-adds, {_TURING}"),
    "relative": (
        "estimate",
        "fp32: multiplier and adder at 45 nm, (7700 + 4184) / (1640 + 4184) µm² (energies in Horowitz, ISSCC 2014, "
        f"areas in Dally's talks); fp64: (52/23)² of it, {_LLMCOMPASS}; tf32: 19 of 16 bits; 8 and 4 bits: half and a "
        f"quarter, as rates of tensor cores double (65536 int8 in 24 % of {_TPU1}, come to 0.53)",
    ),
    "lane": (
        "measured",
        f"1.95 mm² are 22 % of a TPC without tensor and RT cores; less 192 KiB of L1; 128 lanes; {_TURING}",
    ),
    "specials_per_lane": ("vendor", "16 special units for 64 lanes (NVIDIA, Turing whitepaper)"),
    "random_macs": ("estimate", "Philox 4x32-10: five 32-bit products of 3495 µm² each; Box and Muller: two specials"),
    "sram": ("vendor", "AMD V-Cache, 7 nm: 64 MiB in 41 mm² with tags and vias (ISSCC 2022), over its bare cells"),
    "unit": ("estimate", f"transistors that tie a unit to the others, mean of A100 and MI210: {_LLMCOMPASS}"),
    "control": ("vendor", f"2 % of {_TPU1}"),
    "allocated": ("vendor", f"buffers, compute, I/O and control are 79 % of {_TPU1}"),
    "lane_rate": ("vendor", "PCIe 5.0"),
    "lane_phy": ("estimate", f"PCIe 5.0: {_LLMCOMPASS}"),
    "lane_controller": ("estimate", f"PCIe 5.0: {_LLMCOMPASS}"),
    "radius": ("estimate", f"300 mm with 5 mm of edge lost: {_ACTUARY}"),
    "scribe": ("estimate", _ACTUARY),
    "clustering": ("estimate", _ACTUARY),
    "substrate": ("estimate", f"four times the silicon at 0.005 dollars/mm², and bumps 0.005: {_ACTUARY}"),
    "interposer": ("estimate", "12 thousand dollars a CoWoS-S wafer (posts on the supply of H200, 2026)"),
    "interposer_margin": ("estimate", _ACTUARY),
    "bonded": ("estimate", _ACTUARY),
    "bonded_interposer": ("estimate", _ACTUARY),
}
"""Mark (vendor, measured or estimate) and origin of every coefficient."""


@dataclass(frozen=True)
class AreaModel:
    """How a design is built (node, dies), and the coefficients; SOURCES has their origins.

    dies: equal parts that the silicon is cut into. memories: by technology of the last level. Areas of logic are at
    16 nm and go to other nodes by the density of logic. Raises SpecError for a node or a number of dies that there is
    not.
    """

    node: int = 5  # nm
    dies: int = 1
    nodes: Mapping[int, Node] = field(default_factory=lambda: NODES)
    memories: Mapping[str, MainMemory] = field(default_factory=lambda: MAIN_MEMORIES)
    mac: float = 1.25 / 1024 * _MM2  # m² of a multiply-add of 16-bit floats, with registers and operand delivery
    relative: Mapping[str, float] = field(default_factory=lambda: RELATIVE)
    lane: float = (1.95 / 0.22 - 0.31) / 128 * _MM2  # m² of a 32-bit lane, with registers and its share of scheduling
    specials_per_lane: float = 0.25  # special results per cycle that a lane brings along
    random_macs: float = 3.5  # fp32 multiply-adds in the area of one normal number per cycle
    sram: float = 41 / (2**29 * 0.027e-6)  # area over that of the bare cells
    unit: float = 44.3e6  # transistors
    control: float = 0.02 * 331 * _MM2 * 15.3 / 28.9  # m²
    allocated: float = 0.79  # share of a die that its blocks cover
    lane_rate: float = 63e9 / 16  # B/s of a lane of the host link
    lane_phy: float = 0.64 * _MM2  # m²
    lane_controller: float = 5.37e6  # transistors
    radius: float = 0.145  # m
    scribe: float = 0.2e-3  # m
    clustering: float = 10.0  # of defects: the exponent of the yield
    substrate: float = 0.025 / _MM2  # dollars/m² of silicon
    interposer: float = 12000.0  # dollars/wafer
    interposer_margin: float = 1.1  # area over that of the silicon on it
    bonded: float = 0.99  # share of packages that work
    bonded_interposer: float = 0.95

    def __post_init__(self) -> None:
        problems = []
        if self.node not in tuple(self.nodes):
            known = ", ".join(f"{node}" for node in sorted(self.nodes))
            problems.append(Problem(f"no figures for a node of {self.node!r} nm", hint=f"there are: {known}"))
        if type(self.dies) is not int or self.dies < 1:
            problems.append(Problem(f"expected dies to be a whole number from 1 on, found {self.dies!r}"))
        if problems:
            raise SpecError(problems)


DEFAULT = AreaModel()
