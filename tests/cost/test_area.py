"""Area and cost of a design: parts against the chips they come from, wafers by brute force, laws."""

from dataclasses import fields, replace
from math import pi, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim.cost.area import area, cost
from ebmsim.cost.area_model import DEFAULT, MAIN_MEMORIES, NODES, RELATIVE, SOURCES, AreaModel, MainMemory, Node
from ebmsim.cost.dies import DIES, report
from ebmsim.errors import SpecError
from ebmsim.hardware import TECHNOLOGIES, Hardware, Level
from ebmsim.policy import DTYPES
from ebmsim.spec.library import load_hardware, names

PARTS = ("matrix", "vector", "sram", "interface", "overhead")
MONEY = ("die", "memory", "package")
DEVICES = tuple(load_hardware(name) for name in ("tpu_v6e", "rtx5090", "a100", "orin"))
MEMORIES = st.sampled_from(sorted(MAIN_MEMORIES))
MODELS = st.builds(
    AreaModel,
    node=st.sampled_from(sorted(NODES)),
    dies=st.integers(1, 4),
)


def behind(h: Hardware, technology: str) -> Hardware:
    """The device with another kind of main memory."""
    return replace(h, memory=(*h.memory[:-1], replace(h.memory[-1], technology=technology)))


def bare(**changes: Any) -> Hardware:
    """A design with next to nothing on it: one multiply-add, one lane, no links, no memory on the chip."""
    h = load_hardware("tpu_v6e")
    clock = 1e9
    h = replace(
        h,
        units=0,
        clock=clock,
        matrix=replace(h.matrix, peak={"bf16": 2 * clock}, clocks={}),
        vector=replace(h.vector, peak={"fp32": 0.0}, special=0.0, random=0.0),
        memory=(Level("hbm", 0.0, 0.0, 1.0, 0.0, "hbm"),),
        host=replace(h.host, link_bandwidth=0.0),
    )
    return replace(h, **changes)


# --- the chips the coefficients come from ----------------------------------------------------------------------------


def test_tensor_cores_of_a_tpc_of_turing() -> None:
    h = bare(matrix=replace(bare().matrix, peak={"fp16": 1024 * 2e9}))
    assert area(h, AreaModel(16)).matrix == pytest.approx(1.25e-6)


def test_a_tpc_of_turing_without_its_tensor_cores_and_l1() -> None:
    # 1.95 mm² were added, 22 % of what was there; 192 KiB of L1 at 16 nm are 0.31 mm².
    h = bare(vector=replace(bare().vector, peak={"fp32": 128 * 2e9}, special=32e9))
    l1 = area(replace(h, memory=(Level("l1", 192 * 2**10, 1, 1, 0), *h.memory)), AreaModel(16)).sram
    assert area(h, AreaModel(16)).vector + l1 == pytest.approx(1.95e-6 / 0.22, rel=1e-3)


def test_the_stacked_cache_of_zen_3() -> None:
    h = bare(memory=(Level("l3", 64 * 2**20, 1, 1, 0), *bare().memory))
    assert area(h, AreaModel(7)).sram == pytest.approx(41e-6)


def test_a_link_of_hbm_at_7_nm() -> None:
    # LLMCompass, Table II: 5.7 mm² of controller and 10.45 of PHY.
    h = bare(memory=(Level("hbm", 0, 819e9, 1, 0, "hbm"),))
    assert area(h, AreaModel(7)).interface == pytest.approx(16.2e-6, rel=0.01)


def test_the_matrix_unit_of_tpu_v1_is_predicted() -> None:
    # 65536 int8 multiply-adds in 24 % of at most 331 mm², at 28 nm.
    h = bare(matrix=replace(bare().matrix, peak={"int8": 65536 * 2e9}))
    assert area(h, AreaModel(28)).matrix == pytest.approx(0.24 * 331e-6, rel=0.1)


def test_every_type_of_tensor_cores_needs_about_the_same_array() -> None:
    clock = 2e9
    peaks = {"tf32": 1.0, "bf16": 2.0, "fp8": 4.0, "int8": 4.0, "int4": 8.0}
    one = bare(matrix=replace(bare().matrix, peak={"bf16": peaks["bf16"] * 1e6 * clock}))
    every = replace(one, matrix=replace(one.matrix, peak={k: p * 1e6 * clock for k, p in peaks.items()}))
    assert area(every).matrix == area(one).matrix


def test_what_lanes_do_by_themselves_is_not_counted_twice() -> None:
    h = load_hardware("m4max")
    assert area(h).matrix == 0


def test_a_random_engine_is_counted_where_it_runs_beside_the_network() -> None:
    h = DEVICES[0]
    own = replace(h, features=replace(h.features, rng_overlapped=True))
    more = area(own).vector - area(h).vector
    assert 0 < more < 0.01 * area(h).total


# --- main memory ------------------------------------------------------------------------------------------------------


def test_every_device_but_cpus_says_its_main_memory() -> None:
    assert set(MAIN_MEMORIES) == set(TECHNOLOGIES)
    for name in names("hardware"):
        h = load_hardware(name)
        if h.kind != "cpu":
            assert area(h).total > 0 and cost(h).total > 0, name


def test_gddr_in_place_of_hbm_is_cheaper_memory_on_a_larger_die() -> None:
    h = DEVICES[2]
    assert h.memory[-1].technology == "hbm"
    other = behind(h, "gddr")
    assert cost(other).memory == pytest.approx(cost(h).memory * 3.4 / 15)
    assert area(other).interface > area(h).interface


def test_without_main_memory_all_levels_are_on_the_chip() -> None:
    h = behind(DEVICES[0], "none")
    small = replace(h, memory=(h.memory[0], replace(h.memory[-1], capacity=2**20)))
    larger = replace(h, memory=(h.memory[0], replace(h.memory[-1], capacity=2**21)))
    cell = NODES[5].cell * 8 * 2**20 * DEFAULT.sram
    assert (area(larger).sram - area(small).sram) == pytest.approx(cell)
    assert area(small).interface < area(behind(small, "hbm")).interface
    assert cost(small).memory == 0


def test_a_device_whose_memory_is_the_hosts_has_no_lanes_to_it() -> None:
    h = load_hardware("orin")
    linked = replace(h, host=replace(h.host, link_bandwidth=63e9))
    lanes = area(linked).interface - area(h).interface
    # 16 lanes of PCIe 5.0 in LLMCompass: 0.64 mm² each and 5.4 million transistors.
    assert lanes == pytest.approx(16 * (0.64e-6 + 5.3721e6 / 138.2e12), rel=1e-3)


# --- wafers -----------------------------------------------------------------------------------------------------------


def squares_on_a_wafer(side: float, radius: float = 145.0) -> int:
    """Most whole squares of a grid inside a circle, over shifts of the grid by eighths. Lengths in mm."""
    steps = np.arange(-radius // side - 2, radius // side + 3)
    best = 0
    for dx in range(8):
        for dy in range(8):
            x, y = np.meshgrid(side * (steps + dx / 8), side * (steps + dy / 8))
            corners = np.maximum(np.abs(x), np.abs(x + side)) ** 2 + np.maximum(np.abs(y), np.abs(y + side)) ** 2
            best = max(best, int((corners <= radius**2).sum()))
    return best


def of_silicon(mm2: float, model: AreaModel) -> Hardware:
    """A design of the given area: SRAM makes up what is missing."""
    h = behind(bare(memory=(Level("sram", 0.0, 1, 1, 0), *bare().memory)), "gddr")
    missing = mm2 * 1e-6 - area(h, model).total
    capacity = missing * model.allocated / (8 * model.sram * model.nodes[model.node].cell)
    return replace(h, memory=(Level("sram", capacity, 1, 1, 0), *h.memory[1:]))


@pytest.mark.parametrize("mm2", [25, 100, 400, 800])
def test_dies_of_a_wafer_against_a_grid_of_squares(mm2: float) -> None:
    perfect = replace(DEFAULT, nodes={5: NODES[5]._replace(defects=0.0)})
    h = of_silicon(mm2, perfect)
    assert area(h, perfect).total_mm2 == pytest.approx(mm2)
    per_wafer = NODES[5].wafer / cost(h, perfect).die
    assert per_wafer == pytest.approx(squares_on_a_wafer(sqrt(mm2) + 0.2), rel=0.1)


def test_yield_is_poisson_over_wafers_that_differ() -> None:
    # Defects of a wafer: gamma with mean A·D and shape 10; a die is good with exp(-defects).
    model = DEFAULT
    h = of_silicon(600, model)
    perfect = replace(model, nodes={5: NODES[5]._replace(defects=0.0)})
    good = cost(h, perfect).die / cost(h, model).die
    mean, shape = 6.0 * 0.11, model.clustering
    defects = np.linspace(0, 30 * mean, 400_001)[1:]
    weights = defects ** (shape - 1) * np.exp(-defects * shape / mean)
    assert good == pytest.approx((weights * np.exp(-defects)).sum() / weights.sum(), rel=1e-6)


def test_a_die_as_large_as_the_wafer_cannot_be_bought() -> None:
    model = DEFAULT
    assert cost(of_silicon(pi * 145**2, model), model).total == np.inf


def test_the_bill_of_an_h100_is_what_analysts_find_within_a_factor_of_two() -> None:
    found = cost(load_hardware("h100"))
    for part, dollars in {"die": 300, "memory": 1350, "package": 750}.items():
        assert dollars / 2 < getattr(found, part) < dollars * 2


# --- laws -------------------------------------------------------------------------------------------------------------


def figures(h: Hardware) -> list[str]:
    peaks = [f"{engine}.{dtype}" for engine in ("matrix", "vector") for dtype in getattr(h, engine).peak]
    levels = [f"memory.{i}.{name}" for i in range(len(h.memory)) for name in ("capacity", "bandwidth")]
    return [*peaks, *levels, "vector.special", "vector.random", "units", "link", "rng"]


def scaled(h: Hardware, what: str, factor: Any) -> Hardware:
    engine, _, name = what.partition(".")
    if engine == "memory":
        index, _, name = name.partition(".")
        level = h.memory[int(index)]
        changed = replace(level, **{name: getattr(level, name) * factor})
        return replace(h, memory=tuple(changed if x is level else x for x in h.memory))
    if what == "units":
        return replace(h, units=h.units * factor)
    if what == "link":
        return replace(h, host=replace(h.host, link_bandwidth=h.host.link_bandwidth * factor))
    if what == "rng":
        return replace(h, features=replace(h.features, rng_overlapped=True))
    part = getattr(h, engine)
    if name in ("special", "random"):
        return replace(h, vector=replace(part, **{name: getattr(part, name) * factor}))
    peak = {dtype: value * (factor if dtype == name else 1) for dtype, value in part.peak.items()}
    return replace(h, **{engine: replace(part, peak=peak)})


@settings(max_examples=300)
@given(data=st.data(), h=st.sampled_from(DEVICES), memory=MEMORIES, model=MODELS)
def test_more_of_anything_is_never_smaller_and_never_cheaper(
    data: st.DataObject, h: Hardware, memory: str, model: AreaModel
) -> None:
    h = behind(h, memory)
    for what in data.draw(st.lists(st.sampled_from(figures(h)), max_size=4)):
        h = scaled(h, what, data.draw(st.floats(0.1, 10)))
    more = scaled(h, data.draw(st.sampled_from(figures(h))), data.draw(st.floats(1, 10)))
    assert area(h, model).total <= area(more, model).total * (1 + 1e-12)
    assert cost(h, model).total <= cost(more, model).total * (1 + 1e-12)


@given(h=st.sampled_from(DEVICES), memory=MEMORIES, model=MODELS)
def test_parts_are_positive_and_sum_to_the_total(h: Hardware, memory: str, model: AreaModel) -> None:
    h = behind(h, memory)
    silicon, dollars = area(h, model), cost(h, model)
    parts = [getattr(silicon, name) for name in PARTS]
    assert [f.name for f in fields(silicon)] == list(PARTS) and min(parts) >= 0
    assert silicon.total == pytest.approx(sum(parts)) and silicon.total_mm2 == pytest.approx(silicon.total * 1e6)
    assert [f.name for f in fields(dollars)] == list(MONEY)
    assert dollars.total == pytest.approx(sum(getattr(dollars, name) for name in MONEY))


@given(data=st.data(), h=st.sampled_from(DEVICES), memory=MEMORIES, model=MODELS)
def test_arrays_are_as_single_points(data: st.DataObject, h: Hardware, memory: str, model: AreaModel) -> None:
    h = behind(h, memory)
    names = data.draw(st.lists(st.sampled_from([f for f in figures(h) if f != "rng"]), max_size=3, unique=True))
    axes = [np.array(data.draw(st.lists(st.floats(0.2, 5), min_size=1, max_size=3))) for _ in names]
    grid = h
    for position, (name, axis) in enumerate(zip(names, axes, strict=True)):
        grid = scaled(grid, name, axis.reshape([-1 if i == position else 1 for i in range(len(names))]))
    shape = tuple(len(axis) for axis in axes)
    areas = np.broadcast_to(area(grid, model).total, shape)
    costs = np.broadcast_to(cost(grid, model).total, shape)
    for where in np.ndindex(*shape):
        point = h
        for name, axis, index in zip(names, axes, where, strict=True):
            point = scaled(point, name, float(axis[index]))
        assert areas[where] == pytest.approx(area(point, model).total)
        assert costs[where] == pytest.approx(cost(point, model).total)


@given(h=st.sampled_from(DEVICES), memory=MEMORIES)
def test_a_finer_node_is_never_larger(h: Hardware, memory: str) -> None:
    by_node = [area(behind(h, memory), AreaModel(node)).total for node in sorted(NODES)]
    assert by_node == sorted(by_node)


# --- input and documents ----------------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_a_model_is_said_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        AreaModel(node=6, dies=0)
    text = str(caught.value)
    assert "no figures for a node of 6 nm" in text and "there are: 5, 7, 16, 28, 65" in text
    assert "expected dies to be a whole number from 1 on, found 0" in text


def test_a_kind_of_main_memory_that_is_not_said_is_asked_for() -> None:
    for function in (area, cost):
        with pytest.raises(SpecError) as caught:
            function(behind(load_hardware("rtx5090"), ""))
        assert "rtx5090 does not say what its main memory is, 'dram'" in str(caught.value)
        assert "write memory.dram.technology: hbm, gddr, lpddr, none" in str(caught.value)


def test_a_cpu_is_refused() -> None:
    with pytest.raises(SpecError, match="no area model of a CPU"):
        area(behind(load_hardware("ryzen9900x"), "none"))


def test_every_coefficient_has_a_source() -> None:
    alone = {f.name for f in fields(AreaModel)} - {"node", "dies", "nodes", "memories"}
    rows = {f"nodes.{name}" for name in Node._fields} | {f"memories.{name}" for name in MainMemory._fields}
    assert set(SOURCES) == alone | rows
    assert {mark for mark, _ in SOURCES.values()} <= {"vendor", "measured", "estimate"}
    assert all(origin for _, origin in SOURCES.values())


def test_every_dtype_has_a_relative_area() -> None:
    assert set(RELATIVE) == set(DTYPES)
    for dtype in DTYPES:
        assert area(bare(vector=replace(bare().vector, peak={dtype: 1e12}))).vector > 0


def test_published_dies_are_predicted_within_a_factor_of_about_two() -> None:
    for die in DIES:
        predicted = area(load_hardware(die.device), die.model).total_mm2
        assert predicted < 1.2 * die.mm2 and (die.at_most or predicted > die.mm2 / 2.05), die.device


def test_the_table_of_published_dies_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "validation" / "area.md"
    assert page.read_text(encoding="utf-8") == "\n".join(report()) + "\n"
