"""Two-dimensional convolution and its two gradients, each an operator of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import (
    Attribute,
    Parameter,
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
    "stride": Attribute("int", 1, text="stride, the same along both axes"),
    "padding": Attribute("int", 0, least=0, text="zeros added on every side"),
    "groups": Attribute("int", 1, text="groups of channels"),
}
operator(
    "conv2d",
    "convolution",
    attributes={
        "out": Attribute("int", required=True, text="output channels"),
        "kernel": Attribute("int", required=True, text="kernel size, the same along both axes"),
        **_STEPS,
        "bias": Attribute("bool", True, text="whether a bias is added"),
    },
    parameters=(
        Parameter("weight", lambda i, a: (a["out"], i[0][-3] // a["groups"], a["kernel"], a["kernel"])),
        Parameter("bias", lambda i, a: (a["out"],) if a["bias"] else None),
    ),
    text="two-dimensional convolution over [channels, height, width]",
)
_SIZES = {"size": Attribute("ints", required=True, text="height and width of the gradient")}
operator("conv2d_input_gradient", "convolution", 2, attributes={**_STEPS, **_SIZES}, public=False)
operator("conv2d_weight_gradient", "convolution", 2, attributes={**_STEPS, **_SIZES}, public=False)


@shape("conv2d")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, w = inputs[0], inputs[1]
    if len(x) != 4:
        raise ShapeError(f"expected [channels, height, width] beside the chain axis, found shape {list(x)}")
    if x[1] % a["groups"] or w[0] % a["groups"]:
        raise ShapeError(f"expected channels that {a['groups']} groups divide, found {x[1]} in and {w[0]} out")
    if x[1] != w[1] * a["groups"]:
        raise ShapeError(f"expected {w[1] * a['groups']} input channels, found {x[1]}")
    sizes = [(s + 2 * a["padding"] - w[-1]) // a["stride"] + 1 for s in x[2:]]
    if min(sizes) < 1:
        raise ShapeError(f"the kernel of size {w[-1]} does not fit into an image of {x[2]}×{x[3]}")
    return ((x[0], w[0], *sizes),)


@work("conv2d")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y[i,o,p,q] = Σ_{c,r,s} x[i,c,·,·] w[o,c,r,s] (+ b[o]).

    2·(C/g)·R·S FLOPs per element of y, taps on the padding counted as torch counts them. As a product, per group:
    m pixels of all images, n = O/g filters, k = (C/g)·R·S.
    """
    y, w = outputs[0], inputs[1]
    taps = elements(w[1:])
    flops = 2 * elements(y) * taps
    bias = elements(y) if len(inputs) > 2 else 0
    g = a["groups"]
    m = y[0] * y[2] * y[3]
    return Work(
        flops=flops + bias,
        product=(g, m, w[0] // g, taps),
        product_flops=flops,
        window=(w[-1], a["stride"]),
    )


def _steps(a: Mapping[str, Any]) -> dict[str, Any]:
    return {name: a[name] for name in ("stride", "padding", "groups")}


@gradient("conv2d")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx: transposed convolution of dy with w.  dw: correlation of x with dy.  db: sum over images and pixels."""
    x, w = node.inputs[0], node.inputs[1]
    a = _steps(dict(node.attributes))
    out: list[int | None] = [None] * len(node.inputs)
    if want[0]:
        out[0] = b.emit("conv2d_input_gradient", grads[0], w, size=b.shape(x)[2:], **a)
    if want[1]:
        out[1] = b.emit("conv2d_weight_gradient", x, grads[0], size=b.shape(w)[2:], **a)
    if len(want) > 2 and want[2]:
        out[2] = b.emit("reduce_sum", grads[0], axes=(-4, -2, -1), keep=False)
    return out


@shape("conv2d_input_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    dy, w = inputs
    return ((dy[0], w[1] * a["groups"], *a["size"]),)


@work("conv2d_input_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx[i,c,·,·] = Σ_{o,r,s} dy[i,o,p,q] w[o,c,r,s]: every tap of the forward once, so its FLOPs.

    As a product, per group: m pixels of dx, n = C/g, k = the taps that reach one pixel, (O/g)·R·S/stride² on average.
    """
    dy, w = inputs
    flops = 2 * elements(dy) * elements(w[1:])
    dx, g = outputs[0], a["groups"]
    m, n = dx[0] * dx[2] * dx[3], w[1]
    k = max(1, flops // (2 * g * m * n))
    return Work(flops=flops, product=(g, m, n, k), product_flops=flops, window=(w[-1], a["stride"]))


@gradient("conv2d_input_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy and in w: with cotangent h, d(dy) = conv2d(h, w) and dw = correlation of h with dy."""
    dy, w = node.inputs
    a = _steps(dict(node.attributes))
    shape_w = b.shape(w)
    first = second = None
    if want[0]:
        first = b.emit("conv2d", grads[0], w, out=shape_w[0], kernel=shape_w[-1], bias=False, **a)
    if want[1]:
        second = b.emit("conv2d_weight_gradient", grads[0], dy, size=shape_w[2:], **a)
    return [first, second]


@shape("conv2d_weight_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, dy = inputs
    return ((dy[1], x[1] // a["groups"], *a["size"]),)


@work("conv2d_weight_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dw[o,c,r,s] = Σ_{i,p,q} dy[i,o,p,q] x[i,c,·,·]: 2·(C/g)·R·S FLOPs per element of dy, as the forward.

    (torch 2.13's counter reports G times this for G groups; the loop nest does not.) As a product, per group:
    m = O/g, n = (C/g)·R·S, k pixels of all images.
    """
    dw, dy, g = outputs[0], inputs[1], a["groups"]
    taps = elements(dw[1:])
    flops = 2 * elements(dy) * taps
    k = dy[0] * dy[2] * dy[3]
    return Work(
        flops=flops,
        product=(g, dw[0] // g, taps, k),
        product_flops=flops,
        window=(dw[-1], a["stride"]),
    )


@gradient("conv2d_weight_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in x and in dy: with cotangent h (shaped as w), dx = transposed convolution, d(dy) = conv2d(x, h)."""
    x, dy = node.inputs
    a = _steps(dict(node.attributes))
    h = grads[0]
    shape_h = b.shape(h)
    first = second = None
    if want[0]:
        first = b.emit("conv2d_input_gradient", dy, h, size=b.shape(x)[2:], **a)
    if want[1]:
        second = b.emit("conv2d", x, h, out=shape_h[0], kernel=shape_h[-1], bias=False, **a)
    return [first, second]
