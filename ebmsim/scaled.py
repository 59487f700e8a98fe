"""What a workload costs on several devices, as values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ebmsim.communication import Wire, wire_of
from ebmsim.estimation import Estimate, estimate_lowered
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.policy import Policy, Profile

if TYPE_CHECKING:
    from ebmsim.spec.workload import Workload


class Inference(NamedTuple):
    """An inference on several devices; seconds, bytes.

    used: devices that have work. chains: of one device at most. communication: of a step, in t_samp. t_gather: the
    samples brought to one device at the end. t_inf = t_once + t_samp_first + (K - 1) t_samp + t_gather, where
    sequential chains make K that of all chains of a device. memory_bytes: of the device with most.
    """

    split: str
    used: int
    chains: int
    t_once: float
    t_samp_first: float
    t_samp: float
    communication: float
    t_gather: float
    t_inf: float
    memory_bytes: float
    fits: bool
    speedup: float = 1.0
    efficiency: float = 1.0


class Training(NamedTuple):
    """A training run on several devices; seconds, bytes.

    batch: of one device at most. t_iteration: with its sampling steps. communication: of an iteration, in it.
    t_train = N t_iteration. memory_bytes: of the device with most.
    """

    split: str
    used: int
    batch: int
    t_iteration: float
    communication: float
    t_train: float
    memory_bytes: float
    fits: bool
    speedup: float = 1.0
    efficiency: float = 1.0


@dataclass(frozen=True)
class Scaled:
    """A workload on so many devices: inference, and training where there is one.

    split: the one that was asked for. base: the estimate of one device.
    """

    devices: int
    split: str
    weak: bool
    inference: Inference
    training: Training | None
    base: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Every figure, SI units."""
        parts = {"inference": self.inference, "training": self.training}
        figures = {name: None if part is None else part._asdict() for name, part in parts.items()}
        return {"devices": self.devices, "split": self.split, "weak": self.weak, **figures}


class Study(NamedTuple):
    """What all numbers of devices have in common. estimate: of one device, by chains and training batch."""

    workload: Workload
    hardware: Hardware
    policy: Policy
    profile: Profile
    estimate: Callable[[int, int], Estimate]

    def wire(self, devices: int) -> Wire:
        """The link between so many devices. Raises SpecError where there is none."""
        return wire_of(self.hardware, self.policy, devices)


def study_of(
    workload: Workload,
    hardware: Hardware,
    policy: Policy,
    profile: Profile,
    lower: Callable[[int, int], Lowered],
) -> Study:
    """A study in which every number of chains and training samples is lowered and estimated once."""

    @cache
    def estimate(chains: int, batch: int) -> Estimate:
        return estimate_lowered(lower(chains, batch), hardware, policy, profile)

    return Study(workload, hardware, policy, profile, estimate)


def resized(workload: Workload, chains: int, batch: int) -> Workload:
    """The same workload with other chains and another training batch. Raises SpecError."""
    given = {"chains": chains} | ({"training_batch": batch} if workload.file.training is not None else {})
    return workload.with_parameters(**given)
