"""Expressions: values, refusals word by word, bounds, and agreement with Python."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebmsim.spec.expression import ExpressionError, evaluate, free_names

NAMES: Mapping[str, int | float | bool | str] = {
    "f": 4, "hidden": 768, "scale": 0.5, "causal": True, "task": "addition", "zero": 0, "huge": 10**400,
    "bad": math.nan,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (3, 3), (2.5, 2.5), (True, True), ("f", 4), (" f ", 4), ("task", "addition"), ("12", 12),
        ("4 * hidden", 3072), ("hidden / f", 192), ("hidden / 5", 153.6), ("hidden // 5", 153),
        ("hidden % 5", 3), ("-f ** 2", -16), ("+f", 4), ("2 ** -1", 0.5), ("true", True), ("False", False),
        ("task == 'addition'", True), ("task != 'addition'", False), ("'addition' == task", True),
        ("1 < f <= 4", True), ("1 < f < 4", False), ("not causal", False), ("causal and f > 3", True),
        ("zero or f", 4), ("f if causal else hidden", 4), ("ceil(hidden / 100)", 8), ("floor(7.9)", 7),
        ("round(2.5)", 2), ("min(f, 3, 9)", 3), ("max(f, hidden)", 768), ("abs(-3)", 3), ("sqrt(16)", 4.0),
        ("log2(8)", 3.0), ("pick(f - 4, 0.5, 7)", 0.5), ("pick(1, f, hidden, 9)", 768),
        ("task if f > 3 else f", "addition"), ("f if true else 1 / 0", 4),
    ],
)  # fmt: skip
def test_values(text: int | float | bool | str, value: int | float | bool | str) -> None:
    result = evaluate(text, NAMES)
    assert result == value
    assert type(result) is type(value)


FUNCTIONS = "ceil, floor, round, min, max, abs, sqrt, log2, pick"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ff * 2", "unknown name 'ff' in 'ff * 2'", "did you mean 'f'?"),
        ("hiden", "unknown name 'hiden' in 'hiden'", "did you mean 'hidden'?"),
        ("f / 0", "division by zero in 'f / 0'", ""),
        ("f % zero", "division by zero in 'f % zero'", ""),
        ("0 ** -1", "division by zero in '0 ** -1'", ""),
        ("2 ** 9999", "'2 ** 9999' is too large (limit 1e18)", ""),
        ("9**9**9", "'9**9**9' is too large (limit 1e18)", ""),
        ("0.5 ** -9999", "'0.5 ** -9999' is too large (limit 1e18)", ""),
        ("1e999", "'1e999' is too large (limit 1e18)", ""),
        ("huge", "'huge' is too large (limit 1e18)", ""),
        ("huge * 0", "'huge * 0' is too large (limit 1e18)", ""),
        ("bad", "'bad' is not a real number", ""),
        ("(0 - 8) ** 0.5", "'(0 - 8) ** 0.5' is not a real number", ""),
        ("sqrt(-1)", "'sqrt(-1)' is not a real number", ""),
        ("log2(0)", "'log2(0)' is not a real number", ""),
        ("pick(f, 1, 2)", "expected an index from 0 to 1 in 'pick', found 4", ""),
        ("pick(0.5, 1, 2)", "expected an index from 0 to 1 in 'pick', found 0.5", ""),
        ("import os", "expected an arithmetic expression, found 'import os'", ""),
        ("", "expected an arithmetic expression, found ''", ""),
        ("f.real", "expected an arithmetic expression, found 'f.real'", ""),
        ("[f]", "expected an arithmetic expression, found '[f]'", ""),
        ("1j", "expected an arithmetic expression, found '1j'", ""),
        ("f << 2", "expected an arithmetic expression, found 'f << 2'", ""),
        ("f is 4", "expected an arithmetic expression, found 'f is 4'", ""),
        ("(x := 3)", "expected an arithmetic expression, found '(x := 3)'", ""),
        ("None", "expected an arithmetic expression, found 'None'", ""),
        ("~f", "expected an arithmetic expression, found '~f'", ""),
        ("\ud800", "expected an arithmetic expression, found '\\ud800'", ""),
        ("f\0", "expected an arithmetic expression, found 'f\\x00'", ""),
        ("open('x')", f"call of 'open' is not allowed; functions: {FUNCTIONS}", ""),
        ("os.system('x')", f"call of 'os.system' is not allowed; functions: {FUNCTIONS}", ""),
        ("sum(f)", f"call of 'sum' is not allowed; functions: {FUNCTIONS}", ""),
        ("ceil(1, 2)", "'ceil' takes 1 argument, found 2 in 'ceil(1, 2)'", ""),
        ("min(f)", "'min' takes 2 or more arguments, found 1 in 'min(f)'", ""),
        ("round(f, ndigits=1)", "'round' takes plain arguments only in 'round(f, ndigits=1)'", ""),
        ("'a'", "the text 'a' may only be compared, as in a == 'b'", ""),
        ("'a' * 9", "the text 'a' may only be compared, as in a == 'b'", ""),
        ("task * 2", "expected a number, found the text 'addition' in 'task * 2'", ""),
        ("task < 2", "expected a number, found the text 'addition' in 'task < 2'", ""),
        ("not task", "expected a number, found the text 'addition' in 'not task'", ""),
        ("+".join("1" * 40), repr("+".join("1" * 29) + "...") + " is too complex "
         "(limit 200 parts nested 30 deep)", ""),
        ("1" * 201, "expression '" + "1" * 57 + "...' is longer than 200 characters", ""),
        pytest.param(10**5000, "expected a finite number of at most 1e18", "", id="long"),
        (math.inf, "expected a finite number of at most 1e18", ""),
    ],
)  # fmt: skip
def test_refusals(text: int | float | str, message: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text, NAMES)
    assert str(caught.value) == message
    assert caught.value.hint == hint


@pytest.mark.parametrize("text", ["(" * 200, "(" * 99 + "1" + ")" * 99, "-" * 150 + "1", "[" * 200])
def test_deep_nesting_is_refused_or_evaluated(text: str) -> None:
    try:
        assert evaluate(text, {}) == 1
    except ExpressionError as error:
        assert "expression" in str(error) or "too complex" in str(error)


def test_values_of_other_kinds_are_refused() -> None:
    with pytest.raises(ExpressionError, match="expected a number, found a list in 'x'"):
        evaluate("x", {"x": [1]})  # type: ignore[dict-item]


def test_free_names() -> None:
    assert free_names("ceil(a / b) if c == 'd' else true") == {"a", "b", "c"}
    assert free_names(7) == frozenset()
    with pytest.raises(ExpressionError):
        free_names("open(x)")


def test_a_name_is_fast() -> None:
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10_000):
            evaluate("hidden", NAMES)
        best = min(best, (time.perf_counter() - start) / 10_000)
    assert best < 20e-6


def _expressions() -> st.SearchStrategy[str]:
    atoms = st.one_of(
        st.integers(0, 99).map(str),
        st.floats(0, 99, allow_nan=False).map(repr),
        st.sampled_from(["f", "scale", "causal", "zero", "True"]),
    )

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        binary = st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "<=", "==", "!=", "and", "or"])
        call = st.sampled_from(["min", "max"])
        single = st.sampled_from(["abs", "ceil", "floor", "round"])
        return st.one_of(
            st.builds("({} {} {})".format, inner, binary, inner),
            st.builds("({} < {} <= {})".format, inner, inner, inner),
            st.builds("(- {})".format, inner),
            st.builds("(not {})".format, inner),
            st.builds("({} if {} else {})".format, inner, inner, inner),
            st.builds("{}({}, {})".format, call, inner, inner),
            st.builds("{}({})".format, single, inner),
        )

    return st.recursive(atoms, larger, max_leaves=8)


@given(_expressions())
def test_agrees_with_python(text: str) -> None:
    try:
        value = evaluate(text, NAMES)
    except ExpressionError as error:
        reasons = ("division by zero", "too large", "not a real number", "too complex", "longer than")
        assert any(reason in str(error) for reason in reasons)
        return
    python = eval(text, {"ceil": math.ceil, "floor": math.floor}, dict(NAMES))
    assert value == python or value == pytest.approx(python, rel=1e-12)


@given(st.text(max_size=60))
def test_any_text_gives_a_value_or_an_expression_error(text: str) -> None:
    try:
        evaluate(text, NAMES)
    except ExpressionError as error:
        assert str(error)
