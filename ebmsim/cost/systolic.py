"""Cycles of a systolic array."""

from __future__ import annotations

from typing import Any

import numpy as np


def fold_cycles(folds: Any, streamed: Any, rows: int, columns: int, double_buffered: bool) -> Any:
    """Cycles of `folds` stationary tiles on one rows × columns array, `streamed` vectors passing through each.

    Loading a tile takes `rows` cycles; a vector enters per cycle and the last result leaves rows + columns - 2 cycles
    after the last vector entered. Double-buffered, the next tile loads while vectors stream, so a fold takes
    max(streamed, rows), the last one only streamed; load, skew and drain are paid once. Otherwise every fold pays them:
    folds (2 rows + columns + streamed - 2), SCALE-Sim's count without its missing last cycle.
    """
    if double_buffered:
        before = (folds - 1) * np.maximum(streamed, rows)
        return np.where(folds > 0, 2 * rows + columns + before + streamed - 2, 0.0)
    return folds * (2 * rows + columns + streamed - 2)
