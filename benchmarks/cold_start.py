"""Cold start: `ebmsim estimate ebm_cvr --hw rtx5090` against importing what it stands on, in interleaved pairs.

Run as `python benchmarks/cold_start.py [pairs]`; prints the median ratio of wall times, one process each: with the
cache of parsed and lowered files as earlier runs leave it, and without any.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

ESTIMATE = [sys.executable, "-m", "ebmsim", "estimate", "ebm_cvr", "--hw", "rtx5090"]
IMPORTS = [sys.executable, "-c", "import numpy, pydantic, yaml, click"]


def seconds(command: list[str], cache: str) -> float:
    """Wall time of one process in s."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "EBMSIM_CACHE": cache})
    return time.perf_counter() - start


def main(pairs: int = 15) -> None:
    """Print medians and the median ratio of interleaved pairs."""
    with tempfile.TemporaryDirectory() as folder:
        for label, cache in (("with the cache", folder), ("without", "off")):
            seconds(ESTIMATE, cache)
            times = [(seconds(ESTIMATE, cache), seconds(IMPORTS, cache)) for _ in range(pairs)]
            ratio = statistics.median(a / b for a, b in times)
            estimate, imports = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            print(f"{label}: estimate {estimate:.0f} ms, imports {imports:.0f} ms, median ratio {ratio:.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
