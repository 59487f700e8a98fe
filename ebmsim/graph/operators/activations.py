"""Activations and elementary functions. `*_gradient` are the fused backward kernels, differentiable again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ebmsim.graph.operators.table import Attribute, Shape, Work, elements, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node


class _Cost(NamedTuple):
    """Per element: arithmetic operations and transcendental results."""

    flops: int
    special: int


# A logistic or a tanh is an exponential, an addition and a division; exact GELU one error function. Softplus is
# log(1 + exp(x)), mish x · tanh(softplus(x)).
_COST = {
    "relu": _Cost(1, 0),
    "leaky_relu": _Cost(2, 0),
    "sigmoid": _Cost(4, 1),
    "tanh": _Cost(4, 1),
    "silu": _Cost(5, 1),
    "gelu": _Cost(5, 1),
    "gelu_tanh": _Cost(12, 1),
    "mish": _Cost(8, 3),
    "softplus": _Cost(3, 2),
    "elu": _Cost(3, 1),
    "exp": _Cost(1, 1),
    "log": _Cost(1, 1),
    "sqrt": _Cost(1, 1),
    "sin": _Cost(1, 1),
    "cos": _Cost(1, 1),
    "relu_gradient": _Cost(1, 0),
    "leaky_relu_gradient": _Cost(2, 0),
    "sigmoid_gradient": _Cost(3, 0),
    "tanh_gradient": _Cost(3, 0),
    "silu_gradient": _Cost(8, 1),
    "gelu_gradient": _Cost(9, 2),
    "gelu_tanh_gradient": _Cost(21, 1),
    "mish_gradient": _Cost(17, 4),
    "softplus_gradient": _Cost(4, 1),
    "elu_gradient": _Cost(3, 1),
}
_SHAPE_OF = {
    "leaky_relu": {"slope": Attribute("number", 0.01, least=float("-inf"), text="slope below zero")},
    "elu": {"alpha": Attribute("number", 1.0, least=float("-inf"), text="limit far below zero, negated")},
}
_TEXT = {
    "relu": "max(x, 0)",
    "leaky_relu": "x above zero, slope·x below",
    "sigmoid": "1 / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "silu": "x · sigmoid(x), one kernel",
    "gelu": "x · Φ(x), one kernel",
    "gelu_tanh": "x · (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, one kernel",
    "mish": "x · tanh(log(1 + exp(x))), one kernel",
    "softplus": "log(1 + exp(x))",
    "elu": "x above zero, alpha · (exp(x) - 1) below",
    "exp": "exp(x)",
    "log": "log(x)",
    "sqrt": "√x",
    "sin": "sin(x)",
    "cos": "cos(x)",
}
for _name in _COST:
    _private = _name.endswith("_gradient")
    operator(
        _name,
        "elementwise",
        2 if _private else 1,
        attributes=_SHAPE_OF.get(_name.removesuffix("_gradient")),
        public=not _private,
        text=_TEXT.get(_name, ""),
    )


@shape(*_COST)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


def _counted(cost: _Cost) -> Callable[[Sequence[Shape], Sequence[Shape], Mapping[str, Any]], Work]:
    def count(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
        n = elements(outputs[0])
        return Work(flops=cost.flops * n, special=cost.special * n)

    return count


for _name, _cost in _COST.items():
    work(_name)(_counted(_cost))

Emit = Callable[["Builder", int, int, int], int]


def _from(name: str, rule: Emit) -> None:
    """The gradient of y = f(x) from a rule (b, dy, x, y)."""

    @gradient(name)
    def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
        return [rule(b, grads[0], node.inputs[0], node.outputs[0])]


_from("sigmoid", lambda b, dy, x, y: b.emit("sigmoid_gradient", dy, y))
_from("tanh", lambda b, dy, x, y: b.emit("tanh_gradient", dy, y))
_from("relu", lambda b, dy, x, y: b.emit("relu_gradient", dy, y))
_from("silu", lambda b, dy, x, y: b.emit("silu_gradient", dy, x))
_from("gelu", lambda b, dy, x, y: b.emit("gelu_gradient", dy, x))
_from("gelu_tanh", lambda b, dy, x, y: b.emit("gelu_tanh_gradient", dy, x))
_from("mish", lambda b, dy, x, y: b.emit("mish_gradient", dy, x))
_from("softplus", lambda b, dy, x, y: b.emit("softplus_gradient", dy, x))
_from("exp", lambda b, dy, x, y: b.emit("mul", dy, y))
_from("log", lambda b, dy, x, y: b.emit("div", dy, x))
_from("sqrt", lambda b, dy, x, y: b.emit("div", b.emit("scale", dy, by=0.5), y))
_from("sin", lambda b, dy, x, y: b.emit("mul", dy, b.emit("cos", x)))
_from("cos", lambda b, dy, x, y: b.emit("scale", b.emit("mul", dy, b.emit("sin", x)), by=-1.0))


@gradient("leaky_relu", "elu")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit(f"{node.op}_gradient", grads[0], node.inputs[0], **dict(node.attributes))]


@gradient("leaky_relu_gradient", "relu_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy; piecewise constant in the other input."""
    return [b.emit(node.op, grads[0], node.inputs[1], **dict(node.attributes)), None]


def _twice(name: str, second: Callable[[Builder, int, int, Mapping[str, Any]], int]) -> None:
    """The gradient of g = dy · f'(s), linear in dy; `second` gives h · dy · f''(s) from (b, h·dy, s, attributes)."""

    @gradient(name)
    def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
        dy, saved = node.inputs
        a = dict(node.attributes)
        first = b.emit(name, grads[0], saved, **a) if want[0] else None
        if not want[1]:
            return [first, None]
        return [first, second(b, b.emit("mul", grads[0], dy), saved, a)]


def _line(b: Builder, x: int, slope: float, level: float) -> int:
    """slope · x + level, two kernels."""
    return b.emit("shift", b.emit("scale", x, by=slope), by=level)


def _sigmoid_twice(b: Builder, hdy: int, y: int, a: Mapping[str, Any]) -> int:
    """d/dy [y (1 - y)] = 1 - 2y."""
    return b.emit("mul", hdy, _line(b, y, -2.0, 1.0))


def _tanh_twice(b: Builder, hdy: int, y: int, a: Mapping[str, Any]) -> int:
    """d/dy [1 - y²] = -2y."""
    return b.emit("scale", b.emit("mul", hdy, y), by=-2.0)


def _silu_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = s(1-s) · (2 + x (1 - 2s)), s = sigmoid(x)."""
    s = b.emit("sigmoid", x)
    slope = b.emit("mul", s, _line(b, s, -1.0, 1.0))
    bend = b.emit("mul", x, _line(b, s, -2.0, 1.0))
    return b.emit("mul", hdy, b.emit("mul", slope, b.emit("shift", bend, by=2.0)))


def _gelu_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = φ(x) (2 - x²), φ the normal density."""
    square = b.emit("square", x)
    density = b.emit("exp", _line(b, square, -0.5, -0.5 * math.log(2 * math.pi)))
    return b.emit("mul", hdy, b.emit("mul", density, _line(b, square, -1.0, 2.0)))


def _gelu_tanh_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = (1-t²) (u' + x (u''/2 - t u'²)), t = tanh(u), u = √(2/π) (x + c x³)."""
    root, c = math.sqrt(2 / math.pi), 0.044715
    square = b.emit("square", x)
    t = b.emit("tanh", b.emit("mul", x, _line(b, square, root * c, root)))
    slope = _line(b, square, 3 * root * c, root)
    bend = b.emit("sub", b.emit("scale", x, by=3 * root * c), b.emit("mul", t, b.emit("square", slope)))
    rest = b.emit("add", slope, b.emit("mul", x, bend))
    return b.emit("mul", hdy, b.emit("mul", _line(b, b.emit("square", t), -1.0, 1.0), rest))


def _mish_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = (1-t²) s (2 + x (1 - s - 2 t s)), s = sigmoid(x), t = tanh(softplus(x))."""
    s, t = b.emit("sigmoid", x), b.emit("tanh", b.emit("softplus", x))
    slope = b.emit("mul", s, _line(b, b.emit("square", t), -1.0, 1.0))
    inner = b.emit("shift", b.emit("mul", s, _line(b, t, -2.0, -1.0)), by=1.0)
    return b.emit("mul", hdy, b.emit("mul", slope, b.emit("shift", b.emit("mul", x, inner), by=2.0)))


def _softplus_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = s (1-s), s = sigmoid(x)."""
    return b.emit("sigmoid_gradient", hdy, b.emit("sigmoid", x))


def _elu_twice(b: Builder, hdy: int, x: int, a: Mapping[str, Any]) -> int:
    """f'' = alpha · exp(x) below zero, 0 above."""
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    below = b.emit("mul", hdy, b.emit("scale", b.emit("exp", x), by=a["alpha"]))
    return b.emit("select", b.emit("less", x, zero), below, zero)


_twice("sigmoid_gradient", _sigmoid_twice)
_twice("tanh_gradient", _tanh_twice)
_twice("silu_gradient", _silu_twice)
_twice("gelu_gradient", _gelu_twice)
_twice("gelu_tanh_gradient", _gelu_tanh_twice)
_twice("mish_gradient", _mish_twice)
_twice("softplus_gradient", _softplus_twice)
_twice("elu_gradient", _elu_twice)
