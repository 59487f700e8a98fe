"""Whole sampling steps, and training iterations, measured in torch beside what is predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from ebmsim.calibration.clock import Measured, measure
from ebmsim.calibration.execute import DTYPES, run_measured
from ebmsim.calibration.modes import EXECUTIONS, missing_compiler, step_of
from ebmsim.calibration.train import Iteration, run_iteration
from ebmsim.errors import Problem, SpecError
from ebmsim.estimation import Estimate
from ebmsim.graph.training import PARTS
from ebmsim.hardware import Hardware
from ebmsim.policy import Policy
from ebmsim.spec.library import load_workload
from ebmsim.timing import time_pass

FIGURES = ("t_samp", "t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept")
# Operators at which the host waits for the device, or works; a step that runs as one piece can hold neither.
_WAITING = ("synchronise", "to_host", "host")


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
    """Measured and predicted steps of several workloads on one device.

    measured: how each workload's step was measured. iterations: how its training iteration was, where it was.
    """

    hardware: Hardware
    policy: Policy
    figures: tuple[Figure, ...]
    measured: tuple[Measured, ...]
    iterations: tuple[Measured, ...] = ()

    def errors(self, name: str) -> list[float]:
        """|predicted / measured - 1| of one figure, of all workloads that have it."""
        return [abs(figure.error) for figure in self.figures if figure.name == name]

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints, times in s. What tells of the measuring lists steps, then iterations."""
        measured = (*self.measured, *self.iterations)
        return {
            "schema": 1,
            "hardware": self.hardware.name,
            "software": self.policy.software,
            "figures": [figure.to_dict() for figure in self.figures],
            "repeat_error": [m.repeat_error for m in measured],
            "rounds": [m.rounds for m in measured],
            "disturbed": [m.disturbed for m in measured],
        }


def validate_steps(
    predicted: Sequence[Estimate],
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = 9,
    progress: Callable[[int, int], None] = lambda done, of: None,
    training: bool = False,
) -> Steps:
    """Run the steps that were estimated, all on one hardware, in torch, and put both side by side.

    device: cpu or cuda. threads: of torch on a CPU; those of its calibration where the hardware has one. training: run
    training iterations too, without their sampling, in rounds of their own. Work of a `host` node is not done; its time
    is added to what is measured. Figures below a microsecond are left out. Raises SpecError where torch cannot run what
    was estimated.
    """
    check_runnable(predicted, device, training, threads)
    threads = threads or calibrated_threads(predicted[0])
    if threads:
        torch.set_num_threads(threads)
    workloads = [load_workload(e.workload.file).with_parameters(**e.workload.parameters) for e in predicted]
    policy, total = predicted[0].policy, rounds * (2 if training else 1)
    steps = [step_of(workload, device, policy) for workload in workloads]
    runs = [partial(run_measured, step) for step in steps]
    measured = measure(runs, "t_samp", rounds, progress=lambda done, of: progress(done, total))
    figures = [list(_figures(m, e, step.host_seconds)) for step, m, e in zip(steps, measured, predicted, strict=True)]
    trained: list[Measured] = []
    if training:
        iterations = [Iteration(workload, device, policy.dtype) for workload in workloads]
        repeated = [partial(run_iteration, iteration) for iteration in iterations]
        trained = measure(repeated, "t_iteration", rounds, progress=lambda done, of: progress(rounds + done, total))
        for mine, iteration, m, e in zip(figures, iterations, trained, predicted, strict=True):
            mine += _trained(m, e, iteration.host_seconds)
    together = tuple(figure for mine in figures for figure in mine)
    return Steps(predicted[0].hardware, policy, together, tuple(measured), tuple(trained))


def calibrated_threads(predicted: Estimate) -> int:
    """The threads with which the hardware was calibrated; 0 where the estimate uses no calibration, or tells none."""
    calibration = predicted.hardware.calibration
    if calibration is None or predicted.policy.fidelity != "calibrated":
        return 0
    return int(calibration.environment.get("threads", 0))


def check_runnable(
    predicted: Sequence[Estimate], device: str, training: bool = False, threads: int | None = None
) -> None:
    """Raise SpecError with everything that torch cannot do as it was estimated."""
    hardware, policy = predicted[0].hardware, predicted[0].policy
    problems = []
    if (hardware.kind == "cpu") != (device == "cpu"):
        problems.append(Problem(f"{hardware.name} is a {hardware.kind}, which --device {device} does not measure"))
    if device == "cuda" and not torch.cuda.is_available():
        problems.append(Problem("torch sees no CUDA device"))
    if policy.dtype not in DTYPES:
        problems.append(Problem(f"torch computes no {policy.dtype}", hint=f"one of: {', '.join(DTYPES)}"))
    if policy.chain_mode != "batched":
        problems.append(Problem(f"steps are measured with chain_mode batched, found {policy.chain_mode}"))
    known = calibrated_threads(predicted[0])
    if threads is not None and known not in (0, threads):
        problems.append(Problem(f"{hardware.name} is calibrated with {known} threads, not {threads}"))
    problems += _executed(predicted, device, training)
    if training:
        lacking = [e.workload.name for e in predicted if e.lowered.iteration is None]
        problems += [Problem(f"{name} has no training to measure") for name in lacking]
    if problems:
        raise SpecError(problems)


def _executed(predicted: Sequence[Estimate], device: str, training: bool) -> Iterable[Problem]:
    """What torch cannot do of a policy's execution and streams."""
    policy = predicted[0].policy
    execution, streams = policy.execution, policy.streams
    if execution not in EXECUTIONS:
        yield Problem(f"steps are measured with execution {', '.join(EXECUTIONS)}, found {execution}")
    if execution == "compiled" and (lacking := missing_compiler(device)):
        yield Problem(lacking)
    if execution == "graph" and device != "cuda":
        yield Problem(f"execution graph is a CUDA graph, which --device {device} cannot record")
    if streams > 1 and device != "cuda":
        yield Problem(f"streams are CUDA streams, of which --device {device} has none, found {streams}")
    if streams > 1 and execution == "compiled":
        yield Problem(f"compiled steps run in one stream, found {streams}")
    if training and (execution, streams) != ("eager", 1):
        yield Problem(f"training is measured with execution eager and streams 1, found {execution} and {streams}")
    if execution != "eager" and device == "cuda":
        for e in predicted:
            table = e.lowered.step.table
            waits = [i for i, op in enumerate(table.ops) if op in _WAITING]
            if waits:
                message = f"the host waits at {table.ops[waits[0]]} in every step, which execution {execution} cannot"
                yield Problem(message, file=e.workload.file, line=table.lines[waits[0]])


def _figures(found: Measured, e: Estimate, host: float) -> Iterable[Figure]:
    """Figures of a sampling step. host: seconds of work on the host, which were not measured."""
    extra = {"t_samp": host, "t_update": host}
    expected = {name: float(e.seconds[name] or 0.0) for name in FIGURES}
    return _compared(found, e, expected, extra)


def _trained(found: Measured, e: Estimate, host: float) -> Iterable[Figure]:
    """Figures of a training iteration without its sampling: all of it, and its parts."""
    assert e.lowered.iteration is not None
    timing = time_pass(e.lowered.iteration, e.timing.priced)
    expected = {"t_iteration": timing.seconds}
    expected |= {part: float(timing.advance[e.lowered.parts[part]].sum()) for part in PARTS if part in e.lowered.parts}
    return _compared(found, e, expected, {"t_iteration": host})


def _compared(
    found: Measured, e: Estimate, expected: Mapping[str, float], extra: Mapping[str, float]
) -> Iterable[Figure]:
    for name, value in expected.items():
        taken = found.seconds.get(name, 0.0) + extra.get(name, 0.0)
        if name in found.seconds and taken > 1e-6:
            interval = e.seconds_interval.get(name)
            yield Figure(e.workload.name, e.workload.preset, name, taken, found.spread[name], value, interval)
