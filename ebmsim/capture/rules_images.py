"""Images and tokens: pooling, enlarging and attention."""

from __future__ import annotations

import math
from typing import Any

import torch

from ebmsim.capture.chains import Layout, Refused, Value, own_axis
from ebmsim.capture.export import Held
from ebmsim.capture.rules_reductions import reduced
from ebmsim.capture.table import rule, whole
from ebmsim.capture.walk import Call, Fixed, Walk


def _images(value: Value, rank: int = 2) -> None:
    if value.layout and value.layout.at >= value.rank - rank:
        raise Refused("works across the chains")


@rule("avg_pool2d", "max_pool2d")
def _(walk: Walk, call: Call) -> Value:
    op, args = call.record.target, call.args
    x = walk.value(args["self"])
    _images(x)
    if args["ceil_mode"] or args.get("divisor_override") or (args.get("padding", [0])[0] and _uncounted(args)):
        raise Refused("rounds up, or divides by another number than the window has")
    if whole(args.get("dilation", 1), "dilation") != 1:
        raise Refused("has a dilation")
    kernel = whole(args["kernel_size"], "window")
    attributes: dict[str, Any] = {"kernel": kernel, "stride": whole(args["stride"] or kernel, "stride")}
    if padding := whole(args["padding"], "padding"):
        attributes["padding"] = padding
    return walk.emit(op, [x], (*x.shape[:-2], *call.shape[-2:]), x.layout, **attributes)


def _uncounted(args: Any) -> bool:
    return args.get("count_include_pad") is False


@rule("avg_pool1d", "max_pool1d")
def _(walk: Walk, call: Call) -> Value:
    """Windows beside each other: a view and a reduction."""
    x, args = walk.value(call.args["self"]), call.args
    _images(x, 1)
    kernel, stride = whole(args["kernel_size"], "window", 1), whole(args["stride"] or args["kernel_size"], "stride", 1)
    if kernel != stride or x.shape[-1] % kernel or whole(args["padding"], "padding", 1):
        raise Refused("has windows that overlap or are padded, along one axis")
    wide = walk.reshape(x, (*x.shape[:-1], x.shape[-1] // kernel, kernel), None)
    op = "reduce_mean" if call.record.target == "avg_pool1d" else "reduce_max"
    return walk.emit(op, [wide], wide.shape[:-1], x.layout, axes=[-1])


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool1d")
def _(walk: Walk, call: Call) -> Any:
    """To one element: a reduction; to a divisor of the size: windows."""
    target = call.record.target
    rank = 2 if target.endswith("2d") else 1
    x = walk.value(call.args["self"])
    _images(x, rank)
    mean, sizes, goal = "avg" in target, x.shape[-rank:], call.shape[-rank:]
    result: Value
    if set(goal) == {1}:
        result = reduced(walk, "reduce_mean" if mean else "reduce_max", x, list(range(-rank, 0)), True)
    elif rank == 1 or any(s % g for s, g in zip(sizes, goal, strict=True)):
        raise Refused(f"makes {list(goal)} of {list(sizes)}")
    else:
        kernel = whole([s // g for s, g in zip(sizes, goal, strict=True)], "window")
        op = "avg_pool2d" if mean else "max_pool2d"
        result = walk.emit(op, [x], (*x.shape[:-2], *goal), x.layout, kernel=kernel, stride=kernel)
    return result if mean else [result, None]


@rule("upsample_nearest2d", "upsample_bilinear2d")
def _(walk: Walk, call: Call) -> Value:
    x = walk.value(call.args.get("input", call.args.get("self")))
    _images(x)
    scales = [b / a for a, b in zip(x.shape[-2:], call.shape[-2:], strict=True)]
    if scales[0] != scales[1] or scales[0] != int(scales[0]):
        raise Refused(f"makes {list(call.shape[-2:])} of {list(x.shape[-2:])}, which is not a whole number of times")
    if call.args.get("align_corners"):
        raise Refused("aligns corners")
    more: dict[str, Any] = {"mode": "bilinear"} if "bilinear" in call.record.target else {}
    shape = (*x.shape[:-2], *call.shape[-2:])
    return walk.emit("upsample", [x], shape, x.layout, scale=int(scales[0]), **more)


@rule("pixel_shuffle", "pixel_unshuffle")
def _(walk: Walk, call: Call) -> Value:
    """Views and one copy."""
    x, args = walk.value(call.args["self"]), call.args
    _images(x, 3)
    up = call.record.target == "pixel_shuffle"
    r = args["upscale_factor" if up else "downscale_factor"]
    *lead, c, h, w = x.shape
    n = len(lead)
    if up:
        wide, order = (*lead, c // r**2, r, r, h, w), [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    else:
        wide, order = (*lead, c, h // r, r, w // r, r), [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    moved = walk.permute(walk.reshape(x, wide, None), order, None)
    return walk.reshape(walk.copy(moved), (*lead, *call.shape[-3:]), x.layout)


@rule("scaled_dot_product_attention")
def _(walk: Walk, call: Call) -> Value:
    """One kernel. Another scale than 1 / √width is a kernel of its own."""
    args = call.args
    q, k, v = (walk.value(args[n]) for n in ("query", "key", "value"))
    if args["dropout_p"]:
        raise Refused("has dropout; call .eval() on the module")
    if args.get("enable_gqa"):
        raise Refused("has groups of heads")
    for value in (q, k, v):
        if value.layout and value.layout.at >= value.rank - 2:
            raise Refused("works across the chains")
    if not q.own:
        q = walk.per_chain(q) if k.own or v.own else q
    scale, usual = args["scale"], q.shape[-1] ** -0.5
    if scale is not None and not math.isclose(scale, usual):
        q = walk.elementwise("scale", [q], by=scale / usual)
    inputs = [q, k, v]
    if args["attn_mask"] is not None:
        given = walk[args["attn_mask"]]
        mask = walk.value(args["attn_mask"])
        if mask.kind == "mask" and isinstance(given, (Fixed, Held)):
            added = torch.zeros(given.tensor.shape, dtype=call.record.dtypes[0]).masked_fill(~given.tensor, -math.inf)
            mask = walk.fixed(Fixed(added), f"{call.record.name}_mask")
        if mask.kind == "mask":
            raise Refused("has a mask of true and false; give it numbers to add")
        inputs.append(mask)
    more: dict[str, Any] = {"causal": True} if args["is_causal"] else {}
    layout = q.layout or Layout(len(q.shape), 0)
    return walk.emit("attention", inputs, (*q.shape[:-1], v.shape[-1]), q.layout and layout, **more)


@rule("cosine_similarity")
def _(walk: Walk, call: Call) -> Value:
    """Σ a b / (|a| |b|): six kernels."""
    args = call.args
    a, b = walk.value(args["x1"]), walk.value(args["x2"])
    product = walk.elementwise("mul", [a, b])
    total = reduced(walk, "reduce_sum", product, [args["dim"]], False)
    own_axis(a, args["dim"])
    sizes = [reduced(walk, "reduce_norm", v, [args["dim"]], False) for v in (a, b)]
    walk.note("cosine_similarity is written as six operators; torch launches its own.")
    both = walk.elementwise("clamp", [walk.elementwise("mul", sizes)], low=args["eps"])
    return walk.elementwise("div", [total, both])
