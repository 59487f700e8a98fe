"""Normalisation: layer, root-mean-square, group, instance and batch norm, and their fused backward kernels.

What the backward kernels differentiate to stands in `normalised.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.normalised import Normalised, gain_shape
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

_AFFINE = {"affine": Attribute("bool", True, text="whether a learned gain and bias follow")}


def _learned(axis: int, *names: str) -> tuple[Parameter, ...]:
    """Gain and bias as wide as an axis of the input."""

    def width(inputs: Sequence[Shape], a: Mapping[str, Any]) -> Shape | None:
        return (inputs[0][axis],) if a["affine"] else None

    return tuple([Parameter(name, width) for name in names])


def _stored(inputs: Sequence[Shape], a: Mapping[str, Any]) -> Shape | None:
    return None if a["training"] else (inputs[0][1],)


operator(
    "group_norm",
    "elementwise",
    attributes={"groups": Attribute("int", required=True, text="groups of channels"), **_AFFINE},
    parameters=_learned(1, "weight", "bias"),
    text="normalise groups of channels of an image",
)
operator(
    "instance_norm",
    "elementwise",
    attributes=_AFFINE,
    parameters=_learned(1, "weight", "bias"),
    text="normalise every channel of an image by itself",
)
operator(
    "layer_norm",
    "elementwise",
    attributes=_AFFINE,
    parameters=_learned(-1, "weight", "bias"),
    text="normalise the last axis",
)
operator(
    "rms_norm",
    "elementwise",
    attributes={"affine": Attribute("bool", True, text="whether a learned gain follows")},
    parameters=_learned(-1, "weight"),
    text="divide the last axis by its root mean square, one kernel",
)
operator(
    "batch_norm",
    "elementwise",
    attributes={
        **_AFFINE,
        "training": Attribute("bool", False, text="statistics of the batch, over all chains; else stored ones"),
    },
    parameters=(
        *_learned(1, "weight", "bias"),
        Parameter("mean", _stored, "buffer"),
        Parameter("variance", _stored, "buffer"),
    ),
    text="normalise every channel with statistics over chains and positions",
)
# What the backward kernels share: over which elements statistics are taken, and the groups of `group`.
_BACK = {
    "over": Attribute("choice", required=True, choices=("layer", "rms", "group", "batch", "stored")),
    "groups": Attribute("int", required=True),
}
operator("norm_gradient", "elementwise", (3, 5), attributes=_BACK, public=False)
operator("norm_weight_gradient", "elementwise", (3, 4), attributes=_BACK, public=False)


@shape("group_norm", "instance_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if len(x) < 3:
        raise ShapeError(f"expected [channels, …] beside the chain axis, found shape {list(x)}")
    groups = a.get("groups", x[1])
    if x[1] % groups:
        raise ShapeError(f"expected channels that {groups} groups divide, found {x[1]}")
    return (x, (x[0], groups), (x[0], groups))


@shape("layer_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    return (x, tuple(x[:-1]), tuple(x[:-1]))


@shape("rms_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0], tuple(inputs[0][:-1]))


@shape("batch_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if len(x) < 2:
        raise ShapeError(f"expected [channels, …] beside the chain axis, found shape {list(x)}")
    return (x, (x[1],), (x[1],))


# Groups of elements with a statistic of their own that a device works on at the same time. In public kernel tables a
# layer norm takes three passes instead of two from 1,600 elements a row on with 4 MiB of cache (T4), from 4,000 with
# 40 (A100, in two halves) and from 8,000 with 48 (L4).
_IN_FLIGHT = 1024


def _twice(count: int, statistics: int, operands: int = 1) -> tuple[int, int]:
    """Operands are read again once their group's statistics are known, other groups in flight touched in between."""
    return operands * count, operands * min(count, _IN_FLIGHT * (count // max(1, statistics)))


@work("group_norm", "instance_norm", "layer_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y = (x - mean x) r w + b, r = 1/√(variance + ε): eight operations per element, a root per statistic.

    Sum, squares and their sum, difference, scale, gain, bias; the same without gain and bias. Not counted: the gain
    and bias that torch's instance norm repeats for every chain, two small copies.
    """
    n, statistics = elements(inputs[0]), elements(outputs[1])
    return Work(flops=8 * n, special=statistics, again=_twice(n, statistics))


@work("rms_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y = x r w, r = 1/√(mean x² + ε): square, sum, scale, gain: four operations per element, a root per row.

    torch's fused kernel. Networks that write the norm themselves launch six kernels: square, reduce_mean, shift,
    rsqrt, mul, mul.
    """
    n, statistics = elements(inputs[0]), elements(outputs[1])
    return Work(flops=4 * n, special=statistics, again=_twice(n, statistics))


@work("batch_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """As a layer norm with statistics of the batch; with stored ones difference, scale, gain, bias.

    Not counted: the running statistics' update in training.
    """
    n, statistics = elements(inputs[0]), elements(outputs[1])
    again = _twice(n, statistics) if a["training"] else (0, 0)
    return Work(flops=(8 if a["training"] else 4) * n, special=statistics, again=again)


@shape("norm_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[1],)


@work("norm_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx = r (g - mean g - x̂ mean(g x̂)), g = dy w: eleven operations per element.

    A root mean square has no mean g: seven. Stored statistics leave dx = r g: two, and x is not read.
    """
    n = elements(inputs[0])
    if a["over"] == "stored":
        return Work(flops=2 * n, read=(n, 0, 0, *[elements(s) for s in inputs[3:]]))
    again = _twice(n, elements(inputs[2]), operands=2)
    return Work(flops=(7 if a["over"] == "rms" else 11) * n, again=again)


@shape("norm_weight_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    width = gain_shape(inputs[1], a["over"])[:1]
    return (width,) if a["over"] == "rms" else (width, width)


@work("norm_weight_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dw = Σ dy x̂ and db = Σ dy: five operations per element; three for a root mean square, without mean and db."""
    return Work(flops=(3 if a["over"] == "rms" else 5) * elements(inputs[0]))


def _backward(over: Callable[[Node], str], names: tuple[str, ...]) -> None:
    """The gradient of norms: kernels for dx and for dw, db."""

    @gradient(*names)
    def _(b: Builder, node: Node, grads: Sequence[Any], want: Sequence[bool]) -> Sequence[int | None]:
        """From the third order on, mean μ and rate r have gradients too: dx += (dμ - dr r² x̂) / count."""
        x, saved = node.inputs[0], node.outputs[1:]
        kind = over(node)
        a = {"over": kind, "groups": dict(node.attributes).get("groups", b.shape(x)[1] if kind == "group" else 1)}
        learned = node.inputs[1:] if kind != "stored" else node.inputs[1:-2]
        out: list[int | None] = [None] * len(node.inputs)
        dy, of_saved = grads[0], grads[1:]
        if dy is not None and want[0]:
            out[0] = b.emit("norm_gradient", dy, x, *saved, *learned[:1], **a)
        if dy is not None and any(want[1 : 1 + len(learned)]):
            both = b.emit_all("norm_weight_gradient", (dy, x, *saved), **a)
            for i, grad in enumerate(both, 1):
                out[i] = grad if want[i] else None
        if want[0] and kind != "stored" and any(g is not None for g in of_saved):
            rest = Normalised(b, x, saved, **a).of_statistics(*of_saved)
            out[0] = rest if out[0] is None else b.emit("add", out[0], rest)
        return out


_backward(lambda node: "group", ("group_norm", "instance_norm"))
_backward(lambda node: "layer", ("layer_norm",))
_backward(lambda node: "rms", ("rms_norm",))
_backward(lambda node: "batch" if node.attribute("training") else "stored", ("batch_norm",))


@gradient("norm_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = r (g - mean g - x̂ mean(g x̂)) is self-adjoint in g = dy w; h is the cotangent.

    d(dy) = w · project(h);  dw = Σ dy project(h); for dx see `Normalised.bend`.
    """
    a = dict(node.attributes)
    dy, x = node.inputs[:2]
    count = 1 if a["over"] == "rms" else 2
    w = node.inputs[2 + count] if len(node.inputs) > 2 + count else None
    parts = Normalised(b, x, node.inputs[2 : 2 + count], **a)
    h = parts.grouped(grads[0])
    out: list[int | None] = [None] * len(node.inputs)
    gain = None if w is None else b.emit("reshape", w, shape=gain_shape(b.shape(x), a["over"]))
    of_gain = w is not None and want[2 + count]
    if want[0] or of_gain:
        back = parts.back(parts.project(h))
        out[0] = back if gain is None else b.emit("mul", back, gain)
        if of_gain:
            axes = parts.shared_by_gain()
            out[2 + count] = b.emit("reduce_sum", b.emit("mul", dy, back), axes=axes, keep=False)
    if want[1] and a["over"] != "stored":
        g = parts.grouped(dy if gain is None else b.emit("mul", dy, gain))
        out[1] = parts.back(parts.bend(g, h))
    return out


@gradient("norm_weight_gradient")
def _(b: Builder, node: Node, grads: Sequence[Any], want: Sequence[bool]) -> Sequence[int | None]:
    """dw = Σ dy x̂, db = Σ dy; with cotangents u and v:  d(dy) = u x̂ + v,  dx = project(u dy)."""
    a = dict(node.attributes)
    dy, x, *saved = node.inputs
    parts = Normalised(b, x, saved, **a)
    u, v = (
        None if g is None else b.emit("reshape", g, shape=gain_shape(b.shape(x), a["over"])) for g in (*grads, None)[:2]
    )
    out: list[int | None] = [None] * len(node.inputs)
    if want[0]:
        scaled = None if u is None else b.emit("mul", parts.back(parts.x), u)
        level = None if v is None else b.emit("expand", v, shape=b.shape(x))
        out[0] = scaled if level is None else level if scaled is None else b.emit("add", scaled, level)
    if want[1] and u is not None:
        out[1] = parts.back(parts.project(parts.grouped(b.emit("mul", dy, u))))
    return out
