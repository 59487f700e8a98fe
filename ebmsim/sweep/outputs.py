"""The figures of an estimate that a sweep can ask for, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebmsim.cost.area import area, cost
from ebmsim.estimation import Estimate
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.hardware import Hardware

# Of the device alone, made at the node that `cost/area.py` takes by default.
OF_DEVICE = ("area_mm2", "cost_dollars")
# What a whole grid gives at once.
SHAPED = (
    *OF_DEVICE,
    "t_samp",
    "t_samp_first",
    "t_once",
    "t_inf",
    "t_inf_eq6",
    "t_train",
    "step_joules",
    "inference_joules",
    "mean_power_watts",
    "inference_bytes",
    "training_bytes",
    "fits",
    "training_fits",
)
_SECONDS = ("t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept", "t_train_eq7", "t_train_sampling")
_BACKWARD = ("t_bwd_w_positive", "t_bwd_w_negative")
_WORK = (
    "flops_fwd",
    "flops_bwd_in",
    "flops_accept",
    "flops_bwd_w",
    "bytes_fwd",
    "bytes_bwd_in",
    "kernels",
    "flops_fwd_matmul_conv",
    "flops_bwd_in_matmul_conv",
    "flops_bwd_w_matmul_conv",
)
_SIZE = ("parameters", "allocated_parameters", "parameter_bytes")
_BOUNDS = ("compute", "dispatch", "sync")
OUTPUTS = (
    *SHAPED,
    *_SECONDS,
    *_BACKWARD,
    *_WORK,
    *_SIZE,
    "capacity_bytes",
    *(f"categories.{name}" for name in CATEGORIES),
    *(f"bounds.{name}" for name in _BOUNDS),
)


def is_output(name: str) -> bool:
    """Whether a name is a figure of an estimate; bounds of memory levels are named as the device names them."""
    return name in OUTPUTS or name.startswith("bounds.memory:")


def column(name: str) -> str:
    """The name of an output as a column, which expressions can use."""
    return name.replace(".", "_").replace(":", "_")


def of_estimate(found: Estimate, names: Iterable[str]) -> dict[str, Any]:
    """Figures of an estimate by name; NaN where it has none, such as the training time of a workload without any."""
    plain: Mapping[str, Any] = {**found.work, **found.size, **found.memory, **found.energy, **found.seconds}
    names = tuple(names)
    plain = {**plain, **of_device(found.hardware, names)}
    values: dict[str, Any] = {}
    for name in names:
        table, _, entry = name.partition(".")
        if table in ("categories", "bounds") and entry:
            values[name] = getattr(found, table).get(entry, 0.0)
        else:
            values[name] = plain[name]
        if values[name] is None:
            values[name] = float("nan")
    return values


def of_device(hardware: Hardware, names: Iterable[str]) -> dict[str, Any]:
    """The area (mm²) and the cost (dollars) of a device, of those asked for, shaped as its figures are.

    Raises SpecError where the device has none.
    """
    costs = {"area_mm2": lambda: area(hardware).total_mm2, "cost_dollars": lambda: cost(hardware).total}
    return {name: costs[name]() for name in names if name in costs}


def are_shaped(names: Sequence[str]) -> bool:
    """Whether a grid gives all of some figures at once."""
    return set(names) <= set(SHAPED)
