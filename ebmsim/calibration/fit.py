"""The shared coefficients of the CUDA software profile, fitted to tables of measured kernels.

    python -m ebmsim.calibration.fit TABLES [-o PROFILE.yaml] [--report FILE.md]

TABLES is a folder of tables named after devices. Nothing is fitted per device: one set of coefficients serves all GPUs,
and each GPU is also predicted with coefficients that were fitted without it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ebmsim.calibration.evaluate import Table, evaluate, load_tables, markdown, ranking
from ebmsim.calibration.replay import EIGHTY, Prepared, alike, category_of, predict
from ebmsim.errors import SpecError
from ebmsim.hardware import Hardware
from ebmsim.policy import Profile
from ebmsim.spec.library import find, load_profile

_LARGEST_FRACTION = 0.96
# Kernels of a group that tell its common error.
_ALIKE = 10

Progress = Callable[[str], None]


class Prior(NamedTuple):
    """Where a coefficient is looked for: the middle, and the deviation of its logarithm."""

    middle: float
    deviation: float


# A tile reaches min(0.96, base / (1 + edge (128/M + 128/N) / 2)) of the peak.
PRODUCTS = {
    "base": Prior(1.3, 0.2),
    "edge": Prior(0.7, 0.4),
    "partial": Prior(0.3, 0.5),
    "loop": Prior(4.0, 0.5),
    "prologue": Prior(1500.0, 0.5),
    "split_time": Prior(2.3e-6, 0.3),
    "kernel_cycles": Prior(2000.0, 0.3),
    "product_energy": Prior(1.2, 0.1),
}
CONVOLUTIONS = {
    "conv_base": Prior(0.8, 0.2),
    "conv_edge": Prior(0.3, 0.3),
    "fraction": Prior(0.65, 0.2),
    "transforms": Prior(0.3, 0.3),
}
# How much the priors weigh against the rows.
_WEIGHT = 0.4


def with_coefficients(profile: Profile, c: Mapping[str, float]) -> Profile:
    """A profile with other coefficients; those not given stay."""

    def tiles(shapes: Sequence[Any], base: str, edge: str) -> Any:
        if base not in c:
            return tuple(shapes)
        # Kernels for vectors keep the fraction they have.
        return tuple(
            (m, n, f if 1 in (m, n) else min(_LARGEST_FRACTION, c[base] / (1 + c[edge] * (128 / m + 128 / n) / 2)))
            for m, n, f in shapes
        )

    algorithms = {
        name: replace(a, fraction=min(1.0, c.get("fraction", a.fraction)), transforms=c.get("transforms", a.transforms))
        for name, a in profile.algorithms.items()
    }
    kept: dict[str, Any] = {
        k: c[k] for k in ("loop", "prologue", "split_time", "kernel_cycles", "product_energy") if k in c
    }
    if "partial" in c:
        kept["last_wave"] = 1.0 - min(1.0, c["partial"])
    return replace(
        profile,
        tiles=tiles(profile.tiles, "base", "edge"),
        convolution_tiles=tiles(profile.convolution_tiles, "conv_base", "conv_edge"),
        algorithms=algorithms,
        **kept,
    )


def fit(tables: Sequence[Table], profile: Profile, progress: Progress = lambda _: None) -> dict[str, float]:
    """The coefficients that fit some tables best: products first, then convolutions with those."""
    found: dict[str, float] = {}
    for purpose, priors in (("products", PRODUCTS), ("convolutions", CONVOLUTIONS)):
        samples = [(t.samples[purpose], t.device) for t in tables if purpose in t.samples]
        if samples:
            best = _best(samples, with_coefficients(profile, found), priors)
            progress(f"{purpose}: " + ", ".join(f"{k} {v:.4g}" for k, v in best.items()))
            found |= best
    return found


def _best(
    samples: Sequence[tuple[Prepared, Hardware]], profile: Profile, priors: Mapping[str, Prior]
) -> dict[str, float]:
    """Least squares of the logarithm of predicted over measured time, soft beyond 5 %, with priors."""
    from scipy.optimize import least_squares

    middle = np.log([p.middle for p in priors.values()])
    deviation = np.array([p.deviation for p in priors.values()])

    def given(x: Any) -> dict[str, float]:
        return dict(zip(priors, np.exp(x).tolist(), strict=True))

    def residuals(x: Any) -> Any:
        tried = with_coefficients(profile, given(x))
        rows = [np.log(predict(sample, device, tried) / sample.measured) for sample, device in samples]
        return np.concatenate([*rows, _WEIGHT * (x - middle) / deviation])

    return given(least_squares(residuals, middle, loss="soft_l1", f_scale=0.05, diff_step=0.02, max_nfev=25).x)


def spread(tables: Sequence[Table], profile: Profile) -> Profile:
    """The profile with the deviations of its log error: common to alike kernels, and of one kernel by category.

    Common: the root mean square of the median errors of kernels of one device, kind, phase, dtype and band of time, ten
    and more; a step repeats few kinds of kernels, so this part does not average out over it. Of a kernel: what is left
    of the size that 80 % of the errors of a category and arithmetic lie within, the mean over devices.
    """
    sizes: dict[str, list[float]] = {}
    medians = []
    for table in tables:
        log_error = np.log(predict(table.all, table.device, profile) / table.all.measured)
        kinds = np.array([f"{category_of(m)} {m.dtype}" for m in table.all.measurements])
        for kind in sorted(set(kinds)):
            size = float(np.quantile(np.abs(log_error[kinds == kind]), 0.8)) / EIGHTY
            sizes.setdefault(kind, []).append(size)
        medians += [np.median(log_error[i]) for i in alike(table.all.measurements).values() if len(i) >= _ALIKE]
    common = float(np.sqrt(np.mean(np.square(medians)))) if medians else 0.0
    alone = {kind: math.sqrt(max(np.mean(s) ** 2 - common**2, 0.01 * np.mean(s) ** 2)) for kind, s in sizes.items()}
    kernel = {kind.removesuffix(" fp32") if kind.startswith("elem") else kind: size for kind, size in alone.items()}
    return replace(profile, common_error=common, kernel_error=kernel | {"other": max(kernel.values())})


def leave_one_out(
    tables: Sequence[Table], profile: Profile, progress: Progress = lambda _: None
) -> list[dict[str, Any]]:
    """Every device predicted with coefficients and deviations that were fitted to the others."""
    found = []
    for table in tables:
        others = [t for t in tables if t is not table]
        progress(f"without {table.name}")
        found += evaluate(table, spread(others, with_coefficients(profile, fit(others, profile))))
    return found


def rewritten(text: str, profile: Profile) -> str:
    """The text of a profile's file with its fitted figures replaced."""

    def block(name: str, tiles: Sequence[Any]) -> str:
        return f"{name}:\n" + "".join(f"  - [{m:g}, {n:g}, {f:.3f}]\n" for m, n, f in tiles)

    for name in ("tiles", "convolution_tiles"):
        text = re.sub(rf"^{name}:\n(?:  - .*\n)+", block(name, getattr(profile, name)), text, flags=re.M)
    winograd = profile.algorithms["winograd"]
    text = re.sub(
        r"fraction: [0-9.]+, transforms: [0-9.]+",
        f"fraction: {winograd.fraction:.3f}, transforms: {winograd.transforms:.3f}",
        text,
    )
    kernel = ", ".join(f"{k}: {v:.3f}" for k, v in sorted(profile.kernel_error.items()))
    for name, value in {
        "last_wave": f"{profile.last_wave:.3f}",
        "loop": f"{profile.loop:.2f}",
        "prologue": f"{profile.prologue:.0f}",
        "split_time": f"{1e6 * profile.split_time:.2f} us",
        "kernel_cycles": f"{profile.kernel_cycles:.0f}",
        "product_energy": f"{profile.product_energy:.3f}",
        "common_error": f"{profile.common_error:.3f}",
        "kernel_error": "{" + kernel + "}",
    }.items():
        text = re.sub(rf"^{name}: .*$", f"{name}: {value}", text, flags=re.M)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, leave out one device at a time, and write the profile and a report."""
    parser = argparse.ArgumentParser(prog="python -m ebmsim.calibration.fit", description=__doc__)
    parser.add_argument("tables", type=Path, help="folder of tables")
    parser.add_argument("-o", "--output", type=Path, help="profile to write the coefficients into")
    parser.add_argument("--report", type=Path, help="Markdown file for the errors")
    given = parser.parse_args(arguments)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        tables, profile = load_tables(given.tables), load_profile("torch-cuda")
    except SpecError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    fitted = spread(tables, with_coefficients(profile, fit(tables, profile, say)))
    inside = [row for table in tables for row in evaluate(table, fitted)]
    outside = leave_one_out(tables, profile, say)
    order = ranking(tables, fitted)
    print(json.dumps({"fitted": inside, "left_out": outside, "ranking": order}, indent=1))
    if given.output:
        source = given.output if given.output.exists() else find("software", "torch-cuda")
        text = rewritten(source.read_text(encoding="utf-8"), fitted)
        given.output.write_text(text, encoding="utf-8")
    if given.report:
        given.report.write_text(markdown(inside, outside, order), encoding="utf-8")


if __name__ == "__main__":
    main()
