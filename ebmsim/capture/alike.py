"""Nodes of several networks as those of one: equal but for weights, and for numbers that grow from one to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ebmsim.capture.nodes import Node


def same(a: Node, b: Node) -> bool:
    """Whether two nodes do the same to the same, their weights and numbers among the attributes aside."""
    plain = (a.op, a.inputs, a.weight, a.shape, a.own, len(a.params), a.attributes.keys())
    return plain == (b.op, b.inputs, b.weight, b.shape, b.own, len(b.params), b.attributes.keys())


def merged(trees: list[list[Node]]) -> list[Node] | None:
    """The nodes of all instances as one list, numbers that grow from instance to instance as expressions."""
    found = []
    for nodes in zip(*trees, strict=True):
        attributes = {}
        for key in nodes[0].attributes:
            value = progression([n.attributes[key] for n in nodes])
            if value is None:
                return None
            attributes[key] = value
        found.append(replace(nodes[0], attributes=attributes))
    return found


def progression(values: list[Any]) -> Any:
    """One value for all instances, or an expression of `instance`; None where there is neither."""
    first = values[0]
    if all(v == first for v in values):
        return first
    if not all(isinstance(v, int) and not isinstance(v, bool) for v in values):
        return None
    step = values[1] - first
    if any(v != first + step * i for i, v in enumerate(values)):
        return None
    return (f"{first} + " if first else "") + (f"{step} * instance" if step != 1 else "instance")


def common(paths: list[str]) -> str:
    """The longest path of modules that all paths begin with."""
    split = [p.split(".") if p else [] for p in paths]
    found = []
    for names in zip(*split, strict=False):
        if len(set(names)) > 1:
            break
        found.append(names[0])
    return ".".join(found)
