"""Arithmetic on elements, activations, comparisons and conversions."""

from __future__ import annotations

import math
from typing import Any

import torch

from ebmsim.capture.chains import Refused, Value
from ebmsim.capture.export import Ref
from ebmsim.capture.table import rule
from ebmsim.capture.walk import Call, Fixed, Walk, kind_of

_SAME = (
    *("relu", "sigmoid", "tanh", "silu", "mish", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "abs", "neg", "sign"),
    *("square", "reciprocal"),
)


def number(value: float) -> float | int:
    """A number as files have it."""
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)


def _tensor(walk: Walk, item: Any) -> bool:
    """Whether an argument is a tensor rather than a number."""
    return isinstance(item, Ref)


@rule(*_SAME)
def _(walk: Walk, call: Call) -> Value:
    return walk.elementwise(call.record.target.rstrip("_"), [walk.value(call.args["self"])])


@rule("gelu")
def _(walk: Walk, call: Call) -> Value:
    op = "gelu_tanh" if call.args["approximate"] == "tanh" else "gelu"
    return walk.elementwise(op, [walk.value(call.args["self"])])


@rule("leaky_relu")
def _(walk: Walk, call: Call) -> Value:
    return walk.elementwise("leaky_relu", [walk.value(call.args["self"])], slope=call.args["negative_slope"])


@rule("elu")
def _(walk: Walk, call: Call) -> Value:
    if call.args["scale"] != 1 or call.args["input_scale"] != 1:
        raise Refused("has scales of its own")
    more: dict[str, Any] = {} if call.args["alpha"] == 1 else {"alpha": call.args["alpha"]}
    return walk.elementwise("elu", [walk.value(call.args["self"])], **more)


@rule("softplus")
def _(walk: Walk, call: Call) -> Value:
    if call.args["beta"] != 1:
        raise Refused(f"has a beta of {call.args['beta']}")
    return walk.elementwise("softplus", [walk.value(call.args["self"])])


@rule("log_sigmoid")
def _(walk: Walk, call: Call) -> Value:
    """-softplus(-x), three kernels for one."""
    walk.note("log_sigmoid is written as three operators, where torch launches one kernel.")
    x = walk.elementwise("neg", [walk.value(call.args["self"])])
    return walk.elementwise("neg", [walk.elementwise("softplus", [x])])


@rule("glu")
def _(walk: Walk, call: Call) -> Value:
    """a · sigmoid(b) of two halves, two kernels for one."""
    from ebmsim.capture.chains import own_axis

    walk.note("glu is written as two operators, where torch launches one kernel.")
    x = walk.value(call.args["self"])
    axis = own_axis(x, call.args["dim"])
    half = x.shape[axis] // 2
    first, second = walk.slice(x, axis, 0, half), walk.slice(x, axis, half, half)
    return walk.elementwise("mul", [first, walk.elementwise("sigmoid", [second])])


@rule("add", "sub")
def _(walk: Walk, call: Call) -> Value:
    """A constant is a shift; a factor of the second operand is a kernel of its own."""
    target, factor = call.record.target.rstrip("_"), call.args.get("alpha", 1)
    first, second = call.args["self"], call.args["other"]
    if not _tensor(walk, second):
        by = second * factor * (1 if target == "add" else -1)
        return walk.elementwise("shift", [walk.value(first)], by=number(by))
    if not _tensor(walk, first):
        raise Refused("adds to a number")
    b = walk.value(second)
    if factor != 1:
        b = walk.elementwise("scale", [b], by=number(factor))
    return walk.elementwise(target, [walk.value(first), b])


@rule("rsub")
def _(walk: Walk, call: Call) -> Value:
    """c - x, two kernels for one where c is a number."""
    x, other = walk.value(call.args["self"]), call.args["other"]
    if call.args.get("alpha", 1) != 1:
        raise Refused("has a factor")
    if _tensor(walk, other):
        return walk.elementwise("sub", [walk.value(other), x])
    return walk.elementwise("sub", [walk.value(float(other)), x])


@rule("mul")
def _(walk: Walk, call: Call) -> Value:
    first, second = call.args["self"], call.args["other"]
    if not _tensor(walk, second):
        return walk.elementwise("scale", [walk.value(first)], by=number(second))
    return walk.elementwise("mul", [walk.value(first), walk.value(second)])


@rule("div", "true_divide")
def _(walk: Walk, call: Call) -> Value:
    if call.args.get("rounding_mode"):
        raise Refused(f"rounds ({call.args['rounding_mode']})")
    first, second = call.args["self"], call.args["other"]
    if not _tensor(walk, second):
        return walk.elementwise("scale", [walk.value(first)], by=number(1 / second))
    return walk.elementwise("div", [walk.value(first), walk.value(second)])


@rule("pow")
def _(walk: Walk, call: Call) -> Value:
    base, by = call.args["self"], call.args["exponent"]
    if not _tensor(walk, base) or _tensor(walk, by):
        raise Refused("has an exponent that is no number")
    named = {2: "square", 0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}.get(by)
    x = walk.value(base)
    return walk.elementwise(named, [x]) if named else walk.elementwise("pow", [x], by=number(by))


@rule("clamp", "clamp_min", "clamp_max", "hardtanh", "clip")
def _(walk: Walk, call: Call) -> Value:
    args = call.args
    low, high = args.get("min", args.get("min_val")), args.get("max", args.get("max_val"))
    if isinstance(low, Ref) or isinstance(high, Ref):
        raise Refused("has bounds that are tensors")
    bounds: dict[str, Any] = {
        name: number(v) for name, v in (("low", low), ("high", high)) if v is not None and math.isfinite(v)
    }
    return walk.elementwise("clamp", [walk.value(args["self"])], **bounds)


@rule("relu6")
def _(walk: Walk, call: Call) -> Value:
    return walk.elementwise("clamp", [walk.value(call.args["self"])], low=0, high=6)


@rule("maximum", "minimum")
def _(walk: Walk, call: Call) -> Value:
    values = [walk.value(call.args["self"]), walk.value(call.args["other"])]
    return walk.elementwise(call.record.target, values)


# Whether the operands change places; `less` and `equal` are all there is.
_COMPARED = {"lt": False, "le": False, "gt": True, "ge": True}


@rule(*_COMPARED, "eq")
def _(walk: Walk, call: Call) -> Value:
    """At equality le and ge count as lt and gt do."""
    values = [walk.value(call.args["self"]), walk.value(call.args["other"])]
    target = call.record.target.rstrip("_")
    if target == "eq":
        return walk.elementwise("equal", values, kind="mask")
    return walk.elementwise("less", values[::-1] if _COMPARED[target] else values, kind="mask")


@rule("where")
def _(walk: Walk, call: Call) -> Value:
    args = call.args
    if "other" not in args or "self" not in args:
        raise Refused("gives as many elements as values say")
    return walk.elementwise("select", [walk.value(args[name]) for name in ("condition", "self", "other")])


@rule("masked_fill")
def _(walk: Walk, call: Call) -> Value:
    args = call.args
    return walk.elementwise("select", [walk.value(args["mask"]), walk.value(args["value"]), walk.value(args["self"])])


@rule("to", "_to_copy", "float", "double", "type_as")
def _(walk: Walk, call: Call) -> Value:
    """Nothing where the type stays; numbers from a mask or an index are a conversion."""
    ref = call.args["self"]
    x = walk.value(ref)
    before, after = walk.dtypes.get(ref.name), call.record.dtypes[0]
    if before == after and not call.args.get("copy"):
        return x
    if kind_of(after) == "float" and x.kind != "float":
        return walk.elementwise("to_float", [x])
    if kind_of(after) == "float":
        return walk.copy(x)
    raise Refused(f"makes {str(after).removeprefix('torch.')} of {x.kind}s")


@rule("dropout", "feature_dropout", "alpha_dropout")
def _(walk: Walk, call: Call) -> Any:
    if call.args["train"] and call.args["p"] > 0:
        raise Refused("is in training mode; call .eval() on the module")
    return walk[call.args["input"]]


@rule("detach", "alias", "lift_fresh_copy", "lift_fresh", "lift", "_assert_tensor_metadata", "requires_grad")
def _(walk: Walk, call: Call) -> Any:
    """A constant where gradients are derived."""
    if "self" not in call.args:
        return None
    found = walk[call.args["self"]]
    if call.record.target.rstrip("_") != "detach" or not isinstance(found, Value):
        return found
    return walk.emit("detach", [found], found.shape, found.layout, kind=found.kind)


@rule("clone", "contiguous")
def _(walk: Walk, call: Call) -> Any:
    """A copy; none where the tensor lies contiguously already and no clone is asked for."""
    ref = call.args["self"]
    if call.record.target == "contiguous" and walk.contiguous(ref.name):
        return walk[ref]
    return walk.copy(walk.value(ref))


@rule("zeros", "zeros_like", "new_zeros")
def _(walk: Walk, call: Call) -> Any:
    """Zeros of every chain are a kernel; others a constant."""
    like = walk[call.args["self"]] if "self" in call.args else None
    shape, layout = walk.layout(call, like if isinstance(like, Value) else None)
    if layout is None:
        return Fixed(torch.zeros(shape, dtype=call.record.dtypes[0]))
    made = walk.emit("zeros", [], shape, layout, own=True, shape_attribute=shape)
    return made


@rule("ones", "ones_like", "new_ones", "full", "full_like", "new_full")
def _(walk: Walk, call: Call) -> Any:
    """The same number everywhere: a constant, which all chains share."""
    like = walk[call.args["self"]] if "self" in call.args else None
    shape, layout = walk.layout(call, like if isinstance(like, Value) else None)
    filled = call.args.get("fill_value", 1)
    if layout is not None:
        walk.note("What is the same for all chains is computed once for them, where torch computes it for each.")
    return Fixed(torch.full(shape, filled, dtype=call.record.dtypes[0]), layout)
