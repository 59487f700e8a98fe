"""Pictures. matplotlib is imported when one is drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError

if TYPE_CHECKING:
    from ebmsim.calibration.validation import Validation
    from ebmsim.calibration.whole import Steps

FORMATS = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Raise SpecError where a picture cannot be written: another format, or no such folder."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError([Problem(f"expected a picture ({', '.join(FORMATS)}), found '{path.name}'", str(path))])
    if not path.parent.is_dir():
        raise SpecError([Problem(f"no such folder '{path.parent}'", str(path))])


def save(figure: Any, path: Path) -> None:
    """Write a picture whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(unfinished, dpi=150, bbox_inches="tight")
        os.replace(unfinished, path)
    except OSError as error:
        raise SpecError([Problem(f"cannot write the picture: {error.strerror or error}", str(path))]) from None
    finally:
        unfinished.unlink(missing_ok=True)


def parity(found: Validation, path: Path) -> None:
    """Predicted against measured seconds of every row of a table, one colour per kind."""
    e = found.errors
    title = f"{found.hardware.name}: {e.rows} kernels, median error {100 * e.median_ape:.1f} %"
    kinds = [m.kind for m in found.prepared.measurements]
    _drawn(kinds, found.prepared.measured, found.predicted, title, path)


def steps_parity(found: Steps, path: Path) -> None:
    """Predicted against measured times of steps and their phases, one colour per time; bars: 80 % intervals."""
    e = median(found.errors("t_samp"))
    title = f"{found.hardware.name}: steps of {len(found.measured)} workloads, median error of T_samp {100 * e:.1f} %"
    names = [figure.name for figure in found.figures]
    measured, predicted = ([getattr(f, key) for f in found.figures] for key in ("measured", "predicted"))
    _drawn(names, measured, predicted, title, path, [figure.interval for figure in found.figures])


def _drawn(
    kinds: Sequence[str],
    measured: Sequence[float],
    predicted: Sequence[float],
    title: str,
    path: Path,
    intervals: Sequence[tuple[float, float] | None] = (),
) -> None:
    """Predicted against measured microseconds, with the ±25 % band; the largest kinds first in the legend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # What is predicted to take no time has no place on a logarithmic axis.
    shown = [i for i, value in enumerate(predicted) if value > 0]
    x, y = ({i: 1e6 * float(values[i]) for i in shown} for values in (measured, predicted))
    figure, axes = plt.subplots(figsize=(6.4, 6.0))
    colours = plt.get_cmap("tab20")
    for number, (kind, _) in enumerate(Counter(kinds[i] for i in shown).most_common()):
        mine = [i for i in shown if kinds[i] == kind]
        across, up = [x[i] for i in mine], [y[i] for i in mine]
        size = 20 if intervals else 7
        label, colour = f"{kind} ({len(mine)})", colours(number % 20)
        axes.scatter(across, up, s=size, alpha=0.55, linewidths=0, color=colour, label=label)
    for i, interval in enumerate(intervals):
        if interval is not None and i in x:
            axes.plot([x[i], x[i]], [1e6 * end for end in interval], color="0.5", linewidth=0.7, zorder=1)
    low, high = min(min(x.values()), min(y.values())) / 1.5, max(max(x.values()), max(y.values())) * 1.5
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.fill_between([low, high], [0.75 * low, 0.75 * high], [1.25 * low, 1.25 * high], color="0.85", zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="measured, µs", ylabel="predicted, µs")
    axes.set_title(f"{title}, band ±25 %", fontsize=10)
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=7, loc="lower right", markerscale=2 if not intervals else 1, ncols=2, framealpha=0.9)
    save(figure, path)
    plt.close(figure)
