"""ebmsim: an analytical performance model of Energy-Based Models. The public names, loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmsim.calibration.validation import Validation, validate
    from ebmsim.capture import capture
    from ebmsim.errors import EbmsimError, Problem, SpecError
    from ebmsim.estimation import Estimate, estimate
    from ebmsim.hardware import Hardware
    from ebmsim.policy import Policy
    from ebmsim.spec.library import load_hardware, load_workload
    from ebmsim.spec.workload import Workload
    from ebmsim.sweep import sweep

_HOMES = {
    "EbmsimError": "ebmsim.errors",
    "Estimate": "ebmsim.estimation",
    "Hardware": "ebmsim.hardware",
    "Policy": "ebmsim.policy",
    "Problem": "ebmsim.errors",
    "SpecError": "ebmsim.errors",
    "Validation": "ebmsim.calibration.validation",
    "Workload": "ebmsim.spec.workload",
    "capture": "ebmsim.capture",
    "estimate": "ebmsim.estimation",
    "load_hardware": "ebmsim.spec.library",
    "load_workload": "ebmsim.spec.library",
    "sweep": "ebmsim.sweep",
    "validate": "ebmsim.calibration.validation",
}

__all__ = [
    "EbmsimError",
    "Estimate",
    "Hardware",
    "Policy",
    "Problem",
    "SpecError",
    "Validation",
    "Workload",
    "capture",
    "estimate",
    "load_hardware",
    "load_workload",
    "sweep",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebmsim' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
