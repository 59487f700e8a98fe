"""Conditions of a sweep part by part: the comparisons in them, and how far a point is from meeting each."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ebmsim.spec.array_expression import evaluate_arrays
from ebmsim.spec.expression import parsed

# The largest violation of one condition, as where a side has no value.
_MOST = 100.0
# The violation of a condition that is missed by nothing: two equal sides of which one has to be less.
_LEAST = 1e-9


class Part(NamedTuple):
    """What a condition asks for, alone: that `less` is less than `more`, or equal to it unless strict.

    Both are "" for any other condition, which is met or is not. text: as it is written.
    """

    text: str
    less: str = ""
    more: str = ""
    strict: bool = False


class Margin(NamedTuple):
    """How a point meets a part of a condition. less, more: its sides, where it compares two numbers.

    violation: above 0 where the part is not met; ln(less / more) of positive sides, the factor that is missing.
    """

    text: str
    met: bool
    less: float | None
    more: float | None
    violation: float

    @property
    def slack(self) -> float | None:
        """How far the sides are apart, as a share of the larger one; below 0 where the part is not met."""
        if self.less is None or self.more is None:
            return None
        larger = max(abs(self.less), abs(self.more))
        return (self.more - self.less) / larger if 0 < larger < math.inf else 0.0


def parts(text: str) -> Iterator[Part]:
    """What a condition asks for: `and` and chains such as 1 < a <= b are taken apart."""
    yield from _parts(parsed(text))


def _parts(node: ast.expr) -> Iterator[Part]:
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            yield from _parts(value)
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            yield _comparison(ast.unparse(left), op, ast.unparse(right))
    else:
        yield Part(ast.unparse(node))


def _comparison(left: str, op: ast.cmpop, right: str) -> Part:
    sign = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}[type(op)]
    text = f"{left} {sign} {right}"
    if sign in ("<", "<="):
        return Part(text, left, right, sign == "<")
    if sign in (">", ">="):
        return Part(text, right, left, sign == ">")
    return Part(text)


def margin(part: Part, names: Mapping[str, Any]) -> Margin:
    """How a point, its names single values, meets a part of a condition. A side without a value meets nothing."""
    met = bool(evaluate_arrays(part.text, names))
    if part.less:
        sides = [evaluate_arrays(side, names) for side in (part.less, part.more)]
        if not any(isinstance(side, str) for side in sides):
            less, more = map(float, sides)
            distance = _distance(less, more)
            return Margin(part.text, met, less, more, min(distance, 0.0) if met else max(distance, _LEAST))
    return Margin(part.text, met, None, None, 0.0 if met else 1.0)


def _distance(less: float, more: float) -> float:
    """ln(less / more), or (less - more) over the mean size of both where one is not positive; both agree near 0."""
    if math.isnan(less) or math.isnan(more):
        return _MOST
    if less == more:
        return 0.0
    if math.isinf(less) or math.isinf(more):
        return _MOST if less > more else -_MOST
    if less > 0 and more > 0:
        return max(-_MOST, min(math.log(less) - math.log(more), _MOST))
    return 2 * (less - more) / (abs(less) + abs(more))
