"""A speed-up is the product of its factors, whatever the devices; factors are means over all orders."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import ebmsim
from ebmsim.errors import SpecError
from ebmsim.estimation import Estimate, estimate_lowered
from ebmsim.sweep.decomposition import PARTS, Decomposition, _mixture, decomposition, shapley

APART = tuple(PARTS.values())
ENGINE = "arithmetic, units and clock"
MEMORY = "memory bandwidth, memory capacity"


def on(device: Any, name: str = "irem", **how: Any) -> Estimate:
    hardware = ebmsim.load_hardware(device) if isinstance(device, str) else device
    return ebmsim.estimate(ebmsim.load_workload(name, "small"), hardware, ebmsim.Policy(**how))


@cache
def _on_a100() -> Estimate:
    return ebmsim.estimate(ebmsim.load_workload("ebm_cvr"), A100)


def large(device: ebmsim.Hardware) -> Estimate:
    """EBM-CVR as published, whose steps are long enough for every figure to count, on a device like an A100."""
    e = _on_a100()
    return estimate_lowered(e.lowered, device, e.policy, e.profile)


def factors(found: Decomposition) -> dict[str, float]:
    return {factor.group: factor.factor for factor in found.factors}


# --- the mean over orders ---------------------------------------------------------------------------------------------


@given(data=st.data(), players=st.integers(1, 5))
def test_a_share_is_the_mean_over_all_orders(data: st.DataObject, players: int) -> None:
    values = data.draw(arrays(np.float64, (2,) * players, elements=st.floats(-10, 10)))
    turns: dict[int, list[float]] = {player: [] for player in range(players)}
    for order in permutations(range(players)):
        chosen = [0] * players
        for player in order:
            before = values[tuple(chosen)]
            chosen[player] = 1
            turns[player].append(values[tuple(chosen)] - before)
    shares = [shapley(values, player) for player in range(players)]
    assert shares == pytest.approx([sum(t) / len(t) for t in turns.values()], abs=1e-9)
    assert sum(shares) == pytest.approx(values[(1,) * players] - values[(0,) * players], abs=1e-9)


# --- devices ----------------------------------------------------------------------------------------------------------

PAIRS = {
    ("a100", "h100"): APART,
    ("v100", "rtx5090"): APART,
    ("tpu_v5e", "tpu_v6e"): APART,
    ("ryzen9900x", "epyc9654"): APART,
    ("a100", "tpu_v6e"): (ENGINE, MEMORY, *APART[4:]),
    ("ryzen9900x", "a100"): (ENGINE, MEMORY, *APART[4:]),
    # The software of a TPU multiplies in bf16 unasked, which a V100 has not.
    ("v100", "tpu_v6e"): (f"{ENGINE}, software", MEMORY, "host and launch", "features", "power"),
}


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
@pytest.mark.parametrize("how", [{}, {"execution": "graph", "streams": 2}, {"fidelity": "roofline"}], ids=str)
def test_factors_make_the_speed_up(pair: tuple[str, str], how: dict[str, Any]) -> None:
    before, after = (on(device, **how) for device in pair)
    for of in ("t_samp", "step_joules"):
        found = decomposition(before, after, of)
        values = [{**e.seconds, **e.energy}[of] for e in (before, after)]
        assert found.speedup == (values[0] or 0.0) / (values[1] or 0.0)
        assert math.prod(factors(found).values()) == pytest.approx(found.speedup, rel=1e-9)
        assert tuple(factors(found)) == PAIRS[pair]
        for factor in found.factors:
            assert factor.least <= factor.factor * (1 + 1e-12) and factor.factor <= factor.most * (1 + 1e-12)


@pytest.mark.parametrize("pair", [("a100", "h100"), ("ryzen9900x", "rtx5090")], ids=" ".join)
def test_the_way_back_has_the_inverse_factors(pair: tuple[str, str]) -> None:
    there, back = decomposition(on(pair[0]), on(pair[1])), decomposition(on(pair[1]), on(pair[0]))
    for group, factor in factors(there).items():
        assert factor * factors(back)[group] == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("device", ["h100", "tpu_v6e", "ryzen9900x"])
def test_all_parts_of_a_device_are_the_device(device: str) -> None:
    e = on(device)
    mixed = _mixture(dict.fromkeys(PARTS, e))
    assert mixed.seconds == pytest.approx(e.seconds, rel=1e-12)
    assert mixed.energy == pytest.approx(e.energy, rel=1e-12)


A100 = ebmsim.load_hardware("a100")
FASTER = replace(A100, memory=(*A100.memory[:-1], replace(A100.memory[-1], bandwidth=3 * A100.memory[-1].bandwidth)))
LARGER = replace(A100, memory=(*A100.memory[:-2], replace(A100.memory[-2], capacity=1e9), A100.memory[-1]))
ONE_GROUP = {
    "memory bandwidth": FASTER,
    "memory capacity": LARGER,
    "host and launch": replace(A100, launch=replace(A100.launch, eager=0.0)),
    "power": replace(A100, power=replace(A100.power, limit=100.0)),
    "features": replace(A100, features=replace(A100.features, resident_loop=True)),
    "units and clock": replace(A100, sustained_clock=0.5 * A100.sustained_clock),
}


@pytest.mark.parametrize("group", ONE_GROUP)
def test_what_alone_differs_is_the_whole_speed_up(group: str) -> None:
    found = decomposition(large(A100), large(ONE_GROUP[group]))
    assert abs(found.speedup - 1.0) > 1e-3
    for name, factor in factors(found).items():
        assert factor == (pytest.approx(found.speedup, rel=1e-12) if name == group else 1.0)


def test_more_units_are_units_only() -> None:
    # Twice the units at the same rate of each: peaks double, and nothing is left for the arithmetic.
    peaks = {name: {d: 2 * p for d, p in getattr(A100, name).peak.items()} for name in ("matrix", "vector")}
    vector = replace(A100.vector, peak=peaks["vector"], special=2 * A100.vector.special, random=2 * A100.vector.random)
    double = replace(A100, units=216, matrix=replace(A100.matrix, peak=peaks["matrix"]), vector=vector)
    found = factors(decomposition(large(A100), large(double)))
    assert found["arithmetic"] == pytest.approx(1.0, abs=1e-12)
    assert found["units and clock"] > 1.1


def test_two_groups_have_the_mean_of_two_orders() -> None:
    both = replace(FASTER, sustained_clock=1.4 * A100.sustained_clock)
    clock = replace(A100, sustained_clock=1.4 * A100.sustained_clock)
    estimates = [large(device) for device in (A100, FASTER, clock, both)]
    none, memory, units, last = (e.seconds["t_inf"] or 0.0 for e in estimates)
    found = factors(decomposition(estimates[0], estimates[-1]))
    assert 1.0 < found["memory bandwidth"] != pytest.approx(none / memory, rel=1e-3)
    assert found["memory bandwidth"] == pytest.approx(math.sqrt(none / memory * units / last), rel=1e-12)
    assert found["units and clock"] == pytest.approx(math.sqrt(none / units * memory / last), rel=1e-12)


def test_different_workloads_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        decomposition(on("a100"), on("h100", "ired"))
    assert str(caught.value) == "expected one workload with the same settings on both devices"
