"""The coefficients of one device fitted to measured kernels: streams, then products, then convolutions, then loops.

Each stage sees the rows it explains and keeps what the stages before it found. Coefficients of software and figures of
the device are named alike here; `applied` knows which is which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ebmsim.calibration.fit import CONVOLUTIONS, PRODUCTS, Prior
from ebmsim.calibration.fit import with_coefficients as with_shared
from ebmsim.calibration.replay import Prepared, category_of, predict, prepare
from ebmsim.calibration.tables import Measurement
from ebmsim.cost.machine import machine_of
from ebmsim.cost.products import launch_seconds
from ebmsim.hardware import Hardware, Level
from ebmsim.policy import Policy, Profile, Tiles

# Log errors beyond this weigh less and less.
_SOFT = {"stream": 0.02, "matmul": 0.04, "convolution": 0.1}
# How much priors weigh against the rows.
_WEIGHT = 0.15
_BUMP = 0.02
_MOST_STEPS = 25
# Rows of a stage that are fitted to, drawn once and for all.
_MOST_ROWS = 2500
_LARGEST_FRACTION = 0.96
# Rows of a kind that tell the cycles of its elements; what the mean of its log errors, none counted beyond the last
# figure, must be better by for them to be kept.
_FEW = 4
_BETTER = 0.01
_CLIPPED = 0.1

_FACTORS = {
    "main": Prior(1.0, 0.05),
    "shared": Prior(1.0, 0.3),
    "energy of bytes": Prior(1.0, 0.5),
    "energy of products": Prior(1.0, 0.2),
}
_STREAMS = {"main": Prior(1.0, 0.1), "call": Prior(1.0, 0.3)}
# The shared fit has no `store`: its prologue holds what a tile takes to write its results, too.
_OF_PRODUCTS = {k: v for k, v in PRODUCTS.items() if k != "product_energy"} | {
    "prologue": Prior(1000.0, 0.5),
    "kernel_cycles": Prior(1200.0, 0.5),
    "knee": Prior(1.0, 0.5),
    "store": Prior(16.0, 1.0),
    "resident": Prior(0.7, 0.3),
    "evicted": Prior(0.6, 0.5),
}
_OF_CONVOLUTIONS = CONVOLUTIONS | {
    "conv_base": Prior(0.8, 0.2),
    "fraction": Prior(0.8, 0.2),
    "time": Prior(30e-6, 1.0),
    "energy": Prior(0.44, 0.3),
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Device:
    """A device and its software with the coefficients of a fit, and the host seconds in a table's times by category."""

    hardware: Hardware
    profile: Profile
    calls: Mapping[str, float] = field(default_factory=dict)

    def predict(self, prepared: Prepared) -> Any:
        """Seconds of measured kernels."""
        return predict(prepared.with_calls(self.calls), self.hardware, self.profile)


def fit_device(measurements: Sequence[Measurement], base: Device, say: Progress = lambda text: None) -> Device:
    """A device with the coefficients that fit some measurements best. base: where they are looked for."""
    forward = [m for m in measurements if m.phase == "forward"]
    rows = {stage: _drawn([m for m in forward if category_of(m) == of]) for stage, of in _STAGES.items()}
    device = base
    if rows["stream"]:
        device = _stage("stream", rows["stream"], device, _STREAMS, say)
    if rows["matmul"]:
        priors = _OF_PRODUCTS | _FACTORS | _each_tile("", device.profile.tiles)
        if rows["stream"]:
            del priors["main"]
        device = _stage("matmul", rows["matmul"], device, priors, say)
    if rows["convolution"]:
        priors = _OF_CONVOLUTIONS | _each_tile("conv_", device.profile.convolution_tiles)
        device = _stage("convolution", rows["convolution"], device, priors, say)
    return _with_loops(rows["stream"], device) if rows["stream"] else device


_STAGES = {"stream": "elementwise", "matmul": "matmul", "convolution": "convolution"}


def _drawn(rows: Sequence[Measurement]) -> list[Measurement]:
    if len(rows) <= _MOST_ROWS:
        return list(rows)
    chosen = np.random.default_rng(0).permutation(len(rows))[:_MOST_ROWS]
    return [rows[i] for i in sorted(chosen)]


def _each_tile(prefix: str, tiles: Tiles) -> dict[str, Prior]:
    """A factor on the fraction of every tile but those of vectors."""
    return {f"{prefix}{m:g}x{n:g}": Prior(1.0, 0.15) for m, n, _ in tiles if 1 not in (m, n)}


def _stage(stage: str, rows: Sequence[Measurement], base: Device, priors: Mapping[str, Prior], say: Progress) -> Device:
    """The device after a stage. Convolutions with an inner axis in parts, or whole: whichever fits better."""
    say(f"{stage}: {len(priors)} coefficients fitted to {len(rows)} kernels")
    prepared = prepare(rows)
    dtypes = sorted({m.dtype for m in rows})
    tried = [base]
    if stage == "convolution":
        tried.append(replace(base, profile=replace(base.profile, convolution_split_k=(1,))))
    found = [_least(prepared, start, dtypes, priors, _SOFT[stage]) for start in tried]
    return min(found, key=lambda pair: pair[0])[1]


def _least(
    prepared: Prepared, base: Device, dtypes: Sequence[str], priors: Mapping[str, Prior], soft: float
) -> tuple[float, Device]:
    """Least squares of log(predicted / measured), softened, with priors: the cost, and the device it is reached on."""
    from scipy.optimize import least_squares

    middle = np.log([p.middle for p in priors.values()])
    deviation = np.array([p.deviation for p in priors.values()])
    log_measured = np.log(prepared.measured)

    def device(z: Any) -> Device:
        return applied(base, dict(zip(priors, np.exp(middle + deviation * z).tolist(), strict=True)), dtypes)

    def errors(z: Any) -> Any:
        return np.log(device(z).predict(prepared)) - log_measured

    def residuals(z: Any) -> Any:
        return np.concatenate([errors(z), _WEIGHT * z])

    def slopes(z: Any) -> Any:
        # Of a minimum over ways: steps as large as what matters, not the smallest that numbers can tell.
        before, found = errors(z), np.empty((len(log_measured), len(z)))
        for i, bump in enumerate(_BUMP / deviation):
            moved = z.copy()
            moved[i] += bump
            found[:, i] = (errors(moved) - before) / bump
        return np.concatenate([found, _WEIGHT * np.eye(len(z))])

    best = least_squares(residuals, np.zeros(len(middle)), slopes, loss="soft_l1", f_scale=soft, max_nfev=_MOST_STEPS)
    return float(best.cost), device(best.x)


def applied(base: Device, c: Mapping[str, float], dtypes: Sequence[str]) -> Device:
    """A device with coefficients; those not given stay. dtypes: whose products take the energy that is fitted."""
    profile = with_shared(base.profile, c)
    kept: dict[str, Any] = {"store": c["store"]} if "store" in c else {}
    if "knee" in c:
        # Beyond 1, and beyond the share of a level up to which data stay.
        kept |= {"knee": 1.0 + c["knee"], "resident": c["resident"], "evicted": c["resident"] + c["evicted"]}
    if "time" in c:
        energy = min(1.0, c["energy"])
        kept["algorithms"] = {n: replace(a, time=c["time"], energy=energy) for n, a in profile.algorithms.items()}
    kept["tiles"] = _scaled(profile.tiles, c, "")
    kept["convolution_tiles"] = _scaled(profile.convolution_tiles, c, "conv_")
    of_dtypes = dict(base.hardware.power.energy)
    for dtype in dtypes if "energy of products" in c else ():
        if dtype == "fp32":
            kept["product_energy"] = max(1.0, profile.product_energy * c["energy of products"])
        elif dtype in of_dtypes:
            of_dtypes[dtype] *= c["energy of products"]
    levels = list(base.hardware.memory)
    levels[-1] = _main(levels[-1], c)
    levels[-2:-1] = [replace(x, bandwidth=x.bandwidth * c.get("shared", 1.0)) for x in levels[-2:-1]]
    hardware = replace(base.hardware, memory=tuple(levels), power=replace(base.hardware.power, energy=of_dtypes))
    calls = {
        name: seconds * (c.get("call", 1.0) if name == "elementwise" else 1.0) for name, seconds in base.calls.items()
    }
    return Device(hardware, replace(profile, **kept), calls)


def _main(level: Level, c: Mapping[str, float]) -> Level:
    return replace(
        level,
        efficiency=min(1.0, level.efficiency * c.get("main", 1.0)),
        energy=level.energy * c.get("energy of bytes", 1.0),
    )


def _scaled(tiles: Tiles, c: Mapping[str, float], prefix: str) -> Tiles:
    return tuple(
        (m, n, min(_LARGEST_FRACTION, f * c[f"{prefix}{m:g}x{n:g}"]) if f"{prefix}{m:g}x{n:g}" in c else f)
        for m, n, f in tiles
    )


def _with_loops(rows: Sequence[Measurement], device: Device) -> Device:
    """The device with cycles of an element for the kinds of row-wise kernels that its memory alone does not explain.

    The cycles are a quantile of what the kind's own kernels take, whichever fits all of them best. Kinds of several
    kernels in one measurement are left out.
    """
    prepared = prepare(rows)
    before = np.abs(np.log(device.predict(prepared) / prepared.measured))
    machine, called = machine_of(device.hardware), prepared.with_calls(device.calls).call
    kinds: dict[str, list[int]] = {}
    alone: dict[str, list[float]] = {}
    for (dtype, execution), part in prepared.parts.items():
        fixed = launch_seconds(machine, device.profile, Policy(dtype=dtype, execution=execution))
        elements = part.rows.moved / part.rows.element_bytes
        for i, row in zip(part.index[part.owner], part.order, strict=True):
            kind = part.rows.kinds[part.rows.kind[row]]
            kinds.setdefault(kind, []).append(i)
            seconds = prepared.measured[i] - called[i] - fixed
            alone.setdefault(kind, []).append(seconds * machine.units * machine.clock / elements[row])
    found = dict(device.profile.element_cycles)
    for kind, index in kinds.items():
        candidates = [cycles for cycles in alone[kind] if cycles > 0]
        if len(candidates) < _FEW or len(set(index)) < len(index):
            continue
        costs = []
        for cycles in np.quantile(candidates, np.linspace(0.0, 1.0, 41)).tolist():
            other = replace(device, profile=replace(device.profile, element_cycles={**found, kind: cycles}))
            errors = np.abs(np.log(other.predict(prepared) / prepared.measured))[index]
            costs.append((float(np.minimum(errors, _CLIPPED).mean()), cycles))
        least, cycles = min(costs)
        if least < float(np.minimum(before[index], _CLIPPED).mean()) - _BETTER:
            found[kind] = cycles
    return replace(device, profile=replace(device.profile, element_cycles=found))
