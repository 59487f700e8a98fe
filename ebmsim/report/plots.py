"""Pictures: how all of them look, and how one is written. matplotlib is imported when one is drawn.

Functions that draw take and return Axes and leave sizes of letters to the style, so that pictures fit where they stand:
`style()` is that of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError
from ebmsim.output import check_output, write_output
from ebmsim.report.colours import LINES

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate

FORMATS = (".png", ".pdf", ".svg")


def check_picture(path: Path) -> None:
    """Raise SpecError where a picture cannot be written: another format, or what `check_output` says."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError([Problem(f"expected a picture ({', '.join(FORMATS)}), found '{path.name}'", str(path))])
    check_output(path)


def style() -> Any:
    """The style of all pictures, as a context: `with style(): ...`."""
    import matplotlib
    from cycler import cycler

    return matplotlib.rc_context(
        {
            "font.size": 8,
            "axes.titlesize": 9,
            "figure.titlesize": 9,
            "xtick.labelsize": 7.5,
            "ytick.labelsize": 7.5,
            "legend.fontsize": 7.5,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.prop_cycle": cycler(color=LINES),
            "grid.linewidth": 0.3,
            "lines.linewidth": 1.2,
            "lines.markersize": 4,
            "pdf.fonttype": 42,
        }
    )


def write(
    path: Path,
    draw: Callable[[Any], Any],
    size: tuple[float, float],
    rows: int = 1,
    widths: Sequence[float] = (1,),
    title: str = "",
) -> None:
    """Draw a picture of `size` inches and write it. Raises SpecError where it cannot be written.

    draw: is given the Axes, or an array of rows of them where there are several.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    with style():
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, len(widths), width_ratios=widths, squeeze=False)
        draw(grid if grid.size > 1 else grid[0, 0])
        if title:
            figure.suptitle(title)
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a picture whole or not at all. Raises SpecError."""
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix.lstrip(".").lower(), dpi=150, bbox_inches="tight")
    write_output(path, picture.getvalue())


def settings_of(e: Estimate, counts: bool = True) -> str:
    """What an estimate was made with, in one line of a title; counts: with chains and steps."""
    p, w = e.policy, e.workload
    streams = f", {p.streams} streams" if p.streams > 1 else ""
    how = f"{p.execution}, {p.fidelity}, {p.dtype} ({p.math}), chains {p.chain_mode}{streams}"
    return f"C = {w.setting('chains')}, K = {w.setting('steps')}; {how}" if counts else how
