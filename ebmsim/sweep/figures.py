"""Figures of a device by the paths that hardware files have, replaced by numbers or by arrays of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.hardware import Hardware, Level

# Tables of a device that hold figures; the rest is names, texts and provenance.
_TABLES = ("matrix", "vector", "host", "launch", "power", "features")
# Not `clock`: what peaks are quoted at says nothing about a device once rates per cycle are known.
_ALONE = ("units", "sustained_clock")
_PEAKS = ("matrix.peak", "vector.peak")
# Figures that grow with others, as rates per unit, or per cell of a systolic array, hold.
_FOLLOW = {
    "units": (*_PEAKS, "vector.special", "vector.random", "matrix.arrays"),
    "matrix.arrays": ("matrix.peak",),
    "matrix.rows": ("matrix.peak",),
    "matrix.columns": ("matrix.peak",),
}


def figures_of(hardware: Hardware) -> dict[str, Any]:
    """Every figure of a device that can be replaced, by path: SI units, flags and names as they are."""
    found: dict[str, Any] = {name: getattr(hardware, name) for name in _ALONE}
    for name in _TABLES:
        found |= _flat(name, getattr(hardware, name))
    for level in hardware.memory:
        found |= {path: value for path, value in _flat(f"memory.{level.name}", level).items() if path[-5:] != ".name"}
    return found


def _flat(path: str, value: Any) -> dict[str, Any]:
    if is_dataclass(value):
        items = {f.name: getattr(value, f.name) for f in fields(value)}
    elif isinstance(value, Mapping):
        items = dict(value)
    else:
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in items.items():
        found |= _flat(f"{path}.{key}", inner)
    return found


def with_figures(hardware: Hardware, figures: Mapping[str, Any]) -> Hardware:
    """The device with other figures by path, in SI units: numbers, or arrays that broadcast with one another.

    Rates per unit and cycle hold: with other `units` the peaks and the systolic arrays follow in proportion, with other
    `matrix.arrays`, `rows` or `columns` the peaks of products, unless they are given themselves. Memory never follows.
    Arrays are those of a grid and end with an axis of size 1, along which kernels lie. Raises SpecError with all paths
    the device does not have.
    """
    known = figures_of(hardware)
    unknown = [path for path in figures if path not in known]
    if unknown:
        raise SpecError([Problem(f"{hardware.name} has no figure '{p}'", hint=suggest(p, known)) for p in unknown])
    new = dict(known)
    for path, value in figures.items():
        new[path] = value
        for follower in _FOLLOW.get(path, ()):
            for other in (p for p in known if p == follower or p.startswith(f"{follower}.")):
                if other not in figures and known[path]:
                    new[other] = new[other] * (value / known[path])
    return _rebuilt(hardware, new)


def _rebuilt(hardware: Hardware, figures: Mapping[str, Any]) -> Hardware:
    changes: dict[str, Any] = {name: figures[name] for name in _ALONE}
    for name in _TABLES:
        changes[name] = _filled(name, getattr(hardware, name), figures)
    changes["memory"] = tuple(_level(level, figures) for level in hardware.memory)
    return replace(hardware, **changes)


def _filled(path: str, value: Any, figures: Mapping[str, Any]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _filled(f"{path}.{f.name}", getattr(value, f.name), figures) for f in fields(value)}
        )
    if isinstance(value, Mapping):
        return {key: _filled(f"{path}.{key}", inner, figures) for key, inner in value.items()}
    return figures[path]


def _level(level: Level, figures: Mapping[str, Any]) -> Level:
    names = [f.name for f in fields(level) if f.name != "name"]
    return replace(level, **{name: figures[f"memory.{level.name}.{name}"] for name in names})
