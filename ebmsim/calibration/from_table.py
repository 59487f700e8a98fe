"""A GPU calibrated from a table of measured kernels: the hardware file of the device with its own coefficients.

    python -m ebmsim.calibration.from_table TABLES --report FILE.md

TABLES is a folder of tables named after devices; the report tells the errors of every device on the half of its rows
that its coefficients were not fitted to. `ebmsim calibrate --measurements TABLE --base HW` writes a file from one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ebmsim.calibration.device_fit import Device, fit_device
from ebmsim.calibration.evaluate import Table, evaluate, load_tables, markdown_of_halves, means
from ebmsim.calibration.fit import spread
from ebmsim.calibration.replay import BANDS, Prepared, category_of, check_dtypes, prepare
from ebmsim.calibration.tables import Measurement, read_table
from ebmsim.errors import Problem, SpecError
from ebmsim.estimation import calibrated
from ebmsim.hardware import Hardware
from ebmsim.output import write_output
from ebmsim.policy import Policy, Profile
from ebmsim.spec.library import load_hardware, load_profile, names

Progress = Callable[[str], None]
# Rows below which nothing can be held out.
_LEAST_ROWS = 40
_SEED = 0
# Of the halves that a report is the mean over.
_SEEDS = (1, 2, 3)
_BANDS = ("below 10 us", "10 to 100 us", "100 us to 1 ms", "1 ms and more")
# A figure of the device is written where it moved by more than this share.
_MOVED = 0.002
_HEADER = "# {title}. Coefficients and the figures marked as measured were fitted to the kernels of {table}.\n"
_UNITS = {"kernel_time": "us", "split_time": "us", "time": "us"}


class FromTable(NamedTuple):
    """What a table tells of a device: figures of the device by path, of its software, what the fit leaves, and calls.

    residuals: errors of the rows that a fit to the other half did not see. calls: s of the host that are in the table's
    times, by category.
    """

    changes: Mapping[str, float]
    coefficients: Mapping[str, Any]
    residuals: tuple[Mapping[str, Any], ...]
    calls: Mapping[str, float]


def calibrate_from_table(
    measurements: Sequence[Measurement], base: Hardware, profile: Profile, say: Progress = lambda text: None
) -> FromTable:
    """The coefficients and figures of a device that fit measured kernels best.

    Deviations and residuals come from a second fit, to a half of the rows, and are of the other half.
    """
    start = Device(base, profile, _calls(measurements))
    found = fit_device(measurements, start, say)
    seen, unseen = measurements, measurements
    if len(measurements) >= _LEAST_ROWS:
        seen, unseen = halves(measurements, _SEED)
        say(f"fitted again to {len(seen)} of {len(measurements)} kernels; the others tell the errors")
    half = found if seen is unseen else fit_device(seen, start)
    held_out = prepare(unseen).with_calls(half.calls)
    spreads = spread([Table("", half.hardware, held_out, {})], half.profile)
    kernel = {**profile.kernel_error, **spreads.kernel_error, "other": profile.kernel_error["other"]}
    fitted = replace(found.profile, common_error=spreads.common_error, kernel_error=kernel)
    own = [f.name for f in fields(Profile) if f.name not in ("name", "title", "sources")]
    coefficients = {name: getattr(fitted, name) for name in own if getattr(fitted, name) != getattr(profile, name)}
    return FromTable(_changes(found.hardware, base), coefficients, _residuals(held_out, half), found.calls)


def halves(measurements: Sequence[Measurement], seed: int) -> tuple[list[Measurement], list[Measurement]]:
    """Two random halves of some measurements, in their order."""
    chosen = set(np.random.default_rng(seed).permutation(len(measurements))[: len(measurements) // 2].tolist())
    parts: tuple[list[Measurement], list[Measurement]] = ([], [])
    for i, m in enumerate(measurements):
        parts[i not in chosen].append(m)
    return parts


def device_of(base: Hardware, profile: Profile, found: FromTable) -> Device:
    """The device that a table tells."""
    return Device(changed(base, found.changes), replace(profile, **found.coefficients), found.calls)


def changed(base: Hardware, changes: Mapping[str, float]) -> Hardware:
    """A device with other figures, by path: of its levels of memory and its energies."""
    memory = []
    for level in base.memory:
        mine: dict[str, Any] = {
            path.split(".")[2]: v for path, v in changes.items() if path.startswith(f"memory.{level.name}.")
        }
        memory.append(replace(level, **mine))
    energy = {d: changes.get(f"power.energy.{d}", e) for d, e in base.power.energy.items()}
    return replace(base, memory=tuple(memory), power=replace(base.power, energy=energy))


def calibrate_table(file: str | Path, base: str, output: Path, progress: Progress) -> None:
    """Fit a device to a table and write its hardware file, whole or not at all.

    base: the device that the file extends, by name or path. progress: takes what is going on, in words. Raises
    SpecError with every problem of table, base and output.
    """
    problems: list[Problem] = []
    rows: list[Measurement] = []
    hardware: Hardware | None = None
    try:
        rows = read_table(file)
    except SpecError as error:
        problems += error.problems
    try:
        hardware = load_hardware(base)
    except SpecError as error:
        problems += error.problems
    if hardware is not None and hardware.matrix.organisation == "systolic":
        message = f"{hardware.name} has systolic arrays; a table of kernels calibrates devices whose products are tiles"
        problems.append(Problem(message))
    elif hardware is not None and rows:
        try:
            check_dtypes(rows, hardware, load_profile(hardware.software), str(file))
        except SpecError as error:
            problems += error.problems
    if not output.parent.is_dir():
        problems.append(Problem("no such folder", str(output.parent)))
    if Path(base).suffix and Path(base).resolve() == output.resolve():
        problems.append(Problem("the file to write is the base that it extends", str(output)))
    if problems or hardware is None:
        raise SpecError(problems)
    profile = calibrated(load_profile(hardware.software), hardware, Policy(fidelity="calibrated"))
    found = calibrate_from_table(rows, hardware, profile, progress)
    text = hardware_text(found, rows, hardware, _beside(base, output), output.stem, Path(file).name)
    write_output(output, text.encode())
    progress(f"wrote {output}")


def hardware_text(
    found: FromTable, rows: Sequence[Measurement], base: Hardware, extends: str, name: str, table: str
) -> str:
    """The text of a hardware file that extends a base. table: the name of the file the rows are of."""
    title = f"{base.title}, calibrated"
    data: dict[str, Any] = {"name": name, "title": title, "extends": extends, "validated": True}
    for path, value in found.changes.items():
        at = data
        *folders, figure = path.split(".")
        for folder in folders:
            at = at.setdefault(folder, {})
        at[figure] = _figure(figure, value, folders)
    sources = sorted({m.source for m in rows if m.source})
    host = {k: v for k, v in found.calls.items() if k in _calls(rows)}
    environment = {"table": table, "kernels": str(len(rows)), "measured by": ", ".join(sources) or "not stated"}
    if host:
        environment["host time in a measurement"] = ", ".join(f"{k} {1e6 * v:.3g} us" for k, v in host.items())
    data["calibration"] = {
        "date": datetime.date.today().isoformat(),
        "environment": environment,
        "coefficients": {key: _plain(key, value) for key, value in found.coefficients.items()},
        "residuals": [{k: _plain(k, v) for k, v in r.items()} for r in found.residuals],
    }
    measured = sorted({f"{m.kind} in {m.dtype}" for m in rows if category_of(m) != "elementwise"})
    told = f"The table has {', '.join(measured)}; other types take the same coefficients." if measured else ""
    data["notes"] = [
        text for text in (told, "Residuals are of the half of the table that a second fit did not see.") if text
    ]
    data["sources"] = dict.fromkeys(found.changes, f"measured, table {table}")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return _HEADER.format(title=title, table=table) + text


def _beside(base: str, output: Path) -> str:
    """A base as a file in the folder of `output` names it."""
    if base in names("hardware"):
        return base
    path = os.path.relpath(base, output.parent)
    return path if os.sep in path or path.endswith((".yaml", ".yml")) else f"./{path}"


def _calls(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Host seconds by category that the sources of some measurements left in their times."""
    protocols = {m.protocol.execution: m.protocol.call for m in measurements}
    return {name: seconds for call in protocols.values() for name, seconds in call.items()}


def _changes(found: Hardware, base: Hardware) -> dict[str, float]:
    """The figures that a fit moved, by path."""
    pairs: dict[str, tuple[float, float]] = {}
    for level, before in zip(found.memory, base.memory, strict=True):
        for name in ("bandwidth", "efficiency", "energy"):
            pairs[f"memory.{level.name}.{name}"] = getattr(level, name), getattr(before, name)
    for dtype, energy in found.power.energy.items():
        pairs[f"power.energy.{dtype}"] = energy, base.power.energy[dtype]
    return {path: new for path, (new, old) in pairs.items() if abs(new - old) > _MOVED * old}


def _residuals(held_out: Prepared, device: Device) -> tuple[Mapping[str, Any], ...]:
    """Median and 90th percentile of the errors by category and band of measured time."""
    ape = np.abs(device.predict(held_out) / held_out.measured - 1.0)
    category = np.array([category_of(m) for m in held_out.measurements])
    band = np.searchsorted(BANDS, held_out.measured, side="right") - 1
    found = []
    for name in sorted(set(category)):
        for index, size in enumerate(_BANDS):
            mine = ape[(category == name) & (band == index)]
            if len(mine):
                median, p90 = float(np.median(mine)), float(np.quantile(mine, 0.9))
                found.append({"category": str(name), "size": size, "steps": len(mine), "median": median, "p90": p90})
    return tuple(found)


def _figure(name: str, value: float, folders: Sequence[str]) -> Any:
    """A figure of the device as hardware files have it."""
    if name == "bandwidth":
        return f"{value / 1e9:.4g} GB/s"
    if name == "energy":
        return f"{value / 1e-12:.4g} pJ/B"
    return f"{value / 1e-12:.4g} pJ/FLOP" if folders[-1] == "energy" else float(f"{value:.4g}")


def _plain(name: str, value: Any) -> Any:
    """A coefficient as profiles have it: plain, with its unit, to four digits."""
    if is_dataclass(value):
        return {f.name: _plain(f.name, getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(key, inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain("", inner) for inner in value]
    if name in _UNITS:
        return f"{value / 1e-6:.4g} {_UNITS[name]}"
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate every device of a folder on half of its table, and write how far the other half is off."""
    parser = argparse.ArgumentParser(prog="python -m ebmsim.calibration.from_table", description=__doc__)
    parser.add_argument("tables", type=Path, help="folder of tables")
    parser.add_argument("--report", type=Path, help="Markdown file for the errors")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        tables = load_tables(given.tables)
    except SpecError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    before: list[dict[str, Any]] = []
    after: list[dict[str, Any]] = []
    for table in tables:
        say(table.name)
        profile = load_profile(table.device.software)
        pairs = [half_and_half(table, profile, seed) for seed in _SEEDS]
        before += means([old for old, _ in pairs])
        after += means([new for _, new in pairs])
    print(json.dumps({"before": before, "after": after}, indent=1))
    if given.report:
        given.report.write_text(markdown_of_halves(before, after), encoding="utf-8")


def half_and_half(table: Table, profile: Profile, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Errors on a random half of a table with shared coefficients, and with those fitted to the other half."""
    seen, unseen = halves(table.all.measurements, seed)
    found = calibrate_from_table(seen, table.device, profile)
    held_out, device = prepare(unseen), device_of(table.device, profile, found)
    before = evaluate(table._replace(all=held_out), profile)
    return before, evaluate(Table(table.name, device.hardware, held_out.with_calls(found.calls), {}), device.profile)


if __name__ == "__main__":
    main()
