"""Cold start: `ebmsim estimate ebm_cvr --hw rtx5090` against importing what it stands on, in interleaved pairs.

Run as `python benchmarks/cold_start.py [pairs]`; prints the median ratio of wall times, one process each.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ESTIMATE = [sys.executable, "-m", "ebmsim", "estimate", "ebm_cvr", "--hw", "rtx5090"]
IMPORTS = [sys.executable, "-c", "import numpy, pydantic, yaml, click"]


def seconds(command: list[str]) -> float:
    """Wall time of one process in s."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(pairs: int = 15) -> None:
    """Print medians and the median ratio of interleaved pairs."""
    seconds(ESTIMATE)
    times = [(seconds(ESTIMATE), seconds(IMPORTS)) for _ in range(pairs)]
    ratio = statistics.median(a / b for a, b in times)
    estimate, imports = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"estimate {1e3 * estimate:.0f} ms, imports {1e3 * imports:.0f} ms, median ratio {ratio:.2f} over {pairs} pairs"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
