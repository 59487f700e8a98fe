"""A workload made ready: its kernels, and the figures of it that no device changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ebmsim.cost.machine import Machine
from ebmsim.cost.ways import Ways
from ebmsim.graph.kernels import Floats, Ints, KernelTable
from ebmsim.graph.rows import Rows
from ebmsim.policy import Policy


class Facts(NamedTuple):
    """What a workload is: its file, the preset and parameters it was settled with, its tags as the answer has them."""

    name: str
    file: str
    preset: str
    parameters: Mapping[str, Any]
    taxonomy: Mapping[str, Any]

    def setting(self, name: str) -> int:
        """A setting by name: chains, steps, training_steps, training_batch or iterations; 0 when absent."""
        return int(self.parameters.get(name, 0))


class Training(NamedTuple):
    """What a training iteration does beside its kernels.

    steps: sampling steps before them. average: whether a running average of the weights is kept. host_seconds: work on
    the host. buffer_bytes: copied to a replay buffer on the host, and as many back.
    """

    steps: int
    average: bool
    host_seconds: float
    buffer_bytes: float


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


class WeightBackward(NamedTuple):
    """FLOPs of one backward pass to the weights of the energy, the sample not asking for a gradient."""

    flops: float
    product_flops: float


class Pass(NamedTuple):
    """A run over a kernel table, and how often an inference runs it.

    order: the row of every launch. counts: launches of every row. breaks: launches after which the host waits.
    steady: one turn of a long run of equal ones; otherwise it starts with an empty queue and nothing resident.
    """

    table: KernelTable
    order: Ints
    counts: Floats
    breaks: Ints
    steady: bool
    repeat: int


@dataclass(frozen=True)
class Lowered:
    """A workload as kernels: everything an estimate needs of it, once per dtype, fusion, chain mode and profile.

    rows: the distinct kernels of all passes; ways: how their products can be computed. step: one steady step of one
    launch; first: the first one. plain: the step's kernels without fusion. once: what one inference does outside its
    steps. one_chain: the step of a single chain. training_step, iteration: at the training batch; training_size,
    training_one_chain: size and one_chain of the workload as it is trained. parts: which kernels of the iteration
    belong to what. backward: work of a weight gradient.
    """

    facts: Facts
    size: Size
    components: tuple[ComponentFigures, ...]
    chains: int
    launches: int
    rows: Rows
    ways: Ways
    plain: KernelTable
    step: Pass
    first: Pass
    once: tuple[Pass, ...]
    one_chain: Pass
    training_step: Pass | None
    iteration: Pass | None
    parts: Mapping[str, Any]
    training_size: Size
    training_one_chain: Pass
    training: Training
    backward: WeightBackward

    @property
    def inference_bytes(self) -> float:
        """Bytes held at most in an inference: weights, buffers, sample, inputs and activations."""
        size = self.size
        fixed = (size.parameters + size.unused + size.held) * self.rows.element_bytes
        return fixed + max(pass_.table.live_bytes for pass_ in (self.step, *self.once))

    @property
    def training_bytes(self) -> float | None:
        """The same in training, with the moments, and the running average of the weights; None without any."""
        if self.iteration is None or self.training_step is None:
            return None
        # Two moments, and the running average; gradients are alive among the activations.
        states, size = 2 + self.training.average, self.training_size
        samples = self.training_step.table.live_bytes if self.training.steps else 0.0
        held = size.parameters + size.training + size.unused + size.held + states * size.trained
        return held * self.rows.element_bytes + max(self.iteration.table.live_bytes, samples)

    def host_seconds(self, machine: Machine, policy: Policy) -> Any:
        """Work on the host per iteration and the replay buffer's copies, in s, the device waiting for both.

        The buffer takes negatives to the host as bytes and gives others back; the host waits for the first copy.
        """
        training = self.training
        if not training.buffer_bytes or policy.fidelity == "roofline":
            return training.host_seconds
        copies = 2 * (machine.host.link_latency + training.buffer_bytes / machine.host.link_bandwidth)
        return training.host_seconds + copies + machine.host.synchronise
