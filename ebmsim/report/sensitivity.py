"""Elasticities as a table, and what to improve next in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ebmsim.report.table import console, plain_table
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from ebmsim.sweep.sensitivity import Change, Elasticity, Sensitivity

# Dimensions of the figures of a device, by how their paths begin or end; all others are plain numbers.
_BEGIN = {"matrix.peak.": "flop_rate", "vector.peak.": "flop_rate", "power.energy.": "energy_per_flop"}
_END = {
    "clock": "frequency",
    "special": "op_rate",
    "random": "op_rate",
    "capacity": "bytes",
    "bandwidth": "bandwidth",
    "energy": "energy_per_byte",
    "latency": "time",
    "synchronise": "time",
    "eager": "time",
    "graph": "time",
    "persistent": "time",
    "replay": "time",
    "limit": "power",
    "static": "power",
}
_ANSWERS = {"joules": "energy", "watts": "power"}
# The figures named as those to improve, and the least elasticity of one.
_NAMED = 3
_WORTH = 0.01
# The least change of T that has a row of its own.
_SHOWN = 1e-4


def quantity(figure: str, value: float) -> str:
    """A figure of a device by its path, with its unit."""
    begin = next((dimension for start, dimension in _BEGIN.items() if figure.startswith(start)), "")
    dimension = begin or next((d for end, d in _END.items() if figure.endswith(end)), "number")
    return f"{value:.0f}" if dimension == "number" and value == round(value) else format_quantity(value, dimension)


def shown(of: str, value: float) -> str:
    """A time, an energy or the mean power of an estimate, with its unit."""
    return format_quantity(value, _ANSWERS.get(of.rpartition("_")[2], "time"))


def print_sensitivity(found: Sensitivity) -> None:
    """Print what each figure of a device does to T, what helps most first."""
    e, p = found.estimate, found.estimate.policy
    out = console()
    value = shown(found.of, found.value)
    out.print(f"[bold]{found.of}[/] of {e.workload.name} on {e.hardware.name}: [bold]{value}[/]", highlight=False)
    out.print(f"{p.execution}, {p.fidelity}, {p.dtype} ({p.math}), {p.software}", highlight=False)
    table = plain_table("figure", "value", "elasticity", "below, above", "× 1.1", "/ 1.1")
    for row in found.rows:
        if _largest(row) >= _SHOWN:
            changes = [_change(row, change) for change in (row.larger, row.smaller)]
            table.add_row(row.figure, quantity(row.figure, row.value), f"{row.elasticity:+.3f}", _sides(row), *changes)
    out.print(table)
    out.print(_words(found), highlight=False, soft_wrap=True)


def _largest(row: Elasticity) -> float:
    """The largest relative change of T that was found."""
    return max((abs(change.change) for change in (row.larger, row.smaller) if change), default=0.0)


def _sides(row: Elasticity) -> str:
    """The one-sided elasticities where they differ."""
    sides = ["–" if side is None else f"{side:+.3f}" for side in (row.below, row.above)]
    return "" if sides[0] == sides[1] else ", ".join(sides)


def _change(row: Elasticity, change: Change | None) -> str:
    """What becomes of T, and the value where it is a whole number further away than 10 %."""
    if change is None:
        return "–"
    ratio = max(change.value / row.value, row.value / change.value)
    shown = f" ({quantity(row.figure, change.value)})" if ratio > 1.101 else ""
    return f"{100 * change.change:+.2f} %{shown}"


def _words(found: Sensitivity) -> str:
    """What to improve next, what all rates do together, and what does nothing."""
    helping = [row for row in found.rows if row.gain > _WORTH][:_NAMED]
    lines = [f"improve next  {'; '.join(map(_advice, helping)) or 'no figure of the device alone'}"]
    lines.append(f"all rates     1 % more of each changes {found.of} by {found.rate_sum:+.2f} %")
    idle = [row.figure for row in found.rows if row.does_nothing]
    hardly = [row.figure for row in found.rows if not row.does_nothing and _largest(row) < _SHOWN]
    lines += [
        f"{label}  {_short(paths)}" for label, paths in (("below 0.01 %", hardly), ("does nothing", idle)) if paths
    ]
    return "\n".join(lines)


def _advice(row: Elasticity) -> str:
    best = row.best
    word = "more" if best.value > row.value else "less"
    amount = 100 * (max(best.value / row.value, row.value / best.value) - 1)
    how = f"{amount:.0f} % {word} {row.figure}" if word == "more" else f"{row.figure} / {1 + amount / 100:.3g}"
    return f"{how} saves {-100 * best.change:.1f} %"


def _short(paths: Sequence[str]) -> str:
    """Paths, those of one table in braces."""
    tables: dict[str, list[str]] = {}
    for path in paths:
        table, _, name = path.rpartition(".")
        tables.setdefault(table, []).append(name)
    words = [
        f"{table}.{{{','.join(found)}}}" if len(found) > 1 else f"{table}.{found[0]}" for table, found in tables.items()
    ]
    return ", ".join(word.removeprefix(".") for word in words)
