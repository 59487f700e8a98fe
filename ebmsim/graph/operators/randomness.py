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


@shape("random_normal", "random_uniform")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(a["shape"]),)


@work("random_normal")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Box and Muller: two transcendental results per normal number."""
    n = elements(outputs[0])
    return Work(random=n, special=2 * n)


@work("random_uniform")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """One random number per element."""
    return Work(random=elements(outputs[0]))


@gradient("random_normal", "random_uniform")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    return []
