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
_SPREAD = {**_AXES, "correction": Attribute("int", 1, least=0, text="the sum of squares is divided by count less this")}
_AXIS = {"axis": Attribute("axis", -1, text="the axis that is normalised")}
operator("reduce_sum", "elementwise", attributes=_AXES, text="sum over axes")
operator("reduce_mean", "elementwise", attributes=_AXES, text="mean over axes")
operator("reduce_max", "elementwise", attributes=_AXES, text="largest over axes")
operator("reduce_min", "elementwise", attributes=_AXES, text="smallest over axes")
operator("reduce_norm", "elementwise", attributes=_AXES, text="root of the sum of squares over axes, one kernel")
operator("reduce_var", "elementwise", attributes=_SPREAD, text="variance over axes, one kernel")
operator("reduce_std", "elementwise", attributes=_SPREAD, text="standard deviation over axes, one kernel")
operator("logsumexp", "elementwise", attributes=_AXES, text="log of the sum of exponentials over axes")
operator("softmax", "elementwise", attributes=_AXIS, text="softmax over an axis")
operator("log_softmax", "elementwise", attributes=_AXIS, text="logarithm of softmax over an axis, one kernel")
operator("softmax_gradient", "elementwise", 2, attributes=_AXIS, public=False)
operator("log_softmax_gradient", "elementwise", 2, attributes=_AXIS, public=False)
_REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_norm", "reduce_var", "reduce_std")
_OVER_AN_AXIS = ("softmax", "log_softmax", "softmax_gradient", "log_softmax_gradient")


@shape(*_REDUCTIONS, "logsumexp")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    axes = {len(x) + axis for axis in a["axes"]}
    if not axes or min(axes) < 0:
        raise ShapeError(f"expected axes of a tensor with {len(x)} axes, found {list(a['axes'])}")
    count = elements(tuple(x[axis] for axis in axes))
    if a.get("correction", 0) >= count:
        raise ShapeError(f"expected more than {a['correction']} elements over axes {list(a['axes'])}, found {count}")
    if a["keep"]:
        return (tuple(1 if i in axes else s for i, s in enumerate(x)),)
    return (tuple(s for i, s in enumerate(x) if i not in axes),)


@shape(*_OVER_AN_AXIS)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    if len(inputs[0]) + a["axis"] < 0:
        raise ShapeError(f"expected an axis of a tensor with {len(inputs[0])} axes, found {a['axis']}")
    return (inputs[0],)


@work("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One operation per element read."""
    return Work(flops=elements(inputs[0]))


@work("reduce_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """√Σ x²: square and sum, two operations per element read; a root per element written."""
    return Work(flops=2 * elements(inputs[0]), special=elements(outputs[0]))


@work("reduce_var")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Σ (x - mean x)² / (count - correction): sum, difference, square, sum, four operations per element read."""
    return Work(flops=4 * elements(inputs[0]))


@work("reduce_std")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """The root of a variance, in the same kernel."""
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


@work("log_softmax")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Maximum, difference, exponential, sum, difference: five operations and one exponential per element.

    A logarithm per row.
    """
    n = elements(outputs[0])
    return Work(flops=5 * n, special=n + n // outputs[0][a["axis"]])


@work("log_softmax_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx = dy - exp(y) Σ dy: four operations and one exponential per element."""
    n = elements(outputs[0])
    return Work(flops=4 * n, special=n)


@work("softmax_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx = p - y Σ p, p = dy y from a kernel before: three operations per element."""
    return Work(flops=3 * elements(outputs[0]))


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


@gradient("reduce_max", "reduce_min")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """The gradient goes to the element that was taken (all of them where they tie)."""
    mask = b.emit("equal", node.inputs[0], _spread(b, node, node.outputs[0]))
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    return [b.emit("select", mask, _spread(b, node, grads[0]), zero)]


def _unless_zero(b: Builder, node: Node, grad: int) -> int:
    """A gradient, 0 where the reduction's result is 0: two kernels, as in torch."""
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    return b.emit("select", b.emit("equal", node.outputs[0], zero), zero, grad)


@gradient("reduce_norm")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = x dy / y, and 0 where y is."""
    ratio = _unless_zero(b, node, b.emit("div", grads[0], node.outputs[0]))
    return [b.emit("mul", node.inputs[0], _spread(b, node, ratio))]


@gradient("reduce_var", "reduce_std")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy 2 (x - mean x) / (count - correction); of a standard deviation y, dy / 2y takes the place of dy."""
    x, y, a = node.inputs[0], node.outputs[0], dict(node.attributes)
    dy = grads[0]
    if node.op == "reduce_std":
        dy = _unless_zero(b, node, b.emit("div", dy, b.emit("scale", y, by=2.0)))
    count = elements(b.shape(x)) // elements(b.shape(y))
    centred = b.emit("sub", x, b.emit("reduce_mean", x, axes=a["axes"], keep=True))
    factor = b.emit("scale", dy, by=2.0 / (count - a["correction"]))
    return [b.emit("mul", _spread(b, node, factor), centred)]


@gradient("logsumexp")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy · exp(x - y)."""
    share = b.emit("exp", b.emit("sub", node.inputs[0], _spread(b, node, node.outputs[0])))
    return [b.emit("mul", share, _spread(b, node, grads[0]))]


@gradient("softmax")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = p - y Σ p with p = dy y: two kernels, as torch has them on CUDA (softmax_backward_cuda_out)."""
    product = b.emit("mul", grads[0], node.outputs[0])
    return [b.emit("softmax_gradient", product, node.outputs[0], axis=node.attribute("axis"))]


@gradient("log_softmax")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("log_softmax_gradient", grads[0], node.outputs[0], axis=node.attribute("axis"))]


@gradient("log_softmax_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = g - exp(y) Σ g. With cotangent h: dg = h - Σ h exp(y); dy = -h exp(y) Σ g."""
    g, y = node.inputs
    h, axis = grads[0], node.attribute("axis")
    share = b.emit("mul", h, b.emit("exp", y))
    first = b.emit("sub", h, b.emit("reduce_sum", share, axes=(axis,), keep=True)) if want[0] else None
    if not want[1]:
        return [first, None]
    return [first, b.emit("mul", share, b.emit("neg", b.emit("reduce_sum", g, axes=(axis,), keep=True)))]


@gradient("softmax_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = p - y Σ p. With cotangent h: dp = h - Σ h y; dy = -h Σ p."""
    p, y = node.inputs
    h, axis = grads[0], node.attribute("axis")
    first = None
    if want[0]:
        first = b.emit("sub", h, b.emit("reduce_sum", b.emit("mul", h, y), axes=(axis,), keep=True))
    if not want[1]:
        return [first, None]
    return [first, b.emit("mul", h, b.emit("neg", b.emit("reduce_sum", p, axes=(axis,), keep=True)))]
