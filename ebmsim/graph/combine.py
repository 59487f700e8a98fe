"""From the outputs of the components to one energy: added up, or as the file combines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmsim.graph.emitter import Emitter
from ebmsim.graph.operators.table import ShapeError
from ebmsim.spec.workload import Combination

Outputs = Sequence[tuple[str, int]]


def combined(emitter: Emitter, outputs: Outputs) -> int:
    """One tensor from the (component, output) of every instance. Raises SpecError where they do not fit together."""
    how = combination(emitter)
    return _added(emitter, outputs) if how is None else _by_nodes(emitter, how, outputs)


def combination(emitter: Emitter) -> Combination | None:
    """The file's own combination; None where the outputs are added up. Raises SpecError."""
    how = emitter.file.combine
    return how if how is not None and emitter.condition(how.when, ("combine", "when")) else None


def energies(emitter: Emitter, name: str, tensor: int, chains: int, rows: int, kept: int) -> int:
    """The energies an instance has computed, one per chain; `kept` of them where instances in one launch stay apart.

    tensor: one energy for each of the chain's rows, the rows of an instance side by side.
    """
    b = emitter.b
    t = b.tensors[tensor]
    if t.elements != chains * rows:
        found = list(t.shape[1:] if t.chain_axis else t.shape)
        raise emitter.refuse(("components", name), f"expected one energy per chain, found a tensor of shape {found}")
    shape = (chains, kept) if kept > 1 else (chains,)
    if rows > kept:
        tensor = b.emit("reshape", tensor, shape=(*shape, rows // kept))
        return b.emit("reduce_sum", tensor, axes=(-1,), keep=False, name="energy")
    return tensor if t.shape == shape else b.emit("reshape", tensor, shape=shape)


def _added(emitter: Emitter, outputs: Outputs) -> int:
    total = outputs[0][1]
    for _, other in outputs[1:]:
        try:
            total = emitter.b.emit("add", total, other, name="energy")
        except ShapeError as error:
            raise emitter.refuse(("components",), f"the components' outputs do not add up: {error}") from None
    return total


def _by_nodes(emitter: Emitter, how: Combination, outputs: Outputs) -> int:
    """Emit the nodes of a combination. They read inputs of the file, and outputs by the component's name.

    Outputs are joined where a node reads them by name, or may read them without one.
    """
    scope = {name: emitter.outside[name][0] for name in emitter.file.inputs if name in emitter.outside}
    names = list(dict.fromkeys(name for name, _ in outputs))
    read: set[Any] = set(names)
    if any("each" in node for node in how.nodes):
        given = [node.get("inputs") for node in how.nodes if "each" not in node]
        read = {name for g in given for name in (g if isinstance(g, list) else [g])}
    for name in (name for name in names if name in read):
        scope[name] = _stacked(emitter, name, [t for other, t in outputs if other == name])
    first = scope.get(names[0])
    last = emitter.emit_nodes(how.nodes, ("combine", "nodes"), scope, emitter.values, "combine", first)
    result = emitter.output(how.output, scope, last, ("combine", "output"))
    if all(emitter.file.components[name].role != "energy" for name in names):
        return result
    t = emitter.b.tensors[result]
    if not t.chain_axis or t.elements != emitter.chains:
        found = list(t.shape[1:] if t.chain_axis else t.shape)
        raise emitter.refuse(("combine",), f"expected one energy per chain, found a tensor of shape {found}")
    return result if len(t.shape) == 1 else emitter.b.emit("reshape", result, shape=(emitter.chains,))


def _stacked(emitter: Emitter, name: str, tensors: Sequence[int]) -> int:
    """The outputs of a component with its instances on an axis of their own, behind the chain axis."""
    b, component = emitter.b, emitter.file.components[name]
    shape = b.shape(tensors[0])
    if component.role == "energy" and len(shape) == 2:
        return tensors[0]  # instances that were launched together
    views = [b.emit("reshape", t, shape=(shape[0], 1, *shape[1:])) for t in tensors]
    return views[0] if len(views) == 1 else b.emit("concat", *views, axis=-len(shape), name=f"{name}.stack")
