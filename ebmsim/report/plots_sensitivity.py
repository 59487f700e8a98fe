"""What every figure of a device does to a time, as bars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ebmsim.report.colours import BLACK, BLUE, ORANGE
from ebmsim.report.plots import settings_of, write
from ebmsim.report.sensitivity import quantity, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.sweep.sensitivity import Elasticity, Sensitivity

# Bars at most, and the least elasticity of one.
_MOST, _LEAST = 20, 5e-3


def plot_sensitivity(axes: Axes, found: Sensitivity) -> Axes:
    """Elasticities of the figures that matter most, the largest first; a line from the one below to the one above."""
    rows = _drawn(found)
    places = list(range(len(rows)))
    colours = [BLUE if row.elasticity < 0 else ORANGE for row in rows]
    axes.barh(places, [row.elasticity for row in rows], 0.7, color=colours)
    for place, row in zip(places, rows, strict=True):
        sides = [side for side in (row.below, row.above) if side is not None]
        axes.plot(sides, [place] * len(sides), color=BLACK, linewidth=1, marker="|", markersize=5)
    axes.axvline(0.0, color=BLACK, linewidth=0.8)
    axes.set_yticks(places, [f"{row.figure}  ({quantity(row.figure, row.value)})" for row in rows])
    axes.set(ylim=(max(len(rows), 1) - 0.4, -0.6), xlabel=f"% of {found.of} for 1 % more of the figure")
    e = found.estimate
    of = f"{found.of} of {e.workload.name} on {e.hardware.name}: {shown(found.of, found.value)}"
    axes.set_title(f"{of}\n{settings_of(e)}", loc="left")
    axes.grid(True, axis="x")
    return axes


def write_sensitivity(found: Sensitivity, path: Path) -> None:
    """Draw into a picture. Raises SpecError where it cannot be written."""
    height = 1.2 + 0.24 * max(len(_drawn(found)), 2)
    write(path, lambda axes: plot_sensitivity(axes, found), (8.0, height))


def _drawn(found: Sensitivity) -> list[Elasticity]:
    rows = sorted(found.rows, key=lambda row: -abs(row.elasticity))
    return [row for row in rows if abs(row.elasticity) >= _LEAST][:_MOST]
