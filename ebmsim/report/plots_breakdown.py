"""What a sampling step and an inference are made of: stacked bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.report.colours import CATEGORIES, INFERENCE, PHASES, WAITING, of_bound, on
from ebmsim.report.plots import settings_of, write
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.estimation import Estimate

BY = ("phase", "category", "bound")
# Shares are written where a part has at least this much of the longest bar.
_ROOM = 0.075
# Parts below this share of every bar have no place in the legend.
_SEEN = 5e-4
_KEYS = dict(zip(PHASES, ("t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept"), strict=True))
WAITS = "device waits"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def parts(e: Estimate, by: str) -> dict[str, float]:
    """Seconds of T_samp by phase, by category of kernels on the device, or by what binds. Raises SpecError.

    Categories are those of the device's busy time; what is left of the step it waits.
    """
    if by not in BY:
        raise SpecError([Problem(f"expected one of {', '.join(BY)}, found {by!r}", hint=suggest(by, BY))])
    step = e.timing.seconds
    if by == "phase":
        return {name: e.seconds[key] or 0.0 for name, key in _KEYS.items()}
    if by == "bound":
        return {name: share * step for name, share in e.bounds.items()}
    busy = float(e.timing.device.sum())
    return {**{name: share * busy for name, share in e.categories.items()}, WAITS: max(0.0, step - busy)}


def parts_of_inference(e: Estimate) -> dict[str, float]:
    """Seconds of T_inf: what runs once, the first step, and all others."""
    once, first, whole = (e.seconds[key] or 0.0 for key in ("t_once", "t_samp_first", "t_inf"))
    return dict(zip(INFERENCE, (once, first, whole - once - first), strict=True))


def plot_breakdown(axes: Axes, estimates: Sequence[Estimate], by: str = "phase", names: Sequence[str] = ()) -> Axes:
    """T_samp of estimates as bars of their parts by phase, category or bound, with the shares where there is room.

    names: of the bars; the devices if not given. Raises SpecError for another `by`.
    """
    found = [parts(e, by) for e in estimates]
    colours = {**PHASES, **CATEGORIES, WAITS: WAITING}
    if by == "bound":
        levels = {name: [level.name for level in e.hardware.memory] for e in reversed(estimates) for name in e.bounds}
        colours = {name: of_bound(name, levels[name]) for name in sorted(levels, key=_rank)}
    _bars(axes, found, colours, names or _devices(estimates))
    axes.set_title(f"T_samp by {by}", loc="left")
    return axes


def plot_inference(axes: Axes, estimates: Sequence[Estimate], names: Sequence[str] = ()) -> Axes:
    """T_inf of estimates as bars: what runs once, the first step, and the further ones."""
    _bars(axes, [parts_of_inference(e) for e in estimates], INFERENCE, names or _devices(estimates))
    axes.set_title("T_inf", loc="left")
    return axes


def write_breakdown(estimates: Sequence[Estimate], path: Path) -> None:
    """Draw all four pictures for every workload, its estimates beside one another. Raises SpecError."""
    blocks = [list(group) for _, group in groupby(estimates, key=lambda e: (e.workload.name, e.workload.preset))]
    first = estimates[0]

    def draw(grid: Any) -> None:
        for block, (upper, lower) in zip(blocks, zip(grid[::2], grid[1::2], strict=True), strict=True):
            for axes, by in zip((*upper, lower[0]), BY, strict=True):
                plot_breakdown(axes, block, by)
            plot_inference(lower[1], block)
            for axes in (*upper, *lower) if len(blocks) > 1 else ():
                axes.set_title(f"{block[0].workload.name}: {axes.get_title('left')}", loc="left")

    height = sum(2 * (1.0 + 0.26 * max(len(block), 2)) for block in blocks)
    if len(blocks) > 1:
        title = settings_of(first, counts=False)
    else:
        where = f" on {first.hardware.name}" if len(estimates) == 1 else ""
        title = f"{first.workload.name}{where}: {settings_of(first)}"
    write(path, draw, (11.0, height + 0.3), 2 * len(blocks), (1, 1), title)


def _devices(estimates: Sequence[Estimate]) -> list[str]:
    return [e.hardware.name for e in estimates]


def _rank(bound: str) -> tuple[int, str]:
    """Arithmetic, memory, and what is neither."""
    return (0 if bound == "compute" else 1 if bound.startswith("memory:") else 2, bound)


def _bars(axes: Axes, found: Sequence[Mapping[str, float]], colours: Mapping[str, str], names: Sequence[str]) -> None:
    """Horizontal bars, the first on top; the total stands at the end of each."""
    totals = [sum(of.values()) for of in found]
    longest = max(totals)
    scale, unit = next(((s, u) for s, u in _UNITS if longest >= s), _UNITS[-1])
    places = list(range(len(found)))
    left = [0.0] * len(found)
    for name, colour in colours.items():
        values = [of.get(name, 0.0) / scale for of in found]
        if all(value <= _SEEN * total / scale for value, total in zip(values, totals, strict=True)):
            continue
        bars = axes.barh(places, values, 0.72, left=left, color=colour, edgecolor="white", linewidth=0.5, label=name)
        shares = [
            f"{100 * value * scale / total:.0f} %" if value * scale > _ROOM * longest else ""
            for value, total in zip(values, totals, strict=True)
        ]
        axes.bar_label(bars, shares, label_type="center", color=on(colour), fontsize="small")
        left = [a + b for a, b in zip(left, values, strict=True)]
    for place, total in zip(places, totals, strict=True):
        text = format_quantity(total, "time")
        axes.annotate(text, (total / scale, place), (4, 0), textcoords="offset points", va="center", fontsize="small")
    axes.set_yticks(places, list(names))
    # A single bar is not blown up.
    edge = 0.5 if len(found) > 1 else 0.9
    axes.set(ylim=(len(found) - 1 + edge, -edge), xlim=(0, 1.16 * longest / scale), xlabel=unit)
    axes.grid(True, axis="x")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.06), handlelength=1.0)
