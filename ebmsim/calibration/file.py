"""The hardware file of a calibrated machine: complete, or what differs from the file it extends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import yaml

from ebmsim.hardware import Hardware

_HEADER = "# {title}: calibrated on {date}. Figures marked as measured were fitted to small steps timed on it.\n"
_TIMES = ("host_cost", "gradient", "view", "recording", "kernel_time")


def hardware_text(hardware: Hardware, models: Mapping[str, float], extends: str = "") -> str:
    """The text of a hardware file with its calibration.

    models: relative errors of T_samp of whole models that were held out. extends: the file it changes; else complete.
    """
    calibration = hardware.calibration
    assert calibration is not None
    data: dict[str, Any] = {"name": hardware.name, "title": hardware.title}
    data |= {"extends": extends} if extends else {"kind": hardware.kind, "software": hardware.software}
    data["validated"] = True
    data |= _figures(hardware, bool(extends))
    data["calibration"] = {
        "date": calibration.date,
        "environment": dict(calibration.environment),
        "coefficients": {name: _written(name, value) for name, value in calibration.coefficients.items()},
        "residuals": [{k: _number(v) for k, v in r.items()} for r in calibration.residuals],
    }
    data["notes"] = _notes(hardware, models)
    data["sources"] = _sources(data, calibration.date, bool(extends))
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return _HEADER.format(title=hardware.title, date=calibration.date) + text


def _figures(hardware: Hardware, changes: bool) -> dict[str, Any]:
    """The device's figures with their units; of a file that extends another those alone that were fitted."""
    matrix: dict[str, Any] = {"peak": {d: _unit(p, "GFLOP/s", 1e9) for d, p in hardware.matrix.peak.items()}}
    memory = {
        level.name: {"capacity": _size(level.capacity), "bandwidth": _unit(level.bandwidth, "GB/s", 1e9)}
        for level in hardware.memory
    }
    random = {"random": _unit(hardware.vector.random, "Gop/s", 1e9)}
    if changes:
        kept = {name: {"bandwidth": level["bandwidth"]} for name, level in list(memory.items())[1:]}
        return {"matrix": {"peak": {"fp32": matrix["peak"]["fp32"]}}, "vector": random, "memory": kept}
    vector = {"peak": {d: _unit(p, "GFLOP/s", 1e9) for d, p in hardware.vector.peak.items()}}
    power = hardware.power
    return {
        "units": hardware.units,
        "clock": _unit(hardware.clock, "GHz", 1e9),
        "sustained_clock": _unit(hardware.sustained_clock, "GHz", 1e9),
        "matrix": {"organisation": hardware.matrix.organisation, **matrix},
        "vector": vector | {"special": _unit(hardware.vector.special, "Gop/s", 1e9)} | random,
        "memory": memory,
        "host": {"speed": 1.0, "asynchronous": False, "synchronise": "0 us"},
        "launch": {"eager": "0 us", "graph": "0 us", "persistent": "0 us", "replay": "0 us", "concurrent_kernels": 1},
        "power": {
            "limit": _unit(power.limit, "W", 1.0),
            "static": _unit(power.static, "W", 1.0),
            "energy": {d: _unit(e, "pJ/FLOP", 1e-12) for d, e in power.energy.items()},
        },
    }


def _notes(hardware: Hardware, models: Mapping[str, float]) -> list[str]:
    notes = []
    if hardware.kind == "cpu":
        notes += [
            "The clock is the one the system states; cycles of coefficients count in it.",
            "Bandwidths and the product peak are what torch reaches on this machine, not what its makers state.",
            "Power is an estimate: it was not measured.",
        ]
    if models:
        each = ", ".join(f"{name} {100 * error:+.0f} %" for name, error in models.items())
        notes.append(f"T_samp of whole models held out of the fit, predicted against measured: {each}.")
    return notes


def _sources(data: Mapping[str, Any], date: str, changes: bool) -> dict[str, str]:
    measured = f"measured, small steps timed on {date}"
    found = {f"matrix.peak.{d}": measured for d in data["matrix"]["peak"]} | {"vector.random": measured}
    found |= {f"memory.{level}.bandwidth": measured for level in data["memory"]}
    if changes:
        return found
    told = "vendor, as the operating system tells it"
    first = next(iter(data["memory"]))
    assumed = "estimate, 64 B per core and cycle; not fitted, no formula reads it"
    found |= {f"memory.{level}.capacity": told for level in data["memory"]} | {f"memory.{first}.bandwidth": assumed}
    found |= dict.fromkeys(("units", "clock", "sustained_clock"), told)
    vectors = "estimate, two fused multiply-adds of a vector per core and cycle"
    found |= {f"vector.peak.{d}": vectors for d in data["vector"]["peak"]} | {"vector.special": vectors}
    found |= dict.fromkeys(("power.limit", "power.static"), "estimate, watts per thread")
    half = "estimate, half of what the limit leaves, over the peak"
    return found | {f"power.energy.{d}": half for d in data["power"]["energy"]}


def _written(name: str, value: Any) -> Any:
    """A coefficient as profiles have it: with its unit, to four digits."""
    if isinstance(value, Mapping):
        return {key: _written(name, inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [list(map(_number, inner)) if isinstance(inner, tuple) else _number(inner) for inner in value]
    if name in _TIMES:
        return _unit(value, "us", 1e-6)
    if name == "fresh_from":
        return _size(value)
    return _unit(value, "GB/s", 1e9) if name == "fresh_bandwidth" else _number(value)


def _number(value: Any) -> Any:
    """A number to four digits; what is none stays."""
    if isinstance(value, bool) or not isinstance(value, float):
        return value
    return int(value) if value == int(value) and abs(value) < 1e6 else float(f"{value:.4g}")


def _unit(value: float, unit: str, scale: float) -> str:
    return f"{float(f'{value / scale:.4g}'):.10g} {unit}"


def _size(value: float) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= scale and math.isclose(value / scale, round(value / scale, 3), rel_tol=1e-12):
            return f"{value / scale:.10g} {unit}"
    return f"{value:.10g} B"
