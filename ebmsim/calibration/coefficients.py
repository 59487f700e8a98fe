"""The coefficients of one machine, fitted to small steps measured on it: the formulas stay, their figures change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.kernels import host_costs, kernel_costs
from ebmsim.cost.machine import machine_of
from ebmsim.cost.schedule import completion
from ebmsim.cost.ways import every_way
from ebmsim.graph.kernels import CATEGORIES, PHASES, Floats, Ints, KernelTable
from ebmsim.graph.rows import Rows, rows_of
from ebmsim.hardware import Hardware
from ebmsim.policy import Policy, Profile

# The figures of a step that are fitted, and the phases they are made of.
FIGURES = {
    "t_fwd": ("forward",),
    "t_bwd_in": ("backward-input",),
    "t_rng": ("rng",),
    "t_update": ("update", "host", "once"),
}
# Log errors beyond this weigh less and less.
_SOFT = 0.1
# How much priors weigh against measurements.
_WEIGHT = 0.05
_BUMP = 1e-3
_PRODUCTS = ("matmul", "convolution")


class Prior(NamedTuple):
    """Where a coefficient is looked for: least + exp(x), x about log(middle - least) with a deviation.

    start: where the search begins, the middle if not given. One that a larger term hides has no slope to follow.
    """

    middle: float
    deviation: float
    least: float = 0.0
    start: float = 0.0


# Cycles of an element: simple code takes some tenths; from above, so that bandwidth does not hide them at first.
_LOOP = Prior(0.2, 1.5, start=1.0)


@dataclass(frozen=True)
class Sample:
    """Measured figures of steps, and the distinct kernels of all of them.

    measured: s, (step, figure), nan where there is nothing to fit. order: row of every launch. owner: step · figures +
    figure of it. mask: figures that are fitted, flat.
    """

    rows: Rows
    order: Ints
    owner: Ints
    measured: Floats

    @property
    def fitted(self) -> Any:
        """Which figures count, flat: those measured, of kernels there are."""
        present = np.bincount(self.owner, minlength=self.measured.size) > 0
        return present & np.isfinite(self.measured.ravel())


def sample(tables: Sequence[KernelTable], measured: Floats, kinds: Sequence[str]) -> Sample:
    """The kernels of measured steps. measured: s, (step, figure in the order of FIGURES)."""
    rows, orders = rows_of([(table, False) for table in tables], kinds)
    column = np.full(len(PHASES), -1)
    for index, phases in enumerate(FIGURES.values()):
        column[[PHASES.index(p) for p in phases]] = index
    figure = np.concatenate([column[table.phase] for table in tables])
    step = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    kept = figure >= 0
    return Sample(rows, np.concatenate(orders)[kept], (step * len(FIGURES) + figure)[kept], measured)


def kinds_of(tables: Sequence[KernelTable]) -> dict[str, str]:
    """The kinds of kernels of some tables, with the category of the first of each."""
    found: dict[str, str] = {}
    for table in tables:
        for kind, category in zip(table.kinds, table.category, strict=True):
            found.setdefault(kind, CATEGORIES[category])
    return dict(sorted(found.items()))


def predict(given: Sample, hardware: Hardware, profile: Profile, policy: Policy) -> Floats:
    """Seconds of every figure of every step, flat: kernels one after another, the host ahead where it can be."""
    device, host = _per_row(given, hardware, profile, policy)
    size = given.measured.size
    if not hardware.host.asynchronous:
        return np.bincount(given.owner, (device + host)[given.order], size).astype(np.float64)
    found = np.zeros(size)
    by_owner = np.argsort(given.owner, kind="stable")
    starts = np.flatnonzero(np.diff(given.owner[by_owner], prepend=-1))
    for part in np.split(by_owner, starts[1:]):
        rows = given.order[part]
        found[given.owner[part[0]]] = completion(host[rows], device[rows])[-1] + hardware.host.synchronise
    return found


def _per_row(given: Sample, hardware: Hardware, profile: Profile, policy: Policy) -> tuple[Any, Any]:
    machine = machine_of(hardware)
    costs = kernel_costs(given.rows, every_way(given.rows.products, profile), machine, profile, policy)
    return costs.seconds(profile.knee), host_costs(given.rows, machine, profile, policy)


@dataclass(frozen=True)
class Fitted:
    """A machine's figures after a fit, and the coefficients by name that it found."""

    hardware: Hardware
    profile: Profile
    coefficients: Mapping[str, float]


class Problem(NamedTuple):
    """What is fitted: coefficients shared by all kernels, and of each kind: host seconds and cycles of an element."""

    hardware: Hardware
    profile: Profile
    policy: Policy
    shared: Mapping[str, Prior]
    kinds: Mapping[str, str]

    @property
    def looped(self) -> list[str]:
        """The kinds that have cycles of an element: all but products."""
        return [kind for kind, category in self.kinds.items() if category not in _PRODUCTS]

    @property
    def priors(self) -> list[Prior]:
        """Of all coefficients, in the order of the vector that is fitted."""
        host = {"convolution": Prior(10e-6, 0.7), "matmul": Prior(5e-6, 0.7)}
        of_kinds = [host.get(category, Prior(3e-6, 0.7)) for category in self.kinds.values()]
        return [*self.shared.values(), *of_kinds, *[_LOOP] * len(self.looped)]

    def values(self, x: Any) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """Shared coefficients, host seconds and element cycles by name."""
        least = np.array([p.least for p in self.priors])
        numbers = (least + np.exp(x)).tolist()
        shared, kinds = len(self.shared), len(self.kinds)
        return (
            dict(zip(self.shared, numbers[:shared], strict=True)),
            dict(zip(self.kinds, numbers[shared : shared + kinds], strict=True)),
            dict(zip(self.looped, numbers[shared + kinds :], strict=True)),
        )

    def applied(self, x: Any) -> tuple[Hardware, Profile]:
        """Hardware and profile with the coefficients of a vector."""
        shared, host, loops = self.values(x)
        hardware, profile = with_coefficients(self.hardware, self.profile, shared)
        if self.kinds:
            profile = replace(profile, host_cost={**profile.host_cost, **host}, element_cycles=loops)
        return hardware, profile


def fit(given: Sample, problem: Problem) -> Fitted:
    """The coefficients that fit best: least squares of log(predicted / measured), softened, with priors."""
    from scipy.optimize import least_squares

    priors = problem.priors
    middle = np.log([p.middle - p.least for p in priors])
    deviation = np.array([p.deviation for p in priors])
    fitted = given.fitted
    log_measured = np.log(given.measured.ravel()[fitted])

    def residuals(x: Any) -> Any:
        predicted = predict(given, *problem.applied(x), problem.policy)[fitted]
        return np.concatenate([np.log(predicted) - log_measured, _WEIGHT * (x - middle) / deviation])

    def jacobian(x: Any) -> Any:
        return np.concatenate([_slopes(given, problem, x)[fitted], np.diag(_WEIGHT / deviation)])

    start = np.log([(p.start or p.middle) - p.least for p in priors])
    found = least_squares(residuals, start, jacobian, loss="soft_l1", f_scale=_SOFT, max_nfev=25).x
    hardware, profile = problem.applied(found)
    shared, host, loops = problem.values(found)
    if host:
        profile = _with_categories(profile, problem.kinds, host, loops)
    return Fitted(hardware, profile, shared)


def _slopes(given: Sample, problem: Problem, x: Any) -> Any:
    """∂ log(predicted) / ∂x by differences, (figure, coefficient).

    A kernel depends on the coefficients of its own kind alone, so one difference serves all kinds at once; only where
    the host does not run ahead, so that seconds add up.
    """
    base = predict(given, *problem.applied(x), problem.policy)
    shared, kinds, looped = len(problem.shared), len(problem.kinds), len(problem.looped)
    slopes = np.zeros((len(base), len(x)))
    for i in range(shared):
        moved = x.copy()
        moved[i] += _BUMP
        slopes[:, i] = (predict(given, *problem.applied(moved), problem.policy) - base) / _BUMP
    kind = given.rows.kind[given.order]
    where = np.array([list(problem.kinds).index(k) for k in problem.looped], dtype=np.int64)
    for start, count, of_kind in ((shared, kinds, np.arange(kinds)), (shared + kinds, looped, where)):
        if not count:
            continue
        moved = x.copy()
        moved[start : start + count] += _BUMP
        before, after = (sum(_per_row(given, *problem.applied(at), problem.policy)) for at in (x, moved))
        change = ((after - before) / _BUMP)[given.order]
        position = np.full(kinds, -1)
        position[of_kind] = np.arange(count)
        mine = position[kind]
        chosen = mine >= 0
        summed = np.bincount(given.owner[chosen] * count + mine[chosen], change[chosen], len(base) * count)
        slopes[:, start : start + count] = summed.reshape(len(base), count)
    return slopes / np.maximum(base, 1e-12)[:, None]


def _with_categories(
    profile: Profile, kinds: Mapping[str, str], host: Mapping[str, float], loops: Mapping[str, float]
) -> Profile:
    """The profile whose categories have the median figures of their kinds, for kinds that were not measured."""

    def medians(figures: Mapping[str, float]) -> dict[str, float]:
        found = {c: [v for k, v in figures.items() if kinds[k] == c] for c in CATEGORIES}
        return {c: float(np.median(values)) for c, values in found.items() if values}

    return replace(
        profile,
        host_cost={**profile.host_cost, **medians(host), **host},
        element_cycles={**medians(loops), **loops},
    )


def with_coefficients(hardware: Hardware, profile: Profile, c: Mapping[str, float]) -> tuple[Hardware, Profile]:
    """A machine and a profile with other coefficients, named by their paths; those not given stay."""
    memory = tuple(
        replace(level, bandwidth=c.get(f"memory.{level.name}.bandwidth", level.bandwidth)) for level in hardware.memory
    )
    peak = {d: c.get(f"matrix.peak.{d}", p) for d, p in hardware.matrix.peak.items()}
    vector = replace(hardware.vector, random=c.get("vector.random", hardware.vector.random))
    hardware = replace(hardware, memory=memory, matrix=replace(hardware.matrix, peak=peak), vector=vector)

    def tiles(name: str) -> Any:
        shapes = getattr(profile, name)
        if f"{name}.base" not in c:
            return shapes
        base, edge = c[f"{name}.base"], c[f"{name}.edge"]

        def fraction(m: float, n: float, f: float) -> float:
            # Kernels for vectors keep the fraction they have.
            return f if 1 in (m, n) else min(1.0, base / (1 + edge * (16 / m + 16 / n)))

        return tuple((m, n, fraction(m, n, f)) for m, n, f in shapes)

    resident = c.get("resident", profile.resident)
    plain = ("knee", "prologue", "gradient", "view", "change", "recording", "reorder", "fresh_bandwidth", "kernel_time")
    figures: dict[str, Any] = {name: c[name] for name in plain if name in c}
    return hardware, replace(
        profile,
        tiles=tiles("tiles"),
        convolution_tiles=tiles("convolution_tiles"),
        packing={**profile.packing, **{k: c[f"packing.{k}"] for k in _PRODUCTS if f"packing.{k}" in c}},
        host_cost={k: c.get(f"host_cost.{k}", v) for k, v in profile.host_cost.items()},
        resident=resident,
        evicted=resident + c.get("evicted", profile.evicted - profile.resident),
        **figures,
    )
