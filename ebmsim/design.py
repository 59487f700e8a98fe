"""A sweep as the engine sees it: axes over figures of workload, hardware and policy, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebmsim.policy import Policy

if TYPE_CHECKING:
    from ebmsim.spec.located import Document


@dataclass(frozen=True)
class Axis:
    """One axis. field: "" where only expressions use it. values: of a grid, in SI units where they are figures.

    low, high: ends of a range, else None. log: its spacing. whole: only whole numbers.
    """

    name: str
    field: str
    values: tuple[Any, ...]
    low: float | None
    high: float | None
    log: bool
    whole: bool

    @property
    def figure(self) -> str:
        """The path of the hardware figure that it sets, or ""."""
        return self.field.removeprefix("hardware.") if self.field.startswith("hardware.") else ""

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers of a figure or of expressions: one array evaluates them all."""
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in self.values)
        return (bool(self.figure) or not self.field) and numbers


@dataclass(frozen=True)
class Sampling:
    """A quasi-random design: latin-hypercube or sobol."""

    method: str
    points: int
    seed: int


@dataclass(frozen=True)
class Derived:
    """A quantity by expression. figure: path of the hardware figure that it sets, or ""."""

    name: str
    expression: str
    figure: str


@dataclass(frozen=True)
class Keep:
    """Which points are kept: all, summary, pareto (of `names`, minimised) or top (`count` by names[0])."""

    what: str
    names: tuple[str, ...] = ()
    count: int = 0


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file says it, values in SI units."""

    name: str
    document: Document
    workload: str
    hardware: str
    preset: str
    parameters: Mapping[str, Any]
    policy: Policy
    axes: tuple[Axis, ...]
    sampling: Sampling | None
    derived: tuple[Derived, ...]
    constraints: tuple[str, ...]
    outputs: tuple[str, ...]
    keep: Keep
    format: str
    chunk: int
    minimize: tuple[str, ...] = ()  # what a search makes least
