"""A device calibrated from a table: coefficients found again from times that the model made, and the file written."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ebmsim.calibration import from_table
from ebmsim.calibration.device_fit import Device, applied
from ebmsim.calibration.evaluate import LIMITS, load_tables, markdown_of_halves, means
from ebmsim.calibration.from_table import (
    FromTable,
    calibrate_from_table,
    calibrate_table,
    changed,
    device_of,
    half_and_half,
    halves,
    hardware_text,
)
from ebmsim.calibration.replay import prepare
from ebmsim.calibration.tables import COLUMNS, SIZES, Measurement, read_table
from ebmsim.cli.main import cli
from ebmsim.errors import SpecError
from ebmsim.estimation import calibrated, settled
from ebmsim.policy import Policy
from ebmsim.spec.library import load_hardware, load_profile

PROFILE = load_profile("torch-cuda")
A100, T4 = load_hardware("a100"), load_hardware("t4")
CALLS = {"elementwise": 17e-6, "matmul": 17e-6, "convolution": 60e-6}


def measured(kind: str, source: str = "", dtype: str = "fp32", **sizes: int) -> Measurement:
    return Measurement(kind, "forward", dtype, tuple(sizes.get(name, 0) for name in SIZES), 1e-5, source, 2)


def linears(count: int) -> list[Measurement]:
    random = np.random.default_rng(5)
    sizes = (2.0 ** random.uniform((0, 6, 5), 13, (count, 3))).astype(int)
    rows = [(int(m), int(n), int(k)) for m, n, k in sizes]
    return [measured("linear", "aiconfigurator", "bf16", b=1, m=m, n=n, k=k) for m, n, k in rows]


def convolutions(count: int) -> list[Measurement]:
    random = np.random.default_rng(6)
    drawn = (2.0 ** random.uniform((2, 3, 3, 3), (5, 8, 8, 6), (count, 4))).astype(int).tolist()
    steps = {"kernel": 3, "stride": 1, "padding": 1}
    return [measured("conv2d", "NeuSight", b=b, c_in=i, c_out=o, size=s, **steps) for b, i, o, s in drawn]


def row_wise(kind: str, count: int) -> list[Measurement]:
    return [measured(kind, "NeuSight", m=1024 * (1 + i), n=512) for i in range(count)]


def timed(rows: Sequence[Measurement], device: Device) -> list[Measurement]:
    """The same, with the times that a device takes."""
    seconds = device.predict(prepare(rows))
    return [m._replace(seconds=float(s)) for m, s in zip(rows, seconds, strict=True)]


def median_error(found: Device, rows: Sequence[Measurement]) -> float:
    times = np.array([m.seconds for m in rows])
    return float(np.median(np.abs(found.predict(prepare(rows)) / times - 1.0)))


def write(path: Path, rows: Sequence[Measurement]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for m in rows:
            writer.writerow([m.kind, m.phase, m.dtype, *[s or "" for s in m.sizes], 1e6 * m.seconds, m.source])
    return path


@pytest.fixture(scope="module")
def streams() -> list[Measurement]:
    """Row-wise kernels on an A100 of which one kind takes cycles, in a table of few rows."""
    slow = replace(PROFILE, element_cycles={"pow": 0.9})
    return timed([*row_wise("powu", 20), *row_wise("relu", 20), *row_wise("add", 20)], Device(A100, slow, CALLS))


@pytest.fixture(scope="module")
def written(streams: list[Measurement], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    output = folder / "mine.yaml"
    calibrate_table(write(folder / "table.csv", streams), "a100", output, lambda text: None)
    return output


def test_products_of_known_coefficients_are_fitted_back() -> None:
    known = {"base": 1.45, "edge": 0.6, "partial": 0.4, "loop": 6.0, "prologue": 700.0, "split_time": 3e-6}
    known |= {"kernel_cycles": 1600.0, "knee": 1.8, "store": 9.0, "resident": 0.6, "evicted": 0.4, "shared": 1.2}
    truth = applied(Device(A100, PROFILE), known, ["bf16"])
    rows = timed(linears(300), truth)
    seen, unseen = halves(rows, 3)
    found = device_of(A100, PROFILE, calibrate_from_table(seen, A100, PROFILE))
    assert median_error(Device(A100, PROFILE), unseen) > 0.05
    assert median_error(found, unseen) < 0.01


def test_the_profile_itself_is_fitted_back() -> None:
    rows = timed(linears(200), Device(A100, PROFILE))
    assert median_error(device_of(A100, PROFILE, calibrate_from_table(rows, A100, PROFILE)), rows) < 0.01


def test_convolutions_of_known_coefficients_are_fitted_back() -> None:
    known = {"conv_base": 0.7, "conv_edge": 0.4, "fraction": 0.7, "transforms": 0.4, "time": 9e-5, "energy": 0.44}
    whole = replace(PROFILE, convolution_split_k=(1,))
    rows = timed(convolutions(120), applied(Device(A100, whole, CALLS), known, ["fp32"]))
    found = calibrate_from_table(rows, A100, PROFILE)
    assert found.coefficients["convolution_split_k"] == (1,)
    assert median_error(device_of(A100, PROFILE, found), rows) < 0.01


def test_a_kind_slower_than_memory_gets_cycles_and_others_none(streams: list[Measurement]) -> None:
    found = calibrate_from_table(streams, A100, PROFILE)
    assert set(found.coefficients["element_cycles"]) == {"pow"}
    assert found.coefficients["element_cycles"]["pow"] == pytest.approx(0.9, rel=0.02)
    assert median_error(device_of(A100, PROFILE, found), streams) < 0.01


def test_bandwidth_and_host_time_of_row_wise_kernels_are_found() -> None:
    truth = applied(Device(T4, PROFILE, CALLS), {"main": 1.08, "call": 1.5}, [])
    rows = timed([*row_wise("relu", 30), *[measured("relu", "NeuSight", m=1 + i, n=64) for i in range(20)]], truth)
    found = calibrate_from_table(rows, T4, PROFILE)
    assert found.changes["memory.dram.efficiency"] == pytest.approx(0.81, rel=0.01)
    assert found.calls["elementwise"] == pytest.approx(25.5e-6, rel=0.02)
    assert "tiles" not in found.coefficients


def test_nothing_is_asked_of_a_table_of_one_row() -> None:
    row = timed([measured("relu", m=4096, n=4096)], Device(A100, PROFILE))
    found = calibrate_from_table(row, A100, PROFILE)
    assert [r["steps"] for r in found.residuals] == [1]
    assert np.isfinite(found.coefficients["common_error"])


def test_halves_are_all_rows_once() -> None:
    rows = [m._replace(line=i) for i, m in enumerate(linears(31))]
    seen, unseen = halves(rows, 7)
    assert sorted(m.line for m in [*seen, *unseen]) == list(range(31))
    assert abs(len(seen) - len(unseen)) <= 1
    assert halves(rows, 8) != (seen, unseen)


def test_the_written_file_is_checked_and_calibrated_by_default(written: Path) -> None:
    result = CliRunner().invoke(cli, ["check", str(written)])
    assert result.exit_code == 0, result.output
    hardware = load_hardware(str(written))
    assert hardware.calibration is not None
    assert hardware.validated
    assert settled(Policy(), hardware).fidelity == "calibrated"
    assert hardware.calibration.environment["table"] == "table.csv"
    assert {r["category"] for r in hardware.calibration.residuals} == {"elementwise"}
    assert hardware.calibration.coefficients["element_cycles"]["pow"] == pytest.approx(0.9, rel=0.02)


def test_the_written_file_predicts_what_was_fitted(written: Path, streams: list[Measurement]) -> None:
    hardware = load_hardware(str(written))
    profile = calibrated(PROFILE, hardware, settled(Policy(), hardware))
    fitted = calibrate_from_table(streams, A100, PROFILE)
    told = Device(hardware, profile, fitted.calls).predict(prepare(streams))
    assert told == pytest.approx(device_of(A100, PROFILE, fitted).predict(prepare(streams)), rel=2e-3)


def test_every_coefficient_and_figure_is_read_back(tmp_path: Path) -> None:
    known = {"base": 1.2, "edge": 0.6, "partial": 0.4, "knee": 1.5, "store": 9.0, "resident": 0.6, "evicted": 0.4}
    known |= {"conv_base": 0.7, "conv_edge": 0.4, "fraction": 0.7, "transforms": 0.4, "time": 9e-5, "energy": 0.5}
    known |= {"shared": 1.1, "main": 1.05, "energy of bytes": 0.5, "energy of products": 1.1, "split_time": 3.1e-6}
    other = applied(Device(A100, PROFILE), known, ["bf16"])
    names = [name for name in PROFILE.__dataclass_fields__ if getattr(other.profile, name) != getattr(PROFILE, name)]
    changes = from_table._changes(other.hardware, A100)
    assert "power.energy.bf16" in changes
    assert changed(A100, changes) == other.hardware
    found = FromTable(changes, {name: getattr(other.profile, name) for name in names}, (), {})
    path = tmp_path / "other.yaml"
    path.write_text(hardware_text(found, linears(2), A100, "a100", "other", "table.csv"), encoding="utf-8")
    read = load_hardware(str(path))
    assert read.calibration is not None
    for name in names:
        assert repr(read.calibration.coefficients[name])[:8] == repr(getattr(other.profile, name))[:8]
    for figure, value in changes.items():
        assert read.sources[figure] == ("measured", "table table.csv")
        keys = figure.split(".")
        level = next((x for x in read.memory if x.name == keys[1]), None)
        got = read.power.energy[keys[2]] if level is None else getattr(level, keys[2])
        assert got == pytest.approx(value, rel=1e-3)


def test_a_base_by_path_is_found_from_the_file(written: Path, streams: list[Measurement], tmp_path: Path) -> None:
    # The base is calibrated itself: what the table does not tell stays.
    output = tmp_path / "again.yaml"
    relu = [m for m in streams if m.kind == "relu"]
    calibrate_table(write(tmp_path / "relu.csv", relu), os.path.relpath(written), output, lambda text: None)
    hardware = load_hardware(str(output))
    assert hardware.calibration is not None
    assert hardware.calibration.coefficients["element_cycles"]["pow"] == pytest.approx(0.9, rel=0.02)
    assert hardware.calibration.environment["table"] == "relu.csv"


def test_all_problems_at_once(tmp_path: Path) -> None:
    table = tmp_path / "bad.csv"
    write(table, linears(2))
    table.write_text(table.read_text().replace("linear,", "linaer,"), encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        calibrate_table(table, "a1000", tmp_path / "no" / "x.yaml", lambda text: None)
    text = str(caught.value)
    assert text.count("unknown kind 'linaer'") == 2
    assert "unknown hardware 'a1000'" in text
    assert "no such folder" in text


def test_dtypes_that_the_device_lacks(tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", [*linears(2), measured("linear", dtype="fp8", b=1, m=8, n=8, k=8)])
    with pytest.raises(SpecError) as caught:
        calibrate_table(table, "t4", tmp_path / "mine.yaml", lambda text: None)
    assert "t4 has no peak for bf16 products" in str(caught.value)
    assert "t4 has no peak for fp8 products" in str(caught.value)
    assert not (tmp_path / "mine.yaml").exists()


def test_systolic_arrays_are_refused(tmp_path: Path) -> None:
    table = write(tmp_path / "table.csv", linears(2))
    with pytest.raises(SpecError, match="systolic"):
        calibrate_table(table, "tpu_v4", tmp_path / "mine.yaml", lambda text: None)


def test_a_base_is_not_overwritten(written: Path, tmp_path: Path) -> None:
    before = written.read_text(encoding="utf-8")
    with pytest.raises(SpecError, match="the base that it extends"):
        calibrate_table(write(tmp_path / "table.csv", linears(2)), str(written), written, lambda text: None)
    assert written.read_text(encoding="utf-8") == before


def test_an_interrupted_fit_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("before", encoding="utf-8")

    def interrupted(*given: object) -> FromTable:
        raise KeyboardInterrupt

    monkeypatch.setattr(from_table, "calibrate_from_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate_table(write(tmp_path / "table.csv", linears(2)), "a100", output, lambda text: None)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".yaml"] == ["mine.yaml"]
    assert output.read_text(encoding="utf-8") == "before"


def test_the_report_names_what_is_missed() -> None:
    row = {
        "device": "x",
        "rows of": "conv2d",
        "rows": 3,
        "median_ape": 0.2,
        "mape": 0.2,
        "p90_ape": 0.3,
        "covered": 0.8,
    }
    runs = means([[row], [row | {"median_ape": 0.1}]])
    assert runs[0]["median_ape"] == pytest.approx(0.15)
    text = markdown_of_halves([row], runs)
    assert "| x | conv2d | 3 | 20.0 → 15.0 % | 12 %, missed |" in text


FOLDER = os.environ.get("EBMSIM_MEASUREMENTS", "")


@pytest.mark.skipif(not FOLDER, reason="EBMSIM_MEASUREMENTS names no folder of tables")
@pytest.mark.xdist_group("measured")
@pytest.mark.parametrize("name", ["a100_sxm", "a100_80gb_pcie"])
def test_half_of_a_device_predicts_the_other(name: str) -> None:
    table = next(t for t in load_tables(Path(FOLDER)) if t.name == name)
    assert list(table.all.measurements) == read_table(Path(FOLDER) / f"{name}.csv")
    before, after = half_and_half(table, PROFILE, 2)
    missed = {"conv2d": 0.20}
    for old, new in zip(before, after, strict=True):
        limit = missed.get(new["rows of"], LIMITS.get(new["rows of"], 1.0))
        assert new["median_ape"] <= limit, new["rows of"]
        assert new["mape"] <= 1.02 * old["mape"], new["rows of"]
    assert 0.7 <= next(r["covered"] for r in after if r["rows of"] == "all") <= 0.9
