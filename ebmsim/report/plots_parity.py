"""Pictures of predicted against measured times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ebmsim.report.colours import BLACK, GREY, LINES, PALE
from ebmsim.report.plots import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.calibration.validation import Validation
    from ebmsim.calibration.whole import Steps

_SIZE = (6.4, 6.2)
# Of kinds beyond those that have a colour of their own.
_MARKERS = "os^D"


def parity(found: Validation, path: Path) -> None:
    """Predicted against measured seconds of every row of a table, one colour per kind."""
    e = found.errors
    title = f"{found.hardware.name}: {e.rows} kernels, median error {100 * e.median_ape:.1f} %"
    kinds = [m.kind for m in found.prepared.measurements]
    times = found.prepared.measured, found.predicted
    write(path, partial(plot_parity, kinds=kinds, measured=times[0], predicted=times[1], title=title), _SIZE)


def steps_parity(found: Steps, path: Path) -> None:
    """Predicted against measured times of steps and their phases, one colour per time; bars: 80 % intervals."""
    e = median(found.errors("t_samp"))
    title = f"{found.hardware.name}: steps of {len(found.measured)} workloads, median error of T_samp {100 * e:.1f} %"
    names = [figure.name for figure in found.figures]
    measured, predicted = ([getattr(f, key) for f in found.figures] for key in ("measured", "predicted"))
    intervals = [figure.interval for figure in found.figures]
    draw = partial(plot_parity, kinds=names, measured=measured, predicted=predicted, title=title, intervals=intervals)
    write(path, draw, _SIZE)


def plot_parity(
    axes: Axes,
    kinds: Sequence[str],
    measured: Sequence[float],
    predicted: Sequence[float],
    title: str = "",
    intervals: Sequence[tuple[float, float] | None] = (),
) -> Axes:
    """Predicted against measured microseconds, with the ±25 % band; the largest kinds first in the legend."""
    # What is predicted to take no time has no place on a logarithmic axis.
    shown = [i for i, value in enumerate(predicted) if value > 0]
    x, y = ({i: 1e6 * float(values[i]) for i in shown} for values in (measured, predicted))
    for number, (kind, _) in enumerate(Counter(kinds[i] for i in shown).most_common()):
        mine = [i for i in shown if kinds[i] == kind]
        marker = _MARKERS[number // len(LINES) % len(_MARKERS)]
        style: dict[str, Any] = {
            "color": LINES[number % len(LINES)],
            "marker": marker,
            "label": f"{kind} ({len(mine)})",
        }
        size = 20 if intervals else 7
        axes.scatter([x[i] for i in mine], [y[i] for i in mine], s=size, alpha=0.55, linewidths=0, **style)
    for i, interval in enumerate(intervals):
        if interval is not None and i in x:
            axes.plot([x[i], x[i]], [1e6 * end for end in interval], color=GREY, linewidth=0.7, zorder=1)
    low, high = min(min(x.values()), min(y.values())) / 1.5, max(max(x.values()), max(y.values())) * 1.5
    axes.plot([low, high], [low, high], color=BLACK, linewidth=0.8)
    axes.fill_between([low, high], [0.75 * low, 0.75 * high], [1.25 * low, 1.25 * high], color=PALE, zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="measured, µs", ylabel="predicted, µs", title=f"{title}, band ±25 %".removeprefix(", "))
    axes.grid(True, which="major")
    axes.legend(loc="lower right", markerscale=1 if intervals else 2, ncols=2, frameon=True, framealpha=0.9)
    return axes
