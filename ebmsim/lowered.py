"""A workload made ready: its kernel tables and the figures of it that no device changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.graph.compose import Composer, compose
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.fuse import fuse
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.lower import KernelTable, lower, work_of
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.training import How, Iteration, compose_training, how_trained
from ebmsim.spec.expression import evaluate
from ebmsim.spec.policy import Policy, Profile
from ebmsim.spec.workload import Workload


class ComponentFigures(NamedTuple):
    """What a component is, per instance: parameters, and FLOPs of one forward for one chain (the mean of instances).

    A component without a chain axis is computed once for all chains; its FLOPs are all of them.
    """

    name: str
    instances: int
    weights: str
    parameters: int
    flops: float


class Size(NamedTuple):
    """Elements held: learned ones in use and allocated beside them, buffers, sample and inputs, one chain's sample.

    trained: learned ones that an optimiser updates, 0 where nothing is trained. training: learned ones that only
    training uses.
    """

    parameters: int
    unused: int
    held: int
    sample: int
    trained: int = 0
    training: int = 0


@dataclass(frozen=True)
class Lowered:
    """A workload as kernel tables: everything an estimate needs of it, once per dtype, fusion and chain mode.

    step: one steady step of one launch. plain: the same without fusion. once: what one inference does outside its
    steps, with how often. one_chain: the step of a single chain. training_step, iteration: at the training batch;
    training_size, training_one_chain: size and one_chain of the workload as it is trained.
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
    training_size: Size
    training_one_chain: KernelTable
    how: How

    def host_seconds(self, machine: Machine, policy: Policy) -> Any:
        """Work on the host per iteration and the replay buffer's copies, in s, the device waiting for both.

        The buffer takes negatives to the host as bytes and gives others back; the host waits for the first copy.
        """
        training, w = self.workload.file.training, self.workload
        if training is None or not evaluate(training.buffer, w.parameters) or policy.fidelity == "roofline":
            return self.how.host_seconds
        amount = self.size.sample * w.setting("training_batch")
        copies = 2 * (machine.host.link_latency + amount / machine.host.link_bandwidth)
        return self.how.host_seconds + copies + machine.host.synchronise


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
    how = how_trained(workload)
    size = training_size = _size(workload, program)
    one_chain = step if rows == 1 else _step(compose(workload, 1), policy.dtype, fuses)[0]
    training_one_chain = one_chain
    if workload.file.training is not None:
        batch, trained = workload.setting("training_batch"), workload.in_training()
        alike = trained is workload
        training_step = step if alike and batch == rows else _step(compose(trained, batch), policy.dtype, fuses)[0]
        iteration = compose_training(workload)
        iteration_table, parts = _iteration(iteration, policy.dtype, fuses)
        if not alike:
            training_one_chain = _step(compose(trained, 1), policy.dtype, fuses)[0]
            trained_program = compose(trained, rows)
            training_size = _size(trained, trained_program)
        tensors = iteration.graph.tensors
        elements = sum(tensors[t].elements for t in iteration.weights)
        sampled = (program if alike else trained_program).weights.keys()
        only = sum(t.elements for t in tensors if t.role == "weight" and t.name not in sampled)
        training_size = training_size._replace(trained=elements, training=only)
        size = training_size if alike else size
    return Lowered(
        workload=workload,
        size=size,
        components=_components(workload),
        chains=rows,
        launches=chains if sequential else 1,
        step=step,
        plain=plain,
        once=tuple(once),
        one_chain=one_chain,
        training_step=training_step,
        iteration=iteration_table,
        parts=parts,
        training_size=training_size,
        training_one_chain=training_one_chain,
        how=how,
    )


def _size(workload: Workload, program: Program) -> Size:
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
    once = {name for name, spec in workload.file.components.items() if spec.runs == "once"}
    for node in composer.b.nodes:
        if OPERATORS[node.op].category != "view" and (node.phase != "once" or node.branch.partition("[")[0] in once):
            shapes = tuple([tensors[t].shape for t in node.inputs]), tuple([tensors[t].shape for t in node.outputs])
            flops = work_of(node.op, *shapes, node.attributes).flops
            owner = node.branch.partition("[")[0]
            forward[owner] = forward.get(owner, 0.0) + flops
    found = []
    for name, spec in workload.file.components.items():
        instances = composer.instances(name, spec)
        if instances:
            own = [tensors[t] for key, t in composer.weights.items() if key.startswith(f"{name}.")]
            parameters = sum(t.elements for t in own if t.role == "weight")
            mean = forward.get(name, 0.0) / instances
            found.append(ComponentFigures(name, instances, spec.weights, parameters, mean))
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
