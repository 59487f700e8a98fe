"""A design that a search tried: its values, what came of them, and how it meets the constraints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ebmsim.hardware import Hardware
from ebmsim.sweep.conditions import Margin

Values: TypeAlias = Mapping[str, Any]

# The violation of what is no device at all, above that of any condition.
_REFUSED = 1e4


@dataclass(frozen=True)
class Design:
    """One design that was tried, in SI units.

    axes: its values, by axis. found: derived quantities and outputs, by column. margins: how it meets the constraints,
    part by part. device: with all its figures. refusal: why there is no such design, or "".
    """

    axes: Values
    found: Values
    margins: tuple[Margin, ...]
    device: Hardware | None
    refusal: str = ""

    @property
    def meets_all(self) -> bool:
        """Whether it is a design and meets all constraints."""
        return not self.refusal and all(margin.met for margin in self.margins)

    @property
    def violations(self) -> tuple[float, ...]:
        """What it misses of every part of the constraints; at most 0 where that is met."""
        return (_REFUSED,) if self.refusal else tuple(margin.violation for margin in self.margins)

    @property
    def violation(self) -> float:
        """What it misses together."""
        return sum(max(0.0, violation) for violation in self.violations)

    def value(self, name: str) -> float:
        """A figure by name, axes included."""
        return float({**self.axes, **self.found}[name])

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it; what is not finite as null."""
        return {
            "axes": dict(self.axes),
            "figures": {name: _finite(value) for name, value in self.found.items()},
            "constraints": [
                {
                    "condition": m.text,
                    "met": m.met,
                    "less": _finite(m.less),
                    "more": _finite(m.more),
                    "slack": _finite(m.slack),
                }
                for m in self.margins
            ],
        }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
