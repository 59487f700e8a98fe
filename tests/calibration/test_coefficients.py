"""Fitting: steps that the model made are fitted back, slopes are differences, coefficients land where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ebmsim.calibration.coefficients import FIGURES, Problem, fit, kinds_of, predict, sample, with_coefficients
from ebmsim.calibration.coefficients import _slopes as slopes
from ebmsim.calibration.machines import prepared_profile, shared_coefficients
from ebmsim.calibration.micro import plan
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.hardware import Hardware
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_hardware, load_profile

POLICY = Policy(fidelity="analytical", software="torch-cpu")
FAMILIES = ("linear", "convolution", "relu", "tanh", "group_norm", "concat")


def machine() -> Hardware:
    """One thread of a processor, without gaps between kernels."""
    found = load_hardware("ryzen9900x")
    launch = replace(found.launch, eager=0.0)
    memory = tuple(replace(level, bandwidth=level.bandwidth / 12, efficiency=1.0) for level in found.memory)
    return replace(found, units=1, launch=launch, memory=memory, matrix=replace(found.matrix, peak={"fp32": 100e9}))


def tables(profile: Profile) -> list:
    steps = [step for step in plan() if step.family in FAMILIES]
    return [lower_workload(step.workload(), POLICY, profile).step.table for step in steps]


@pytest.fixture(scope="module")
def problem() -> tuple[Problem, list]:
    hardware = machine()
    profile = prepared_profile(load_profile("torch-cpu"), hardware)
    made = tables(profile)
    return Problem(hardware, profile, POLICY, shared_coefficients(hardware), kinds_of(made)), made


def test_steps_of_known_coefficients_are_fitted_back(problem) -> None:
    given, made = problem
    random = np.random.default_rng(0)
    middle = np.log([p.middle - p.least for p in given.priors])
    true = middle + random.normal(0, 0.3, len(middle))
    nothing = np.ones((len(made), len(FIGURES)))
    kinds = list(given.kinds)
    measured = predict(sample(made, nothing, kinds), *given.applied(true), POLICY).reshape(nothing.shape)
    measured[measured == 0] = np.nan
    data = sample(made, measured, kinds)
    before = np.abs(predict(data, *given.applied(middle), POLICY)[data.fitted] / measured.ravel()[data.fitted] - 1)
    found = fit(data, given)
    after = np.abs(
        predict(data, found.hardware, found.profile, POLICY)[data.fitted] / measured.ravel()[data.fitted] - 1
    )
    assert np.median(before) > 0.1
    assert np.median(after) < 0.005 and np.quantile(after, 0.95) < 0.05


def test_slopes_are_those_of_one_coefficient_at_a_time(problem) -> None:
    """∂ log(predicted) / ∂x for every kind at once equals a difference of that kind's coefficient alone."""
    given, made = problem
    data = sample(made, np.ones((len(made), len(FIGURES))), list(given.kinds))
    x = np.log([p.middle - p.least for p in given.priors])
    found = slopes(data, given, x)
    base = predict(data, *given.applied(x), POLICY)
    for column in range(0, len(x), 7):
        moved = x.copy()
        moved[column] += 1e-3
        alone = (predict(data, *given.applied(moved), POLICY) - base) / 1e-3 / np.maximum(base, 1e-12)
        np.testing.assert_allclose(found[:, column], alone, rtol=1e-6, atol=1e-9)


def test_coefficients_land_in_the_device_or_in_the_profile() -> None:
    hardware, profile = machine(), load_profile("torch-cpu")
    given = {"matrix.peak.fp32": 7e9, "memory.l2.bandwidth": 5e9, "knee": 3.0, "gradient": 1e-5, "packing.matmul": 0.2}
    changed, other = with_coefficients(hardware, profile, given | {"resident": 0.5, "evicted": 0.25})
    assert changed.matrix.peak["fp32"] == 7e9
    assert {x.name: x.bandwidth for x in changed.memory}["l2"] == 5e9
    assert (other.knee, other.gradient, other.packing) == (3.0, 1e-5, {"matmul": 0.2})
    assert (other.resident, other.evicted) == (0.5, 0.75)
    assert with_coefficients(hardware, profile, {}) == (hardware, profile)


def test_kinds_that_were_not_measured_have_the_median_of_their_category(problem) -> None:
    given, made = problem
    measured = np.full((len(made), len(FIGURES)), 1e-4)
    found = fit(sample(made, measured, list(given.kinds)), given).profile
    for figures in (found.host_cost, found.element_cycles):
        for category in set(given.kinds.values()) & set(CATEGORIES) & set(figures):
            mine = [figures[k] for k, c in given.kinds.items() if c == category and k in figures]
            assert figures[category] == pytest.approx(np.median(mine))


def test_every_small_step_is_a_workload_of_its_own_label() -> None:
    steps, quick = plan(), plan(quick=True)
    assert len({s.label for s in steps}) == len(steps)
    assert {s.family for s in quick} == {s.family for s in steps} and len(quick) < 0.7 * len(steps)
    assert set(quick) <= set(steps)
