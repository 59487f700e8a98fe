"""Convolution along one axis and two, plain and transposed, and the two gradients, each an operator of its own.

The rules of both are the same, with one or two axes after the channels. A transposed convolution is what the input
gradient of a convolution computes, with a bias.
"""

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
    "stride": Attribute("int", 1, text="stride, the same along all axes"),
    "padding": Attribute("int", 0, least=0, text="zeros added on every side"),
    "groups": Attribute("int", 1, text="groups of channels"),
}
_LEARNED = {
    "out": Attribute("int", required=True, text="output channels"),
    "kernel": Attribute("int", required=True, text="kernel size, the same along all axes"),
    **_STEPS,
    "bias": Attribute("bool", True, text="whether a bias is added"),
}
_CUT = {"output_padding": Attribute("int", 0, least=0, text="elements added on one side of the result, below stride")}
_SIZES = {"size": Attribute("ints", required=True, text="the gradient's sizes after the channels")}
_BIAS = Parameter("bias", lambda i, a: (a["out"],) if a["bias"] else None)
PLAIN, TRANSPOSED = ("conv1d", "conv2d"), ("conv_transpose1d", "conv_transpose2d")
OF_INPUT = tuple(f"{name}_input_gradient" for name in PLAIN)
OF_WEIGHT = tuple(f"{name}_weight_gradient" for name in PLAIN)


def _weight(rank: int, transposed: bool) -> Parameter:
    def shaped(inputs: Sequence[Shape], a: Mapping[str, Any]) -> Shape:
        channels, kernel = inputs[0][-1 - rank], (a["kernel"],) * rank
        if transposed:
            return (channels, a["out"] // a["groups"], *kernel)
        return (a["out"], channels // a["groups"], *kernel)

    return Parameter("weight", shaped)


for _i, _over in enumerate(("[channels, length]", "[channels, height, width]")):
    operator(
        PLAIN[_i],
        "convolution",
        attributes=_LEARNED,
        parameters=(_weight(_i + 1, False), _BIAS),
        text=f"convolution over {_over}",
    )
    operator(
        TRANSPOSED[_i],
        "convolution",
        attributes={**_LEARNED, **_CUT},
        parameters=(_weight(_i + 1, True), _BIAS),
        text=f"transposed convolution over {_over}, which enlarges by its stride",
    )
    operator(OF_INPUT[_i], "convolution", 2, attributes={**_STEPS, **_SIZES}, public=False)
    operator(OF_WEIGHT[_i], "convolution", 2, attributes={**_STEPS, **_SIZES}, public=False)


def _operands(inputs: Sequence[Shape], a: Mapping[str, Any], incoming: int, outgoing: int) -> tuple[Shape, Shape]:
    """Input and weight, whose first two axes are the channels read and written."""
    x, w = inputs[0], inputs[1]
    if len(x) != len(w):
        axes = "[channels, length]" if len(w) == 3 else "[channels, height, width]"
        raise ShapeError(f"expected {axes} beside the chain axis, found shape {list(x)}")
    if x[1] % a["groups"] or outgoing % a["groups"]:
        raise ShapeError(f"expected channels that {a['groups']} groups divide, found {x[1]} in and {outgoing} out")
    if x[1] != incoming:
        raise ShapeError(f"expected {incoming} input channels, found {x[1]}")
    return x, w


@shape(*PLAIN)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, w = _operands(inputs, a, inputs[1][1] * a["groups"], inputs[1][0])
    sizes = [(s + 2 * a["padding"] - w[-1]) // a["stride"] + 1 for s in x[2:]]
    if min(sizes) < 1:
        raise ShapeError(f"the kernel of size {w[-1]} does not fit into an image of {'×'.join(map(str, x[2:]))}")
    return ((x[0], w[0], *sizes),)


@shape(*TRANSPOSED)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, w = _operands(inputs, a, inputs[1][0], inputs[1][1] * a["groups"])
    if a["output_padding"] >= a["stride"]:
        raise ShapeError(f"expected an output_padding below the stride {a['stride']}, found {a['output_padding']}")
    sizes = [(s - 1) * a["stride"] - 2 * a["padding"] + w[-1] + a["output_padding"] for s in x[2:]]
    if min(sizes) < 1:
        raise ShapeError(f"the padding of {a['padding']} does not fit into a result of {'×'.join(map(str, sizes))}")
    return ((x[0], w[1] * a["groups"], *sizes),)


def _window(w: Shape, a: Mapping[str, Any], image: Shape) -> tuple[int, int, int, int] | None:
    """Kernel and stride of a square window, height and width of the image written: what fast algorithms ask for."""
    return (w[-1], a["stride"], image[-2], image[-1]) if len(w) == 4 else None


@work(*PLAIN)
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y[i,o,p,q] = Σ_{c,r,s} x[i,c,·,·] w[o,c,r,s] (+ b[o]).

    2·(C/g)·R·S FLOPs per element of y, taps on the padding counted as torch counts them. As a product, per group:
    m pixels of all images, n = O/g filters, k = (C/g)·R·S. Along one axis the same without q and s.
    """
    y, w, g = outputs[0], inputs[1], a["groups"]
    taps = elements(w[1:])
    flops = 2 * elements(y) * taps
    return Work(
        flops=flops + elements(y) * len(inputs[2:]),
        product=(g, elements(y) // y[1], w[0] // g, taps),
        product_flops=flops,
        window=_window(w, a, y),
    )


def _steps(a: Mapping[str, Any]) -> dict[str, Any]:
    return {name: a[name] for name in ("stride", "padding", "groups")}


def _plain(b: Builder, x: int, w: int, a: Mapping[str, Any]) -> int:
    """The convolution without bias of which w is the weight."""
    shape_w = b.shape(w)
    op = PLAIN[len(shape_w) - 3]
    return b.emit(op, x, w, out=shape_w[0], kernel=shape_w[-1], bias=False, **_steps(a))


def _of_input(b: Builder, dy: int, w: int, like: int, a: Mapping[str, Any]) -> int:
    """The transposed convolution of dy with w, as large as the tensor `like`."""
    size = b.shape(like)[2:]
    return b.emit(OF_INPUT[len(size) - 1], dy, w, size=size, **_steps(a))


def _of_weight(b: Builder, x: int, dy: int, like: int, a: Mapping[str, Any]) -> int:
    """The correlation of x with dy, as large as the weight `like`."""
    size = b.shape(like)[2:]
    return b.emit(OF_WEIGHT[len(size) - 1], x, dy, size=size, **_steps(a))


def _of_bias(b: Builder, dy: int) -> int:
    rank = len(b.shape(dy))
    return b.emit("reduce_sum", dy, axes=(-rank, *range(2 - rank, 0)), keep=False)


@gradient(*PLAIN)
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx: transposed convolution of dy with w.  dw: correlation of x with dy.  db: sum over images and pixels."""
    x, w = node.inputs[:2]
    a = dict(node.attributes)
    out = [_of_input(b, grads[0], w, x, a) if want[0] else None]
    out.append(_of_weight(b, x, grads[0], w, a) if want[1] else None)
    return out + [_of_bias(b, grads[0]) if wanted else None for wanted in want[2:]]


@gradient(*TRANSPOSED)
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx: convolution of dy with w.  dw: correlation of dy with x.  db: sum over images and pixels."""
    x, w = node.inputs[:2]
    a = dict(node.attributes)
    out = [_plain(b, grads[0], w, a) if want[0] else None]
    out.append(_of_weight(b, grads[0], x, w, a) if want[1] else None)
    return out + [_of_bias(b, grads[0]) if wanted else None for wanted in want[2:]]


@shape(*OF_INPUT)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    dy, w = inputs
    return ((dy[0], w[1] * a["groups"], *a["size"]),)


@work(*OF_INPUT, *TRANSPOSED)
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx[i,c,·,·] = Σ_{o,r,s} dy[i,o,p,q] w[o,c,r,s] (+ b[c]): every tap of the forward once, so its FLOPs.

    As a product, per group: m pixels of dx, n = C/g, k = the taps that reach one pixel, (O/g)·R·S/stride² on average.
    """
    dy, w = inputs[:2]
    flops = 2 * elements(dy) * elements(w[1:])
    dx, g = outputs[0], a["groups"]
    m, n = elements(dx) // dx[1], w[1]
    k = max(1, flops // (2 * g * m * n))
    return Work(
        flops=flops + elements(dx) * len(inputs[2:]),
        product=(g, m, n, k),
        product_flops=flops,
        window=_window(w, a, dx),
    )


@gradient(*OF_INPUT)
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy and in w: with cotangent h, d(dy) = convolution of h with w and dw = correlation of h with dy."""
    dy, w = node.inputs
    a = dict(node.attributes)
    return [
        _plain(b, grads[0], w, a) if want[0] else None,
        _of_weight(b, grads[0], dy, w, a) if want[1] else None,
    ]


@shape(*OF_WEIGHT)
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, dy = inputs
    return ((dy[1], x[1] // a["groups"], *a["size"]),)


@work(*OF_WEIGHT)
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dw[o,c,r,s] = Σ_{i,p,q} dy[i,o,p,q] x[i,c,·,·]: 2·(C/g)·R·S FLOPs per element of dy, as the forward.

    (torch 2.13's counter reports G times this for G groups; the loop nest does not.) As a product, per group:
    m = O/g, n = (C/g)·R·S, k pixels of all images.
    """
    dw, dy, g = outputs[0], inputs[1], a["groups"]
    taps = elements(dw[1:])
    flops = 2 * elements(dy) * taps
    return Work(
        flops=flops,
        product=(g, dw[0] // g, taps, elements(dy) // dy[1]),
        product_flops=flops,
    )


@gradient(*OF_WEIGHT)
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in x and in dy: with cotangent h (shaped as w), dx = transposed convolution, d(dy) = convolution of x."""
    x, dy = node.inputs
    a = dict(node.attributes)
    return [
        _of_input(b, dy, grads[0], x, a) if want[0] else None,
        _plain(b, x, grads[0], a) if want[1] else None,
    ]
