"""A workload's training iteration as torch runs it, its parts timed apart; the sampling before it is a Step's.

Losses and input gradients are those of the composed graph, by the same tensor numbers; torch.autograd takes every
gradient, and torch's fused Adam updates the weights. Samples, negatives among them, and targets are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ebmsim.calibration.actions import (
    Action,
    Replaced,
    Values,
    constant_gradient,
    follow_on,
    input_gradient,
    stretches,
    units,
)
from ebmsim.calibration.execute import DTYPES, defaults, host_seconds, now, starting_values
from ebmsim.graph.compose import Composer
from ebmsim.graph.graph import Evaluation, Graph
from ebmsim.graph.training import PARTS, How, IterationComposer, how_trained
from ebmsim.spec.workload import Workload

# Norm to which gradients are clipped.
_CLIP = 1.0
# Share of the weights that enters their running average.
_AVERAGE = 0.001


class Loss(NamedTuple):
    """A loss whose weight gradient is taken, and the nodes that take it in the graph: first … last - 1."""

    tensor: int
    first: int
    last: int


class Recorded(NamedTuple):
    """A composed iteration with what autograd is asked for.

    gradients: of energies, differentiated in their turn; constants: those that are not. updated: weights of the
    optimiser, each with the gradient that it is given.
    """

    graph: Graph
    parts: dict[str, list[tuple[int, int]]]
    how: How
    gradients: tuple[Evaluation, ...]
    constants: tuple[Evaluation, ...]
    losses: tuple[Loss, ...]
    updated: dict[int, int]


class _Energies(Composer):
    """A composer that knows where it emitted the latest energy."""

    latest = (0, 0, 0)

    def energy(self, sample: int, phase: str = "forward") -> int:
        since = len(self.b.nodes)
        total = super().energy(sample, phase)
        self.latest = (total, since, len(self.b.nodes))
        return total


class _Recorder(IterationComposer):
    """Composes an iteration and keeps what autograd has to know."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.energies = _Energies(workload, self.composer.chains)
        self.composer, self.b = self.energies, self.energies.b
        self.losses: list[Loss] = []
        self.constants: list[Evaluation] = []

    def accumulate(self, loss: int, part: str) -> None:
        first = len(self.b.nodes)
        super().accumulate(loss, part)
        self.losses.append(Loss(loss, first, len(self.b.nodes)))

    def kl(self) -> None:
        """The gradient at the moved sample enters the loss, its last product, as a constant."""
        super().kl()
        product = self.losses[-1].first - 1
        moved, held = self.b.nodes[product].inputs
        total, since, first = self.energies.latest
        self.constants.append(Evaluation(total, moved, held, since, first, product))


def recorded(workload: Workload) -> Recorded:
    """The iteration of compose_training, node by node. Raises SpecError; ValueError without training."""
    training = workload.file.training
    if training is None:
        raise ValueError(f"{workload.name} has no training")
    how = how_trained(workload)
    it = _Recorder(workload.in_training())
    it.composer.prepare(training=True)
    it.data()
    for term in how.terms:
        if term == "unrolled":
            it.unrolled(*how.unrolled, training.unrolled.loss)
        else:
            {"contrastive": it.contrastive, "denoising": it.denoising, "kl": it.kl}[term]()
    it.update(how.clip, how.average)
    gradients, constants = tuple(it.composer.evaluations), tuple(it.constants)
    return Recorded(it.b.graph(), it.parts, how, gradients, constants, tuple(it.losses), it.grads)


class Iteration:
    """A training iteration without its sampling that can be run again and again.

    Its rate of learning is 0: Adam does all its work, and weights stay as they are, as long as gradients are numbers.
    Arguments and errors are those of Step; ValueError for a workload without training.
    """

    def __init__(self, workload: Workload, device: str = "cpu", dtype: str = "fp32", seed: int = 0) -> None:
        found = self.recorded = recorded(workload)
        self.device, self.dtype = device, DTYPES[dtype]
        counted = {i: part for part, runs in found.parts.items() for first, last in runs for i in range(first, last)}
        evaluations = (*found.gradients, *found.constants)
        before = {e.since: follow_on(e.sample) for e in evaluations}
        with defaults(self.dtype):
            self.values = starting_values(found.graph, device, seed)
            # Inputs are copied to the device before.
            start = next(i for i, node in enumerate(found.graph.nodes) if node.branch or node.phase != "once")
            for unit in units(found.graph, range(start), lambda i: "", device, keep=True):
                for action in unit.actions:
                    action(self.values)
        self.weights = [self.values[t].requires_grad_() for t in found.updated]
        replaced = [input_gradient(e, again=True) for e in found.gradients]
        replaced += [constant_gradient(e) for e in found.constants]
        replaced += [
            Replaced(loss.first, loss.last, (loss.tensor,), (), _weight_gradient(loss.tensor, self.weights, i > 0))
            for i, loss in enumerate(reversed(found.losses))
        ]
        replaced += [Replaced(*span, (), (), _update(self.weights, found.how)) for span in found.parts["update"]]
        inside = range(start, len(found.graph.nodes))
        self.units = units(found.graph, inside, lambda i: counted.get(i, ""), device, replaced, before)
        self.stretches = stretches(self.units)
        self.host_seconds = host_seconds(found.graph, list(counted))

    def run(self) -> dict[str, float]:
        """Run one iteration. Returns the seconds of each of PARTS, and all of them together as `iteration`.

        What stands before differentiated sampling steps is run and not counted, as in the graph.
        """
        values = dict(self.values)
        seconds = dict.fromkeys(("", *PARTS), 0.0)
        with defaults(self.dtype), torch.enable_grad():
            last = now(self.device)
            for part, actions in self.stretches:
                for action in actions:
                    action(values)
                done = now(self.device)
                seconds[part] += done - last
                last = done
        del seconds[""]
        return seconds | {"iteration": sum(seconds.values())}


def run_iteration(iteration: Iteration) -> dict[str, float]:
    """Run an iteration. Returns its seconds by the names that are compared: t_iteration, and its parts."""
    found = iteration.run()
    return {"t_iteration": found.pop("iteration"), **found}


def _weight_gradient(loss: int, weights: Sequence[Tensor], again: bool) -> Action:
    """Add the gradient of the sum of a loss to those of the weights. again: an earlier term's graph is used once more.

    Terms share what encodes the data; whoever comes last frees it.
    """

    def act(values: Values) -> None:
        total = values[loss]
        torch.autograd.backward(total, torch.ones_like(total), retain_graph=again, inputs=weights)

    return act


def _update(weights: Sequence[Tensor], how: How) -> Action:
    """Gradients clipped, Adam, the running average; then no gradients are left."""
    adam = torch.optim.Adam(weights, lr=0.0, fused=True)
    averages = [weight.detach().clone() for weight in weights] if how.average else []

    def act(values: Values) -> None:
        if how.clip:
            torch.nn.utils.clip_grad_norm_(weights, _CLIP)
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=bool(averages)):
                average.lerp_(weight, _AVERAGE)

    return act
