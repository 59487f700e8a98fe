"""Views (reshape, permute, expand, slice: no kernel) and the operators that move elements."""

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

_SHAPE = {"shape": Attribute("ints", required=True, text="the new shape, without the chain axis")}
_PART = {
    "axis": Attribute("axis", required=True, text="the axis that is cut"),
    "start": Attribute("int", 0, least=0, text="first index kept"),
    "length": Attribute("int", required=True, text="number of indices kept"),
}
_PAD = {
    "before": Attribute("ints", required=True, least=0, text="elements added before, per trailing axis"),
    "after": Attribute("ints", required=True, least=0, text="elements added after, per trailing axis"),
    "mode": Attribute("choice", "zeros", choices=("zeros", "reflect"), text="what is added"),
}
operator("reshape", "view", attributes=_SHAPE, result="same", text="a view with another shape")
operator("expand", "view", attributes=_SHAPE, result="same", text="a broadcast view")
operator("detach", "view", result="same", text="the same, taken as a constant where gradients are derived")
operator(
    "permute",
    "view",
    attributes={"order": Attribute("axes", required=True, text="the old axes in their new order")},
    result="same",
    text="a view with its axes in another order",
)
operator("slice", "view", attributes=_PART, result="same", text="a view of a part along an axis")
operator(
    "split",
    "view",
    attributes={
        "axis": Attribute("axis", required=True, text="the axis that is cut"),
        "parts": Attribute("int", required=True, text="number of equal parts"),
    },
    result="same",
    text="views of equal parts along an axis; part i of a node m is m.i",
)
operator(
    "slice_gradient",
    "transformation",
    attributes={**_PART, "size": Attribute("int", required=True)},
    public=False,
)
operator(
    "concat",
    "transformation",
    (2, 1000),
    attributes={"axis": Attribute("axis", required=True, text="the axis along which tensors are joined")},
    result="same",
    text="join tensors along an axis",
)
operator(
    "stack",
    "transformation",
    (2, 1000),
    attributes={"axis": Attribute("new axis", required=True, text="where the new axis stands in the result")},
    result="same",
    text="join tensors along a new axis",
)
operator("pad", "transformation", attributes=_PAD, result="same", text="extend trailing axes")
operator("pad_gradient", "transformation", attributes=_PAD, public=False)
operator("copy", "transformation", result="same", text="write a view out contiguously")
_PER_CHAIN = {"shape": Attribute("ints", required=True, text="shape per chain")}
operator("zeros", "movement", 0, attributes=_PER_CHAIN, text="a tensor filled with zeros")


@shape("reshape")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    target = tuple(a["shape"])
    if elements(target) != elements(inputs[0]):
        raise ShapeError(
            f"expected a shape of {elements(inputs[0])} elements as {list(inputs[0])} has, found {list(target)}"
        )
    return (target,)


@shape("expand")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, target = inputs[0], tuple(a["shape"])
    padded = (1,) * (len(target) - len(x)) + tuple(x)
    if len(x) > len(target) or any(s not in (1, t) for s, t in zip(padded, target, strict=True)):
        raise ShapeError(f"expected a shape that {list(x)} broadcasts to, found {list(target)}")
    return (target,)


@shape("permute")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, order = inputs[0], a["order"]
    if sorted(order) != list(range(-len(order), 0)) or len(order) > len(x):
        raise ShapeError(f"expected every one of the trailing axes once, found {list(order)}")
    return (tuple(x[: len(x) - len(order)]) + tuple(x[i] for i in order),)


@shape("slice")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = list(inputs[0])
    if a["start"] + a["length"] > x[a["axis"]]:
        raise ShapeError(f"expected a part of {x[a['axis']]} indices, found {a['start']} to {a['start'] + a['length']}")
    x[a["axis"]] = a["length"]
    return (tuple(x),)


@shape("split")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = list(inputs[0])
    if x[a["axis"]] % a["parts"]:
        raise ShapeError(f"expected an axis that {a['parts']} parts divide, found {x[a['axis']]} indices")
    x[a["axis"]] //= a["parts"]
    return tuple(tuple(x) for _ in range(a["parts"]))


@shape("slice_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = list(inputs[0])
    x[a["axis"]] = a["size"]
    return (tuple(x),)


@shape("concat")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    axis = a["axis"]
    rests = {tuple(s for i, s in enumerate(x) if i != len(x) + axis) for x in inputs}
    if len(rests) > 1:
        shown = " and ".join(str(list(x)) for x in inputs)
        raise ShapeError(f"expected shapes that differ on axis {axis} alone, found {shown}")
    result = list(inputs[0])
    result[axis] = sum(x[axis] for x in inputs)
    return (tuple(result),)


@shape("stack")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    at = len(x) + 1 + a["axis"]
    if len(set(map(tuple, inputs))) > 1:
        raise ShapeError(f"expected equal shapes, found {' and '.join(str(list(x)) for x in inputs)}")
    return ((*x[:at], len(inputs), *x[at:]),)


def _margins(x: Shape, a: Mapping[str, Any]) -> list[int]:
    before, after = a["before"], a["after"]
    if len(before) != len(after) or len(before) > len(x):
        raise ShapeError(f"expected as many sizes before as after, found {list(before)} and {list(after)}")
    return [0] * (len(x) - len(before)) + [p + q for p, q in zip(before, after, strict=True)]


@shape("pad")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(s + m for s, m in zip(inputs[0], _margins(inputs[0], a), strict=True)),)


@shape("pad_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(s - m for s, m in zip(inputs[0], _margins(inputs[0], a), strict=True)),)


@shape("copy", "detach")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@shape("zeros")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(a["shape"]),)


@gradient("zeros")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return []


@work("zeros", "concat", "stack", "pad", "copy", "slice_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Elements are read once and written once; no arithmetic."""
    return Work()


@work("pad_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """A reflected element adds to the one it was copied from."""
    return Work(flops=elements(inputs[0]) - elements(outputs[0]) if a["mode"] == "reflect" else 0)


@gradient("reshape")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("reshape", grads[0], shape=b.shape(node.inputs[0]))]


@gradient("detach")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Nothing flows back."""
    return [None]


@gradient("expand")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    from ebmsim.graph.operators.arithmetic import reduce_to

    return [reduce_to(b, grads[0], b.shape(node.inputs[0]))]


@gradient("permute")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    order = node.attribute("order")
    rank = len(order)
    inverse = [0] * rank
    for new, old in enumerate(order):
        inverse[old + rank] = new - rank
    return [b.emit("permute", grads[0], order=tuple(inverse))]


@gradient("slice")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Zeros everywhere else."""
    a = dict(node.attributes)
    return [b.emit("slice_gradient", grads[0], size=b.shape(node.inputs[0])[a["axis"]], **a)]


@gradient("split")
def _(b: Builder, node: Node, grads: Sequence[int | None], want: Sequence[bool]) -> Sequence[int | None]:
    """The parts' gradients joined in one kernel, with zeros for a part that has none."""

    def zeros(part: int) -> int:
        return b.tensor(b.shape(part), "constant", "zero", chain_axis=b.tensors[part].chain_axis)

    parts = [zeros(part) if grad is None else grad for part, grad in zip(node.outputs, grads, strict=True)]
    return [b.emit("concat", *parts, axis=node.attribute("axis"))]


@gradient("slice_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    a = dict(node.attributes)
    del a["size"]
    return [b.emit("slice", grads[0], **a)]


@gradient("concat")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Each input's gradient is a view of its part."""
    axis = node.attribute("axis")
    out: list[int | None] = []
    start = 0
    for tensor, wanted in zip(node.inputs, want, strict=True):
        length = b.shape(tensor)[axis]
        part = b.emit("slice", grads[0], axis=axis, start=start, length=length) if wanted else None
        out.append(part)
        start += length
    return out


@gradient("stack")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Each input's gradient is a view of its part."""
    axis = node.attribute("axis")
    parts = [b.emit("slice", grads[0], axis=axis, start=i, length=1) if w else None for i, w in enumerate(want)]
    shape = b.shape(node.inputs[0])
    return [None if part is None else b.emit("reshape", part, shape=shape) for part in parts]


@gradient("pad")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("pad_gradient", grads[0], **dict(node.attributes))]


@gradient("pad_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [b.emit("pad", grads[0], **dict(node.attributes))]


@gradient("copy")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return [grads[0]]
