"""Figures of a device by the paths that hardware files have, replaced by numbers or by arrays of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.hardware import Hardware, Level, SubArray

# Tables of a device that hold figures; the rest is names, texts and provenance.
_TABLES = ("matrix", "vector", "host", "launch", "power", "features")
# Not `clock`: what peaks are quoted at says nothing about a device once rates per cycle are known.
_ALONE = ("units", "sustained_clock")
# Figures that grow with `units`, as rates per unit hold; peaks of products do so with the cells of systolic arrays.
_PER_UNIT = ("vector.peak", "vector.special", "vector.random")


def figures_of(hardware: Hardware) -> dict[str, Any]:
    """Every figure of a device that can be replaced, by path: SI units, flags and names as they are."""
    found: dict[str, Any] = {name: getattr(hardware, name) for name in _ALONE}
    for name in _TABLES:
        found |= _flat(name, getattr(hardware, name))
    for place, group in _groups(hardware):
        found |= _flat(place, group)
    for level in hardware.memory:
        found |= {path: value for path, value in _flat(f"memory.{level.name}", level).items() if path[-5:] != ".name"}
    return found


def _groups(hardware: Hardware) -> list[tuple[str, SubArray]]:
    """The groups of systolic arrays by where files write them: in `matrix` itself where there is only one."""
    groups = hardware.matrix.subarrays
    return [("matrix" if len(groups) == 1 else f"matrix.subarrays[{i}]", group) for i, group in enumerate(groups)]


def _flat(path: str, value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, Mapping):
        items = dict(value)
    elif isinstance(value, tuple):
        return {}
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in items.items():
        found |= _flat(f"{path}.{key}", inner)
    return found


def with_figures(hardware: Hardware, figures: Mapping[str, Any]) -> Hardware:
    """The device with other figures by path, in SI units: numbers, or arrays that broadcast with one another.

    Rates per unit and cycle hold: with other `units` the peaks and the systolic arrays follow in proportion, with other
    `matrix.arrays`, `rows` or `columns` (`matrix.subarrays[0].arrays` and so on where there are several groups) the
    peaks of products, as a cell keeps its rate; unless they are given themselves. Memory never follows.
    Arrays are those of a grid and end with an axis of size 1, along which kernels lie. Raises SpecError with all paths
    the device does not have.
    """
    known = figures_of(hardware)
    unknown = [path for path in figures if path not in known]
    if unknown:
        raise SpecError([Problem(f"{hardware.name} has no figure '{p}'", hint=suggest(p, known)) for p in unknown])
    new = {**known, **figures}
    arrays = [f"{place}.arrays" for place, _ in _groups(hardware)]
    if "units" in figures:
        followers = (*_PER_UNIT, *(arrays or ["matrix.peak"]))
        new = _followed(new, followers, figures["units"], hardware.units, figures)
    if arrays:
        cells = sum(_group(place, new).cells for place, _ in _groups(hardware))
        new = _followed(new, ("matrix.peak",), cells, hardware.matrix.cells, figures)
    return _rebuilt(hardware, new)


def _followed(
    known: Mapping[str, Any], followers: Collection[str], value: Any, before: Any, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures with some, and those of some tables, in proportion to another's value; those given stay."""
    new = dict(known)
    for path in known.keys() - given.keys():
        if path in followers or path.rpartition(".")[0] in followers:
            # Multiplied first, so that counts stay whole.
            new[path] = known[path] * value / before
    return new


def _group(place: str, figures: Mapping[str, Any]) -> SubArray:
    return SubArray(*[figures[f"{place}.{field.name}"] for field in fields(SubArray)])


def _rebuilt(hardware: Hardware, figures: Mapping[str, Any]) -> Hardware:
    changes: dict[str, Any] = {name: figures[name] for name in _ALONE}
    for name in _TABLES:
        changes[name] = _filled(name, getattr(hardware, name), figures)
    groups = tuple(_group(place, figures) for place, _ in _groups(hardware))
    changes["matrix"] = replace(changes["matrix"], subarrays=groups)
    changes["memory"] = tuple(_level(level, figures) for level in hardware.memory)
    return replace(hardware, **changes)


def _filled(path: str, value: Any, figures: Mapping[str, Any]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _filled(f"{path}.{f.name}", getattr(value, f.name), figures) for f in fields(value)}
        )
    if isinstance(value, Mapping):
        return {key: _filled(f"{path}.{key}", inner, figures) for key, inner in value.items()}
    return value if isinstance(value, tuple) else figures[path]


def _level(level: Level, figures: Mapping[str, Any]) -> Level:
    names = [f.name for f in fields(level) if f.name != "name"]
    return replace(level, **{name: figures[f"memory.{level.name}.{name}"] for name in names})
