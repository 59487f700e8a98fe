"""Choices by size, and what indices become: candidates selected by a planner, classes, elites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Attribute, Shape, ShapeError, Work, elements, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

_AXIS = {"axis": Attribute("axis", -1, text="the axis searched, which the result does not have")}
_COUNT = {"count": Attribute("int", required=True, text="number of elements taken")}
_SIZE = {"size": Attribute("int", required=True, text="number of classes")}
# Passes that torch's selection makes over 32-bit keys, two bits at a time.
_PASSES = 16
operator("argmax", "elementwise", attributes=_AXIS, result="index", text="index of the largest along an axis")
operator("argmin", "elementwise", attributes=_AXIS, result="index", text="index of the smallest along an axis")
operator(
    "topk",
    "elementwise",
    attributes=_COUNT,
    result=("index", "float"),
    text="indices of the largest along the last axis; their values are written, too",
)
operator("one_hot", "transformation", attributes=_SIZE, result="index", text="whole numbers: 1 where the index says")
operator("to_float", "elementwise", text="numbers from indices or a mask, a conversion of its own")


@shape("argmax", "argmin")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    axis = len(x) + a["axis"]
    if axis < 0:
        raise ShapeError(f"expected an axis of a tensor with {len(x)} axes, found {a['axis']}")
    return (tuple(x[:axis] + x[axis + 1 :]),)


@shape("topk")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x = inputs[0]
    if a["count"] > x[-1]:
        raise ShapeError(f"expected at least {a['count']} elements on the last axis, found {x[-1]}")
    return ((*x[:-1], a["count"]),) * 2


@shape("one_hot")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((*inputs[0], a["size"]),)


@shape("to_float")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@work("argmax", "argmin")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One comparison per element read."""
    return Work(flops=elements(inputs[0]))


@work("topk")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Radix selection: a comparison per element and pass over the keys.

    Not counted: the sort of what was selected, and bytes of all passes but the first. Source: torch's
    TensorTopK.cu (two bits a pass).
    """
    return Work(flops=_PASSES * elements(inputs[0]))


@work("one_hot")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Zeros and ones written; no arithmetic. Not counted: that torch writes zeros first, in a kernel of their own."""
    return Work()


@work("to_float")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One conversion per element."""
    return Work(flops=elements(outputs[0]))


@gradient("argmax", "argmin", "one_hot", "to_float")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Indices are piecewise constant."""
    return [None]


@gradient("topk")
def _(b: Builder, node: Node, grads: Sequence[Any], want: Sequence[bool]) -> Sequence[int | None]:
    """The values' gradient goes where they were taken from, into zeros."""
    if grads[1] is None:
        return [None]
    full = b.shape(node.inputs[0])
    return [b.emit("scatter", b.emit("zeros", shape=full), node.outputs[0], grads[1], axis=-1, shared=len(full) - 1)]
