"""Look-ups by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import (
    Attribute,
    Parameter,
    Shape,
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
