"""One training iteration as a graph: losses on both samples, their weight gradients, the optimiser.

The K_t sampling steps before it are the sampling program's own steps at the training batch; they are not repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ebmsim.graph.compose import Composer
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Graph
from ebmsim.spec.workload import Workload

PARTS = (
    "data",
    "forward_positive",
    "forward_negative",
    "backward_positive",
    "backward_negative",
    "second_order",
    "update",
)


class Iteration(NamedTuple):
    """A training iteration without its sampling: nodes by part, and the tensors that hold weights and gradients.

    parts: name -> (first node, last node) for each of PARTS that is there. weights: trained learned tensors.
    """

    graph: Graph
    parts: dict[str, list[tuple[int, int]]]
    weights: tuple[int, ...]
    how: How


class How(NamedTuple):
    """What training does with the parameters at hand.

    unrolled: sampling steps that the gradient goes back through, and how often. host_seconds: work on the host per
    iteration, in s.
    """

    terms: tuple[str, ...]
    average: bool
    clip: bool
    host_seconds: float
    unrolled: tuple[int, int] = (0, 0)


def how_trained(workload: Workload) -> How:
    """The conditions of a workload's training decided. Raises SpecError."""
    training = workload.file.training
    if training is None:
        return How((), False, False, 0.0)
    composer = Composer(workload.in_training(), 1)
    holds = {term: composer.condition(when, ("training", "when", term)) for term, when in training.when.items()}
    at = ("training", "host_seconds")
    seconds = composer.value(training.host_seconds, at)
    if isinstance(seconds, (bool, str)) or seconds < 0:
        raise composer.refuse(at, f"expected a number of seconds of at least 0, found {seconds!r}")
    terms = tuple(term for term in training.terms if holds.get(term, True))
    unrolled = (0, 0)
    if "unrolled" in terms:
        names = ("steps", "times")
        counts = [composer.whole(getattr(training.unrolled, n), ("training", "unrolled", n)) for n in names]
        unrolled = (counts[0], counts[1])
        taken, available = math.prod(unrolled), workload.setting("training_steps")
        if taken > available:
            message = f"expected steps · times of at most training_steps = {available}, found {taken}"
            raise composer.refuse(("training", "unrolled"), message)
    return How(
        terms,
        composer.condition(training.average, ("training", "average")),
        composer.condition(training.clip, ("training", "clip")),
        float(seconds),
        unrolled,
    )


class IterationComposer:
    """Emits a training iteration term by term; parts: nodes by what they belong to, grads: of the weights so far."""

    def __init__(self, workload: Workload) -> None:
        batch = workload.setting("training_batch") or workload.setting("chains")
        self.composer = Composer(workload, batch)
        self.b = self.composer.b
        self.parts: dict[str, list[tuple[int, int]]] = {}
        self.grads: dict[int, int] = {}

    def part(self, name: str, since: int) -> None:
        self.parts.setdefault(name, []).append((since, len(self.b.nodes)))

    def trained(self) -> list[int]:
        frozen = self.composer.frozen
        return [t for t in self.composer.weights.values() if t not in frozen]

    def sample(self, name: str) -> int:
        return self.b.tensor((self.composer.chains, *self.composer.sample_shape), "sample", name)

    def accumulate(self, loss: int, part: str) -> None:
        """Gradient of a loss for every trained weight, added to what other terms gave.

        From the first node on: an encoder that runs once is behind every term.
        """
        mark = len(self.b.nodes)
        found = differentiate(self.b, [loss], self.trained(), phase="backward-weight")
        with self.b.at(phase="backward-weight"):
            for weight, grad in found.items():
                held = self.grads.get(weight)
                self.grads[weight] = grad if held is None else self.b.emit("add", held, grad, name="accumulate")
        self.part(part, mark)

    def data(self) -> None:
        """Encoders of what an iteration is about: those that run once per inference, and those of training alone.

        Every iteration has new data. Copies to the device are left out.
        """
        copies = (index for index, node in enumerate(self.b.nodes) if node.branch)
        since = next(copies, len(self.b.nodes))
        with self.b.at(phase="forward"):
            self.composer.run("training", None)
        if len(self.b.nodes) > since:
            self.part("data", since)

    def contrastive(self) -> None:
        """mean E(x⁺) - mean E(x⁻) + squares: a forward and a weight backward on each sample (Eq. 3)."""
        for sign in ("positive", "negative"):
            since = len(self.b.nodes)
            energy = self.composer.energy(self.sample(sign))
            with self.b.at(phase="forward"):
                loss = self.b.emit("add", energy, self.b.emit("square", energy))
            self.part(f"forward_{sign}", since)
            self.accumulate(loss, f"backward_{sign}")

    def differentiable_gradient(self, name: str) -> tuple[int, int, int]:
        """Sample, its input gradient as a graph that is differentiated again, and the first node of it."""
        since = len(self.b.nodes)
        sample = self.sample(name)
        return sample, self.composer.gradient(sample)[1], since

    def denoising(self) -> None:
        """Squared error between the field at a noised sample and a target (noise, or a direction to the data).

        The field of an energy is its gradient ∂E/∂x, so the weights' gradient goes through the input gradient. A score
        is the field itself: one forward, one backward.
        """
        _, field, since = self.differentiable_gradient("noised")
        target = self.b.tensor(self.b.shape(field), "input", "target")
        with self.b.at(phase="forward"):
            loss = self.b.emit("square", self.b.emit("sub", field, target))
        first_order = self.composer.scores()
        self.part("forward_positive" if first_order else "second_order", since)
        self.accumulate(loss, "backward_positive" if first_order else "second_order")

    def kl(self) -> None:
        """The sample moved by one differentiable step, and its energy minimised with the weights of that energy held.

        The gradient goes back through the energy to the moved sample, then through the step into the weights.
        """
        sample, gradient, since = self.differentiable_gradient("last")
        with self.b.at(phase="forward"):
            moved = self.b.emit("sub", sample, self.b.emit("scale", gradient, by=1.0))
        before = len(self.b.nodes)
        energy = self.composer.energy(moved)
        # Held weights: the energy is differentiated to the moved sample alone. What enters the step is that gradient
        # as a constant, so the weights are reached through the step and not through the second energy.
        at_moved = differentiate(self.b, [energy], [moved], phase="backward-input", since=before)[moved]
        held = self.b.tensor(self.b.shape(at_moved), "constant", "held")
        with self.b.at(phase="forward"):
            inner = self.b.emit("mul", moved, held)
        self.part("second_order", since)
        self.accumulate(inner, "second_order")

    def unrolled(self, steps: int, times: int, nodes: Sequence[Mapping[str, Any]]) -> None:
        """A loss on the sample after sampling steps, whose gradient goes back through them: derivatives of gradients.

        The loss is the file's, or squares of the difference from the data. What comes before the steps is not counted.
        """
        path = ("training", "unrolled", "loss")
        for _ in range(times):
            scope, since = self.composer.unroll(self.sample("started"), steps)
            end = scope[self.composer.sample]
            with self.b.at(phase="forward", branch=""):
                loss = self.composer.emit_nodes(nodes, path, scope, self.composer.values, "loss", end)
                if loss is None or not nodes:
                    target = self.b.tensor(self.b.shape(end), "input", "target")
                    loss = self.b.emit("square", self.b.emit("sub", end, target))
            self.part("second_order", since)
            self.accumulate(loss, "second_order")

    def update(self, clip: bool, average: bool) -> None:
        since = len(self.b.nodes)
        with self.b.at(phase="update", branch="", prefix="optimiser."):
            for weight, grad in self.grads.items():
                shape = self.b.shape(weight)
                if self.b.shape(grad) != shape:
                    grad = self.b.emit("reshape", grad, shape=shape)
                if clip:
                    self.b.emit("squared_norm", grad)
                    grad = self.b.emit("scale", grad, by=1.0)
                moments = [self.b.tensor(shape, "buffer", f"moment{i}", chain_axis=False) for i in (1, 2)]
                self.b.emit_all("adam", (weight, grad, *moments))
                if average:
                    held = self.b.tensor(shape, "buffer", "average", chain_axis=False)
                    self.b.emit("running_average", held, weight)
        self.part("update", since)


def compose_training(workload: Workload) -> Iteration:
    """One training iteration of a workload without its sampling steps. Raises SpecError."""
    if workload.file.training is None:
        raise ValueError(f"{workload.name} has no training")
    how = how_trained(workload)
    iteration = IterationComposer(workload.in_training())
    iteration.composer.prepare(training=True)
    iteration.data()
    for term in how.terms:
        if term == "unrolled":
            iteration.unrolled(*how.unrolled, workload.file.training.unrolled.loss)
        else:
            {"contrastive": iteration.contrastive, "denoising": iteration.denoising, "kl": iteration.kl}[term]()
    iteration.update(how.clip, how.average)
    return Iteration(iteration.b.graph(), iteration.parts, tuple(iteration.trained()), how)
