"""Cycles of systolic arrays: one product on one array, and a product dealt to groups of unequal arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebmsim.errors import Problem, SpecError, suggest

DATAFLOWS = {"ws": "weight-stationary", "os": "output-stationary", "is": "input-stationary"}
CONVENTIONS = ("hardware", "scalesim", "scalesim-paper")
_LARGEST = 10**9


def systolic_cycles(
    m: Any,
    n: Any,
    k: Any,
    *,
    rows: Any,
    cols: Any,
    dataflow: str,
    convention: str = "hardware",
    double_buffered: bool = False,
) -> Any:
    """Cycles of the product (m × k) · (k × n) on one array of R = rows × C = cols multiply-accumulate cells.

        folds  = ⌈S_R / R⌉ ⌈S_C / C⌉
        fold   = R + T + (R + C - 2)        one tile alone: load or drain, stream, skew
        cycles = folds · fold                             "hardware"
               = fold + (folds - 1) · max(T, R)           "hardware", double_buffered
               = folds · fold - 1                         "scalesim", weight- and input-stationary
               = folds · (fold - R) - 1                   "scalesim", output-stationary
               = folds · fold                             "scalesim-paper"

    dataflow: what stays in the cells, as in hardware files or short. S_R and S_C lie along the rows and columns of the
    array, T is streamed:

        weight-stationary, "ws"   S_R, S_C, T = k, n, m    a tile of k × n weights is loaded
        input-stationary,  "is"   S_R, S_C, T = k, m, n    a tile of k × m inputs is loaded
        output-stationary, "os"   S_R, S_C, T = m, n, k    a tile of m × n results is drained

    "hardware" counts every cycle from the first word that enters to the last result that leaves. A tile takes R cycles
    to load, a row a cycle, and as many to drain; operands enter skewed, so that the last cell works R + C - 2 cycles
    after the first. Alone: nothing of a fold begins before the one before has left the array. double_buffered: each
    cell has a second register, and the next tile loads (results drain) while the array works; then a fold follows
    another after T cycles, or after R where the tile takes longer. "scalesim" is what SCALE-Sim 3.0.0 prints (the
    index of the last cycle, one less than their number; no drain of results), "scalesim-paper" the formula of its
    papers (Samajdar et al., arXiv:1811.02883 and ISPASS 2020). Tiles at the edge count whole. Not counted: stalls of
    memory.

    A convolution is its im2col product: m output pixels, n filters, k values of a filter. Sizes are whole numbers, or
    arrays of them that broadcast, and so is the result (arrays of float64, exact to 2^53). Raises SpecError with every
    problem.
    """
    sizes = {"m": m, "n": n, "k": k, "rows": rows, "cols": cols}
    problems = list(_problems(sizes, dataflow, convention, double_buffered))
    if problems:
        raise SpecError(problems)
    m, n, k, rows, cols = (np.asarray(size, dtype=float) for size in sizes.values())
    along_rows, along_columns, streamed = placed(m, n, k, dataflow)
    folds = np.ceil(along_rows / rows) * np.ceil(along_columns / cols)
    first, step = fold_cycles(streamed, rows, cols, double_buffered)
    if convention == "scalesim":
        cycles = folds * (first - rows if _short(dataflow) == "os" else first) - 1
    else:
        cycles = first + (folds - 1) * step
    return cycles if np.ndim(cycles) else int(cycles)


def placed(m: Any, n: Any, k: Any, dataflow: str) -> tuple[Any, Any, Any]:
    """S_R, S_C and T of (m × k) · (k × n): what lies along rows, along columns, and is streamed."""
    return {"ws": (k, n, m), "os": (m, n, k), "is": (k, m, n)}[_short(dataflow)]


def fold_cycles(streamed: Any, rows: Any, columns: Any, double_buffered: bool) -> tuple[Any, Any]:
    """Cycles of a first fold, and of every further one (`systolic_cycles`, "hardware").

    A part of a vector takes a cycle of its own: T is rounded up.
    """
    streamed = np.ceil(streamed)
    first = 2 * rows + columns + streamed - 2
    return first, np.maximum(streamed, rows) if double_buffered else first


def _short(dataflow: str) -> str:
    return dataflow if dataflow in DATAFLOWS else next(short for short, long in DATAFLOWS.items() if long == dataflow)


def _problems(sizes: dict[str, Any], dataflow: Any, convention: Any, double_buffered: Any) -> Iterator[Problem]:
    shapes = {}
    for name, size in sizes.items():
        wrong = _not_whole(size)
        if wrong:
            yield Problem(f"expected a whole number from 1 to 1e9, found {_shown(wrong[0])}", path=name)
        else:
            shapes[name] = np.shape(size)
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        yield Problem(f"expected sizes that broadcast, found shapes {listed}")
    for name, value, known in (
        ("dataflow", dataflow, (*DATAFLOWS.values(), *DATAFLOWS)),
        ("convention", convention, CONVENTIONS),
    ):
        if value not in known:
            yield Problem(f"unknown {name} {_shown(value)}", path=name, hint=suggest(str(value), known))
    if not isinstance(double_buffered, bool):
        yield Problem(f"expected True or False, found {_shown(double_buffered)}", path="double_buffered")
    elif double_buffered and convention in CONVENTIONS[1:]:
        yield Problem(f"the convention '{convention}' knows no double buffering", path="double_buffered")


def _not_whole(size: Any) -> list[Any]:
    """What of a size is no whole number from 1 to 1e9."""
    try:
        values = np.asarray(size)
    except ValueError:  # lists of unequal length
        return [size]
    if values.dtype.kind not in "iuf" or not values.size:
        return [size]
    # nan is none of this.
    return list(values[~((values >= 1) & (values <= _LARGEST) & (values == np.floor(values)))])


def _shown(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


class Lane(NamedTuple):
    """One group of equal arrays and what it makes of a product, which is cut into pieces.

    width: pieces of a tile. folds: folds of a tile. arrays: arrays of the group. first, step: cycles of the first fold
    and of each further one on an array.
    """

    width: Any
    folds: Any
    arrays: Any
    first: Any
    step: Any

    def work(self, pieces: Any) -> Any:
        """Folds of some pieces: folds · ⌈pieces / width⌉."""
        return self.folds * np.ceil(pieces / self.width)

    def rounds(self, pieces: Any) -> Any:
        """Folds on the busiest array: ⌈folds of the pieces / arrays⌉."""
        return np.ceil(self.work(pieces) / self.arrays)

    def cycles(self, rounds: Any) -> Any:
        """first + (rounds - 1) · step; 0 for none."""
        return np.where(rounds > 0, self.first + (rounds - 1) * self.step, 0.0)

    def most(self, cycles: Any) -> Any:
        """The most pieces that are done in some cycles: the two formulas above, solved for the pieces."""
        rounds = np.maximum(np.floor((cycles - self.first) / self.step) + 1, 0)
        return np.floor(rounds * self.arrays / self.folds) * self.width


def dealt_cycles(pieces: Any, lanes: Sequence[Lane]) -> Any:
    """The least cycles in which all lanes together do all pieces, dealt so that the last one ends soonest.

        min over lanes of c(r), r the least rounds of that lane with Σ over all lanes of most(c(r)) ≥ pieces

    c(r) are the cycles of r rounds: the last lane to end has done a whole number of rounds. r by bisection.
    """
    if len(lanes) == 1:
        return lanes[0].cycles(lanes[0].rounds(pieces))
    best: Any = np.inf
    for lane in lanes:
        high = lane.rounds(pieces)
        high, *_ = np.broadcast_arrays(high, *[part for other in lanes for part in other])
        low = np.zeros_like(high)
        while (high - low > 1).any():
            middle = np.floor((low + high) / 2)
            cycles = lane.cycles(middle)
            enough = sum(other.most(cycles) for other in lanes) >= pieces
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        best = np.minimum(best, lane.cycles(high))
    return best


def dealt_pieces(pieces: float, lanes: Sequence[Lane]) -> list[float]:
    """Pieces of every lane for one product: in order, as many as a lane does in the least cycles of all together."""
    if len(lanes) == 1:
        return [pieces]
    cycles = float(dealt_cycles(pieces, lanes))
    found = []
    for lane in lanes:
        found.append(min(pieces, float(lane.most(cycles))))
        pieces -= found[-1]
    return found
