"""Workloads, devices, software profiles and sweeps by name or path."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware
from ebmsim.policy import Profile
from ebmsim.spec.located import Document, load_document
from ebmsim.spec.shipped import files as files
from ebmsim.spec.shipped import find as find
from ebmsim.spec.shipped import folder as folder
from ebmsim.spec.shipped import names as names
from ebmsim.spec.software import parse_profile
from ebmsim.spec.workload import Workload, parse_workload, settle

if TYPE_CHECKING:
    from ebmsim.design import Sweep


def load_workload(name: str | Path, preset: str = "", overrides: Mapping[str, Any] | None = None) -> Workload:
    """A workload by name or path, at a preset, with parameters overridden. Raises SpecError."""
    document = load_document(find("workload", name))
    return settle(document, parse_workload(document), preset, overrides or {})


def load_hardware(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Hardware:
    """A device by name, path or path:variant; `overrides` maps paths such as "memory.dram.bandwidth" to values.

    The values are as in the file. Raises SpecError.
    """
    from ebmsim.spec.extends import hardware_document
    from ebmsim.spec.hardware import parse_hardware

    document = hardware_document(name)
    return parse_hardware(_overridden(document, overrides) if overrides else document)


def _overridden(document: Document, overrides: Mapping[str, Any]) -> Document:
    from copy import deepcopy
    from dataclasses import replace

    data = deepcopy(document.data)
    marks = dict(document.marks)
    problems = []
    for path, value in overrides.items():
        keys = path.split(".")
        at: Any = data
        for key in keys[:-1]:
            at = at.get(key) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            problems.append(
                Problem(f"unknown figure '{path}' of {data.get('name')}", hint="write it as memory.dram.bandwidth")
            )
            continue
        at[keys[-1]] = value
        marks.setdefault(tuple(keys), marks.get(tuple(keys[:-1]), (1, 1)))
    if problems:
        raise SpecError(problems)
    return replace(document, data=data, marks=marks)


def load_sweep(path: str | Path) -> Sweep:
    """The sweep of a file. Raises SpecError with all problems of the file itself."""
    from ebmsim.spec.sweep import parse_sweep

    return parse_sweep(load_document(path))


@lru_cache(maxsize=16)
def load_profile(name: str) -> Profile:
    """A software profile by name or path. Raises SpecError."""
    return parse_profile(load_document(find("software", name)))
