"""A grid of 100,000 devices in one call: points per second on one core, and equality with one-point estimates.

Run as `python benchmarks/grid.py [workload]` with OMP_NUM_THREADS=1 for one core.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import numpy as np

import ebmsim
from ebmsim.cost.machine import machine_of
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile
from ebmsim.sweep.engine import evaluate

# Points and range of each axis, relative to the device.
FACTORS = {
    "units": (10, 0.5, 2.0),
    "clock": (10, 0.7, 1.5),
    "dram_bandwidth": (50, 0.25, 4.0),
    "l2_capacity": (20, 0.25, 8.0),
}


def main(name: str = "ebm_cvr") -> None:
    """Print the rate of three calls and the largest difference from one-point estimates."""
    hardware = ebmsim.load_hardware("rtx5090")
    policy = settled(Policy(), hardware)
    profile = load_profile(policy.software)
    lowered = lower_workload(ebmsim.load_workload(name), policy, profile)
    machine = machine_of(hardware)
    levels = {level.name: level for level in hardware.memory}
    base = {
        "units": machine.units,
        "clock": machine.clock,
        "dram_bandwidth": levels["dram"].bandwidth,
        "l2_capacity": levels["l2"].capacity,
    }
    values = {k: base[k] * np.linspace(low, high, count) for k, (count, low, high) in FACTORS.items()}
    values["units"] = np.round(values["units"])
    axes = {k: v.reshape(*[-1 if i == j else 1 for j in range(len(values))]) for i, (k, v) in enumerate(values.items())}
    for _ in range(3):
        start = time.perf_counter()
        grid = evaluate(lowered, machine.swept(**axes), profile, policy)
        seconds = time.perf_counter() - start
        points = grid["t_samp"].size
        print(f"{points} points in {seconds:.3f} s: {points / seconds:,.0f} points a second")
    worst = 0.0
    for index in np.random.default_rng(0).integers(0, points, 50):
        at = np.unravel_index(index, grid["t_samp"].shape)
        units, clock, bandwidth, capacity = (v[i] for v, i in zip(values.values(), at, strict=True))
        ratio = units / hardware.units
        one = replace(
            hardware,
            units=units,
            sustained_clock=clock,
            matrix=replace(hardware.matrix, peak={d: p * ratio for d, p in hardware.matrix.peak.items()}),
            vector=replace(
                hardware.vector,
                peak={d: p * ratio for d, p in hardware.vector.peak.items()},
                special=hardware.vector.special * ratio,
                random=hardware.vector.random * ratio,
            ),
            memory=tuple(
                replace(level, bandwidth=bandwidth)
                if level.name == "dram"
                else replace(level, capacity=capacity)
                if level.name == "l2"
                else level
                for level in hardware.memory
            ),
        )
        exact = estimate_lowered(lowered, one, policy, profile)
        for key in ("t_samp", "t_samp_first", "t_once", "t_inf", "t_inf_eq6", "t_train"):
            worst = max(worst, abs(grid[key][at] / exact.seconds[key] - 1.0))
        worst = max(worst, abs(grid["step_joules"][at] / exact.energy["step_joules"] - 1.0))
    print(f"largest relative difference from 50 one-point estimates: {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
