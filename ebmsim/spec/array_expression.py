"""The same safe arithmetic over arrays: one value, or one for every point of a sweep."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np

from ebmsim.errors import suggest
from ebmsim.spec.expression import ExpressionError, check, parsed

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.true_divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.float_power,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: np.negative,
    ast.Not: np.logical_not,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round": np.round,
    "min": lambda *values: reduce(np.minimum, values),
    "max": lambda *values: reduce(np.maximum, values),
    "abs": np.abs,
    "sqrt": np.sqrt,
    "log2": np.log2,
    "pick": lambda index, *values: np.choose(np.asarray(index, dtype=np.int64), values),
}


def evaluate_arrays(text: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression whose names stand for numbers, texts or arrays that broadcast.

    Both sides of a condition are computed, and where it has no real value the result is NaN or infinite. Raises
    ExpressionError when the expression is malformed or names something unknown.
    """
    check(text)
    with np.errstate(all="ignore"):
        return _value(parsed(text), names, text)


def _value(node: ast.expr, names: Mapping[str, Any], text: str) -> Any:
    def of(inner: ast.expr) -> Any:
        return _value(inner, names, text)

    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            known = {"true": True, "false": False, **names}
            if node.id not in known:
                raise ExpressionError(f"unknown name '{node.id}' in {text!r}", suggest(node.id, names))
            return known[node.id]
        case ast.BinOp():
            return _BINARY[type(node.op)](of(node.left), of(node.right))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](of(node.operand))
        case ast.BoolOp():
            joined = np.logical_or if isinstance(node.op, ast.Or) else np.logical_and
            return reduce(joined, [of(value) for value in node.values])
        case ast.IfExp():
            return np.where(of(node.test), of(node.body), of(node.orelse))
        case ast.Compare():
            values = [of(node.left), *[of(c) for c in node.comparators]]
            pairs = zip(node.ops, values, values[1:], strict=False)
            return reduce(np.logical_and, [_COMPARE[type(op)](a, b) for op, a, b in pairs])
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*[of(argument) for argument in node.args])
    raise ExpressionError(f"expected an arithmetic expression, found {text!r}")
