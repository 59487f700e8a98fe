"""The hardware file of a design that a search found: it extends the device the search started from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ebmsim.hardware import Hardware
from ebmsim.policy import Policy
from ebmsim.prepared import named_hardware
from ebmsim.spec.extends import hardware_document
from ebmsim.spec.figure import written_figure
from ebmsim.sweep.chunks import Inputs, inputs_of
from ebmsim.sweep.figures import figures_of
from ebmsim.sweep.search import Search
from ebmsim.sweep.tried import Design

_HEADER = "# Found by `ebmsim search` ({trials} trials, seed {seed}). Estimate it as the search did:\n# {command}\n"

_ARRAYS = ("matrix.subarrays", "matrix.arrays", "matrix.rows", "matrix.columns")


def design_text(found: Search, design: Design, path: Path) -> str:
    """The text of the file of a design: what differs from the device, exactly, so that estimates are the same.

    path: where it will lie. Raises ValueError for a design that is none.
    """
    if design.device is None:
        raise ValueError(design.refusal)
    given = inputs_of(found.sweep, {axis.name: design.axes[axis.name] for axis in found.sweep.axes})
    base = named_hardware(given.hardware)
    listed = "subarrays" in hardware_document(given.hardware).data["matrix"]
    changes = dict(_changes(base, design.device, listed))
    data: dict[str, Any] = {"name": path.stem, "title": f"{base.title}, as {found.sweep.name} found it"}
    data["extends"] = given.hardware
    for place, value in changes.items():
        table = data
        *tables, last = place.split(".")
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    data["sources"] = dict.fromkeys(changes, f"estimate, found by search of {found.sweep.name}")
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    return _HEADER.format(trials=found.trials, seed=found.seed, command=command(given, path)) + text


def _changes(base: Hardware, device: Hardware, listed: bool) -> Iterator[tuple[str, Any]]:
    """Figures that differ, by path, as files write them.

    listed: systolic arrays stand in a list, which is replaced whole.
    """
    before, after = figures_of(base), figures_of(device)
    changed = [path for path, value in after.items() if value != before[path]]
    of_arrays = [path for path in changed if listed and path.startswith(_ARRAYS)]
    for path in changed:
        if path not in of_arrays:
            yield path, written_figure(path, after[path])
    if of_arrays:
        groups = [{key: round(value) for key, value in asdict(group).items()} for group in device.matrix.subarrays]
        yield "matrix.subarrays", groups


def command(given: Inputs, path: Path) -> str:
    """The command line that estimates a design with the settings it was found with."""
    words = ["ebmsim", "estimate", given.workload, "--hw", str(path)]
    words += ["--preset", given.preset] if given.preset else []
    for name, value in given.parameters.items():
        words += ["--set", f"{name}={_word(value)}"]
    usual: Mapping[str, Any] = asdict(Policy())
    for name, value in asdict(given.policy).items():
        words += [f"--{name.replace('_', '-')}", str(value)] if value != usual[name] else []
    return shlex.join(words)


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
