"""Figures of the shipped devices against what their chips do per unit and clock; an estimate on every one of them."""

from __future__ import annotations

import pytest

from ebmsim.estimation import estimate
from ebmsim.hardware import Hardware, SubArray
from ebmsim.policy import Policy
from ebmsim.spec.library import load_hardware, load_workload, names

# Multiply-adds of one SM in one clock, dense. FP32 on CUDA cores: one per lane, 64 lanes on Volta, Turing and GA100,
# 128 on all others. On tensor cores: how many there are × how many multiply-adds each does.
VOLTA = {"fp64": 32, "fp32": 64, "fp16": 8 * 64}
TURING = {"fp64": 2, "fp32": 64, "fp16": 8 * 64, "int8": 8 * 128, "int4": 8 * 256}
GA100 = {
    "fp64": 4 * 16,
    "fp32": 64,
    "tf32": 4 * 128,
    "bf16": 4 * 256,
    "fp16": 4 * 256,
    "int8": 4 * 512,
    "int4": 4 * 1024,
}
GA10B = {"fp64": 2, "fp32": 128, "tf32": 4 * 128, "bf16": 4 * 256, "fp16": 4 * 256, "int8": 4 * 512}
HOPPER = {
    "fp64": 4 * 32, "fp32": 128, "tf32": 4 * 256, "bf16": 4 * 512, "fp16": 4 * 512, "fp8": 4 * 1024, "int8": 4 * 1024
}  # fmt: skip
B200 = {
    "fp64": 64, "fp32": 128, "tf32": 4 * 512, "bf16": 4 * 1024, "fp16": 4 * 1024, "fp8": 4 * 2048, "int8": 4 * 2048,
    "fp4": 4 * 4096,
}  # fmt: skip
# Professional cards; GeForce cards do half of it where sums are FP32 (all floating types but FP4).
ADA = {"fp64": 2, "fp32": 128, "tf32": 4 * 64, "bf16": 4 * 128, "fp16": 4 * 128, "fp8": 4 * 256, "int8": 4 * 256}
HALVED = ("tf32", "bf16", "fp16", "fp8")
GEFORCE = {dtype: rate // 2 if dtype in HALVED else rate for dtype, rate in ADA.items()}
RATES = {
    "v100": VOLTA,
    "t4": TURING,
    "a100": GA100,
    "a100_80gb_pcie": GA100,
    "a100_40gb_pcie": GA100,
    "orin": GA10B,
    "h100": HOPPER,
    "h100_pcie": HOPPER,
    "h200": HOPPER,
    "b200": B200,
    "rtx4090": GEFORCE | {"int4": 4 * 512},
    "l4": ADA | {"int4": 4 * 512},
    "l40s": ADA,
    "rtx5090": GEFORCE | {"fp4": 4 * 512},
    "rtx_pro_6000": ADA | {"fp4": 4 * 512},
    # 128 lanes, no tensor cores.
    "m4max": {"fp32": 128, "bf16": 128, "fp16": 128},
}
# FLOPs of one core in one clock: 512-bit multiply-adds of 16 FP32 lanes, two a clock on Zen 5 and Golden Cove, one on
# Zen 4. AMX: 16 × 16 sums of 32 products in 16 clocks.
CORES = {
    "ryzen9900x": {"fp64": 2 * 8 * 2, "fp32": 2 * 16 * 2},
    "epyc9654": {"fp64": 8 * 2, "fp32": 16 * 2, "bf16": 32 * 2},
    "xeon8480": {"fp64": 2 * 8 * 2, "fp32": 2 * 16 * 2, "bf16": 16 * 16 * 32 * 2 // 16, "int8": 16 * 16 * 64 * 2 // 16},
}
# Arrays, their side, and how much faster than BF16 the integers are.
TPUS = {"tpu_v4": (8, 128, 1), "tpu_v5e": (4, 128, 2), "tpu_v5p": (8, 128, 2), "tpu_v6e": (4, 256, 2)}

# FLOP/byte at which FP32 and BF16 (FP16 on Volta and Turing) products stop being held up by main memory, from the data
# sheets: TFLOP/s over TB/s.
RIDGES = {
    "v100": (14.1 / 0.9, 112 / 0.9),
    "t4": (8.1 / 0.32, 65 / 0.32),
    "a100": (19.5 / 2.039, 312 / 2.039),
    "a100_80gb_pcie": (19.5 / 1.935, 312 / 1.935),
    "a100_40gb_pcie": (19.5 / 1.555, 312 / 1.555),
    "h100": (67 / 3.35, 989 / 3.35),
    "h200": (67 / 4.8, 989 / 4.8),
    "b200": (75 / 8, 2250 / 8),
    "l4": (30.3 / 0.3, 121 / 0.3),
    "l40s": (91.6 / 0.864, 362 / 0.864),
    "orin": (5.3 / 0.2048, 42.6 / 0.2048),
    "rtx4090": (82.6 / 1.008, 165.2 / 1.008),
    "rtx5090": (104.8 / 1.792, 209.5 / 1.792),
    "rtx_pro_6000": (125 / 1.792, 504 / 1.792),
    "tpu_v4": (275 / 6 / 1.228, 275 / 1.228),
    "tpu_v5e": (197 / 6 / 0.819, 197 / 0.819),
    "tpu_v5p": (459 / 6 / 2.765, 459 / 2.765),
    "tpu_v6e": (918 / 6 / 1.64, 918 / 1.64),
}


# Their sums are in test_accelerators.py.
ACCELERATORS = (
    "eyeriss", "ethos_u85", "ethos_u85_1024", "ethos_u85_512", "ethos_u85_256", "ethos_u85_128", "groq_lpu", "wse3",
    "mc2a", "ebm_aware", "ebm_aware_equal", "ebm_aware_edge", "ebm_aware_5090", "ebm_aware_5090_subarrays",
    "ebm_aware_5090_equal", "rtx5090_4x_l2",
)  # fmt: skip


def widest(device: Hardware) -> str:
    """The type that a device multiplies with the most bits."""
    return next(dtype for dtype in ("fp32", "fp16", "int8") if dtype in device.matrix.peak)


def test_every_shipped_device_is_here() -> None:
    assert sorted([*RATES, *CORES, *TPUS, *ACCELERATORS]) == names("hardware")


@pytest.mark.parametrize("name", RATES)
def test_peaks_of_a_gpu(name: str) -> None:
    """SMs × multiply-adds per SM and clock × 2 × clock, within the rounding of data sheets."""
    device = load_hardware(name)
    expected = {d: device.units * rate * 2 * device.matrix_clock(d) for d, rate in RATES[name].items()}
    assert device.matrix.peak == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", RATES)
def test_vector_rates_of_a_gpu(name: str) -> None:
    """A multiply-add per FP32 lane; FP16 and BF16 are one, two or four times that."""
    device = load_hardware(name)
    fp32 = device.units * RATES[name]["fp32"] * 2 * device.clock
    assert device.vector.peak["fp32"] == pytest.approx(fp32, rel=0.01)
    for dtype in ("bf16", "fp16"):
        if dtype in device.vector.peak:
            times = device.vector.peak[dtype] / fp32
            assert round(times) in (1, 2, 4) and times == pytest.approx(round(times), rel=0.01)
    if name != "m4max":
        assert device.vector.special == pytest.approx(device.units * 16 * device.clock, rel=0.01)


def test_types_a_generation_lacks() -> None:
    """Volta and Turing have neither BF16 nor TF32, FP8 came with Ada and Hopper, FP4 with Blackwell."""
    have = {name: set(load_hardware(name).matrix.peak) for name in RATES}
    assert {name for name, types in have.items() if "bf16" not in types} == {"v100", "t4"}
    assert {name for name, types in have.items() if "tf32" not in types} == {"v100", "t4", "m4max"}
    new = {"rtx4090", "l4", "l40s", "h100", "h100_pcie", "h200", "b200", "rtx5090", "rtx_pro_6000"}
    assert {name for name, types in have.items() if "fp8" in types} == new
    assert {name for name, types in have.items() if "fp4" in types} == {"b200", "rtx5090", "rtx_pro_6000"}


@pytest.mark.parametrize("name", CORES)
def test_peaks_of_a_cpu(name: str) -> None:
    device = load_hardware(name)
    for dtype, flops in CORES[name].items():
        assert device.matrix.peak[dtype] == pytest.approx(device.units * flops * device.clock, rel=0.01)
    for dtype in ("fp64", "fp32"):
        assert device.vector.peak[dtype] == device.matrix.peak[dtype]


@pytest.mark.parametrize("name", TPUS)
def test_peaks_of_a_tpu(name: str) -> None:
    device, (arrays, side, times) = load_hardware(name), TPUS[name]
    assert device.matrix.subarrays == (SubArray(side, side, arrays),)
    bf16 = arrays * side * side * 2 * device.clock
    assert device.matrix.peak["bf16"] == pytest.approx(bf16, rel=0.01)
    assert device.matrix.peak["int8"] == pytest.approx(times * bf16, rel=0.01)
    assert device.matrix.peak["fp32"] == pytest.approx(bf16 / 6, rel=0.01)


@pytest.mark.parametrize("name", RIDGES)
def test_ridges(name: str) -> None:
    device = load_hardware(name)
    low = device.matrix.peak.get("bf16", device.matrix.peak.get("fp16"))
    found = device.matrix.peak["fp32"] / device.memory[-1].bandwidth, low / device.memory[-1].bandwidth
    assert found == pytest.approx(RIDGES[name], rel=0.015)


@pytest.mark.parametrize("name", names("hardware"))
def test_figures_that_every_device_keeps(name: str) -> None:
    """Clocks from half to 1.3 times what the peaks are quoted at; no type costs more than the widest (FP64 may)."""
    device = load_hardware(name)
    assert 0.5 * device.clock < device.sustained_clock <= 1.3 * device.clock
    assert 0.7 < device.memory[-1].efficiency < 1
    assert device.memory[-1].capacity == max(level.capacity for level in device.memory)
    energy = device.power.energy
    assert all(energy[d] <= energy[widest(device)] for d in energy if d != "fp64")


@pytest.mark.parametrize("name", names("hardware"))
def test_products_may_run_at_the_sustained_clock(name: str) -> None:
    """A sustained clock holds against the limit of power: FP32 at full rate needs no more than that leaves.

    (Or the widest type of a device without it.)

    But for the two cards of 70 W, whose limit cuts long products to a third or a half of the rate (measured).
    """
    device = load_hardware(name)
    dtype = widest(device)
    watts = device.matrix.peak[dtype] * device.sustained_clock / device.matrix_clock(dtype) * device.power.energy[dtype]
    share = (device.power.limit - device.power.static) / watts
    assert 0.3 < share < 0.7 if name in ("l4", "t4") else share >= 1 / 1.05


@pytest.mark.parametrize("name", names("hardware"))
def test_every_device_answers(name: str) -> None:
    workload = load_workload("ebm_imp", "small")
    device: Hardware = load_hardware(name)
    bound, full = (
        estimate(workload, device, Policy(fidelity=f, dtype=widest(device))) for f in ("roofline", "analytical")
    )
    for part in ("t_samp", "t_samp_first", "t_inf", "t_train"):
        low, high = bound.seconds[part], full.seconds[part]
        assert low is not None and high is not None
        assert 0 < low <= high * (1 + 1e-9), part
