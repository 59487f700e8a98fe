"""Layer and group normalisation: the forward, its fused backward kernels, and what those differentiate to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.errors import EbmsimError
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
_GROUPS = {"groups": Attribute("int", required=True, text="groups of channels"), **_AFFINE}
operator(
    "group_norm",
    "elementwise",
    attributes=_GROUPS,
    parameters=(
        Parameter("weight", lambda i, a: (i[0][1],) if a["affine"] else None),
        Parameter("bias", lambda i, a: (i[0][1],) if a["affine"] else None),
    ),
    text="normalise groups of channels of an image",
)
operator(
    "layer_norm",
    "elementwise",
    attributes=_AFFINE,
    parameters=(
        Parameter("weight", lambda i, a: (i[0][-1],) if a["affine"] else None),
        Parameter("bias", lambda i, a: (i[0][-1],) if a["affine"] else None),
    ),
    text="normalise the last axis",
)
# groups = 0 stands for a layer norm in the backward kernels that both share.
_BACK = {"groups": Attribute("int", required=True, least=0)}
operator("norm_gradient", "elementwise", (4, 5), attributes=_BACK, public=False)
operator("norm_weight_gradient", "elementwise", 4, attributes=_BACK, public=False)


def _statistics(x: Shape, groups: int) -> Shape:
    return (x[0], groups) if groups else tuple(x[:-1])


@shape("group_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if len(x) < 3:
        raise ShapeError(f"expected [channels, …] beside the chain axis, found shape {list(x)}")
    if x[1] % a["groups"]:
        raise ShapeError(f"expected channels that {a['groups']} groups divide, found {x[1]}")
    return (x, _statistics(x, a["groups"]), _statistics(x, a["groups"]))


@shape("layer_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0], _statistics(inputs[0], 0), _statistics(inputs[0], 0))


@work("group_norm", "layer_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Sum, squares and their sum, difference, scale, gain, bias: eight operations per element."""
    return Work(flops=8 * elements(inputs[0]), special=elements(outputs[1]))


@shape("norm_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[1],)


@work("norm_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dx = r (g - mean g - x̂ mean(g x̂)), g = dy w: eleven operations per element."""
    return Work(flops=11 * elements(inputs[0]))


@shape("norm_weight_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    width = (inputs[1][1],) if a["groups"] else (inputs[1][-1],)
    return (width, width)


@work("norm_weight_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """dw = Σ dy x̂ and db = Σ dy: five operations per element."""
    return Work(flops=5 * elements(inputs[0]))


def _groups(node: Node) -> int:
    return int(dict(node.attributes).get("groups", 0))


@gradient("group_norm", "layer_norm")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """From the third order on, mean μ and rate r have gradients too, always as a pair: dx += (dμ - dr r² x̂) / count."""
    x, saved = node.inputs[0], node.outputs[1:]
    groups = _groups(node)
    out: list[int | None] = [None] * len(node.inputs)
    if len(grads) != 2 and want[0]:
        out[0] = b.emit("norm_gradient", grads[0], x, *saved, *node.inputs[1:2], groups=groups)
    if len(grads) != 2 and any(want[1:]):
        both = b.emit_all("norm_weight_gradient", (grads[0], x, *saved), groups=groups)
        out[1], out[2] = both if want[2] else (both[0], None)
    if len(grads) > 1 and want[0]:
        parts = _Normalised(b, x, saved[0], saved[1], groups)
        level, slope = (b.emit("reshape", g, shape=(*parts.view[:-1], 1)) for g in grads[-2:])
        bend = b.emit("mul", parts.x, b.emit("mul", slope, b.emit("square", parts.rate)))
        rest = parts.back(b.emit("scale", b.emit("sub", level, bend), by=1.0 / parts.view[-1]))
        out[0] = rest if out[0] is None else b.emit("add", out[0], rest)
    return out


class _Normalised:
    """x̂ and means over the normalised elements, written in basic operators."""

    def __init__(self, b: Builder, x: int, mean: int, rate: int, groups: int) -> None:
        self.b, self.full = b, b.shape(x)
        shape = self.full
        self.view = (shape[0], groups, elements(shape[1:]) // groups) if groups else shape
        self.rate = b.emit("reshape", rate, shape=(*self.view[:-1], 1))
        centred = b.emit("sub", self.grouped(x), b.emit("reshape", mean, shape=(*self.view[:-1], 1)))
        self.x = b.emit("mul", centred, self.rate)

    def grouped(self, tensor: int) -> int:
        return self.b.emit("reshape", tensor, shape=self.view)

    def back(self, tensor: int) -> int:
        return self.b.emit("reshape", tensor, shape=self.full)

    def mean(self, left: int, right: int | None = None) -> int:
        product = left if right is None else self.b.emit("mul", left, right)
        return self.b.emit("reduce_mean", product, axes=(-1,), keep=True)

    def project(self, v: int) -> int:
        """r (v - mean v - x̂ mean(v x̂)): the gradient of x̂ taken back to x."""
        b = self.b
        rest = b.emit("sub", v, self.mean(v))
        along = b.emit("mul", self.x, self.mean(v, self.x))
        return b.emit("mul", self.rate, b.emit("sub", rest, along))


@gradient("norm_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = r (g - mean g - x̂ mean(g x̂)) is self-adjoint in g = dy w; h is the cotangent.

    d(dy) = w · project(h);  dw = Σ dy project(h).  In x, with a = mean g, c = mean(h x̂), e = mean(h g), m = mean h,
    b = mean(g x̂):  project(-r (h b + g c)) - r² (e - m a - c b) x̂.
    """
    dy, x, mean, rate = node.inputs[:4]
    w = node.inputs[4] if len(node.inputs) > 4 else None
    groups = _groups(node)
    parts = _Normalised(b, x, mean, rate, groups)
    h = parts.grouped(grads[0])
    out: list[int | None] = [None] * len(node.inputs)
    gain = None
    if w is not None:
        width = b.shape(w)[0]
        trailing = (width, *(1,) * (len(b.shape(x)) - 2)) if groups else (width,)
        gain = b.emit("reshape", w, shape=trailing)
    if want[0] or (w is not None and want[4]):
        back = parts.back(parts.project(h))
        out[0] = back if gain is None else b.emit("mul", back, gain)
        if w is not None and want[4]:
            rank = len(b.shape(x))
            axes = tuple(i for i in range(-rank, 0) if i != (1 - rank if groups else -1))
            out[4] = b.emit("reduce_sum", b.emit("mul", dy, back), axes=axes, keep=False)
    if want[1]:
        g = parts.grouped(dy if gain is None else b.emit("mul", dy, gain))
        along_g, along_h = parts.mean(g, parts.x), parts.mean(h, parts.x)
        v = b.emit("add", b.emit("mul", h, along_g), b.emit("mul", g, along_h))
        first = parts.project(b.emit("scale", b.emit("mul", v, parts.rate), by=-1.0))
        level = b.emit("sub", parts.mean(h, g), b.emit("mul", parts.mean(h), parts.mean(g)))
        level = b.emit("sub", level, b.emit("mul", along_g, along_h))
        second = b.emit("mul", parts.x, b.emit("mul", level, b.emit("square", parts.rate)))
        out[1] = parts.back(b.emit("sub", first, second))
    return out


@gradient("norm_weight_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dw = Σ dy x̂, db = Σ dy; with cotangents u and v:  d(dy) = u x̂ + v,  dx = project(u dy)."""
    if len(grads) != 2:
        raise EbmsimError(f"node '{node.name}': expected gradients of both gain and bias, found one")
    dy, x, mean, rate = node.inputs
    groups = _groups(node)
    parts = _Normalised(b, x, mean, rate, groups)
    trailing = (b.shape(grads[0])[0], *(1,) * (len(b.shape(x)) - 2)) if groups else b.shape(grads[0])
    u, v = (b.emit("reshape", g, shape=trailing) for g in grads)
    out: list[int | None] = [None] * 4
    if want[0]:
        out[0] = b.emit("add", b.emit("mul", parts.back(parts.x), u), v)
    if want[1]:
        out[1] = parts.back(parts.project(parts.grouped(b.emit("mul", dy, u))))
    return out
