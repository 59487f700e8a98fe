"""The whole comparison with the paper: against its golden copy, explained where it differs, and what it must show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ebmsim.cli.main import main
from ebmsim.paper import comparison
from ebmsim.paper.comparison import SECTIONS, unexplained
from ebmsim.paper.reasons import note, recorded
from ebmsim.paper.rows import AGREES, DIFFERS, IN_RANGE, Row, Section
from ebmsim.paper.tables import LATENCY_RATIOS, MODELS
from ebmsim.spec.library import load_workload, names

_SPEC = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
assert _SPEC is not None and _SPEC.loader is not None
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


# One worker computes the sections once.
pytestmark = pytest.mark.xdist_group("paper")


@pytest.fixture(scope="module")
def sections() -> dict[str, Section]:
    return {name: make() for name, make in SECTIONS.items()}


def rows(section: Section, *parts: str) -> list[Row]:
    return [row for row in section.rows if all(part in row.name for part in parts)]


def test_golden(sections: dict[str, Section]) -> None:
    """Every figure of ours to a thousandth, every verdict. `python tests/paper/golden.py` writes the copy anew."""
    kept = json.loads(golden.GOLDEN.read_text(encoding="utf-8"))
    assert kept.pop("provenance") == golden.PROVENANCE
    found = {f"{s.name}: {r.name}": golden.short(r) for s in sections.values() for r in s.rows}
    assert list(found) == list(kept)
    moved = {}
    for name, (*values, verdict) in found.items():
        *were, was = kept[name]
        if verdict != was or values != pytest.approx(were, rel=1e-3, abs=1e-9):
            moved[name] = (kept[name], found[name])
    assert not moved


def test_every_difference_has_a_reason_and_no_reason_is_stale(sections: dict[str, Section]) -> None:
    assert unexplained(sections.values()) == []
    keys = {(s.name, r.name): r for s in sections.values() for r in s.rows}
    workloads = {("table1", workload) for _, workload, _ in LATENCY_RATIOS}
    for key in recorded() - workloads:
        assert keys[key].verdict in (DIFFERS, IN_RANGE), key
    assert all(note(name) for name in SECTIONS)


def test_table_1_where_a_baseline_is_documented(sections: dict[str, Section]) -> None:
    documented = rows(sections["table1"], "(documented)")
    assert len(documented) == 2 and {row.verdict for row in documented} == {AGREES}
    beside = {w.file.baseline.of for w in map(load_workload, names("workload")) if w.file.baseline is not None}
    assert beside == {workload for _, workload, _ in LATENCY_RATIOS}


def test_table_2_has_every_printed_row(sections: dict[str, Section]) -> None:
    assert len(sections["table2"].rows) == 18
    assert all(row.verdict == AGREES or row.reason for row in sections["table2"].rows)


def test_table_3_has_every_printed_row(sections: dict[str, Section]) -> None:
    assert len(MODELS) == 10 and len(sections["table3"].rows) == 2 * 10 + 6
    assert {row.verdict for row in rows(sections["table3"], "steps")} == {AGREES}


def test_phases(sections: dict[str, Section]) -> None:
    """Forward and backward up to 99 %, alike; sampling up to 90 % of training."""
    for part in ("largest share of forward and backward", "largest share of sampling in training"):
        assert [row.verdict for row in rows(sections["fig4"], part)] == [AGREES]
    alike = [row for row in rows(sections["fig4"], "backward over forward") if "ccsp" not in row.name]
    assert [row.name for row in alike if row.verdict == DIFFERS] == ["ired: backward over forward on tpu_v6e"]


def test_seven_of_nine_categories(sections: dict[str, Section]) -> None:
    assert len(sections["fig6"].rows) == 9
    assert sum(row.verdict == AGREES for row in sections["fig6"].rows) >= 7


def test_streams(sections: dict[str, Section]) -> None:
    verdicts = {row.name: row.verdict for row in sections["streams"].rows}
    assert verdicts["ebm_cmp"] == verdicts["ebm_cvr"] == AGREES
    assert verdicts["ccsp"] == IN_RANGE and verdicts["ired"] == DIFFERS
    (side_by_side,) = rows(sections["streams"], "two batches")
    assert side_by_side.ours == pytest.approx(1.28, rel=0.1)


def test_time_is_linear_in_steps(sections: dict[str, Section]) -> None:
    assert {row.verdict for row in rows(sections["fig7"], "departure from linear")} == {AGREES}
    assert {row.verdict for row in sections["table4"].rows} == {AGREES}


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = 0
    try:
        main(["paper", *words])
    except SystemExit as done:
        status = int(done.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, "fig6", "table4", "--json")
    found = json.loads(out)
    assert status == 0 and [s["name"] for s in found["sections"]] == ["fig6", "table4"]
    assert err == "fig6 done, 1 to go\ntable4 done, 0 to go\n"
    keys = {"name", "place", "statement", "published", "ours", "range", "unit", "ratio", "verdict", "reason"}
    assert all(set(row) == keys for s in found["sections"] for row in s["rows"])
    (row,) = [r for r in found["sections"][0]["rows"] if r["name"] == "ebm_eqm matmul"]
    assert row["published"] == [72.9, 72.9] and row["ratio"] == row["ours"] / 72.9


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, "fig6")
    assert status == 0 and "Fig. 6: operator categories" in out and "72.9 %" in out and "[1] ebm_imp convolution" in out


def test_unknown_sections_are_refused_together(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, "tabel1", "fig6", "fig8")
    assert (status, out) == (2, "")
    assert "expected a table or figure, found 'tabel1'\n    did you mean 'table1'?" in err
    assert "found 'fig8'" in err and "2 errors" in err


def test_a_difference_without_a_reason_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong() -> Section:
        section = SECTIONS["fig6"]()
        return Section(section.name, section.title, section.tolerance, "", (*map(_without_reason, section.rows),))

    monkeypatch.setattr(comparison, "SECTIONS", {"fig6": wrong})
    status, _, err = command(capsys, "fig6")
    assert status == 1
    assert "fig6: ebm_imp movement differs from the paper, and no reason is recorded" in err


def _without_reason(row: Row) -> Row:
    fields: dict[str, Any] = {**row.__dict__, "reason": ""}
    return Row(**fields)


def test_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    status, _, err = command(capsys, "fig6", "fig7", "table4", "-o", str(folder))
    assert status == 0 and f"wrote {folder / 'fig6.png'}" in err
    assert sorted(p.name for p in folder.iterdir()) == ["fig6.png", "fig7.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in folder.iterdir())


def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = command(capsys, "table4", "-o", str(tmp_path / "file" / "pictures"))
    assert status == 2 and "cannot make the folder: Not a directory" in err


def test_what_pictures_draw() -> None:
    """Bars and lines have the values they are labelled with."""
    from matplotlib.figure import Figure

    from ebmsim.paper.figures import of
    from ebmsim.paper.runs import run
    from ebmsim.report import paper_pictures

    axes = paper_pictures.times(Figure().add_subplot(), "t_inf", "s", 1.0)
    assert [patch.get_height() for patch in axes.containers[1]] == [
        of(run(w), "t_inf") for w in paper_pictures.PROFILED
    ]
    axes = paper_pictures.categories(Figure().add_subplot())
    tops = [sum(bars[i].get_height() for bars in axes.containers) for i in range(6)]
    assert tops == pytest.approx([100.0] * 6, abs=0.3)
    axes = paper_pictures.steps(Figure().add_subplot())
    assert all(sum(line.get_ydata()) == pytest.approx(100.0) for line in axes.lines)
    axes = paper_pictures.roofline(Figure().add_subplot())
    assert axes.get_xscale() == axes.get_yscale() == "log" and len(axes.collections) == 10
