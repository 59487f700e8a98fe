"""How well the model predicts tables of many devices: errors, intervals, and the order of devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ebmsim.calibration.replay import EIGHTY, Prepared, deviation_of, errors, predict, prepare
from ebmsim.calibration.tables import Measurement, read_table
from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware
from ebmsim.policy import Profile
from ebmsim.spec.library import load_hardware, names

# Tables whose devices have another name here.
DEVICES = {"a100_sxm": "a100", "h100_sxm": "h100"}
_SAMPLED = 300
_SEED = 0


class Table(NamedTuple):
    """A table: its device, all its measurements, and samples of them by the coefficients they serve to fit."""

    name: str
    device: Hardware
    all: Prepared
    samples: dict[str, Prepared]


def load_tables(folder: Path) -> list[Table]:
    """Every table of a folder whose name is a device's. Raises SpecError, for a folder without one too."""
    found = []
    for path in sorted(folder.glob("*.csv")):
        name = DEVICES.get(path.stem, path.stem)
        if name in names("hardware"):
            rows = read_table(path)
            found.append(Table(path.stem, load_hardware(name), prepare(rows), _samples(rows)))
    if not found:
        raise SpecError([Problem("no table in this folder is named after a device", str(folder))])
    return found


def _samples(rows: Sequence[Measurement]) -> dict[str, Prepared]:
    """At most 300 rows of every kind, forward only, drawn once and for all."""
    random = np.random.default_rng(_SEED)
    samples = {}
    for purpose, kinds in (("products", ("linear", "matmul")), ("convolutions", ("conv2d",))):
        chosen: list[Measurement] = []
        for kind in kinds:
            mine = [m for m in rows if m.kind == kind and m.phase == "forward"]
            chosen += [mine[i] for i in random.permutation(len(mine))[:_SAMPLED]]
        if chosen:
            samples[purpose] = prepare(chosen)
    return samples


# What is reported of a device: kinds, phase, dtype, least measured time in s.
ROW_WISE = ("softmax", "layer_norm", "add", "mul", "div", "pow", "relu", "gelu", "tanh", "addu", "mulu", "divu", "powu")
REPORTED: dict[str, Callable[[Measurement], bool]] = {
    "bf16 linear, 10 us and more": lambda m: m.kind == "linear" and m.dtype == "bf16" and m.seconds >= 10e-6,
    "bf16 linear, below 10 us": lambda m: m.kind == "linear" and m.dtype == "bf16" and m.seconds < 10e-6,
    "fp32 linear and matmul, 20 us and more": lambda m: (
        m.kind in ("linear", "matmul") and m.dtype == "fp32" and m.phase == "forward" and m.seconds >= 20e-6
    ),
    "conv2d": lambda m: m.kind == "conv2d",
    "row-wise": lambda m: m.kind in ROW_WISE and m.phase == "forward",
    "backward": lambda m: m.phase == "backward",
    "all": lambda m: True,
}


def evaluate(table: Table, profile: Profile) -> list[dict[str, Any]]:
    """Errors of a device by what is reported, and the share of its rows within their 80 % intervals."""
    predicted = predict(table.all, table.device, profile)
    sigma = np.array([deviation_of(m, profile) for m in table.all.measurements])
    covered = np.abs(np.log(predicted / table.all.measured)) <= EIGHTY * sigma
    found = []
    for label, belongs in REPORTED.items():
        index = [i for i, m in enumerate(table.all.measurements) if belongs(m)]
        if index:
            error = errors(predicted[index], table.all.measured[index])
            found.append({"device": table.name, "rows of": label, **error._asdict(), "covered": covered[index].mean()})
    return found


def ranking(tables: Sequence[Table], profile: Profile) -> list[dict[str, Any]]:
    """Kendall's tau between predicted and measured times of the shapes that two devices were both measured on.

    times: over the times of both devices, all shapes together. devices: the share of shapes whose faster device is
    told, less the share where it is not; clear: the same where the measured times differ by more than 10 %.
    """
    from scipy.stats import kendalltau

    predicted = [predict(t.all, t.device, profile) for t in tables]
    by_call = [
        {(m.call, m.source): (p, m.seconds) for m, p in zip(t.all.measurements, ps, strict=True)}
        for t, ps in zip(tables, predicted, strict=True)
    ]
    found = []
    for (a, one), (b, other) in combinations(zip(tables, by_call, strict=True), 2):
        shared = [call for call in one if call in other]
        if not shared:
            continue
        # shapes: (call, device, predicted or measured)
        times = np.array([[one[call], other[call]] for call in shared])
        told = np.prod(np.sign(times[:, 0] - times[:, 1]), axis=1)
        clear = np.abs(np.log(times[:, 0, 1] / times[:, 1, 1])) > np.log(1.1)
        found.append(
            {
                "devices": f"{a.name}, {b.name}",
                "shapes": len(shared),
                "tau_times": float(kendalltau(times[:, :, 0].ravel(), times[:, :, 1].ravel()).statistic),
                "tau_devices": float(told.mean()),
                "tau_clear": float(told[clear].mean()),
                "clear": int(clear.sum()),
            }
        )
    return found


def markdown(
    inside: Sequence[Mapping[str, Any]], outside: Sequence[Mapping[str, Any]], order: Sequence[Mapping[str, Any]]
) -> str:
    """The report of a fit."""
    lines = [
        "| devices | shapes | τ of times | τ of devices | of those more than 10 % apart |",
        "|---|--:|--:|--:|--:|",
    ]
    for r in order:
        lines.append(
            f"| {r['devices']} | {r['shapes']} | {r['tau_times']:.3f} | {r['tau_devices']:.3f} "
            f"| {r['tau_clear']:.3f} ({r['clear']}) |"
        )
    ranks = "\n".join(lines)
    return (
        "# Measured GPU kernels against the model\n\n"
        "Written by `python -m ebmsim.calibration.fit TABLES --report docs/validation/gpu_kernels.md`. Errors are "
        "|predicted / measured - 1|. The tables are GEMMs of NVIDIA aiconfigurator (bf16 linear) and kernels of "
        "NeuSight (fp32); one set of coefficients, those of the profile `torch-cuda`, serves all devices.\n\n"
        f"## Each device left out of the fit\n\n{_error_table(outside)}\n\n"
        f"## All devices in the fit\n\n{_error_table(inside)}\n\n"
        "## Order of devices\n\n"
        "Kendall's τ over the shapes that two devices share: of all their times together, and of which device is "
        f"faster, shape by shape.\n\n{ranks}\n"
    )


def _error_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "| device | rows of | rows | median | mean | 90th percentile | within 80 % intervals |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        shares = " | ".join(f"{100 * r[k]:.1f} %" for k in ("median_ape", "mape", "p90_ape"))
        lines.append(f"| {r['device']} | {r['rows of']} | {r['rows']} | {shares} | {100 * r['covered']:.0f} % |")
    return "\n".join(lines)
