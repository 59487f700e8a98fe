"""Tables of measured kernels: read, checked, and turned into the kernels they measured."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder
from ebmsim.graph.kernels import BYTES, KernelTable
from ebmsim.graph.lower import lower

SIZES = ("b", "m", "n", "k", "c_in", "c_out", "kernel", "size", "stride", "padding")
COLUMNS = ("kind", "phase", "dtype", *SIZES, "latency_us", "source")
PHASES = ("forward", "backward")
_LARGEST = 2**40


class Protocol(NamedTuple):
    """How a source measured.

    copies: of the operands, used in turn. execution: kernels launched one by one, or captured. call: host seconds that
    are in each time, by category.
    """

    copies: int
    execution: str
    call: dict[str, float]


# A table of aiconfigurator times kernels in a captured graph, over six copies of the operands in turn: products whose
# operands fit a sixth of the L2 run faster than the DRAM would let them, larger ones do not. NeuSight times one eager
# call between two events, on the same operands: over large row-wise kernels its times are c + bytes / bandwidth to a
# few parts in a thousand, with c = 14 to 20 us on an A100, an L4 and a T4 alike; its smallest product takes 36 us and
# its smallest convolution 63 us.
PROTOCOLS = {
    "aiconfigurator": Protocol(6, "graph", {}),
    "NeuSight": Protocol(1, "eager", {"elementwise": 17e-6, "matmul": 17e-6, "convolution": 60e-6}),
}
UNKNOWN = Protocol(1, "graph", {})


class Measurement(NamedTuple):
    """One measured kernel: what it computed, its time in s, whose measurement it is, and its line in the table."""

    kind: str
    phase: str
    dtype: str
    sizes: tuple[int, ...]
    seconds: float
    source: str
    line: int

    @property
    def call(self) -> tuple[str, str, str, tuple[int, ...]]:
        """What was computed."""
        return self.kind, self.phase, self.dtype, self.sizes

    @property
    def protocol(self) -> Protocol:
        """How it was measured: as the source that its own begins with, or captured, on the same operands."""
        source = self.source.lower()
        return next((p for name, p in PROTOCOLS.items() if source.startswith(name.lower())), UNKNOWN)


@dataclass(frozen=True)
class Kind:
    """A kind of kernel: the sizes it needs, and the operator it is, emitted with the tensors gradients are taken to."""

    needs: tuple[str, ...]
    emit: Callable[[Builder, dict[str, int]], tuple[int, list[int]]]


def _operands(b: Builder, *shapes: tuple[int, ...]) -> list[int]:
    return [b.tensor(shape, "input", "x") for shape in shapes]


def _linear(b: Builder, s: dict[str, int]) -> tuple[int, list[int]]:
    x, w = _operands(b, (s["m"], s["k"]), (s["n"], s["k"]))
    return b.emit("linear", x, w, out=s["n"], bias=False), [x, w]


def _matmul(b: Builder, s: dict[str, int]) -> tuple[int, list[int]]:
    x, y = _operands(b, (s["b"], s["m"], s["k"]), (s["b"], s["k"], s["n"]))
    return b.emit("matmul", x, y, transpose_a=False, transpose_b=False), [x, y]


def _conv2d(b: Builder, s: dict[str, int]) -> tuple[int, list[int]]:
    kernel, stride, padding = s["kernel"], s["stride"], s["padding"]
    x, w = _operands(b, (s["b"], s["c_in"], s["size"], s["size"]), (s["c_out"], s["c_in"], kernel, kernel))
    steps: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding, "groups": 1}
    return b.emit("conv2d", x, w, out=s["c_out"], bias=False, **steps), [x, w]


def _row_wise(op: str, operands: int = 1, **attributes: Any) -> Kind:
    def emit(b: Builder, s: dict[str, int]) -> tuple[int, list[int]]:
        xs = _operands(b, *[(s["m"], s["n"])] * operands)
        return b.emit(op, *xs, **attributes), xs

    return Kind(("m", "n"), emit)


def _layer_norm(b: Builder, s: dict[str, int]) -> tuple[int, list[int]]:
    x, gain, bias = _operands(b, (s["m"], s["n"]), (s["n"],), (s["n"],))
    return b.emit("layer_norm", x, gain, bias), [x, gain, bias]


KINDS = {
    "linear": Kind(("m", "n", "k"), _linear),
    "matmul": Kind(("b", "m", "n", "k"), _matmul),
    "conv2d": Kind(("b", "c_in", "c_out", "kernel", "size", "stride"), _conv2d),
    "softmax": _row_wise("softmax", axis=-1),
    "layer_norm": Kind(("m", "n"), _layer_norm),
    "add": _row_wise("add", 2),
    "mul": _row_wise("mul", 2),
    "div": _row_wise("div", 2),
    # There is no operator that raises one tensor to another: a quotient has the same bytes.
    "pow": _row_wise("div", 2),
    "relu": _row_wise("relu"),
    "gelu": _row_wise("gelu"),
    "tanh": _row_wise("tanh"),
    "addu": _row_wise("shift", by=1.0),
    "mulu": _row_wise("scale", by=2.0),
    "divu": _row_wise("scale", by=0.5),
    "powu": _row_wise("pow", by=2.0),
}


# Backward times of arithmetic leave room for two passes over a tensor (112 us for 84 MB on an A100): by a number.
BACKWARD = {"add": "addu", "mul": "mulu", "div": "divu", "pow": "powu"}


class Call(NamedTuple):
    """The kernels of one call, those from `first` on timed; the others run before it, every time."""

    table: KernelTable
    first: int


@lru_cache(maxsize=50_000)
def kernels(kind: str, phase: str, dtype: str, sizes: tuple[int, ...]) -> Call:
    """The kernels of one call, on operands that the call before left: forward, or backward to all operands after it.

    Raises ShapeError where the sizes do not fit together.
    """
    b = Builder()
    kind = BACKWARD.get(kind, kind) if phase == "backward" else kind
    output, operands = KINDS[kind].emit(b, dict(zip(SIZES, sizes, strict=True)))
    mark = len(b.nodes)
    if phase == "backward":
        differentiate(b, [output], operands, phase="backward-weight")
        if len(b.nodes) == mark:
            # What only hands the gradient on: autograd keeps a copy for the leaf.
            b.emit("copy", output)
    return Call(lower(b.graph(), b.nodes, dtype, cyclic=True), mark if phase == "backward" else 0)


def as_measured(measurement: Measurement) -> Call:
    """The kernels of a measurement, with the copies of operands that its source uses in turn between two touches."""
    table, first = kernels(*measurement.call)
    return Call(replace(table, distance=table.distance * measurement.protocol.copies), first)


def read_table(path: str | Path) -> list[Measurement]:
    """The measurements of a CSV file. Raises SpecError with every problem and its line."""
    file = str(path)
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            header = reader.fieldnames or []
            problems = [
                Problem(f"missing column '{name}'", file, 1, 1, hint=suggest(name, header))
                for name in COLUMNS
                if name not in header
            ]
            if problems:
                raise SpecError(problems)
            lines = list(enumerate(reader, start=2))
    except FileNotFoundError:
        raise SpecError([Problem("no such file", file)]) from None
    except IsADirectoryError:
        raise SpecError([Problem("expected a table, found a directory", file)]) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SpecError([Problem(f"cannot read the table: {error}", file)]) from None
    found = []
    for line, row in lines:
        try:
            found.append(_measurement(row, line))
        except _RowError as error:
            problems.append(Problem(error.message, file, line, 1, error.column, error.hint))
    if not found and not problems:
        problems.append(Problem("expected at least one measurement", file, 1, 1))
    if problems:
        raise SpecError(problems)
    return found


class _RowError(Exception):
    def __init__(self, column: str, message: str, hint: str = "") -> None:
        self.column, self.message, self.hint = column, message, hint


def _measurement(row: dict[str, Any], line: int) -> Measurement:
    for column, known in (("kind", KINDS), ("phase", PHASES), ("dtype", BYTES)):
        if row[column] not in known:
            raise _RowError(column, f"unknown {column} '{row[column]}'", suggest(str(row[column]), known))
    kind = row["kind"]
    sizes = tuple(_size(row, name, name in KINDS[kind].needs) for name in SIZES)
    text = row["latency_us"]
    try:
        microseconds = float(text)
    except (TypeError, ValueError):
        raise _RowError("latency_us", f"expected a time in us, found '{text}'") from None
    if not (microseconds > 0 and math.isfinite(microseconds)):
        raise _RowError("latency_us", f"expected a time above 0, found {text}")
    return Measurement(kind, row["phase"], row["dtype"], sizes, microseconds * 1e-6, row["source"] or "", line)


def _size(row: dict[str, Any], name: str, needed: bool) -> int:
    text = row[name]
    if text in (None, ""):
        if needed:
            raise _RowError(name, f"missing {name} of a {row['kind']}")
        return 0
    try:
        value = int(text)
    except ValueError:
        raise _RowError(name, f"expected a whole number, found '{text}'") from None
    if not (1 if needed else 0) <= value <= _LARGEST:
        raise _RowError(name, f"expected a size from 1 to 2^40, found {text}")
    return value
