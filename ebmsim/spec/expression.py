"""Safe arithmetic over named parameters, for values that files write as text such as "4 * hidden".

The text is parsed by Python's own parser; the tree is then checked against a closed list of forms
and turned into closures, so nothing of Python but arithmetic can be reached.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache

from ebmsim.errors import suggest

Expression = int | float | bool | str
"""A value in a file: a number or a condition as it is, or an expression as text."""

_Names = Mapping[str, int | float | bool | str]
_Compiled = Callable[[_Names], int | float | bool | str]

_LIMIT = 10**18
_LOG2_LIMIT = math.log2(_LIMIT)
_LONGEST_TEXT = 200
_MOST_NODES = 200
_DEEPEST = 30


class ExpressionError(ValueError):
    """An expression that is not allowed or has no value; `hint` may hold advice, or is ""."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def evaluate(text: Expression, names: _Names) -> int | float | bool | str:
    """The value of an expression over `names`; numbers have the units of the names in it.

    Numbers stand for themselves. Integers stay integers, and a division of two integers is an integer
    when it is exact. A text comes out only when `names` holds one. Raises ExpressionError when the
    expression is malformed, names something unknown, or has no real value of magnitude up to 1e18.
    """
    if isinstance(text, str):
        if text in names:
            return _checked(names[text], text)
        return _compiled(text)(names)
    if not isinstance(text, (int, float)):
        raise ExpressionError(f"expected a number or an expression, found a {type(text).__name__}")
    if -_LIMIT <= text <= _LIMIT:
        return text
    raise ExpressionError("expected a finite number of at most 1e18")


def free_names(text: Expression) -> frozenset[str]:
    """The names an expression mentions, untaken branches included. Raises ExpressionError if malformed."""
    if not isinstance(text, str):
        return frozenset()
    _compiled(text)
    nodes = list(ast.walk(parsed(text)))
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    named = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in functions}
    return frozenset(named - _CONSTANTS.keys())


def check(text: str) -> None:
    """Raise ExpressionError if an expression is malformed or holds anything but arithmetic."""
    _compiled(text)


_CONSTANTS = {"true": True, "false": False}


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _checked(value: int | float | bool | str, text: str) -> int | float | bool | str:
    """`value` when it is a text, a condition or a number within the limit."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (int, float)):
        raise ExpressionError(f"expected a number, found a {type(value).__name__} in {_quoted(text)}")
    if not -_LIMIT <= value <= _LIMIT:
        raise _not_a_number(text) if value != value else _too_large(text)
    return value


def _too_large(text: str) -> ExpressionError:
    return ExpressionError(f"{_quoted(text)} is too large (limit 1e18)")


def _not_a_number(text: str) -> ExpressionError:
    return ExpressionError(f"{_quoted(text)} is not a real number")


def _no_expression(text: str) -> ExpressionError:
    return ExpressionError(f"expected an arithmetic expression, found {_quoted(text)}")


def _number(value: int | float | bool | str, text: str) -> int | float | bool:
    if isinstance(value, str):
        raise ExpressionError(f"expected a number, found the text {_quoted(value)} in {_quoted(text)}")
    return value


def _divide(a: float, b: float) -> int | float:
    if isinstance(a, int) and isinstance(b, int):
        whole, rest = divmod(a, b)
        return whole if rest == 0 else a / b
    return a / b


def _power(a: float, b: float) -> int | float:
    # Checked before computing: an integer power can take unbounded time and memory.
    if abs(a) > 1 and b > 0 and b * math.log2(abs(a)) > _LOG2_LIMIT + 1:
        raise OverflowError
    result = a**b
    if isinstance(result, complex):
        raise ArithmeticError
    return result  # type: ignore[no-any-return]


_BINARY: dict[type[ast.operator], Callable[[float, float], int | float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], int | float | bool]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_EQUAL: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ORDER: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _pick(index: float, *values: float) -> float:
    """The value at an index, counted from 0."""
    if index != math.floor(index) or not 0 <= index < len(values):
        raise ExpressionError(f"expected an index from 0 to {len(values) - 1} in 'pick', found {index}")
    return values[int(index)]


# Name, function, fewest and most arguments.
_FUNCTIONS: dict[str, tuple[Callable[..., int | float], int, int]] = {
    "ceil": (math.ceil, 1, 1),
    "floor": (math.floor, 1, 1),
    "round": (round, 1, 1),
    "min": (min, 2, _MOST_NODES),
    "max": (max, 2, _MOST_NODES),
    "abs": (abs, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log2": (math.log2, 1, 1),
    "pick": (_pick, 2, _MOST_NODES),
}


@lru_cache(maxsize=4096)
def parsed(text: str) -> ast.expr:
    """The tree of an expression, unchecked. Raises ExpressionError where Python cannot read it."""
    if len(text) > _LONGEST_TEXT:
        raise ExpressionError(f"expression {_quoted(text)} is longer than {_LONGEST_TEXT} characters")
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _no_expression(text) from None


@lru_cache(maxsize=4096)
def _compiled(text: str) -> _Compiled:
    compiler = _Compiler(text)
    try:
        return compiler.compile(parsed(text), 1)
    except RecursionError:
        raise compiler.too_complex() from None


class _Compiler:
    """Turns one checked tree into closures; counts nodes as it goes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes = 0

    def too_complex(self) -> ExpressionError:
        limit = f"limit {_MOST_NODES} parts nested {_DEEPEST} deep"
        return ExpressionError(f"{_quoted(self.text)} is too complex ({limit})")

    def compile(self, node: ast.expr, depth: int, compared: bool = False) -> _Compiled:
        self.nodes += 1
        if self.nodes > _MOST_NODES or depth > _DEEPEST:
            raise self.too_complex()
        if isinstance(node, ast.Constant):
            return self._constant(node, compared)
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            operands = (self.compile(node.left, depth + 1), self.compile(node.right, depth + 1))
            return self._apply(_BINARY[type(node.op)], operands)
        if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
            return self._apply(_UNARY[type(node.op)], (self.compile(node.operand, depth + 1),))
        if isinstance(node, ast.Compare):
            return self._compare(node, depth)
        if isinstance(node, ast.BoolOp):
            parts = [self.compile(value, depth + 1) for value in node.values]
            return self._either_or_all(parts, isinstance(node.op, ast.Or))
        if isinstance(node, ast.IfExp):
            return self._choice(node, depth)
        if isinstance(node, ast.Call):
            return self._call(node, depth)
        raise _no_expression(self.text)

    def _constant(self, node: ast.Constant, compared: bool) -> _Compiled:
        value = node.value
        if isinstance(value, str):
            if not compared:
                raise ExpressionError(f"the text {_quoted(value)} may only be compared, as in a == 'b'")
        elif not isinstance(value, (int, float)):
            raise _no_expression(self.text)
        constant = _checked(value, self.text)
        return lambda names: constant

    def _name(self, name: str) -> _Compiled:
        text = self.text

        def lookup(names: _Names) -> int | float | bool | str:
            if name in names:
                return _checked(names[name], text)
            if name in _CONSTANTS:
                return _CONSTANTS[name]
            raise ExpressionError(f"unknown name '{name}' in {_quoted(text)}", suggest(name, names))

        return lookup

    def _apply(self, function: Callable[..., int | float], parts: tuple[_Compiled, ...]) -> _Compiled:
        text = self.text

        def apply(names: _Names) -> int | float | bool | str:
            values = [_number(part(names), text) for part in parts]
            try:
                result = function(*values)
            except ZeroDivisionError:
                raise ExpressionError(f"division by zero in {_quoted(text)}") from None
            except OverflowError:
                raise _too_large(text) from None
            except ExpressionError:
                raise
            except (ArithmeticError, ValueError):
                raise _not_a_number(text) from None
            return _checked(result, text)

        return apply

    def _compare(self, node: ast.Compare, depth: int) -> _Compiled:
        if any(type(op) not in _EQUAL | _ORDER for op in node.ops):
            raise _no_expression(self.text)
        first, *rest = [self.compile(part, depth + 1, True) for part in (node.left, *node.comparators)]
        steps = [(type(op), part) for op, part in zip(node.ops, rest, strict=True)]

        def compare(names: _Names) -> bool:
            left = first(names)
            for kind, part in steps:
                right = part(names)
                if kind in _EQUAL:
                    holds = _EQUAL[kind](left, right)
                else:
                    holds = _ORDER[kind](_number(left, self.text), _number(right, self.text))
                if not holds:
                    return False
                left = right
            return True

        return compare

    def _either_or_all(self, parts: list[_Compiled], stop_at: bool) -> _Compiled:
        def decide(names: _Names) -> int | float | bool | str:
            for part in parts[:-1]:
                value = _number(part(names), self.text)
                if bool(value) is stop_at:
                    return value
            return _number(parts[-1](names), self.text)

        return decide

    def _choice(self, node: ast.IfExp, depth: int) -> _Compiled:
        test, body, other = (self.compile(part, depth + 1) for part in (node.test, node.body, node.orelse))
        return lambda names: body(names) if _number(test(names), self.text) else other(names)

    def _call(self, node: ast.Call, depth: int) -> _Compiled:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if not isinstance(node.func, ast.Name) or name not in _FUNCTIONS:
            raise ExpressionError(f"call of {_quoted(name)} is not allowed; functions: {', '.join(_FUNCTIONS)}")
        function, fewest, most = _FUNCTIONS[name]
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ExpressionError(f"'{name}' takes plain arguments only in {_quoted(self.text)}")
        if not fewest <= len(node.args) <= most:
            count = f"{fewest} argument" if fewest == most else f"{fewest} or more arguments"
            raise ExpressionError(f"'{name}' takes {count}, found {len(node.args)} in {_quoted(self.text)}")
        return self._apply(function, tuple(self.compile(argument, depth + 1) for argument in node.args))
