"""Arithmetic on elements, with broadcasting, and its gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import (
    Attribute,
    Shape,
    ShapeError,
    Work,
    elements,
    gradient,
    operator,
    shape,
    work,
)

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

_NUMBER = {"by": Attribute("number", required=True, least=float("-inf"), text="the constant")}
_BOUNDS = {
    "low": Attribute("number", float("-inf"), least=float("-inf"), text="lower bound"),
    "high": Attribute("number", float("inf"), least=float("-inf"), text="upper bound"),
}
_BROADCAST = {
    "add": "a + b",
    "sub": "a - b",
    "mul": "a · b",
    "div": "a / b",
    "maximum": "the larger of a and b",
    "minimum": "the smaller of a and b",
    "equal": "whether a = b",
    "less": "whether a < b",
}
for _name, _text in _BROADCAST.items():
    _mask = "mask" if _name in ("equal", "less") else "float"
    operator(_name, "elementwise", 2, result=_mask, text=_text + ", broadcasting")
operator("select", "elementwise", 3, text="where the mask (first input) holds the second, else the third")
_ONE = ("scale", "shift", "square")
operator("scale", "elementwise", attributes=_NUMBER, text="x times a constant")
operator("shift", "elementwise", attributes=_NUMBER, text="x plus a constant")
operator("square", "elementwise", text="x²")
operator("pow", "elementwise", attributes=_NUMBER, text="x to the power of a constant")
operator("clamp", "elementwise", attributes=_BOUNDS, text="x limited to [low, high]")
operator("clamp_gradient", "elementwise", 2, attributes=_BOUNDS, public=False)
ARITHMETIC = (*_BROADCAST, "select", *_ONE, "pow", "clamp", "clamp_gradient")


def broadcast(inputs: Sequence[Shape]) -> Shape:
    """The shape that inputs broadcast to, aligned at the last axis. Raises ShapeError."""
    rank = max(map(len, inputs))
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in inputs]
    result = []
    for sizes in zip(*padded, strict=True):
        size = max(sizes)
        if any(s not in (1, size) for s in sizes):
            shown = " and ".join(str(list(s)) for s in inputs)
            raise ShapeError(f"expected shapes that broadcast, found {shown}")
        result.append(size)
    return tuple(result)


def reduce_to(b: Builder, tensor: int, target: Shape) -> int:
    """Sum a gradient over the axes along which its operand was broadcast."""
    shape = b.shape(tensor)
    if shape == target:
        return tensor
    rank = len(shape)
    padded = (1,) * (rank - len(target)) + tuple(target)
    axes = tuple(i - rank for i in range(rank) if padded[i] != shape[i])
    if axes:
        tensor = b.emit("reduce_sum", tensor, axes=axes, keep=True)
    return tensor if b.shape(tensor) == target else b.emit("reshape", tensor, shape=target)


@shape(*_BROADCAST, "select")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (broadcast(inputs),)


@shape(*_ONE, "pow", "clamp", "clamp_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@work(*_BROADCAST, "select", *_ONE)
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One operation per element written."""
    return Work(flops=elements(outputs[0]))


@work("pow")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """x² and x³ by products; otherwise exp(p log x): two transcendental results and a product."""
    n = elements(outputs[0])
    if a["by"] in (2.0, 3.0):
        return Work(flops=(int(a["by"]) - 1) * n)
    return Work(flops=n, special=2 * n)


@work("clamp", "clamp_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Two comparisons per element written."""
    return Work(flops=2 * elements(outputs[0]))


Rule = Callable[["Builder", int, int, int, int], int]


def _binary(name: str, left: Rule, right: Rule) -> None:
    """The gradient of a broadcasting binary operator from rules (b, dy, y, first, second) for each operand."""

    @gradient(name)
    def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
        first, second = node.inputs
        out: list[int | None] = [None, None]
        for i, each in enumerate((left, right)):
            if want[i]:
                full = each(b, grads[0], node.outputs[0], first, second)
                out[i] = reduce_to(b, full, b.shape(node.inputs[i]))
        return out


_binary("add", lambda b, dy, y, p, q: dy, lambda b, dy, y, p, q: dy)
_binary("sub", lambda b, dy, y, p, q: dy, lambda b, dy, y, p, q: b.emit("scale", dy, by=-1.0))
_binary("mul", lambda b, dy, y, p, q: b.emit("mul", dy, q), lambda b, dy, y, p, q: b.emit("mul", dy, p))
_binary(
    "div",
    lambda b, dy, y, p, q: b.emit("div", dy, q),
    lambda b, dy, y, p, q: b.emit("scale", b.emit("div", b.emit("mul", dy, y), q), by=-1.0),
)


def _larger(b: Builder, dy: int, p: int, q: int, mine: int, *, smallest: bool) -> int:
    """dy where the operand `mine` was taken, half of it where both are equal, else 0; five kernels, as in torch."""
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    other = q if mine == p else p
    shared = b.emit("select", b.emit("equal", p, q), b.emit("scale", dy, by=0.5), dy)
    lost = b.emit("less", other, mine) if smallest else b.emit("less", mine, other)
    return b.emit("select", lost, zero, shared)


_binary(
    "maximum",
    lambda b, dy, y, p, q: _larger(b, dy, p, q, p, smallest=False),
    lambda b, dy, y, p, q: _larger(b, dy, p, q, q, smallest=False),
)
_binary(
    "minimum",
    lambda b, dy, y, p, q: _larger(b, dy, p, q, p, smallest=True),
    lambda b, dy, y, p, q: _larger(b, dy, p, q, q, smallest=True),
)


@gradient("pow")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy · p xᵖ⁻¹."""
    p = node.attribute("by")
    return [b.emit("mul", grads[0], b.emit("scale", b.emit("pow", node.inputs[0], by=p - 1.0), by=p))]


@gradient("scale")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("scale", grads[0], **dict(node.attributes))]


@gradient("shift")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [grads[0]]


@gradient("square")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy · 2x."""
    return [b.emit("mul", grads[0], b.emit("scale", node.inputs[0], by=2.0))]


@gradient("clamp")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy where low ≤ x ≤ high, else 0."""
    return [b.emit("clamp_gradient", grads[0], node.inputs[0], **dict(node.attributes))]


@gradient("clamp_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy; piecewise constant in x."""
    return [b.emit("clamp_gradient", grads[0], node.inputs[1], **dict(node.attributes)), None]


@gradient("select")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """The gradient goes where the value came from; zero elsewhere."""
    mask = node.inputs[0]
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    left = b.emit("select", mask, grads[0], zero) if want[1] else None
    right = b.emit("select", mask, zero, grads[0]) if want[2] else None
    return [
        None,
        None if left is None else reduce_to(b, left, b.shape(node.inputs[1])),
        None if right is None else reduce_to(b, right, b.shape(node.inputs[2])),
    ]


@gradient("equal", "less")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """A mask is piecewise constant."""
    return [None, None]
