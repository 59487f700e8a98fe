"""Reductions over axes, and softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_AXES = {
    "axes": Attribute("axes", required=True, text="axes reduced"),
    "keep": Attribute("bool", False, text="keep reduced axes with size 1"),
}
_AXIS = {"axis": Attribute("axis", -1, text="the axis that is normalised")}
operator("reduce_sum", "elementwise", attributes=_AXES, text="sum over axes")
operator("reduce_mean", "elementwise", attributes=_AXES, text="mean over axes")
operator("reduce_max", "elementwise", attributes=_AXES, text="largest over axes")
operator("reduce_min", "elementwise", attributes=_AXES, text="smallest over axes")
operator("reduce_std", "elementwise", attributes=_AXES, text="standard deviation over axes, with n - 1")
operator("logsumexp", "elementwise", attributes=_AXES, text="log of the sum of exponentials over axes")
operator("softmax", "elementwise", attributes=_AXIS, text="softmax over an axis")
operator("softmax_gradient", "elementwise", 2, attributes=_AXIS, public=False)


@shape("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "logsumexp")
def _reduced(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    axes = {len(x) + axis for axis in a["axes"]}
    if not axes or min(axes) < 0:
        raise ShapeError(f"expected axes of a tensor with {len(x)} axes, found {list(a['axes'])}")
    if a["keep"]:
        return (tuple(1 if i in axes else s for i, s in enumerate(x)),)
    return (tuple(s for i, s in enumerate(x) if i not in axes),)


@shape("reduce_std")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    (result,) = _reduced(inputs, a)
    if elements(result) == elements(inputs[0]):
        raise ShapeError(f"expected at least two elements in every group, found one in {list(inputs[0])}")
    return (result,)


@shape("softmax", "softmax_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    if len(inputs[0]) + a["axis"] < 0:
        raise ShapeError(f"expected an axis of a tensor with {len(inputs[0])} axes, found {a['axis']}")
    return (inputs[0],)


@work("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One operation per element read."""
    return Work(flops=elements(inputs[0]))


@work("reduce_std")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Sum, difference, square and their sum per element read, in one pass; a root per element written."""
    return Work(flops=4 * elements(inputs[0]), special=elements(outputs[0]))


@work("logsumexp")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Maximum, difference, exponential and sum per element read; a logarithm per element written."""
    n = elements(inputs[0])
    return Work(flops=4 * n, special=n + elements(outputs[0]))


@work("softmax")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Maximum, difference, exponential, sum, division: five operations and one exponential per element."""
    n = elements(outputs[0])
    return Work(flops=5 * n, special=n)


@work("softmax_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx = y (dy - Σ dy y): four operations per element."""
    return Work(flops=4 * elements(outputs[0]))


def _spread(b: Builder, node: Node, tensor: int) -> int:
    """View a reduced tensor at the shape before the reduction."""
    full = b.shape(node.inputs[0])
    axes = {len(full) + axis for axis in node.attribute("axes")}
    kept = tuple(1 if i in axes else s for i, s in enumerate(full))
    if b.shape(tensor) != kept:
        tensor = b.emit("reshape", tensor, shape=kept)
    return b.emit("expand", tensor, shape=full)


@gradient("reduce_sum")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [_spread(b, node, grads[0])]


@gradient("reduce_mean")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy / count, a kernel that writes (torch divides the expanded gradient)."""
    count = elements(b.shape(node.inputs[0])) // elements(b.shape(node.outputs[0]))
    return [b.emit("scale", _spread(b, node, grads[0]), by=1.0 / count)]


@gradient("reduce_std")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy (x - mean x) / ((n - 1) y), in the kernels of torch: mean, difference, factor, product."""
    x, y = node.inputs[0], node.outputs[0]
    count = elements(b.shape(x)) // elements(b.shape(y))
    centred = b.emit("sub", x, b.emit("reduce_mean", x, axes=node.attribute("axes"), keep=True))
    factor = b.emit("scale", b.emit("div", grads[0], y), by=1.0 / (count - 1))
    return [b.emit("mul", centred, _spread(b, node, factor))]


@gradient("reduce_max", "reduce_min")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """The gradient goes to the element that was taken (all of them where they tie)."""
    mask = b.emit("equal", node.inputs[0], _spread(b, node, node.outputs[0]))
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    return [b.emit("select", mask, _spread(b, node, grads[0]), zero)]


@gradient("logsumexp")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy · exp(x - y)."""
    share = b.emit("exp", b.emit("sub", node.inputs[0], _spread(b, node, node.outputs[0])))
    return [b.emit("mul", share, _spread(b, node, grads[0]))]


@gradient("softmax")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("softmax_gradient", grads[0], node.outputs[0], axis=node.attribute("axis"))]


@gradient("softmax_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = y (g - Σ g y). With cotangent h: dg = y (h - Σ h y); dy = h (g - Σ g y) - g Σ h y."""
    g, y = node.inputs
    h, axis = grads[0], node.attribute("axis")
    first = b.emit("softmax_gradient", h, y, axis=axis) if want[0] else None
    if not want[1]:
        return [first, None]
    gy = b.emit("reduce_sum", b.emit("mul", g, y), axes=(axis,), keep=True)
    hy = b.emit("reduce_sum", b.emit("mul", h, y), axes=(axis,), keep=True)
    left = b.emit("mul", h, b.emit("sub", g, gy))
    return [first, b.emit("sub", left, b.emit("mul", g, hy))]
