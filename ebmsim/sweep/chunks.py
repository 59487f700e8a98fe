"""One chunk of a sweep: its points evaluated, constrained and reduced to what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import machine_of
from ebmsim.design import Sweep
from ebmsim.errors import SpecError
from ebmsim.estimation import calibrated, estimate_lowered, settled
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.policy import Policy, Profile
from ebmsim.prepared import named_hardware, named_lowered, named_profile
from ebmsim.spec.array_expression import evaluate_arrays
from ebmsim.spec.expression import free_names
from ebmsim.sweep.axes import Layout, coordinates, layout
from ebmsim.sweep.engine import Prepared, evaluate, flat, prepare
from ebmsim.sweep.figures import with_figures
from ebmsim.sweep.outputs import are_shaped, column, of_device, of_estimate
from ebmsim.sweep.pareto import front

Columns = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """What all points of a cell share: a workload lowered for a policy, and the device whose figures vary."""

    lowered: Lowered
    hardware: Hardware
    policy: Policy
    profile: Profile

    @cached_property
    def prepared(self) -> Prepared:
        """What an evaluation of many points needs of the workload."""
        return prepare(self.lowered, self.profile, self.policy)


class Inputs(NamedTuple):
    """What an estimate is given, by name; figures: those of the device that differ, by path."""

    workload: str
    hardware: str
    preset: str
    parameters: Mapping[str, Any]
    policy: Policy
    figures: Mapping[str, Any]


def inputs_of(sweep: Sweep, values: Mapping[str, Any]) -> Inputs:
    """The inputs at some values of the outer axes. Raises SpecError where a policy has no such setting."""
    names = {"workload": sweep.workload, "hardware": sweep.hardware, "preset": sweep.preset}
    parameters, how, figures = dict(sweep.parameters), dict[str, Any](), dict[str, Any]()
    for axis in sweep.axes:
        if axis.name not in values:
            continue
        value = values[axis.name]
        first, _, rest = axis.field.partition(".")
        if axis.field in names:
            names[axis.field] = value
        elif first == "workload":
            parameters[rest] = value
        elif first == "policy":
            how[rest] = value
        elif axis.figure:
            figures[axis.figure] = value
    return Inputs(**names, parameters=parameters, policy=replace(sweep.policy, **how), figures=figures)


def cell_of(sweep: Sweep, values: Mapping[str, Any]) -> Cell:
    """The cell at some values of the outer axes. Raises SpecError where its inputs do not fit together."""
    given = inputs_of(sweep, values)
    device = with_figures(named_hardware(given.hardware), given.figures)
    policy = settled(given.policy, device)
    profile = calibrated(named_profile(policy.software), device, policy)
    lowered = named_lowered(given.workload, given.preset, given.parameters, policy, profile)
    return Cell(lowered, device, policy, profile)


@lru_cache(maxsize=4)
def _cell(sweep: _Same, values: tuple[tuple[str, Any], ...]) -> Cell:
    return cell_of(sweep.sweep, dict(values))


class _Same:
    """A sweep as a key: equal to the sweep of the same file text."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.sweep == other.sweep

    def __hash__(self) -> int:
        return hash(self.sweep.name)


def evaluate_chunk(sweep: Sweep, chunk: int) -> Columns:
    """What is kept of a chunk, by column: axes, derived quantities, outputs. Raises SpecError."""
    plan = layout(sweep)
    parts = []
    for block in plan.blocks(chunk):
        values = tuple(plan.cell(block).items())
        parts.append(kept(sweep, points(sweep, plan, block, _cell(_Same(sweep), values))))
    columns = kept(sweep, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return summary(columns) if sweep.keep.what == "summary" else columns


def points(sweep: Sweep, plan: Layout, block: int, cell: Cell) -> Columns:
    """All points of a block that meet the constraints, in the order of their axes, the last one fastest."""
    outer, inner = plan.cell(block), coordinates(sweep, plan, block)
    shape = np.broadcast_shapes(*[np.shape(values) for values in inner.values()]) if inner else (1,)
    if sweep.sampling is not None:
        cut = plan.slices(block)[0]
        shape = (cut.stop - cut.start,)
    names, _ = answers(sweep, cell, outer, inner, shape)
    wanted = [axis.name for axis in sweep.axes] + [d.name for d in sweep.derived] + list(map(column, sweep.outputs))
    meets = np.ones(shape, dtype=np.bool_)
    for text in sweep.constraints:
        meets &= np.asarray(evaluate_arrays(text, names), dtype=np.bool_)
    return {name: np.broadcast_to(names[name], shape)[meets] for name in wanted}


def answers(
    sweep: Sweep, cell: Cell, outer: Mapping[str, Any], inner: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[Columns, Columns]:
    """Every name that has a value at some points of a cell, and the figures of the device there, by path.

    outer: values of the axes that make the cell. inner: arrays of the others, which broadcast to `shape`. Raises
    SpecError where a point is no device.
    """
    names: dict[str, Any] = {**outer, **inner}
    before = [d for d in sweep.derived if free_names(d.expression) <= _known_before(sweep)]
    for derived in before:
        names[derived.name] = _derived(sweep, derived.name, derived.expression, names, bool(derived.figure))
    figures = {axis.figure: np.asarray(inner[axis.name]) for axis in sweep.axes if axis.figure and axis.name in inner}
    figures |= {d.figure: np.asarray(names[d.name]) for d in before if d.figure}
    names |= _outputs(sweep, cell, {path: values[..., None] for path, values in figures.items()}, shape)
    for derived in sweep.derived:
        if derived not in before:
            names[derived.name] = _derived(sweep, derived.name, derived.expression, names, False)
    return names, figures


def _known_before(sweep: Sweep) -> frozenset[str]:
    """Names with a value before anything is evaluated: axes, and what is derived from them alone."""
    known = {axis.name for axis in sweep.axes}
    for derived in sweep.derived:
        if free_names(derived.expression) <= known:
            known.add(derived.name)
    return frozenset(known)


def _derived(sweep: Sweep, name: str, text: str, names: Mapping[str, Any], is_figure: bool) -> Any:
    value = evaluate_arrays(text, names)
    if is_figure:
        numbers = np.asarray(value, dtype=np.float64)
        bad = ~(np.isfinite(numbers) & (numbers > 0))
        if bad.any():
            message = f"'{name}' sets a figure, and is {np.ravel(numbers[bad])[0]:g} at some point"
            raise SpecError([sweep.document.problem(("derived", name), message, "a figure is above 0")])
    return value


def _outputs(sweep: Sweep, cell: Cell, figures: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """The outputs at every point by column, in the chunk's shape: all at once, or estimate by estimate."""
    if are_shaped(sweep.outputs) and cell.policy.streams == 1:
        device = with_figures(cell.hardware, figures)
        _check_power(sweep, device)
        found = evaluate(cell.prepared, machine_of(device))
        found |= {name: flat(value) for name, value in of_device(device, sweep.outputs).items()}
        absent = np.full(shape, np.nan)
        return {column(name): np.broadcast_to(found.get(name, absent), shape) for name in sweep.outputs}
    single = {path: np.broadcast_to(values[..., 0], shape).ravel() for path, values in figures.items()}
    rows = []
    for i in range(int(np.prod(shape))):
        device = with_figures(cell.hardware, {path: float(values[i]) for path, values in single.items()})
        _check_power(sweep, device)
        rows.append(of_estimate(estimate_lowered(cell.lowered, device, cell.policy, cell.profile), sweep.outputs))
    return {column(name): np.array([row[name] for row in rows]).reshape(shape) for name in sweep.outputs}


def _check_power(sweep: Sweep, device: Hardware) -> None:
    if np.any(np.asarray(device.power.limit) <= np.asarray(device.power.static)):
        message = f"some point of {device.name} has a power limit that is not above its static power"
        raise SpecError([sweep.document.problem(("axes",), message)])


def kept(sweep: Sweep, columns: Columns) -> Columns:
    """The part of some points that a sweep keeps; the same for a chunk and for what chunks kept together."""
    keep = sweep.keep
    if keep.what == "pareto":
        values = np.stack([np.asarray(columns[name], dtype=np.float64) for name in keep.names], axis=1)
        chosen = np.sort(front(values))
    elif keep.what == "top":
        by = np.asarray(columns[keep.names[0]], dtype=np.float64)
        chosen = np.sort(np.argsort(np.where(np.isnan(by), np.inf, by), kind="stable")[: keep.count])
    else:
        return columns
    return {name: values[chosen] for name, values in columns.items()}


def summary(columns: Columns) -> Columns:
    """Count, least, sum and most of every column of numbers, one row each."""
    numbers = {name: values.astype(np.float64) for name, values in columns.items() if values.dtype.kind in "fiub"}
    filled = list(numbers.values())
    return {
        "name": np.array(list(numbers)),
        "count": np.array([len(values) for values in filled]),
        "least": np.array([values.min(initial=np.inf) for values in filled]),
        "sum": np.array([values.sum() for values in filled]),
        "most": np.array([values.max(initial=-np.inf) for values in filled]),
    }


def merged(sweep: Sweep, parts: Sequence[Columns]) -> Columns:
    """What a sweep keeps, from what its chunks kept."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if sweep.keep.what != "summary":
        return kept(sweep, joined)
    whole: dict[str, list[Any]] = {name: [] for name in joined}
    for name in parts[0]["name"]:
        mine = joined["name"] == name
        row = {"name": name, "count": joined["count"][mine].sum(), "least": joined["least"][mine].min()}
        row |= {"sum": joined["sum"][mine].sum(), "most": joined["most"][mine].max()}
        for key, value in row.items():
            whole[key].append(value)
    return {key: np.array(values) for key, values in whole.items()}
