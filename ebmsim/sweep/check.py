"""What can be wrong with a sweep beyond its file: names that no input has, and questions without an answer."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from typing import Any

from ebmsim.design import Axis, Sweep
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.prepared import named_hardware
from ebmsim.spec.expression import ExpressionError, evaluate, parsed
from ebmsim.spec.library import load_workload
from ebmsim.sweep.axes import LARGEST_HYPERCUBE, layout
from ebmsim.sweep.figures import figures_of
from ebmsim.sweep.outputs import OUTPUTS, is_output


def check_sweep(sweep: Sweep) -> None:
    """Raise SpecError with everything that is wrong with the inputs of a sweep. No workload is lowered."""
    problems = [*_outputs(sweep), *_inputs(sweep), *_contradictions(sweep)]
    plan = layout(sweep)
    if sweep.sampling is not None:
        if not plan.inner:
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
    for path, settings in _workloads(sweep):
        try:
            load_workload(settings["workload"], settings["preset"], settings["parameters"])
        except SpecError as error:
            yield from _placed(sweep, path, error)


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


_BOUNDS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_MIRRORED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}


def _contradictions(sweep: Sweep) -> Iterator[Problem]:
    """Bounds of one name that no value meets: those of a range, and of conditions `name < number`."""
    low = {axis.name: (_least(axis), "its axis") for axis in sweep.axes if axis.numeric}
    high = {axis.name: (_most(axis), "its axis") for axis in sweep.axes if axis.numeric}
    for i, text in enumerate(sweep.constraints):
        for name, kind, bound in _simple(text):
            if kind in (ast.Lt, ast.LtE):
                high[name] = min(high.get(name, (math.inf, "")), (bound, f"'{text}'"))
            else:
                low[name] = max(low.get(name, (-math.inf, "")), (bound, f"'{text}'"))
            (least, lower), (most, upper) = low.get(name, (-math.inf, "")), high.get(name, (math.inf, ""))
            strict = kind in (ast.Lt, ast.Gt)
            if least > most or (least == most and strict):
                message = f"no point can meet this: {lower} and {upper} leave '{name}' no value"
                yield sweep.document.problem(("constraints", i), message)
                return


def _least(axis: Axis) -> float:
    return axis.low if axis.low is not None else min(axis.values)


def _most(axis: Axis) -> float:
    return axis.high if axis.high is not None else max(axis.values)


def _simple(text: str) -> Iterator[tuple[str, type[ast.cmpop], float]]:
    """Comparisons of a name with a number that a condition asks for."""
    conditions = [parsed(text)]
    while conditions:
        node = conditions.pop()
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            conditions += node.values
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
                if type(op) not in _BOUNDS:
                    continue
                for name, number, kind in ((left, right, type(op)), (right, left, _MIRRORED[type(op)])):
                    value = _number(number)
                    if isinstance(name, ast.Name) and value is not None:
                        yield name.id, kind, value


def _number(node: ast.expr) -> float | None:
    try:
        return float(evaluate(ast.unparse(node), {}))
    except (ExpressionError, ValueError):
        return None
