"""Errors of the package: located problems, collected and reported all at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_CUTOFF = 0.6
_CLEAR_LEAD = 0.1
_LIST_ALL_UP_TO = 8
# Comparing is quadratic in the length, and nobody mistypes a name this long.
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in the input, and where.

    message: lower case, no full stop. file: as the user named it, "" when there is none.
    line, column: counted from 1, 0 when unknown. path: such as "components.main.nodes[3].kernel".
    hint: advice printed on a second line. Raises nothing.
    """

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    hint: str = ""

    def __str__(self) -> str:
        position = [self.file] if self.file else []
        if self.line:
            position.append(str(self.line))
            if self.column:
                position.append(str(self.column))
        parts = [part for part in (":".join(position), self.path, self.message) if part]
        text = ": ".join(parts)
        return f"{text}\n    {self.hint}" if self.hint else text


class EbmsimError(Exception):
    """Root of all errors that the package raises on purpose."""


class SpecError(EbmsimError):
    """Input that cannot be accepted, with every problem found in it.

    `problems` is sorted by file, line and column; str() prints one entry per problem and, when there
    are several, a last line with their number.
    """

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
        # The arguments of an exception are what pickling rebuilds it from.
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if len(lines) > 1:
            lines.append(f"{len(lines)} errors")
        return "\n".join(lines)


def _ranked(name: str, known: Iterable[str]) -> list[tuple[float, str]]:
    """The known names similar to `name` with their similarity (0 to 1), best first."""
    from difflib import SequenceMatcher

    matcher: SequenceMatcher[str] = SequenceMatcher()
    matcher.set_seq2(name[:_LONGEST_NAME].lower())
    ranked: list[tuple[float, str]] = []
    for candidate in dict.fromkeys(known):
        matcher.set_seq1(candidate[:_LONGEST_NAME].lower())
        if matcher.real_quick_ratio() < _CUTOFF or matcher.quick_ratio() < _CUTOFF:
            continue
        ratio = matcher.ratio()
        if ratio >= _CUTOFF:
            ranked.append((ratio, candidate))
    ranked.sort(key=lambda item: (-item[0], item[1]))
    return ranked


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """At most `count` known names similar to `name`, best first, upper and lower case alike.

    Raises nothing; the list is empty when no name is similar.
    """
    return [candidate for _, candidate in _ranked(name, known)[:count]]


def suggest(name: str, known: Iterable[str], what: str = "") -> str:
    """A hint for the mistyped `name`, "" when there is nothing useful to say.

    "did you mean 'kernel'?" when one known name is clearly the most similar, "nearest: a, b" when
    several are, "one of: a, b, c" when none is and there are at most 8. `what`, a singular noun such
    as "operator", is put before the names. Raises nothing.
    """
    names = list(dict.fromkeys(known))
    ranked = _ranked(name, names)[:3]
    if ranked:
        best, first = ranked[0]
        second = ranked[1][0] if len(ranked) > 1 else 0.0
        if best - second >= _CLEAR_LEAD or second < best == 1.0:
            return f"did you mean the {what} '{first}'?" if what else f"did you mean '{first}'?"
        listed = ", ".join(candidate for _, candidate in ranked)
        return f"nearest {what}: {listed}" if what else f"nearest: {listed}"
    if 0 < len(names) <= _LIST_ALL_UP_TO:
        listed = ", ".join(names)
        return f"{what} is one of: {listed}" if what else f"one of: {listed}"
    return ""
