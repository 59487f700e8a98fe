"""A step as a trace that Perfetto and chrome://tracing open: kernels by stream, engine and memory level, and the host.

The Trace Event Format, JSON object form (Google, "Trace Event Format", 2016): times in µs, here with three decimals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ebmsim.graph.kernels import CATEGORIES, PHASES
from ebmsim.placement import Turn
from ebmsim.report.explain import compute_lines, memory_lines, total_lines
from ebmsim.report.lifetimes import lifetimes
from ebmsim.report.spans import Spans, engines, spans_of

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate

Event = dict[str, Any]
_TRACKS = 1000  # of one section
_ORDER = {"M": 0, "X": 0, "i": 1, "s": 2, "f": 3, "C": 4}


class Section(NamedTuple):
    """A step that is drawn: where on the time axis it begins, and how often an inference runs it."""

    number: int
    name: str
    repeats: int
    origin: int  # ns
    estimate: Estimate
    spans: Spans


class Slice(NamedTuple):
    """Something that takes from `start` to `end` on a track, in s from the start of its section."""

    track: str
    name: str
    category: str
    start: float
    end: float
    arguments: Event


def timeline(e: Estimate, turn: Turn) -> Event:
    """The first and one steady step of an estimate as a trace; `turn` is the graph behind the step."""
    repeats = e.workload.setting("steps") * e.lowered.launches - 1
    start = _ns(e.first.seconds)
    first, steady = replace(e, timing=e.first), e
    sections = (
        Section(1, "first step", 1, 0, first, spans_of(e.first)),
        Section(2, f"steady step × {repeats:,}", repeats, start, steady, spans_of(e.timing)),
    )
    events = [event for section in sections for event in _events(section, turn)]
    # What begins at the same time stays in order: a step before its phases, a slice before the arrows at it.
    events.sort(key=lambda event: (event.get("ts", -math.inf), _ORDER[event["ph"]]))
    known = e.to_dict()
    kept = ("version", "workload", "hardware", "validated", "policy", "settings", "seconds")
    return {"displayTimeUnit": "ns", "otherData": {k: known[k] for k in kept}, "traceEvents": events}


def _events(section: Section, turn: Turn) -> list[Event]:
    """Names of the section and its tracks, and everything on them."""
    slices = [*_phases(section), *_issued(section), *_kernels(section), *_busy(section)]
    tracks = {name: _TRACKS * section.number + i for i, name in enumerate(dict.fromkeys(s.track for s in slices))}
    drawn = [_drawn(section, tracks[s.track], s) for s in slices]
    return [
        *_names(section, tracks),
        *drawn,
        *_flows(section, tracks),
        *_memory_held(section, turn),
        *_rates(section),
    ]


# --- times -----------------------------------------------------------------------------------------------------------


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _wide(start: float, end: float) -> bool:
    """Whether something can be drawn: a ns is left of it, and not by rounding alone."""
    return end - start > 0.5e-9 and _ns(end) > _ns(start)


def _us(ns: int) -> float:
    return ns / 1000.0


def _event(section: Section, phase: str, track: int, name: str, at: int, **more: Any) -> Event:
    return {"ph": phase, "pid": section.number, "tid": track, "name": name, "ts": _us(section.origin + at), **more}


def _drawn(section: Section, track: int, s: Slice) -> Event:
    """A slice, or an instant where nothing of it is left in ns: what follows would be drawn inside it."""
    wide = _wide(s.start, s.end)
    how = {"dur": _us(_ns(s.end) - _ns(s.start))} if wide else {"s": "t"}
    phase = "X" if wide else "i"
    return _event(section, phase, track, s.name, _ns(s.start), cat=s.category, args=s.arguments, **how)


def _names(section: Section, tracks: dict[str, int]) -> Iterator[Event]:
    e = section.estimate
    label = f"{e.workload.name} on {e.hardware.name}"
    for name, key, value in (
        ("process_name", "name", section.name),
        ("process_labels", "labels", label),
        ("process_sort_index", "sort_index", section.number),
    ):
        yield {"ph": "M", "pid": section.number, "tid": 0, "name": name, "args": {key: value}}
    for track, number in tracks.items():
        for name, key, shown in (("thread_name", "name", track), ("thread_sort_index", "sort_index", number)):
            yield {"ph": "M", "pid": section.number, "tid": number, "name": name, "args": {key: shown}}


# --- what lies on the tracks -----------------------------------------------------------------------------------------


def _phases(section: Section) -> Iterator[Slice]:
    """The step, and its phases below it: a phase is as long as the completion time advances over its kernels."""
    timing = section.estimate.timing
    arguments = {"repeats": section.repeats, "seconds": timing.seconds, "stretched": timing.stretched}
    done = np.concatenate([[0.0], np.cumsum(timing.advance)])
    yield Slice("step", section.name, "step", 0.0, float(done[-1]), arguments)
    for phase, run in groupby(range(len(timing.table)), key=lambda k: int(timing.table.phase[k])):
        kernels = list(run)
        first, last = kernels[0], kernels[-1] + 1
        arguments = {"seconds": float(timing.advance[first:last].sum()), "kernels": len(kernels)}
        yield Slice("step", PHASES[phase], "phase", float(done[first]), float(done[last]), arguments)


def _replay(section: Section) -> float:
    timing = section.estimate.timing
    return timing.priced.replay * timing.stretched


def _issued(section: Section) -> Iterator[Slice]:
    """What the host does: issuing kernels, replaying, work of its own, and waiting for the device."""
    timing, spans = section.estimate.timing, section.spans
    replay = _replay(section)
    found: list[Slice] = []
    for i, name in enumerate(timing.table.names):
        start, end = float(spans.issue[i]), float(spans.issued[i])
        if i == 0 and replay > 0:
            found.append(Slice("host", "replay", "replay", start, start + replay, {"seconds": replay}))
            start += replay
        if _wide(start, end):
            found.append(Slice("host", name, "issue", start, end, {"seconds": end - start}))
    for wait in spans.waits:
        arguments = {"for": timing.table.names[wait.launch]}
        found.append(Slice("host", "synchronise", "wait", wait.start, wait.end, arguments))
    yield from found


def _stream(stream: int) -> str:
    return f"stream {stream}"


def _kernels(section: Section) -> Iterator[Slice]:
    """Every kernel in its stream, with its costs and their derivation."""
    e, spans = section.estimate, section.spans
    timing, table = e.timing, e.timing.table
    traffic = timing.costs.traffic
    for i in np.argsort(spans.stream, kind="stable").tolist():
        arguments = {
            "component": table.branches[i],
            "phase": PHASES[table.phase[i]],
            "operator": table.ops[i],
            "flops": float(table.flops[i]),
            "bytes": {level: float(b[i]) for level, b in zip(traffic.levels, traffic.bytes, strict=True)},
            "bound": e.bound_of_kernels[i],
            "seconds": float(timing.advance[i]),
            "device_seconds": float(timing.device[i]),
            "host_seconds": float(timing.host[i]),
            "formula": _formula(e, i),
        }
        category = CATEGORIES[table.category[i]]
        start, end = float(spans.start[i]), float(spans.end[i])
        yield Slice(_stream(int(spans.stream[i])), table.names[i], category, start, end, arguments)


def _formula(e: Estimate, i: int) -> list[str]:
    """The lines of `ebmsim explain`, but the last one on memory: it is of a steady step."""
    return [line.strip() for line in [*compute_lines(e, i), *memory_lines(e, i)[:-1], *total_lines(e, i)]]


def _busy(section: Section) -> Iterator[Slice]:
    """How long every kernel keeps each engine and each memory level busy, from when its fixed time is over.

    With several streams each has a track of its own: kernels side by side share an engine.
    """
    timing, spans = section.estimate.timing, section.spans
    costs, names = timing.costs, timing.table.names
    scale = np.divide(spans.end - spans.start, spans.alone, out=np.zeros_like(spans.alone), where=spans.alone > 0)
    copies = np.asarray(costs.link) > 0
    begin = spans.start + np.where(copies, 0.0, np.broadcast_to(costs.fixed, scale.shape)) * scale
    levels = zip(costs.traffic.levels, costs.traffic.seconds, strict=True)
    resources = [*engines(timing, spans).items(), *levels, ("host link", np.asarray(costs.link))]
    streams = sorted(set(spans.stream.tolist()))
    for resource, seconds in resources:
        end = np.minimum(begin + np.asarray(seconds) * scale, spans.end)
        for stream in streams:
            track = resource if len(streams) == 1 else f"{resource}, {_stream(stream)}"
            for i in np.flatnonzero(spans.stream == stream).tolist():
                if _wide(begin[i], end[i]):
                    arguments = {"seconds": float(end[i] - begin[i])}
                    yield Slice(track, names[i], "busy", float(begin[i]), float(end[i]), arguments)


# --- arrows and curves -----------------------------------------------------------------------------------------------


def _flows(section: Section, tracks: dict[str, int]) -> Iterator[Event]:
    """Arrows from the issue of a kernel to it, and from a kernel to those of other branches that read its results.

    Kernels that take no time have none; neither have those of a stage in streams that its plan, which knows no host,
    has before their issue.
    """
    table, spans = section.estimate.timing.table, section.spans
    start, end = spans.start.tolist(), spans.end.tolist()
    track = [tracks[_stream(s)] for s in spans.stream.tolist()]
    wide = [_wide(*both) for both in zip(start, end, strict=True)]
    arrows = []
    for i, (issue, issued) in enumerate(zip(spans.issue.tolist(), spans.issued.tolist(), strict=True)):
        if i == 0 and _wide(issue + _replay(section), issued):
            # A replay comes before what is issued one by one.
            issue += _replay(section)
        if wide[i] and _wide(issue, issued) and issued <= start[i] + 1e-9:
            arrows.append(("launch", tracks["host"], _ns(issue), track[i], _ns(start[i])))
    for kernel, source in table.awaited.tolist():
        if wide[kernel] and wide[source]:
            # Inside the slice, as its end is no longer part of it.
            arrows.append(("data", track[source], _ns(end[source]) - 1, track[kernel], _ns(start[kernel])))
    for number, (name, here, at, there, then) in enumerate(arrows):
        flow = {"cat": name, "id": 10**6 * section.number + number}
        yield _event(section, "s", here, name, at, **flow)
        yield _event(section, "f", there, name, then, bp="e", **flow)


def _memory_held(section: Section, turn: Turn) -> Iterator[Event]:
    """Bytes held: weights, buffers, sample and inputs, and activations from their first kernel to their last one."""
    spans, size = section.spans, section.estimate.lowered.size
    held = (size.parameters + size.unused + size.held) * section.estimate.timing.table.element_bytes
    changes: list[tuple[int, float]] = []
    for life in lifetimes(turn):
        last = max(float(spans.end[k]) for k in life.kernels)
        changes += [(_ns(float(spans.start[life.kernels[0]])), life.bytes), (_ns(last), -life.bytes)]
    yield from _curve(section, "memory held", "bytes", changes, held)


def _rates(section: Section) -> Iterator[Event]:
    """Bytes a second at each level, of the kernels that run: their bytes over the time they take."""
    spans, traffic = section.spans, section.estimate.timing.costs.traffic
    start, end = [_ns(t) for t in spans.start], [_ns(t) for t in spans.end]
    for level, amounts in zip(traffic.levels, traffic.bytes, strict=True):
        changes: list[tuple[int, float]] = []
        for begin, stop, amount in zip(start, end, np.asarray(amounts).tolist(), strict=True):
            if stop > begin:
                rate = amount / ((stop - begin) * 1e-9)
                changes += [(begin, rate), (stop, -rate)]
        yield from _curve(section, level, "B/s", changes, 0.0)


def _curve(
    section: Section, name: str, unit: str, changes: Sequence[tuple[int, float]], base: float
) -> Iterator[Event]:
    """A counter that starts at `base` and changes at given ns; rounded to whole units."""
    value, shown = base, None
    for at, together in groupby(sorted([(0, 0.0), *changes]), key=lambda change: change[0]):
        value += sum(change for _, change in together)
        if round(value) != shown:
            shown = round(value)
            yield _event(section, "C", 0, name, at, args={unit: shown})
