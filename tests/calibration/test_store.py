"""Measured steps in a file: kept line by line, read again, refused where they do not belong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmsim.calibration.store import StepTimes, is_store, open_store, read_store
from ebmsim.errors import SpecError

TIMES = StepTimes("relu 1x64", {"t_samp": 1e-4}, {"t_samp": 0.1}, 0.01, 9, 0)
WHERE = {"device": "a processor", "threads": "1"}


def test_what_is_added_is_there_when_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    open_store(path, WHERE).add([TIMES])
    again = open_store(path, WHERE)
    assert again.steps == {TIMES.label: TIMES} and again.environment == WHERE
    again.add([StepTimes("b", {"t_samp": 1.0}, {}, 0.0, 1, 0)])
    assert set(read_store(path).steps) == {TIMES.label, "b"}
    assert is_store(path)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    open_store(path, WHERE).add([TIMES])
    path.write_text(path.read_text() + '{"label": "b", "seco')
    assert set(read_store(path).steps) == {TIMES.label}


def test_another_environment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    open_store(path, WHERE)
    with pytest.raises(SpecError) as caught:
        open_store(path, WHERE | {"threads": "2"})
    assert str(caught.value) == (
        f"{path}:1:1: these steps were measured with threads '1', not '2'\n    remove the file, or name another one"
    )


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    open_store(path, WHERE)
    line = '{"label": "a", "seconds": {"t_samp": %s}, "spread": {}, "repeat_error": 0, "rounds": 1, "disturbed": 0}\n'
    path.write_text(path.read_text() + "no json\n" + line % "-1" + line % "NaN" + '{"label": "a"}\n' + line % "1")
    with pytest.raises(SpecError) as caught:
        read_store(path)
    assert [p.message for p in caught.value.problems] == [
        "expected one object of JSON",
        "expected a time of t_samp, found -1",
        "expected a time of t_samp, found nan",
        "expected label, seconds, spread, repeat_error, rounds, disturbed",
    ]
    assert [p.line for p in caught.value.problems] == [2, 3, 4, 5]


@pytest.mark.parametrize("text", ["", "{}\n", '{"format": "ebmsim small steps 1"}\n', "[1]\n"])
def test_other_files_are_no_store(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(SpecError, match="expected a file of 'ebmsim small steps 1'"):
        read_store(path)
    assert not is_store(tmp_path / "missing")
