"""The grammar of sweep files: axes over any figure of workload, hardware and policy, and what to keep."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from ebmsim.design import Axis, Derived, Keep, Sampling, Sweep
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.policy import Policy
from ebmsim.spec.expression import ExpressionError, free_names
from ebmsim.spec.figure import is_whole, read_figure
from ebmsim.spec.located import Document
from ebmsim.spec.problems import located

_NAME = r"^[a-z][a-z0-9_]*$"
_MOST_POINTS_OF_AN_AXIS = 10_000_000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[
    list[str],
    BeforeValidator(_listed),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
"""One name, or a list of them."""


class AxisSpec(_Model):
    """One axis: a list of values, or a range."""

    field: str = Field(
        "",
        description="what varies: hardware, workload, preset, hardware.<figure>, workload.<parameter>, "
        "policy.<setting>; left out, the axis is a name for expressions only",
    )
    values: list[Any] | None = Field(None, description="the values, written as in files of their own")
    start: Any = Field(None, alias="from", description="first value of a range")
    to: Any = Field(None, description="last value of a range")
    points: int | None = Field(None, description="values of a range on a grid", ge=2, le=_MOST_POINTS_OF_AN_AXIS)
    scale: Literal["linear", "log"] = Field("linear", description="spacing of a range")


class DerivedSpec(_Model):
    """A quantity computed from axes and, unless it is a figure itself, from outputs."""

    expression: str = Field(description="safe arithmetic over axes, derived quantities and outputs, SI units")
    field: str = Field("", description="figure of the hardware that it sets")


class SamplingSpec(_Model):
    """A quasi-random design in place of a grid."""

    method: Literal["latin-hypercube", "sobol"] = Field(description="how the points are spread")
    points: int = Field(description="points of the design", ge=1, le=10**12)
    seed: int = Field(0, description="of its random numbers", ge=0)


class KeepSpec(_Model):
    """The points that are kept."""

    pareto: list[str] | None = Field(None, description="figures to minimise together", min_length=1)
    top: int | None = Field(None, description="how many of the best points", ge=1)
    by: str = Field("", description="figure to minimise, with `top`")


class SweepSpec(_Model):
    """A sweep: which designs, and what is asked of each."""

    name: str = Field(description="short name", pattern=_NAME)
    title: str = Field("", description="what the sweep is about")
    workload: str = Field(description="name or path of a workload")
    hardware: str = Field(description="name or path of a device")
    preset: str = Field("", description="preset of the workload")
    parameters: dict[str, Any] = Field({}, description="parameters of the workload")
    policy: dict[str, Any] = Field({}, description="execution, fidelity, dtype, math, software, streams, chain_mode")
    axes: dict[str, AxisSpec] = Field(description="what varies, by name", min_length=1)
    sampling: SamplingSpec | None = Field(None, description="a quasi-random design; a grid if left out")
    derived: dict[str, str | DerivedSpec] = Field({}, description="further quantities, by name")
    constraints: list[str] = Field([], description="conditions that kept points meet")
    outputs: list[str] = Field(
        ["t_samp", "t_inf", "step_joules", "mean_power_watts"], description="figures of an estimate", min_length=1
    )
    minimize: Names = Field([], description="what `ebmsim search` makes least; several figures give a front")
    keep: Literal["all", "summary"] | KeepSpec = Field("all", description="all, summary, pareto or top")
    format: Literal["csv", "parquet"] = Field("csv", description="of the files of results")
    chunk: int = Field(100_000, description="points of one file at most", ge=1, le=10**7)


def parse_sweep(document: Document) -> Sweep:
    """The sweep that a file describes. Raises SpecError with all problems of the file itself."""
    try:
        spec = SweepSpec.model_validate(document.data)
    except ValidationError as error:
        raise SpecError(located(document, error, SweepSpec)) from None
    problems: list[Problem] = []
    axes = [_axis(document, name, axis, spec, problems) for name, axis in spec.axes.items()]
    derived = [_derived(document, name, given, problems) for name, given in spec.derived.items()]
    problems += _names(document, spec)
    policy = Policy()
    try:
        policy = Policy(**spec.policy)
    except SpecError as error:
        problems += [document.problem(("policy",), p.message, p.hint) for p in error.problems]
    except TypeError:
        unknown = [key for key in spec.policy if key not in Policy.__dataclass_fields__]
        known = Policy.__dataclass_fields__
        problems += [document.problem(("policy", k), f"unknown key '{k}'", suggest(k, known), True) for k in unknown]
    if problems:
        raise SpecError(problems)
    sampling = None if spec.sampling is None else Sampling(**dict(spec.sampling))
    return Sweep(
        name=spec.name,
        document=document,
        workload=_beside(document, spec.workload),
        hardware=_beside(document, spec.hardware),
        preset=spec.preset,
        parameters=spec.parameters,
        policy=policy,
        axes=tuple(axis for axis in axes if axis is not None),
        sampling=sampling,
        derived=tuple(derived),
        constraints=tuple(spec.constraints),
        outputs=tuple(spec.outputs),
        keep=_keep(spec.keep),
        format=spec.format,
        chunk=spec.chunk,
        minimize=tuple(dict.fromkeys(spec.minimize)),
    )


def _beside(document: Document, name: str) -> str:
    """A path as the folder of the sweep's file means it; a name stays."""
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    return os.path.abspath(os.path.join(os.path.dirname(document.file), name)) if is_path else name


def _keep(given: str | KeepSpec) -> Keep:
    if isinstance(given, str):
        return Keep(given)
    if given.pareto is not None:
        return Keep("pareto", tuple(given.pareto))
    return Keep("top", (given.by,), given.top or 0)


def _axis(document: Document, name: str, spec: AxisSpec, whole_file: SweepSpec, problems: list[Problem]) -> Axis | None:
    at, sampled = ("axes", name), whole_file.sampling is not None
    free = sampled or (spec.points is None and bool(whole_file.minimize))
    found = [*_kind(document, at, spec), *_range(document, at, spec, free)]
    if not found:
        figure = spec.field.removeprefix("hardware.") if spec.field.startswith("hardware.") else ""
        whole = bool(figure) and is_whole(figure)

        def read(value: Any, *where: Any) -> Any:
            if spec.field in ("workload", "hardware", "preset") and not isinstance(value, str):
                found.append(document.problem((*at, *where), f"expected a name, found {value!r}"))
                return ""
            if spec.field in ("workload", "hardware"):
                return _beside(document, value)
            try:
                return read_figure(figure, value) if figure else value
            except ValueError as error:
                found.append(document.problem((*at, *where), str(error), getattr(error, "hint", "")))
                return math.nan

        if spec.values is not None:
            values = tuple(read(value, "values", i) for i, value in enumerate(spec.values))
            ends = (None, None)
        else:
            low, high = read(spec.start, "from"), read(spec.to, "to")
            found += _ends(document, at, spec, low, high) if not found else []
            values = () if found or free else _spaced(low, high, spec.points or 0, spec.scale == "log", whole)
            ends = (low, high)
        if not found:
            if len(set(map(repr, values))) < len(values):
                found.append(document.problem((*at, "values"), "expected different values, found one twice"))
            else:
                return Axis(name, spec.field, values, *ends, spec.scale == "log", whole)
    problems += found
    return None


def _kind(document: Document, at: tuple[str, ...], spec: AxisSpec) -> Iterator[Problem]:
    """Problems of what an axis varies."""
    first, _, rest = spec.field.partition(".")
    kinds = ("hardware", "workload", "preset", "policy")
    if spec.field and first not in kinds:
        yield document.problem((*at, "field"), f"unknown field '{spec.field}'", suggest(first, kinds))
    elif first == "policy" and rest not in Policy.__dataclass_fields__:
        hint = suggest(rest, Policy.__dataclass_fields__)
        yield document.problem((*at, "field"), f"no setting '{rest}' of a policy", hint)
    elif first == "hardware" and rest:
        try:
            is_whole(rest)
        except KeyError:
            yield document.problem((*at, "field"), f"no figure '{rest}' of hardware files", "for example units")
    elif first == "preset" and rest:
        yield document.problem((*at, "field"), f"unknown field '{spec.field}'", "did you mean 'preset'?")


def _range(document: Document, at: tuple[str, ...], spec: AxisSpec, free: bool) -> Iterator[Problem]:
    """Problems of the form of values or range. free: a range needs no points."""
    given = [key for key, value in (("from", spec.start), ("to", spec.to)) if value is not None]
    if spec.values is not None:
        if not spec.values:
            yield document.problem((*at, "values"), "expected at least one value, found an empty axis")
        if given or spec.points is not None:
            yield document.problem(at, "expected values or a range, found both")
        return
    for key in ("from", "to"):
        if key not in given:
            yield document.problem(at, f"missing key '{key}' of a range", "or give a list of values")
    if not free and spec.points is None:
        yield document.problem(at, "missing key 'points' of a range", "a search needs none, but the key 'minimize'")
    number = spec.field.startswith("hardware.") or not spec.field
    if not number and len(given) == 2 and not all(isinstance(v, (int, float)) for v in (spec.start, spec.to)):
        yield document.problem(at, f"'{spec.field}' takes a list of values, not a range")


def _ends(document: Document, at: tuple[str, ...], spec: AxisSpec, low: Any, high: Any) -> Iterator[Problem]:
    for key, value in (("from", low), ("to", high)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield document.problem((*at, key), f"expected a number, found {value!r}")
            return
    if low >= high:
        yield document.problem(at, f"expected 'from' below 'to', found {spec.start} and {spec.to}")
    if spec.scale == "log" and low <= 0:
        yield document.problem((*at, "from"), f"expected a number above 0 on a log scale, found {spec.start}")


def _spaced(low: float, high: float, points: int, log: bool, whole: bool) -> tuple[float, ...]:
    """The values of a range on a grid, ends included; whole numbers once each."""
    import numpy as np

    values = np.geomspace(low, high, points) if log else np.linspace(low, high, points)
    if whole:
        values = np.unique(np.round(values))
    return tuple(values.tolist())


def _text(given: str | DerivedSpec) -> str:
    return given if isinstance(given, str) else given.expression


def _derived(document: Document, name: str, given: str | DerivedSpec, problems: list[Problem]) -> Derived:
    text, field = _text(given), "" if isinstance(given, str) else given.field
    figure = field.removeprefix("hardware.")
    if field:
        try:
            if figure == field:
                raise KeyError(field)
            is_whole(figure)
        except KeyError:
            hint = "for example hardware.memory.l2.bandwidth"
            problems.append(document.problem(("derived", name, "field"), f"no figure '{field}'", hint))
    return Derived(name, text, figure if field else "")


def _names(document: Document, spec: SweepSpec) -> Iterator[Problem]:
    """Problems of names: given twice, or unknown in an expression."""
    known = [*spec.axes]
    for name in spec.derived:
        if name in known:
            yield document.problem(("derived", name), f"'{name}' is an axis already", at_key=True)
    known += spec.derived
    for name in [n for n in spec.outputs if n in known]:
        yield document.problem(("outputs", spec.outputs.index(name)), f"'{name}' is an axis or a derived quantity")
    known += [name.replace(".", "_").replace(":", "_") for name in spec.outputs]
    texts: list[tuple[tuple[str | int, ...], str]] = [(("constraints", i), t) for i, t in enumerate(spec.constraints)]
    for name, given in spec.derived.items():
        short = isinstance(given, str)
        texts.append((("derived", name) if short else ("derived", name, "expression"), _text(given)))
    for path, text in texts:
        try:
            missing = sorted(free_names(text) - set(known))
        except ExpressionError as error:
            yield document.problem(path, str(error), error.hint)
            continue
        for name in missing:
            hint = suggest(name, known) or "axes, derived quantities and outputs are known"
            yield document.problem(path, f"unknown name '{name}' in {text!r}", hint)
    for name in spec.minimize:
        if name not in known:
            hint = suggest(name, known) or "axes, derived quantities and outputs are known"
            yield document.problem(("minimize",), f"unknown figure '{name}'", hint)
    keep = spec.keep
    if isinstance(keep, KeepSpec):
        if (keep.pareto is None) == (keep.top is None):
            yield document.problem(("keep",), "expected either 'pareto' or 'top' with 'by'")
        for name in keep.pareto or ([keep.by] if keep.top is not None else []):
            if name not in known:
                yield document.problem(("keep",), f"unknown figure '{name}'", suggest(name, known))
