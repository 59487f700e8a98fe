"""Nodes of a graph as actions on values: operators run one after another, autograd in place of gradients' own nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ebmsim.calibration.realise import REALISED
from ebmsim.graph.graph import Evaluation, Graph, Node

Values = dict[int, Tensor]
Action = Callable[[Values], None]


class Replaced(NamedTuple):
    """Nodes first … last - 1 that one action stands for, and the tensors that it reads and writes."""

    first: int
    last: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    action: Action


class Unit(NamedTuple):
    """What is done at once: a node or what stands for several, with what it reads and writes.

    node: number of the (first) node. label: what its time counts as. several: it stands for several nodes, and reads
    what they saved too.
    """

    node: int
    label: str
    branch: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    actions: tuple[Action, ...]
    several: bool = False


class Stretch(NamedTuple):
    """Actions of one label (a phase, or a part of an iteration), one after another."""

    label: str
    actions: tuple[Action, ...]


def units(
    graph: Graph,
    chosen: Sequence[int],
    label: Callable[[int], str],
    device: str,
    replaced: Sequence[Replaced] = (),
    before: Mapping[int, Action] | None = None,
    keep: bool = False,
) -> list[Unit]:
    """The units of some nodes, by number, in order.

    before: actions that come right before a node. keep: whether tensors outlive their last use among the nodes.
    """
    nodes, first = graph.nodes, before or {}
    of = {i: r for r in replaced for i in range(r.first, r.last)}
    kept = [i for i in chosen if i not in of or i == of[i].first]
    touched = [(of[i].reads, of[i].writes) if i in of else (nodes[i].inputs, nodes[i].outputs) for i in kept]
    last = {t: i for i, (reads, writes) in zip(kept, touched, strict=True) for t in (*reads, *writes)}
    made = set() if keep else {t for _, writes in touched for t in writes}
    found = []
    for i, (reads, writes) in zip(kept, touched, strict=True):
        if i in of:
            action = of[i].action
        else:
            action = _operator(nodes[i], device, tuple(t for t in {*reads, *writes} if last[t] == i and t in made))
        actions = (first[i], action) if i in first else (action,)
        branch = "" if i in of else nodes[i].branch
        found.append(Unit(i, label(i), branch, reads, writes, actions, i in of))
    return found


def stretches(of: Iterable[Unit]) -> tuple[Stretch, ...]:
    """Units that follow one another with one label, together."""
    runs = groupby(of, key=lambda unit: unit.label)
    return tuple(Stretch(label, tuple(a for unit in run for a in unit.actions)) for label, run in runs)


def input_gradient(evaluation: Evaluation, again: bool = False) -> Replaced:
    """The gradient of an evaluation in place of its nodes. again: whether it is differentiated in its turn."""
    e = evaluation
    action = _differentiable(e) if again else _gradient(e)
    return Replaced(e.first, e.last, (e.energy, e.sample), (e.gradient,), action)


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


def follow(sample: int) -> Action:
    """From here on autograd follows the sample."""

    def act(values: Values) -> None:
        values[sample] = values[sample].detach().requires_grad_()
        torch.set_grad_enabled(True)

    return act


def _gradient(e: Evaluation) -> Action:
    """The gradient of the sum of all energies with respect to the sample; autograd ends."""
    energy, sample, gradient = e.energy, e.sample, e.gradient

    def act(values: Values) -> None:
        total = values[energy]
        (values[gradient],) = torch.autograd.grad(total, values[sample], torch.ones_like(total))
        values[energy] = total.detach()
        values[sample] = values[sample].detach()
        torch.set_grad_enabled(False)

    return act


def follow_on(sample: int) -> Action:
    """From here on autograd follows the sample, which may itself depend on what is differentiated later.

    What read it before does not count, hence another view of it.
    """

    def act(values: Values) -> None:
        x = values[sample]
        values[sample] = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()

    return act


def _differentiable(e: Evaluation) -> Action:
    """The gradient of the sum of all energies with respect to the sample, with a graph of its own."""

    def act(values: Values) -> None:
        total = values[e.energy]
        ones = torch.ones_like(total)
        (values[e.gradient],) = torch.autograd.grad(total, values[e.sample], ones, create_graph=True)

    return act


def constant_gradient(evaluation: Evaluation) -> Replaced:
    """The gradient of an evaluation as a constant, while autograd goes on following the sample."""
    e = evaluation

    def act(values: Values) -> None:
        total = values[e.energy]
        (values[e.gradient],) = torch.autograd.grad(total, values[e.sample], torch.ones_like(total))

    return Replaced(e.first, e.last, (e.energy, e.sample), (e.gradient,), act)
