"""Verdicts: a published number met, met by an admissible setting, or missed; a statement that holds or not."""

from __future__ import annotations

import pytest

from ebmsim.paper.comparison import unexplained
from ebmsim.paper.rows import Row, Section, Tolerance


def row(ours: float, low: float, high: float, published: tuple[float, float] | None, tolerance: Tolerance) -> Row:
    return Row("it", "Table I", "", ours, low, high, "×", published, tolerance=tolerance)


@pytest.mark.parametrize(
    ("ours", "low", "high", "published", "verdict"),
    [
        (100.0, 100.0, 100.0, (91.0, 91.0), "agrees"),  # 100 / 1.1 < 91
        (100.0, 100.0, 100.0, (109.0, 109.0), "agrees"),
        (100.0, 100.0, 100.0, (111.0, 111.0), "differs"),
        (100.0, 100.0, 112.0, (120.0, 120.0), "in range"),  # 112 · 1.1 > 120
        (100.0, 100.0, 108.0, (120.0, 120.0), "differs"),
        (100.0, 50.0, 300.0, (200.0, 200.0), "in range"),
        (60.0, 60.0, 60.0, (50.0, 69.0), "agrees"),
        (46.0, 46.0, 46.0, (50.0, 69.0), "agrees"),  # 50 / 1.1
        (45.0, 45.0, 45.0, (50.0, 69.0), "differs"),
        (45.0, 20.0, 90.0, (50.0, 69.0), "in range"),
        (45.0, 45.0, 45.0, None, "not in the text"),
    ],
)
def test_a_factor(ours: float, low: float, high: float, published: tuple[float, float] | None, verdict: str) -> None:
    assert row(ours, low, high, published, Tolerance(factor=1.1)).verdict == verdict


@pytest.mark.parametrize(
    ("ours", "verdict"), [(40.0, "agrees"), (79.0, "agrees"), (39.9, "differs"), (79.1, "differs")]
)
def test_points(ours: float, verdict: str) -> None:
    assert row(ours, ours, ours, (50.0, 69.0), Tolerance(points=10.0)).verdict == verdict


def test_a_statement_holds_or_needs_a_reason() -> None:
    found = [
        Row("held", "Sec. V", "so it is", 1.0, 1.0, 1.0, holds=True),
        Row("explained", "Sec. V", "so it is", 1.0, 1.0, 1.0, holds=False, reason="because"),
        Row("unexplained", "Sec. V", "so it is", 1.0, 1.0, 1.0, holds=False),
    ]
    section = Section("fig9", "Fig. 9", Tolerance(), "", tuple(found))
    assert [r.verdict for r in found] == ["agrees", "differs", "differs"]
    assert unexplained([section]) == ["fig9: unexplained"]
    assert [r["reason"] for r in section.to_dict()["rows"]] == ["", "because", ""]


def test_tolerances_in_words() -> None:
    assert str(Tolerance(factor=1.5)) == "within a factor of 1.5"
    assert str(Tolerance(points=10.0)) == "within 10 points"
    assert str(Tolerance()) == "the statement holds, or not"
