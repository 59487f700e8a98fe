"""Many devices at once give at every point what an estimate of that device gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ebmsim
from ebmsim.cost.machine import machine_of
from ebmsim.errors import EbmsimError
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_profile, names
from ebmsim.sweep.engine import evaluate, prepare
from ebmsim.sweep.engine import figures as engine_figures
from ebmsim.sweep.figures import figures_of, with_figures

# Of the device's own figure, on either side of where levels, waves, launches and power begin to hold a kernel up.
FACTORS = {
    "units": (0.5, 1.0, 1.7),
    "sustained_clock": (0.7, 1.4),
    "memory.dram.bandwidth": (0.25, 1.0, 4.0),
    "memory.l2.capacity": (0.01, 0.7, 8.0),
}
HOST = {
    "host.speed": (0.2, 1.0, 5.0),
    "host.synchronise": (0.1, 3.0),
    "host.link_bandwidth": (0.1, 2.0),
    "host.link_latency": (0.5, 4.0),
    "launch.replay": (0.2, 9.0),
    "launch.eager": (0.5, 6.0),
    "launch.graph": (0.5, 6.0),
    "launch.persistent": (0.5, 6.0),
}
POWER = {
    "power.limit": (0.4, 1.0),
    "power.static": (0.5, 1.2),
    "power.energy.fp32": (0.5, 4.0),
    "memory.dram.energy": (0.1, 9.0),
    "memory.dram.capacity": (0.001, 1.0),
}


def ready(name: str, hardware: Hardware, policy: Policy) -> tuple[Lowered, Policy, Profile]:
    policy = settled(policy, hardware)
    profile = load_profile(policy.software)
    return lower_workload(ebmsim.load_workload(name, "small"), policy, profile), policy, profile


def the_same(found: Mapping[str, Any], at: Any, exact: ebmsim.Estimate) -> None:
    """Everything found at a point is what the estimate says."""
    expected = {**exact.seconds, **exact.energy, **exact.memory}
    for name, values in found.items():
        assert values[at] == pytest.approx(expected[name], rel=1e-12), name


def check_grid(name: str, hardware: Hardware, policy: Policy, factors: Mapping[str, Any], seed: int = 0) -> None:
    lowered, policy, profile = ready(name, hardware, policy)
    known = figures_of(hardware)
    values = {path: known[path] * np.array(mine) for path, mine in factors.items() if known.get(path)}
    values = {path: np.maximum(np.round(mine), 1.0) if path == "units" else mine for path, mine in values.items()}
    axes = dict(zip(values, np.ix_(*values.values(), [0.0])[:-1], strict=True))
    found = evaluate(prepare(lowered, profile, policy), machine_of(with_figures(hardware, axes)))
    shape = tuple(len(mine) for mine in values.values())
    assert all(mine.shape == shape for mine in found.values())
    random = np.random.default_rng(seed)
    for _ in range(12):
        at = tuple(int(random.integers(n)) for n in shape)
        point = {path: float(mine[i]) for (path, mine), i in zip(values.items(), at, strict=True)}
        the_same(found, at, estimate_lowered(lowered, with_figures(hardware, point), policy, profile))


POLICIES = {
    "eager": Policy(),
    "graph": Policy(execution="graph", math="strict"),
    "compiled": Policy(execution="compiled"),
    "persistent": Policy(execution="persistent", chain_mode="sequential"),
    "roofline": Policy(fidelity="roofline", dtype="bf16"),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", ["ebm_imp", "ccsp", "ired"])
def test_a_grid_is_its_points(name: str, policy: Policy) -> None:
    check_grid(name, ebmsim.load_hardware("a100"), policy, FACTORS)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", ["ebt", "ccsp", "ebm_ebp"])
def test_figures_of_the_host_may_be_axes(name: str, policy: Policy) -> None:
    check_grid(name, ebmsim.load_hardware("a100"), policy, HOST | {"memory.l2.capacity": (0.01, 1.0)})


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_figures_of_power_may_be_axes(policy: Policy) -> None:
    check_grid("ebm_eqm", ebmsim.load_hardware("rtx5090"), policy, POWER | {"units": (0.5, 2.0)})


@pytest.mark.parametrize("device", ["tpu_v6e", "epyc9654", "h100"])
@pytest.mark.parametrize("name", ["ebm_gr", "rrr", "ade"])
def test_other_kinds_of_devices(name: str, device: str) -> None:
    hardware = ebmsim.load_hardware(device)
    dtype = "bf16" if hardware.kind == "tpu" else "fp32"
    capacities = {f"memory.{level.name}.capacity": (0.05, 1.0, 4.0) for level in hardware.memory[:-1]}
    last = f"memory.{hardware.memory[-1].name}.bandwidth"
    check_grid(name, hardware, Policy(dtype=dtype), {"units": (0.5, 1.0, 2.0), last: (0.3, 1.0)} | capacities)


@pytest.mark.parametrize("execution", ["eager", "persistent"])
@pytest.mark.parametrize("device", names("hardware"))
def test_every_device(device: str, execution: str) -> None:
    """Also those whose software has a sharp knee: powers of seconds may leave what a float can hold."""
    hardware = ebmsim.load_hardware(device)
    dtype = next(dtype for dtype in ("fp8", "bf16", "fp16", "int8") if dtype in hardware.matrix.peak)
    last = f"memory.{hardware.memory[-1].name}"
    factors = {"sustained_clock": (0.5, 1.0), f"{last}.bandwidth": (0.25, 1.0, 4.0), f"{last}.capacity": (0.5, 1.0)}
    check_grid("ebm_cvr", hardware, Policy(execution=execution, dtype=dtype), factors)


@pytest.mark.parametrize("path", ["matrix.rows", "matrix.columns", "matrix.arrays"])
def test_systolic_arrays_of_other_sizes(path: str) -> None:
    check_grid("ebm_eqm", ebmsim.load_hardware("tpu_v6e"), Policy(dtype="bf16"), {path: (0.25, 0.5, 1.0, 2.0)})


def check_points(name: str, hardware: Hardware, policy: Policy, factors: Mapping[str, Any], count: int) -> None:
    """Devices that vary in everything at once, along one axis."""
    lowered, policy, profile = ready(name, hardware, policy)
    known = figures_of(hardware)
    random = np.random.default_rng(count)
    values = {
        path: known[path] * np.exp(random.uniform(np.log(min(mine)), np.log(max(mine)), count))
        for path, mine in factors.items()
        if known.get(path)
    }
    values = {path: np.maximum(np.round(mine), 1.0) if path == "units" else mine for path, mine in values.items()}
    machine = machine_of(with_figures(hardware, {path: mine[:, None] for path, mine in values.items()}))
    found = evaluate(prepare(lowered, profile, policy), machine)
    assert all(mine.shape == (count,) for mine in found.values())
    for i in random.integers(0, count, 15):
        point = {path: float(mine[i]) for path, mine in values.items()}
        the_same(found, i, estimate_lowered(lowered, with_figures(hardware, point), policy, profile))


@pytest.mark.parametrize("count", [1, 3, 900])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_points_without_a_grid(policy: Policy, count: int) -> None:
    everything = FACTORS | HOST | POWER | {"memory.l2.bandwidth": (0.3, 3.0), "memory.dram.efficiency": (0.5, 1.1)}
    check_points("ccsp", ebmsim.load_hardware("a100"), policy, everything, count)


@pytest.mark.parametrize("device", ["tpu_v6e", "epyc9654", "rtx5090"])
@pytest.mark.parametrize("name", ["ebm_cdt", "ebt"])
def test_points_of_other_kinds_of_devices(name: str, device: str) -> None:
    hardware = ebmsim.load_hardware(device)
    dtype = "bf16" if hardware.kind == "tpu" else "fp32"
    capacities = {f"memory.{level.name}.capacity": (0.05, 4.0) for level in hardware.memory[:-1]}
    rates = {f"memory.{level.name}.bandwidth": (0.3, 3.0) for level in hardware.memory}
    sizes = {"units": (0.5, 2.0), "sustained_clock": (0.5, 2.0), "matrix.rows": (0.5, 2.0)}
    check_points(name, hardware, Policy(dtype=dtype), capacities | rates | sizes, 400)


def test_a_figure_may_follow_another_along_its_axis() -> None:
    hardware = ebmsim.load_hardware("a100")
    lowered, policy, profile = ready("ebm_cvr", hardware, Policy())
    units, bandwidth = np.array([27.0, 54.0, 108.0]), np.array([1e12, 2e12])
    axes = {"units": units[:, None, None], "memory.dram.bandwidth": bandwidth[None, :, None]}
    axes["memory.l2.capacity"] = axes["units"] * 4e5
    found = evaluate(prepare(lowered, profile, policy), machine_of(with_figures(hardware, axes)))
    for at in np.ndindex(3, 2):
        figures = {"units": units[at[0]], "memory.dram.bandwidth": bandwidth[at[1]]}
        figures["memory.l2.capacity"] = figures["units"] * 4e5
        the_same(found, at, estimate_lowered(lowered, with_figures(hardware, figures), policy, profile))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_axes(data: st.DataObject) -> None:
    hardware = ebmsim.load_hardware(data.draw(st.sampled_from(["a100", "rtx5090", "epyc9654"])))
    paths = FACTORS | HOST | POWER | {"memory.l2.bandwidth": (0.3, 3.0), "host.speed": (0.2, 5.0)}
    chosen = data.draw(st.lists(st.sampled_from(sorted(paths)), min_size=1, max_size=4, unique=True))
    policy = data.draw(st.sampled_from(list(POLICIES.values())[:3]))
    name = data.draw(st.sampled_from(["ebm_imp", "ccsp", "ebm_ebp", "comet"]))
    check_grid(name, hardware, policy, {path: paths[path] for path in chosen}, data.draw(st.integers(0, 99)))


def test_parts_of_a_grid_are_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_figures, "_BOX", 3)
    check_grid("ccsp", ebmsim.load_hardware("a100"), Policy(), FACTORS)


def test_groups_of_points_are_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_figures, "_NEAR", 5)
    check_points("ccsp", ebmsim.load_hardware("a100"), Policy(), FACTORS, 200)


def test_streams_are_refused() -> None:
    hardware = ebmsim.load_hardware("a100")
    lowered, policy, profile = ready("ebm_imp", hardware, Policy(streams=2))
    with pytest.raises(EbmsimError, match="one stream"):
        evaluate(prepare(lowered, profile, policy), machine_of(hardware))
