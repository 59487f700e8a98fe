"""Replayed measurements: laws of the prediction, and coefficients found again from times that the model made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ebmsim
from ebmsim.calibration.evaluate import Table, evaluate, ranking
from ebmsim.calibration.fit import fit, rewritten, spread, with_coefficients
from ebmsim.calibration.replay import EIGHTY, check_dtypes, deviation_of, errors, groups, predict, prepare
from ebmsim.calibration.tables import SIZES, Measurement
from ebmsim.errors import SpecError
from ebmsim.spec.library import find, load_profile

PROFILE = load_profile("torch-cuda")
A100, H100 = ebmsim.load_hardware("a100"), ebmsim.load_hardware("h100")


def measured(kind: str, seconds: float = 1e-5, source: str = "", dtype: str = "fp32", **sizes: int) -> Measurement:
    return Measurement(kind, "forward", dtype, tuple(sizes.get(name, 0) for name in SIZES), seconds, source, 2)


def products(count: int, seed: int = 0) -> list[Measurement]:
    random = np.random.default_rng(seed)
    sizes = (2.0 ** random.uniform(4, 13, (count, 3))).astype(int)
    return [measured("linear", dtype="bf16", m=int(m), n=int(n), k=int(k)) for m, n, k in sizes]


@given(st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096))
def test_a_call_on_the_host_adds_its_time(m: int, n: int, k: int) -> None:
    # Two sources measured the same product; one has 17 us of the host in its times and the launch of an eager kernel.
    alone, called = (measured("linear", source=s, m=m, n=n, k=k) for s in ("", "NeuSight"))
    bare, more = predict(prepare([alone, called]), A100, PROFILE)
    assert more - bare == pytest.approx(17e-6 + A100.launch.eager - A100.launch.graph, rel=1e-6)


def test_order_and_company_do_not_matter() -> None:
    rows = [
        *products(20),
        measured("softmax", m=1000, n=512),
        measured("conv2d", b=4, c_in=8, c_out=8, kernel=3, size=16, stride=1, padding=1),
    ]
    together = predict(prepare(rows), A100, PROFILE)
    backwards = predict(prepare(rows[::-1]), A100, PROFILE)[::-1]
    alone = np.concatenate([predict(prepare([row]), A100, PROFILE) for row in rows])
    assert together == pytest.approx(backwards, rel=1e-12)
    assert together == pytest.approx(alone, rel=1e-12)


def test_a_row_wise_kernel_of_large_tensors_takes_its_bytes() -> None:
    # relu of 1 GiB: 2 GiB over the achieved bandwidth of main memory, and little else.
    m = n = 2**14
    (found,) = predict(prepare([measured("relu", m=m, n=n)]), A100, PROFILE)
    dram = A100.memory[-1]
    assert found == pytest.approx(2 * m * n * 4 / (dram.bandwidth * dram.efficiency), rel=0.01)


def test_a_row_that_does_not_fit_in_flight_is_read_twice() -> None:
    dram = A100.memory[-1]
    short, long = (measured("layer_norm", m=2**28 // n, n=n) for n in (2**10, 2**21))
    once, twice = predict(prepare([short, long]), A100, PROFILE) * dram.bandwidth * dram.efficiency / (4 * 2**28)
    assert once == pytest.approx(2, rel=0.02)
    assert twice == pytest.approx(3, rel=0.02)


def test_errors_are_of_the_measured_times() -> None:
    found = errors(np.array([1.1, 0.8, 2.0]), np.array([1.0, 1.0, 1.0]))
    assert found.rows == 3
    assert found.median_ape == pytest.approx(0.2)
    assert found.mape == pytest.approx((0.1 + 0.2 + 1.0) / 3)
    assert found.p90_ape == pytest.approx(0.2 + 0.8 * 0.8)


def test_groups_have_all_rows_once() -> None:
    rows = [measured("relu", t, m=4, n=4) for t in (1e-6, 1e-5, 5e-5, 2e-4, 3.0)] + products(7)
    prepared = prepare(rows)
    found = groups(prepared, predict(prepared, A100, PROFILE))
    assert sum(group["rows"] for group in found) == len(rows)
    bands = [(g["from_s"], g["to_s"], g["rows"]) for g in found if g["kind"] == "relu"]
    assert bands == [(0.0, 1e-5, 1), (1e-5, 1e-4, 2), (1e-4, 1e-3, 1), (1e-3, None, 1)]


def test_a_dtype_the_device_does_not_multiply() -> None:
    with pytest.raises(SpecError) as caught:
        check_dtypes(products(3), ebmsim.load_hardware("t4"), PROFILE, "table.csv")
    assert str(caught.value).startswith("table.csv:2:1: dtype: t4 has no peak for bf16 products\n    it has ")


def made(name: str, device: ebmsim.Hardware, noise: float, truth: dict[str, float]) -> Table:
    """A table of products whose times the model made, with noise."""
    rows = products(150, seed=len(name))
    times = predict(prepare(rows), device, with_coefficients(PROFILE, truth))
    times *= np.exp(noise * np.random.default_rng(1).standard_normal(len(times)))
    rows = [row._replace(seconds=float(t)) for row, t in zip(rows, times, strict=True)]
    return Table(name, device, prepare(rows), {"products": prepare(rows)})


def test_coefficients_are_found_again() -> None:
    truth = {"base": 1.5, "edge": 0.9, "kernel_cycles": 1500.0, "prologue": 1800.0}
    tables = [made("one", A100, 0.01, truth), made("other", H100, 0.01, truth)]
    found = with_coefficients(PROFILE, fit(tables, PROFILE))
    there = with_coefficients(PROFILE, truth)
    # Coefficients stand in for one another; what they predict is what counts.
    rows = prepare(products(200, seed=9))
    for device in (A100, H100):
        ratio = predict(rows, device, found) / predict(rows, device, there)
        assert np.median(np.abs(ratio - 1)) < 0.02
    assert found.kernel_cycles == pytest.approx(there.kernel_cycles, rel=0.25)


def test_intervals_hold_the_share_they_say() -> None:
    tables = [made("one", A100, 0.3, {}), made("other", H100, 0.3, {})]
    profile = spread(tables, PROFILE)
    for table in tables:
        (row,) = (r for r in evaluate(table, profile) if r["rows of"] == "all")
        assert 0.7 < row["covered"] < 0.9
    assert EIGHTY * deviation_of(tables[0].all.measurements[0], profile) == pytest.approx(EIGHTY * 0.3, rel=0.2)


def test_the_order_of_devices() -> None:
    # The same shapes and names of one length: the same seed.
    tables = [made("one", A100, 0.0, {}), made("two", H100, 0.0, {})]
    (same,) = ranking(tables, PROFILE)
    assert (same["shapes"], same["tau_times"], same["tau_devices"]) == (150, pytest.approx(1.0), 1.0)
    (swapped,) = ranking([tables[0]._replace(device=H100), tables[1]._replace(device=A100)], PROFILE)
    assert swapped["tau_devices"] == -1.0


def test_a_profile_is_rewritten_with_what_it_has() -> None:
    text = find("software", "torch-cuda").read_text(encoding="utf-8")
    assert rewritten(text, PROFILE) == text
    other = rewritten(text, replace(PROFILE, loop=9.0, common_error=0.5))
    assert "\nloop: 9.00\n" in other and "\ncommon_error: 0.500\n" in other
