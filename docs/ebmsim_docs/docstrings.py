"""Docstrings of ebmsim as reStructuredText: plain text, `names` in ticks, and formulas set in by four spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SPECIAL = re.compile(r"(\*\w+\*)|([\\*|_<>])")


def as_rst(lines: list[str]) -> list[str]:
    """Plain text with everything literal that reStructuredText would read as markup; blocks set in become formulas."""
    found: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not inside:
            found += ["", "::", ""]
        elif inside and line.strip() and not indented:
            found.append("")
            inside = False
        inside = inside or indented
        found.append(line if inside else "".join(_escaped(line)))
    return found


def _escaped(line: str) -> Iterator[str]:
    for index, part in enumerate(line.split("`")):
        if index % 2:
            yield f"\\ ``{part}``\\ " if part else ""
        else:
            yield _SPECIAL.sub(lambda found: found[1] or f"\\{found[2]}", part)
