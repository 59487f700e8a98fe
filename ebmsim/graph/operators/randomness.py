"""Random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Attribute, Shape, Work, elements, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

_SHAPE = {"shape": Attribute("ints", required=True, text="shape per chain")}
operator("random_normal", "rng", 0, attributes=_SHAPE, text="independent normal numbers")
operator("random_uniform", "rng", 0, attributes=_SHAPE, text="independent uniform numbers")
operator(
    "random_integers", "rng", 0, attributes=_SHAPE, result="index", text="independent whole numbers, below a bound"
)
operator(
    "categorical",
    "rng",
    attributes={"count": Attribute("int", required=True, text="draws from each row, with replacement")},
    result="index",
    text="indices drawn with the probabilities on the last axis",
)


@shape("random_normal", "random_uniform", "random_integers")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(a["shape"]),)


@shape("categorical")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return ((*inputs[0][:-1], a["count"]),)


@work("random_normal")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Box and Muller: two transcendental results per normal number."""
    n = elements(outputs[0])
    return Work(random=n, special=2 * n)


@work("random_uniform", "random_integers")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One random number per element."""
    return Work(random=elements(outputs[0]))


@work("categorical")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """A random number per draw, found by bisection in the cumulated row: ⌈log₂ n⌉ comparisons.

    Normalised and cumulated first, two operations per element read, all in one kernel. Not counted: that torch takes
    kernels of their own for these two where a row is long, and that it waits for a check of the probabilities.
    """
    n = inputs[0][-1]
    draws = elements(outputs[0])
    return Work(random=draws, flops=2 * elements(inputs[0]) + draws * (n - 1).bit_length())


@gradient("random_normal", "random_uniform", "random_integers", "categorical")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Random numbers depend on nothing; draws are piecewise constant."""
    return [None] * len(node.inputs)
