"""Average and maximum pooling of images."""

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

_STEPS = {
    "kernel": Attribute("int", required=True, text="window size, the same along both axes"),
    "stride": Attribute("int", required=True, text="stride, the same along both axes"),
}
_WINDOW = {**_STEPS, "padding": Attribute("int", 0, least=0, text="zeros added on every side, counted in the mean")}
_SIZE = {"size": Attribute("ints", required=True)}
operator("avg_pool2d", "elementwise", attributes=_WINDOW, text="mean over windows of an image")
operator("avg_pool2d_gradient", "elementwise", attributes={**_WINDOW, **_SIZE}, public=False)
operator(
    "max_pool2d",
    "elementwise",
    attributes={
        **_STEPS,
        "padding": Attribute("int", 0, least=0, text="border added on every side, never the largest"),
    },
    result=("float", "index"),
    text="largest over windows of an image",
)
operator("max_pool2d_gradient", "elementwise", 2, attributes=_SIZE, public=False)


def _pooled(x: Shape, a: Mapping[str, Any]) -> Shape:
    if len(x) < 3:
        raise ShapeError(f"expected [channels, height, width], found shape {list(x)}")
    sizes = [(s + 2 * a["padding"] - a["kernel"]) // a["stride"] + 1 for s in x[-2:]]
    if min(sizes) < 1:
        raise ShapeError(f"the window of size {a['kernel']} does not fit into an image of {x[-2]}×{x[-1]}")
    return (*x[:-2], *sizes)


@shape("avg_pool2d")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (_pooled(inputs[0], a),)


@shape("max_pool2d")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    """The largest elements, and the index of each in its image."""
    if 2 * a["padding"] > a["kernel"]:
        raise ShapeError(f"expected a padding of at most half the window of {a['kernel']}, found {a['padding']}")
    return (_pooled(inputs[0], a),) * 2


@shape("avg_pool2d_gradient", "max_pool2d_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((*inputs[0][:-2], *a["size"]),)


@work("avg_pool2d", "max_pool2d")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Window-size additions, or comparisons, per element written. The maximum writes indices of 8 bytes, too."""
    return Work(flops=a["kernel"] ** 2 * elements(outputs[0]))


@work("avg_pool2d_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Window-size additions per element of the gradient read."""
    return Work(flops=a["kernel"] ** 2 * elements(inputs[0]))


@gradient("avg_pool2d")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    size = b.shape(node.inputs[0])[-2:]
    return [b.emit("avg_pool2d_gradient", grads[0], size=size, **dict(node.attributes))]


@gradient("avg_pool2d_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear, the transpose of the pooling."""
    a = dict(node.attributes)
    del a["size"]
    return [b.emit("avg_pool2d", grads[0], **a)]


@work("max_pool2d_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx is dy at the saved index, added where windows share it: one addition per element of dy."""
    return Work(flops=elements(inputs[0]))


@gradient("max_pool2d")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    size = b.shape(node.inputs[0])[-2:]
    return [b.emit("max_pool2d_gradient", grads[0], node.outputs[1], size=size)]


@gradient("max_pool2d_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy: the cotangent at the saved index."""
    dy, index = node.inputs
    full = b.shape(dy)
    planes, (height, width) = full[:-2], node.attribute("size")
    flat = b.emit("reshape", grads[0], shape=(*planes, height * width))
    where = b.emit("reshape", index, shape=(*planes, full[-2] * full[-1]))
    taken = b.emit("gather", flat, where, axis=-1, shared=len(planes))
    return [b.emit("reshape", taken, shape=full), None]
