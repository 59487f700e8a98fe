"""Accelerators, built and imagined: the sums behind their figures, what they refuse, and that they answer."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest

import ebmsim
from ebmsim.cli.main import main
from ebmsim.errors import SpecError
from ebmsim.estimation import Estimate, estimate_lowered, settled
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.lowering import fused, lower_workload
from ebmsim.policy import FIDELITIES, Policy
from ebmsim.spec.library import load_hardware, load_profile, load_workload, names

# Multiply-adds per clock, and the rate of every type over that of the widest that the cells are made for.
CELLS: dict[str, tuple[int, dict[str, float]]] = {
    "eyeriss": (12 * 14, {"fp16": 1}),
    "ethos_u85": (2048, {"int8": 1}),
    "ethos_u85_1024": (1024, {"int8": 1}),
    "ethos_u85_512": (512, {"int8": 1}),
    "ethos_u85_256": (256, {"int8": 1}),
    "ethos_u85_128": (128, {"int8": 1}),
    "groq_lpu": (4 * 320 * 320, {"int8": 1, "fp16": 1 / 4}),
    "wse3": (900_000 * 8, {"fp16": 1, "bf16": 1, "fp32": 1 / 4}),
    "mc2a": (32 * 32, {"bf16": 1, "fp32": 1 / 6}),
    "ebm_aware": (4 * 128**2 + 8 * 64**2, {"bf16": 1, "fp32": 1 / 6, "fp8": 2, "int8": 2}),
    "ebm_aware_equal": (6 * 128**2, {"bf16": 1, "fp32": 1 / 6, "fp8": 2, "int8": 2}),
    "ebm_aware_edge": (32 * 64 + 2 * 32**2, {"bf16": 1, "fp32": 1 / 6, "fp8": 2, "int8": 2}),
}
# Operations outside products per clock, results of special functions, and normal numbers.
VECTORS = {
    "eyeriss": (168, 168 / 15, 168 / 10),
    "ethos_u85": (2048 / 16, 2048 / 32, 1 / 20),
    "ethos_u85_1024": (1024 / 16, 1024 / 32, 1 / 20),
    "ethos_u85_512": (512 / 16, 512 / 32, 1 / 20),
    "ethos_u85_256": (256 / 16, 256 / 32, 1 / 20),
    "ethos_u85_128": (128 / 16, 128 / 32, 1 / 20),
    "groq_lpu": (5120, 5120 / 4, 5120 / 10),
    "wse3": (900_000 * 8 * 2, 900_000 / 15, 900_000 / 10),
    "mc2a": (64 * 8, 64, 64 / 2),
    "ebm_aware": (8192 * 2, 8192 / 8, 1024),
    "ebm_aware_equal": (8192 * 2, 8192 / 8, 1024),
    "ebm_aware_edge": (512 * 2, 512 / 8, 64),
}
# Bytes per second from widths and clocks.
BANDWIDTHS = {
    ("eyeriss", "scratchpads"): 168 * 4 * 2 * 200e6,
    ("eyeriss", "buffer"): (8 + 2 + 8 + 8) * 200e6,
    ("eyeriss", "dram"): 64 / 8 * 90e6,
    ("ethos_u85", "sram"): 4 * 16 * 1e9,
    ("ethos_u85", "dram"): 2 * 16 * 0.75e9,
    ("ethos_u85_128", "sram"): 2 * 16 * 1e9,
    ("ethos_u85_128", "dram"): 16 * 0.75e9,
    ("mc2a", "sram"): 64 * 8 * 0.5e9,
    ("mc2a", "dram"): 64 / 8 * 6.4e9,
    ("ebm_aware", "dram"): 2 * 1024 / 8 * 6.4e9,
    ("ebm_aware_edge", "dram"): 64 / 8 * 6.4e9,
}
CAPACITIES = {
    ("eyeriss", "scratchpads"): 168 * 2 * (224 + 12 + 24),
    ("eyeriss", "buffer"): 108 * 2**10,
    ("groq_lpu", "sram"): 230e6,
    ("wse3", "sram"): 900_000 * 48 * 2**10,
    ("ebm_aware", "sram"): 2**28,
    ("rtx5090_4x_l2", "l2"): 4 * 96 * 2**20,
}
LIKE_THE_5090 = ("ebm_aware_5090", "ebm_aware_5090_subarrays", "ebm_aware_5090_equal", "rtx5090_4x_l2")
ALL = (*CELLS, *LIKE_THE_5090)
FEATURES = ("stationary_weights", "rng_overlapped", "resident_loop")
WORKLOADS = names("workload")


@cache
def lowered(workload: str, software: str, fusion: bool, dtype: str) -> Lowered:
    policy = Policy("persistent" if fusion else "eager", dtype=dtype, software=software)
    return lower_workload(load_workload(workload, "small"), policy, load_profile(software))


def answer(workload: str, device: Hardware, **how: Any) -> Estimate:
    policy = settled(Policy(**how), device)
    profile = load_profile(policy.software)
    made = lowered(workload, policy.software, fused(profile, policy), policy.dtype)
    return estimate_lowered(made, device, policy, profile)


def times(found: Estimate) -> dict[str, float]:
    return {part: seconds for part, seconds in found.seconds.items() if seconds is not None}


def level(device: Hardware, name: str) -> Any:
    (found,) = (level for level in device.memory if level.name == name)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_peaks_are_those_of_the_cells(name: str) -> None:
    device, (count, ratios) = load_hardware(name), CELLS[name]
    assert device.matrix.cells == count
    assert device.matrix.peak == pytest.approx({d: 2 * count * device.clock * r for d, r in ratios.items()}, rel=1e-3)


@pytest.mark.parametrize("name", VECTORS)
def test_rates_outside_products(name: str) -> None:
    device, (plain, special, random) = load_hardware(name), VECTORS[name]
    widest = max(device.vector.peak.values())
    found = widest, device.vector.special, device.vector.random
    assert found == pytest.approx((plain * device.clock, special * device.clock, random * device.clock), rel=2e-3)


@pytest.mark.parametrize(("name", "where"), BANDWIDTHS)
def test_bandwidths_are_widths_times_clocks(name: str, where: str) -> None:
    assert level(load_hardware(name), where).bandwidth == pytest.approx(BANDWIDTHS[name, where], rel=1e-3)


@pytest.mark.parametrize(("name", "where"), CAPACITIES)
def test_capacities(name: str, where: str) -> None:
    assert level(load_hardware(name), where).capacity == pytest.approx(CAPACITIES[name, where], rel=0.01)


def test_what_the_authors_measured_on_eyeriss() -> None:
    """AlexNet's convolutions: output pixels × filters × taps, 35 frames/s, 278 mW. Below the peak, and its energy."""
    layers = [(55**2, 96, 363), (27**2, 256, 1200), (13**2, 384, 2304), (13**2, 384, 1728), (13**2, 256, 1728)]
    frame = 2 * sum(math.prod(layer) for layer in layers)
    device = load_hardware("eyeriss")
    assert 35 * frame / device.matrix.peak["fp16"] == pytest.approx(0.69, abs=0.01)
    assert 35 * frame * device.power.energy["fp16"] + device.power.static == pytest.approx(0.278, rel=0.01)


def test_the_dense_peak_of_the_wafer() -> None:
    """125 PFLOP/s are printed with sparsity, which is said to be up to eight times as fast."""
    assert 125e15 / load_hardware("wse3").matrix.peak["fp16"] == pytest.approx(8, rel=0.02)


def test_the_printed_peaks_of_groq() -> None:
    device = load_hardware("groq_lpu")
    for dtype, printed in (("int8", 750e12), ("fp16", 188e12)):
        assert 0.97 * printed < device.matrix.peak[dtype] < printed


@pytest.mark.parametrize("name", ["eyeriss", "ethos_u85", "ethos_u85_128", "mc2a", "ebm_aware"])
def test_all_parts_may_work_at_once(name: str) -> None:
    """Products or other arithmetic, all levels, and static power, within the limit and not far below."""
    device = load_hardware(name)
    energy = device.power.energy
    arithmetic = max(
        rates.get(d, 0.0) * energy[d] for d in energy for rates in (device.matrix.peak, device.vector.peak)
    )
    moving = sum(part.bandwidth * part.energy for part in device.memory)
    assert 0.75 < (arithmetic + moving + device.power.static) / device.power.limit <= 1


def test_nothing_is_launched_on_groq() -> None:
    """Its schedule is fixed: no time beside the kernels' own work, where no host is waited for."""
    found = answer("ebm_imp", load_hardware("groq_lpu"), dtype="fp16")
    assert set(found.bounds) <= {"compute", "memory:sram"}


@pytest.mark.parametrize("name", ALL)
def test_the_files_have_no_problems(name: str) -> None:
    device = load_hardware(name)
    assert device.kind == ("gpu" if name == "rtx5090_4x_l2" else "accelerator")
    assert device.notes and not device.validated
    assert device.software == ("torch-cuda" if name in LIKE_THE_5090 else "ideal")


@pytest.mark.parametrize(
    ("name", "dtype", "known"),
    [
        ("eyeriss", "fp32", "fp16"),
        ("eyeriss", "int8", "fp16"),
        ("ethos_u85", "fp32", "int8"),
        ("ethos_u85_256", "fp16", "int8"),
        ("groq_lpu", "fp32", "fp16, int8"),
        ("groq_lpu", "bf16", "fp16, int8"),
        ("wse3", "int8", "fp32, bf16, fp16"),
    ],
)
def test_a_type_the_cells_lack_is_refused(name: str, dtype: str, known: str) -> None:
    with pytest.raises(SpecError) as caught:
        answer("ired", load_hardware(name), dtype=dtype)
    assert str(caught.value) == f"{name} has no peak for {dtype} products\n    it has {known}"


def test_the_refusal_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(("estimate", "ired", "--preset", "small", "--hw", "ethos_u85"))
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err == "ethos_u85 has no peak for fp32 products\n    it has int8\n"


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_answers(workload: str) -> None:
    """Finite times no shorter than the bound, some energy, and no more power than the limit.

    In the types that some device has alone; every type of every device is tried in tests/cli/test_everywhere.py.
    """
    for name in ALL:
        device = load_hardware(name)
        types = CELLS[name][1] if name in CELLS else ("fp32",)
        for dtype in [dtype for dtype in types if dtype in ("fp32", "fp16", "int8")]:
            bound, full = (answer(workload, device, dtype=dtype, fidelity=f) for f in FIDELITIES[:2])
            low, high = times(bound), times(full)
            assert low.keys() == high.keys() and high["t_samp"] > 0
            for part, seconds in high.items():
                assert math.isfinite(seconds) and 0 <= low[part] <= seconds * (1 + 1e-9), (name, dtype, part)
            for found in (bound, full):
                assert found.energy["step_joules"] > 0
                assert 0 < found.energy["mean_power_watts"] <= device.power.limit * (1 + 1e-9), (name, dtype)


@pytest.mark.parametrize("workload", ["ebm_cvr", "ebt", "irem"])
def test_without_its_features_the_card_is_a_5090(workload: str) -> None:
    off = load_hardware("ebm_aware_5090", {f"features.{name}": False for name in FEATURES})
    assert answer(workload, off).seconds == answer(workload, load_hardware("rtx5090")).seconds


@pytest.mark.parametrize("device", ["ebm_aware", "ebm_aware_edge", "ebm_aware_5090", "ebm_aware_5090_subarrays"])
@pytest.mark.parametrize(("feature", "value"), [*((name, False) for name in FEATURES), ("transposed_weights", 0.5)])
def test_a_feature_switched_off_is_never_faster(device: str, feature: str, value: Any) -> None:
    """And each of them matters to some workload."""
    with_all, without = load_hardware(device), load_hardware(device, {f"features.{feature}": value})
    slower = 0
    for workload in ("ebm_cvr", "ebm_imp", "ebt", "irem", "score_unet"):
        fast, slow = (times(answer(workload, d))["t_samp"] for d in (with_all, without))
        assert slow >= fast
        slower += slow > fast
    # The weights of the small presets fit a large memory with everything else: nothing pushes them out.
    assert slower > 0 or (feature == "stationary_weights" and device != "ebm_aware_edge")


def test_features_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    def step(*words: str) -> str:
        main(("estimate", "irem", "--preset", "small", "--hw", "ebm_aware", *words))
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(" T_samp"))
        return line

    assert step() != step("--set", "hardware.features.resident_loop=false")


def test_the_arrays_of_the_5090_have_its_multiply_adds() -> None:
    """170 SMs × 256 in BF16 and half of it in FP32; unequal and equal arrays of as many cells."""
    for name in ("ebm_aware_5090_subarrays", "ebm_aware_5090_equal"):
        device = load_hardware(name)
        assert device.matrix.cells == 170 * 256
        for dtype, share in (("bf16", 1), ("fp32", 0.5), ("tf32", 0.5)):
            assert device.matrix.peak[dtype] == pytest.approx(2 * device.matrix.cells * share * device.clock, rel=1e-3)


def test_four_times_the_cache_is_all_that_differs() -> None:
    base, more = load_hardware("rtx5090"), load_hardware("rtx5090_4x_l2")
    same = load_hardware("rtx5090", {"memory.l2.capacity": "384 MiB"})
    assert (more.memory, more.matrix, more.power, more.launch) == (same.memory, same.matrix, same.power, same.launch)
    full, cached = (times(ebmsim.estimate(load_workload("ebm_cvr"), device)) for device in (base, more))
    assert cached["t_samp"] < full["t_samp"]
