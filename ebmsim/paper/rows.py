"""One published result beside ours: values, range, tolerance, verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

AGREES, IN_RANGE, DIFFERS, NOT_GIVEN = "agrees", "in range", "differs", "not in the text"


@dataclass(frozen=True)
class Tolerance:
    """How far ours may be from a published number: within a factor, or within so many of its own units.

    A published range is met by any value in it; the distance from it counts.
    """

    factor: float = 1.0
    points: float = 0.0

    def __str__(self) -> str:
        if self.factor == 1.0 and self.points == 0.0:
            return "the statement holds, or not"
        return f"within {self.points:g} points" if self.points else f"within a factor of {self.factor:g}"

    def met(self, ours: float, published: tuple[float, float]) -> bool:
        """Whether a value is close enough to a published number or range."""
        low, high = published
        if self.points:
            return low - self.points <= ours <= high + self.points
        return low / self.factor <= ours <= high * self.factor


@dataclass(frozen=True)
class Row:
    """A published figure or statement, and ours.

    name: what it is about. place: where the paper prints it. published: smallest and largest value, equal for a number,
    None where the text gives none. ours: at the ledger's settings; low, high: over its admissible ones. holds: of a
    statement. unit: of the values, as words. shown: of a row whose text has no number, what is worth seeing.
    """

    name: str
    place: str
    statement: str
    ours: float
    low: float
    high: float
    unit: str = ""
    published: tuple[float, float] | None = None
    holds: bool | None = None
    tolerance: Tolerance = field(default_factory=Tolerance)
    reason: str = ""

    @property
    def verdict(self) -> str:
        """agrees; in range: the published value lies among those of admissible settings; differs; not in the text."""
        if self.holds is not None:
            return AGREES if self.holds else DIFFERS
        if self.published is None:
            return NOT_GIVEN
        if self.tolerance.met(self.ours, self.published):
            return AGREES
        low, high = self.published
        nearest = min(max(self.ours, low), high)
        nearest = min(max(nearest, self.low), self.high)
        return IN_RANGE if self.tolerance.met(nearest, self.published) else DIFFERS

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON has it."""
        published = None if self.published is None else list(self.published)
        return {
            "name": self.name,
            "place": self.place,
            "statement": self.statement,
            "published": published,
            "ours": self.ours,
            "range": [self.low, self.high],
            "unit": self.unit,
            "ratio": self.ours / published[0] if published and published[0] and published[0] == published[1] else None,
            "verdict": self.verdict,
            "reason": self.reason if self.verdict in (DIFFERS, IN_RANGE) else "",
        }


@dataclass(frozen=True)
class Section:
    """A table, figure or experiment of the paper. note: what is compared, and what is not."""

    name: str
    title: str
    tolerance: Tolerance
    note: str
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """The section as JSON has it."""
        return {
            "name": self.name,
            "title": self.title,
            "tolerance": str(self.tolerance),
            "note": self.note,
            "rows": [row.to_dict() for row in self.rows],
        }
