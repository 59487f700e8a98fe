"""Average pooling of images."""

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

_WINDOW = {
    "kernel": Attribute("int", required=True, text="window size, the same along both axes"),
    "stride": Attribute("int", required=True, text="stride, the same along both axes"),
    "padding": Attribute("int", 0, least=0, text="zeros added on every side, counted in the mean"),
}
operator("avg_pool2d", "elementwise", attributes=_WINDOW, text="mean over windows of an image")
operator(
    "avg_pool2d_gradient",
    "elementwise",
    attributes={**_WINDOW, "size": Attribute("ints", required=True)},
    public=False,
)


@shape("avg_pool2d")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if len(x) < 3:
        raise ShapeError(f"expected [channels, height, width], found shape {list(x)}")
    sizes = [(s + 2 * a["padding"] - a["kernel"]) // a["stride"] + 1 for s in x[-2:]]
    if min(sizes) < 1:
        raise ShapeError(f"the window of size {a['kernel']} does not fit into an image of {x[-2]}×{x[-1]}")
    return ((*x[:-2], *sizes),)


@shape("avg_pool2d_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((*inputs[0][:-2], *a["size"]),)


@work("avg_pool2d")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Window-size additions per element written."""
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
