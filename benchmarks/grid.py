"""A grid of 100,000 devices in one call: points per second on one core, and equality with one-point estimates.

Run as `python benchmarks/grid.py [workload]` with OMP_NUM_THREADS=1 for one core.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import ebmsim
from ebmsim.cost.machine import machine_of
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile
from ebmsim.sweep.engine import evaluate
from ebmsim.sweep.figures import figures_of, with_figures

# Points and range of each axis, relative to the device.
FACTORS = {
    "units": (10, 0.5, 2.0),
    "sustained_clock": (10, 0.7, 1.5),
    "memory.dram.bandwidth": (50, 0.25, 4.0),
    "memory.l2.capacity": (20, 0.25, 8.0),
}


def main(name: str = "ebm_cvr") -> None:
    """Print the rate of three calls and the largest difference from one-point estimates."""
    hardware = ebmsim.load_hardware("rtx5090")
    policy = settled(Policy(), hardware)
    profile = load_profile(policy.software)
    lowered = lower_workload(ebmsim.load_workload(name), policy, profile)
    given = figures_of(hardware)
    values = {path: given[path] * np.linspace(low, high, count) for path, (count, low, high) in FACTORS.items()}
    values["units"] = np.round(values["units"])
    axes = dict(zip(values, np.ix_(*values.values(), [0.0])[:-1], strict=True))
    machine = machine_of(with_figures(hardware, axes))
    for _ in range(3):
        start = time.perf_counter()
        grid = evaluate(lowered, machine, profile, policy)
        seconds = time.perf_counter() - start
        points = grid["t_samp"].size
        print(f"{points} points in {seconds:.3f} s: {points / seconds:,.0f} points a second")
    worst = 0.0
    for index in np.random.default_rng(0).integers(0, points, 50):
        at = np.unravel_index(index, grid["t_samp"].shape)
        point = {path: v[i] for (path, v), i in zip(values.items(), at, strict=True)}
        exact = estimate_lowered(lowered, with_figures(hardware, point), policy, profile)
        for key in ("t_samp", "t_samp_first", "t_once", "t_inf", "t_inf_eq6", "t_train"):
            worst = max(worst, abs(grid[key][at] / exact.seconds[key] - 1.0))
        worst = max(worst, abs(grid["step_joules"][at] / exact.energy["step_joules"] - 1.0))
    print(f"largest relative difference from 50 one-point estimates: {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
