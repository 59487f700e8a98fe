"""What involves the host: copies over the host link, synchronisations, work on the host itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Attribute, Shape, Work, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

operator("to_device", "movement", result="same", text="copy from the host over the host link")
operator("to_host", "movement", result="same", text="copy to the host over the host link; the host waits for it")
operator("synchronise", "host", text="the host waits until the device has finished")
operator(
    "host",
    "host",
    (0, 8),
    attributes={"seconds": Attribute("number", required=True, least=0, text="time the host computes")},
    text="work on the host, with a time of known source",
)


@shape("to_device", "to_host", "synchronise")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@shape("host")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (tuple(inputs[0]) if inputs else (1,),)


@work("to_device", "to_host", "synchronise")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """No arithmetic."""
    return Work()


@work("host")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """The time is given, not derived."""
    return Work(seconds=float(a["seconds"]))


@gradient("to_device", "to_host", "synchronise", "host")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Nothing flows back through the host."""
    return [None] * len(node.inputs)
