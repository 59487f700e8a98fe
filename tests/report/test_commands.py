"""Commands that draw: the picture, what is printed beside it, and what is refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run

Capture = pytest.CaptureFixture[str]
SMALL = ("irem", "--preset", "small", "--hw", "h100")
SWEEP = """name: front
workload: irem
hardware: h100
preset: small
axes:
  units: {field: hardware.units, values: [33, 66, 132]}
outputs: [t_inf, mean_power_watts]
keep: KEEP
"""


def test_roofline(tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "roofline.svg"
    assert run(capsys, "roofline", *SMALL, "--dtype", "bf16", "-o", str(picture)) == (0, f"{picture}\n", "")
    assert picture.read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize("command", ["estimate", "compare", "sensitivity"])
def test_a_picture_changes_nothing_of_what_is_printed(command: str, tmp_path: Path, capsys: Capture) -> None:
    picture = tmp_path / "picture.png"
    for json_ in ((), ("--json",)):
        plain = run(capsys, command, *SMALL, *json_)
        assert run(capsys, command, *SMALL, *json_, "-o", str(picture)) == plain
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()
    assert json.loads(plain[1])


@pytest.mark.parametrize("command", ["roofline", "estimate", "compare", "sensitivity"])
def test_all_that_is_wrong_at_once(command: str, capsys: Capture) -> None:
    words = ("irem", "--hw", "h10", "--dtype", "fp33", "-o", "nowhere/picture.png")
    status, out, err = run(capsys, command, *words)
    assert (status, out) == (2, "") and err.endswith("3 errors\n")
    assert "nowhere/picture.png: no such folder 'nowhere'" in err and "unknown hardware 'h10'" in err


def test_a_roofline_needs_its_file(capsys: Capture) -> None:
    status, _, err = run(capsys, "roofline", *SMALL)
    assert status == 2 and "Missing option '-o'" in err


def test_the_front_of_a_sweep(tmp_path: Path, capsys: Capture) -> None:
    file, picture = tmp_path / "front.yaml", tmp_path / "front.png"
    file.write_text(SWEEP.replace("KEEP", "{pareto: [t_inf, mean_power_watts]}"))
    status, _, _ = run(capsys, "sweep", str(file), "-o", str(tmp_path / "swept"), "--plot", str(picture))
    assert status == 0 and picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("keep", ["all", "{pareto: [t_inf]}", "{top: 2, by: t_inf}"])
def test_only_a_front_is_drawn(keep: str, tmp_path: Path, capsys: Capture) -> None:
    file, folder = tmp_path / "front.yaml", tmp_path / "swept"
    file.write_text(SWEEP.replace("KEEP", keep))
    status, _, err = run(capsys, "sweep", str(file), "-o", str(folder), "--plot", "front.bmp")
    assert status == 2 and not folder.exists()
    assert f"{file}:8:7: keep: expected a front of two figures for --plot" in err
    assert "expected a picture (.png, .pdf, .svg), found 'front.bmp'" in err and err.endswith("2 errors\n")
