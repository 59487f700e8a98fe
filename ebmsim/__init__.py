"""ebmsim: an analytical performance model of Energy-Based Models. The public names, loaded when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmsim.calibration.validation import Validation, validate
    from ebmsim.capture import capture
    from ebmsim.cost.systolic import systolic_cycles
    from ebmsim.errors import EbmsimError, Problem, SpecError
    from ebmsim.estimation import Estimate, estimate
    from ebmsim.hardware import Hardware
    from ebmsim.policy import Policy
    from ebmsim.scaled import Scaled
    from ebmsim.scaling import scale
    from ebmsim.spec.library import load_hardware, load_workload
    from ebmsim.spec.workload import Workload
    from ebmsim.sweep import sweep
    from ebmsim.sweep.search import search
    from ebmsim.sweep.sensitivity import sensitivity

_HOMES = {
    "EbmsimError": "ebmsim.errors",
    "Estimate": "ebmsim.estimation",
    "Hardware": "ebmsim.hardware",
    "Policy": "ebmsim.policy",
    "Problem": "ebmsim.errors",
    "Scaled": "ebmsim.scaled",
    "SpecError": "ebmsim.errors",
    "Validation": "ebmsim.calibration.validation",
    "Workload": "ebmsim.spec.workload",
    "capture": "ebmsim.capture",
    "estimate": "ebmsim.estimation",
    "load_hardware": "ebmsim.spec.library",
    "load_workload": "ebmsim.spec.library",
    "systolic_cycles": "ebmsim.cost.systolic",
    "sensitivity": "ebmsim.sweep.sensitivity",
    "scale": "ebmsim.scaling",
    "search": "ebmsim.sweep.search",
    "sweep": "ebmsim.sweep",
    "validate": "ebmsim.calibration.validation",
}

__all__ = [
    "EbmsimError",
    "Estimate",
    "Hardware",
    "Policy",
    "Problem",
    "Scaled",
    "SpecError",
    "Validation",
    "Workload",
    "capture",
    "estimate",
    "load_hardware",
    "load_workload",
    "scale",
    "search",
    "sensitivity",
    "sweep",
    "systolic_cycles",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebmsim' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
