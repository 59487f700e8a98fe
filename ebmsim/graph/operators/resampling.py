"""Enlarging images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Attribute, Shape, ShapeError, Work, elements, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

_SCALE = {
    "scale": Attribute("int", 2, text="times by which height and width grow"),
    "mode": Attribute("choice", "nearest", choices=("nearest", "bilinear"), text="copies, or four neighbours mixed"),
}
operator("upsample", "transformation", attributes=_SCALE, text="enlarge the last two axes")
operator("upsample_gradient", "transformation", attributes=_SCALE, public=False)


@shape("upsample")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if len(x) < 3:
        raise ShapeError(f"expected [channels, height, width], found shape {list(x)}")
    return ((*x[:-2], x[-2] * a["scale"], x[-1] * a["scale"]),)


@shape("upsample_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    dy = inputs[0]
    return ((*dy[:-2], dy[-2] // a["scale"], dy[-1] // a["scale"]),)


@work("upsample")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """nearest: copies. bilinear: p (u a + v b) + q (u c + v d), nine operations per element written.

    Not counted: the indices and weights, which are computed per element, too.
    """
    return Work(flops=9 * elements(outputs[0]) if a["mode"] == "bilinear" else 0)


@work("upsample_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """nearest: one addition per element read. bilinear: four times a weight p u, a product and an addition."""
    return Work(flops=(12 if a["mode"] == "bilinear" else 1) * elements(inputs[0]))


@gradient("upsample")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("upsample_gradient", grads[0], **dict(node.attributes))]


@gradient("upsample_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear, the transpose of the enlargement."""
    return [b.emit("upsample", grads[0], **dict(node.attributes))]
