"""A workload's sampling step as torch runs it, its phases timed apart.

Forward operators are run one after another with autograd on, the gradient is taken by torch.autograd, and what follows
runs without it, as in the published samplers. Tensors are dropped after their last use, as a module drops them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from ebmsim.calibration.realise import REALISED
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.kernels import PHASES
from ebmsim.spec.workload import Workload

Values = dict[int, Tensor]
Action = Callable[[Values], None]
# Operators whose second input is an index into an axis of the first.
_INDEXED = ("gather", "scatter", "scatter_add")
# Operators that give the numbers they are given: all of their inputs, or the first.
_JOINED = ("concat", "stack")
_PASSED_ON = ("reshape", "expand", "permute", "slice", "split", "copy", "detach", "to_device", "synchronise", "gather")
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stretch(NamedTuple):
    """Actions of one phase, one after another."""

    phase: str
    actions: tuple[Action, ...]


class Step:
    """A sampling step that can be run again and again from where the first one starts.

    workload: its chains are batched. device: cpu or cuda. dtype: fp32 by default. seed: of weights and inputs.
    Raises SpecError where the workload's graph does not fit together, KeyError for a dtype torch lacks.
    """

    def __init__(self, workload: Workload, device: str = "cpu", dtype: str = "fp32", seed: int = 0) -> None:
        self.program = compose(workload, workload.setting("chains"))
        self.device, self.dtype = device, DTYPES[dtype]
        steps = [s for s in self.program.sections if s.label == "step"]
        nodes = self.program.graph.nodes
        with self._defaults():
            self.values = starting_values(self.program, device, seed)
            # What comes before the first step gives it what it reads.
            for stretch in stretches(self.program, range(steps[0].first), device, keep=True):
                for action in stretch.actions:
                    action(self.values)
            inside = [i for section in steps for i in range(section.first, section.last)]
            self.stretches = tuple(stretches(self.program, inside, device, keep=False))
        self.host_seconds = sum(dict(nodes[i].attributes).get("seconds", 0.0) for i in inside if nodes[i].op == "host")

    def run(self) -> dict[str, float]:
        """Run one step. Returns the seconds of each phase, and all of them together as `step`."""
        values = dict(self.values)
        seconds = dict.fromkeys(PHASES, 0.0)
        with self._defaults():
            start = last = self._now()
            for phase, actions in self.stretches:
                for action in actions:
                    action(values)
                now = self._now()
                seconds[phase] += now - last
                last = now
        return seconds | {"step": last - start}

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def _defaults(self) -> Iterator[None]:
        """New tensors are of the step's dtype; autograd is off but for gradients."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_default_dtype(before)


def starting_values(program: Program, device: str, seed: int) -> Values:
    """Values for every tensor that no node writes.

    Weights are normal with deviation 1 / √(inputs of an output), so that activations keep their size. Indices are all
    entries that they choose from, equally often, in random order.
    """
    generator = torch.Generator().manual_seed(seed)
    graph = program.graph
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


def stretches(program: Program, chosen: Sequence[int], device: str, keep: bool) -> Iterator[Stretch]:
    """The actions of some nodes, by phase; keep: whether tensors outlive their last use among them."""
    nodes = program.graph.nodes
    begins = {e.since: e for e in program.evaluations}
    skipped = {i: e for e in program.evaluations for i in range(e.first, e.last)}
    last: dict[int, int] = {}
    for i in chosen:
        evaluation = skipped.get(i)
        reads = nodes[i].inputs if evaluation is None else (evaluation.energy, evaluation.sample)
        last.update(dict.fromkeys((*reads, *nodes[i].outputs), i))
    made = {t for i in chosen for t in nodes[i].outputs}
    phase, actions = "", list[Action]()
    for i in chosen:
        node = nodes[i]
        found: list[Action] = []
        if i in begins:
            found.append(_follow(begins[i].sample))
        evaluation = skipped.get(i)
        if evaluation is None:
            dropped = () if keep else tuple(t for t in {*node.inputs, *node.outputs} if last[t] == i and t in made)
            found.append(_operator(node, device, dropped))
        elif i == evaluation.first:
            found.append(_gradient(evaluation.energy, evaluation.sample, evaluation.gradient))
        if node.phase != phase and actions:
            yield Stretch(phase, tuple(actions))
            actions = []
        phase = node.phase
        actions += found
    if actions:
        yield Stretch(phase, tuple(actions))


def _operator(node: Node, device: str, dropped: tuple[int, ...]) -> Action:
    """Run one operator, and drop what nothing reads any more."""
    rule, attributes = REALISED[node.op], {**dict(node.attributes), "device": device}
    inputs, outputs = node.inputs, node.outputs

    def act(values: Values) -> None:
        results = rule([values[t] for t in inputs], attributes)
        for t, result in zip(outputs, results, strict=True):
            values[t] = result
        for t in dropped:
            del values[t]

    return act


def _follow(sample: int) -> Action:
    """From here on autograd follows the sample."""

    def act(values: Values) -> None:
        values[sample] = values[sample].detach().requires_grad_()
        torch.set_grad_enabled(True)

    return act


def _gradient(energy: int, sample: int, gradient: int) -> Action:
    """The gradient of the sum of all energies with respect to the sample; autograd ends."""

    def act(values: Values) -> None:
        total = values[energy]
        (values[gradient],) = torch.autograd.grad(total, values[sample], torch.ones_like(total))
        values[energy] = total.detach()
        values[sample] = values[sample].detach()
        torch.set_grad_enabled(False)

    return act


def run_measured(step: Step) -> dict[str, float]:
    """Run a step. Returns its seconds by the names that an estimate has for them."""
    return measured_phases(step.run())


def measured_phases(found: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a run by the names that an estimate has for them."""
    return {
        "t_samp": found["step"],
        "t_fwd": found["forward"],
        "t_bwd_in": found["backward-input"],
        "t_rng": found["rng"],
        "t_update": found["update"] + found["host"] + found["once"],
        "t_accept": found["accept"],
    }
