"""What involves the host: copies over the host link, synchronisations, work on the host itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.table import Attribute, Shape, ShapeError, Work, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

operator("to_device", "movement", result="same", text="copy from the host over the host link")
operator("to_host", "movement", result="same", text="copy to the host over the host link; the host waits for it")
operator("synchronise", "host", text="the host waits until the device has finished")
operator(
    "host",
    "host",
    (0, 8),
    attributes={
        "seconds": Attribute("number", required=True, least=0, text="time the host computes"),
        "per": Attribute("choice", "launch", choices=("launch", "chain"), text="what takes this time"),
    },
    text="work on the host, with a time of known source",
)


@shape("to_device", "to_host", "synchronise")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return (inputs[0],)


@shape("host")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    if a["per"] == "chain" and not inputs:
        raise ShapeError("expected an input with a chain axis where the time is per chain")
    return (tuple(inputs[0]) if inputs else (1,),)


@work("to_device", "to_host", "synchronise")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """No arithmetic."""
    return Work()


@work("host")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """The time is given, not derived; chains are counted on the first axis of the first input."""
    return Work(seconds=float(a["seconds"]) * (inputs[0][0] if a["per"] == "chain" else 1))


@gradient("to_device", "to_host", "synchronise", "host")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """Nothing flows back through the host."""
    return [None] * len(node.inputs)
