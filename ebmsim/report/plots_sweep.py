"""Pictures of many designs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmsim.report.colours import GREY, VERMILION
from ebmsim.report.plots import write
from ebmsim.sweep.outputs import is_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Units of outputs, by how their names begin or end.
_UNITS = {"t_": "s", "flops_": "FLOPs", "bytes_": "B", "_joules": "J", "_watts": "W", "_bytes": "B", "_mm2": "mm²"}


def plot_front(axes: Axes, x: Any, y: Any, front: Any, xlabel: str = "", ylabel: str = "") -> Axes:
    """Two figures of every design as points, logarithmic where they are above 0, and the designs of a Pareto front.

    front: their indices, as `sweep.pareto.front` gives them. A line joins them where these two figures alone make the
    front, less of x being better: level up to the next design, as none is known in between. A front of more figures
    has no line.
    """
    x, y, chosen = np.asarray(x), np.asarray(y), np.asarray(front, dtype=np.intp)
    style: dict[str, Any] = {"linestyle": "none", "marker": ".", "markersize": 3, "markeredgewidth": 0}
    if len(chosen) < len(x):
        axes.plot(x, y, color=GREY, rasterized=True, label=f"{len(x):,} designs", **style)
    along = chosen[np.lexsort((y[chosen], x[chosen]))]
    change = np.diff(y[along])
    line = "-" if (change <= 0).all() or (change >= 0).all() else "none"
    style = {"marker": "o", "linestyle": line, "drawstyle": "steps-post", "markersize": 4, "linewidth": 1}
    axes.plot(x[along], y[along], color=VERMILION, label=f"Pareto front, {len(along):,}", **style)
    for axis, values, label in ((axes.xaxis, x, xlabel), (axes.yaxis, y, ylabel)):
        axis.set_label_text(label)
        if len(values) and not (values <= 0).any():
            _logarithmic(axis)
    axes.grid(True, which="major")
    axes.legend(loc="upper right")
    return axes


def _logarithmic(axis: Any) -> None:
    """A logarithmic axis with plain numbers: a front may not span a decade."""
    from matplotlib.ticker import LogFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(LogFormatter())
    axis.set_minor_formatter(LogFormatter())


def write_front(columns: Mapping[str, Any], names: Sequence[str], title: str, path: Path) -> None:
    """Draw the designs of a front, as a sweep keeps them, in the first two of its figures. Raises SpecError."""
    x, y = (columns[name] for name in names[:2])
    draw = partial(plot_front, x=x, y=y, front=range(len(x)), xlabel=_labelled(names[0]), ylabel=_labelled(names[1]))
    write(path, draw, (6.4, 4.8), title=f"{title}: least {', '.join(names)}")


def _labelled(name: str) -> str:
    """The name of an output with its unit; another name as it is."""
    unit = next((unit for part, unit in _UNITS.items() if name.startswith(part) or name.endswith(part)), "")
    return f"{name}, {unit}" if unit and is_output(name) else name
