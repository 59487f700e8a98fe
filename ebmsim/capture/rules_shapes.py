"""Views, copies, joining, cutting and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmsim.capture.chains import Layout, Refused, Value, groups, own_axis, permuted, without
from ebmsim.capture.table import rule
from ebmsim.capture.walk import Call, Walk


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as")
def _(walk: Walk, call: Call) -> Value:
    """A view in the order of memory, or a copy first where torch cannot give one."""
    ref = call.args["self"]
    value = walk.value(ref)
    if call.record.target in ("reshape", "flatten", "reshape_as") and not walk.views_alike(ref.name, call.shape):
        value = walk.copy(value)
    return walk.view(value, call)


def _reordered(walk: Walk, value: Value, order: Sequence[int]) -> Value:
    own, layout = permuted(value, order)
    return walk.permute(value, own, layout)


@rule("permute", "movedim", "transpose", "swapaxes", "t", "numpy_T", "mT", "adjoint", "matrix_H")
def _(walk: Walk, call: Call) -> Value:
    value, args = walk.value(call.args["self"]), call.args
    rank, target = value.rank, call.record.target.rstrip("_")
    order = list(range(rank))
    if target == "permute":
        order = list(args["dims"])
    elif target == "movedim":
        source, goal = ([i] if isinstance(i, int) else i for i in (args["source"], args["destination"]))
        moved = {g % rank: s % rank for s, g in zip(source, goal, strict=True)}
        rest = iter(i for i in order if i not in moved.values())
        order = [moved[i] if i in moved else next(rest) for i in range(rank)]
    elif target in ("transpose", "swapaxes"):
        a, b = (args.get(n, args.get(m)) for n, m in (("dim0", "axis0"), ("dim1", "axis1")))
        order[a], order[b] = order[b], order[a]
    elif target == "numpy_T" or (target == "t" and rank < 3):
        order.reverse()
    else:
        order[-2:] = order[:-3:-1]
    return _reordered(walk, value, order)


@rule("expand", "expand_as", "broadcast_to")
def _(walk: Walk, call: Call) -> Value:
    return _spread(walk, call, walk.value(call.args["self"]))


def _spread(walk: Walk, call: Call, value: Value) -> Value:
    """A broadcast view. What has no chains and gets them stays one for all of them."""
    found, shape = call.found(), call.shape
    if found is None:
        if value.layout is not None:
            raise Refused("hides the chains among other axes")
        return walk.expand(value, shape, None)
    axis, each = found
    missing = len(shape) - value.rank
    if value.layout is None:
        if axis >= missing:
            at = axis - missing
            value = walk.reshape(value, (*value.shape[:at], *value.shape[at + 1 :]), None)
        layout = Layout(len(shape), axis, 1, each)
        if each > 1:
            raise Refused("repeats rows for every chain")
        walk.note("What is the same for all chains is computed once for them, where torch computes it for each.")
        return walk.expand(value, without(shape, layout), layout)
    kept = Layout(len(shape), axis, value.layout.before, value.layout.after)
    target = without(shape, kept)
    if len(target) < len(value.shape):
        raise Refused("mixes chains with other axes")
    return walk.expand(value, target, kept)


@rule("repeat")
def _(walk: Walk, call: Call) -> Value:
    """One copy: every repeated axis gets an axis of repetitions before it."""
    value, times = walk.value(call.args["self"]), list(call.args["repeats"])
    found = call.found()
    if value.layout is None and found is not None:
        times[found[0]] = 1
        missing = len(times) - value.rank
        if value.rank > found[0] - missing >= 0 and value.shape[found[0] - missing] != 1:
            raise Refused("repeats rows for every chain")
    missing = len(times) - value.rank
    parts = [()] * missing + groups(value)
    wide: list[int] = []
    tall: list[int] = []
    for axis, (count, own) in enumerate(zip(times, parts, strict=True)):
        sizes = [value.shape[i] for i in own]
        if value.layout and axis == value.layout.at + missing and count > 1:
            raise Refused("repeats chains")
        wide += [1, *sizes] if count > 1 else sizes if axis >= missing else [1]
        tall += [count, *sizes] if count > 1 else sizes if axis >= missing else [1]
    spread = walk.expand(walk.reshape(value, tuple(wide), None), tuple(tall), None)
    copied = walk.copy(spread)
    if value.layout is None and found is not None:
        walk.note("What is the same for all chains is computed once for them, where torch computes it for each.")
    shape, layout = walk.layout(call, value)
    return walk.reshape(copied, shape, layout)


@rule("repeat_interleave")
def _(walk: Walk, call: Call) -> Value:
    """One copy: the repeated axis gets an axis of repetitions after it."""
    value, times = walk.value(call.args["self"]), call.args.get("repeats")
    if not isinstance(times, int) or call.args.get("dim") is None:
        raise Refused("repeats elements differently")
    axis = call.args["dim"] % value.rank
    if value.layout and axis == value.layout.at:
        if value.layout.after > 1:
            raise Refused("repeats folded chains")
        cut = sum(len(g) for g in groups(value)[: axis + 1])
        folded = value.layout._replace(after=times)
        shape = (*value.shape[:cut], 1, *value.shape[cut:])
        target = (*value.shape[:cut], times, *value.shape[cut:])
        return walk.copy(walk.expand(walk.reshape(value, shape, folded), target, folded))
    cut = own_axis(value, axis) + 1
    wide = walk.reshape(value, (*value.shape[:cut], 1, *value.shape[cut:]), None)
    copied = walk.copy(walk.expand(wide, (*value.shape[:cut], times, *value.shape[cut:]), None))
    shape, layout = walk.layout(call, value)
    return walk.reshape(copied, shape, layout)


@rule("cat", "concat", "concatenate")
def _(walk: Walk, call: Call) -> Value:
    refs = [r for r in call.args["tensors"] if walk.shapes.get(r.name, (1,)) != (0,)]
    values = [walk.value(r) for r in refs]
    return _joined(walk, values, call.args["dim"], "concat")


def _joined(walk: Walk, values: list[Value], dim: int, op: str) -> Value:
    like = next((v for v in values if v.own), next((v for v in values if v.layout), values[0]))
    for value in values:
        if value.layout != like.layout:
            raise Refused("joins chains with what has none, or has them elsewhere")
    rank = like.rank + (op == "stack")
    dim %= rank
    layout = like.layout
    if op == "stack":
        cut = sum(len(g) for g in groups(like)[:dim])
        if layout:
            layout = layout._replace(rank=rank, at=layout.at + (dim <= layout.at))
        shape = (*like.shape[:cut], len(values), *like.shape[cut:])
        if len({v.own for v in values}) > 1:
            values = [v if v.own else walk.per_chain(v) for v in values]
        at = -1 if cut == len(shape) - 1 else cut
        if len(values) == 1:
            return walk.reshape(values[0], shape, layout)
        return walk.emit("stack", values, shape, layout, kind=like.kind, axis=at)
    axis = own_axis(like, dim)
    if len(values) == 1:
        return walk.copy(values[0])
    size = sum(v.shape[axis] for v in values)
    shape = (*like.shape[:axis], size, *like.shape[axis + 1 :])
    return walk.emit("concat", values, shape, layout, kind=like.kind, axis=walk.axis(like, axis))


@rule("stack")
def _(walk: Walk, call: Call) -> Value:
    return _joined(walk, [walk.value(r) for r in call.args["tensors"]], call.args["dim"], "stack")


@rule("hstack", "vstack", "dstack", "column_stack")
def _(walk: Walk, call: Call) -> Value:
    raise Refused("is not written as operators; use torch.cat or torch.stack")


@rule("split", "chunk", "split_with_sizes", "tensor_split", "unbind", "unsafe_chunk", "unsafe_split")
def _(walk: Walk, call: Call) -> list[Value]:
    """Views: equal parts are one `split`, others slices."""
    value, dim = walk.value(call.args["self"]), call.args.get("dim", 0)
    axis = own_axis(value, dim)
    if call.record.target == "unbind":
        lengths = [1] * value.shape[axis]
    else:
        lengths = [s[dim % value.rank] for s in call.record.shapes]
    parts: list[Value] = []
    if len(set(lengths)) == 1 and len(lengths) > 1:
        shape = (*value.shape[:axis], lengths[0], *value.shape[axis + 1 :])
        where = walk.axis(value, axis)
        made = walk.emit("split", [value], shape, value.layout, kind=value.kind, axis=where, parts=len(lengths))
        parts = [made._replace(source=(made.source, i)) for i in range(len(lengths)) if isinstance(made.source, int)]
    else:
        start = 0
        for length in lengths:
            parts.append(walk.slice(value, axis, start, length))
            start += length
    if call.record.target == "unbind":
        return [walk.view(part, call, i) for i, part in enumerate(parts)]
    return parts


@rule("select")
def _(walk: Walk, call: Call) -> Value:
    """One index: a slice without its axis."""
    value = walk.value(call.args["self"])
    axis = own_axis(value, call.args["dim"])
    index = call.args["index"] % value.shape[axis]
    part = walk.slice(value, axis, index, 1)
    return walk.view(part, call)


@rule("narrow")
def _(walk: Walk, call: Call) -> Value:
    value = walk.value(call.args["self"])
    axis = own_axis(value, call.args["dim"])
    return walk.slice(value, axis, call.args["start"] % max(1, value.shape[axis]), call.args["length"])


@rule("slice")
def _(walk: Walk, call: Call) -> Any:
    """A step takes the first of so many: a view with an axis more, where the step divides the axis."""
    value, args = walk.value(call.args["self"]), call.args
    dim = args["dim"] % value.rank
    if value.layout and dim == value.layout.at:
        if walk.shapes.get(args["self"].name) == call.shape:
            return value  # all chains
        raise Refused("takes some of the chains")
    axis = own_axis(value, dim)
    size, length, step = value.shape[axis], call.shape[dim], args["step"] or 1
    start = min(max((args["start"] or 0) + (size if (args["start"] or 0) < 0 else 0), 0), size)
    if step == 1:
        return walk.slice(value, axis, start, length)
    if size % step or start >= step or length != size // step:
        raise Refused(f"has a step of {step}, which does not divide the axis of {size}")
    wide = walk.reshape(value, (*value.shape[:axis], length, step, *value.shape[axis + 1 :]), value.layout)
    part = walk.slice(wide, axis + 1, start, 1)
    return walk.reshape(part, (*value.shape[:axis], length, *value.shape[axis + 1 :]), value.layout)


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "zero_pad2d")
def _(walk: Walk, call: Call) -> Value:
    """Negative margins cut."""
    value, args = walk.value(call.args["self"]), call.args
    margins, target = list(args.get("pad", args.get("padding"))), call.record.target
    mode = args.get("mode", "reflect" if "reflection" in target else "constant")
    if mode not in ("constant", "reflect"):
        raise Refused(f"has mode {mode}")
    if args.get("value") and value.kind == "float":
        raise Refused(f"pads with {args['value']}")
    before, after = margins[::2][::-1], margins[1::2][::-1]
    axes = [own_axis(value, value.rank - len(before) + i) for i in range(len(before))]
    for i, axis in enumerate(axes):
        if before[i] < 0 or after[i] < 0:
            left, right = max(0, -before[i]), max(0, -after[i])
            value = walk.slice(value, axis, left, value.shape[axis] - left - right)
            before[i], after[i] = max(0, before[i]), max(0, after[i])
    if not any((*before, *after)):
        return value
    full = [(0, 0)] * len(value.shape)
    for axis, p, q in zip(axes, before, after, strict=True):
        full[axis] = (p, q)
    shape = tuple(s + p + q for s, (p, q) in zip(value.shape, full, strict=True))
    used = full[min(i for i, (p, q) in enumerate(full) if p or q) :]
    more: dict[str, Any] = {"mode": "reflect"} if mode == "reflect" else {}
    left, right = [p for p, _ in used], [q for _, q in used]
    return walk.emit("pad", [value], shape, value.layout, kind=value.kind, before=left, after=right, **more)


@rule("roll")
def _(walk: Walk, call: Call) -> Value:
    """Two parts joined the other way round, for each axis."""
    value = walk.value(call.args["self"])
    if not call.args["dims"]:
        raise Refused("rolls over all axes")
    for shift, dim in zip(call.args["shifts"], call.args["dims"], strict=True):
        axis = own_axis(value, dim)
        size = value.shape[axis]
        cut = -shift % size
        if cut:
            parts = [walk.slice(value, axis, cut, size - cut), walk.slice(value, axis, 0, cut)]
            value = walk.emit("concat", parts, value.shape, value.layout, kind=value.kind, axis=walk.axis(value, axis))
    return value
