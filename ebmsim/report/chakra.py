"""A steady step as a Chakra execution trace, for simulators that read one: a node per kernel and what it waits for.

MLCommons Chakra, schema/protobuf/et_def.proto at version 1.0.0: messages one after another, each after its length; a
GlobalMetadata, then Nodes. They are written here in protobuf's wire format, field numbers as in that file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ebmsim.estimation import package_version
from ebmsim.graph.graph import Node
from ebmsim.graph.kernels import CATEGORIES, PHASES, KernelTable
from ebmsim.placement import Turn
from ebmsim.report.lifetimes import element_bytes, waits
from ebmsim.report.spans import spans_of
from ebmsim.timing import Timing

_VERSION = "1.0.0"
_COMPUTE = 4  # NodeType.COMP_NODE


class _Times(NamedTuple):
    """Of a kernel, in s: when it starts in its step, its seconds on the device and on the host."""

    start: float
    device: float
    host: float


def chakra_trace(turn: Turn, table: KernelTable, settings: Mapping[str, str], timing: Timing | None = None) -> bytes:
    """The trace of a step's kernels; `settings` are kept as metadata, without a timing kernels have no times."""
    metadata = _text(1, _VERSION) + b"".join(_message(2, _attribute(k, v)) for k, v in settings.items())
    return b"".join(_delimited(message) for message in (metadata, *_nodes(turn, table, timing)))


def settings_of(workload: str, hardware: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """What a trace says of itself."""
    origin = {"generator": f"ebmsim {package_version()}", "workload": workload, "scope": "one steady sampling step"}
    return origin | ({"hardware": hardware} if hardware else {}) | {f"set.{k}": str(v) for k, v in parameters.items()}


def _nodes(turn: Turn, table: KernelTable, timing: Timing | None) -> Iterator[bytes]:
    spans = spans_of(timing) if timing is not None else None
    sizes = element_bytes(turn)
    for i, (node, waited) in enumerate(zip(turn.kernels, waits(turn), strict=True)):
        times = None
        if spans is not None and timing is not None:
            seconds = (spans.start[i], spans.alone[i] * timing.stretched, timing.host[i] * timing.stretched)
            times = _Times(*map(float, seconds))
        yield b"".join(
            (
                _number(1, i),
                _text(2, node.name),
                _number(3, _COMPUTE),
                _numbers(4, waited.control),
                # What a simulator must wait for: readers of a trace look at no other field.
                _numbers(5, sorted({*waited.data, *waited.control})),
                *((_number(6, round(times.start * 1e6)), _number(7, _micros(times.device))) if times else ()),
                _message(8, _tensors(turn, node.inputs, sizes)),
                _message(9, _tensors(turn, node.outputs, sizes)),
                *(_message(10, _attribute(name, value)) for name, value in _attributes(table, node, i, times).items()),
            )
        )


def _micros(seconds: float) -> int:
    """Whole µs, the nearest; at least 1 of a kernel that takes time, as 0 means that no time is known."""
    return max(1, round(seconds * 1e6)) if seconds > 0 else 0


def _attributes(table: KernelTable, node: Node, i: int, times: _Times | None) -> dict[str, Any]:
    """The first three are those that Chakra's feeder knows; tensor_size is all bytes that a kernel reads and writes."""
    found: dict[str, Any] = {
        "is_cpu_op": CATEGORIES[table.category[i]] == "host",
        "num_ops": round(float(table.flops[i])),
        "tensor_size": _Unsigned(round(float(table.read[i] + table.written[i]))),
        "op": node.op,
        "component": node.branch,
        "phase": PHASES[table.phase[i]],
        "category": CATEGORIES[table.category[i]],
        "bytes_read": _Unsigned(round(float(table.read[i]))),
        "bytes_written": _Unsigned(round(float(table.written[i]))),
    }
    if times is not None:
        found["duration_ns"] = times.device * 1e9
        found["host_ns"] = times.host * 1e9
    return found


def _tensors(turn: Turn, tensors: Sequence[int], sizes: Mapping[str, float]) -> bytes:
    """IOInfo: values as PyTorch's traces have them, [tensor, storage, offset, elements, bytes of one, device] each.

    Offsets of views are not known to the graph, and 0.
    """
    of = turn.graph.tensors
    values = [[t, turn.root.get(t, t), 0, of[t].elements, _whole(sizes[of[t].kind]), "device"] for t in tensors]
    shapes = [list(of[t].shape) for t in tensors]
    types = [f"Tensor({turn.dtype if of[t].kind == 'float' else of[t].kind})" for t in tensors]
    return _text(1, json.dumps(values)) + _text(2, json.dumps(shapes)) + _text(3, json.dumps(types))


def _whole(size: float) -> float:
    return int(size) if size == int(size) else size


# --- protobuf --------------------------------------------------------------------------------------------------------


class _Unsigned(int):
    """A number that is written as uint64."""


def _attribute(name: str, value: Any) -> bytes:
    """AttributeProto; the field of the value is that of its type."""
    if isinstance(value, bool):
        written = _number(27, int(value))
    elif isinstance(value, _Unsigned):
        written = _number(13, value)
    elif isinstance(value, int):
        written = _number(9, value)
    elif isinstance(value, float):
        written = _tag(3, 1) + struct.pack("<d", value)
    else:
        written = _text(29, value)
    return _text(1, name) + written


def varint(value: int) -> bytes:
    """A number of 0 and more, seven bits a byte, the lowest first; the high bit says that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _tag(field: int, wire_type: int) -> bytes:
    return varint(field << 3 | wire_type)


def _delimited(content: bytes) -> bytes:
    return varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _tag(field, 0) + varint(value)


def _numbers(field: int, values: Sequence[int]) -> bytes:
    """Packed, as proto3 has repeated numbers; nothing where there are none."""
    return _message(field, b"".join(map(varint, values))) if values else b""


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _delimited(content)


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
