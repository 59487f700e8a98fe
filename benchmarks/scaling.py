"""Seconds per point and memory from 10^5 points to 10^8, evaluated in sub-grids of 10^5 as a sweep does.

Run as `OMP_NUM_THREADS=1 python benchmarks/scaling.py [WORKLOAD] [LARGEST]`; by default ebm_cvr up to 10^7. Seconds are
of CPU time; memory is the most that the process held, which a sweep of more chunks does not raise.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from designs import FOUR, devices, grid, ready

from ebmsim.sweep.engine import evaluate, prepare


def main(name: str = "ebm_cvr", largest: str = "1e7") -> None:
    """Print a line for every number of points."""
    on = ready(name)
    prepared, figures = prepare(on.lowered, on.profile, on.policy), grid(on, FOUR)
    evaluate(prepared, devices(on, figures))
    print(f"{'points':>12s} {'µs/point':>10s} {'points/s':>12s} {'memory, MB':>11s} {'best t_inf, s':>14s}")
    points = 100_000
    while points <= float(largest):
        best, start = np.inf, time.process_time()
        for part in range(points // 100_000):
            # A further axis, one chunk for each of its values: the latency of the host link.
            here = figures | {"host.link_latency": np.full((1,) * 5, 1e-6 * (1 + part))}
            best = min(best, float(evaluate(prepared, devices(on, here))["t_inf"].min()))
        seconds = time.process_time() - start
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{points:12,d} {seconds / points * 1e6:10.3f} {points / seconds:12,.0f} {memory:11.0f} {best:14.6g}",
            flush=True,
        )
        points *= 10


if __name__ == "__main__":
    main(*sys.argv[1:])
