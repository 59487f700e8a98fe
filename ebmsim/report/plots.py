"""Pictures. matplotlib is imported when one is drawn."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError

if TYPE_CHECKING:
    from ebmsim.calibration.validation import Validation

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
    """Predicted against measured seconds of every row, one colour per kind, with the ±25 % band."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    microseconds = {"measured": found.prepared.measured * 1e6, "predicted": found.predicted * 1e6}
    kinds = [m.kind for m in found.prepared.measurements]
    figure, axes = plt.subplots(figsize=(6.4, 6.0))
    colours = plt.get_cmap("tab20")
    for number, (kind, _) in enumerate(Counter(kinds).most_common()):
        mine = [i for i, other in enumerate(kinds) if other == kind]
        x, y = microseconds["measured"][mine], microseconds["predicted"][mine]
        axes.scatter(x, y, s=7, alpha=0.55, linewidths=0, color=colours(number % 20), label=f"{kind} ({len(mine)})")
    low = min(v.min() for v in microseconds.values()) / 1.5
    high = max(v.max() for v in microseconds.values()) * 1.5
    axes.plot([low, high], [low, high], color="black", linewidth=0.8)
    axes.fill_between([low, high], [0.75 * low, 0.75 * high], [1.25 * low, 1.25 * high], color="0.85", zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="measured, µs", ylabel="predicted, µs")
    e = found.errors
    axes.set_title(
        f"{found.hardware.name}: {e.rows} kernels, median error {100 * e.median_ape:.1f} %, band ±25 %", fontsize=10
    )
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=7, loc="lower right", markerscale=2, ncols=2, framealpha=0.9)
    save(figure, path)
    plt.close(figure)
