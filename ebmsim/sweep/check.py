"""What can be wrong with a sweep beyond its file: names that no input has, and questions without an answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ebmsim.design import Axis, Sweep
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.hardware import Hardware
from ebmsim.prepared import named_hardware
from ebmsim.spec.expression import ExpressionError, evaluate
from ebmsim.spec.library import load_workload
from ebmsim.sweep.axes import LARGEST_HYPERCUBE, is_inner
from ebmsim.sweep.conditions import Part, parts
from ebmsim.sweep.figures import figures_of, with_figures
from ebmsim.sweep.outputs import OF_DEVICE, OUTPUTS, is_output, of_device


def check_sweep(sweep: Sweep) -> None:
    """Raise SpecError with everything that is wrong with the inputs of a sweep. No workload is lowered."""
    problems = [*_outputs(sweep), *_inputs(sweep), *_contradictions(sweep)]
    texts = [axis.name for axis in sweep.axes if not axis.numeric and axis.name in sweep.minimize]
    problems += [sweep.document.problem(("minimize",), f"expected numbers, '{name}' has others") for name in texts]
    if sweep.sampling is not None:
        if not any(map(is_inner, sweep.axes)):
            problems.append(sweep.document.problem(("sampling",), "no axis that could be sampled"))
        elif sweep.sampling.method == "latin-hypercube" and sweep.sampling.points > LARGEST_HYPERCUBE:
            message = f"a Latin hypercube has at most {LARGEST_HYPERCUBE:,} points"
            problems.append(sweep.document.problem(("sampling", "points"), message, "sobol has no limit"))
    if problems:
        raise SpecError(dict.fromkeys(problems))


def _outputs(sweep: Sweep) -> Iterator[Problem]:
    for i, name in enumerate(sweep.outputs):
        if not is_output(name):
            yield sweep.document.problem(("outputs", i), f"unknown output '{name}'", suggest(name, OUTPUTS))


def _inputs(sweep: Sweep) -> Iterator[Problem]:
    """Every device and workload that is named, at every value of every axis alone."""
    devices = [(("hardware",), sweep.hardware), *_named(sweep, "hardware")]
    figures = [(("axes", axis.name, "field"), axis.figure) for axis in sweep.axes if axis.figure]
    figures += [(("derived", d.name, "field"), d.figure) for d in sweep.derived if d.figure]
    for path, name in devices:
        try:
            device = named_hardware(name)
        except SpecError as error:
            yield from _placed(sweep, path, error)
            continue
        known = figures_of(device)
        for at, figure in figures:
            if figure not in known:
                yield sweep.document.problem(at, f"{device.name} has no figure '{figure}'", suggest(figure, known))
        yield from _areas(sweep, device)
    for path, settings in _workloads(sweep):
        try:
            load_workload(settings["workload"], settings["preset"], settings["parameters"])
        except SpecError as error:
            yield from _placed(sweep, path, error)


def _areas(sweep: Sweep, device: Hardware) -> Iterator[Problem]:
    """Whether a device has the area and cost that are asked for, its first value taken of every text that varies."""
    texts = {a.figure: a.values[0] for a in sweep.axes if a.figure and not a.numeric}
    for i, name in enumerate(sweep.outputs):
        try:
            if name in OF_DEVICE and texts.keys() <= figures_of(device).keys():
                of_device(with_figures(device, texts), [name])
        except SpecError as error:
            yield from _placed(sweep, ("outputs", i), error)


def _named(sweep: Sweep, field: str) -> list[tuple[tuple[str | int, ...], Any]]:
    axes = [axis for axis in sweep.axes if axis.field == field]
    return [(("axes", axis.name, "values", i), value) for axis in axes for i, value in enumerate(axis.values)]


def _workloads(sweep: Sweep) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Settings of the workload: those of the file, with the first value of every axis, and each value of one axis."""
    base: dict[str, Any] = {"workload": sweep.workload, "preset": sweep.preset, "parameters": dict(sweep.parameters)}
    axes = [a for a in sweep.axes if a.field in ("workload", "preset") or a.field.startswith("workload.")]
    for axis in axes:
        base = _set(base, axis, axis.values[0])
    yield ("workload",), base
    for axis in axes:
        for i, value in enumerate(axis.values[1:], 1):
            yield ("axes", axis.name, "values", i), _set(base, axis, value)


def _set(base: dict[str, Any], axis: Axis, value: Any) -> dict[str, Any]:
    if axis.field in ("workload", "preset"):
        return {**base, axis.field: value}
    return {**base, "parameters": {**base["parameters"], axis.field.partition(".")[2]: value}}


def _placed(sweep: Sweep, path: tuple[str | int, ...], error: SpecError) -> Iterator[Problem]:
    """The problems of an input at the place of the sweep that names it."""
    for problem in error.problems:
        yield problem if problem.file and problem.line else sweep.document.problem(path, problem.message, problem.hint)


def _contradictions(sweep: Sweep) -> Iterator[Problem]:
    """Bounds of one name that no value meets: those of a range, and of conditions `name < number`."""
    low = {axis.name: (_least(axis), "its axis") for axis in sweep.axes if axis.numeric}
    high = {axis.name: (_most(axis), "its axis") for axis in sweep.axes if axis.numeric}
    for i, text in enumerate(sweep.constraints):
        for name, bound, is_upper, strict in (found for part in parts(text) for found in _bounds(part)):
            if is_upper:
                high[name] = min(high.get(name, (math.inf, "")), (bound, f"'{text}'"))
            else:
                low[name] = max(low.get(name, (-math.inf, "")), (bound, f"'{text}'"))
            (least, lower), (most, upper) = low.get(name, (-math.inf, "")), high.get(name, (math.inf, ""))
            if least > most or (least == most and strict):
                message = f"no point can meet this: {lower} and {upper} leave '{name}' no value"
                yield sweep.document.problem(("constraints", i), message)
                return


def _least(axis: Axis) -> float:
    return axis.low if axis.low is not None else min(axis.values)


def _most(axis: Axis) -> float:
    return axis.high if axis.high is not None else max(axis.values)


def _bounds(part: Part) -> Iterator[tuple[str, float, bool, bool]]:
    """What a comparison of a name with a number asks for: name, number, whether that is an upper bound, strict."""
    less, more = _number(part.less), _number(part.more)
    if part.less.isidentifier() and more is not None:
        yield part.less, more, True, part.strict
    if part.more.isidentifier() and less is not None:
        yield part.more, less, False, part.strict


def _number(text: str) -> float | None:
    try:
        return float(evaluate(text, {}))
    except (ExpressionError, ValueError):
        return None
