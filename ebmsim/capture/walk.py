"""The walk over the records of a call: what each value is, and the nodes emitted so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ebmsim.capture.chains import (
    Layout,
    Refused,
    Shape,
    Source,
    Value,
    aligned,
    chain_axis,
    viewed,
    without,
)
from ebmsim.capture.export import Exported, Held, Record, Ref
from ebmsim.capture.nodes import Node, node_of
from ebmsim.errors import Problem


class Fixed(NamedTuple):
    """A tensor that no input, weight or buffer changes. layout: where torch repeats it for every chain."""

    tensor: Tensor
    layout: Layout | None = None


class Poison(NamedTuple):
    """What a refused call would have given."""


# What a name of the records stands for; lists are the results of calls that give several.
Known = Value | Held | Fixed | Poison
Rule = Callable[["Walk", "Call"], Any]


class Call:
    """A record with the same record of a call with one chain more."""

    def __init__(self, record: Record, other: Record, chains: int) -> None:
        self.record, self.other, self.chains = record, other, chains
        self.args = record.args
        self.shape = record.shapes[0] if record.shapes else ()

    def found(self, output: int = 0) -> tuple[int, int] | None:
        """The chain axis of a result. Raises Refused."""
        return chain_axis(self.record.shapes[output], self.other.shapes[output], self.chains)

    def kind(self, output: int = 0) -> str:
        """float, index or mask."""
        return kind_of(self.record.dtypes[output])


def kind_of(dtype: torch.dtype) -> str:
    """float, index or mask."""
    return "mask" if dtype == torch.bool else "float" if dtype.is_floating_point else "index"


class Walk:
    """Emits nodes; keeps what every name stands for."""

    def __init__(self, exported: Exported, other: Exported, chains: int) -> None:
        self.exported, self.other, self.chains = exported, other, chains
        self.nodes: list[Node] = []
        self.known: dict[str, Any] = {}
        self.strides: dict[str, Shape] = dict(exported.strides)
        self.shapes: dict[str, Shape] = {}
        # The same of the call with one chain more.
        self.twin_shapes: dict[str, Shape] = {}
        self.twin_strides: dict[str, Shape] = dict(other.strides)
        self.dtypes: dict[str, torch.dtype] = {}
        self.materialised: dict[str, Value] = {}
        self.constants: dict[str, Tensor] = {}
        self.notes: list[str] = []
        self.problems: list[Problem] = []
        self.call: Call | None = None
        self.file = ""
        self.records = {record.name: record for record in exported.records}
        self.holders: dict[str, set[tuple[Any, ...]]] = {}

    # --- values -------------------------------------------------------------------------------------------------

    def __getitem__(self, item: Any) -> Any:
        """What an argument stands for: a known name, or itself."""
        return self.known[item.name] if isinstance(item, Ref) else item

    def value(self, item: Any) -> Value:
        """An argument as a tensor of the graph; what the module holds and constants become nodes of their own."""
        found = self[item] if isinstance(item, Ref) else item
        if isinstance(found, Value):
            return found
        if isinstance(found, Poison):
            raise Poisoned
        if isinstance(found, Held):
            return self.held(found)
        if isinstance(found, Fixed):
            return self.fixed(found, item.name if isinstance(item, Ref) else "constant")
        if isinstance(found, (int, float)):
            return self.fixed(Fixed(torch.tensor(float(found))), "constant")
        raise Refused("takes what is no tensor here")

    def held(self, held: Held) -> Value:
        """A node for a parameter or a buffer, the first time; later the same."""
        if held.key not in self.materialised:
            op = "parameter" if held.role == "weight" else "buffer"
            shape = tuple(held.tensor.shape)
            if op == "buffer":
                self.constants[held.key] = held.tensor
            value = self.emit(op, [], shape, None, params=(held.key,), shape_attribute=shape)
            label = held.key.rpartition(".")[2].strip("_")
            self.nodes[-1].label = "raw" if label == "original" else label
            self.nodes[-1].module = held.key.rpartition(".")[0]
            self.materialised[held.key] = value._replace(kind=kind_of(held.tensor.dtype))
        return self.materialised[held.key]

    def fixed(self, fixed: Fixed, name: str) -> Value:
        """A buffer for a constant."""
        tensor = fixed.tensor.contiguous()
        key = f"constant.{name}" if not name.startswith("c_lifted") else f"constant.{name[2:]}"
        same = [k for k, t in self.constants.items() if k.startswith("constant.") and _equal(t, tensor)]
        key = same[0] if same else key
        while not same and key in self.constants:
            key += "_"
        if key not in self.materialised:
            self.constants[key] = tensor
            shape = tuple(tensor.shape)
            made = self.emit("buffer", [], shape, None, params=(key,), shape_attribute=shape)
            self.nodes[-1].label = "constant"
            self.materialised[key] = made._replace(kind=kind_of(tensor.dtype))
        return self.materialised[key]._replace(layout=fixed.layout)

    # --- nodes --------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        inputs: Sequence[Value],
        shape: Shape,
        layout: Layout | None,
        *,
        kind: str = "float",
        params: tuple[str, ...] = (),
        weight: Value | None = None,
        shape_attribute: Shape | None = None,
        own: bool | None = None,
        **attributes: Any,
    ) -> Value:
        """A node and the value it gives; `shape` and `layout` are the result's."""
        record = self.call.record if self.call else None
        if shape_attribute is not None:
            attributes = {"shape": list(shape_attribute), **attributes}
        own = any(v.own for v in inputs) if own is None else own
        node = Node(op, [v.source for v in inputs], attributes, tuple(shape), own, params)
        node.weight = None if weight is None else weight.source
        if record is not None:
            node.module, node.place = record.module, (record.file, record.line)
        self.nodes.append(node)
        return Value(len(self.nodes) - 1, tuple(shape), layout, own, kind)

    def reshape(self, value: Value, shape: Shape, layout: Layout | None) -> Value:
        """A view with another shape; of a view with another shape one of the original, and none where that had it."""
        shape, source, before = tuple(shape), value.source, value.shape
        node = self.nodes[source] if isinstance(source, int) else None
        if node is not None and node.op == "reshape":
            source = node.inputs[0]
            before = self.shape_of(source)
        base = value._replace(source=source, shape=before)
        if shape == before:
            return base._replace(layout=layout)
        return self.emit("reshape", [base], shape, layout, kind=value.kind, shape_attribute=shape)

    def shape_of(self, source: Source) -> Shape:
        """The shape without chains of what a node or an input gives."""
        at = node_of(source)
        if at is None:
            given = self.known[str(source)]
            return tuple(given.shape)
        return self.nodes[at].shape

    def permute(self, value: Value, order: Sequence[int], layout: Layout | None) -> Value:
        """A view with the value's own axes in another order; where only axes of one move, another shape."""
        source = value.source
        above = self.nodes[source] if isinstance(source, int) else None
        if above is not None and above.op == "permute":
            # An order of an order is an order.
            first = above.attributes["order"]
            before = self.shape_of(above.inputs[0])
            base = value._replace(source=above.inputs[0], shape=before)
            return self.permute(base, [first[i] for i in order], layout)
        if list(order) == sorted(order):
            return value._replace(layout=layout)
        shape = tuple(value.shape[i] for i in order)
        wide = [i for i in order if value.shape[i] != 1]
        if wide == sorted(wide):
            return self.reshape(value, shape, layout)
        at = node_of(value.source)
        if len(wide) < len(order) and at is not None and self.nodes[at].op == "reshape":
            # Axes of one in a view: they are put where they belong by another view, if anything needs them.
            flat = self.reshape(value, tuple(s for s in value.shape if s != 1), None)
            places = [i for i, s in enumerate(value.shape) if s != 1]
            moved = self.permute(flat, [places.index(i) for i in wide], None)
            return self.reshape(moved, shape, layout)
        return self.emit("permute", [value], shape, layout, kind=value.kind, order=list(order))

    def expand(self, value: Value, shape: Shape, layout: Layout | None) -> Value:
        """A broadcast view; none where the shape stays."""
        if tuple(shape) == value.shape:
            return value._replace(layout=layout)
        return self.emit("expand", [value], shape, layout, kind=value.kind, shape_attribute=tuple(shape))

    def copy(self, value: Value) -> Value:
        """Written out contiguously."""
        return self.emit("copy", [value], value.shape, value.layout, kind=value.kind)

    def slice(self, value: Value, axis: int, start: int, length: int) -> Value:
        """A part along an axis of the value's own shape; the value itself where that is all."""
        if start == 0 and length == value.shape[axis]:
            return value
        shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
        where = self.axis(value, axis)
        return self.emit("slice", [value], shape, value.layout, kind=value.kind, axis=where, start=start, length=length)

    @staticmethod
    def axis(value: Value, axis: int) -> int:
        """An axis as files write it: -1 for the last."""
        return -1 if axis == len(value.shape) - 1 else axis

    def per_chain(self, value: Value) -> Value:
        """The same for every chain, written out: zeros of every chain and an addition."""
        if value.own:
            return value
        zeros = self.emit("zeros", [], value.shape, None, own=True, shape_attribute=value.shape)
        layout = value.layout or Layout(len(value.shape) + 1, 0)
        return self.emit("add", [zeros, value], value.shape, layout)

    def elementwise(self, op: str, values: Sequence[Value], *, kind: str = "float", **attributes: Any) -> Value:
        """An operator over values that broadcast. Raises Refused where chains meet another axis."""
        rank = max(v.rank for v in values)
        over = next((v.layout._replace(rank=rank, at=v.layout.at + rank - v.rank) for v in values if v.layout), None)
        fitted = []
        for value in values:
            shape = aligned(value, rank, over)
            if over and not value.own and over.at == 0 and not over.folded and value.layout is None:
                shape = value.shape  # its axis of one broadcasts over the chains as it is
            fitted.append(self.reshape(value, shape, value.layout))
        shapes = [aligned(v, rank, over) for v in values]
        width = max(map(len, shapes))
        padded = [(1,) * (width - len(s)) + s for s in shapes]
        shape = tuple(max(sizes) for sizes in zip(*padded, strict=True))
        return self.emit(op, fitted, shape, over, kind=kind, **attributes)

    def view(self, value: Value, call: Call, output: int = 0) -> Value:
        """A view in the order of memory, of the call's shape."""
        shape, layout = viewed(value, call.record.shapes[output], call.found(output))
        return self.reshape(value, shape, layout)

    def layout(self, call: Call, like: Value | None = None, output: int = 0) -> tuple[Shape, Layout | None]:
        """Own shape and layout of a result whose chain axis is folded as that of `like`."""
        found, shape = call.found(output), call.record.shapes[output]
        if found is None:
            return shape, None
        axis, each = found
        before, after = 1, each
        if like is not None and like.layout is not None and like.layout.before * like.layout.after == each:
            before, after = like.layout.before, like.layout.after
        layout = Layout(len(shape), axis, before, after)
        return without(shape, layout), layout

    def note(self, text: str) -> None:
        """A remark for the file, once."""
        if text not in self.notes:
            self.notes.append(text)

    def views_alike(self, name: str, shape: Shape) -> bool:
        """Whether torch can give a tensor another shape without a copy."""
        if name not in self.shapes or name not in self.strides or 0 in self.shapes[name]:
            return True
        try:
            torch.empty_strided(self.shapes[name], self.strides[name], device="meta").view(shape)
        except RuntimeError:
            return False
        return True

    def contiguous(self, name: str) -> bool:
        """Whether a tensor lies in memory in the order of its axes."""
        if name not in self.shapes or name not in self.strides:
            return True
        return torch.empty_strided(self.shapes[name], self.strides[name], device="meta").is_contiguous()

    def swapped(self, value: Value) -> tuple[Value, bool]:
        """What a value is with its last two axes swapped, where it is such a view; else the value itself."""
        at = node_of(value.source)
        node = self.nodes[at] if isinstance(value.source, int) and at is not None else None
        if node is not None and node.op == "permute":
            rank = len(node.shape)
            order = [*range(rank - 2), rank - 1, rank - 2]
            if node.attributes["order"] == order:
                shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
                return value._replace(source=node.inputs[0], shape=shape), True
        return value, False


class Poisoned(Exception):  # noqa: N818
    """A call that reads what a refused one would have given."""


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())


def elements(shape: Shape) -> int:
    """Number of elements."""
    return math.prod(shape)
