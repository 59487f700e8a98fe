"""Reductions, softmax and what goes over an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ebmsim.capture.chains import Layout, Refused, Value, own_axis
from ebmsim.capture.rules_arithmetic import number
from ebmsim.capture.table import rule
from ebmsim.capture.walk import Call, Walk

_NAMES = {"sum": "reduce_sum", "mean": "reduce_mean", "amax": "reduce_max", "amin": "reduce_min"}


def reduced(walk: Walk, op: str, value: Value, dims: Sequence[int], keep: bool, **attributes: Any) -> Value:
    """A reduction over torch's axes. Raises Refused where the chains are one of them."""
    axes = sorted(own_axis(value, d) for d in dims)
    if not axes:
        return value
    gone = {d % max(1, value.rank) for d in dims}
    shape = tuple(1 if i in axes else s for i, s in enumerate(value.shape) if keep or i not in axes)
    layout = value.layout
    if layout and not keep:
        before = sum(d < layout.at for d in gone)
        layout = layout._replace(rank=layout.rank - len(gone), at=layout.at - before)
    where = [walk.axis(value, a) for a in axes]
    more: dict[str, Any] = {"keep": True} if keep else {}
    return walk.emit(op, [value], shape, layout, axes=where, **more, **attributes)


def _dims(value: Value, given: Any) -> list[int]:
    """The axes given; all where none are."""
    if given is None or given == []:
        return list(range(value.rank))
    return [given] if isinstance(given, int) else list(given)


def _over_all(walk: Walk, op: str, value: Value) -> Value | None:
    """The sum or mean of every chain's energies, at the very end: each chain's own part of it."""
    if value.layout is None:
        return None
    flat = walk.reshape(value, (math.prod(value.shape),), Layout(2, 0)) if len(value.shape) != 1 else value
    found = flat if flat.shape == (1,) else reduced(walk, op, flat._replace(layout=Layout(2, 0)), [1], True)
    what = op.removeprefix("reduce_")
    walk.note(f"The module ends with a {what} over all chains; here every chain keeps its energy.")
    return found._replace(layout=Layout(2, 0))


@rule(*_NAMES)
def _(walk: Walk, call: Call) -> Value:
    op = _NAMES[call.record.target]
    value = walk.value(call.args["self"])
    if value.kind != "float":
        value = walk.elementwise("to_float", [value])
    dims = _dims(value, call.args.get("dim"))
    last = call.record.name in walk.exported.outputs
    if last and op in ("reduce_sum", "reduce_mean") and value.layout and len(dims) == value.rank:
        found = _over_all(walk, op, value)
        if found is not None:
            return found
    return reduced(walk, op, value, dims, bool(call.args.get("keepdim")))


@rule("max", "min")
def _(walk: Walk, call: Call) -> Any:
    """Values over an axis; the indices are not to be used."""
    op = "reduce_max" if call.record.target == "max" else "reduce_min"
    if "other" in call.args:
        values = [walk.value(call.args["self"]), walk.value(call.args["other"])]
        return walk.elementwise("maximum" if op == "reduce_max" else "minimum", values)
    value = walk.value(call.args["self"])
    if "dim" not in call.args:
        return reduced(walk, op, value, range(value.rank), False)
    return [reduced(walk, op, value, [call.args["dim"]], bool(call.args["keepdim"])), None]


@rule("argmax", "argmin")
def _(walk: Walk, call: Call) -> Value:
    value, dim = walk.value(call.args["self"]), call.args["dim"]
    if dim is None or call.args["keepdim"]:
        raise Refused("searches all axes, or keeps one")
    axis = own_axis(value, dim)
    shape = tuple(s for i, s in enumerate(value.shape) if i != axis)
    _, layout = walk.layout(call, value)
    return walk.emit(call.record.target, [value], shape, layout, kind="index", axis=walk.axis(value, axis))


@rule("logsumexp")
def _(walk: Walk, call: Call) -> Value:
    value = walk.value(call.args["self"])
    return reduced(walk, "logsumexp", value, _dims(value, call.args["dim"]), bool(call.args["keepdim"]))


@rule("norm", "linalg_vector_norm", "linalg_norm", "frobenius_norm")
def _(walk: Walk, call: Call) -> Value:
    """Length, or a sum of amounts (two kernels)."""
    args = call.args
    value, order = walk.value(args["self"]), args.get("p", args.get("ord", 2))
    dims, keep = _dims(value, args.get("dim")), bool(args.get("keepdim"))
    if order in (None, 2, "fro"):
        return reduced(walk, "reduce_norm", value, dims, keep)
    size = walk.elementwise("abs", [value])
    if order == 1:
        return reduced(walk, "reduce_sum", size, dims, keep)
    if order == math.inf:
        return reduced(walk, "reduce_max", size, dims, keep)
    raise Refused(f"has order {order}")


@rule("var", "std")
def _(walk: Walk, call: Call) -> Value:
    args = call.args
    value = walk.value(args["self"])
    given = args.get("correction", 1 if args.get("unbiased", True) else 0)
    correction = int(1 if given is None else given)
    more: dict[str, Any] = {} if correction == 1 else {"correction": correction}
    op = f"reduce_{call.record.target}"
    return reduced(walk, op, value, _dims(value, args.get("dim")), bool(args.get("keepdim")), **more)


@rule("var_mean", "std_mean")
def _(walk: Walk, call: Call) -> list[Value]:
    """Two kernels for one."""
    args = call.args
    value = walk.value(args["self"])
    dims, keep = _dims(value, args.get("dim")), bool(args.get("keepdim"))
    correction = args.get("correction", 1 if args.get("unbiased", True) else 0)
    more: dict[str, Any] = {} if correction in (1, None) else {"correction": int(correction)}
    op = "reduce_" + call.record.target.partition("_")[0]
    return [reduced(walk, op, value, dims, keep, **more), reduced(walk, "reduce_mean", value, dims, keep)]


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "special_softmax", "special_log_softmax")
def _(walk: Walk, call: Call) -> Value:
    value = walk.value(call.args["self"])
    axis = own_axis(value, call.args["dim"])
    op = "log_softmax" if "log" in call.record.target else "softmax"
    more: dict[str, Any] = {} if axis == len(value.shape) - 1 else {"axis": axis}
    return walk.emit(op, [value], value.shape, value.layout, **more)


@rule("one_hot")
def _(walk: Walk, call: Call) -> Value:
    value = walk.value(call.args["self"])
    size = call.args["num_classes"]
    layout = value.layout._replace(rank=value.layout.rank + 1) if value.layout else None
    return walk.emit("one_hot", [value], (*value.shape, size), layout, kind="index", size=size)


@rule("addcmul")
def _(walk: Walk, call: Call) -> Value:
    """Two kernels or three for one."""
    first, a, b = (walk.value(call.args[n]) for n in ("self", "tensor1", "tensor2"))
    product = walk.elementwise("mul", [a, b])
    if call.args["value"] != 1:
        product = walk.elementwise("scale", [product], by=number(call.args["value"]))
    return walk.elementwise("add", [first, product])


@rule("lerp")
def _(walk: Walk, call: Call) -> Value:
    """a + (b - a) w: three kernels for one."""
    a, b, w = call.args["self"], call.args["end"], call.args["weight"]
    first = walk.value(a)
    gap = walk.elementwise("sub", [walk.value(b), first])
    if isinstance(w, (int, float)):
        part = walk.elementwise("scale", [gap], by=number(w))
    else:
        part = walk.elementwise("mul", [gap, walk.value(w)])
    return walk.elementwise("add", [first, part])
