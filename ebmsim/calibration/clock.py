"""How a time is measured: rounds through all of what is measured, and a pulse that shows when others interfere."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

Run = Callable[[], Mapping[str, float]]
# A round is disturbed where its pulse beats slower than the quiet ones by more than this.
_DISTURBED = 1.25
_WARM_UPS = 3
_MOST_RUNS = 500


@dataclass(frozen=True)
class Measured:
    """What was measured of one run: per figure its time in s, and the spread of its rounds.

    seconds: lower quartile over the rounds of the median within a round. spread: quartile distance over the median.
    repeat_error: by how much odd rounds differ from even ones, of `figure`. rounds: those used. disturbed: left out.
    """

    seconds: Mapping[str, float]
    spread: Mapping[str, float]
    repeat_error: float
    rounds: int
    disturbed: int


def measure(
    runs: Sequence[Run],
    figure: str,
    rounds: int = 9,
    seconds: float = 0.05,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Measured]:
    """Measure runs in interleaved rounds, each run for about `seconds` in a round.

    A run gives the seconds of its figures; `figure` is the one whose repeat error counts. Rounds in which a pulse of
    fixed work takes longer than in quiet ones are left out, while at least half are quiet. An interrupt ends the
    rounds; those done count, three at least. Raises KeyboardInterrupt before that.
    """
    _settle_allocator()
    counts = []
    for run in runs:
        for _ in range(_WARM_UPS):
            took = run()[figure]
        counts.append(min(_MOST_RUNS, max(1, math.ceil(seconds / max(took, 1e-7)))))
    pulse = _Pulse()
    kept: list[list[tuple[float, dict[str, float]]]] = [[] for _ in runs]
    try:
        for done in range(rounds):
            for index, (run, count) in enumerate(zip(runs, counts, strict=True)):
                before = pulse.beat()
                found = [run() for _ in range(count)]
                medians = {key: statistics.median(one[key] for one in found) for key in found[0]}
                kept[index].append((max(before, pulse.beat()), medians))
            progress(done + 1, rounds)
    except KeyboardInterrupt:
        if min(map(len, kept)) < 3:
            raise
    quiet = float(np.quantile([beat for rows in kept for beat, _ in rows], 0.25))
    return [_measured(rows, figure, quiet) for rows in kept]


def _settle_allocator() -> None:
    """Free one large block, after which the C library keeps blocks up to its size instead of returning them.

    glibc raises the size from which it asks the system for memory with the largest block freed so far, to 32 MiB at
    most; a step that is run for long has settled likewise.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _measured(rows: Sequence[tuple[float, dict[str, float]]], figure: str, quiet: float) -> Measured:
    """One run's rounds summed up. quiet: seconds of the pulse when nothing interferes."""
    calm = [found for beat, found in rows if beat <= _DISTURBED * quiet]
    used = calm if len(calm) * 2 >= len(rows) else [found for _, found in rows]
    seconds, spread = {}, {}
    for key in used[0]:
        low, middle, high = np.quantile([found[key] for found in used], [0.25, 0.5, 0.75])
        seconds[key] = float(low)
        spread[key] = float((high - low) / middle) if middle else 0.0
    odd, even = ([found[figure] for found in used[start::2]] for start in (1, 0))
    error = abs(float(np.quantile(odd, 0.25) / np.quantile(even, 0.25)) - 1.0) if odd else 0.0
    return Measured(seconds, spread, error, len(used), len(rows) - len(calm))


class _Pulse:
    """A fixed piece of work of some tens of microseconds, the same whatever is measured."""

    def __init__(self) -> None:
        self._matrix: Any = torch.full((96, 96), 0.01)

    def beat(self) -> float:
        """Seconds of the work: the least of three."""
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            for _ in range(5):
                self._matrix @ self._matrix
            best = min(best, time.perf_counter() - start)
        return best
