"""Whole sampling steps measured in torch beside what is predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ebmsim.calibration.clock import Measured, measure
from ebmsim.calibration.execute import DTYPES, Step, run_measured
from ebmsim.errors import Problem, SpecError
from ebmsim.estimation import Estimate
from ebmsim.hardware import Hardware
from ebmsim.policy import Policy
from ebmsim.spec.library import load_workload

FIGURES = ("t_samp", "t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept")


@dataclass(frozen=True)
class Figure:
    """One time of a step, in s: measured with its spread, predicted with its 80 % interval where it has one."""

    workload: str
    preset: str
    name: str
    measured: float
    spread: float
    predicted: float
    interval: tuple[float, float] | None

    @property
    def error(self) -> float:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1.0

    @property
    def covered(self) -> bool | None:
        """Whether the measured time lies in the interval."""
        return None if self.interval is None else self.interval[0] <= self.measured <= self.interval[1]

    def to_dict(self) -> dict[str, Any]:
        """The figure as JSON has it."""
        return {
            "workload": self.workload,
            "preset": self.preset,
            "figure": self.name,
            "measured": self.measured,
            "spread": self.spread,
            "predicted": self.predicted,
            "interval": None if self.interval is None else list(self.interval),
            "error": self.error,
        }


@dataclass(frozen=True)
class Steps:
    """Measured and predicted steps of several workloads on one device."""

    hardware: Hardware
    policy: Policy
    figures: tuple[Figure, ...]
    measured: tuple[Measured, ...]

    def errors(self, name: str) -> list[float]:
        """|predicted / measured - 1| of one figure, of all workloads that have it."""
        return [abs(figure.error) for figure in self.figures if figure.name == name]

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints, times in s."""
        return {
            "schema": 1,
            "hardware": self.hardware.name,
            "software": self.policy.software,
            "figures": [figure.to_dict() for figure in self.figures],
            "repeat_error": [m.repeat_error for m in self.measured],
            "rounds": [m.rounds for m in self.measured],
            "disturbed": [m.disturbed for m in self.measured],
        }


def validate_steps(
    predicted: Sequence[Estimate],
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 9,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Steps:
    """Run the steps that were estimated, all on one hardware, in torch, and put both side by side.

    device: cpu or cuda. threads: of torch on a CPU. Work of a `host` node is not done; its time is added to what is
    measured. Figures below a microsecond are left out. Raises SpecError where torch cannot run what was estimated.
    """
    check_runnable(predicted, device)
    if threads is not None:
        torch.set_num_threads(threads)
    workloads = [load_workload(e.workload.file).with_parameters(**e.workload.parameters) for e in predicted]
    steps = [Step(workload, device, predicted[0].policy.dtype) for workload in workloads]
    measured = measure([partial(run_measured, step) for step in steps], "t_samp", rounds, progress=progress)
    figures = [
        figure for step, found, e in zip(steps, measured, predicted, strict=True) for figure in _figures(step, found, e)
    ]
    return Steps(predicted[0].hardware, predicted[0].policy, tuple(figures), tuple(measured))


def check_runnable(predicted: Sequence[Estimate], device: str) -> None:
    """Raise SpecError with everything that torch cannot do as it was estimated."""
    hardware, policy = predicted[0].hardware, predicted[0].policy
    problems = []
    if (hardware.kind == "cpu") != (device == "cpu"):
        problems.append(Problem(f"{hardware.name} is a {hardware.kind}, which --device {device} does not measure"))
    if device == "cuda" and not torch.cuda.is_available():
        problems.append(Problem("torch sees no CUDA device"))
    if policy.dtype not in DTYPES:
        problems.append(Problem(f"torch computes no {policy.dtype}", hint=f"one of: {', '.join(DTYPES)}"))
    for name, can in (("execution", "eager"), ("chain_mode", "batched"), ("streams", 1)):
        if getattr(policy, name) != can:
            problems.append(Problem(f"steps are measured with {name} {can}, found {getattr(policy, name)}"))
    if problems:
        raise SpecError(problems)


def _figures(step: Step, found: Measured, e: Estimate) -> Iterable[Figure]:
    for name in FIGURES:
        extra = step.host_seconds if name in ("t_samp", "t_update") else 0.0
        taken = found.seconds[name] + extra
        if taken > 1e-6:
            value, interval = float(e.seconds[name] or 0.0), e.seconds_interval.get(name)
            yield Figure(e.workload.name, e.workload.preset, name, taken, found.spread[name], value, interval)
