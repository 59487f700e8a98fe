"""Nodes of a workload file before they are text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ebmsim.capture.chains import Shape, Source

VIEWS = ("reshape", "permute", "expand", "slice", "split", "detach")
FREE = (*VIEWS, "parameter", "buffer")


@dataclass
class Node:
    """An operator applied. params: the module's tensors that it holds, by their names there, in the operator's order.

    shape: of its (first) result, without chains. own: whether every chain has its own. weight: the node that it takes
    its weight from.
    """

    op: str
    inputs: list[Source]
    attributes: dict[str, Any]
    shape: Shape
    own: bool
    params: tuple[str, ...] = ()
    weight: Source | None = None
    module: str = ""
    place: tuple[str, int] = ("", 0)
    label: str = ""

    @property
    def reads(self) -> list[Source]:
        """All that it reads, its weight included."""
        return [*self.inputs, *([] if self.weight is None else [self.weight])]


@dataclass
class Captured:
    """A module as nodes. inputs: (name, shape, chain axis, kind), the sample first.

    weights, buffers: tensors that the nodes hold, by their names in the module; those of constants begin with
    "constant.". unused: parameters that no node holds. order: names in the order in which the graph of the written file
    first reads them. classes: of the modules by path, as names.
    """

    name: str
    nodes: list[Node]
    output: Source
    inputs: list[tuple[str, Shape, bool, str]]
    weights: Mapping[str, Any]
    buffers: Mapping[str, Any]
    unused: int
    notes: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)


def node_of(source: Source) -> int | None:
    """The number of the node that a tensor comes from; None for an input."""
    if isinstance(source, tuple):
        return source[0]
    return source if isinstance(source, int) else None


def needed(nodes: list[Node], output: Source) -> tuple[list[Node], Source]:
    """The nodes that a result needs, in their order, and the result among them."""
    keep = sorted(behind(nodes, output))
    return chosen(nodes, keep, output)


def behind(nodes: list[Node], source: Source, ends: Collection[int] = ()) -> set[int]:
    """The numbers of the nodes that a tensor needs; nothing behind `ends`, and not these."""
    found: set[int] = set()
    waiting = [source]
    while waiting:
        at = node_of(waiting.pop())
        if at is not None and at not in found and at not in ends:
            found.add(at)
            waiting += nodes[at].reads
    return found


def chosen(
    nodes: list[Node], keep: list[int], output: Source, names: Mapping[int, str] = {}
) -> tuple[list[Node], Source]:
    """Copies of some nodes with numbers of their own, and a result; what others give has the name it is given there."""
    number: dict[int, Source] = {old: new for new, old in enumerate(keep)}
    number |= {old: name for old, name in names.items() if old not in number}
    kept = []
    for i in keep:
        node = nodes[i]
        weight = None if node.weight is None else renumbered(node.weight, number)
        kept.append(replace(node, inputs=[renumbered(s, number) for s in node.inputs], weight=weight))
    return kept, renumbered(output, number)


def renumbered(source: Source, number: Mapping[int, Source]) -> Source:
    """The same tensor where nodes have other numbers."""
    if isinstance(source, tuple):
        at = number[source[0]]
        return (at, source[1]) if isinstance(at, int) else at
    return number[source] if isinstance(source, int) else source
