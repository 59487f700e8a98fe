"""What a training iteration does to the weights: optimiser, running average, norm for clipping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Shape, Work, elements, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

operator("adam", "elementwise", 4, public=False, text="weights, gradient and two moments to all three updated")
operator("running_average", "elementwise", 2, public=False, text="exponential moving average of the weights")
operator("squared_norm", "elementwise", 1, public=False, text="sum of squares of all elements")


@shape("adam")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0], inputs[0], inputs[0])


@work("adam")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Two moving averages, bias corrections, a root, a division: twelve operations per weight."""
    n = elements(inputs[0])
    return Work(flops=12 * n, special=n)


@shape("running_average")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@work("running_average")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Three operations per weight."""
    return Work(flops=3 * elements(inputs[0]))


@shape("squared_norm")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((1,),)


@work("squared_norm")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Two operations per element read."""
    return Work(flops=2 * elements(inputs[0]))


@gradient("adam", "running_average", "squared_norm")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Weights are updated outside every graph that is differentiated."""
    return [None] * len(node.inputs)
