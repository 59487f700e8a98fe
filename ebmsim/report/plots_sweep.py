"""Pictures of many designs. Every function takes and returns Axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_front(axes: Axes, x: Any, y: Any, front: Any, xlabel: str = "", ylabel: str = "") -> Axes:
    """Two figures of every design as points, logarithmic, and the designs of a Pareto front.

    front: their indices, as `sweep.pareto.front` gives them. A line joins them where these two figures alone make the
    front, less of x being better: level up to the next design, as none is known in between. A front of more figures
    has no line.
    """
    x, y, chosen = np.asarray(x), np.asarray(y), np.asarray(front)
    axes.plot(x, y, ".", markersize=3, color="0.6", markeredgewidth=0, rasterized=True, label=f"{len(x):,} designs")
    along = chosen[np.lexsort((y[chosen], x[chosen]))]
    change = np.diff(y[along])
    line = "-" if (change <= 0).all() or (change >= 0).all() else "none"
    style: dict[str, Any] = {
        "marker": "o",
        "linestyle": line,
        "drawstyle": "steps-post",
        "markersize": 4,
        "linewidth": 1,
    }
    axes.plot(x[along], y[along], color="C3", label=f"Pareto front, {len(along):,}", **style)
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="upper right")
    return axes
