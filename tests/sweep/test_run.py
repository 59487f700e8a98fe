"""Sweeps: their points are estimates, their chunks the same bytes however they are run, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ebmsim
from ebmsim.cli.main import cli
from ebmsim.errors import EbmsimError, SpecError
from ebmsim.estimation import estimate
from ebmsim.spec.library import load_sweep
from ebmsim.sweep import store
from ebmsim.sweep.figures import with_figures
from ebmsim.sweep.run import run
from ebmsim.sweep.store import decoded, encoded

SMALL = """
name: small
workload: ebm_imp
preset: small
hardware: a100
axes:
  units: {field: hardware.units, values: [54, 108, 216]}
  bandwidth: {field: hardware.memory.dram.bandwidth, from: 0.5 TB/s, to: 4 TB/s, points: 5, scale: log}
  chains: {field: workload.chains, values: [1, 16]}
  execution: {field: policy.execution, values: [eager, graph]}
derived:
  l2: {expression: units * 400e3, field: hardware.memory.l2.capacity}
  gain: 1 / t_inf
outputs: [t_samp, t_inf, t_train, step_joules]
chunk: 6
"""


def write(folder: Path, text: str, name: str = "s.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("points-*"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    found = []
    for content in files(folder).values():
        columns = decoded(content, "csv")
        found += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    return run(load_sweep(write(folder, SMALL)), folder / "out")


def test_every_point_is_there_once_and_is_its_estimate(small: Path) -> None:
    found = rows(small)
    keys = {(r["units"], r["bandwidth"], r["chains"], r["execution"]) for r in found}
    assert len(found) == len(keys) == 3 * 5 * 2 * 2
    assert all(1 <= len(decoded(content, "csv")["units"]) <= 6 for content in files(small).values())
    for r in random.Random(0).sample(found, 12):
        figures = {"units": r["units"], "memory.dram.bandwidth": r["bandwidth"], "memory.l2.capacity": r["units"] * 4e5}
        device = with_figures(ebmsim.load_hardware("a100"), figures)
        workload = ebmsim.load_workload("ebm_imp", "small", {"chains": int(r["chains"])})
        exact = estimate(workload, device, ebmsim.Policy(execution=r["execution"]))
        for name in ("t_samp", "t_inf", "t_train"):
            assert r[name] == pytest.approx(exact.seconds[name], rel=1e-12)
        assert r["step_joules"] == pytest.approx(exact.energy["step_joules"], rel=1e-12)
        assert r["l2"] == r["units"] * 4e5
        assert r["gain"] == pytest.approx(1 / r["t_inf"])


def test_provenance_holds_every_input(small: Path) -> None:
    found = json.loads((small / "provenance.json").read_text())
    assert found["version"] == ebmsim.estimation.package_version()
    assert {i["file"] for i in found["inputs"]} == {"s.yaml", "a100.yaml", "torch-cuda.yaml", "ebm_imp.yaml"}
    assert next(i["text"] for i in found["inputs"] if i["file"] == "s.yaml") == SMALL


def test_other_figures_are_estimated_point_by_point(tmp_path: Path) -> None:
    text = SMALL.replace("outputs: [t_samp,", "outputs: [t_fwd, categories.matmul, kernels, t_samp,")
    found = rows(run(load_sweep(write(tmp_path, text)), tmp_path / "out"))[7]
    figures = {k: found[n] for n, k in (("units", "units"), ("bandwidth", "memory.dram.bandwidth"))}
    device = with_figures(ebmsim.load_hardware("a100"), figures | {"memory.l2.capacity": found["l2"]})
    workload = ebmsim.load_workload("ebm_imp", "small", {"chains": int(found["chains"])})
    exact = estimate(workload, device, ebmsim.Policy(execution=found["execution"]))
    assert found["t_fwd"] == pytest.approx(exact.seconds["t_fwd"], rel=1e-12)
    assert found["categories_matmul"] == pytest.approx(exact.categories["matmul"], rel=1e-12)
    assert found["kernels"] == exact.work["kernels"]


@pytest.mark.parametrize("method", ["latin-hypercube", "sobol"])
def test_quasi_random_designs_fill_their_ranges(method: str, tmp_path: Path) -> None:
    text = SMALL.replace("values: [54, 108, 216]", "from: 50, to: 249").replace(", points: 5", "")
    text += f"sampling: {{method: {method}, points: 200, seed: 3}}\n"
    found = rows(run(load_sweep(write(tmp_path, text)), tmp_path / "out"))
    assert len(found) == 200 * 4
    one = [r for r in found if r["chains"] == 1 and r["execution"] == "graph"]
    # A Latin hypercube has one point in each of 200 equal parts of every axis, a Sobol sequence nearly so.
    logs = np.log([r["bandwidth"] / 0.5e12 for r in one]) / np.log(8)
    occupied = len(set(np.floor(np.array(logs) * 200).astype(int)))
    assert occupied == 200 if method == "latin-hypercube" else occupied > 120
    assert {r["units"] for r in one} <= set(range(50, 250))
    assert len({r["units"] for r in one}) > 100


def test_what_is_kept(tmp_path: Path, small: Path) -> None:
    everything = rows(small)
    top = run(load_sweep(write(tmp_path, SMALL + "keep: {top: 5, by: t_inf}\n")), tmp_path / "top")
    best = sorted(r["t_inf"] for r in everything)[:5]
    assert sorted(decoded((top / "result.csv").read_bytes(), "csv")["t_inf"]) == best
    pareto = run(load_sweep(write(tmp_path, SMALL + "keep: {pareto: [t_inf, step_joules]}\n")), tmp_path / "pareto")
    front = decoded((pareto / "result.csv").read_bytes(), "csv")
    for r in everything:
        dominated = (front["t_inf"] <= r["t_inf"]) & (front["step_joules"] <= r["step_joules"])
        assert dominated.any()
    summary = run(load_sweep(write(tmp_path, SMALL + "keep: summary\n")), tmp_path / "summary")
    found = decoded((summary / "result.csv").read_bytes(), "csv")
    row = list(found["name"]).index("t_inf")
    assert found["count"][row] == len(everything)
    assert found["least"][row] == min(r["t_inf"] for r in everything)
    assert found["sum"][row] == pytest.approx(sum(r["t_inf"] for r in everything))


def test_constraints_drop_points(tmp_path: Path, small: Path) -> None:
    limit = sorted(r["t_inf"] for r in rows(small))[20]
    text = SMALL + f"constraints: [t_inf < {float(limit)!r}, units >= 100, execution == 'graph']\n"
    found = rows(run(load_sweep(write(tmp_path, text)), tmp_path / "out"))
    wanted = [r for r in rows(small) if r["t_inf"] < limit and r["units"] >= 100 and r["execution"] == "graph"]
    assert sorted(r["t_inf"] for r in found) == sorted(r["t_inf"] for r in wanted)
    assert wanted


def test_two_processes_write_the_same_bytes(small: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small.parent / "s.yaml")
    assert files(run(sweep, tmp_path / "out", workers=2)) == files(small)


def test_a_cluster_writes_the_same_bytes(small: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    sweep = load_sweep(small.parent / "s.yaml")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, protocol="tcp://", dashboard_address=":0"
    ) as cluster:
        assert files(run(sweep, tmp_path / "out", scheduler=cluster.scheduler_address)) == files(small)


def test_parquet_holds_what_csv_holds(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    folder = run(load_sweep(write(tmp_path, SMALL + "format: parquet\n")), tmp_path / "out")
    for content, text in zip(files(folder).values(), files(small).values(), strict=True):
        one, other = decoded(content, "parquet"), decoded(text, "csv")
        assert list(one) == list(other)
        assert all(list(one[name]) == list(other[name]) for name in one)


@pytest.mark.parametrize(
    "values", [np.array(["a,b", 'say "x"', "line\nbreak"]), np.array([True, False]), np.array([1e-9, 3.0])]
)
def test_columns_are_read_as_written(values: Any) -> None:
    again = decoded(encoded({"a b": values, "n": np.arange(len(values))}, "csv"), "csv")
    assert list(again["a b"]) == list(values)
    assert list(again) == ["a b", "n"]


def test_killed_and_resumed_it_ends_with_the_same_bytes(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ebmsim", "sweep", str(small.parent / "s.yaml"), "-o", str(out), "--resume"]
    moments = random.Random(1)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, deadline = len(files(out)), time.monotonic() + 60
        wanted = before + moments.randint(1, 3)
        while process.poll() is None and len(files(out)) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if len(files(out)) == len(files(small)):
            break
    assert kills >= 2
    subprocess.run(command, check=True, capture_output=True)
    assert files(out) == files(small)
    assert not list(out.glob("*.part")) + list(out.glob(".*.part"))


def test_a_killed_worker_loses_nothing(small: Path, tmp_path: Path) -> None:
    sweep = load_sweep(small.parent / "s.yaml")
    killed = []

    def kill_one(done: int, of: int) -> None:
        if done == 2 and not killed:
            workers = subprocess.run(["pgrep", "-P", str(os.getpid())], capture_output=True, text=True).stdout.split()
            children = [int(pid) for pid in workers if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
            os.kill(children[0], signal.SIGKILL)
            killed.append(children[0])

    assert files(run(sweep, tmp_path / "out", workers=2, progress=kill_one)) == files(small)
    assert killed


def test_a_full_disk_stops_with_what_is_done(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, out = load_sweep(small.parent / "s.yaml"), tmp_path / "out"
    real, written = os.replace, []

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(".csv"):
            if len(written) == 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(target)
        real(source, target)

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(EbmsimError, match="no space left on device\n    3 chunks are kept"):
        run(sweep, out)
    monkeypatch.undo()
    assert len(files(out)) == 3
    assert not list(out.glob(".*.part"))
    assert files(run(sweep, out, resume=True)) == files(small)


def test_the_folder_of_something_else_is_left_alone(small: Path, tmp_path: Path) -> None:
    other = load_sweep(write(tmp_path, SMALL.replace("[54, 108, 216]", "[54]")))
    before = files(small)
    with pytest.raises(SpecError, match=r"the folder holds another sweep: s\.yaml differs"):
        run(other, small, resume=True)
    with pytest.raises(SpecError, match=r"the folder holds this sweep already\n    --resume goes on with it"):
        run(load_sweep(small.parent / "s.yaml"), small)
    with pytest.raises(SpecError, match="not empty, and was not made by a sweep"):
        run(other, tmp_path)
    with pytest.raises(SpecError, match="expected a folder, found a file"):
        run(other, tmp_path / "s.yaml")
    assert files(small) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("t_samp, t_inf", "t_smap, t_inf"), "outputs[0]: unknown output 't_smap'\n    did you mean 't_samp'?"),
        (("hardware: a100", "hardware: a10"), "s.yaml:5:11: hardware: unknown hardware 'a10'"),
        (("memory.dram.bandwidth", "memory.hbm.bandwidth"), "a100 has no figure 'memory.hbm.bandwidth'"),
        (("workload.chains", "workload.chians"), "chians"),
        (("preset: small", "preset: smal"), "smal"),
        (("chunk: 6", "constraints: [t_inf < 1, t_inf > 2]"), "no point can meet this: 't_inf > 2' and 't_inf < 1'"),
        (("chunk: 6", "constraints: [units > 216]"), "'units > 216' and its axis leave 'units' no value"),
        (("chunk: 6", "constraints: [1 <= t_inf <= 0.5]"), "leave 't_inf' no value"),
    ],
)
def test_questions_without_an_answer(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli, ["sweep", str(write(tmp_path, SMALL.replace(*change))), "-o", str(tmp_path / "out")]
    )
    assert isinstance(result.exception, SpecError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_figure_that_becomes_negative_is_named(tmp_path: Path) -> None:
    text = SMALL.replace("units * 400e3", "(100 - units) * 400e3")
    with pytest.raises(SpecError, match=r"derived\.l2: 'l2' sets a figure, and is -3\.2e\+06 at"):
        run(load_sweep(write(tmp_path, text)), tmp_path / "out")


def test_a_million_billion_points_are_asked_for_in_earnest_only(tmp_path: Path) -> None:
    axes = "".join(f"  a{i}: {{from: 0, to: 1, points: 100000}}\n" for i in range(3))
    text = SMALL.replace("axes:\n", "axes:\n" + axes).replace("chunk: 6", "chunk: 100")
    with pytest.raises(SpecError, match=r"the sweep has 6e\+16 points") as caught:
        run(load_sweep(write(tmp_path, text)), tmp_path / "out")
    assert "--yes" in str(caught.value)
    assert not (tmp_path / "out").exists()
    plan = CliRunner().invoke(cli, ["sweep", str(tmp_path / "s.yaml"), "--plan"])
    assert plan.exit_code == 0
    assert "60,000,000,000,000,000 points" in plan.output


def test_a_sweep_in_memory(small: Path) -> None:
    found = ebmsim.sweep(small.parent / "s.yaml")
    assert sorted(found["t_inf"]) == sorted(r["t_inf"] for r in rows(small))
    assert set(found) == {
        "units",
        "bandwidth",
        "chains",
        "execution",
        "l2",
        "gain",
        "t_samp",
        "t_inf",
        "t_train",
        "step_joules",
    }
