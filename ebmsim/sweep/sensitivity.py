"""What every figure of a device does to a time or an energy: elasticities, and what 10 % more of it buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.estimation import Estimate, estimate, estimate_lowered
from ebmsim.hardware import Hardware
from ebmsim.sweep.figures import figures_of, with_figures

if TYPE_CHECKING:
    from ebmsim.policy import Policy
    from ebmsim.spec.workload import Workload

# ln of the small step of a figure that is no whole number.
_SMALL = 1e-4
# Relative changes below this are rounding.
_NOTHING = 1e-9
# Figures per second: FLOP/s, op/s, B/s and W, J/s. Clocks and units are not among them: the peaks hold both.
_RATES = ("matrix.peak.", "vector.", "power.limit", "power.static")
_WHOLE = ("units", "arrays", "rows", "columns", "multicast", "concurrent_kernels")
_FRACTIONS = ("efficiency", "transposed_weights")


class Change(NamedTuple):
    """Another value of a figure, and what becomes of the time: T' / T - 1."""

    value: float
    change: float


class Elasticity(NamedTuple):
    """What one figure of a device does to T.

    elasticity: d ln T / d ln figure, the central difference. below, above: the one-sided ones, which differ where
    something else begins to bind, and in whole numbers. larger, smaller: with the figure × 1.1 and / 1.1. Whole numbers
    take steps of 1, and the next one beyond × 1.1 and / 1.1. None where the figure cannot have such a value.
    """

    figure: str
    value: float
    elasticity: float
    below: float | None
    above: float | None
    larger: Change | None
    smaller: Change | None

    @property
    def best(self) -> Change:
        """The change that takes most off T; none, if neither takes any."""
        stay = Change(self.value, 0.0)
        return min(stay, self.larger or stay, self.smaller or stay, key=lambda change: change.change)

    @property
    def gain(self) -> float:
        """-ln(T' / T) / |ln(figure' / figure)| of the best change: whole numbers take steps of different sizes."""
        best = self.best
        return -math.log1p(best.change) / abs(math.log(best.value / self.value)) if best.change else 0.0

    @property
    def does_nothing(self) -> bool:
        """Whether no change that was tried shows in T."""
        changes = [change.change for change in (self.larger, self.smaller) if change]
        return all(abs(number) <= _NOTHING for number in (*changes, self.below or 0.0, self.above or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """The row with its changes as objects."""
        changes = {
            name: change and change._asdict() for name, change in (("larger", self.larger), ("smaller", self.smaller))
        }
        return self._asdict() | changes


@dataclass(frozen=True)
class Sensitivity:
    """The elasticities of one figure of an estimate, what helps most first."""

    estimate: Estimate
    of: str
    value: float
    rows: tuple[Elasticity, ...]

    @property
    def rate_sum(self) -> float:
        """Σ of the elasticities of all rates: of FLOP/s, op/s, B/s and W.

        -1 in the roofline where the host does no work of its own: T is homogeneous of degree -1 in all rates. Above -1
        by the share of T that faster rates do not shorten: launches, latencies, host, cycles that are no FLOPs.
        """
        return sum(row.elasticity for row in self.rows if is_rate(row.figure))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per figure, SI units, for pandas."""
        return [row.to_dict() for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        e = self.estimate
        return {
            "workload": e.workload.name,
            "hardware": e.hardware.name,
            "policy": asdict(e.policy),
            "settings": e.settings,
            "of": self.of,
            "value": self.value,
            "rate_sum": self.rate_sum,
            "figures": self.to_rows(),
        }


def is_rate(figure: str) -> bool:
    """Whether a figure is one per second, each counted once: peaks are, and the clock that is part of them is not."""
    return figure.startswith(_RATES) or figure.endswith("bandwidth")


def is_whole(figure: str) -> bool:
    """Whether a figure is a whole number."""
    return figure.endswith(_WHOLE)


def sensitivity(workload: Workload, hardware: Hardware, policy: Policy | None = None, of: str = "t_inf") -> Sensitivity:
    """What every figure of a device does to a figure of an estimate. Raises SpecError as `estimate` does."""
    return elasticities(estimate(workload, hardware, policy), of)


def elasticities(e: Estimate, of: str = "t_inf") -> Sensitivity:
    """d ln T / d ln figure of every figure of the estimate's device that is a number above 0, one changed at a time.

    Figures that follow do so (`with_figures`): with other `units`, the peaks. Not varied: flags, and the clocks at
    which peaks are quoted. Four estimates a figure. Raises SpecError where the estimate has no such figure above 0.
    """
    value = answer(e, of)
    figures = _numbers(e.hardware)

    def move(path: str, new: float) -> _Move | None:
        if not _possible(path, new, figures):
            return None
        there = estimate_lowered(e.lowered, with_figures(e.hardware, {path: new}), e.policy, e.profile)
        return _Move(float(new), math.log(new / figures[path]), math.log(answer(there, of) / value))

    rows = [_row(path, figure, move) for path, figure in figures.items()]
    rows.sort(key=lambda row: (-row.gain, -abs(row.elasticity)))
    return Sensitivity(e, of, value, tuple(rows))


class _Move(NamedTuple):
    """The way to another value of a figure: the value, ln(figure' / figure), ln(T' / T)."""

    value: float
    step: float
    change: float


def _row(path: str, figure: float, move: Callable[[str, float], _Move | None]) -> Elasticity:
    here = _Move(float(figure), 0.0, 0.0)
    below, above = [move(path, new) for new in _beside(path, figure)]
    larger, smaller = [move(path, new) for new in _tenth(path, figure)]
    left, right = below or here, above or here
    return Elasticity(
        figure=path,
        value=here.value,
        elasticity=(right.change - left.change) / (right.step - left.step),
        below=below and below.change / below.step,
        above=above and above.change / above.step,
        larger=larger and Change(larger.value, math.expm1(larger.change)),
        smaller=smaller and Change(smaller.value, math.expm1(smaller.change)),
    )


def answer(e: Estimate, of: str) -> float:
    """A figure of an estimate's times or energies by name. Raises SpecError where it has none, or it is 0."""
    known: Mapping[str, float | None] = {**e.seconds, **e.energy}
    if of not in known:
        raise SpecError([Problem(f"no time or energy '{of}' in an estimate", hint=suggest(of, known))])
    value = known[of]
    if not value:
        found = "has none" if value is None else "is 0"
        raise SpecError([Problem(f"expected {of} above 0, it {found} for {e.workload.name} on {e.hardware.name}")])
    return value


def _numbers(hardware: Hardware) -> dict[str, float]:
    """The figures that can be scaled."""
    return {
        path: value
        for path, value in figures_of(hardware).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        if 0 < value < math.inf and not path.startswith("matrix.clocks.")
    }


def _beside(path: str, value: float) -> tuple[float, float]:
    """A little less and a little more."""
    if is_whole(path):
        return value - 1, value + 1
    return value * math.exp(-_SMALL), value * math.exp(_SMALL)


def _tenth(path: str, value: float) -> tuple[float, float]:
    """The value × 1.1 and / 1.1."""
    if is_whole(path):
        return -(-round(value) * 11 // 10), round(value) * 10 // 11
    return value * 1.1, value / 1.1


def _possible(path: str, value: float, figures: Mapping[str, float]) -> bool:
    """Whether a device can have a value: fractions end at 1, and static power below the limit."""
    if path.endswith(_FRACTIONS) and value > 1:
        return False
    power = {name: figures.get(f"power.{name}", 0.0) for name in ("limit", "static")}
    power |= {path.removeprefix("power."): value} if path in ("power.limit", "power.static") else {}
    return value > 0 and power["static"] < power["limit"]
