"""Look-ups by index, and their transposes, which add rows up."""

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

_TABLE = {
    "entries": Attribute("int", required=True, text="rows of the table"),
    "width": Attribute("int", required=True, text="elements of a row"),
}
operator(
    "embedding",
    "transformation",
    attributes=_TABLE,
    parameters=(Parameter("weight", lambda i, a: (a["entries"], a["width"])),),
    text="rows of a learned table by index",
)
operator("embedding_gradient", "transformation", 2, attributes=_TABLE, public=False)
_SHARED = Attribute("int", 0, least=0, text="leading axes that both inputs have in common, beside the chain axis")
operator(
    "gather",
    "transformation",
    2,
    attributes={"axis": Attribute("axis", 0, text="the axis that is indexed"), "shared": _SHARED},
    result="same",
    text="parts of a tensor along an axis, by an index tensor whose axes take the place of that axis",
)
operator(
    "index_add",
    "transformation",
    2,
    attributes={
        "axis": Attribute("axis", 0, text="the axis of the first input that the index runs along"),
        "size": Attribute("int", required=True, text="the axis's size in the result"),
        "shared": _SHARED,
    },
    text="zeros to which the rows of the first input are added, each where the index says",
)


@shape("embedding")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((*inputs[0], a["width"]),)


@work("embedding")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Reads the rows asked for, not the table."""
    return Work(read=(elements(inputs[0]), min(elements(outputs[0]), elements(inputs[1]))))


@shape("embedding_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((a["entries"], a["width"]),)


@work("embedding_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One addition per element of dy; the whole table's gradient is written."""
    return Work(flops=elements(inputs[0]))


@gradient("embedding")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    table = b.emit("embedding_gradient", grads[0], node.inputs[0], **dict(node.attributes)) if want[1] else None
    return [None, table]


@gradient("embedding_gradient")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in dy: the cotangent's rows."""
    return [b.emit("embedding", node.inputs[1], grads[0], **dict(node.attributes)), None]


def _parts(inputs: Sequence[Shape], a: Mapping[str, Any], width: int) -> tuple[Shape, Shape, Shape]:
    """Axes before the indexed one, of the index alone, after it; `width` is the number of axes in its place."""
    x, index = inputs
    after = len(x) + a["axis"] + 1
    before = x[: after - width]
    if after < width or a["shared"] > min(len(before), len(index)) or x[: a["shared"]] != index[: a["shared"]]:
        raise ShapeError(f"expected an index that fits axis {a['axis']}, found shapes {list(x)} and {list(index)}")
    return before, index[a["shared"] :], x[after:]


@shape("gather")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    before, index, after = _parts(inputs, a, 1)
    return ((*before, *index, *after),)


@work("gather")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y[…, j, …] = x[…, i[j], …]: reads the index and the parts asked for, no more than there are."""
    return Work(read=(min(elements(outputs[0]), elements(inputs[0])), elements(inputs[1])))


@gradient("gather")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """The parts' gradients are added up, as torch's index_select has it."""
    a = dict(node.attributes)
    return [b.emit("index_add", grads[0], node.inputs[1], size=b.shape(node.inputs[0])[a["axis"]], **a), None]


@shape("index_add")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    source, index = inputs
    width = len(index) - a["shared"]
    before, own, after = _parts(inputs, a, width)
    if source[len(before) : len(before) + width] != own:
        raise ShapeError(f"expected a row for every index, found shapes {list(source)} and {list(index)}")
    return ((*before, a["size"], *after),)


@work("index_add")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y[…, i[j], …] += x[…, j, …]: one addition per element of x.

    Reads x and the index and writes y once. Not counted: y filled with zeros before, and read again where rows meet.
    """
    return Work(flops=elements(inputs[0]))


@gradient("index_add")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in the rows: the cotangent's rows."""
    a = dict(node.attributes)
    return [b.emit("gather", grads[0], node.inputs[1], axis=a["axis"], shared=a["shared"]), None]
