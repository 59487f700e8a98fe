"""Several devices: laws of every split, collective operations against rings played through, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import ebmsim
from ebmsim.cli.main import main
from ebmsim.communication import Wire, all_reduce, gather, passed_on, wire_of
from ebmsim.errors import SpecError
from ebmsim.estimation import estimate
from ebmsim.graph.compose import compose
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.hardware import Hardware, Link
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.scaled import resized
from ebmsim.scaling import SPLITS, scale, scalings
from ebmsim.spec.library import load_hardware, load_profile, load_workload, names
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DEVICES = tuple(load_hardware(name) for name in ("h100", "rtx5090", "tpu_v5e"))
FEW = settings(max_examples=25)
FREE = Link(math.inf, 0.0, 1.0)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Perceptrons of several instances, conditioned or not, and a sampler of any kind."""
    conditioned = draw(st.booleans())
    components: dict[str, Any] = {}
    if conditioned:
        runs = draw(st.sampled_from(["once", "every-step", "every-evaluation"]))
        nodes = [{"op": "linear", "out": 32}, {"op": "silu"}]
        components["embed"] = {"role": "encoder", "inputs": {"label": "label"}, "runs": runs, "nodes": nodes}
    for index in range(draw(st.integers(1, 3))):
        uses = conditioned and draw(st.booleans())
        first = [{"op": "linear", "name": "h", "inputs": "x", "out": 32}]
        added = [{"op": "add", "name": "h", "inputs": ["h", "z"]}] if uses else []
        width = draw(st.sampled_from([16, 256, 2048]))
        components[f"net{index}"] = {
            "role": "energy",
            "inputs": {"x": "x"} | ({"z": "embed"} if uses else {}),
            "instances": draw(st.integers(1, 4)),
            "weights": draw(st.sampled_from(["shared", "distinct"])),
            "nodes": [*first, *added, {"op": "silu"}, {"op": "linear", "out": width}, {"op": "linear", "out": 1}],
        }
    preset = draw(st.sampled_from(["langevin", "mala", "hmc", "gradient-descent"]))
    parameters = {
        "chains": draw(st.integers(1, 300)),
        "steps": draw(st.integers(1, 50)),
        "training_steps": draw(st.integers(0, 5)),
        "training_batch": draw(st.integers(1, 300)),
        "iterations": 10,
    }
    file = {
        "name": "random",
        "title": "random",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "hetero", "dependency": "mixed-parallel"},
        "parameters": parameters,
        "inputs": {"label": {"shape": [16]}} if conditioned else {},
        "components": components,
        "sampler": {"sample": {"x": [draw(st.sampled_from([8, 3000]))]}, "preset": preset}
        | ({"settings": {"leapfrog": 2}} if preset == "hmc" else {}),
    }
    if draw(st.booleans()):
        file["training"] = {"terms": ["contrastive"], "average": draw(st.booleans()), "clip": draw(st.booleans())}
    document = parse_document(yaml.safe_dump(file, sort_keys=False))
    return settle(document, parse_workload(document))


@st.composite
def devices(draw: st.DrawFn) -> Hardware:
    """A shipped device with any link."""
    link = Link(draw(st.floats(1e6, 1e13)), draw(st.floats(0, 1e-3)), draw(st.floats(0.1, 1)))
    return replace(draw(st.sampled_from(DEVICES)), link=link)


POLICIES = st.builds(
    Policy,
    execution=st.sampled_from(["eager", "graph", "persistent"]),
    fidelity=st.sampled_from(["analytical", "roofline"]),
    chain_mode=st.sampled_from(["batched", "batched", "sequential"]),
    streams=st.sampled_from([1, 1, 3]),
)
COUNTS = st.sampled_from([1, 2, 3, 5, 8, 64, 1000])
ANY = {"workload": workloads(), "hardware": devices(), "policy": POLICIES, "count": COUNTS}


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-15)


# --- collective operations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_all_reduce_against_a_ring_played_through(count: int) -> None:
    """D devices with D pieces each: every round takes a latency and a piece; in the end all have the sum."""
    rng = np.random.default_rng(count)
    parts = rng.integers(0, 100, size=(count, count))
    sums, wire, seconds = parts.sum(0), Wire(2.0, 0.25), 0.0
    held = parts.copy()
    for turn in range(2 * (count - 1)):
        before = held.copy()
        for device in range(count):
            piece = (device - turn) % count
            # The first D - 1 rounds add what arrives, the others replace.
            target = (device + 1) % count
            held[target, piece] = before[device, piece] + (before[target, piece] if turn < count - 1 else 0)
        seconds += wire.latency + 8.0 / wire.bandwidth
    assert (held == sums).all()
    assert all_reduce(8.0 * count, count, wire) == close(seconds)


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_gather_against_a_tree_played_through(count: int) -> None:
    """In every round those that still hold something send all of it to a neighbour twice as far."""
    wire, seconds, held = Wire(2.0, 0.25), 0.0, [8.0] * count
    step = 1
    while step < count:
        seconds += wire.latency + held[step] / wire.bandwidth
        for device in range(0, count, 2 * step):
            held[device] += held[device + step]
            held[device + step] = 0.0
        step *= 2
    assert gather(8.0 * (count - 1), count, wire) == close(seconds)


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_passing_on_is_the_limit_of_small_pieces(hops: int) -> None:
    """With m pieces the last one leaves after m - 1 others and then takes all hops; the latency is that of the hops."""
    wire, size, pieces = Wire(2.0, 0.25), 8.0, 10**7
    seconds = (pieces - 1 + hops) * size / pieces / wire.bandwidth + hops * wire.latency
    assert passed_on(size, hops, wire) == pytest.approx(seconds, rel=1e-5)
    assert passed_on(size, 0, wire) == 0.0


@given(size=st.floats(0, 1e12), count=st.integers(1, 1000), bandwidth=st.floats(1, 1e13), latency=st.floats(0, 1))
def test_more_devices_never_communicate_less(size: float, count: int, bandwidth: float, latency: float) -> None:
    wire = Wire(bandwidth, latency)
    for operation in (all_reduce, gather):
        assert operation(size, 1, wire) == 0.0
        assert operation(size, count, wire) <= operation(size, count + 1, wire) * (1 + 1e-12)
        assert operation(size, count, Wire(math.inf, 0.0)) == 0.0
    assert passed_on(size, count, wire) <= passed_on(size, count + 1, wire)


def test_the_roofline_takes_all_of_the_bandwidth_and_no_latency() -> None:
    device = replace(DEVICES[0], link=Link(100e9, 5e-6, 0.5))
    assert wire_of(device, Policy(fidelity="roofline"), 2) == Wire(100e9, 0.0)
    assert wire_of(device, Policy(fidelity="analytical"), 2) == Wire(50e9, 5e-6)


# --- one device ------------------------------------------------------------------------------------------------------


@FEW
@given(workload=workloads(), hardware=devices(), policy=POLICIES, split=st.sampled_from(SPLITS), weak=st.booleans())
def test_one_device_is_the_estimate(
    workload: Workload, hardware: Hardware, policy: Policy, split: str, weak: bool
) -> None:
    e = estimate(workload, replace(hardware, link=None), policy)
    found = scale(workload, hardware, policy, 1, split, weak)
    i, t = found.inference, found.training
    expected = tuple(e.seconds[name] for name in ("t_once", "t_samp_first", "t_samp", "t_inf"))
    assert (i.t_once, i.t_samp_first, i.t_samp, i.t_inf) == expected
    assert (i.used, i.communication, i.t_gather, i.speedup, i.efficiency) == (1, 0.0, 0.0, 1.0, 1.0)
    assert (i.memory_bytes, i.fits) == (e.memory["inference_bytes"], e.memory["fits"])
    assert (t is None) == (e.seconds["t_train"] is None)
    if t is not None:
        assert (t.t_train, t.communication, t.speedup) == (e.seconds["t_train"], 0.0, 1.0)
        assert (t.memory_bytes, t.fits) == (e.memory["training_bytes"], e.memory["training_fits"])


# --- chains ----------------------------------------------------------------------------------------------------------


@FEW
@given(**ANY)
def test_every_device_runs_its_share_of_chains(
    workload: Workload, hardware: Hardware, policy: Policy, count: int
) -> None:
    """The last device with work is not idle, and none has more than the share that all could have."""
    found = scale(workload, hardware, policy, count, "chains")
    i, t = found.inference, found.training
    chains, batch = workload.setting("chains"), workload.setting("training_batch")
    assert (i.used - 1) * i.chains < chains <= i.used * i.chains and i.used <= count
    assert i.chains == math.ceil(chains / count)
    e = estimate(resized(workload, i.chains, math.ceil(batch / count)), hardware, policy)
    assert i.t_samp == e.seconds["t_samp"] and i.t_inf == close((e.seconds["t_inf"] or 0.0) + i.t_gather)
    wire = wire_of(hardware, policy, count)
    assert i.t_gather == gather((chains - i.chains) * e.lowered.size.sample * 4.0, i.used, wire)
    if t is not None:
        gradients = 4.0 * sum_of_trained(workload)
        assert t.communication == close(all_reduce(gradients, t.used, wire))
        assert t.t_train == close((e.seconds["t_train"] or 0.0) + 10 * t.communication)
        assert t.t_train == close(10 * t.t_iteration)


def sum_of_trained(workload: Workload) -> float:
    """Elements of all learned tensors, all of which are trained in these workloads."""
    program = compose(workload, 1)
    return sum(program.graph.tensors[t].elements for t in program.weights.values())


@FEW
@given(workload=workloads(), hardware=devices(), policy=POLICIES)
def test_weak_scaling_never_gets_faster(workload: Workload, hardware: Hardware, policy: Policy) -> None:
    found = list(scalings(workload, hardware, policy, [1, 2, 3, 16, 1000], "chains", weak=True))
    for less, more in pairwise(found):
        assert less.inference.t_samp == more.inference.t_samp
        assert less.inference.t_inf <= more.inference.t_inf
        assert more.inference.efficiency <= 1.0 and more.inference.speedup == close(
            more.devices * more.inference.efficiency
        )
        if less.training is not None and more.training is not None:
            assert less.training.t_train <= more.training.t_train * (1 + 1e-12)


@FEW
@given(workload=workloads(), hardware=st.sampled_from(DEVICES), policy=POLICIES, count=COUNTS)
def test_efficiency_is_at_most_one_without_caches(
    workload: Workload, hardware: Hardware, policy: Policy, count: int
) -> None:
    """Whatever a device does for C chains, D devices do for ⌈C/D⌉ each, and no piece is cheaper than its share.

    Rounding up to tiles and waves, fixed times and the least of several ways only ever make the pieces dearer. Caches
    do not: with one level of memory nothing is held in one.
    """
    alone = replace(hardware, memory=hardware.memory[-1:], link=FREE)
    found = scale(workload, alone, policy, count, "chains")
    assert found.inference.efficiency <= 1 + 1e-9
    assert found.training is None or found.training.efficiency <= 1 + 1e-9


def test_a_share_that_fits_a_cache_is_worth_more_than_its_share() -> None:
    """32 chains of 4 MB go past an L2 of 50 MiB from one operator to the next; two of them stay in it."""
    file: dict[str, Any] = {
        "name": "wide",
        "title": "wide",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "mono", "dependency": "sequential"},
        "parameters": {"chains": 32, "steps": 100},
        "components": {
            "net": {
                "role": "energy",
                "inputs": {"x": "x"},
                "nodes": [{"op": "silu"}, {"op": "reduce_sum", "axes": [0]}],
            }
        },
        "sampler": {"sample": {"x": [1_000_000]}, "preset": "langevin"},
    }
    document = parse_document(yaml.safe_dump(file, sort_keys=False))
    workload, hardware = settle(document, parse_workload(document)), load_hardware("h100")
    assert scale(workload, hardware, Policy("persistent"), 16, "chains").inference.efficiency > 1.2
    alone = replace(hardware, memory=hardware.memory[-1:])
    assert scale(workload, alone, Policy("persistent"), 16, "chains").inference.efficiency <= 1


def test_every_number_of_chains_is_lowered_once() -> None:
    workload, hardware, policy = load_workload("ired", "small"), DEVICES[0], Policy(software="torch-cuda")
    asked: list[tuple[int, int]] = []

    def lower(chains: int, batch: int) -> Any:
        asked.append((chains, batch))
        return lower_workload(resized(workload, chains, batch), policy, load_profile("torch-cuda"))

    counts = [1, 2, 4, 8, 16, 1024, 1024]
    assert len(list(scalings(workload, hardware, policy, counts, "best", lower=lower))) == len(counts)
    assert len(asked) == len(set(asked)) <= len(counts)


@pytest.mark.parametrize("name", names("workload"))
def test_no_operator_reaches_over_the_chain_axis(name: str) -> None:
    """So chains need no message in a step: what reads a tensor of all chains writes one of all chains.

    Statistics of a batch are the exception, and stay within a device. The particles that ebm_gr draws anew are rows of
    one chain.
    """
    chains = 3
    program = compose(load_workload(name, "small"), chains)
    tensors = program.graph.tensors
    for node in program.graph.nodes:
        if any(tensors[t].chain_axis for t in node.inputs) and OPERATORS[node.op].most and node.outputs:
            first = tensors[node.outputs[0]]
            assert first.chain_axis and first.shape[0] % chains == 0, (node.op, node.name, node.line)
        if node.op == "categorical":
            particles = load_workload(name, "small").parameters["particles"]
            assert tensors[node.inputs[0]].shape == (chains, particles)


# --- the splits together ---------------------------------------------------------------------------------------------


@FEW
@given(**ANY, weak=st.booleans())
def test_the_best_split_is_the_faster_one(
    workload: Workload, hardware: Hardware, policy: Policy, count: int, weak: bool
) -> None:
    chains, components, best = (scale(workload, hardware, policy, count, split, weak) for split in SPLITS)
    assert best.inference.t_inf == min(chains.inference.t_inf, components.inference.t_inf)
    if best.training is not None and chains.training is not None and components.training is not None:
        assert best.training.t_train == min(chains.training.t_train, components.training.t_train)


@pytest.mark.parametrize("split", SPLITS)
def test_the_values_can_be_written(split: str) -> None:
    found = ebmsim.scale(load_workload("ebm_cvr", "small"), DEVICES[0], None, 3, split)
    assert isinstance(found, ebmsim.Scaled)
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert written["devices"] == 3 and written["split"] == split and written["training"]["used"] >= 1


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "2", 10**6 + 1])
def test_numbers_that_are_none_of_devices(count: Any) -> None:
    with pytest.raises(SpecError) as caught:
        scale(load_workload("ired", "small"), DEVICES[0], None, count, "chain")
    assert str(caught.value) == (
        f"expected devices to be whole numbers from 1 to 1e6, found {count!r}\n"
        "expected split to be one of chains, components, best, found 'chain'\n    did you mean 'chains'?\n2 errors"
    )


def test_a_device_without_a_link_runs_alone() -> None:
    workload, cpu = load_workload("ired", "small"), load_hardware("ryzen9900x")
    assert scale(workload, cpu).inference.used == 1
    with pytest.raises(SpecError) as caught:
        scale(workload, cpu, None, 2)
    assert str(caught.value) == (
        "expected a device with a link to others for 2 devices, ryzen9900x has none\n"
        "    give its file a section 'link' with bandwidth and latency"
    )


# --- the command -----------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["scale", *words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def test_the_tables(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ebm_cmp", "--devices", "1", "2", "3", "--hw", "h100", "--preset", "small")
    assert code == 0
    rows = [line.split() for line in out.splitlines() if line[:2].strip().isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "3"] * 2
    assert "strong scaling: in all 2 chains, training batch 2; split best" in out
    assert "link      450 GB/s in each direction, 84.0 % of it achieved, 3.40 µs a message" in out


def test_the_object_and_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ired", "--hw", "tpu_v5e", "--preset", "small", "--weak", "--split", "chains", "--json")
    code, out, _ = run(capsys, *words)
    found = json.loads(out)
    assert code == 0 and found["weak"] and found["split"] == "chains" and found["settings"]["preset"] == "small"
    assert [entry["devices"] for entry in found["devices"]] == [2**n for n in range(11)]
    assert found["devices"][10]["inference"]["speedup"] > 512


def test_settings_reach_workload_and_link(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ired", "--hw", "h100", "--preset", "small", "--devices", "4", "--split", "chains", "--json")
    given = ("--set", "chains=8", "--set", "hardware.link.bandwidth=1 GB/s", "--set", "hardware.link.latency=1 s")
    _, out, _ = run(capsys, *words, *given)
    inference = json.loads(out)["devices"][0]["inference"]
    assert inference["chains"] == 2 and 2.0 < inference["t_gather"] < 2.001


def test_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "scaling.png"
    code, _, _ = run(capsys, "ebm_cmp", "--hw", "h100", "--preset", "small", "--devices", "1", "2", "-o", str(picture))
    assert code == 0 and picture.read_bytes().startswith(b"\x89PNG")


def test_a_plot_takes_and_returns_axes() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from ebmsim.report.plots_scaling import plot_scaling

    found = list(scalings(load_workload("ired", "small"), DEVICES[0], None, [1, 2, 4], "chains"))
    figure, axes = plt.subplots()
    assert plot_scaling(axes, found) is axes
    lines = {str(line.get_label()): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines["ideal"] == [1, 2, 4] and lines["inference"] == [s.inference.speedup for s in found]
    assert set(lines) == {"ideal", "inference", "training"}
    plt.close(figure)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--devices", "0", "two", "2.5"),
         "expected devices to be whole numbers from 1 to 1e6, found 0\n"
         "expected devices to be whole numbers from 1 to 1e6, found 'two'\n"
         "expected devices to be whole numbers from 1 to 1e6, found '2.5'\n3 errors"),
        (("--devices", "9" * 5000), f"expected devices to be whole numbers from 1 to 1e6, found '{'9' * 5000}'"),
        (("--split", "component", "--dtype", "fp33", "-o", "picture.bmp"),
         "expected split to be one of chains, components, best, found 'component'\n    did you mean 'components'?\n"
         "expected dtype to be one of fp64, fp32, tf32, bf16, fp16, fp8, int8, fp4, int4, found 'fp33'\n"
         "    did you mean 'fp32'?\n"
         "picture.bmp: expected a picture (.png, .pdf, .svg), found 'picture.bmp'\n3 errors"),
    ],
    ids=["devices", "long", "all at once"],
)  # fmt: skip
def test_bad_input(words: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ired", "--hw", "h100", "--preset", "small", *words)
    assert (code, out, err.rstrip("\n")) == (2, "", expected)


def test_devices_without_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ired", "--hw", "h100", "--devices")
    assert code == 2 and out == "" and "requires an argument" in err


def test_a_link_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "ired", "--hw", "ryzen9900x", "--preset", "small")
    assert code == 2 and out == ""
    assert err.startswith("expected a device with a link to others for 1024 devices, ryzen9900x has none")
