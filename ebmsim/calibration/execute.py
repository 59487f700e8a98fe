"""A workload's sampling step as torch runs it, its phases timed apart.

Forward operators are run one after another with autograd on, the gradient is taken by torch.autograd, and what follows
runs without it, as in the published samplers. Tensors are dropped after their last use, as a module drops them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch

from ebmsim.calibration.actions import Values, follow, input_gradient, stretches, units
from ebmsim.calibration.streams import in_streams
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph
from ebmsim.graph.kernels import PHASES
from ebmsim.spec.workload import Workload

# Operators whose second input is an index into an axis of the first.
_INDEXED = ("gather", "scatter", "scatter_add")
# Operators that give the numbers they are given: all of their inputs, or the first.
_JOINED = ("concat", "stack")
_PASSED_ON = ("reshape", "expand", "permute", "slice", "split", "copy", "detach", "to_device", "synchronise", "gather")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The phases that a figure of an estimate is made of.
_FIGURES = {
    "t_samp": ("step",),
    "t_fwd": ("forward",),
    "t_bwd_in": ("backward-input",),
    "t_rng": ("rng",),
    "t_update": ("update", "host", "once"),
    "t_accept": ("accept",),
}


class Runs(Protocol):
    """What can be run again and again; host_seconds: of work on the host that it leaves out."""

    host_seconds: float

    def run(self) -> dict[str, float]:
        """Run once. Returns the seconds of its phases, and of all as `step`."""
        ...


class Step:
    """A sampling step that can be run again and again from where the first one starts.

    workload: its chains are batched. device: cpu or cuda. dtype: fp32 by default. seed: of weights and inputs.
    streams: in which branches of components run side by side, on cuda alone. keep: whether every tensor of a step
    outlives its last use. Raises SpecError where the workload's graph does not fit together, KeyError for a dtype
    torch lacks.
    """

    def __init__(
        self,
        workload: Workload,
        device: str = "cpu",
        dtype: str = "fp32",
        seed: int = 0,
        streams: int = 1,
        keep: bool = False,
    ) -> None:
        self.program = compose(workload, workload.setting("chains"))
        self.device, self.dtype = device, DTYPES[dtype]
        steps = [s for s in self.program.sections if s.label == "step"]
        graph, evaluations = self.program.graph, self.program.evaluations
        taken = [input_gradient(e) for e in evaluations]
        before = {e.since: follow(e.sample) for e in evaluations}

        def phase(i: int) -> str:
            return graph.nodes[i].phase

        with defaults(self.dtype):
            self.values = starting_values(graph, device, seed)
            # What comes before the first step gives it what it reads.
            for unit in units(graph, range(steps[0].first), phase, device, taken, before, keep=True):
                for action in unit.actions:
                    action(self.values)
        inside = [i for section in steps for i in range(section.first, section.last)]
        self.units = units(graph, inside, phase, device, taken, before, keep)
        self.stretches = stretches(self.units if streams == 1 else in_streams(self.units, graph, streams))
        self.host_seconds = host_seconds(graph, inside)

    def run(self) -> dict[str, float]:
        """Run one step. Returns the seconds of each phase, and all of them together as `step`."""
        values = dict(self.values)
        seconds = dict.fromkeys(PHASES, 0.0)
        with defaults(self.dtype):
            start = last = now(self.device)
            for phase, actions in self.stretches:
                for action in actions:
                    action(values)
                done = now(self.device)
                seconds[phase] += done - last
                last = done
        return seconds | {"step": last - start}

    def act(self, values: Values) -> Values:
        """Run one step on values of its own, untimed. Returns all that is there afterwards."""
        values = dict(values)
        with defaults(self.dtype):
            for _, actions in self.stretches:
                for action in actions:
                    action(values)
        return values


def now(device: str) -> float:
    """The clock in s, when the device has done all there is."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def defaults(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of the dtype; autograd is off but for gradients."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def host_seconds(graph: Graph, chosen: list[int]) -> float:
    """Seconds of work on the host among some nodes, which is not done."""
    nodes = graph.nodes
    return float(sum(dict(nodes[i].attributes).get("seconds", 0.0) for i in chosen if nodes[i].op == "host"))


def starting_values(graph: Graph, device: str, seed: int) -> Values:
    """Values for every tensor that no node writes.

    Weights are normal with deviation 1 / √(inputs of an output), so that activations keep their size. Indices are all
    entries that they choose from, equally often, in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    written = {t for node in graph.nodes for t in node.outputs}
    entries = _entries(graph)
    values: Values = {}
    for t, tensor in enumerate(graph.tensors):
        if t in written or tensor.role == "constant":
            continue
        if tensor.kind == "index" or t in entries:
            drawn = torch.randperm(tensor.elements, generator=generator) % entries.get(t, 2)
            values[t] = drawn.reshape(tensor.shape)
        elif tensor.kind == "mask":
            values[t] = torch.rand(tensor.shape, generator=generator) < 0.5
        elif tensor.role == "buffer":
            values[t] = torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5
        else:
            spread = (
                math.sqrt(math.prod(tensor.shape[1:])) if tensor.role == "weight" and len(tensor.shape) > 1 else 1.0
            )
            values[t] = torch.randn(tensor.shape, generator=generator) / spread
    return {t: value.to(device) for t, value in values.items()}


def _entries(graph: Graph) -> dict[int, int]:
    """How many entries an index chooses from: the fewest of its readers', through what only passes it on."""
    found: dict[int, int] = {}
    sources: dict[int, set[int]] = {}
    for node in graph.nodes:
        given = node.inputs if node.op in _JOINED else node.inputs[:1] if node.op in _PASSED_ON else ()
        if given:
            of_all = set().union(*(sources.get(t, {t}) for t in given))
            sources |= dict.fromkeys(node.outputs, of_all)
        a = dict(node.attributes)
        if node.op == "embedding":
            of, limit = node.inputs[0], a["entries"]
        elif node.op in ("one_hot", "index_add"):
            of, limit = node.inputs[-1], a["size"]
        elif node.op in _INDEXED:
            of, limit = node.inputs[1], graph.tensors[node.inputs[0]].shape[a["axis"]]
        else:
            continue
        for source in sources.get(of, {of}):
            found[source] = min(found.get(source, limit), limit)
    return found


def run_measured(step: Runs) -> dict[str, float]:
    """Run a step. Returns its seconds by the names that an estimate has for them."""
    return measured_phases(step.run())


def measured_phases(found: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a run by the names that an estimate has for them, as far as its phases are told apart."""
    return {name: sum(found[p] for p in phases) for name, phases in _FIGURES.items() if phases[0] in found}
