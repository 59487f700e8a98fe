"""A grid of devices gives at every point what an estimate of that device gives."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import ebmsim
from ebmsim.cost.machine import machine_of
from ebmsim.errors import EbmsimError
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.lowering import lower_workload
from ebmsim.spec.library import load_profile
from ebmsim.sweep import totals
from ebmsim.sweep.engine import evaluate
from ebmsim.sweep.figures import figures_of, with_figures

SECONDS = ("t_samp", "t_samp_first", "t_once", "t_inf", "t_inf_eq6", "t_train")
# Of the device's own figure, on either side of where levels, waves and power begin to hold a kernel up.
FACTORS = {
    "units": (0.5, 1.0, 1.7),
    "sustained_clock": (0.7, 1.4),
    "memory.dram.bandwidth": (0.25, 1.0, 4.0),
    "memory.l2.capacity": (0.01, 8.0),
}


@pytest.mark.parametrize(
    "policy",
    [
        ebmsim.Policy(),
        ebmsim.Policy(execution="graph", math="strict"),
        ebmsim.Policy(execution="persistent", chain_mode="sequential"),
        ebmsim.Policy(fidelity="roofline", dtype="bf16"),
    ],
    ids=("eager", "graph", "persistent", "roofline"),
)
@pytest.mark.parametrize("name", ["ebm_imp", "ccsp", "ired"])
@pytest.mark.parametrize("worth", [0, 60_000])
def test_a_grid_is_its_points(worth: int, name: str, policy: ebmsim.Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "_WORTH", worth)  # 0: walked along an axis wherever kernels seldom change on it
    hardware = ebmsim.load_hardware("a100")
    policy = settled(policy, hardware)
    profile = load_profile(policy.software)
    lowered = lower_workload(ebmsim.load_workload(name, "small"), policy, profile)
    given = figures_of(hardware)
    values = {path: given[path] * np.array(factors) for path, factors in FACTORS.items()}
    values["units"] = np.round(values["units"])
    axes = dict(zip(values, np.ix_(*values.values(), [0.0])[:-1], strict=True))
    grid = evaluate(lowered, machine_of(with_figures(hardware, axes)), profile, policy)
    assert grid["t_samp"].shape == tuple(len(v) for v in values.values())
    for at in product(*[range(len(v)) for v in values.values()]):
        point = {k: float(v[i]) for (k, v), i in zip(values.items(), at, strict=True)}
        found = estimate_lowered(lowered, with_figures(hardware, point), policy, profile)
        for key in SECONDS:
            assert grid[key][at] == pytest.approx(found.seconds[key], rel=1e-12), key
        assert grid["step_joules"][at] == pytest.approx(found.energy["step_joules"], rel=1e-12)


def test_streams_are_refused() -> None:
    hardware = ebmsim.load_hardware("a100")
    policy = settled(ebmsim.Policy(streams=2), hardware)
    profile = load_profile(policy.software)
    lowered = lower_workload(ebmsim.load_workload("ebm_imp", "small"), policy, profile)
    with pytest.raises(EbmsimError, match="one stream"):
        evaluate(lowered, machine_of(hardware), profile, policy)


@pytest.mark.parametrize("exponent", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("often", [0.05, 0.3, 0.9])
def test_sums_walked_along_an_axis_are_those_of_the_whole_grid(
    exponent: float, often: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "_WORTH", 0)
    # Kernels whose memory time changes at some points of an axis only, as a cache grows past their data.
    random = np.random.default_rng(0)
    compute = random.uniform(1, 2, (3, 1, 1, 40))
    steps = random.uniform(0.1, 1, (1, 4, 9, 40)) * (random.random((1, 1, 9, 40)) < often)
    memory = 0.5 + np.cumsum(steps, axis=2)
    weights = random.uniform(0, 5, (40, 2))
    if exponent:
        whole = (compute**exponent + memory**exponent) ** (1 / exponent) @ weights
    else:
        whole = np.maximum(compute, memory) @ weights
    assert totals._stepped(compute, memory, weights, exponent) == pytest.approx(whole, rel=1e-13)
