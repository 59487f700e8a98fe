"""Points a second on grids of devices, on one core, and how far they are from one-point estimates.

Run as `OMP_NUM_THREADS=1 python benchmarks/grid.py [WORKLOAD …]`; without any, all workloads of Table II. Four axes:
100,000 devices by units, clock, DRAM bandwidth and L2 capacity; six: 1,000,000, with L2 bandwidth and power limit too.
Rates are of CPU time: another process on the core does not count.
"""

from __future__ import annotations

import sys

from designs import FOUR, SIX, TABLE_II, difference, grid, rate, ready


def main(*names: str) -> None:
    """Print a line for every workload."""
    print(f"{'workload':10s} {'four axes, points/s':>20s} {'six axes, points/s':>20s} {'difference':>12s}")
    for name in names or TABLE_II:
        on, cells = ready(name), []
        worst = 0.0
        for axes, repeats in ((FOUR, 5), (SIX, 1)):
            figures = grid(on, axes)
            points, found = rate(on, figures, repeats)
            worst = max(worst, difference(on, figures, found))
            cells.append(f"{points:20,.0f}")
        print(f"{name:10s} {' '.join(cells)} {worst:12.1e}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
