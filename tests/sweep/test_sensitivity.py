"""Elasticities are those of estimates; in the roofline those of all rates sum to -1."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ebmsim
from ebmsim.errors import SpecError
from ebmsim.estimation import Estimate, estimate_lowered
from ebmsim.report.sensitivity import quantity
from ebmsim.spec import figure as grammar
from ebmsim.spec.figure import read_figure
from ebmsim.spec.library import names
from ebmsim.sweep.figures import figures_of, with_figures
from ebmsim.sweep.sensitivity import Change, Elasticity, elasticities, is_rate, is_whole

DEVICES = ("a100", "tpu_v6e", "ryzen9900x")
ROOFLINE = ebmsim.Policy(fidelity="roofline")


def small(name: str) -> ebmsim.Workload:
    return ebmsim.load_workload(name, "small")


def row(found: Any, figure: str) -> Elasticity:
    return next(r for r in found.rows if r.figure == figure)


# --- against estimates of files with other figures --------------------------------------------------------------------

WRITTEN = {
    "memory.dram.bandwidth": "B/s",
    "memory.l2.capacity": "B",
    "memory.dram.efficiency": "",
    "matrix.peak.fp32": "FLOP/s",
    "vector.special": "op/s",
    "launch.eager": "s",
    "host.speed": "",
    "sustained_clock": "Hz",
    "power.limit": "W",
}


@pytest.mark.parametrize(
    ("policy", "of"),
    [
        (ebmsim.Policy(), "t_inf"),
        (ebmsim.Policy(execution="graph", streams=3), "t_samp"),
        (ebmsim.Policy(chain_mode="sequential"), "step_joules"),
        (ROOFLINE, "t_train"),
    ],
    ids=("eager", "streams", "sequential", "roofline"),
)
@pytest.mark.parametrize("name", ["ebm_cmp", "irem", "ccsp"])
def test_elasticities_are_differences_of_estimates(name: str, policy: ebmsim.Policy, of: str) -> None:
    workload, device = small(name), ebmsim.load_hardware("a100")
    found = ebmsim.sensitivity(workload, device, policy, of)
    here = ebmsim.estimate(workload, device, policy)
    given = figures_of(device)
    assert found.value == {**here.seconds, **here.energy}[of]

    def log(path: str, value: float) -> float:
        """ln T of a device file in which one figure is written anew."""
        text: Any = f"{value!r} {WRITTEN[path]}" if WRITTEN[path] else value
        e = estimate_lowered(here.lowered, ebmsim.load_hardware("a100", {path: text}), here.policy, here.profile)
        return math.log({**e.seconds, **e.energy}[of] or 0.0)

    for path in WRITTEN:
        value, mine = given[path], row(found, path)
        zero, low, high = (log(path, value * math.exp(step)) for step in (0.0, -1e-4, 1e-4))
        assert mine.elasticity == pytest.approx((high - low) / 2e-4, abs=1e-7), path
        assert (mine.below, mine.above) == pytest.approx(((zero - low) / 1e-4, (high - zero) / 1e-4), abs=1e-7)
        for change, factor in ((mine.larger, 1.1), (mine.smaller, 1 / 1.1)):
            assert change is not None and change.value == pytest.approx(value * factor, rel=1e-12)
            assert change.change == pytest.approx(math.expm1(log(path, value * factor) - zero), abs=1e-12)


def test_a_memory_bound_step_follows_the_bandwidth() -> None:
    # In the roofline a step is the sum of kernels that one resource each binds: the elasticity of a rate is the share
    # of the step that it binds.
    for name, device in (("ebm_imp", "a100"), ("ired", "tpu_v6e"), ("irem", "ryzen9900x")):
        e = ebmsim.estimate(small(name), ebmsim.load_hardware(device), ROOFLINE)
        found = elasticities(e, "t_samp")
        for level in e.hardware.memory[1:]:
            part = e.bounds.get(f"memory:{level.name}", 0.0)
            assert row(found, f"memory.{level.name}.bandwidth").elasticity == pytest.approx(-part, abs=1e-4)
        rates = [r for r in found.rows if r.figure.startswith(("matrix.peak", "vector."))]
        assert sum(r.elasticity for r in rates) == pytest.approx(-e.bounds.get("compute", 0.0), abs=1e-4)


# --- homogeneity ------------------------------------------------------------------------------------------------------


def host_works(e: Estimate) -> bool:
    """Whether the host has work of its own, which no rate of the device shortens."""
    return bool(np.any(e.lowered.rows.seconds)) or e.lowered.training.host_seconds > 0


@pytest.mark.parametrize("name", names("workload"))
def test_elasticities_of_all_rates_sum_to_minus_one_in_the_roofline(name: str) -> None:
    for device in DEVICES:
        e = ebmsim.estimate(small(name), ebmsim.load_hardware(device), ROOFLINE)
        for of in ("t_samp", "t_inf", "t_train"):
            if e.seconds[of] and not host_works(e):
                assert elasticities(e, of).rate_sum == pytest.approx(-1.0, abs=1e-5), (device, of)


def test_work_of_the_host_is_shortened_by_no_rate() -> None:
    e = ebmsim.estimate(small("ebm_gr"), ebmsim.load_hardware("a100"), ROOFLINE)
    assert host_works(e)
    # A step: the kernels, whose time the rates shorten, and the host's own work, which they do not.
    host = float(e.lowered.step.counts @ e.lowered.rows.seconds)
    assert elasticities(e, "t_samp").rate_sum == pytest.approx(-(1 - host / e.timing.seconds), abs=1e-5)


@settings(max_examples=20)
@given(
    factor=st.floats(0.1, 10.0),
    device=st.sampled_from(DEVICES),
    name=st.sampled_from(["ebm_imp", "ired", "ebt"]),
    limit=st.floats(0.3, 2.0),
)
def test_the_roofline_is_inverse_in_all_rates(factor: float, device: str, name: str, limit: float) -> None:
    """T of rates × s is T / s, throttled or not: energies are joules, and watts are rates."""
    hardware = ebmsim.load_hardware(device)
    power = hardware.power
    hardware = replace(hardware, power=replace(power, limit=power.static + limit * (power.limit - power.static)))
    rates = {path: factor * value for path, value in figures_of(hardware).items() if is_rate(path)}
    workload = small(name)
    before = ebmsim.estimate(workload, hardware, ROOFLINE).seconds
    after = ebmsim.estimate(workload, with_figures(hardware, rates), ROOFLINE).seconds
    for of in ("t_samp", "t_inf"):
        assert (after[of] or 0.0) * factor == pytest.approx(before[of], rel=1e-9)


def test_a_throttled_step_follows_the_watts_that_are_left() -> None:
    # T = J / (limit - static): the elasticities are -limit / (limit - static) and static / (limit - static).
    device = ebmsim.load_hardware("a100")
    device = replace(device, power=replace(device.power, limit=70.0, static=62.0))
    found = ebmsim.sensitivity(small("ebm_imp"), device, ROOFLINE, "t_samp")
    assert found.estimate.timing.stretched > 2
    assert row(found, "power.limit").elasticity == pytest.approx(-70 / 8, rel=1e-4)
    assert row(found, "power.static").elasticity == pytest.approx(62 / 8, rel=1e-4)
    assert row(found, "matrix.peak.fp32").does_nothing
    assert found.rate_sum == pytest.approx(-1.0, abs=1e-3)
    # 63.6 W are too few for the static power, and 68.2 W of static power too many for the limit.
    smaller, larger = row(found, "power.limit").smaller, row(found, "power.static").larger
    assert smaller is not None and smaller.value == pytest.approx(70 / 1.1)
    assert larger is not None and larger.value == pytest.approx(68.2)
    tight = replace(device, power=replace(device.power, limit=66.0))
    found = ebmsim.sensitivity(small("ebm_imp"), tight, ROOFLINE, "t_samp")
    assert row(found, "power.limit").smaller is None and row(found, "power.static").larger is None


# --- steps ------------------------------------------------------------------------------------------------------------


def test_whole_numbers_take_whole_steps() -> None:
    workload, device = small("irem"), ebmsim.load_hardware("a100")
    mine = row(ebmsim.sensitivity(workload, device), "units")

    def log(units: int) -> float:
        return math.log(ebmsim.estimate(workload, with_figures(device, {"units": units})).seconds["t_inf"] or 0.0)

    assert mine.below == pytest.approx((log(107) - log(108)) / math.log(107 / 108), abs=1e-9)
    assert mine.above == pytest.approx((log(109) - log(108)) / math.log(109 / 108), abs=1e-9)
    assert mine.elasticity == pytest.approx((log(109) - log(107)) / math.log(109 / 107), abs=1e-9)
    assert mine.larger is not None and mine.smaller is not None
    assert (mine.larger.value, mine.smaller.value) == (119, 98)  # the next ones beyond 118.8 and 98.2


def test_the_next_whole_number_may_be_far() -> None:
    found = ebmsim.sensitivity(small("ebt"), ebmsim.load_hardware("tpu_v6e"), ROOFLINE)
    arrays, units = row(found, "matrix.arrays"), row(found, "units")
    assert arrays.larger is not None and arrays.smaller is not None and units.larger is not None
    assert (arrays.larger.value, arrays.smaller.value, units.larger.value) == (5, 3, 2)
    # There is no device with 0 units; the elasticity is that of the one side there is.
    assert units.smaller is None and units.below is None
    assert units.elasticity == units.above


def test_fractions_end_at_one() -> None:
    found = ebmsim.sensitivity(small("irem"), ebmsim.load_hardware("a100"))
    for figure in ("features.transposed_weights", "memory.l2.efficiency"):
        mine = row(found, figure)
        assert mine.value == 1.0 and mine.above is None and mine.larger is None
        assert mine.elasticity == mine.below
        assert mine.best == Change(1.0, 0.0) and mine.gain == 0.0


def test_what_helps_most_comes_first() -> None:
    found = ebmsim.sensitivity(small("irem"), ebmsim.load_hardware("a100"))
    gains = [r.gain for r in found.rows]
    assert gains == sorted(gains, reverse=True) and gains[0] > 0
    for mine in found.rows:
        changes = [c.change for c in (mine.larger, mine.smaller) if c]
        assert mine.best.change == min(0.0, *changes)


@pytest.mark.parametrize("device", ["h100", "ryzen9900x", "tpu_v4", "ebm_aware"])
def test_every_number_of_a_device_is_varied_once(device: str) -> None:
    hardware = ebmsim.load_hardware(device)
    found = ebmsim.sensitivity(small("ebm_imp"), hardware)
    expected = {
        path
        for path, value in figures_of(hardware).items()
        if type(value) in (int, float) and 0 < value < math.inf and not path.startswith("matrix.clocks")
    }
    assert sorted(r.figure for r in found.rows) == sorted(expected)
    assert {"units", "sustained_clock", "matrix.peak.bf16", "launch.eager", "power.limit"} <= expected


def test_an_idle_figure_does_nothing() -> None:
    found = ebmsim.sensitivity(small("ebm_imp"), ebmsim.load_hardware("a100"))
    assert row(found, "matrix.peak.int4").does_nothing
    assert not row(found, "host.speed").does_nothing


# --- refusals, and what is printed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "message"),
    [
        ("t_inff", "no time or energy 't_inff' in an estimate\n    did you mean 't_inf'?"),
        ("t_accept", "expected t_accept above 0, it is 0 for ebm_imp on a100"),
    ],
)
def test_figures_that_an_estimate_has_not(of: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        ebmsim.sensitivity(small("ebm_imp"), ebmsim.load_hardware("a100"), of=of)
    assert str(caught.value) == message


def test_a_workload_without_training_has_no_training_time() -> None:
    name = next(n for n in names("workload") if not small(n).file.training)
    with pytest.raises(SpecError, match=f"expected t_train above 0, it has none for {name} on a100"):
        ebmsim.sensitivity(small(name), ebmsim.load_hardware("a100"), of="t_train")


def test_figures_are_shown_as_files_write_them() -> None:
    checked = 0
    for device in names("hardware"):
        for path, value in figures_of(ebmsim.load_hardware(device)).items():
            if type(value) not in (int, float) or not 0 < value < math.inf or path.startswith("matrix.clocks"):
                continue
            text = quantity(path, value)
            if "[" not in path:  # of a list, whose entries the grammar does not read one by one
                assert is_whole(path) == grammar.is_whole(path)
            if is_whole(path):
                assert int(text) == value
            else:
                unit = any(letter.isalpha() for letter in text)
                read = read_figure(path, text if unit else float(text))
                assert read == pytest.approx(value, rel=6e-3), (device, path, text)
            checked += 1
    assert checked > 1_000
