"""`ebmsim validate WORKLOAD…`: steps measured and predicted, and what it refuses."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

import ebmsim
from ebmsim.calibration.clock import Measured
from ebmsim.calibration.whole import FIGURES, Figure, Steps, check_runnable, validate_steps
from ebmsim.cli.main import main
from ebmsim.errors import SpecError
from ebmsim.graph.training import PARTS
from ebmsim.policy import Policy
from ebmsim.timing import time_pass


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


def test_training_beside_the_steps() -> None:
    """Rounds go on with the iterations; parts add up to what the model's own iteration takes."""
    told: list[tuple[int, int]] = []
    e = [estimated("irem"), estimated("ired")]
    found = validate_steps(e, threads=1, rounds=3, progress=lambda *done: told.append(done), training=True)
    assert told == [(n, 6) for n in range(1, 7)]
    assert len(found.measured) == len(found.iterations) == 2 and len(found.to_dict()["rounds"]) == 4
    of = {(f.workload, f.name): f for f in found.figures}
    assert {name for workload, name in of if workload == "irem"} >= {"t_samp", "t_iteration", "second_order", "update"}
    assert ("irem", "forward_positive") not in of and ("ired", "forward_positive") in of
    for one in e:
        mine = {f.name: f for f in found.figures if f.workload == one.workload.name}
        assert one.lowered.iteration is not None
        assert mine["t_iteration"].predicted == time_pass(one.lowered.iteration, one.timing.priced).seconds
        parts = [mine[part] for part in PARTS if part in mine]
        assert sum(f.predicted for f in parts) == pytest.approx(mine["t_iteration"].predicted)
        n, steps = one.workload.setting("iterations"), one.seconds["t_train_sampling"]
        host = one.lowered.host_seconds(one.timing.priced.machine, one.policy)
        assert one.seconds["t_train"] == pytest.approx(n * (mine["t_iteration"].predicted + host) + steps)
        assert mine["t_iteration"].interval is None


def test_what_a_step_in_one_piece_cannot_hold() -> None:
    """The first wait of a step is named with its line, beside what else cannot be."""
    with pytest.raises(SpecError) as caught:
        check_runnable([estimated("ccsp", "rtx5090", execution="graph")], "cuda")
    (waits,) = [problem for problem in caught.value.problems if problem.line]
    assert waits.message == "the host waits at synchronise in every step, which execution graph cannot"
    assert (
        waits.file.endswith("ccsp.yaml") and "synchronise" in Path(waits.file).read_text().splitlines()[waits.line - 1]
    )


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, out, err = command(capsys, *STEP, "--execution", "compiled")
    assert (status, out) == (2, "")
    assert err == "torch.compile needs a C++ compiler, and there is no no-such-compiler\n"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_compared_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = command(capsys, *STEP, "--execution", "compiled", "--json")
    (figure,) = json.loads(out)["figures"]
    assert status == 0 and figure["figure"] == "t_samp" and figure["measured"] > 1e-6


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
        (
            "irem --hw ryzen9900x --device cpu --chain-mode sequential",
            "measured with chain_mode batched, found sequential",
        ),
        (
            "irem --hw ryzen9900x --device cpu --execution persistent",
            "steps are measured with execution eager, compiled, graph, found persistent",
        ),
        (
            "irem --hw ryzen9900x --device cpu --execution graph",
            "execution graph is a CUDA graph, which --device cpu cannot record\n",
        ),
        (
            "irem --hw ryzen9900x --device cpu --streams 2",
            "streams are CUDA streams, of which --device cpu has none, found 2\n",
        ),
        (
            "irem --hw ryzen9900x --device cpu --streams 2 --execution compiled --training",
            "compiled steps run in one stream, found 2\n"
            "training is measured with execution eager and streams 1, found compiled and 2\n3 errors\n",
        ),
        ("resnet50 --hw ryzen9900x --device cpu --training", "resnet50 has no training to measure\n"),
        ("--hw t4 --measurements a.csv --training", "expected workloads with --training"),
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
