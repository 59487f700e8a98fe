"""`ebmsim validate WORKLOAD…`: steps measured and predicted, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import ebmsim
from ebmsim.calibration.clock import Measured
from ebmsim.calibration.whole import FIGURES, Figure, Steps, validate_steps
from ebmsim.cli.main import main
from ebmsim.policy import Policy


def estimated(name: str, hardware: str = "ryzen9900x", **policy: str) -> ebmsim.Estimate:
    return ebmsim.estimate(ebmsim.load_workload(name, "small"), ebmsim.load_hardware(hardware), ebmsim.Policy(**policy))


def test_measured_beside_predicted() -> None:
    told: list[tuple[int, int]] = []
    e = [estimated("irem"), estimated("ebm_cl")]
    found = validate_steps(e, threads=1, rounds=3, progress=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)] and len(found.measured) == 2
    of = {(f.workload, f.name): f for f in found.figures}
    assert {name for workload, name in of if workload == "irem"} <= set(FIGURES)
    assert ("ebm_cl", "t_bwd_in") not in of  # it takes no gradient
    for (workload, name), figure in of.items():
        predicted = next(one for one in e if one.workload.name == workload)
        assert figure.predicted == predicted.seconds[name] and figure.preset == "small"
        assert figure.interval == predicted.seconds_interval.get(name)
        assert 1e-6 < figure.measured < 1.0
    assert found.errors("t_samp") == [abs(of[name, "t_samp"].error) for name in ("irem", "ebm_cl")]


def test_work_of_the_host_is_added_and_not_done() -> None:
    """Searching actions in a simulator: 20 actions of 100 steps of 32 µs each for every plan would be seconds."""
    workload = ebmsim.load_workload("ebm_gr", "small")
    e = ebmsim.estimate(workload, ebmsim.load_hardware("ryzen9900x"))
    (step, *_) = validate_steps([e], threads=1, rounds=3).figures
    host = sum(float(s) for s in e.lowered.step.table.seconds)
    assert host > 0 and step.measured > host


def test_errors_and_intervals() -> None:
    figure = Figure("it", "small", "t_samp", 2.0, 0.1, 3.0, (1.0, 1.5))
    assert figure.error == 0.5 and figure.covered is False
    assert Figure("it", "small", "t_rng", 2.0, 0.1, 3.0, None).covered is None
    measured = Measured({"t_samp": 2.0}, {"t_samp": 0.1}, 0.01, 9, 1)
    steps = Steps(ebmsim.load_hardware("ryzen9900x"), Policy(), (figure,), (measured,))
    assert steps.to_dict()["figures"][0]["error"] == 0.5 and steps.to_dict()["disturbed"] == [1]


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = 0
    try:
        main(["validate", *words])
    except SystemExit as done:
        status = int(done.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


STEP = ("irem", "--hw", "ryzen9900x", "--device", "cpu", "--preset", "small", "--rounds", "3", "--threads", "1")


def test_json_and_picture(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "steps.png"
    status, out, err = command(capsys, *STEP, "--json", "-o", str(picture))
    found = json.loads(out)
    assert status == 0 and found["schema"] == 1 and err.endswith("round 3 of 3\n")
    assert {f["figure"] for f in found["figures"]} >= {"t_samp", "t_fwd", "t_bwd_in"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_table_and_limit(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, *STEP, "--max-median", "0")
    assert status == 1 and "is above 0" in err
    assert "t_bwd_in" in out and "ryzen9900x with torch-cpu: T_samp of 1 workloads, median error" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("irem --hw rtx5090 --device cpu", "rtx5090 is a gpu, which --device cpu does not measure"),
        ("irem --hw rtx5090 --device cuda --execution graph", "steps are measured with execution eager, found graph"),
        ("irem --hw ryzen9900x --device cpu --streams 2", "steps are measured with streams 1, found 2"),
        ("irem --hw ryzen9900x --device cpu --dtype int8", "torch computes no int8"),
        ("irem --hw ryzen9900x", "expected workloads with --device, or --measurements"),
        ("irem --hw t4 --device cpu --measurements a.csv", "expected workloads with --device, or --measurements"),
        ("--hw t4", "expected workloads with --device, or --measurements"),
        ("iremm --hw ryzen9900x --device cpu", "unknown workload 'iremm'\n    did you mean 'irem'?"),
        ("irem --hw ryzen9900x --device tpu", "'tpu' is not one of 'cpu', 'cuda'"),
    ],
)
def test_refusal(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, *words.split())
    assert status == 2 and message in err and out == "" and "Traceback" not in err


def test_without_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("ebmsim.calibration.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = command(capsys, *STEP)
    assert status == 2 and err == "this needs torch: pip install 'ebmsim[torch]'\n"
