"""What the benchmarks of the engine share: a workload made ready, designs of a device, rates and differences."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import ebmsim
from ebmsim.cost.machine import Machine, machine_of
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.lowered import Lowered
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_profile
from ebmsim.sweep.engine import evaluate, prepare
from ebmsim.sweep.figures import figures_of, with_figures

# The nineteen workloads of the paper's Table II.
# fmt: off
TABLE_II = [
    "ebm_imp", "ebm_eqm", "ebt", "irem", "ired", "ebm_gr", "ebm_cmp", "rrr",
    "ade", "ebm_igm", "ebm_ebp", "ebm_mbp", "ebm_cdt", "ebm_cvr", "comet", "ebm_cl",
    "ebm_cvg", "ccsp", "ebm_cgid",
]
# fmt: on
# Points and range of each axis, relative to the device.
FOUR = {
    "units": (10, 0.5, 2.0),
    "sustained_clock": (10, 0.7, 1.5),
    "memory.dram.bandwidth": (50, 0.25, 4.0),
    "memory.l2.capacity": (20, 0.25, 8.0),
}
SIX = FOUR | {"memory.l2.bandwidth": (5, 0.5, 2.0), "power.limit": (2, 0.6, 1.4)}


class Ready(NamedTuple):
    """A workload lowered for a device that is to be varied."""

    hardware: ebmsim.Hardware
    policy: Policy
    profile: Profile
    lowered: Lowered


def ready(workload: str, device: str = "rtx5090") -> Ready:
    """A workload at its default preset and policy."""
    hardware = ebmsim.load_hardware(device)
    policy = settled(Policy(), hardware)
    profile = load_profile(policy.software)
    return Ready(hardware, policy, profile, lower_workload(ebmsim.load_workload(workload), policy, profile))


def grid(on: Ready, axes: Mapping[str, Any] = FOUR) -> dict[str, Any]:
    """The figures of a grid by path, each along an axis of its own."""
    known = figures_of(on.hardware)
    values = {path: known[path] * np.linspace(low, high, count) for path, (count, low, high) in axes.items()}
    values["units"] = np.round(values["units"])
    return dict(zip(values, np.ix_(*values.values(), [0.0])[:-1], strict=True))


def hypercube(on: Ready, points: int, axes: Mapping[str, Any] = FOUR) -> dict[str, Any]:
    """The figures of a Latin hypercube by path, all along one axis."""
    from scipy.stats.qmc import LatinHypercube

    known, unit = figures_of(on.hardware), LatinHypercube(len(axes), seed=0).random(points)
    figures = {
        path: known[path] * (low * (high / low) ** unit[:, i, None])
        for i, (path, (_, low, high)) in enumerate(axes.items())
    }
    figures["units"] = np.round(figures["units"])
    return figures


def devices(on: Ready, figures: Mapping[str, Any]) -> Machine:
    """All devices with some figures."""
    return machine_of(with_figures(on.hardware, figures))


def rate(on: Ready, figures: Mapping[str, Any], repeats: int = 5) -> tuple[float, dict[str, Any]]:
    """Points a second of CPU time, the upper quartile of some runs after a first one, and what they find."""
    prepared, machine, times = prepare(on.lowered, on.profile, on.policy), devices(on, figures), []
    found = evaluate(prepared, machine)
    for _ in range(repeats):
        start = time.process_time()
        found = evaluate(prepared, machine)
        times.append(time.process_time() - start)
    return found["t_samp"].size / float(np.quantile(times, 0.25)), found


def difference(on: Ready, figures: Mapping[str, Any], found: Mapping[str, Any], points: int = 30) -> float:
    """The largest relative difference from one-point estimates of some of the points."""
    shape, worst = found["t_samp"].shape, 0.0
    each = {path: np.broadcast_to(values[..., 0], shape) for path, values in figures.items()}
    for index in np.random.default_rng(0).integers(0, found["t_samp"].size, points):
        at = np.unravel_index(index, shape)
        device = with_figures(on.hardware, {path: float(values[at]) for path, values in each.items()})
        exact = estimate_lowered(on.lowered, device, on.policy, on.profile)
        for name, value in {**exact.seconds, **exact.energy, **exact.memory}.items():
            if name in found and value:
                worst = max(worst, abs(found[name][at] / value - 1.0))
    return worst
