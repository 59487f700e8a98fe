"""Components on several devices: one device against the timing of a pass, several against paths and sums by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import networkx
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim.estimation import estimate, priced, settled
from ebmsim.hardware import Hardware, Link
from ebmsim.lowered import Lowered
from ebmsim.lowering import fused, lower_workload
from ebmsim.placement import (
    Message,
    Turn,
    assigned,
    held_by,
    iteration_turn,
    loads,
    messages,
    places,
    seconds_of,
    step_turn,
)
from ebmsim.policy import EXECUTIONS, Policy
from ebmsim.scaling import scale
from ebmsim.spec.library import load_hardware, load_profile, load_workload, names
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle
from ebmsim.timing import Priced, time_pass

GPU = replace(load_hardware("h100"), link=Link(math.inf, 0.0, 1.0))
C, WIDTH = 8, 500


def toy(weights: str, instances: int = 2, role: str = "energy", **energy: Any) -> Workload:
    """So many perceptrons of a sample of 500 numbers; scores read an encoder too."""
    scores = role == "score"
    last = {"op": "linear", "out": WIDTH if scores else 1}
    components: dict[str, Any] = {
        "net": {
            "role": role,
            "instances": instances,
            "weights": weights,
            "inputs": {"x": "x"} | ({"z": "embed"} if scores else {}),
            "nodes": [
                {"op": "linear", "name": "h", "inputs": "x", "out": 64},
                *([{"op": "add", "inputs": ["h", "z"]}] if scores else []),
                {"op": "silu"},
                last,
            ],
        }
        | energy
    }
    program = [
        {"op": "random_normal", "name": "x", "shape": [WIDTH]},
        {"loop": "steps", "label": "step", "do": [
            {"evaluate": "score", "at": "x", "name": "g"}, {"op": "sub", "name": "x", "inputs": ["x", "g"]}
        ]},
    ]  # fmt: skip
    if scores:
        embed = {"role": "encoder", "inputs": {"x": "x"}, "nodes": [{"op": "linear", "out": 64}, {"op": "silu"}]}
        components = {"embed": embed} | components
    file = {
        "name": "toy",
        "title": "toy",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "hetero", "dependency": "mixed-parallel"},
        "parameters": {"chains": C, "steps": 10, "training_steps": 2, "training_batch": C, "iterations": 10},
        "components": components,
        "sampler": {"sample": {"x": [WIDTH]}} | ({"program": program} if scores else {"preset": "gradient-descent"}),
    } | ({} if scores else {"training": {"terms": ["contrastive"], "average": True, "clip": True}})
    document = parse_document(yaml.safe_dump(file, sort_keys=False))
    return settle(document, parse_workload(document))


def prepared(workload: Workload, policy: Policy, hardware: Hardware = GPU) -> tuple[Lowered, Priced, Turn, Turn | None]:
    """A workload lowered and priced, and the turns of its step and of its training iteration."""
    policy = settled(policy, hardware)
    profile = load_profile(policy.software)
    lowered = lower_workload(workload, policy, profile)
    fuses = fused(profile, policy)
    step = step_turn(workload, lowered.chains, policy.dtype, fuses)
    iteration = iteration_turn(workload, policy.dtype, fuses) if lowered.iteration else None
    return lowered, priced(lowered, hardware, policy, profile), step, iteration


@cache
def shipped(name: str, execution: str) -> tuple[Lowered, Priced, Turn, Turn | None]:
    """A shipped workload in its smallest size."""
    return prepared(load_workload(name, "small"), Policy(execution))


def branches(turn: Turn) -> list[str]:
    return list(dict.fromkeys(node.branch for node in turn.kernels if node.branch))


# --- one device ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["eager", "persistent"])
@pytest.mark.parametrize("name", names("workload"))
def test_on_one_device_a_pass_takes_what_it_takes(name: str, execution: str) -> None:
    """The rule for several devices has that for one as its case, with synchronisations and without."""
    lowered, prices, step, iteration = shipped(name, execution)
    for pass_, turn in ((lowered.step, step), (lowered.first, step), (lowered.iteration, iteration)):
        if pass_ is not None and turn is not None:
            assert [node.name for node in turn.kernels] == list(pass_.table.names)
            of = dict.fromkeys(branches(turn), 0)
            assert seconds_of(pass_, prices, turn, of) == pytest.approx(time_pass(pass_, prices).seconds, rel=1e-9)
            assert messages(turn, of) == []


def test_on_one_synchronous_device_too() -> None:
    host = replace(GPU.host, asynchronous=False)
    lowered, prices, step, _ = prepared(load_workload("ccsp", "small"), Policy(), replace(GPU, host=host))
    assert len(lowered.step.breaks)
    one = seconds_of(lowered.step, prices, step, dict.fromkeys(branches(step), 0))
    assert one == pytest.approx(time_pass(lowered.step, prices).seconds, rel=1e-9)


# --- several ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    name=st.sampled_from(["ebm_cmp", "ebm_cvr", "comet", "ebm_cdt"]),
    execution=st.sampled_from(EXECUTIONS),
    count=st.integers(2, 4),
    data=st.data(),
)
def test_any_placement_takes_between_its_share_and_all(name: str, execution: str, count: int, data: Any) -> None:
    """T(1) / D ≤ T(D) ≤ T(1): each device has a queue of its own, and no kernel waits longer than in a single one."""
    lowered, prices, step, _ = shipped(name, execution)
    of = {branch: data.draw(st.integers(0, count - 1)) for branch in branches(step)}
    of[branches(step)[0]] = 0
    used = len({0, *of.values()})
    for pass_ in (lowered.step, lowered.first):
        one = time_pass(pass_, prices).seconds
        # From an empty queue host and device time are not side by side: at least half of their sum.
        least = one / used if pass_.steady else one / used / 2
        assert least * (1 - 1e-9) <= seconds_of(pass_, prices, step, of) <= one * (1 + 1e-9)


@pytest.mark.parametrize("placed", [(0, 0, 1, 2), (1, 0, 1, 0), (2, 2, 1, 0), (0, 1, 2, 3)])
def test_a_step_is_the_longest_path(placed: tuple[int, ...]) -> None:
    """Of kernels alone (no host time in the roofline): each after the one before on its device, and after its sources.

    An encoder feeds three scores, whose sum moves the sample. Edges come from the kernel table, the path from networkx.
    """
    lowered, prices, step, _ = prepared(toy("distinct", 3, "score"), Policy(fidelity="roofline"))
    of = dict(zip(branches(step), placed, strict=True))
    table, seconds = lowered.step.table, np.asarray(prices.device)[lowered.step.order]
    place = [of.get(branch, 0) for branch in table.branches]
    graph = networkx.DiGraph()
    for k in range(len(table)):
        graph.add_edge(k, ("end", k), weight=float(seconds[k]))
        later = next((j for j in range(k + 1, len(table)) if place[j] == place[k]), None)
        if later is not None:
            graph.add_edge(("end", k), later, weight=0.0)
    graph.add_edges_from([(("end", source), k, {"weight": 0.0}) for k, source in table.awaited.tolist()])
    expected = networkx.dag_longest_path_length(graph)
    assert seconds_of(lowered.step, prices, step, of) == pytest.approx(expected, rel=1e-9)


def test_two_equal_networks_on_two_devices_save_one_of_them() -> None:
    """Without host time, T = what belongs to neither + the longer one: their gradients are added up at the end only."""
    lowered, prices, step, _ = prepared(toy("distinct"), Policy(fidelity="roofline"))
    seconds = loads(lowered.step, prices)
    one = time_pass(lowered.step, prices).seconds
    expected = one - sum(seconds.values()) + max(seconds.values())
    assert seconds_of(lowered.step, prices, step, {"net[0]": 0, "net[1]": 1}) == pytest.approx(expected, rel=1e-9)


def test_a_step_bound_by_its_host_takes_what_the_busiest_host_takes() -> None:
    """Every device has a host: the one of three networks and the sampler, which has the most kernels to issue."""
    workload = load_workload("ebm_cmp", "small")
    found = scale(workload, GPU, None, 3, "components")
    issued: dict[str, float] = {}
    for row in estimate(workload, GPU).to_rows():
        issued[row["branch"]] = issued.get(row["branch"], 0.0) + row["host_seconds"]
    rest = issued.pop("")
    assert found.inference.used == len(issued) == 3
    assert max(issued.values()) <= found.inference.t_samp <= rest + max(issued.values()) * (1 + 1e-9)


def test_instances_wait_for_what_they_read() -> None:
    """The encoder of three scores begins; scores follow on any devices, each on one."""
    lowered, prices, _, _ = prepared(toy("distinct", 3, "score"), Policy())
    of = assigned(loads(lowered.step, prices), [lowered.step], 3)
    assert set(of) == {"embed[0]", "net[0]", "net[1]", "net[2]"} and of["embed[0]"] == 0
    assert sorted(of[f"net[{i}]"] for i in range(3)) == [0, 1, 2]


# --- messages --------------------------------------------------------------------------------------------------------


def test_a_step_sends_the_sample_and_gets_gradients_and_energies() -> None:
    """ebm_cmp: 64 chains of 3 × 128 × 128 numbers in fp32 to two others, their gradients summed, two energies."""
    workload = load_workload("ebm_cmp")
    step = step_turn(workload, 64, "fp32", False)
    sample = 64 * 3 * 128 * 128 * 4.0
    sent = messages(step, {"main[0]": 1, "main[1]": 0, "main[2]": 2})
    assert sorted(sent) == sorted([Message(sample, 2), Message(sample, 2), Message(64 * 4.0, 1), Message(64 * 4.0, 1)])
    halved = messages(step_turn(workload, 64, "bf16", False), {"main[0]": 1, "main[1]": 0, "main[2]": 2})
    assert sorted(halved) == sorted(Message(m.size / 2, m.hops) for m in sent)


def test_results_of_an_encoder_are_sent_to_those_that_read_them() -> None:
    """Sample (read by all), code of 64 numbers, and a score of 500 numbers from each of the two other devices."""
    step = step_turn(toy("distinct", 3, "score"), C, "fp32", False)
    sent = messages(step, {"embed[0]": 0, "net[0]": 0, "net[1]": 1, "net[2]": 2})
    x, z = C * WIDTH * 4.0, C * 64 * 4.0
    assert sorted(sent) == sorted([Message(x, 2), Message(z, 2), Message(x, 1), Message(x, 1)])


def test_fusion_changes_no_message() -> None:
    for name in ("ebm_cmp", "ebm_cvr", "comet"):
        workload = load_workload(name, "small")
        plain, whole = (step_turn(workload, 2, "fp32", fuses) for fuses in (False, True))
        of = {branch: i % 3 for i, branch in enumerate(branches(plain))}
        assert messages(plain, of) == messages(whole, of) != []


def test_shared_weights_are_summed_and_sent_back_and_own_ones_stay() -> None:
    """Beside what samples need, in an iteration each of the four weights has its gradient summed, and is sent."""
    of = {"net[0]": 0, "net[1]": 1}
    shared, own = (messages(iteration_turn(toy(kind), "fp32", False), of) for kind in ("shared", "distinct"))
    sizes = [4.0 * n for n in (WIDTH * 64, 64, 64, 1)]
    # Both samples of the contrastive loss go to the other device; energies come back, and what follows from them goes.
    samples = [m for m in own if m.size == C * WIDTH * 4.0]
    assert samples == [Message(C * WIDTH * 4.0, 1)] * 2
    assert {m.size for m in own} == {C * WIDTH * 4.0, C * 4.0}
    more = sorted(m.size for m in shared if m.size != C * 4.0 and m.size != C * WIDTH * 4.0)
    # Two terms: each has a sum of its own.
    assert more == sorted(3 * sizes)


# --- what a device holds ---------------------------------------------------------------------------------------------


def test_weights_live_where_their_instance_is() -> None:
    lowered, _, step, iteration = prepared(toy("distinct"), Policy())
    of = {"net[0]": 0, "net[1]": 1}
    held = [held_by(step, of, d) for d in (0, 1)]
    assert sum(sum(h.weights.values()) for h in held) == lowered.size.parameters
    assert held[0].weights.keys().isdisjoint(held[1].weights)
    assert iteration is not None
    learned = [held_by(iteration, of, d) for d in (0, 1)]
    assert [h.updated for h in learned] == [sum(h.weights.values()) for h in held]


def test_shared_weights_live_on_all_and_are_updated_on_one() -> None:
    lowered, _, step, iteration = prepared(toy("shared"), Policy())
    of = {"net[0]": 1, "net[1]": 0}
    assert [sum(held_by(step, of, d).weights.values()) for d in (0, 1)] == [lowered.size.parameters] * 2
    assert iteration is not None
    assert [held_by(iteration, of, d).updated for d in (0, 1)] == [0, lowered.size.parameters]


def test_the_optimiser_runs_where_the_weights_are() -> None:
    turn = iteration_turn(toy("distinct"), "fp32", False)
    of = {"net[0]": 0, "net[1]": 1}
    updates = [
        (turn.graph.tensors[node.inputs[0]].name.partition(".")[0], place)
        for node, place in zip(turn.kernels, places(turn.kernels, turn, of), strict=True)
        if node.op == "adam"
    ]
    assert updates == [("net", 0)] * 4 + [("net[1]", 1)] * 4


def test_three_devices_hold_a_third_each() -> None:
    workload = load_workload("ebm_cmp")
    whole, third = (scale(workload, GPU, None, d, "components").inference for d in (1, 3))
    assert third.used == 3 and third.chains == whole.chains
    assert whole.memory_bytes / 3 < third.memory_bytes < whole.memory_bytes / 2.5


# --- put together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ebm_cmp", "ebm_cvr", "comet", "ebm_gr", "ccsp", "ebm_cgid"])
def test_parts_sum_and_a_free_link_gives_the_bound(name: str) -> None:
    """T_samp with a link is T_samp without one and the messages; K steps, the first of its own, and what runs once."""
    workload = load_workload(name, "small")
    linked = replace(GPU, link=Link(10e9, 1e-5, 0.5))
    for count in (2, 4):
        bare, full = (scale(workload, h, None, count, "components") for h in (GPU, linked))
        b, f = bare.inference, full.inference
        assert b.communication == 0.0 and b.used == f.used > 1 and f.communication > 0.0
        assert f.t_samp == pytest.approx(b.t_samp + f.communication, rel=1e-9)
        steps = workload.setting("steps")
        assert f.t_inf == pytest.approx(f.t_once + f.t_samp_first + (steps - 1) * f.t_samp, rel=1e-9)
        assert f.t_samp_first >= f.t_samp and f.t_gather == 0.0
        if full.training is not None and bare.training is not None and full.training.used > 1:
            t = full.training
            assert t.t_iteration == pytest.approx(bare.training.t_iteration + t.communication, rel=1e-9)
            assert t.t_train == pytest.approx(workload.setting("iterations") * t.t_iteration, rel=1e-9)


def test_what_does_not_come_apart_stays_on_one_device() -> None:
    found = scale(load_workload("ired", "small"), GPU, None, 8, "components")
    assert found.inference.split == "components" and found.inference.used == 1
    assert found.inference.speedup == 1.0 and found.inference.efficiency == 1 / 8
    assert found.training is not None and found.training.used == 1


def test_more_devices_than_instances_are_idle() -> None:
    workload = load_workload("ebm_cmp", "small")
    three, many = (scale(workload, GPU, None, d, "components") for d in (3, 100))
    assert many.inference == three.inference._replace(efficiency=many.inference.efficiency)
    assert many.inference.efficiency == pytest.approx(three.inference.efficiency * 3 / 100)
