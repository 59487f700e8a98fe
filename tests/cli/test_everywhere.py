"""Every workload on every device under every policy answers, or says which dtype the device does not multiply."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import pytest

import ebmsim
from ebmsim.errors import SpecError
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.graph.kernels import BYTES
from ebmsim.lowered import Lowered
from ebmsim.lowering import fused, lower_workload
from ebmsim.paper.ledger import PROFILED
from ebmsim.policy import CHAIN_MODES, EXECUTIONS, MATHS
from ebmsim.spec.library import load_profile, names

WORKLOADS = names("workload")
DEVICES = names("hardware")
TABLE_II = [name for name in WORKLOADS if ebmsim.load_workload(name).file.taxonomy.paper is not None]


@cache
def lowered(workload: str, software: str, chain_mode: str, fusion: bool, dtype: str) -> Lowered:
    policy = ebmsim.Policy("persistent" if fusion else "eager", dtype=dtype, software=software, chain_mode=chain_mode)
    return lower_workload(ebmsim.load_workload(workload, "small"), policy, load_profile(software))


def answer(workload: str, hardware: ebmsim.Hardware, **how: Any) -> dict[str, Any]:
    policy = settled(ebmsim.Policy(**how), hardware)
    profile = load_profile(policy.software)
    made = lowered(workload, policy.software, policy.chain_mode, fused(profile, policy), policy.dtype)
    return dict(estimate_lowered(made, hardware, policy, profile).seconds)


def widest(hardware: ebmsim.Hardware) -> str:
    """fp32, or the type with the most bits that a device without it multiplies."""
    return next(dtype for dtype in ("fp32", "fp16", "int8") if dtype in hardware.matrix.peak)


def is_a_time(seconds: dict[str, Any]) -> bool:
    positive = ("t_samp", "t_samp_first", "t_fwd", "t_inf", "t_inf_eq6")
    known = [value for value in seconds.values() if value is not None]
    return all(math.isfinite(value) and value >= 0 for value in known) and all(seconds[k] > 0 for k in positive)


def test_there_are_all() -> None:
    assert len(TABLE_II) == 18 and set(PROFILED) < set(TABLE_II)
    assert set(WORKLOADS) > {*TABLE_II, "ebm_mbp"}
    assert len(DEVICES) >= 22


def one_of_each() -> tuple[str, ...]:
    """The first device of every make-up that the formulas tell apart."""
    found: dict[Any, str] = {}
    for name in DEVICES:
        device = ebmsim.load_hardware(name)
        of = (device.matrix.organisation, len(device.matrix.subarrays), device.host.asynchronous, device.features)
        found.setdefault((*of, len(device.memory)), name)
    return tuple(found.values())


@pytest.mark.parametrize("workload", WORKLOADS)
def test_all_answer(workload: str) -> None:
    """In the cheapest and the dearest execution."""
    for device, fidelity, execution in product(DEVICES, ("roofline", "analytical"), ("eager", "persistent")):
        how = {"fidelity": fidelity, "execution": execution, "chain_mode": "batched", "streams": 1}
        hardware = ebmsim.load_hardware(device)
        assert is_a_time(answer(workload, hardware, dtype=widest(hardware), **how)), (device, how)


@pytest.mark.parametrize("workload", PROFILED)
def test_every_policy_answers(workload: str) -> None:
    for device, execution, mode, streams in product(one_of_each(), EXECUTIONS, CHAIN_MODES, (1, 4)):
        how = {"execution": execution, "chain_mode": mode, "streams": streams}
        hardware = ebmsim.load_hardware(device)
        assert is_a_time(answer(workload, hardware, dtype=widest(hardware), **how)), (device, how)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_precision_answers_where_the_device_has_it(workload: str) -> None:
    answered = 0
    for device, dtype, math_mode in product(DEVICES, BYTES, MATHS[1:2]):
        hardware = ebmsim.load_hardware(device)
        try:
            assert is_a_time(answer(workload, hardware, dtype=dtype, math=math_mode)), (device, dtype, math_mode)
            answered += 1
        except SpecError as error:
            assert f"{device} has no peak for" in str(error), (device, dtype, math_mode)
            assert dtype not in hardware.matrix.peak or dtype == "tf32"
    assert answered >= len(DEVICES)


@pytest.mark.parametrize("device", DEVICES)
def test_a_limit_answers_and_claims_no_interval(device: str) -> None:
    """The profile without any software, on tiles, vectors and systolic arrays."""
    hardware = ebmsim.load_hardware(device)
    policy = settled(ebmsim.Policy(dtype=widest(hardware), software="ideal"), hardware)
    made = lowered("ccsp", "ideal", "batched", False, policy.dtype)
    found = estimate_lowered(made, hardware, policy, load_profile("ideal"))
    assert is_a_time(dict(found.seconds)) and found.seconds_interval == {}
