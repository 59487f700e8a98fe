"""Look-ups by index and sums into places."""

from __future__ import annotations

from typing import Any

import torch

from ebmsim.capture.chains import Refused, Value, own_axis
from ebmsim.capture.export import Record, Ref
from ebmsim.capture.table import learned, rule
from ebmsim.capture.walk import Call, Fixed, Walk


@rule("embedding")
def _(walk: Walk, call: Call) -> Value:
    index = walk.value(call.args["indices"])
    entries, width = walk.shapes[call.args["weight"].name]
    params, weight, _ = learned(walk, call)
    layout = index.layout._replace(rank=index.layout.rank + 1) if index.layout else None
    shape = (*index.shape, width)
    return walk.emit("embedding", [index], shape, layout, params=params, weight=weight, entries=entries, width=width)


def _looked_up(walk: Walk, value: Value, index: Value, axis: int, shared: int = 0) -> Value:
    """Parts along an own axis, by an index whose own axes take its place."""
    shape = (*value.shape[:axis], *index.shape[shared:], *value.shape[axis + 1 :])
    more: dict[str, Any] = {} if axis == 0 else {"axis": walk.axis(value, axis)}
    more |= {"shared": shared} if shared else {}
    return walk.emit("gather", [value, index], shape, None, kind=value.kind, own=value.own or index.own, **more)


@rule("index_select")
def _(walk: Walk, call: Call) -> Value:
    value, index = walk.value(call.args["self"]), walk.value(call.args["index"])
    if index.layout:
        raise Refused("has an index of chains")
    found = _looked_up(walk, value, index, own_axis(value, call.args["dim"]))
    return found._replace(layout=value.layout)


@rule("index")
def _(walk: Walk, call: Call) -> Value:
    """One index tensor; or several beside each other that no chain has its own of."""
    value = walk.value(call.args["self"])
    given = [(dim, walk.value(i)) for dim, i in enumerate(call.args["indices"]) if i is not None]
    if any(i.kind == "mask" for _, i in given):
        raise Refused("gives as many elements as values say")
    if any(i.layout for _, i in given) or not value.own:
        if len(given) == 1 and value.layout is None:
            dim, index = given[0]
            if dim:
                raise Refused("has an index of chains on a later axis")
            found = _looked_up(walk, value, index, 0)
            layout = index.layout._replace(rank=len(call.shape)) if index.layout else None
            return found._replace(layout=layout)
        if len(given) == 1 and not given[0][1].layout:
            found = _looked_up(walk, value, given[0][1], own_axis(value, given[0][0]))
            return found._replace(layout=walk.layout(call, value)[1])
        raise Refused("has indices of chains")
    if len(given) == 1:
        dim, index = given[0]
        found = _looked_up(walk, value, index, own_axis(value, dim))
        return found._replace(layout=walk.layout(call, value)[1])
    return _several(walk, call, value, given)


def _several(walk: Walk, call: Call, value: Value, given: list[tuple[int, Value]]) -> Value:
    """x[:, i, j]: the axes as one, looked up by i · n + j, which is computed as the module is captured."""
    dims = [dim for dim, _ in given]
    if dims != list(range(dims[0], dims[0] + len(dims))):
        raise Refused("has several indices apart from each other")
    axes = [own_axis(value, dim) for dim in dims]
    tensors = [walk[i] for i in call.args["indices"] if i is not None]
    held = [t.tensor if hasattr(t, "tensor") else None for t in tensors]
    if any(t is None for t in held):
        raise Refused("has several indices that are computed")
    flat: Any = torch.zeros((), dtype=torch.long)
    size = 1
    for axis, tensor in zip(axes, held, strict=True):
        assert tensor is not None
        flat = flat * value.shape[axis] + torch.where(tensor < 0, tensor + value.shape[axis], tensor)
        size *= value.shape[axis]
    wide = walk.reshape(value, (*value.shape[: axes[0]], size, *value.shape[axes[-1] + 1 :]), None)
    found = _looked_up(walk, wide, walk.fixed(Fixed(flat), f"{call.record.name}_index"), axes[0])
    return found._replace(layout=walk.layout(call, value)[1])


def _index_of(walk: Walk, ref: Ref, axis: int, value: Value) -> Value:
    """The index of a torch.gather or scatter without the axes behind the indexed one, over which it is expanded."""
    index = walk.value(ref)
    behind = len(value.shape) - axis - 1
    if behind == 0:
        return index
    source = index
    node = walk.nodes[source.source] if isinstance(source.source, int) else None
    if node is not None and node.op == "expand":
        before = node.inputs[0]
        shape = walk.nodes[before].shape if isinstance(before, int) else None
        if shape is None:
            shape = index.shape[: axis + 1] + (1,) * behind
        if len(shape) == len(index.shape) and set(shape[axis + 1 :]) == {1}:
            narrow = Value(before, shape, index.layout, index.own, "index")
            if shape[: axis + 1] == index.shape[: axis + 1]:
                rank = narrow.rank - behind
                layout = narrow.layout._replace(rank=rank) if narrow.layout else None
                return walk.reshape(narrow, shape[: axis + 1], layout)
    if set(index.shape[axis + 1 :]) == {1}:
        rank = index.rank - behind
        layout = index.layout._replace(rank=rank) if index.layout else None
        return walk.reshape(index, index.shape[: axis + 1], layout)
    raise Refused("has an index that differs along the axes behind the indexed one")


@rule("gather", "take_along_dim")
def _(walk: Walk, call: Call) -> Value:
    value = walk.value(call.args["self"])
    axis = own_axis(value, call.args["dim"])
    index = _index_of(walk, call.args.get("index", call.args.get("indices")), axis, value)
    if index.layout != value.layout and index.layout and value.layout is None:
        raise Refused("has an index of chains into what has none")
    if index.shape[:axis] != value.shape[:axis]:
        raise Refused("takes part of the axes before the indexed one")
    found = _looked_up(walk, value, index, axis, shared=axis)
    return found._replace(layout=value.layout)


@rule("index_add")
def _(walk: Walk, call: Call) -> Value:
    """Into zeros or into a copy; in place without the copy."""
    args = call.args
    if args.get("alpha", 1) != 1:
        raise Refused("has a factor")
    target, index, rows = (walk.value(args[n]) for n in ("self", "index", "source"))
    if index.layout:
        raise Refused("has an index of chains")
    return _added(walk, call.record, target, index, rows, own_axis(target, args["dim"]), 0)


@rule("scatter_add")
def _(walk: Walk, call: Call) -> Value:
    target, rows = (walk.value(call.args[n]) for n in ("self", "src"))
    axis = own_axis(target, call.args["dim"])
    index = _index_of(walk, call.args["index"], axis, rows)
    if index.shape[:axis] != target.shape[:axis]:
        raise Refused("takes part of the axes before the indexed one")
    return _added(walk, call.record, target, index, rows, axis, axis)


def _added(walk: Walk, record: Record, target: Value, index: Value, rows: Value, axis: int, shared: int) -> Value:
    if rows.own and not target.own:
        if target.layout is None:
            raise Refused("adds rows of chains to what has none")
        target = walk.emit("zeros", [], target.shape, target.layout, own=True, shape_attribute=target.shape)
    elif not record.target.endswith("_"):
        target = walk.copy(target)
    more: dict[str, Any] = {} if axis == 0 else {"axis": walk.axis(target, axis)}
    more |= {"shared": shared} if shared else {}
    return walk.emit("scatter_add", [target, index, rows], target.shape, target.layout, **more)


@rule("copy")
def _(walk: Walk, call: Call) -> Any:
    """Over a part that a slice gave, in place; over all of a tensor a copy."""
    target = walk[call.args["self"]]
    source = walk.value(call.args["src"])
    if not isinstance(target, Value) or not isinstance(target.source, int):
        raise Refused("writes into what is no result of an operator")
    node = walk.nodes[target.source]
    if node.op != "slice":
        raise Refused("writes into a view that is no slice")
    base = node.inputs[0]
    axis, start, length = (node.attributes.get(n, 0) for n in ("axis", "start", "length"))
    shape = walk.nodes[base].shape if isinstance(base, int) else target.shape
    whole = Value(base, shape, target.layout, node.own, target.kind)
    more: dict[str, Any] = ({} if axis == 0 else {"axis": axis}) | ({"start": start} if start else {})
    more |= {"length": length} if length != 1 else {}
    made = walk.emit("assign", [whole, source], shape, target.layout, own=whole.own or source.own, **more)
    walk.known[f"assigned {call.args['self'].name}"] = made
    return source


@rule("flip")
def _(walk: Walk, call: Call) -> Value:
    """A look-up for each axis, with a constant index."""
    value = walk.value(call.args["self"])
    for dim in call.args["dims"]:
        axis = own_axis(value, dim)
        index = walk.fixed(Fixed(torch.arange(value.shape[axis]).flip(0)), f"{call.record.name}_index")
        value = _looked_up(walk, value, index, axis)._replace(layout=value.layout)
    return value


@rule("tril", "triu")
def _(walk: Walk, call: Call) -> Value:
    """A product with a constant mask."""
    value = walk.value(call.args["self"])
    if value.layout and value.layout.at >= value.rank - 2:
        raise Refused("works across the chains")
    mask = getattr(torch.ones(value.shape[-2:], dtype=call.record.dtypes[0]), call.record.target.rstrip("_"))(
        call.args["diagonal"]
    )
    return walk.elementwise("mul", [value, walk.fixed(Fixed(mask), f"{call.record.name}_mask")])


@rule("topk")
def _(walk: Walk, call: Call) -> list[Value]:
    """Indices; values are looked up by them, a kernel of its own where they are read."""
    value, args = walk.value(call.args["self"]), call.args
    axis = own_axis(value, args["dim"])
    if axis != len(value.shape) - 1:
        raise Refused("searches another axis than the last")
    asked = value if args["largest"] else walk.elementwise("neg", [value])
    shape = (*value.shape[:-1], args["k"])
    index = walk.emit("topk", [asked], shape, value.layout, kind="index", count=args["k"])
    return [_looked_up(walk, value, index, axis, shared=axis)._replace(layout=value.layout), index]
