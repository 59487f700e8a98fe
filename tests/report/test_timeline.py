"""Timelines: what a reader that only knows the trace format finds in them is what the estimate says."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jsonschema
import numpy as np
import pytest
from command_line import refusal
from hypothesis import given
from hypothesis import strategies as st

import ebmsim
from ebmsim import output
from ebmsim.cli.main import main
from ebmsim.cost.schedule import first_pass, steady_pass
from ebmsim.estimation import Estimate
from ebmsim.graph.kernels import CATEGORIES, PHASES
from ebmsim.hardware import SubArray
from ebmsim.lowering import fused
from ebmsim.placement import Turn, step_turn
from ebmsim.policy import Policy
from ebmsim.report.explain import explain_kernel
from ebmsim.report.spans import engines, spans_of
from ebmsim.report.timeline import timeline

NS = 1e-9
# Of the public document "Trace Event Format" (Google, 2016): JSON object format, and the kinds of events used here.
_NUMBER = {"type": "number"}
_COMMON = {"pid": {"type": "integer"}, "tid": {"type": "integer"}, "name": {"type": "string"}, "ph": {}}
_TIMED = _COMMON | {"ts": _NUMBER, "cat": {"type": "string"}}


def _kind(letter: str, properties: dict[str, Any], *more: str) -> dict[str, Any]:
    return {
        "properties": {**properties, "ph": {"const": letter}},
        "required": ["ph", "pid", "tid", "name", *more],
        "additionalProperties": False,
    }


_OBJECT = {"type": "object"}
_METADATA = {"enum": ["process_name", "process_labels", "process_sort_index", "thread_name", "thread_sort_index"]}
SCHEMA = {
    "type": "object",
    "required": ["traceEvents"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": _OBJECT,
        "traceEvents": {
            "type": "array",
            "items": {
                "oneOf": [
                    _kind(
                        "X", _TIMED | {"dur": {"type": "number", "exclusiveMinimum": 0}, "args": _OBJECT}, "ts", "dur"
                    ),
                    _kind("i", _TIMED | {"s": {"enum": ["g", "p", "t"]}, "args": _OBJECT}, "ts", "s"),
                    _kind("s", _TIMED | {"id": {"type": ["integer", "string"]}}, "ts", "id", "cat"),
                    _kind("f", _TIMED | {"id": {}, "bp": {"const": "e"}}, "ts", "id", "cat", "bp"),
                    _kind("C", _TIMED | {"args": {"type": "object", "additionalProperties": _NUMBER}}, "ts", "args"),
                    _kind("M", _COMMON | {"name": _METADATA, "args": _OBJECT}, "args"),
                ]
            },
        },
    },
}


class Shown(NamedTuple):
    """A slice as a reader finds it, in ns; an instant has no width. parent: the slice it lies in."""

    track: str
    name: str
    category: str
    start: int
    end: int
    arguments: dict[str, Any]
    parent: Any


class Read(NamedTuple):
    """A process of a trace: its slices, its arrows as pairs of slices, and its counters as points in ns."""

    name: str
    slices: list[Shown]
    arrows: list[tuple[str, Shown, Shown]]
    counters: dict[str, list[tuple[int, float]]]

    def on(self, track: str) -> list[Shown]:
        return [s for s in self.slices if s.track.partition(",")[0] == track]

    @property
    def kernels(self) -> list[Shown]:
        return [s for s in self.slices if s.track.startswith("stream ")]


def read(trace: dict[str, Any]) -> list[Read]:
    """Processes in order. Slices are stacked by time on their track, arrows bound to the slice they begin or end in."""
    names: dict[tuple[int, int, str], str] = {}
    for event in trace["traceEvents"]:
        if event["ph"] == "M":
            names[event["pid"], event["tid"], event["name"]] = event["args"].get("name", "")
    found = {p: Read(name, [], [], defaultdict(list)) for (p, _, kind), name in names.items() if kind == "process_name"}
    stacks: dict[tuple[int, int], list[Shown]] = defaultdict(list)
    begun: dict[Any, Shown] = {}
    last = -(10**18)
    for event in trace["traceEvents"]:
        if event["ph"] == "M":
            continue
        at = round(event["ts"] * 1000)
        assert at >= last, "events in order of time"
        last = at
        process, place = found[event["pid"]], (event["pid"], event["tid"])
        stack = stacks[place]
        while stack and stack[-1].end <= at:
            stack.pop()
        if event["ph"] in "Xi":
            end = at + round(event.get("dur", 0) * 1000)
            assert not stack or end <= stack[-1].end, "slices lie inside one another or apart"
            track = names[*place, "thread_name"]
            parent = stack[-1] if stack else None
            shown = Shown(track, event["name"], event["cat"], at, end, event["args"], parent)
            process.slices.append(shown)
            if event["ph"] == "X":
                stack.append(shown)
        elif event["ph"] == "s":
            assert (event["cat"], event["id"]) not in begun
            begun[event["cat"], event["id"]] = stack[-1]
        elif event["ph"] == "f":
            process.arrows.append((event["cat"], begun.pop((event["cat"], event["id"])), stack[-1]))
        else:
            ((unit, value),) = event["args"].items()
            process.counters[f"{event['name']} {unit}"].append((at, value))
    assert not begun, "every arrow ends"
    return [found[p] for p in sorted(found)]


CASES = {
    "gpu": ("ired", "rtx5090", "", {}),
    "captured": ("ired", "rtx5090", "small", {"execution": "graph"}),
    "compiled": ("comet", "h100", "small", {"execution": "compiled", "dtype": "bf16"}),
    "roofline": ("ebm_cl", "a100", "", {"fidelity": "roofline"}),
    "synchronous": ("ired", "ryzen9900x", "", {}),
    "synchronising": ("ccsp", "rtx5090", "", {}),
    "synchronising in streams": ("ccsp", "rtx5090", "", {"streams": 2}),
    "streams": ("comet", "rtx5090", "small", {"streams": 3}),
    "streams without a host": ("ebm_mbp", "ebm_aware", "small", {"streams": 3, "execution": "persistent"}),
    "unequal arrays": ("comet", "tpu_v6e", "small", {"streams": 3, "dtype": "bf16", "execution": "persistent"}),
    "one after another": ("ebm_cl", "tpu_v6e", "", {"chain_mode": "sequential"}),
}


@cache
def case(name: str) -> tuple[Estimate, Turn, dict[str, Any], list[Read]]:
    workload, hardware, preset, policy = CASES[name]
    loaded = ebmsim.load_workload(workload, preset)
    device = ebmsim.load_hardware(hardware)
    if name == "unequal arrays":
        matrix = replace(device.matrix, subarrays=(SubArray(256, 256, 3), SubArray(64, 128, 8)))
        device = replace(device, matrix=matrix, launch=replace(device.launch, concurrent_kernels=4.0))
    e = ebmsim.estimate(loaded, device, Policy(**policy))
    turn = step_turn(loaded, e.lowered.chains, e.policy.dtype, fused(e.profile, e.policy))
    trace = json.loads(json.dumps(timeline(e, turn), allow_nan=False))
    return e, turn, trace, read(trace)


every = pytest.mark.parametrize("name", CASES)
alone = pytest.mark.parametrize("name", [n for n, (*_, policy) in CASES.items() if "streams" not in policy])


@every
def test_a_trace_is_what_the_format_says(name: str) -> None:
    jsonschema.validate(case(name)[2], SCHEMA)
    assert case(name)[2]["displayTimeUnit"] == "ns"


@pytest.mark.parametrize(
    "event",
    [
        {"ph": "X", "pid": 1, "tid": 1, "name": "a", "ts": 0.0, "dur": -1, "args": {}},
        {"ph": "X", "pid": 1, "tid": 1, "name": "a", "dur": 1, "args": {}},
        {"ph": "s", "pid": 1, "tid": 1, "name": "a", "ts": 0.0, "cat": "b"},
        {"ph": "C", "pid": 1, "tid": 1, "name": "a", "ts": 0.0, "args": {"b": "c"}},
        {"ph": "Q", "pid": 1, "tid": 1, "name": "a", "ts": 0.0},
    ],
)
def test_the_schema_refuses(event: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"traceEvents": [event]}, SCHEMA)


@every
def test_sections_are_the_first_step_and_a_steady_one(name: str) -> None:
    e, _, trace, (first, steady) = case(name)
    repeats = e.workload.setting("steps") * e.lowered.launches - 1
    assert (first.name, steady.name) == ("first step", f"steady step × {repeats:,}")
    t_first, t_samp = e.seconds["t_samp_first"], e.seconds["t_samp"]
    for section, begin, seconds in ((first, 0.0, t_first), (steady, t_first, t_samp)):
        (step,) = [s for s in section.slices if s.category == "step"]
        assert step.start * NS == pytest.approx(begin, abs=NS) and (step.end - step.start) * NS == pytest.approx(
            seconds, abs=2 * NS
        )
        # Nothing ends later than the step; with one that waits for the host at its end, the wait is the last.
        ends = [s.end for s in section.slices if s.category not in ("step", "phase")]
        assert max(ends) == step.end
    assert trace["otherData"]["seconds"]["t_samp"] == t_samp


@every
def test_phases_add_up_to_the_estimate(name: str) -> None:
    e, _, _, (_, steady) = case(name)
    shown: dict[str, list[Shown]] = defaultdict(list)
    for s in steady.slices:
        if s.category == "phase":
            shown[s.name].append(s)
            assert s.start == s.end or s.parent.category == "step"
    of = {"t_fwd": ["forward"], "t_bwd_in": ["backward-input"], "t_rng": ["rng"], "t_accept": ["accept"]}
    of["t_update"] = ["update", "host", "once"]
    for figure, phases in of.items():
        mine = [s for phase in phases for s in shown[phase]]
        assert sum(s.arguments["seconds"] for s in mine) == pytest.approx(e.seconds[figure], rel=1e-9, abs=1e-15)
        assert sum(s.end - s.start for s in mine) * NS == pytest.approx(e.seconds[figure], abs=NS * (1 + len(mine)))
        kernels = [k for k in steady.kernels if k.arguments["phase"] in phases]
        assert sum(k.arguments["seconds"] for k in kernels) == pytest.approx(e.seconds[figure], rel=1e-9, abs=1e-15)


@every
def test_every_launch_is_in_one_stream_and_none_overlap(name: str) -> None:
    e, _, _, sections = case(name)
    table = e.timing.table
    for section in sections:
        assert sorted(k.name for k in section.kernels) == sorted(table.names)
        for track in {k.track for k in section.kernels}:
            # Nothing has another slice around it; the reader has seen that none cross.
            assert all(k.parent is None or k.start == k.end for k in section.on(track))
        assert sum(k.arguments["flops"] for k in section.kernels) == pytest.approx(table.flops.sum())
        assert {k.category for k in section.kernels} <= set(CATEGORIES)
        assert {k.arguments["phase"] for k in section.kernels} <= set(PHASES)


@every
def test_streams_are_those_of_the_plans(name: str) -> None:
    e, *_ = case(name)
    for timing in (e.timing, e.first):
        spans = spans_of(timing)
        for plan in timing.plans:
            for placed in plan.placements:
                mine = [k for k in plan.kernels.tolist() if timing.table.branches[k] == placed.branch]
                assert set(spans.stream[mine].tolist()) == {placed.stream}
                assert set(spans.group[mine].tolist()) == {-1 if placed.group is None else placed.group}
                assert spans.start[mine].min() == pytest.approx(placed.start, abs=1e-12)
                assert spans.end[mine].max() == pytest.approx(placed.finish, abs=1e-12)
        assert all(spans.end[j] <= spans.start[i] + 1e-12 for i, j in timing.table.awaited.tolist())
    used = spans_of(e.timing)
    assert (len(set(used.stream.tolist())) > 1) == (e.policy.streams > 1)
    assert sorted(set(used.group.tolist())) == ([-1, 0, 1] if name == "unequal arrays" else [-1])


@every
def test_arrows_are_launches_and_results_read_by_other_branches(name: str) -> None:
    e, _, _, sections = case(name)
    table = e.timing.table
    for section in sections:
        wide = [k for k in section.kernels if k.end > k.start]
        launches = [(a, b) for kind, a, b in section.arrows if kind == "launch"]
        for a, b in launches:
            assert a.track == "host" and a.name in (b.name, "replay") and b.track.startswith("stream ")
            assert a.end <= b.start + 1
        if e.policy.streams == 1:
            issued = {s.name for s in section.on("host") if s.category == "issue"}
            assert {b.name for _, b in launches if _.category == "issue"} == {k.name for k in wide} & issued
        names = {k.name for k in wide}
        pairs = {(table.names[j], table.names[i]) for i, j in table.awaited.tolist()}
        data = [(a, b) for kind, a, b in section.arrows if kind == "data"]
        assert {(a.name, b.name) for a, b in data} == {(a, b) for a, b in pairs if {a, b} <= names}
        assert all(a.end <= b.start for a, b in data)


@every
def test_memory_held_peaks_at_what_the_estimate_has(name: str) -> None:
    e, turn, _, sections = case(name)
    size, table = e.lowered.size, e.timing.table
    fixed = (size.parameters + size.unused + size.held) * table.element_bytes
    for section in sections:
        values = [value for _, value in section.counters["memory held bytes"]]
        assert min(values) >= fixed - 1
        if e.policy.streams == 1:
            assert max(values) == pytest.approx(fixed + table.live_bytes, abs=1)
            assert max(values) <= e.memory["inference_bytes"] + 1
    assert tuple(node.name for node in turn.kernels) == table.names


@every
def test_rates_of_a_level_hold_its_bytes(name: str) -> None:
    e, _, _, sections = case(name)
    rate = {level.name: level.bandwidth for level in e.hardware.memory}
    for section, timing in zip(sections, (e.first, e.timing), strict=True):
        for level, amounts in zip(timing.costs.traffic.levels, timing.costs.traffic.bytes, strict=True):
            points = section.counters[f"{level} B/s"]
            area = sum(v * (t1 - t0) * NS for (t0, v), (t1, _) in pairwise(points))
            wide = [k for k in section.kernels if k.end > k.start]
            assert sum(k.arguments["bytes"][level] for k in section.kernels) == pytest.approx(np.sum(amounts))
            assert area == pytest.approx(sum(k.arguments["bytes"][level] for k in wide), rel=1e-6, abs=1)
            assert points[-1][1] == 0
            if e.policy.streams == 1:
                # A kernel is cut to whole ns.
                shortest = min(k.end - k.start for k in wide)
                assert max(v for _, v in points) <= rate[level] * (1 + 1 / shortest) + 1


@every
def test_what_is_busy_is_so_inside_its_kernel(name: str) -> None:
    *_, sections = case(name)
    for section in sections:
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for k in section.kernels:
            spans[k.name].append((k.start, k.end))
        for s in section.slices:
            if s.category == "busy":
                assert any(start <= s.start and s.end <= end for start, end in spans[s.name])


@alone
def test_seconds_of_engines_and_levels_are_those_of_the_costs(name: str) -> None:
    e, _, _, (_, steady) = case(name)
    timing = e.timing
    if timing.stretched > 1.0:
        pytest.fail("choose a case below the power limit")
    busy = engines(timing, spans_of(timing))
    # Whatever the units compute is on one of the engines: the one that takes longest is the compute term.
    assert np.max(list(busy.values()), axis=0) == pytest.approx(
        np.where(timing.device > 0, np.asarray(timing.costs.compute), 0.0), rel=1e-9
    )
    levels = dict(zip(timing.costs.traffic.levels, timing.costs.traffic.seconds, strict=True))
    for track, seconds in (busy | levels).items():
        shown = sum(s.end - s.start for s in steady.on(track)) * NS
        assert shown == pytest.approx(
            float(np.where(timing.device > 0, seconds, 0.0).sum()), abs=NS * len(timing.table)
        )


@every
def test_no_engine_is_busy_longer_than_its_kernel(name: str) -> None:
    e, *_ = case(name)
    for timing in (e.timing, e.first):
        spans = spans_of(timing)
        assert all((seconds <= spans.alone * (1 + 1e-9)).all() for seconds in engines(timing, spans).values())


def test_every_kernel_carries_the_lines_of_explain() -> None:
    e, _, _, (_, steady) = case("gpu")
    for k in steady.kernels[::7]:
        explained = [line.strip() for line in explain_kernel(e, k.name).splitlines()]
        assert set(k.arguments["formula"]) <= set(explained) and len(k.arguments["formula"]) >= 6
        assert k.arguments["bound"] in ("sync", "dispatch", "compute", "memory:l2", "memory:dram")


def test_the_first_step_is_explained_by_its_own_costs() -> None:
    e, _, _, (first, steady) = case("gpu")
    moved = [sum(k.arguments["bytes"]["dram"] for k in section.kernels) for section in (first, steady)]
    assert moved[0] > moved[1]
    assert f"of the step's {ebmsim.units.format_quantity(e.first.seconds, 'time')}" in " ".join(
        line for k in first.kernels for line in k.arguments["formula"]
    )


# --- the queue -------------------------------------------------------------------------------------------------------


def queue(host: list[float], device: list[float], breaks: list[int], steady: bool, asynchronous: bool = True) -> Any:
    """A timing with given seconds of host and device, `wait` at each synchronisation being 3."""
    h, d = np.array(host), np.array(device)
    of_queue = (steady_pass if steady else first_pass)(h, d, np.array(breaks, dtype=int), 3.0)
    side = SimpleNamespace(asynchronous=asynchronous, synchronise=3.0)
    priced = SimpleNamespace(
        machine=SimpleNamespace(host=side), policy=SimpleNamespace(fidelity="analytical"), device=d
    )
    order = np.arange(len(h))
    pass_ = SimpleNamespace(order=order, breaks=np.array(breaks, dtype=int), steady=steady)
    return SimpleNamespace(
        advance=of_queue if asynchronous else h + d,
        device=d,
        host=h,
        stretched=1.0,
        priced=priced,
        pass_=pass_,
        plans=(),
        table=None,
    )


seconds = st.floats(0, 10)
kernels = st.lists(st.tuples(seconds, seconds), min_size=1, max_size=12)


@given(kernels, st.sets(st.integers(0, 11)), st.booleans())
def test_a_kernel_begins_when_it_is_issued_and_the_one_before_has_ended(
    pairs: list[tuple[float, float]], cuts: set[int], steady: bool
) -> None:
    host, device = ([pair[i] for pair in pairs] for i in (0, 1))
    breaks = sorted(cut for cut in cuts if cut < len(pairs))
    spans = spans_of(queue(host, device, breaks, steady))
    free = spans.issue[0] if breaks or not steady else 0.0
    free = max(free, 0.0)
    for i in range(len(pairs)):
        assert spans.start[i] == pytest.approx(max(free, spans.issued[i]), abs=1e-9)
        assert spans.end[i] - spans.start[i] == pytest.approx(device[i], abs=1e-9)
        assert spans.issued[i] - spans.issue[i] == pytest.approx(host[i], abs=1e-9)
        if i:
            # The host does one thing after another, and after a synchronisation begins where it has waited to.
            assert spans.issue[i] >= spans.issued[i - 1] - 1e-9
        free = spans.end[i] + (3.0 if i in breaks else 0.0)
        if i in breaks:
            (wait,) = [w for w in spans.waits if w.launch == i]
            assert (wait.start, wait.end) == pytest.approx((spans.issued[i], free), abs=1e-9)
            if i + 1 < len(pairs):
                assert spans.issue[i + 1] == pytest.approx(free, abs=1e-9)


@given(kernels)
def test_the_host_of_a_steady_step_begins_after_that_of_the_step_before(pairs: list[tuple[float, float]]) -> None:
    host, device = ([pair[i] for pair in pairs] for i in (0, 1))
    first, steady = (spans_of(queue(host, device, [], s)) for s in (False, True))
    assert first.end[-1] + steady.issue[0] >= first.issued[-1] - 1e-9


@given(kernels)
def test_a_synchronous_host_issues_each_kernel_right_before_it(pairs: list[tuple[float, float]]) -> None:
    host, device = ([pair[i] for pair in pairs] for i in (0, 1))
    spans = spans_of(queue(host, device, [], True, asynchronous=False))
    assert spans.issued == pytest.approx(spans.start)
    assert spans.issue == pytest.approx(np.concatenate([[0.0], spans.end[:-1]]), abs=1e-9)


# --- the command -----------------------------------------------------------------------------------------------------

WORDS = ("timeline", "ired", "--hw", "rtx5090", "--preset", "small")


def test_the_command_writes_a_file_that_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.json"
    main([*WORDS, "-o", str(path)])
    assert capsys.readouterr() == (f"{path}\n", "")
    text = path.read_bytes()
    trace = json.loads(text)
    jsonschema.validate(trace, SCHEMA)
    assert [section.name for section in read(trace)] == ["first step", "steady step × 3"]
    # As UTF-8: Perfetto shows escapes as they are.
    assert "×".encode() in text and b"\\u" not in text
    assert list(tmp_path.iterdir()) == [path]


def test_a_trace_on_stdout(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    main([*WORDS, "-o", "-"])
    jsonschema.validate(json.loads(capsysbinary.readouterr().out), SCHEMA)


def test_bad_outputs_are_refused_with_all_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "no" / "step.json"
    assert refusal(capsys, *WORDS, "-o", str(tmp_path)) == f"{tmp_path}: expected a file, found a directory"
    found = refusal(capsys, "timeline", "ebm_ip", "--hw", "rtx5090", "-o", str(missing))
    assert found.splitlines() == [
        "unknown workload 'ebm_ip'",
        "    did you mean 'ebm_imp'?",
        f"{missing}: no such folder '{missing.parent}'",
        "2 errors",
    ]
    assert "Missing option '-o'" in refusal(capsys, *WORDS)


def test_nothing_is_half_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "step.json"
    path.write_text("before", encoding="utf-8")
    monkeypatch.setattr(output.os, "replace", full)
    assert refusal(capsys, *WORDS, "-o", str(path)) == f"{path}: cannot be written: No space left on device"
    assert [p.name for p in tmp_path.iterdir()] == ["step.json"] and path.read_text(encoding="utf-8") == "before"
