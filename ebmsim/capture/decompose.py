"""A call that torch itself composes of others, written as these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ebmsim.capture.export import Record, Ref, Shape, record_of


def called(record: Record, given: Mapping[str, Any]) -> Any:
    """The call done with tensors in the place of their names."""

    def filled(item: Any) -> Any:
        if isinstance(item, Ref):
            return given[item.name]
        return [filled(i) for i in item] if isinstance(item, list) else item

    positional, named = [], {}
    for argument in record.function._schema.arguments:
        if argument.kwarg_only:
            named[argument.name] = filled(record.args[argument.name])
        else:
            positional.append(filled(record.args[argument.name]))
    return record.function(*positional, **named)


def tensors_of(record: Record) -> list[str]:
    """The names of the tensors that a call reads, each once."""
    found: dict[str, None] = {}
    for item in record.args.values():
        for part in item if isinstance(item, list) else [item]:
            if isinstance(part, Ref):
                found[part.name] = None
    return list(found)


def decomposed(
    record: Record, shapes: Mapping[str, Shape], strides: Mapping[str, Shape], dtypes: Mapping[str, torch.dtype]
) -> list[Record]:
    """The calls that one is composed of, the last with its name; empty where it is one kernel."""
    names = tensors_of(record)
    if not hasattr(record.function, "_schema") or any(n not in shapes for n in names):
        return []
    given = [torch.empty_strided(shapes[n], strides[n], dtype=dtypes[n], device="meta") for n in names]
    try:
        with torch.no_grad():
            traced = make_fx(lambda *t: called(record, dict(zip(names, t, strict=True))), tracing_mode="fake")(*given)
    except Exception:
        return []
    nodes = list(traced.graph.nodes)
    inside = dict(zip([n.name for n in nodes if n.op == "placeholder"], names, strict=True))
    result = next(n for n in nodes if n.op == "output").args[0]
    if not isinstance(result, torch.fx.Node):
        return []
    inside[result.name] = record.name

    def value(item: Any) -> Any:
        if isinstance(item, torch.fx.Node):
            return Ref(inside.get(item.name, f"{record.name}_{item.name}"))
        return [value(i) for i in item] if isinstance(item, (list, tuple)) else item

    found = []
    for node in nodes:
        if node.op == "call_function":
            call = record_of(node, "", value, record.detached)
            name = inside.get(node.name, f"{record.name}_{node.name}")
            found.append(replace(call, name=name, module=record.module, file=record.file, line=record.line))
    return [] if len(found) == 1 and found[0].target == record.target else found
