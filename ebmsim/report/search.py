"""What a search found: the best design with its figures and slacks, the front of several, or what was missed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ebmsim.report.sensitivity import quantity
from ebmsim.report.table import console, plain_table, share
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from rich.table import Table

    from ebmsim.design import Axis, Sweep
    from ebmsim.sweep.search import Search
    from ebmsim.sweep.tried import Design

# Dimensions of outputs, by how their names begin or end.
_BEGIN = {"t_": "time", "flops_": "flops", "bytes_": "bytes"}
_END = {"_joules": "energy", "_watts": "power", "_bytes": "bytes"}
_UNITS = {"area_mm2": "mm²", "cost_dollars": "dollars"}
_SHARES = ("categories_", "bounds_")
# Reasons why designs fail that are named.
_REASONS = 5


def print_search(found: Search) -> None:
    """Print the best design and the front; the nearest design where none meets all constraints."""
    out = console()
    sweep = found.sweep
    out.print(_headline(found), highlight=False, soft_wrap=True)
    if len(found.front) > 1:
        out.print(f"{len(found.front)} designs of which none beats another", highlight=False)
        out.print(_front(found))
    design = found.best or found.nearest
    if design is not None:
        if len(found.front) > 1:
            out.print(f"the first of them, with the least {sweep.minimize[0]}", highlight=False)
        out.print(_axes(sweep, design))
        out.print(_figures(sweep, design))
        if design.margins:
            out.print(_margins(design))
        if (ends := _at_ends(sweep, design)) and found.best:
            out.print(
                f"at the end of their range, beyond which a better one may lie: {', '.join(ends)}", highlight=False
            )
    for line in _missed(found):
        out.print(line, highlight=False, soft_wrap=True)


def _headline(found: Search) -> str:
    sweep = found.sweep
    least = ", ".join(sweep.minimize)
    able = sum(design.meets_all for design in found.designs)
    tried = f"{found.trials} trials (seed {found.seed})" + (", stopped early" if found.stopped else "")
    counts = f"{able} of {len(found.designs)} designs meet all constraints"
    return f"[bold]{sweep.name}[/]: the least {least} of {tried}; {counts}"


def failure(found: Search) -> str:
    """Why a search found nothing, in a line: what fails most."""
    if not found.designs:
        return f"{found.sweep.name}: no design was tried"
    reason, count = next(iter(found.missed.items()))
    most = f"what fails most is '{reason}', in {count} of {len(found.designs)}"
    return f"{found.sweep.name}: no design meets all constraints; {most}"


def _missed(found: Search) -> Iterator[str]:
    """What designs fail, where none is good."""
    if found.best:
        return
    if found.nearest:
        yield "[bold]This design misses constraints[/]: it is the nearest one that was tried."
    for reason, count in list(found.missed.items())[:_REASONS]:
        yield f"{count:>6} of {len(found.designs)} fail  {reason}"


def _axes(sweep: Sweep, design: Design) -> Table:
    table = plain_table("axis", "value", "of")
    table.columns[2].justify = "left"
    for axis in sweep.axes:
        table.add_row(axis.name, _axis(axis, design.axes[axis.name]), _space(axis))
    return table


def _axis(axis: Axis, value: Any) -> str:
    """A value of an axis as files write it."""
    if isinstance(value, (bool, str)):
        return str(value).lower() if isinstance(value, bool) else value
    return quantity(axis.figure, value) if axis.figure else _plain(value)


def _space(axis: Axis) -> str:
    if axis.low is not None and axis.high is not None:
        return f"{_axis(axis, axis.low)} to {_axis(axis, axis.high)}"
    return ", ".join(_axis(axis, value) for value in axis.values)


def _figures(sweep: Sweep, design: Design) -> Table:
    table = plain_table("figure", "value")
    paths = {derived.name: derived.figure for derived in sweep.derived}
    for name, value in design.found.items():
        least = "[bold]" if name in sweep.minimize else ""
        table.add_row(f"{least}{name}", f"{least}{figure_text(name, value, paths.get(name, ''))}")
    return table


def figure_text(name: str, value: Any, path: str = "") -> str:
    """A figure by its name; path: that of the hardware figure that it sets, or ""."""
    if isinstance(value, (bool, str)):
        return value if isinstance(value, str) else "yes" if value else "no"
    if not math.isfinite(value):
        return "–"
    if path:
        return quantity(path, value)
    begin = next((dimension for start, dimension in _BEGIN.items() if name.startswith(start)), "")
    dimension = begin or next((found for end, found in _END.items() if name.endswith(end)), "")
    if dimension:
        return format_quantity(value, dimension)
    if name.startswith(_SHARES):
        return share(value)
    return f"{_plain(value)} {_UNITS[name]}" if name in _UNITS else _plain(value)


def _plain(value: float) -> str:
    """A number without a unit: whole ones in full, others with four digits."""
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"


def _margins(design: Design) -> Table:
    table = plain_table("constraint", "met", "to be less", "than", "slack")
    for margin in design.margins:
        sides = ["", "", ""]
        if margin.less is not None and margin.more is not None and margin.slack is not None:
            sides = [_plain_or_dash(margin.less), _plain_or_dash(margin.more), share(margin.slack)]
        table.add_row(margin.text, "yes" if margin.met else "[bold]no[/]", *sides)
    return table


def _plain_or_dash(value: float) -> str:
    return _plain(value) if math.isfinite(value) else "–"


def _front(found: Search) -> Table:
    sweep = found.sweep
    paths = {derived.name: derived.figure for derived in sweep.derived}
    axes = [axis for axis in sweep.axes if axis.name not in sweep.minimize]
    table = plain_table(*sweep.minimize, *[axis.name for axis in axes])
    by_name = {axis.name: axis for axis in sweep.axes}
    for design in found.front:
        figures = [
            _axis(by_name[name], design.axes[name])
            if name in by_name
            else figure_text(name, design.found[name], paths.get(name, ""))
            for name in sweep.minimize
        ]
        table.add_row(*figures, *[_axis(axis, design.axes[axis.name]) for axis in axes])
    return table


def _at_ends(sweep: Sweep, design: Design) -> list[str]:
    """Axes of numbers whose value is the first or the last one."""
    names = []
    for axis in sweep.axes:
        if not axis.numeric:
            continue
        ends = (axis.low, axis.high) if axis.low is not None else (min(axis.values), max(axis.values))
        if design.axes[axis.name] in ends and ends[0] != ends[1]:
            names.append(axis.name)
    return names
