"""The hierarchical roofline of an estimate: kernels and components under the ceilings of a device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.report import roofline
from ebmsim.report.colours import BLACK, CATEGORIES, GREY
from ebmsim.report.plots import settings_of, write
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.estimation import Estimate
    from ebmsim.report.roofline import Point

# Of memory levels, from main memory inwards.
_SHAPES = "os^D"
# Points² of a marker that stands for all of the device's time, and the least of one.
_AREA, _LEAST = 1000.0, 5.0
# A smaller share of the device's time, and bytes so few that a point lies beyond so many times the last ridge.
_SHARE, _BEYOND = 1e-3, 20.0
# Difference of logarithms below which two ceilings have one label.
_ALIKE = 0.05
# Of a component's name, in points: width of a letter, height of a line, distance from its markers.
_LETTER, _LINE, _GAP = 5.4, 11.0, 7.0


def plot_roofline(axes: Axes, e: Estimate) -> Axes:
    """FLOP/s against FLOP/B of a steady step, logarithmic: every kernel and component at each memory level.

    A ceiling for every engine and dtype in use, at the sustained clock, and a slope for every level. A kernel is one
    line over its levels, its full marker at the level that takes longest: area by time, colour by category, shape by
    level, dark edge where that level binds it. Equal kernels are one point. Times are those on the device, of each
    kernel alone. Kernels without FLOPs have no place here; the picture says what it leaves out.
    """
    points, rates, tops = roofline.kernels(e), roofline.slopes(e), roofline.ceilings(e)
    shown = [point for point in points if point.rate > 0]
    whole = [point for point in roofline.components(e) if point.rate > 0]
    busy = sum(point.seconds for point in points) or 1.0
    shapes = dict(zip(reversed(rates), _SHAPES, strict=False))
    across, up = _limits(shown, whole, tops, rates, busy)
    axes.set(xscale="log", yscale="log", xlim=across, ylim=up)
    _roofs(axes, tops, rates)
    _kernels(axes, shown, list(rates), shapes, busy)
    for point in whole:
        _component(axes, point, list(rates), shapes)
    _name(axes, whole, rates)
    axes.set(xlabel="FLOPs/B, of the bytes that cross a level", ylabel="FLOP/s on the device")
    axes.set_title(f"{e.workload.name} on {e.hardware.name}\n{settings_of(e)}", loc="left")
    axes.grid(True, which="major")
    axes.legend(handles=_legend(shown, whole, shapes), loc="upper left", bbox_to_anchor=(1.01, 1.0), labelspacing=0.7)
    words = "\n".join(_notes(axes, points, tops, busy, e.timing.seconds))
    axes.text(1.02, 0.0, words, transform=axes.transAxes, fontsize="small", va="bottom")
    return axes


def write_roofline(e: Estimate, path: Path) -> None:
    """Draw into a picture. Raises SpecError where it cannot be written."""
    write(path, lambda axes: plot_roofline(axes, e), (9.0, 5.4))


def _limits(
    shown: Sequence[Point], whole: Sequence[Point], tops: dict[str, float], rates: dict[str, float], busy: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Ends of both axes: the ridges, the components, and the kernels that take part of the time worth a look.

    Few bytes at a level that is not the slowest do not widen the picture.
    """
    large = [p for p in shown if p.seconds > _SHARE * busy] or shown
    ridges = [top / rate for top in tops.values() for rate in rates.values()]
    x = [i for p in large for i in p.intensities if i < _BEYOND * max(ridges, default=1.0)]
    x += [p.intensities[list(rates).index(p.slowest)] for p in large]
    x = [i for i in (*x, *ridges, *(i for p in whole for i in p.intensities)) if math.isfinite(i)]
    y = [p.rate for p in (*large, *whole)] + list(tops.values())
    return (min(x, default=0.1) / 3, max(x, default=10.0) * 3), (min(y, default=1.0) / 3, max(y, default=1.0) * 3)


def _roofs(axes: Axes, tops: dict[str, float], rates: dict[str, float]) -> None:
    right, high = axes.get_xlim()[1], axes.get_ylim()[1]
    highest = max(tops.values(), default=high)
    alike: dict[float, list[str]] = {}
    for name, top in tops.items():
        near = next((value for value in alike if abs(math.log(value / top)) < _ALIKE), top)
        alike.setdefault(near, []).append(name)
    for top, names in alike.items():
        label = f"{', '.join(names)}  {format_quantity(top, 'flop_rate')}"
        axes.plot([top / max(rates.values()), right], [top, top], color=BLACK, linewidth=1, label=label)
        axes.text(right / 1.05, top * 1.04, label, ha="right", va="bottom", fontsize="small", path_effects=_halo())
    for name, rate in rates.items():
        start = _start(axes, rate)
        label = f"{name}  {format_quantity(rate, 'bandwidth')}"
        axes.plot([start, highest / rate], [start * rate, highest], color=BLACK, linewidth=1, label=label)
        # In decades every slope is one of 45°, which turns with the picture's shape.
        axes.text(
            math.log10(start) + 0.08,
            math.log10(start * rate) + 0.12,
            label,
            transform=axes.transLimits + axes.transAxes,
            rotation=45,
            rotation_mode="anchor",
            transform_rotates_text=True,
            va="bottom",
            fontsize="small",
            path_effects=_halo(),
            zorder=4,
        )


def _start(axes: Axes, rate: float) -> float:
    """FLOPs/B where a slope enters the picture."""
    return float(max(axes.get_xlim()[0], axes.get_ylim()[0] / rate))


def _halo() -> list[Any]:
    """White around letters that stand on lines."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]


def _kernels(axes: Axes, shown: Sequence[Point], levels: list[str], shapes: dict[str, str], busy: float) -> None:
    """A line over the levels of every kernel, and for each category and level its markers, large ones first."""
    for category, colour in CATEGORIES.items():
        mine = sorted((p for p in shown if p.category == category), key=lambda p: -p.seconds)
        for point in mine:
            finite = [x for x in point.intensities if math.isfinite(x)]
            if len(finite) > 1:
                axes.hlines(point.rate, min(finite), max(finite), color=colour, linewidth=0.5, alpha=0.3, zorder=2)
        for number, level in enumerate(levels):
            here = [p for p in mine if math.isfinite(p.intensities[number])]
            if not here:
                continue
            full = [p.slowest == level for p in here]
            sizes = [max(_LEAST, _AREA * p.seconds / busy) if f else 3.0 for p, f in zip(here, full, strict=True)]
            axes.scatter(
                [p.intensities[number] for p in here],
                [p.rate for p in here],
                s=sizes,
                marker=shapes[level],
                facecolors=[(colour, 0.75 if f else 0.35) for f in full],
                edgecolors=[BLACK if p.bound == f"memory:{level}" else "none" for p in here],
                linewidths=0.6,
                zorder=3,
                gid=f"{category} {level}",
            )


def _component(axes: Axes, point: Point, levels: list[str], shapes: dict[str, str]) -> None:
    finite = [(level, x) for level, x in zip(levels, point.intensities, strict=True) if math.isfinite(x)]
    axes.plot([x for _, x in finite], [point.rate] * len(finite), color=BLACK, linewidth=0.9, zorder=5)
    for level, x in finite:
        face = BLACK if level == point.slowest else "white"
        style: dict[str, Any] = {"marker": shapes[level], "facecolors": face, "edgecolors": BLACK, "linewidths": 0.9}
        axes.scatter(x, point.rate, s=26, zorder=6, gid=f"component {point.name}", **style)


def _name(axes: Axes, whole: Sequence[Point], rates: dict[str, float]) -> None:
    """Names of components, beside their markers and off those of others and of slopes: the nearest free place."""
    scale = 72.0 / axes.figure.dpi

    def place(x: float, y: float) -> tuple[float, float]:
        at = axes.transData.transform((x, y)) * scale
        return float(at[0]), float(at[1])

    taken = [(*place(i, p.rate), 4.0) for p in whole for i in p.intensities if math.isfinite(i)]
    for rate in rates.values():
        start = _start(axes, rate)
        taken += [(*place(start * 10**d, start * rate * 10**d), _LINE) for d in (0.2, 0.4, 0.6, 0.8)]
    boxes = [(x - r, y - r, x + r, y + r) for x, y, r in taken]
    edges = [at[0] * scale for at in axes.transAxes.transform([(0, 0), (1, 0)])]
    for point in sorted(whole, key=lambda p: -p.rate):
        finite = [x for x in point.intensities if math.isfinite(x)]
        wide = _LETTER * len(point.name)
        sides = (("right", min(finite), -_GAP), ("left", max(finite), _GAP))
        choices = [(side, lift * _LINE) for lift in (0, 1, -1, 2, -2, 3, -3, 4) for side in sides]
        for (align, x, aside), lift in choices:
            left, middle = place(x, point.rate)
            left += aside - (wide if align == "right" else 0.0)
            box = (left, middle + lift - _LINE / 2, left + wide, middle + lift + _LINE / 2)
            if edges[0] < left < edges[1] - wide and not any(_meet(box, other) for other in boxes):
                break
        boxes.append(box)
        axes.annotate(
            point.name,
            (x, point.rate),
            xytext=(aside, lift),
            textcoords="offset points",
            ha=align,
            va="center",
            weight="bold",
            zorder=7,
            path_effects=_halo(),
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2} if lift else None,
        )


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether two boxes (left, bottom, right, top) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(shown: Sequence[Point], whole: Sequence[Point], shapes: dict[str, str]) -> list[Any]:
    from matplotlib.lines import Line2D

    def marker(label: str, shape: str = "o", colour: str = GREY, size: float = 6.0, **more: Any) -> Any:
        return Line2D([], [], linestyle="none", marker=shape, color=colour, label=label, markersize=size, **more)

    present = {point.category for point in shown}
    found = [marker(name, colour=colour) for name, colour in CATEGORIES.items() if name in present]
    found += [marker(f"by the bytes of {level}", shape) for level, shape in shapes.items()]
    found.append(marker("that level binds", markeredgecolor=BLACK, markeredgewidth=0.9))
    found += [marker(f"{100 * s:.0f} % of the time", size=math.sqrt(_AREA * s), alpha=0.6) for s in (0.01, 0.1)]
    if whole:
        found.append(Line2D([], [], color=BLACK, marker="o", markersize=5, linewidth=0.9, label="component"))
    return found


def _notes(axes: Axes, points: Sequence[Point], tops: dict[str, float], busy: float, step: float) -> Iterator[str]:
    """What the picture does not show, in words."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inside = [low <= p.rate <= high and any(left <= x <= right for x in p.intensities) for p in points]
    beyond = [p for p, seen in zip(points, inside, strict=True) if p.rate and not seen]
    above = [p for p in points if p.rate > (1.0 + 1e-9) * max(tops.values(), default=math.inf)]
    for found, what in (([p for p in points if not p.rate], "without FLOPs"), (beyond, "beyond the axes")):
        if found:
            count = sum(p.launches for p in found)
            share = 100 * sum(p.seconds for p in found) / busy
            yield f"{count} kernel{'s' if count > 1 else ''} {what}:\n{share:.1f} % of the time"
    if above:
        yield "above the ceiling: FLOPs are those\nof the direct convolution"
    yield f"time on the device:\n{100 * busy / step:.0f} % of T_samp"
