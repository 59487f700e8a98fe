"""Every broken file of tests/bad is refused with exactly the message in tests/bad/expected.txt, without a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmsim.cli.main import main
from ebmsim.errors import SpecError
from ebmsim.graph import emitter
from ebmsim.graph.compose import check_workload
from ebmsim.spec.library import load_workload

BAD = Path(__file__).parent / "bad"
# One block per file, with an empty line between two; each line of a problem starts with the name of its file.
EXPECTED = {
    block.partition(":")[0]: block for block in (BAD / "expected.txt").read_text(encoding="utf-8").strip().split("\n\n")
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command line prints when it refuses."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    return err.rstrip("\n")


def test_every_file_has_an_expected_message() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in BAD.glob("*.yaml"))
    assert len(EXPECTED) >= 45


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_bad_file(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    assert refused(capsys, "check", name) == EXPECTED[name]


@pytest.mark.parametrize("command", ["estimate", "show"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_commands_that_read_a_bad_file_end_in_order(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, or answered where it is only `check` that minds."""
    monkeypatch.chdir(BAD)
    try:
        main([command, name, *(["--hw", "a100"] if command == "estimate" else [])])
    except SystemExit as stop:
        assert stop.code == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: toy\n\x80\x81\n", "f.yaml:2:1: expected UTF-8 text, found bytes that are not (at byte 10)"),
        (b"\x00\x01\x02", "f.yaml:1:1: expected UTF-8 text, found bytes that are not (at byte 0)"),
        (b"name: a\x07b\n", "f.yaml:1:8: the character U+0007 is not allowed in YAML"),
        (b"#" * (4 * 1024 * 1024 + 1), "f.yaml: the file is larger than 4 MiB"),
        (b"a: " + b"[" * 100 + b"]" * 100, "f.yaml:1:67: a[0][0][0]: nested deeper than 64 levels"),
        (b"units: " + b"9" * 500, "f.yaml:1:8: units: the number '" + "9" * 40 + "...' is too long"),
    ],
    ids=["binary", "nul", "control", "long", "deep", "digits"],
)
def test_unreadable_content(
    content: bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.yaml").write_bytes(content)
    assert refused(capsys, "check", "f.yaml") == expected


def test_long_expression(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (BAD / "expression_overflow.yaml").read_text(encoding="utf-8")
    (tmp_path / "f.yaml").write_text(text.replace("9 ** 9 ** 9", " + ".join(["1"] * 80)), encoding="utf-8")
    message = "expression '" + " + ".join(["1"] * 15)[:57] + "...' is longer than 200 characters"
    assert refused(capsys, "check", "f.yaml") == f"f.yaml:5:43: parameters.width: {message}"


def test_directory_and_missing_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.yaml").mkdir()
    assert refused(capsys, "check", "d.yaml") == "d.yaml: expected a file, found a directory"
    assert refused(capsys, "check", "m.yaml") == "m.yaml: no such file"


def test_problems_of_several_files_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    found = refused(capsys, "check", "zero_chains.yaml", "hardware_units_zero.yaml")
    assert found == f"{EXPECTED['hardware_units_zero.yaml']}\n{EXPECTED['zero_chains.yaml']}\n2 errors"


def test_the_number_of_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emitter, "MOST_NODES", 40)
    (problem,) = check_workload(load_workload("ebm_imp", "small"))
    assert problem.message == "the workload has more than 40 nodes" and problem.line


def test_overrides_are_refused_without_a_place_in_the_file() -> None:
    for values, expected in (
        ({"chains": 0}, "expected chains to be at least 1, found 0"),
        ({"chains": float("nan")}, "chains: expected a finite number of at most 1e18"),
        ({"f": "2 * g"}, "f: unknown name 'g' in '2 * g'"),
    ):
        with pytest.raises(SpecError) as caught:
            load_workload("ebm_imp", "small", values)
        assert [str(p).partition("\n")[0] for p in caught.value.problems] == [expected]
    with pytest.raises(SpecError, match="chains to be a number, found nan"):
        load_workload("ebm_imp").with_parameters(chains=float("nan"))
