"""Branches of a step side by side in CUDA streams: which unit runs in which stream, and what it waits for.

A backward runs where its forward ran: torch.autograd keeps the streams, and waits between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch

from ebmsim.calibration.actions import Action, Unit, Values
from ebmsim.graph.graph import Graph
from ebmsim.graph.lower import view_roots
from ebmsim.graph.operators.table import OPERATORS

# Stands before all units, in stream 0: what was there when the step began.
START = -1
_NEVER = -2


class Placed(NamedTuple):
    """Where a unit runs: its stream, and the earlier units of other streams that it waits for first."""

    stream: int
    waits: tuple[int, ...]


class Plan(NamedTuple):
    """Every unit's place, in the order in which they are issued.

    ends: what stream 0 waits for when all are issued: the last unit of every other stream.
    """

    placed: tuple[Placed, ...]
    ends: tuple[int, ...]


def plan(of: Sequence[Unit], graph: Graph, streams: int) -> Plan:
    """Deal the branches of every stage to at most so many streams, and order what depends on one another.

    A unit waits for the last write of what it touches, a write for all reads before it, and everything for the gradient
    before it, which reads what autograd saved. What is in no branch runs in stream 0. A wait that an earlier one of the
    same stream implies is left out.
    """
    dealt, roots = _dealt(of, graph, streams), view_roots(graph)
    since = START
    written: dict[int, int] = {}
    read: dict[int, list[int]] = {}
    # By stream, up to which unit it has waited for each other one.
    seen: list[dict[int, int]] = [{} for _ in range(streams)]
    placed = []
    for i, (unit, mine) in enumerate(zip(of, dealt, strict=True)):
        reads, writes = accesses(unit, graph, roots)
        sources = {since, *(written[t] for t in reads | writes if t in written)}
        sources.update(k for t in writes for k in read.get(t, ()))
        waits = []
        for source in sorted(sources, reverse=True):
            theirs = 0 if source == START else dealt[source]
            if theirs != mine and seen[mine].get(theirs, _NEVER) < source:
                seen[mine][theirs] = source
                waits.append(source)
        placed.append(Placed(mine, tuple(waits)))
        since = i if unit.several else since
        for t in reads:
            read.setdefault(t, []).append(i)
        for t in writes:
            written[t], read[t] = i, []
    last = {stream: i for i, stream in enumerate(dealt) if stream}
    return Plan(tuple(placed), tuple(last.values()))


def accesses(unit: Unit, graph: Graph, roots: Mapping[int, int]) -> tuple[set[int], set[int]]:
    """Tensors that a unit reads and writes, each with the one whose memory it shows.

    A view writes its result alone: torch may copy it, but changes nothing else.
    """
    reads, writes = set(unit.reads), set(unit.writes)
    reads |= {roots.get(t, t) for t in reads}
    if OPERATORS[graph.nodes[unit.node].op].category != "view":
        writes |= {roots.get(t, t) for t in writes}
    return reads, writes


def _dealt(of: Sequence[Unit], graph: Graph, streams: int) -> list[int]:
    """The stream of every unit. The branches of a stage are dealt largest first, by elements written.

    A stage is a run of units of one label that are all in branches, or all in none.
    """
    found: list[int] = []
    for (_, inside), run in groupby(of, key=lambda unit: (unit.label, bool(unit.branch))):
        stage = list(run)
        size = dict.fromkeys((unit.branch for unit in stage), 0)
        for unit in stage:
            size[unit.branch] += sum(graph.tensors[t].elements for t in unit.writes)
        loads = [0] * (min(streams, len(size)) if inside else 1)
        stream: dict[str, int] = {}
        for branch in sorted(size, key=lambda branch: -size[branch]):
            stream[branch] = loads.index(min(loads))
            loads[stream[branch]] += size[branch]
        found += [stream[unit.branch] for unit in stage]
    return found


def in_streams(of: Sequence[Unit], graph: Graph, streams: int) -> list[Unit]:
    """The same units, each in its stream when it runs, the current stream being stream 0. Needs CUDA."""
    found = plan(of, graph, streams)
    cuda: Any = torch.cuda  # without types
    side = [cuda.Stream() for _ in range(streams - 1)]
    awaited = sorted({START, *found.ends, *(k for placed in found.placed for k in placed.waits)})
    events = {k: cuda.Event() for k in awaited}
    home = {t: placed.stream for unit, placed in zip(of, found.placed, strict=True) for t in unit.writes}

    def begin(values: Values) -> None:
        events[START].record()

    def end(values: Values) -> None:
        for k in found.ends:
            torch.cuda.current_stream().wait_event(events[k])

    units = []
    for i, (unit, placed) in enumerate(zip(of, found.placed, strict=True)):
        foreign = tuple(t for t in unit.reads if home.get(t, 0) != placed.stream)
        stream = side[placed.stream - 1] if placed.stream else None
        waits = [events[k] for k in placed.waits]
        units.append(unit._replace(actions=(_placed(unit.actions, stream, waits, events.get(i), foreign),)))
    first, last = units[0], units[-1]
    units[0] = first._replace(actions=(begin, *first.actions))
    units[-1] = last._replace(actions=(*last.actions, end))
    return units


def _placed(actions: Sequence[Action], stream: Any, waits: Sequence[Any], event: Any, foreign: Sequence[int]) -> Action:
    """Actions in a stream (None: the current one) after other streams' events, with an event of their own.

    foreign: tensors from other streams, whose memory must not be given away before this one has read them.
    """

    def act(values: Values) -> None:
        with torch.cuda.stream(stream):
            current = torch.cuda.current_stream()
            for other in waits:
                current.wait_event(other)
            for t in foreign:
                if isinstance(values[t], torch.Tensor):
                    values[t].record_stream(current)
            for action in actions:
                action(values)
            if event is not None:
                event.record()

    return act
