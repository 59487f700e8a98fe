"""From a workload to its kernels: graphs composed, differentiated, fused and lowered, equal kernels found."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ebmsim.cost.schedule import synchronisations
from ebmsim.cost.ways import ways_of
from ebmsim.graph.compose import Composer, compose
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.fuse import fuse
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.kernels import CATEGORIES, KernelTable
from ebmsim.graph.lower import lower, work_of
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.rows import counted, rows_of
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training, how_trained
from ebmsim.lowered import ComponentFigures, Facts, Lowered, Pass, Size, Training, WeightBackward
from ebmsim.policy import Policy, Profile
from ebmsim.spec.expression import evaluate
from ebmsim.spec.workload import Workload


def fused(profile: Profile, policy: Policy) -> bool:
    """Whether operators are fused: always, or in compiled and persistent execution, as the profile says."""
    return profile.fuses == "always" or (profile.fuses == "compiled" and policy.execution in ("compiled", "persistent"))


def told_apart(profile: Profile) -> tuple[str, ...]:
    """The kinds of kernels of which a profile has figures of their own, in order of name."""
    return tuple(sorted({*profile.host_cost, *profile.element_cycles} - {*CATEGORIES}))


def lower_workload(workload: Workload, policy: Policy, profile: Profile) -> Lowered:
    """The kernels of a workload. Raises SpecError where its graphs do not fit together."""
    fuses = fused(profile, policy)
    chains = workload.setting("chains")
    sequential = policy.chain_mode == "sequential"
    rows = 1 if sequential else chains
    program = compose(workload, rows)
    step, plain = _step(program, policy.dtype, fuses)
    # Tables by role, whether they start from nothing, how often an inference runs them.
    planned: list[tuple[str, KernelTable, bool, int]] = [("step", step, False, 1), ("first", step, True, 1)]
    for section in program.sections:
        if section.label == "once":
            nodes = program.graph.nodes[section.first : section.last]
            table = lower(program.graph, fuse(program.graph, nodes) if fuses else nodes, policy.dtype)
            if len(table):
                planned.append(("once", table, True, section.repeat))
    if rows != 1:
        planned.append(("one_chain", _step(compose(workload, 1), policy.dtype, fuses)[0], False, 1))
    parts: dict[str, Any] = {}
    how, buffered = how_trained(workload), 0.0
    size = training_size = _size(workload, program)
    if workload.file.training is not None:
        batch, trained = workload.setting("training_batch"), workload.in_training()
        alike = trained is workload
        if not (alike and batch == rows):
            planned.append(("training_step", _step(compose(trained, batch), policy.dtype, fuses)[0], False, 1))
        iteration = compose_training(workload)
        table, parts = _iteration(iteration, policy.dtype, fuses)
        planned.append(("iteration", table, False, 1))
        sampled = program
        if not alike:
            planned.append(("training_one_chain", _step(compose(trained, 1), policy.dtype, fuses)[0], False, 1))
            sampled = compose(trained, rows)
            training_size = _size(trained, sampled)
        tensors = iteration.graph.tensors
        elements = sum(tensors[t].elements for t in iteration.weights)
        only = sum(t.elements for t in tensors if t.role == "weight" and t.name not in sampled.weights)
        training_size = training_size._replace(trained=elements, training=only)
        buffered = float(size.sample * batch) if evaluate(workload.file.training.buffer, workload.parameters) else 0.0
        size = training_size if alike else size
    distinct, orders = rows_of([(table, cold) for _, table, cold, _ in planned], told_apart(profile))
    passes = [
        (role, Pass(table, order, counted(order, len(distinct)), synchronisations(table), not cold, repeat))
        for (role, table, cold, repeat), order in zip(planned, orders, strict=True)
    ]
    of = dict(passes)
    one_chain = of.get("one_chain", of["step"])
    # Steps that the gradient goes back through are in the iteration.
    sampled_steps = workload.setting("training_steps") - math.prod(how.unrolled)
    return Lowered(
        facts=_facts(workload),
        size=size,
        components=_components(workload),
        chains=rows,
        launches=chains if sequential else 1,
        rows=distinct,
        ways=ways_of(distinct.products, profile),
        plain=plain,
        step=of["step"],
        first=of["first"],
        once=tuple(pass_ for role, pass_ in passes if role == "once"),
        one_chain=one_chain,
        training_step=of.get("training_step", of["step"]) if "iteration" in of else None,
        iteration=of.get("iteration"),
        parts=parts,
        training_size=training_size,
        training_one_chain=of.get("training_one_chain", one_chain),
        training=Training(sampled_steps, how.average, how.host_seconds, buffered),
        backward=_weight_backward(workload, rows, policy.dtype),
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


def _weight_backward(workload: Workload, chains: int, dtype: str) -> WeightBackward:
    composer = Composer(workload, chains)
    composer.prepare()
    sample = composer.b.tensor((chains, *composer.sample_shape), "sample", composer.sample)
    energy = composer.energy(sample)
    mark = len(composer.b.nodes)
    trained = [t for t in composer.weights.values() if t not in composer.frozen]
    differentiate(composer.b, [energy], trained, phase="backward-weight")
    graph = composer.b.graph()
    table = lower(graph, graph.nodes[mark:], dtype)
    return WeightBackward(float(table.flops.sum()), float(table.product_flops.sum()))


def _facts(workload: Workload) -> Facts:
    declared, derived = workload.file.taxonomy, derive(workload)
    paper = declared.paper
    tags = None if paper is None else {"compositionality": paper.compositionality, "dependency": paper.dependency}
    taxonomy = {
        "compositionality": declared.compositionality,
        "dependency": declared.dependency,
        "derived_compositionality": derived.compositionality,
        "derived_dependency": derived.dependency,
        "paper": tags,
    }
    return Facts(workload.name, workload.document.file, workload.preset, dict(workload.parameters), taxonomy)
