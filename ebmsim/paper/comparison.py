"""Every published result beside ours, section by section."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.estimation import package_version
from ebmsim.paper.figures import fig3, fig4, fig7
from ebmsim.paper.heterogeneity import fig5, fig6, streams
from ebmsim.paper.rows import DIFFERS, Section
from ebmsim.paper.tables import table1, table2, table3, table4

SECTIONS: Mapping[str, Callable[[], Section]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "fig3": fig3,
    "fig4": fig4,
    "fig5": fig5,
    "fig6": fig6,
    "fig7": fig7,
    "streams": streams,
    "table4": table4,
}


def chosen(names: Iterable[str]) -> list[str]:
    """Names of sections, all when none is given. Raises SpecError with every unknown one."""
    given = list(dict.fromkeys(names))
    problems = [
        Problem(f"expected a table or figure, found '{name}'", hint=suggest(name, SECTIONS))
        for name in given
        if name not in SECTIONS
    ]
    if problems:
        raise SpecError(problems)
    return given or list(SECTIONS)


def compared(names: Iterable[str]) -> Iterator[Section]:
    """Sections computed one after another."""
    for name in names:
        yield SECTIONS[name]()


def unexplained(sections: Iterable[Section]) -> list[str]:
    """Rows that differ from the paper and have no recorded reason."""
    return [
        f"{section.name}: {row.name}"
        for section in sections
        for row in section.rows
        if row.verdict == DIFFERS and not row.reason
    ]


def to_dict(sections: Iterable[Section]) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {"schema": 1, "version": package_version(), "sections": [section.to_dict() for section in sections]}
