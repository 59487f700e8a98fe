"""Points a second over Latin hypercubes, in which all figures of a device vary together along one axis, on one core.

Run as `OMP_NUM_THREADS=1 python benchmarks/hypercube.py [WORKLOAD …]`; without any, ebm_cvr. Rates are of CPU time.
"""

from __future__ import annotations

import sys

from designs import FOUR, SIX, difference, hypercube, rate, ready


def main(*names: str) -> None:
    """Print a line for every workload, number of figures and number of points."""
    print(f"{'workload':10s} {'figures':>8s} {'points':>10s} {'points/s':>12s} {'difference':>12s}")
    for name in names or ("ebm_cvr",):
        on = ready(name)
        for axes in (FOUR, SIX):
            for points in (100_000, 1_000_000):
                figures = hypercube(on, points, axes)
                found = rate(on, figures, 3 if points == 100_000 else 1)
                worst = difference(on, figures, found[1])
                print(f"{name:10s} {len(axes):8d} {points:10,d} {found[0]:12,.0f} {worst:12.1e}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
