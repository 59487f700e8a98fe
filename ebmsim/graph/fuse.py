"""Fusion as a rewrite: runs of elementwise operators become one kernel, joined to a product before them."""

from __future__ import annotations

from collections.abc import Sequence

from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.lower import view_roots
from ebmsim.graph.operators.activations import _COST as _ACTIVATIONS
from ebmsim.graph.operators.table import OPERATORS

# One result per element from the same element of each input: these may join any kernel that feeds them.
POINTWISE = frozenset(
    {"add", "sub", "mul", "div", "equal", "less", "select", "scale", "shift", "square", "clamp", "clamp_gradient"}
    | set(_ACTIVATIONS)
)
# A reduction may end a fused kernel.
LAST = frozenset({"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"})
PRODUCTS = frozenset({"matmul", "convolution"})
# Kernels of a library that nothing joins.
ALONE = frozenset({"attention", "attention_gradient"})


def fuse(graph: Graph, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with fused kernels in place of what they are made of; same tensors, same order.

    A node joins the kernel before it when it reads something that kernel writes and has the same phase and branch.
    A kernel holds at most one product, and a reduction ends it. Tensors that only its members read are never written.
    """
    root = view_roots(graph)
    uses: dict[int, int] = {}
    for node in graph.nodes:
        if OPERATORS[node.op].category != "view":
            for t in node.inputs:
                origin = root.get(t, t)
                uses[origin] = uses.get(origin, 0) + 1
    for t in graph.results:
        uses[root.get(t, t)] = uses.get(root.get(t, t), 0) + 1
    groups: list[list[Node]] = []
    written: set[int] = set()
    open_ = False
    for node in nodes:
        category = OPERATORS[node.op].category
        if category == "view":
            continue
        sources = {root.get(t, t) for t in node.inputs}
        joins = (
            open_
            and node.op in POINTWISE | LAST
            and not written.isdisjoint(sources)
            and (node.phase, node.branch) == (groups[-1][-1].phase, groups[-1][-1].branch)
        )
        if joins:
            groups[-1].append(node)
            written.update(node.outputs)
        else:
            groups.append([node])
            written = set(node.outputs)
        open_ = node.op not in LAST and (
            joins or node.op in POINTWISE or (category in PRODUCTS and node.op not in ALONE)
        )
    return [group[0] if len(group) == 1 else _fused(graph, group, root, uses) for group in groups]


def _fused(graph: Graph, group: Sequence[Node], root: dict[int, int], uses: dict[int, int]) -> Node:
    inside: dict[int, int] = {}
    made = {t for node in group for t in node.outputs}
    inputs: dict[int, None] = {}
    for node in group:
        for t in node.inputs:
            origin = root.get(t, t)
            if origin in made:
                inside[origin] = inside.get(origin, 0) + 1
            else:
                inputs[t] = None
    outputs = [t for node in group for t in node.outputs if uses.get(t, 0) > inside.get(t, 0)] or [group[-1].outputs[0]]
    shapes = graph.tensors
    members = tuple(
        (
            node.op,
            tuple([shapes[t].shape for t in node.inputs]),
            tuple([shapes[t].shape for t in node.outputs]),
            node.attributes,
        )
        for node in group
    )
    category = OPERATORS[group[0].op].category
    first = group[0]
    return first._replace(
        op=f"fused_{category}" if category in PRODUCTS else "fused",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        attributes=(("members", members),),
        name=f"{first.name}+{len(group) - 1}",
    )
