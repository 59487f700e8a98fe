"""The tables refuse what would silently replace a rule, and name what is missing."""

import pytest

from ebmsim.errors import EbmsimError
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder
from ebmsim.graph.operators.table import (
    GRADIENT,
    OPERATORS,
    SHAPE,
    WORK,
    ShapeError,
    gradient,
    operator,
    rule,
    shape,
    work,
)


def test_an_operator_is_registered_once():
    before = dict(OPERATORS)
    with pytest.raises(ValueError, match="'relu' is registered twice"):
        operator("relu", "elementwise")
    assert before == OPERATORS


@pytest.mark.parametrize(
    ("register", "table", "question"), [(shape, SHAPE, "shape"), (work, WORK, "work"), (gradient, GRADIENT, "gradient")]
)
def test_a_rule_is_registered_once_and_for_a_known_operator(register, table, question):
    before = dict(table)
    with pytest.raises(ValueError, match=f"{question} rule of 'relu' is registered twice"):
        register("relu")(lambda *_: None)
    with pytest.raises(ValueError, match=f"{question} rule for the unknown operator 'rely'"):
        register("rely")(lambda *_: None)
    assert before == table


def test_a_category_is_one_of_the_known():
    with pytest.raises(ValueError, match="'fresh': unknown category 'magic'"):
        operator("fresh", "magic")
    assert "fresh" not in OPERATORS


def test_a_missing_rule_names_operator_node_and_line():
    with pytest.raises(EbmsimError) as caught:
        rule(WORK, "work", "silo", "main.act", 17)
    assert str(caught.value) == ("node 'main.act' (line 17): operator 'silo' has no work rule; did you mean 'silu'?")
    with pytest.raises(EbmsimError, match=r"^node 'main.act': operator 'xyzzyx' has no work rule$"):
        rule(WORK, "work", "xyzzyx", "main.act", 0)


def test_differentiate_reports_a_missing_gradient_rule_where_it_is_needed(monkeypatch):
    monkeypatch.delitem(GRADIENT, "sin")
    b = Builder()
    x, unseen = b.tensor((2, 3), "sample"), b.tensor((3,), "weight")
    b.line, b.prefix = 5, "energy."
    y = b.emit("mul", x, b.emit("sin", unseen, name="hidden"))
    differentiate(b, [y], {x}, phase="backward")  # the rule is missing off the path: no error
    with pytest.raises(EbmsimError, match=r"node 'energy.hidden' \(line 5\): operator 'sin' has no gradient rule"):
        differentiate(b, [y], {unseen}, phase="backward")


def test_a_rule_that_is_there_is_returned():
    assert rule(SHAPE, "shape", "relu", "a", 0) is SHAPE["relu"]
    assert issubclass(ShapeError, EbmsimError)
