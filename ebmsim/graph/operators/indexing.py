"""Look-ups by index, their transposes, which add rows up, and parts written in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.arithmetic import reduce_to
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
# In place: the first input is not to be read afterwards; where it is, `copy` it first, as torch would have it.
operator(
    "scatter",
    "transformation",
    3,
    attributes={"axis": Attribute("axis", 0, text="the axis that is indexed"), "shared": _SHARED},
    result="same",
    in_place=True,
    text="write rows (third input) into the first input, each where the index (second) says, in place",
)
operator(
    "scatter_add",
    "transformation",
    3,
    attributes={"axis": Attribute("axis", 0, text="the axis that is indexed"), "shared": _SHARED},
    in_place=True,
    text="add rows (third input) to the first input, each where the index (second) says, in place",
)
operator(
    "assign",
    "movement",
    2,
    attributes={
        "axis": Attribute("axis", 0, text="the axis along which a part is written"),
        "start": Attribute("int", 0, least=0, text="first index written"),
        "length": Attribute("int", 1, text="number of indices written"),
    },
    result="same",
    in_place=True,
    text="write the second input over a part of the first, in place",
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
    """Zeros, to which the parts' gradients are added: two kernels, as in torch."""
    x, index = node.inputs
    zeros = b.emit("zeros", shape=b.shape(x))
    return [b.emit("scatter_add", zeros, index, grads[0], **dict(node.attributes)), None]


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

    Reads x and the index and writes y once. Not counted: a kernel of its own that fills y with zeros in torch, and
    reading y again where rows meet. `zeros` and `scatter_add` are these kernels one by one.
    """
    return Work(flops=elements(inputs[0]))


@gradient("index_add")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Linear in the rows: the cotangent's rows."""
    a = dict(node.attributes)
    return [b.emit("gather", grads[0], node.inputs[1], axis=a["axis"], shared=a["shared"]), None]


def _covers(part: Shape, whole: Shape) -> None:
    """Raises ShapeError where what is written does not broadcast to where it is written."""
    if len(part) > len(whole) or any(p not in (1, w) for p, w in zip(part[::-1], whole[::-1], strict=False)):
        raise ShapeError(f"expected a shape that broadcasts to {list(whole)}, which is written, found {list(part)}")


@shape("scatter", "scatter_add")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    before, index, after = _parts(inputs[:2], a, 1)
    _covers(inputs[2], (*before, *index, *after))
    return (inputs[0],)


@work("scatter")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """x[…, i[j], …] = r[…, j, …]: reads the index and the rows, writes the rows; the rest of x is not touched."""
    before, index, after = _parts(inputs[:2], a, 1)
    rows = elements((*before, *index, *after))
    return Work(read=(0, elements(inputs[1]), elements(inputs[2])), written=rows)


@work("scatter_add")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """x[…, i[j], …] += r[…, j, …]: one addition per element of the rows; what they are added to is read and written."""
    before, index, after = _parts(inputs[:2], a, 1)
    rows = elements((*before, *index, *after))
    touched = min(rows, elements(inputs[0]))
    return Work(flops=rows, read=(touched, elements(inputs[1]), elements(inputs[2])), written=touched)


@gradient("scatter_add")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy; the rows' gradient is gathered from dy."""
    _, index, rows = node.inputs
    taken = b.emit("gather", grads[0], index, **dict(node.attributes)) if want[2] else None
    return [grads[0] if want[0] else None, None, None if taken is None else reduce_to(b, taken, b.shape(rows))]


@gradient("scatter")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx is a copy of dy with zeros where rows were written; the rows' gradient is gathered from dy."""
    _, index, rows = node.inputs
    a = dict(node.attributes)
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    kept = b.emit("scatter", b.emit("copy", grads[0]), index, zero, **a) if want[0] else None
    taken = reduce_to(b, b.emit("gather", grads[0], index, **a), b.shape(rows)) if want[2] else None
    return [kept, None, taken]


def _part(x: Shape, a: Mapping[str, Any]) -> Shape:
    axis = len(x) + a["axis"]
    if axis < 0 or a["start"] + a["length"] > x[axis]:
        found = f"{a['start']} to {a['start'] + a['length']} on axis {a['axis']}"
        raise ShapeError(f"expected a part of a tensor of shape {list(x)}, found {found}")
    return (*x[:axis], a["length"], *x[axis + 1 :])


@shape("assign")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    _covers(inputs[1], _part(inputs[0], a))
    return (inputs[0],)


@work("assign")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Reads and writes the part; the rest is not touched."""
    return Work(read=(0, elements(inputs[1])), written=elements(_part(inputs[0], a)))


@gradient("assign")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx is a copy of dy with zeros where the part was written; the part's gradient is a view of dy."""
    a = dict(node.attributes)
    zero = b.tensor((), "constant", "zero", chain_axis=False)
    kept = b.emit("assign", b.emit("copy", grads[0]), zero, **a) if want[0] else None
    taken = reduce_to(b, b.emit("slice", grads[0], **a), b.shape(node.inputs[1])) if want[1] else None
    return [kept, taken]
