"""Reverse-mode differentiation of a graph: which paths matter, and the operators that follow them back."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import ebmsim.graph.operators  # noqa: F401  (fills the tables)
from ebmsim.graph.graph import Builder
from ebmsim.graph.operators.table import GRADIENT, rule


def differentiate(
    b: Builder, outputs: Sequence[int], wrt: Collection[int], *, phase: str, since: int = 0
) -> dict[int, int]:
    """Emit the gradient of the sum of `outputs` with respect to the tensors `wrt`.

    Only paths that lead from a tensor of `wrt` to an output are followed: what does not see the sample costs
    nothing backward. Where a tensor is used more than once, gradients are added by an `add` of their own. `since` is
    the first node that may lie on a path. Returns the gradient tensor of each reached tensor of `wrt`. Raises
    EbmsimError when an operator on a path has no gradient rule.
    """
    nodes = b.nodes[since:]
    active = set(wrt)
    for node in nodes:
        if not active.isdisjoint(node.inputs):
            active.update(node.outputs)
    grads: dict[int, int] = {}
    for output in outputs:
        if output in active:
            seed = b.tensor(b.shape(output), "constant", "one", chain_axis=b.tensors[output].chain_axis)
            grads[output] = seed
    for node in reversed(nodes):
        output_grads = [grads.get(t) for t in node.outputs]
        if all(g is None for g in output_grads) or active.isdisjoint(node.inputs):
            continue
        want = [t in active for t in node.inputs]
        with b.at(phase=phase, branch=node.branch, prefix=node.name + "'"):
            b.line = node.line
            emit = rule(GRADIENT, "gradient", node.op, node.name, node.line)
            with b.at(of=node.op):
                given = emit(b, node, output_grads, want)
            for tensor, wanted, grad in zip(node.inputs, want, given, strict=True):
                if not wanted or grad is None:
                    continue
                grads[tensor] = b.emit("add", grads[tensor], grad, name=".sum") if tensor in grads else grad
    return {t: grads[t] for t in wrt if t in grads}
