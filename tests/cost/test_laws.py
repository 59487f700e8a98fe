"""Laws of an estimate, over random workloads, devices and policies."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim.cost.compute import bound_seconds
from ebmsim.cost.machine import machine_of
from ebmsim.estimation import Estimate, estimate, estimate_lowered, settled
from ebmsim.graph.kernels import PHASES
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_hardware, load_profile
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

FEW = settings(max_examples=25)
TIMES = ("t_samp", "t_samp_first", "t_inf", "t_train")


def at_most(left: float | None, right: float | None) -> bool:
    """Whether one time is no larger than another, but for rounding."""
    assert left is not None and right is not None
    return left <= right * (1 + 1e-9)


def lowered_and_policy(workload: Workload, hardware: Hardware, policy: Policy) -> tuple[Lowered, Policy]:
    policy = settled(policy, hardware)
    return lower_workload(workload, policy, load_profile(policy.software)), policy


def timed(lowered: Lowered, hardware: Hardware, policy: Policy) -> Estimate:
    return estimate_lowered(lowered, hardware, policy, load_profile(policy.software))


def rewritten(workload: Workload, change: dict[str, Any]) -> Workload:
    """A workload with something changed in all its energies, its file written again."""
    data: dict[str, Any] = yaml.safe_load(yaml.safe_dump(workload.document.data))
    for component in data["components"].values():
        if component["role"] == "energy":
            component.update(change)
    document = parse_document(yaml.safe_dump(data, sort_keys=False))
    return settle(document, parse_workload(document))


# --- more hardware, more streams ------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(data=st.data(), workload=..., policy=...)
def test_more_of_any_figure_is_never_slower(more: Any, data: st.DataObject, workload: Workload, policy: Policy) -> None:
    change = data.draw(more)
    lowered, policy = lowered_and_policy(workload, change.before, policy)
    before, after = (timed(lowered, h, policy).seconds for h in (change.before, change.after))
    for name in TIMES:
        assert at_most(after[name], before[name]), name


@FEW
@given(...)
def test_one_more_stream_is_never_slower(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    lowered, policy = lowered_and_policy(workload, hardware, policy)
    before, after = (timed(lowered, hardware, replace(policy, streams=policy.streams + s)).seconds for s in (0, 1))
    for name in TIMES:
        assert at_most(after[name], before[name]), name


@FEW
@given(...)
def test_analytical_is_never_below_roofline(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    lowered, policy = lowered_and_policy(workload, hardware, policy)
    bound, full = (timed(lowered, hardware, replace(policy, fidelity=f)).seconds for f in ("roofline", "analytical"))
    for name in (*TIMES, "t_inf_eq6", "t_train_eq7", "t_once"):
        assert at_most(bound[name], full[name]), name


# --- the algebra of sampling ----------------------------------------------------------------------------------------


@FEW
@given(workload=..., hardware=..., policy=..., k=st.integers(1, 1000))
def test_inference_is_affine_in_steps(workload: Workload, hardware: Hardware, policy: Policy, k: int) -> None:
    """Times of K, 2 K and 4 K steps: the second difference is 0, and Eq. 6 is proportional."""
    one, two, four = (estimate(workload.with_parameters(steps=n * k), hardware, policy) for n in (1, 2, 4))
    assert one.seconds["t_samp"] == two.seconds["t_samp"] == four.seconds["t_samp"]
    t = [e.seconds["t_inf"] or 0.0 for e in (one, two, four)]
    assert t[2] - t[1] == pytest.approx(2 * (t[1] - t[0]), rel=1e-6)
    q = [e.seconds["t_inf_eq6"] for e in (one, two, four)]
    assert [q[1], q[2]] == pytest.approx([2 * q[0], 4 * q[0]])  # type: ignore[operator]


@FEW
@given(workload=..., hardware=..., policy=..., c=st.integers(1, 100))
def test_equation_6_is_proportional_to_chains(workload: Workload, hardware: Hardware, policy: Policy, c: int) -> None:
    one, three = (estimate(workload.with_parameters(chains=n * c), hardware, policy) for n in (1, 3))
    assert three.seconds["t_inf_eq6"] == pytest.approx(3 * (one.seconds["t_inf_eq6"] or 0.0))


# --- one step -------------------------------------------------------------------------------------------------------


@FEW
@given(...)
def test_parts_sum_to_the_whole(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    e = estimate(workload, hardware, policy)
    s = e.seconds
    phases = sum(s[name] or 0.0 for name in ("t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept"))
    assert phases == pytest.approx(s["t_samp"], rel=1e-9)
    assert sum(row["seconds"] for row in e.to_rows()) == pytest.approx(s["t_samp"], rel=1e-9)
    assert sum(e.bounds.values()) == pytest.approx(1)
    assert sum(e.categories.values()) == pytest.approx(1)
    assert all(share >= 0 for share in (*e.bounds.values(), *e.categories.values()))


@FEW
@given(...)
def test_a_step_takes_its_longest_chain_and_every_resource(
    workload: Workload, hardware: Hardware, policy: Policy
) -> None:
    e = estimate(workload, hardware, policy)
    table, costs = e.timing.table, e.timing.costs
    kernels = costs.seconds(e.profile.knee)
    for branch in set(table.branches):
        chain = sum(kernels[i] for i in range(len(table)) if table.branches[i] == branch)
        assert at_most(chain, e.seconds["t_samp"]), branch
    rows = e.lowered.rows
    arithmetic = bound_seconds(rows, machine_of(hardware), e.profile, policy) * e.lowered.step.counts
    assert at_most(float(np.sum(arithmetic[rows.product >= 0])), e.seconds["t_samp"])
    for name, seconds in zip(costs.traffic.levels, costs.traffic.seconds, strict=True):
        assert at_most(float(np.sum(seconds)), e.seconds["t_samp"]), name
    assert at_most(float(np.sum(e.timing.host)), e.seconds["t_samp"])


@FEW
@given(...)
def test_first_step_costs_at_least_the_steady_one(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    e = estimate(workload, hardware, policy)
    assert at_most(e.seconds["t_samp"], e.seconds["t_samp_first"])


@FEW
@given(...)
def test_duplicated_structures_cost_at_least_shared_weights(
    workload: Workload, hardware: Hardware, policy: Policy
) -> None:
    shared, distinct = (
        estimate(rewritten(workload, {"instances": 3, "weights": kind}), hardware, policy)
        for kind in ("shared", "distinct")
    )
    assert shared.timing.table.flops.sum() == distinct.timing.table.flops.sum()
    for name in ("t_samp", "t_samp_first", "t_inf"):
        assert at_most(shared.seconds[name], distinct.seconds[name]), name


@FEW
@given(...)
def test_mean_power_stays_below_the_limit(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    e = estimate(workload, hardware, replace(policy, fidelity="analytical"))
    assert at_most(e.energy["mean_power_watts"], hardware.power.limit)
    assert at_most(e.energy["inference_joules"], hardware.power.limit * (e.seconds["t_inf"] or 0.0))


# --- work -----------------------------------------------------------------------------------------------------------


@FEW
@given(...)
def test_input_gradient_takes_the_products_of_the_forward(workload: Workload) -> None:
    """A product with a weight has one product behind it, a product of two activations two, fused attention five halves.

    Others have none.
    """
    lowered, _ = lowered_and_policy(workload, load_hardware("rtx5090"), Policy())
    table = lowered.plain
    forward = np.array([b.startswith("net") for b in table.branches]) & (table.phase == PHASES.index("forward"))
    # A projection of the condition does not see the sample.
    seen = np.array([not name.endswith(".linear1") or "z" not in spec_of(workload, name) for name in table.names])
    twice = np.array([{"matmul": 2, "attention": 2.5}.get(op, 1) for op in table.ops])
    expected = (table.product_flops * twice)[forward & seen].sum()
    assert table.product_flops[table.phase == PHASES.index("backward-input")].sum() == expected


def spec_of(workload: Workload, node: str) -> Any:
    component = workload.file.components.get(node.split(".")[0].split("[")[0])
    return component.inputs if component else {}


@FEW
@given(workload=..., chains=st.integers(1, 50))
def test_kernels_are_constant_and_flops_affine_in_chains(workload: Workload, chains: int) -> None:
    """FLOPs of 1, 2 and 3 times the chains lie on a line; without a condition it passes through 0."""
    tables = [
        lowered_and_policy(workload.with_parameters(chains=n * chains), load_hardware("rtx5090"), Policy())[
            0
        ].step.table
        for n in (1, 2, 3)
    ]
    assert len({len(t) for t in tables}) == 1
    one, two, three = (t.flops.sum() for t in tables)
    assert two == pytest.approx(2 * one) and three == pytest.approx(3 * one)


@FEW
@given(...)
def test_fusing_keeps_products_and_adds_nothing(workload: Workload) -> None:
    lowered, _ = lowered_and_policy(workload, load_hardware("rtx5090"), Policy(execution="compiled"))
    fused, plain = lowered.step.table, lowered.plain
    assert fused.product_flops.sum() == plain.product_flops.sum()
    assert fused.flops.sum() == plain.flops.sum()
    assert len(fused) <= len(plain)
    assert (fused.read + fused.written).sum() <= (plain.read + plain.written).sum()
