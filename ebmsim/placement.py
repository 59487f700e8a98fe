"""Components on several devices: which instance runs where, how long a pass then takes, and what crosses the links.

An instance of a component runs on one device, forward and backward, and only that one holds its weights. What belongs
to no component (the sampler, the sum of energies) runs on device 0. The optimiser updates weights where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ebmsim.communication import Wire, passed_on
from ebmsim.cost.assignment import list_schedule
from ebmsim.graph.compose import compose
from ebmsim.graph.fuse import fuse
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.kernels import BYTES
from ebmsim.graph.lower import lower, view_roots
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.training import compose_training
from ebmsim.lowered import Pass
from ebmsim.spec.workload import Workload
from ebmsim.timing import Priced, time_pass

Branches = Mapping[str, int]
"""The device of every component instance."""


class Turn(NamedTuple):
    """One turn of a pass with the graph behind it.

    kernels: the node of every launch. plain: the same without fusion. root: the memory that views show. changing:
    tensors that are others in every turn though no node here writes them (the sample, trained weights).
    """

    graph: Graph
    kernels: tuple[Node, ...]
    plain: tuple[Node, ...]
    root: Mapping[int, int]
    changing: frozenset[int]
    dtype: str


def step_turn(workload: Workload, rows: int, dtype: str, fuses: bool) -> Turn:
    """One steady step of a launch with so many chains."""
    program = compose(workload, rows)
    graph, root = program.graph, view_roots(program.graph)
    nodes = [n for s in program.sections if s.label == "step" for n in graph.nodes[s.first : s.last]]
    written = {root.get(t, t) for node in nodes for t in node.outputs}
    before = {t: node for node in graph.nodes for t in node.outputs}
    read = {root.get(t, t) for node in nodes for t in node.inputs} - written
    changing = frozenset(t for t in read if _is_sample(graph, t, before.get(t)))
    return Turn(graph, _kernels(fuse(graph, nodes) if fuses else nodes), _kernels(nodes), root, changing, dtype)


def _is_sample(graph: Graph, tensor: int, writer: Node | None) -> bool:
    """Whether a tensor that a step finds is the sample: no input, weight, or result of a component that runs once."""
    if writer is None:
        return graph.tensors[tensor].role == "sample"
    copied = writer.op == "to_device" and graph.tensors[writer.inputs[0]].role == "input"
    return not writer.branch and not copied


def iteration_turn(workload: Workload, dtype: str, fuses: bool) -> Turn:
    """One training iteration without its sampling steps."""
    iteration = compose_training(workload)
    graph = iteration.graph
    spans = sorted(span for runs in iteration.parts.values() for span in runs)
    runs = [graph.nodes[first:last] for first, last in spans]
    kernels = [node for run in runs for node in (fuse(graph, run) if fuses else run)]
    samples = [i for i, t in enumerate(graph.tensors) if t.role == "sample"]
    changing = frozenset([*samples, *iteration.weights])
    return Turn(graph, _kernels(kernels), _kernels([n for r in runs for n in r]), view_roots(graph), changing, dtype)


def _kernels(nodes: Sequence[Node]) -> tuple[Node, ...]:
    return tuple(node for node in nodes if OPERATORS[node.op].category != "view")


# --- which instance runs where ---------------------------------------------------------------------------------------


def loads(pass_: Pass, priced: Priced) -> dict[str, float]:
    """Seconds that the kernels of every instance take on one device, in order of their first one."""
    found: dict[str, float] = {}
    for name, seconds in zip(pass_.table.branches, time_pass(pass_, priced).advance.tolist(), strict=True):
        if name:
            found[name] = found.get(name, 0.0) + seconds
    return found


def assigned(seconds: Mapping[str, float], passes: Sequence[Pass], devices: int) -> dict[str, int]:
    """Instances assigned to devices by list scheduling; one waits for those whose results it reads.

    Of instances that wait for one another in turn (forward and backward), those that begin first come first.
    """
    number = {name: i for i, name in enumerate(seconds)}
    waits: set[tuple[int, int]] = set()
    for pass_ in passes:
        names = pass_.table.branches
        pairs = {(names[k], names[source]) for k, source in pass_.table.awaited.tolist()}
        waits |= {(number[a], number[b]) for a, b in pairs if a and b and number[b] < number[a]}
    machines = min(devices, len(number))
    if machines < 2:
        return dict.fromkeys(number, 0)
    durations = np.repeat(np.array(list(seconds.values()))[:, None], machines, axis=1)
    return dict(zip(number, list_schedule(durations, sorted(waits)).machine, strict=True))


def places(nodes: Sequence[Node], turn: Turn, of: Branches) -> list[int]:
    """The device of every node: its instance's, that of the weights it updates, or 0."""
    home = _homes(turn, of)
    found = []
    for node in nodes:
        place = of[node.branch] if node.branch else 0
        if _of_weights(node):
            read = [turn.root.get(t, t) for t in node.inputs]
            place = next((home[t] for t in read if t in home), 0)
        if node.phase == "backward-weight" or _of_weights(node):
            home.update(dict.fromkeys(node.outputs, place))
        found.append(place)
    return found


def _of_weights(node: Node) -> bool:
    """Whether a node of no component works on weights or their gradients: those of several terms added, the update."""
    return not node.branch and (node.phase == "backward-weight" or node.name.startswith("optimiser."))


def _homes(turn: Turn, of: Branches) -> dict[int, int]:
    """The device of every weight: that of the first instance that reads it."""
    home: dict[int, int] = {}
    for node in turn.plain:
        for t in node.inputs:
            if turn.graph.tensors[t].role == "weight" and node.branch:
                home.setdefault(t, of[node.branch])
    return home


# --- how long a pass takes -------------------------------------------------------------------------------------------


def seconds_of(pass_: Pass, priced: Priced, turn: Turn, of: Branches) -> float:
    """Seconds of a pass whose kernels run on several devices, messages not counted.

    A kernel takes what it takes on one device, in one stream. A host of its own feeds every device; kernels of a device
    run in order and wait for those of others whose results they read. A steady step without a synchronisation takes

        T = max(longest path of kernels, Σ host of the device with most)

    and otherwise every stretch between two synchronisations starts with empty queues, as on one device. A device whose
    energy exceeds what its limit of power leaves in that time stretches it. Left out: that a device that runs fewer
    kernels finds more of its data in its caches.
    """
    machine = priced.machine
    place = places(turn.kernels, turn, of)
    if not place:
        return 0.0
    owner, waits = np.array(place), _waits(turn, place)
    host, device = priced.host[pass_.order], priced.device[pass_.order]
    host[np.unique(owner, return_index=True)[1]] += priced.replay
    if not machine.host.asynchronous:
        path = _end(range(len(place)), np.zeros_like(host), host + device, place, waits)
    elif pass_.steady and len(pass_.breaks) == 0:
        path = _end(range(len(place)), np.zeros_like(host), device, place, waits)
        path = max(path, float(np.bincount(owner, weights=host).max()))
    else:
        wait = 0.0 if priced.policy.fidelity == "roofline" else machine.host.synchronise
        spans = _spans(pass_.breaks.tolist(), len(place))
        path = len(pass_.breaks) * wait + sum(_end(span, host, device, place, waits) for span in spans)
    joules = np.bincount(owner, weights=priced.costs.joules[pass_.order]).max()
    return max(path, float(joules / (machine.power.limit - machine.power.static)))


def _waits(turn: Turn, place: Sequence[int]) -> list[set[int]]:
    """The kernels of other devices that each kernel waits for.

    One that adds up a gradient adds what its own device has: whoever reads the sum waits for all devices.
    """
    sums = {node.outputs[0]: turn.root.get(node.inputs[0], node.inputs[0]) for node in turn.plain if _adds(node)}
    writer: dict[int, int] = {}
    waits: list[set[int]] = []
    parts: list[set[int]] = []
    for k, node in enumerate(turn.kernels):
        added = {sums[t] for t in node.outputs if t in sums}
        waits.append(set())
        parts.append(set())
        for origin in {turn.root.get(t, t) for t in node.inputs} & writer.keys():
            source = writer[origin]
            others = parts[source] | ({source} if place[source] != place[k] else set())
            (parts if origin in added else waits)[k].update(others)
        writer.update({turn.root.get(t, t): k for t in node.outputs})
    return waits


def _spans(cuts: Sequence[int], count: int) -> Iterator[range]:
    """Runs of kernels, each up to one after which the host waits."""
    start = 0
    for stop in dict.fromkeys([*cuts, count - 1]):
        yield range(start, stop + 1)
        start = stop + 1


def _end(span: range, host: np.ndarray, device: np.ndarray, place: Sequence[int], waits: Sequence[set[int]]) -> float:
    """When the last kernel of a run ends, all queues being empty at first."""
    issued = [0.0] * (max(place) + 1)
    free = list(issued)
    ends: dict[int, float] = {}
    spent, busy = host.tolist(), device.tolist()
    for k in span:
        d = place[k]
        issued[d] += spent[k]
        start = max(free[d], issued[d])
        for source in waits[k]:
            start = max(start, ends.get(source, 0.0))
        ends[k] = free[d] = start + busy[k]
    return max(free)


# --- what crosses the links ------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """What goes from device to device: bytes, and over how many hops; a broadcast, or a sum on its way."""

    size: float
    hops: int


def messages(turn: Turn, of: Branches) -> list[Message]:
    """What one turn of a pass sends, from the tensors that kernels read on other devices than they were written on.

    A result is sent once to every device that reads it: a broadcast. The sample, and weights that were updated, count
    as written at the start, on device 0 and where the weights are. A gradient that instances on several devices
    contribute to is added up on each of them, and then from device to device: one sum.
    """
    place = places(turn.plain, turn, of)
    homes = _homes(turn, of)
    held = {t: [homes.get(t, 0)] for t in turn.changing}
    version = dict.fromkeys(held, -1)
    sums: dict[int, int] = {}
    sizes: dict[tuple[int, int], float] = {}
    reached: dict[tuple[int, int], set[int]] = {}
    for index, (node, d) in enumerate(zip(turn.plain, place, strict=True)):
        if _adds(node):
            sums[node.outputs[0]] = sums.setdefault(turn.root.get(node.inputs[0], node.inputs[0]), index)
        for t in node.inputs:
            origin = turn.root.get(t, t)
            if d in held.get(origin, (d,)):
                continue
            key = (-1, sums[origin]) if origin in sums else (origin, version[origin])
            sizes[key] = max(sizes.get(key, 0.0), _bytes(turn, t))
            reached.setdefault(key, set()).update((held[origin][0], d))
            held[origin].append(d)
        for t in node.outputs:
            held[turn.root.get(t, t)], version[turn.root.get(t, t)] = [d], index
    return [Message(sizes[key], len(devices) - 1) for key, devices in reached.items()]


def _adds(node: Node) -> bool:
    """Whether a node adds one part of a gradient to the others."""
    return node.op == "add" and node.name.endswith(".sum")


def _bytes(turn: Turn, tensor: int) -> float:
    t, origin = (turn.graph.tensors[i] for i in (tensor, turn.root.get(tensor, tensor)))
    size = {"float": BYTES[turn.dtype], "index": 8.0, "mask": 1.0}[t.kind]
    return min(t.elements, origin.elements) * size


def messages_seconds(turn: Turn, of: Branches, wire: Wire) -> float:
    """Seconds of all messages of one turn, one after another and beside nothing else."""
    return sum(passed_on(message.size, message.hops, wire) for message in messages(turn, of))


# --- what a device holds ---------------------------------------------------------------------------------------------


class Held(NamedTuple):
    """Elements and bytes on one device.

    weights: elements by name, of weights and buffers that its kernels read. updated: elements of weights updated there.
    outside: of the sample and inputs, which every device has. live: bytes of activations.
    """

    weights: Mapping[str, int]
    updated: int
    outside: int
    live: float


def held_by(turn: Turn, of: Branches, device: int) -> Held:
    """What the kernels of one device need."""
    tensors = turn.graph.tensors
    place = places(turn.kernels, turn, of)
    mine = [node for node, d in zip(turn.kernels, place, strict=True) if d == device]
    read = {turn.root.get(t, t) for node in mine if not _of_weights(node) for t in node.inputs}
    weights = {tensors[t].name: tensors[t].elements for t in read if tensors[t].role in ("weight", "buffer")}
    updated = sum(tensors[node.inputs[0]].elements for node in mine if node.op == "adam")
    outside = sum(t.elements for t in tensors if t.role in ("sample", "input"))
    live = lower(turn.graph, mine, turn.dtype, cyclic=True).live_bytes if mine else 0.0
    return Held(weights, updated, outside, live)
