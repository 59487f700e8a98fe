"""Chains and components of a workload over several equal devices.

    strong scaling: speed-up = T(1) / T(D)            weak scaling: speed-up = D · T(1) / T(D)
    efficiency = speed-up / D

In weak scaling the work grows with the devices: D times the chains, and D times the training batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

from ebmsim.communication import all_reduce, gather, wire_of
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.estimation import Estimate, calibrated, settled
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.policy import Policy, Profile
from ebmsim.scaled import Inference, Scaled, Study, Training, resized, study_of

if TYPE_CHECKING:
    from ebmsim.spec.workload import Workload

SPLITS = ("chains", "components", "best")
_MOST_DEVICES = 10**6


def scale(
    workload: Workload,
    hardware: Hardware,
    policy: Policy | None = None,
    devices: int = 1,
    split: str = "best",
    weak: bool = False,
) -> Scaled:
    """Predict what a workload costs on several devices. Raises SpecError for bad input, or a device without a link."""
    return next(scalings(workload, hardware, policy, [devices], split, weak))


def scalings(
    workload: Workload,
    hardware: Hardware,
    policy: Policy | None,
    devices: Sequence[int],
    split: str = "best",
    weak: bool = False,
    lower: Callable[[int, int], Lowered] | None = None,
) -> Iterator[Scaled]:
    """One result for each number of devices; every number of chains is lowered once. Raises SpecError.

    lower: gives the workload lowered for so many chains and training samples, where it is known already.
    """
    from ebmsim.spec.library import load_profile

    check(devices, split)
    how = settled(policy or Policy(), hardware)
    profile = calibrated(load_profile(how.software), hardware, how)
    wire_of(hardware, how, max(devices, default=1))
    study = study_of(workload, hardware, how, profile, lower or _lowering(workload, how, profile))
    base = study.estimate(workload.setting("chains"), workload.setting("training_batch"))
    infer, train = cache(partial(_infer, study)), cache(partial(_train, study))
    for count in devices:
        yield _scaled(base, infer, train, count, split, weak)


def check(devices: Sequence[int], split: str) -> None:
    """Raise SpecError for numbers of devices that are none, and for an unknown split."""
    problems = [
        Problem(f"expected devices to be whole numbers from 1 to 1e6, found {count!r}")
        for count in devices
        if type(count) is not int or not 1 <= count <= _MOST_DEVICES
    ]
    if split not in SPLITS:
        hint = suggest(str(split), SPLITS)
        problems.append(Problem(f"expected split to be one of {', '.join(SPLITS)}, found {split!r}", hint=hint))
    if problems:
        raise SpecError(problems)


def _lowering(workload: Workload, policy: Policy, profile: Profile) -> Callable[[int, int], Lowered]:
    from ebmsim.lowering import lower_workload

    return lambda chains, batch: lower_workload(resized(workload, chains, batch), policy, profile)


def _scaled(
    base: Estimate,
    infer: Callable[[str, int, int, int], Inference],
    train: Callable[[str, int, int, int], Training],
    devices: int,
    split: str,
    weak: bool,
) -> Scaled:
    """The faster one of the splits asked for, of inference and of training on its own."""
    times = devices if weak else 1
    chains, batch = (times * base.workload.setting(name) for name in ("chains", "training_batch"))
    # More devices than instances make no difference to components.
    most = {"chains": devices, "components": min(devices, sum(c.instances for c in base.lowered.components))}
    names = SPLITS[:2] if split == "best" else (split,)
    inference = min((infer(name, chains, batch, most[name]) for name in names), key=lambda part: part.t_inf)
    speedup = _ratio(times, base.seconds["t_inf"], inference.t_inf)
    inference = inference._replace(speedup=speedup, efficiency=speedup / devices)
    training = None
    if base.seconds["t_train"] is not None:
        training = min((train(name, chains, batch, most[name]) for name in names), key=lambda part: part.t_train)
        speedup = _ratio(times, base.seconds["t_train"], training.t_train)
        training = training._replace(speedup=speedup, efficiency=speedup / devices)
    return Scaled(devices, split, weak, inference, training, base)


def _ratio(times: int, one: float | None, several: float) -> float:
    return times * one / several if one and several else 1.0


def _infer(study: Study, split: str, chains: int, batch: int, devices: int) -> Inference:
    if split == "chains":
        return infer_by_chains(study, chains, batch, devices)
    from ebmsim.by_components import infer_by_components

    alone = infer_by_chains(study, chains, batch, 1)._replace(split=split)
    return infer_by_components(study, chains, batch, devices) or alone


def _train(study: Study, split: str, chains: int, batch: int, devices: int) -> Training:
    if split == "chains":
        return train_by_chains(study, chains, batch, devices)
    from ebmsim.by_components import train_by_components

    alone = train_by_chains(study, chains, batch, 1)._replace(split=split)
    return train_by_components(study, chains, batch, devices) or alone


def infer_by_chains(study: Study, chains: int, batch: int, devices: int) -> Inference:
    """Every device has all weights and runs ⌈C/D⌉ chains; those beyond are idle.

    Nothing is sent in a step, as no operator of a file reaches over the chain axis: particles that are drawn anew
    together are rows of one chain. The samples are gathered once at the end.
    """
    here = -(-chains // devices)
    used = -(-chains // here)
    e = study.estimate(here, -(-batch // devices))
    size = (chains - here) * e.lowered.size.sample * e.lowered.rows.element_bytes
    t_gather = gather(size, used, study.wire(used))
    once, first, step, total = (e.seconds[name] or 0.0 for name in ("t_once", "t_samp_first", "t_samp", "t_inf"))
    held = (e.memory["inference_bytes"], e.memory["fits"])
    return Inference("chains", used, here, once, first, step, 0.0, t_gather, total + t_gather, *held)


def train_by_chains(study: Study, chains: int, batch: int, devices: int) -> Training:
    """Every device has all weights and ⌈B/D⌉ samples of the training batch, with a host of its own.

    The gradients of all trained weights are summed by an all-reduce in every iteration. Left out: its overlap with the
    backward; batch statistics over devices (each has those of its own samples, as torch has without more).
    """
    here = -(-batch // devices)
    used = -(-batch // here)
    e = study.estimate(-(-chains // devices), here)
    communication = all_reduce(e.lowered.training_size.trained * e.lowered.rows.element_bytes, used, study.wire(used))
    n, alone = e.workload.setting("iterations"), e.seconds["t_train"] or 0.0
    t_iteration = (alone / n if n else 0.0) + communication
    held = (e.memory["training_bytes"], e.memory["training_fits"])
    return Training("chains", used, here, t_iteration, communication, alone + n * communication, *held)
