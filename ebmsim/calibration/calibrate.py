"""A machine calibrated: small steps measured on it, coefficients fitted, whole models held out, a hardware file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ebmsim.calibration.coefficients import FIGURES, Fitted, Sample, fit, kinds_of, predict, sample
from ebmsim.calibration.coefficients import Problem as Fit
from ebmsim.calibration.machines import prepared_profile, shared_coefficients
from ebmsim.calibration.micro import Micro, plan
from ebmsim.calibration.replay import EIGHTY
from ebmsim.calibration.store import StepTimes, Store
from ebmsim.estimation import estimate
from ebmsim.graph.kernels import CATEGORIES, KernelTable
from ebmsim.hardware import Calibration, Hardware
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import files, load_profile, load_workload
from ebmsim.spec.workload import Workload

Progress = Callable[[int, int, str], None]
# Steps measured side by side in interleaved rounds, and kept together.
_BATCH = 24
# Rounds, and seconds of each step in one, of the quick plan and of the whole one.
_ROUNDS = {True: (5, 0.04), False: (9, 0.1)}
_FOLDS = 5
# Times below this are of the clock, s.
_LEAST = 1e-6
# Bands of measured seconds of one figure, for the residuals.
_BANDS = ((0.0, 100e-6, "below 100 us"), (100e-6, 1e-3, "100 us to 1 ms"), (1e-3, float("inf"), "1 ms and more"))
WHOLE = "whole "


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found. models: relative errors of T_samp of whole models held out of the fit, by name."""

    hardware: Hardware
    residuals: tuple[Mapping[str, Any], ...]
    models: Mapping[str, float]


def whole_models(quick: bool) -> dict[str, Workload]:
    """The shipped workloads with a preset `small`, which are held out of the fit. quick: every third."""
    found = {}
    for name in files("workload")[:: 3 if quick else 1]:
        workload = load_workload(name)
        if "small" in workload.file.presets:
            found[WHOLE + name] = load_workload(name, "small")
    return found


def measure_all(store: Store, device: str, quick: bool, progress: Progress = lambda done, of, what: None) -> None:
    """Measure every step that the store lacks, whole models at last, batch by batch; each batch is kept at once.

    Raises KeyboardInterrupt when interrupted: what is kept stays.
    """
    from ebmsim.calibration.clock import measure
    from ebmsim.calibration.execute import Step, run_measured

    wanted: dict[str, Callable[[], Workload]] = {step.label: step.workload for step in plan(quick)}
    wanted |= {label: partial(_same, w) for label, w in whole_models(quick).items()}
    missing = [label for label in wanted if label not in store.steps]
    rounds, seconds = _ROUNDS[quick]
    for start in range(0, len(missing), _BATCH):
        labels = missing[start : start + _BATCH]
        done = len(wanted) - len(missing) + start
        progress(done, len(wanted), labels[0])
        steps = [Step(wanted[label](), device) for label in labels]
        found = measure([partial(run_measured, s) for s in steps], "t_samp", rounds, seconds)
        store.add(
            [
                StepTimes(label, dict(m.seconds), dict(m.spread), m.repeat_error, m.rounds, m.disturbed)
                for label, m in zip(labels, found, strict=True)
            ]
        )
    progress(len(wanted), len(wanted), "")


def _same(workload: Workload) -> Workload:
    return workload


def calibrate_from(
    store: Store, base: Hardware, name: str, say: Callable[[str], None] = lambda text: None
) -> Calibrated:
    """Fit the coefficients of a machine to the small steps of a store, and hold whole models out.

    base: the machine before: its sizes stay, its rates are where the fit starts. name: of the new machine.
    """
    base = replace(base, name=name, validated=True, calibration=None)
    profile = prepared_profile(load_profile(base.software), base)
    policy = Policy(fidelity="analytical", software=base.software)
    steps = [step for step in plan() if step.label in store.steps]
    say(f"fitting {len(steps)} small steps")
    problem, given = _problem(steps, store, base, profile, policy)
    fitted = fit(given, problem)
    say(f"fitting {_FOLDS} times without a part of them")
    held_out = _held_out(given, problem)
    spread = _spreads(given, fitted, problem, held_out)
    profile = replace(fitted.profile, kernel_error=spread, common_error=0.0)
    hardware = _with_calibration(fitted.hardware, profile, load_profile(base.software), store.environment)
    errors, common = _whole(store, hardware)
    say(f"{len(errors)} whole models held out")
    calibration = hardware.calibration
    assert calibration is not None
    residuals = tuple(_residuals(given, problem, fitted, held_out))
    coefficients = {**calibration.coefficients, "common_error": common}
    hardware = replace(hardware, calibration=replace(calibration, coefficients=coefficients, residuals=residuals))
    return Calibrated(hardware, residuals, errors)


def _problem(
    steps: Sequence[Micro], store: Store, base: Hardware, profile: Profile, policy: Policy
) -> tuple[Fit, Sample]:
    tables: list[KernelTable] = [lower_workload(s.workload(), policy, profile).step.table for s in steps]
    kinds = kinds_of(tables) if base.kind == "cpu" else {}
    measured = np.array([[store.steps[s.label].seconds.get(f, np.nan) for f in FIGURES] for s in steps])
    measured[measured < _LEAST] = np.nan
    return Fit(base, profile, policy, shared_coefficients(base), kinds), sample(tables, measured, list(kinds))


def _held_out(given: Sample, problem: Fit) -> Any:
    """Seconds of every figure, flat, predicted by a fit without its step."""
    found = np.full(given.measured.shape, np.nan)
    for fold in range(_FOLDS):
        seen = given.measured.copy()
        seen[fold::_FOLDS] = np.nan
        fitted = fit(replace(given, measured=seen), problem)
        predicted = predict(given, fitted.hardware, fitted.profile, problem.policy).reshape(found.shape)
        found[fold::_FOLDS] = predicted[fold::_FOLDS]
    return found.ravel()


def _categories(given: Sample, problem: Fit, fitted: Fitted) -> Any:
    """The category that most launches of a figure are of, by number of launches, flat."""
    size = given.measured.size
    category = given.rows.category[given.order]
    counts = np.bincount(given.owner * len(CATEGORIES) + category, minlength=size * len(CATEGORIES))
    return counts.reshape(size, len(CATEGORIES)).argmax(1)


def _log_errors(given: Sample, predicted: Any) -> Any:
    """log(predicted / measured), nan where nothing is fitted."""
    errors = np.full(given.measured.size, np.nan)
    fitted = given.fitted
    errors[fitted] = np.log(predicted[fitted] / given.measured.ravel()[fitted])
    return errors


def _spreads(given: Sample, fitted: Fitted, problem: Fit, held_out: Any) -> dict[str, float]:
    """Deviations of the log error of a kernel by category: 80 % of figures held out lie within 1.28 of them."""
    errors, category = np.abs(_log_errors(given, held_out)), _categories(given, problem, fitted)
    found = {}
    for code, name in enumerate(CATEGORIES):
        mine = errors[(category == code) & np.isfinite(errors)]
        if len(mine) >= 5:
            found[name] = float(np.quantile(mine, 0.8)) / EIGHTY
    return found | {"other": max(found.values())}


def _residuals(given: Sample, problem: Fit, fitted: Fitted, held_out: Any) -> list[dict[str, Any]]:
    """Median and 90th percentile of the errors of figures held out, by category and band of measured time."""
    errors, category = _log_errors(given, held_out), _categories(given, problem, fitted)
    ape, measured = np.abs(np.exp(errors) - 1.0), given.measured.ravel()
    found = []
    for code, name in enumerate(CATEGORIES):
        for low, high, size in _BANDS:
            mine = ape[(category == code) & np.isfinite(errors) & (measured >= low) & (measured < high)]
            if len(mine):
                median, p90 = float(np.median(mine)), float(np.quantile(mine, 0.9))
                found.append({"category": name, "size": size, "steps": len(mine), "median": median, "p90": p90})
    return found


def _whole(store: Store, hardware: Hardware) -> tuple[dict[str, float], float]:
    """Relative errors of T_samp of whole models, and the deviation of the log error that is common to a model.

    80 % of the models lie within 1.28 deviations, of which the part of single kernels is taken off.
    """
    errors: dict[str, float] = {}
    logs, alone = [], []
    for label, times in store.steps.items():
        if not label.startswith(WHOLE):
            continue
        name = label.removeprefix(WHOLE)
        found = estimate(load_workload(name, "small"), hardware)
        predicted = float(found.seconds["t_samp"] or 0.0)
        errors[name] = predicted / times.seconds["t_samp"] - 1.0
        low, high = found.seconds_interval["t_samp"]
        logs.append(abs(np.log(predicted / times.seconds["t_samp"])))
        alone.append(np.log(high / low) / (2 * EIGHTY))
    if not logs:
        return errors, 0.0
    both = float(np.quantile(logs, 0.8)) / EIGHTY
    return errors, float(np.sqrt(max(both**2 - float(np.mean(np.square(alone))), (0.1 * both) ** 2)))


def _with_calibration(
    hardware: Hardware, profile: Profile, before: Profile, environment: Mapping[str, str]
) -> Hardware:
    """The hardware with those figures of a profile as coefficients that differ from the profile's own."""
    names = [f for f in profile.__dataclass_fields__ if f not in ("name", "title", "sources")]
    changed = {name: getattr(profile, name) for name in names if getattr(profile, name) != getattr(before, name)}
    date = datetime.date.today().isoformat()
    return replace(hardware, calibration=Calibration(hardware.software, date, environment, changed, ()))


def store_beside(output: Path) -> Path:
    """Where steps are kept while they are measured, where no file is named."""
    return output.with_name(output.stem + ".measurements.jsonl")
