"""From names to an estimate: files parsed and workloads lowered once, and remembered between runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from ebmsim.cache import remembered
from ebmsim.errors import Problem, SpecError
from ebmsim.estimation import Estimate, calibrated, estimate_lowered, settled
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.policy import Policy, Profile

if TYPE_CHECKING:
    from pathlib import Path

Value = TypeVar("Value")
Settings = Mapping[str, Any]
_NONE: Settings = MappingProxyType({})


def estimate_named(
    workload: str,
    hardware: str,
    policy: Policy | None,
    preset: str = "",
    workload_settings: Settings = _NONE,
    hardware_settings: Settings = _NONE,
    problems: Sequence[Problem] = (),
) -> Estimate:
    """The estimate of a workload on a device, both by name or path.

    Raises SpecError with the problems of both, and those given; policy None stands for one that has some.
    """
    found, of_device = list(problems), list[Problem]()
    device = _attempt(lambda: named_hardware(hardware, hardware_settings), of_device)
    how = _attempt(lambda: settled(policy, device), of_device) if policy and device else None
    profile = _attempt(lambda: named_profile(how.software), of_device) if how else None
    if how and profile and device:
        profile = calibrated(profile, device, how)
    lowered = None
    if how and profile:
        lowered = _attempt(lambda: named_lowered(workload, preset, workload_settings, how, profile), found)
    else:
        from ebmsim.spec.library import load_workload

        _attempt(lambda: load_workload(workload, preset, workload_settings), found)
    if device is None or how is None or profile is None or lowered is None or found:
        raise SpecError([*found, *of_device])
    return estimate_lowered(lowered, device, how, profile)


def _attempt(make: Callable[[], Value], problems: list[Problem]) -> Value | None:
    """What is made, or None with its problems added."""
    try:
        return make()
    except SpecError as error:
        problems += error.problems
        return None


def named_hardware(name: str, settings: Settings = _NONE) -> Hardware:
    """A device by name, path or path:variant, figures overridden. Raises SpecError."""

    def compute() -> tuple[Hardware, list[str | Path]]:
        from ebmsim.spec.extends import hardware_document
        from ebmsim.spec.library import load_hardware

        document = hardware_document(name)
        return load_hardware(name, settings), sorted({document.file, *document.files.values()})

    return remembered(("hardware", name, os.getcwd(), sorted(settings.items())), compute)


def named_profile(name: str) -> Profile:
    """A software profile by name or path. Raises SpecError."""

    def compute() -> tuple[Profile, list[str | Path]]:
        from ebmsim.spec.library import find, load_profile

        return load_profile(name), [find("software", name)]

    return remembered(("software", name, os.getcwd()), compute)


def named_lowered(workload: str, preset: str, settings: Settings, policy: Policy, profile: Profile) -> Lowered:
    """A workload by name or path, lowered for a policy. Raises SpecError."""

    def compute() -> tuple[Lowered, list[str | Path]]:
        from ebmsim.lowering import lower_workload
        from ebmsim.spec.library import find, load_workload

        return lower_workload(load_workload(workload, preset, settings), policy, profile), [find("workload", workload)]

    how = (policy.dtype, policy.chain_mode, policy.execution, repr(profile))
    return remembered(("lowered", workload, os.getcwd(), preset, sorted(settings.items()), how), compute)
