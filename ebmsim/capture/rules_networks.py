"""Layers: products, convolutions and norms."""

from __future__ import annotations

import math
from typing import Any

from ebmsim.capture.chains import Layout, Refused, Value
from ebmsim.capture.rules_reductions import reduced
from ebmsim.capture.table import learned, rule, whole
from ebmsim.capture.walk import Call, Walk


def _last(value: Value) -> None:
    """Raises Refused where the chains stand on the last axis."""
    if value.layout and value.layout.at == value.rank - 1:
        raise Refused("works across the chains")


def _biased(walk: Walk, found: Value, bias: Value | None, trailing: int = 0) -> Value:
    """A bias as an addition of its own."""
    if bias is None:
        return found
    return walk.elementwise("add", [found, walk.reshape(bias, (*bias.shape, *[1] * trailing), None)])


@rule("linear")
def _(walk: Walk, call: Call) -> Value:
    x = walk.value(call.args["input"])
    _last(x)
    params, weight, bias = learned(walk, call)
    out = call.shape[-1]
    more: dict[str, Any] = {} if len(params) == (1 if weight else 2) else {"bias": False}
    made = walk.emit("linear", [x], (*x.shape[:-1], out), x.layout, params=params, weight=weight, out=out, **more)
    return _biased(walk, made, bias)


def _product(walk: Walk, a: Value, b: Value) -> Value:
    """A product over the last two axes, batch axes broadcast."""
    if b.layout and b.layout.at >= b.rank - 2:
        raise Refused("multiplies with a matrix whose rows or columns are chains")
    _last(a)
    in_rows = bool(a.layout and a.layout.at == a.rank - 2)
    if in_rows and a.layout and a.layout.before > 1:
        raise Refused("has rows folded before the chains")
    if in_rows and (b.own or len([s for s in b.shape[:-2] if s > 1])):
        if b.layout:
            raise Refused("relates chains to each other")
        # Rows are chains and matrices many: every chain gets its own rows of each.
        if not (a.layout and a.layout.after > 1):
            a = walk.reshape(a, (*a.shape[:-1], 1, a.shape[-1]), a.layout)
            found = _batched(walk, a, b)
            rank = max(a.rank, b.rank)
            return walk.reshape(found, (*found.shape[:-2], found.shape[-1]), Layout(rank, rank - 2))
    if in_rows and len(b.shape) > 2 and math.prod(b.shape[:-2]) == 1:
        b = walk.reshape(b, b.shape[-2:], None)
    return _batched(walk, a, b)


def _batched(walk: Walk, a: Value, b: Value) -> Value:
    layout = a.layout or b.layout
    rank = max(a.rank, b.rank)
    if layout:
        inner = (a if a.layout else b).rank - layout.at
        layout = layout._replace(rank=rank, at=rank - inner)
    if len(b.shape) == 2 and not b.own:
        left = a.shape[:-1]  # rows, which may be one per chain
        swapped, flag = walk.swapped(b)
        turned: dict[str, Any] = {"transpose_b": True} if flag else {}
        return walk.emit("matmul", [a, swapped], (*left, b.shape[-1]), layout, **turned)
    if not (len(a.shape) == 2 and not a.own):
        lead = [max(p, q) for p, q in zip(*_same(a.shape[:-2], b.shape[:-2]), strict=True)]
        if a.own != b.own:
            a, b = walk.per_chain(a), walk.per_chain(b)
        a, b = (_filled(walk, v, (*lead, *v.shape[-2:])) for v in (a, b))
    (first, ta), (second, tb) = walk.swapped(a), walk.swapped(b)
    more: dict[str, Any] = ({"transpose_a": True} if ta else {}) | ({"transpose_b": True} if tb else {})
    lead = list(a.shape[:-2]) or list(b.shape[:-2])
    return walk.emit("matmul", [first, second], (*lead, a.shape[-2], b.shape[-1]), layout, **more)


def _same(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    width = max(len(a), len(b))
    return (1,) * (width - len(a)) + a, (1,) * (width - len(b)) + b


def _filled(walk: Walk, value: Value, shape: tuple[int, ...]) -> Value:
    """Batch axes of one repeated, as torch's matmul does, by a copy."""
    missing = len(shape) - len(value.shape)
    value = walk.reshape(value, (1,) * missing + value.shape, value.layout)
    return value if value.shape == tuple(shape) else walk.copy(walk.expand(value, shape, value.layout))


@rule("matmul", "bmm", "mm", "mv", "dot", "vdot", "inner")
def _(walk: Walk, call: Call) -> Value:
    args = call.args
    a = walk.value(args["self"])
    b = walk.value(next(args[n] for n in ("other", "mat2", "vec", "tensor") if n in args))
    flat_a, flat_b = a.rank == 1, b.rank == 1
    if (flat_a and a.layout) or (flat_b and b.layout):
        raise Refused("sums over the chains")
    if call.record.target == "matmul":
        a, b = _batchable(walk, call, a, "self", b.rank), _batchable(walk, call, b, "other", a.rank)
    a = walk.reshape(a, (1, *a.shape), None) if flat_a else a
    b = walk.reshape(b, (*b.shape, 1), None) if flat_b else b
    found = _product(walk, a, b)
    if not (flat_a or flat_b):
        return found
    shape, layout = walk.layout(call, found)
    return walk.reshape(found, shape, layout)


def _batchable(walk: Walk, call: Call, value: Value, name: str, other: int) -> Value:
    """An operand as torch's matmul puts it into one batch: a copy where no view will do."""
    shape = walk.shapes[call.args[name].name]
    if len(shape) < 3 or (max(len(shape), other) < 4 and other > 2):
        return value
    flat = (math.prod(shape[:-1]), shape[-1]) if other < 3 else (math.prod(shape[:-2]), *shape[-2:])
    return value if walk.views_alike(call.args[name].name, flat) else walk.copy(value)


@rule("addmm", "baddbmm")
def _(walk: Walk, call: Call) -> Value:
    """A product and an addition, two kernels for one."""
    args = call.args
    if args.get("beta", 1) != 1 or args.get("alpha", 1) != 1:
        raise Refused("has factors")
    a, b = (walk.value(args[n]) for n in (("mat1", "mat2") if "mat1" in args else ("batch1", "batch2")))
    return walk.elementwise("add", [walk.value(args["self"]), _product(walk, a, b)])


@rule("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d")
def _(walk: Walk, call: Call) -> Value:
    op, args = call.record.target, call.args
    rank = 2 if op.endswith("2d") else 1
    x = walk.value(args["input"])
    if x.layout and x.layout.at >= x.rank - rank - 1:
        raise Refused("works across the chains")
    kernel = whole(list(_weight_shape(walk, args))[2:], "kernel")
    if whole(args["dilation"], "dilation", rank) != 1:
        raise Refused("has a dilation")
    stride, padding = whole(args["stride"], "stride", rank), args["padding"]
    if isinstance(padding, str):
        padding = 0 if padding == "valid" else (kernel - 1) / 2
        if padding != int(padding):
            raise Refused("pads one side more than the other")
    padding = int(whole(padding, "padding", rank))
    params, weight, bias = learned(walk, call)
    attributes: dict[str, Any] = {"out": call.shape[-rank - 1], "kernel": kernel}
    for name, value, default in (("stride", stride, 1), ("padding", padding, 0), ("groups", args["groups"], 1)):
        if value != default:
            attributes[name] = value
    if len(params) != (1 if weight else 2):
        attributes["bias"] = False
    if op.startswith("conv_transpose"):
        extra = whole(args["output_padding"], "output padding", rank)
        attributes |= {"output_padding": extra} if extra else {}
    shape = (*x.shape[: -rank - 1], *call.shape[-rank - 1 :])
    made = walk.emit(op, [x], shape, x.layout, params=params, weight=weight, **attributes)
    return _biased(walk, made, bias, rank)


def _weight_shape(walk: Walk, args: Any) -> tuple[int, ...]:
    return walk.shapes[args["weight"].name]


@rule("layer_norm")
def _(walk: Walk, call: Call) -> Value:
    """Over several axes by views; with a gain and no bias, or with tensors that are computed, in several kernels."""
    x, axes = walk.value(call.args["input"]), len(call.args["normalized_shape"])
    if x.layout and x.layout.at >= x.rank - axes:
        raise Refused("works across the chains")
    width = math.prod(x.shape[len(x.shape) - axes :])
    flat = walk.reshape(x, (*x.shape[: len(x.shape) - axes], width), x.layout)
    params, gain, bias = learned(walk, call)
    if len(params) == 1:
        gain, params = walk.held(walk[call.args["weight"]]), ()
    more: dict[str, Any] = {} if len(params) == 2 else {"affine": False}
    made = walk.emit("layer_norm", [flat], flat.shape, flat.layout, params=params, **more)
    return _affine(walk, walk.reshape(made, x.shape, x.layout), gain, bias)


def _affine(walk: Walk, value: Value, gain: Value | None, bias: Value | None, trailing: int = 0) -> Value:
    """A gain and a bias that are no tensors of the norm's own."""
    for op, other in (("mul", gain), ("add", bias)):
        if other is not None:
            value = walk.elementwise(op, [value, walk.reshape(other, (*other.shape, *[1] * trailing), None)])
    return value


@rule("rms_norm")
def _(walk: Walk, call: Call) -> Value:
    x = walk.value(call.args["input"])
    _last(x)
    if len(call.args["normalized_shape"]) != 1:
        raise Refused("normalises several axes")
    params, gain, _ = learned(walk, call)
    more: dict[str, Any] = {} if params else {"affine": False}
    made = walk.emit("rms_norm", [x], x.shape, x.layout, params=params, **more)
    return _affine(walk, made, gain, None)


@rule("group_norm", "instance_norm", "batch_norm")
def _(walk: Walk, call: Call) -> Value:
    """Of [chains, channels, …]; rows folded into the chains are what the operators do not have."""
    op, args = call.record.target, call.args
    x = walk.value(args["input"])
    if x.layout and x.layout.at != 0:
        raise Refused("works across the chains")
    if x.layout and x.layout.before > 1:
        raise Refused("normalises rows that are folded before the chains")
    attributes: dict[str, Any] = {}
    if op == "group_norm":
        attributes["groups"] = args["num_groups"]
    elif op == "batch_norm" and (args["training"] or args["running_mean"] is None):
        raise Refused("takes statistics over the chains; call .eval() on the module")
    elif op == "instance_norm" and not args["use_input_stats"]:
        raise Refused("has stored statistics")
    if x.layout and x.layout.folded and op != "batch_norm":
        return _of_rows(walk, call, x)
    params, gain, bias = learned(walk, call)
    stored = 2 if op == "batch_norm" else 0
    if stored and not params:
        raise Refused("has tensors that are computed or shared")
    if len(params) == 1 + stored and not stored:
        gain, params = walk.held(walk[args["weight"]]), ()
    if len(params) < 2 + stored:
        attributes["affine"] = False
    order = list(range(len(x.shape)))
    if x.layout and x.layout.folded:
        # Channels first: stored statistics are of a channel, whatever the rows.
        order[:2] = 1, 0
    made = walk.emit(
        op, [turned := walk.permute(x, order, x.layout)], turned.shape, x.layout, params=params, **attributes
    )
    return _affine(walk, walk.permute(made, order, x.layout), gain, bias, x.rank - 2)


def _of_rows(walk: Walk, call: Call, x: Value) -> Value:
    """Rows folded into the chains: every group of every row as a channel of its own; gain and bias are kernels then."""
    rows, channels, *rest = x.shape
    groups = call.args["num_groups"] if call.record.target == "group_norm" else channels
    flat = walk.reshape(x, (rows * groups, channels // groups * math.prod(rest)), x.layout)
    made = walk.emit("instance_norm", [flat], flat.shape, x.layout, affine=False)
    walk.note("Norms of rows that are folded into the chains have gain and bias as operators of their own.")
    learnt = [None if call.args[n] is None else walk.value(call.args[n]) for n in ("weight", "bias")]
    return _affine(walk, walk.reshape(made, x.shape, x.layout), learnt[0], learnt[1], len(rest))


@rule("_weight_norm")
def _(walk: Walk, call: Call) -> Value:
    """v · (g / |v|), the length over all axes but one: three kernels."""
    v, g, dim = walk.value(call.args["v"]), walk.value(call.args["g"]), call.args["dim"]
    walk.note("A weight norm is written as three operators, where torch launches one kernel.")
    size = reduced(walk, "reduce_norm", v, [i for i in range(v.rank) if i != dim % v.rank], True)
    return walk.elementwise("mul", [v, walk.elementwise("div", [g, size])])
