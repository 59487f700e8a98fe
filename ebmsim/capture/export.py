"""A torch module as plain records: what torch.export writes down of one call, with places in the user's own code."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebmsim.errors import Problem, SpecError

Shape = tuple[int, ...]
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_TORCH = str(Path(torch.__file__).parent)
_LONGEST = 300


@dataclass(frozen=True)
class Ref:
    """A tensor of the graph, by name."""

    name: str


@dataclass(frozen=True)
class Record:
    """One call of an ATen target.

    target: such as "conv2d"; full: with namespace and overload. args: by the names in its schema, defaults included.
    shapes, strides, dtypes: of every output tensor. module: path of the module it runs in, "" for the outermost.
    detached: it runs without gradients. dynamic: the shape of what it gives depends on values; it is not known.
    """

    name: str
    target: str
    full: str
    args: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    strides: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]
    module: str
    file: str
    line: int
    function: Any = field(repr=False, compare=False, default=None)
    detached: bool = False
    dynamic: bool = False


@dataclass(frozen=True)
class Held:
    """A tensor that the module holds. role: weight | buffer | constant."""

    key: str
    role: str
    tensor: Tensor


@dataclass(frozen=True)
class Exported:
    """One call of a module. inputs: (name, shape, dtype) of each tensor given; outputs: names of the results."""

    records: tuple[Record, ...]
    held: Mapping[str, Held]
    inputs: tuple[tuple[str, Shape, torch.dtype], ...]
    strides: Mapping[str, Shape]
    outputs: tuple[str, ...]


def export(module: nn.Module, inputs: Sequence[Any], file: str = "") -> Exported:
    """The records of one call. Raises SpecError where torch cannot export it, located in the user's code."""
    given = [v.detach().requires_grad_() if i == 0 and isinstance(v, Tensor) else v for i, v in enumerate(inputs)]
    try:
        program: Any = torch.export.export(module, tuple(given), strict=False)
    except Exception as error:
        raise SpecError([_refused(error, file)]) from None
    signature, graph = program.graph_signature, program.graph
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    first: dict[int, str] = {}
    held: dict[str, Held] = {}
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    for name, key in names.items():
        tensor = tensors[key] if key in tensors else program.constants[key]
        role = "weight" if name in signature.inputs_to_parameters else "buffer" if key in tensors else "constant"
        held[name] = Held(first.setdefault(id(tensor), key), role, tensor.detach())
    places = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    users = [n for n in signature.user_inputs if isinstance(n, str) and _is_tensor(places[n])]
    metas = {n: places[n].meta["val"] for n in users}
    strides = {name: _stride(places[name].meta["val"]) for name in (*names, *users)}
    records = tuple(_records(graph, program.graph_module, {}, "", False))
    outputs = [n for n in signature.user_outputs if isinstance(n, str)]
    shaped = tuple((n, tuple(v.shape), v.dtype) for n, v in metas.items())
    return Exported(records, held, shaped, strides, tuple(outputs))


def _is_tensor(node: Any) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _stride(value: Tensor) -> Shape:
    return tuple(int(s) for s in value.stride())


def _records(graph: Any, owner: Any, names: Mapping[str, str], prefix: str, detached: bool) -> Iterator[Record]:
    """The calls of a graph, those of its subgraphs among them; `names`: what the subgraph's inputs are outside."""
    known = dict(names)

    def value(item: Any) -> Any:
        if isinstance(item, torch.fx.Node):
            return Ref(known.get(item.name, prefix + item.name))
        if isinstance(item, (list, tuple)):
            return [value(i) for i in item]
        return item

    parts: dict[str, list[Any]] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is operator.getitem and node.args[0].name in parts:
            known[node.name] = parts[node.args[0].name][node.args[1]].name
            continue
        if type(node.target).__name__.startswith("Wrap") or "wrap_with_set_grad" in str(node.target):
            if "set_grad" not in str(node.target):
                file, line = place(node.meta.get("stack_trace") or "")
                hint = "leave it out: the precision is a choice of the estimate"
                name = str(node.target).removeprefix("wrap_with_")
                raise SpecError([Problem(f"{name} within the module is not captured", file=file, line=line, hint=hint)])
            enabled, inner, *rest = node.args
            sub = getattr(owner, inner.target)
            inside = [n.name for n in sub.graph.nodes if n.op == "placeholder"]
            bound = {name: value(item).name for name, item in zip(inside, rest, strict=True)}
            deeper = f"{prefix}{node.name}_"
            yield from _records(sub.graph, sub, bound, deeper, detached or enabled is False)
            result = next(n for n in sub.graph.nodes if n.op == "output").args[0]
            parts[node.name] = [Ref(bound.get(n.name, deeper + n.name)) for n in result]
            continue
        yield record_of(node, prefix, value, detached)


def record_of(node: Any, prefix: str, value: Any, detached: bool) -> Record:
    """One call with its arguments by name."""
    metas = node.meta.get("val")
    outputs = [m for m in (metas if isinstance(metas, (list, tuple)) else [metas]) if isinstance(m, Tensor)]
    dynamic = any(not isinstance(s, int) for m in outputs for s in m.shape)
    outputs = [] if dynamic else outputs
    args: dict[str, Any] = {}
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        args = {str(i): value(a) for i, a in enumerate(node.args)}
    else:
        for i, argument in enumerate(schema.arguments):
            given = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            args[argument.name] = value(given)
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    file, line = place(node.meta.get("stack_trace") or "")
    full = str(node.target) if schema is not None else f"{node.target}"
    target = schema.name.rpartition("::")[2] if schema is not None else getattr(node.target, "__name__", full)
    return Record(
        name=prefix + node.name,
        target=target,
        full=full,
        args=args,
        shapes=tuple(tuple(int(s) for s in m.shape) for m in outputs),
        strides=tuple(_stride(m) for m in outputs),
        dtypes=tuple(m.dtype for m in outputs),
        module=str(stack[-1]) if stack else "",
        file=file,
        line=line,
        function=node.target,
        detached=detached,
        dynamic=dynamic,
    )


def place(trace: str) -> tuple[str, int]:
    """File and line of the innermost frame of a trace that is not torch's own; ("", 0) where there is none."""
    own = [(f["file"], int(f["line"])) for f in _FRAME.finditer(trace) if not f["file"].startswith((_TORCH, "<"))]
    own = [(f, n) for f, n in own if "/ebmsim/" not in f]
    return own[-1] if own else ("", 0)


def frame_of(error: BaseException, file: str) -> tuple[str, int]:
    """File and line where an exception was raised in the user's code: in `file`, or wherever it is not torch's."""
    import traceback

    frames = [(f.filename, f.lineno or 0) for f in traceback.extract_tb(error.__traceback__)]
    inside = [f for f in frames if file and f[0] in (file, str(Path(file).resolve()))]
    other = [f for f in frames if not f[0].startswith((_TORCH, "<")) and "/ebmsim/" not in f[0]]
    return (inside or other or [(file, 0)])[-1]


def shortened(error: BaseException) -> str:
    """The first sentence of what torch says, on one line."""
    text = str(error).strip()
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return "the flow of control depends on values, which differ from call to call"
    line = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    return line[:_LONGEST]


def _refused(error: Exception, file: str) -> Problem:
    name = type(error).__name__
    where, line = place(str(error)) if "data-dependent" in str(error) else ("", 0)
    if not line:
        where, line = frame_of(error, file)
    hint = (
        "write the choice with torch.where, or make it when the module is built"
        if "data-dependent" in str(error)
        else ""
    )
    said = shortened(error) if hint else f"{name}: {shortened(error)}"
    return Problem(f"torch.export: {said}", file=as_given(where, file), line=line, hint=hint)


def as_given(where: str, file: str) -> str:
    """A path as the user named it, where it is the user's file."""
    return file if where and file and Path(where).resolve() == Path(file).resolve() else where
