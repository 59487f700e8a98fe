"""A workload made ready: its kernel tables and the figures of it that no device changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.graph.compose import Composer, Program, compose
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.fuse import fuse
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.lower import KernelTable, lower, work_of
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.spec.expression import evaluate
from ebmsim.spec.policy import Policy, Profile
from ebmsim.spec.workload import Workload


class ComponentFigures(NamedTuple):
    """What a component is, per instance: parameters, and FLOPs of one forward for one chain.

    A component without a chain axis is computed once for all chains; its FLOPs are all of them.
    """

    name: str
    instances: int
    weights: str
    parameters: int
    flops: float


class Size(NamedTuple):
    """Elements held: learned ones in use and allocated beside them, buffers, sample and inputs, one chain's sample.

    trained: learned ones that training updates. training: learned ones that only training uses.
    """

    parameters: int
    unused: int
    held: int
    sample: int
    trained: int
    training: int


@dataclass(frozen=True)
class Lowered:
    """A workload as kernel tables: everything an estimate needs of it, once per dtype, fusion and chain mode.

    step: one steady step of one launch. plain: the same without fusion. once: what one inference does outside its
    steps, with how often. one_chain: the step of a single chain. training_step, iteration: at the training batch.
    """

    workload: Workload
    size: Size
    components: tuple[ComponentFigures, ...]
    chains: int
    launches: int
    step: KernelTable
    plain: KernelTable
    once: tuple[tuple[KernelTable, int], ...]
    one_chain: KernelTable
    training_step: KernelTable | None
    iteration: KernelTable | None
    parts: Mapping[str, Any]

    def buffer_seconds(self, machine: Machine, policy: Policy) -> Any:
        """Replay buffer per iteration: negatives to the host as bytes and back, the host waiting for the first copy."""
        training, w = self.workload.file.training, self.workload
        if training is None or not evaluate(training.buffer, w.parameters) or policy.fidelity == "roofline":
            return 0.0
        amount = self.size.sample * w.setting("training_batch")
        return 2 * (machine.host.link_latency + amount / machine.host.link_bandwidth) + machine.host.synchronise


def fused(profile: Profile, policy: Policy) -> bool:
    """Whether operators are fused: always, or in compiled and persistent execution, as the profile says."""
    return profile.fuses == "always" or (profile.fuses == "compiled" and policy.execution in ("compiled", "persistent"))


def lower_workload(workload: Workload, policy: Policy, profile: Profile) -> Lowered:
    """The kernel tables of a workload. Raises SpecError where its graphs do not fit together."""
    fuses = fused(profile, policy)
    chains = workload.setting("chains")
    sequential = policy.chain_mode == "sequential"
    rows = 1 if sequential else chains
    program = compose(workload, rows)
    step, plain = _step(program, policy.dtype, fuses)
    once = []
    for section in program.sections:
        if section.label == "once":
            nodes = program.graph.nodes[section.first : section.last]
            table = lower(program.graph, fuse(program.graph, nodes) if fuses else nodes, policy.dtype)
            if len(table):
                once.append((table, section.repeat))
    training_step = iteration_table = None
    parts: dict[str, Any] = {}
    trained = only = 0
    if workload.file.training is not None:
        batch = workload.setting("training_batch")
        training_step = step if batch == rows else _step(compose(workload, batch), policy.dtype, fuses)[0]
        iteration = compose_training(workload)
        iteration_table, parts = _iteration(iteration, policy.dtype, fuses)
        trained = sum(iteration.graph.tensors[t].elements for t in iteration.weights)
        in_both = program.weights.keys()
        learned = [t for t in iteration.graph.tensors if t.role == "weight"]
        only = sum(t.elements for t in learned if t.name not in in_both)
    return Lowered(
        workload=workload,
        size=_size(workload, program, trained, only),
        components=_components(workload),
        chains=rows,
        launches=chains if sequential else 1,
        step=step,
        plain=plain,
        once=tuple(once),
        one_chain=step if rows == 1 else _step(compose(workload, 1), policy.dtype, fuses)[0],
        training_step=training_step,
        iteration=iteration_table,
        parts=parts,
    )


def _size(workload: Workload, program: Program, trained: int, training: int) -> Size:
    tensors = program.graph.tensors
    own = [tensors[t] for t in program.weights.values()]
    outside = [t for t in tensors if t.role in ("sample", "input")]
    composer = Composer(workload, 1)
    unused = sum(
        int(composer.value(c.unused_parameters, ("components", name, "unused_parameters")))
        for name, c in workload.file.components.items()
        if composer.instances(name, c)
    )
    return Size(
        parameters=sum(t.elements for t in own if t.role == "weight"),
        unused=unused,
        held=sum(t.elements for t in own if t.role == "buffer") + sum(t.elements for t in outside),
        sample=math.prod(tensors[program.graph.results[0]].shape[1:]),
        trained=trained,
        training=training,
    )


def _components(workload: Workload) -> tuple[ComponentFigures, ...]:
    """Figures of the components, from one evaluation for one chain, of all its rows."""
    composer = Composer(workload, 1)
    composer.prepare(composer.rows, training=True)
    composer.run("training", None)
    rows = (composer.rows,) if composer.rows > 1 else ()
    composer.energy(composer.b.tensor((1, *rows, *composer.sample_shape), "sample", composer.sample))
    composer.decode(composer.b.tensor((1, *composer.sample_shape), "sample", composer.sample))
    tensors = composer.b.tensors
    forward: dict[str, float] = {}
    for node in composer.b.nodes:
        if OPERATORS[node.op].category != "view":
            shapes = tuple([tensors[t].shape for t in node.inputs]), tuple([tensors[t].shape for t in node.outputs])
            flops = work_of(node.op, *shapes, node.attributes).flops
            forward[node.branch] = forward.get(node.branch, 0.0) + flops
    found = []
    for name, spec in workload.file.components.items():
        instances = composer.instances(name, spec)
        if instances:
            own = [tensors[t] for key, t in composer.weights.items() if key.startswith(f"{name}.")]
            parameters = sum(t.elements for t in own if t.role == "weight")
            found.append(ComponentFigures(name, instances, spec.weights, parameters, forward.get(f"{name}[0]", 0.0)))
    return tuple(found)


def _step(program: Program, dtype: str, fuses: bool) -> tuple[KernelTable, KernelTable]:
    nodes: list[Node] = []
    for section in program.sections:
        if section.label == "step":
            nodes += program.graph.nodes[section.first : section.last]
    plain = lower(program.graph, nodes, dtype, cyclic=True)
    return (lower(program.graph, fuse(program.graph, nodes), dtype, cyclic=True) if fuses else plain), plain


def _iteration(iteration: Iteration, dtype: str, fuses: bool) -> tuple[KernelTable, dict[str, Any]]:
    """The iteration's kernels in order, and which of them belong to each part."""
    graph: Graph = iteration.graph
    spans = sorted((first, last, name) for name, runs in iteration.parts.items() for first, last in runs)
    nodes: list[Node] = []
    parts: dict[str, list[int]] = {}
    count = 0
    for first, last, name in spans:
        run = graph.nodes[first:last]
        chosen = fuse(graph, run) if fuses else run
        kernels = sum(OPERATORS[node.op].category != "view" for node in chosen)
        parts.setdefault(name, []).extend(range(count, count + kernels))
        nodes += chosen
        count += kernels
    return lower(graph, nodes, dtype, cyclic=True), {k: np.array(v, dtype=np.int64) for k, v in parts.items()}


def weight_backward(workload: Workload, chains: int, dtype: str) -> KernelTable:
    """The kernels of one backward pass to the weights of the energy, the sample not asking for a gradient."""
    composer = Composer(workload, chains)
    composer.prepare()
    sample = composer.b.tensor((chains, *composer.sample_shape), "sample", composer.sample)
    energy = composer.energy(sample)
    mark = len(composer.b.nodes)
    trained = [t for t in composer.weights.values() if t not in composer.frozen]
    differentiate(composer.b, [energy], trained, phase="backward-weight")
    graph = composer.b.graph()
    return lower(graph, graph.nodes[mark:], dtype)
