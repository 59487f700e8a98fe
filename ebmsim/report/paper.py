"""The comparison with the paper as tables."""

from __future__ import annotations

from ebmsim.paper.rows import AGREES, DIFFERS, IN_RANGE, NOT_GIVEN, Row, Section
from ebmsim.report.table import console, plain_table

_COLOURS = {AGREES: "green", IN_RANGE: "yellow", DIFFERS: "red", NOT_GIVEN: "dim"}


def print_section(section: Section) -> None:
    """Print one table or figure: the paper's figure, ours, its range, the verdict; then the reasons of differences."""
    out = console()
    table = plain_table("", "where", "paper", "ours", "range", "unit", "ours to paper", "verdict", title=section.title)
    for index in (0, 1, 2, 5):
        table.columns[index].justify = "left"
    table.columns[0].no_wrap = False
    reasons: list[tuple[str, str]] = []
    for row in section.rows:
        data = row.to_dict()
        mark = ""
        if data["reason"]:
            reasons.append((row.name, data["reason"]))
            mark = f" [{len(reasons)}]"
        colour = _COLOURS[row.verdict]
        verdict = f"[{colour}]{row.verdict}{mark.replace('[', chr(92) + '[')}[/]"
        where = "" if row.published is None and row.holds is None else row.place
        values = [_value(row, row.ours), _range(row), row.unit, _difference(row), verdict]
        table.add_row(row.name, where, row.statement or "–", *values)
    out.print(table)
    out.print(f"[dim]{section.note}", highlight=False)
    out.print(f"[dim]Tolerance: {section.tolerance}.", highlight=False)
    for number, (name, text) in enumerate(reasons, 1):
        out.print(f"\\[{number}] {name}: {text or '[red]no reason recorded[/]'}", highlight=False)
    out.print()


def print_summary(sections: list[Section]) -> None:
    """Print how many rows have which verdict."""
    rows = [row for section in sections for row in section.rows]
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in _COLOURS}
    console().print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), highlight=False)


def _value(row: Row, value: float) -> str:
    if row.holds is not None and row.unit.startswith("declared"):
        return "the same" if value else "another"
    return f"{value:.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.3g}"


def _difference(row: Row) -> str:
    """The ratio to a published number, or the distance from it where points are counted."""
    if row.published is None:
        return "–"
    nearest = min(max(row.ours, row.published[0]), row.published[1])
    if row.tolerance.points:
        return f"{row.ours - nearest:+.1f}" if row.ours != nearest else "within"
    return f"{row.ours / nearest:.2f}"


def _range(row: Row) -> str:
    if row.low == row.high:
        return "–"
    return f"{_value(row, row.low)} to {_value(row, row.high)}"
