"""`ebmsim calibrate`: small steps measured, fitted, written and used; what it refuses; what an interrupt keeps."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from shutil import copy

import pytest

import ebmsim
from ebmsim.calibration import calibrate, micro
from ebmsim.calibration.store import read_store
from ebmsim.cli.main import main
from ebmsim.hardware import Hardware
from ebmsim.spec.extends import hardware_document
from ebmsim.spec.hardware import check_hardware

FAMILIES = ("linear", "relu", "convolution", "concat", "layer_norm")
WHOLE = ("irem", "ebm_cl")


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    """A plan of a few quick steps and two whole models."""
    small = [s for s in micro.plan() if s.family in FAMILIES and s.chains * prod(s.shape) <= 2048]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "plan", lambda quick=False: small)
        patch.setattr(calibrate, "files", lambda kind: WHOLE)
        patch.setattr(calibrate, "_ROUNDS", {True: (3, 0.005), False: (3, 0.005)})
        yield


def run(*arguments: str | Path) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def measured_into(file: Path, steps: Path) -> tuple[str | Path, ...]:
    return ("calibrate", "--device", "cpu", "--threads", "1", "-o", file, "--save-measurements", steps)


@pytest.fixture(scope="module")
def once(few: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hardware file and the steps behind it."""
    folder = tmp_path_factory.mktemp("calibrated")
    assert run(*measured_into(folder / "mine.yaml", folder / "steps.jsonl")) == 0
    return folder


@pytest.fixture
def calibrated(once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both files."""
    for name in ("mine.yaml", "steps.jsonl"):
        copy(once / name, tmp_path / name)
    return tmp_path / "mine.yaml", tmp_path / "steps.jsonl"


def test_it_answers_in_json(calibrated: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file, steps = calibrated
    assert run(*measured_into(file, steps), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {m["workload"] for m in found["models"]} == set(WHOLE)
    assert {r["category"] for r in found["residuals"]} >= {"matmul", "elementwise", "rng"}
    assert all(0 <= r["median"] <= r["p90"] for r in found["residuals"])


def test_the_file_is_complete_and_used_at_fidelity_calibrated(calibrated: tuple[Path, Path]) -> None:
    file, _ = calibrated
    assert check_hardware(hardware_document(file)) == []
    hardware = ebmsim.load_hardware(file)
    assert isinstance(hardware, Hardware) and hardware.validated and hardware.units == 1
    calibration = hardware.calibration
    assert calibration is not None and calibration.environment["threads"] == "1"
    assert {"host_cost", "element_cycles", "gradient", "kernel_error", "common_error"} <= set(calibration.coefficients)
    workload = ebmsim.load_workload("irem", "small")
    found, plain = (ebmsim.estimate(workload, hardware, ebmsim.Policy(fidelity=f)) for f in ("", "analytical"))
    assert found.policy.fidelity == "calibrated"
    assert found.seconds["t_samp"] != plain.seconds["t_samp"]
    low, high = found.seconds_interval["t_samp"]
    assert low < (found.seconds["t_samp"] or 0) < high


def test_steps_of_before_are_fitted_without_measuring(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    file, steps = calibrated
    again = tmp_path / "again.yaml"
    assert run("calibrate", "--measurements", steps, "--base", file, "-o", again) == 0
    assert check_hardware(hardware_document(again)) == []
    one, other = (ebmsim.load_hardware(f) for f in (file, again))
    assert other.units == one.units and other.calibration is not None
    assert other.matrix.peak["fp32"] == pytest.approx(one.matrix.peak["fp32"], rel=0.3)


def test_the_same_command_measures_what_is_missing(calibrated: tuple[Path, Path], tmp_path: Path) -> None:
    file, steps = calibrated
    lines = steps.read_text().splitlines(keepends=True)
    steps.write_text("".join(lines[:-3]))
    kept = read_store(steps).steps
    assert run(*measured_into(file, steps)) == 0
    assert len(read_store(steps).steps) == len(lines) - 1
    assert all(read_store(steps).steps[label] == times for label, times in kept.items())


def test_an_interrupt_keeps_what_was_measured(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    monkeypatch.setattr(calibrate, "_BATCH", 4)
    from ebmsim.calibration import clock

    measured = clock.measure

    def twice(*arguments, **settings):
        if len(read_store(calibrate.store_beside(file)).steps) >= 8:
            raise KeyboardInterrupt
        return measured(*arguments, **settings)

    monkeypatch.setattr(clock, "measure", twice)
    assert run("calibrate", "--device", "cpu", "--threads", "1", "-o", file) == 2
    kept = calibrate.store_beside(file)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"interrupted: 8 steps are kept in {kept}; the same command goes on from there"
    )
    assert not file.exists() and len(read_store(kept).steps) == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "x.yaml"], ["expected --device, or --measurements of before"]),
        (
            ["--device", "cuda", "-o", "nowhere/x.txt"],
            [
                "expected --base, the hardware that the new file extends\n    ebmsim list hardware",
                "nowhere: no such folder",
                "nowhere/x.txt: expected a name that ends in .yaml, found 'x.txt'",
            ],
        ),
        (
            ["--device", "cpu", "--base", "a100", "-o", "x.yaml"],
            ["--device cpu describes the processor by itself\n    leave out --base"],
        ),
        (
            ["--measurements", "missing.jsonl", "-o", "x.yaml"],
            ["expected --base, the hardware that the new file extends\n    ebmsim list hardware"],
        ),
    ],
)
def test_wrong_options_are_told_together(
    arguments: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("calibrate", *arguments) == 2
    lines = capsys.readouterr().err.strip()
    assert lines == "\n".join([*said, f"{len(said)} errors"] if len(said) > 1 else said)


def test_without_torch_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in [m for m in sys.modules if m == "torch" or m.startswith(("torch.", "ebmsim.calibration.environment"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("calibrate", "--device", "cpu", "-o", tmp_path / "x.yaml") == 2
    assert capsys.readouterr().err == "this needs torch: pip install 'ebmsim[torch]'\n"


def test_bad_coefficients_are_located(calibrated: tuple[Path, Path]) -> None:
    file, _ = calibrated
    text = file.read_text()
    file.write_text(text.replace("gradient: ", "gradient: minus ", 1).replace("    knee:", "    kneee:", 1))
    problems = check_hardware(hardware_document(file))
    assert sorted(p.message for p in problems)[0].startswith("expected a time")
    assert "unknown key 'kneee'" in [p.message for p in problems]
    assert all(p.line for p in problems)
