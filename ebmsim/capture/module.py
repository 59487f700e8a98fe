"""A torch module captured: two exports, the walk over their records, and the workload that comes of it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ebmsim.capture import (  # noqa: F401  (fills the table)
    rules_arithmetic,
    rules_images,
    rules_indexing,
    rules_networks,
    rules_reductions,
    rules_shapes,
)
from ebmsim.capture.chains import Layout, Refused, Value, chain_axis
from ebmsim.capture.decompose import called, decomposed, tensors_of
from ebmsim.capture.export import Held, Record, as_given, export
from ebmsim.capture.nodes import Captured, needed, node_of
from ebmsim.capture.table import RULES, base, find_holders
from ebmsim.capture.walk import Call, Fixed, Poison, Poisoned, Walk, kind_of
from ebmsim.capture.write import written
from ebmsim.errors import Problem, SpecError
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

# What gives a tensor that is the same in every call.
_MADE = (
    *("arange", "eye", "linspace", "logspace", "scalar_tensor", "tril_indices", "triu_indices", "zeros", "ones"),
    "full",
)
# What gives a view of its first argument.
_VIEWS = (
    *("view", "_unsafe_view", "unflatten", "unsqueeze", "squeeze", "permute", "movedim", "transpose", "t", "slice"),
    *("select", "narrow", "expand", "expand_as", "detach", "alias", "unbind", "split", "chunk", "getitem"),
)


def captured(
    module: nn.Module, inputs: Any, *, name: str = "", steps: int = 100, chains: int | None = None, file: str = ""
) -> tuple[Workload, str]:
    """A workload whose energy is the module's, and the text of its file. Raises SpecError."""
    given = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    found = nodes_of(module, given, name=name, file=file)
    count = int(given[0].shape[0]) if chains is None else chains
    text = written(found, type(module).__name__, steps=steps, chains=count, version=torch.__version__)
    document = parse_document(text, f"{found.name}.yaml")
    return settle(document, parse_workload(document)), text


def nodes_of(module: nn.Module, inputs: Sequence[Any], *, name: str = "", file: str = "") -> Captured:
    """The module's call as nodes. Raises SpecError."""
    _check(module, inputs, file)
    count = int(inputs[0].shape[0])
    chains = max(2, count)
    with _quiet():
        exported = export(module, resized(inputs, count, chains), file)
        try:
            other = export(module, resized(inputs, count, chains + 1), file)
        except SpecError as error:
            said = f"with {chains + 1} chains instead of {chains}"
            raise SpecError([replace(p, message=f"{said}: {p.message}") for p in error.problems]) from None
    if [r.full for r in exported.records] != [r.full for r in other.records]:
        raise SpecError([Problem("the module does something else for another number of chains", file=file)])
    walk = Walk(exported, other, chains)
    walk.holders, walk.file = find_holders(walk), file
    _begin(walk)
    with _quiet():
        for i, (record, twin) in enumerate(zip(exported.records, other.records, strict=True)):
            _step(walk, record, twin, i)
    if walk.problems:
        raise SpecError(dict.fromkeys(walk.problems))
    output = _energy(walk, file)
    nodes, source = needed(walk.nodes, output.source)
    used = {key for node in nodes for key in node.params}
    parameters = dict(module.named_parameters())
    unused = sum(p.numel() for key, p in parameters.items() if key not in used)
    given = []
    for i, ((label, shape, dtype), twin_input) in enumerate(zip(exported.inputs, other.inputs, strict=True)):
        chain = i == 0 or shape != twin_input[1]
        given.append((label, shape[1:] if chain else shape, chain, kind_of(dtype)))
    weights = {key: p.detach() for key, p in parameters.items() if key in used}
    buffers = {key: t for key, t in walk.constants.items() if key in used}
    if any(key.startswith("constant.") for key in buffers):
        walk.note("Constants that the module makes in every call (arange, masks) are buffers here.")
    classes = {path: snake(type(m).__name__) for path, m in module.named_modules()}
    chosen = name or classes[""]
    return Captured(chosen, nodes, source, given, weights, buffers, unused, walk.notes, classes=classes)


def snake(name: str) -> str:
    """A class name as files have names: ImageEBM is image_ebm."""
    import re

    found = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    found = re.sub(r"[^a-z0-9_]+", "_", found).strip("_")
    return found if found[:1].isalpha() else f"model_{found}".rstrip("_")


def _check(module: Any, inputs: Sequence[Any], file: str) -> None:
    """Raises SpecError where there is no module or no sample."""
    if not isinstance(module, nn.Module):
        raise SpecError([Problem(f"expected a torch module, found a {type(module).__name__}", file=file)])
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor) or first.dim() == 0 or not first.is_floating_point():
        kind = f"a tensor of {first.dtype}" if isinstance(first, Tensor) and first.dim() else "no such tensor"
        expected = "expected the first input to be a sample, a tensor of numbers whose first axis is the chains"
        message = f"{expected}, found {kind}"
        raise SpecError([Problem(message, file=file)])
    if first.shape[0] == 0:
        raise SpecError([Problem("expected at least one chain in the example", file=file)])


def resized(inputs: Sequence[Any], count: int, chains: int) -> tuple[Any, ...]:
    """The inputs with another number of chains: the chains there are, over and over."""

    def one(item: Any, sample: bool) -> Any:
        if isinstance(item, Tensor) and item.dim() and (sample or item.shape[0] == count):
            return item.detach()[torch.arange(chains, device=item.device) % count]
        return item

    return tuple(one(item, i == 0) for i, item in enumerate(inputs))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch logs and prints as it gives up is said in our own words."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _begin(walk: Walk) -> None:
    """Inputs and what the module holds."""
    for i, ((name, shape, dtype), (_, twin, _)) in enumerate(zip(walk.exported.inputs, walk.other.inputs, strict=True)):
        found = chain_axis(shape, twin, walk.chains)
        layout = Layout(len(shape), 0) if found or i == 0 else None
        own = shape[1:] if layout else shape
        walk.known[name] = Value(name, own, layout, layout is not None, kind_of(dtype))
        walk.shapes[name], walk.dtypes[name], walk.twin_shapes[name] = shape, dtype, twin
    for name, held in walk.exported.held.items():
        walk.known[name] = Fixed(held.tensor) if held.role == "constant" else held
        walk.shapes[name] = walk.twin_shapes[name] = tuple(held.tensor.shape)
        walk.dtypes[name] = held.tensor.dtype


def _step(walk: Walk, record: Record, twin: Record, index: int) -> None:
    """One record: its rule, or what torch composes it of; a refusal is noted and goes on."""
    if record.target == "getitem":
        parts, at = walk.known.get(record.args["0"].name), record.args["1"]
        walk.known[record.name] = parts[at] if isinstance(parts, list) else Poison()
        _remember(walk, record, twin)
        return
    walk.call = call = Call(record, twin, walk.chains)
    if not record.shapes and not record.dynamic:
        return  # torch's own checks, and sizes that depend on values
    if record.dynamic:
        walk.known[record.name] = Poison()
        _problem(walk, record, _unsupported(walk, record))
        return
    try:
        found = _found(walk, call)
        if found is None and record.shapes:
            _parts(walk, record, twin, index)
            return
        if record.detached and isinstance(found, Value):
            found = walk.emit("detach", [found], found.shape, found.layout, kind=found.kind)
        _in_place(walk, record, found, index)
        walk.known[record.name] = found
    except Poisoned:
        walk.known[record.name] = Poison()
        if text := _unsupported(walk, record):
            _problem(walk, record, text)
    except Refused as refused:
        walk.known[record.name] = Poison()
        _problem(walk, record, str(refused))
    _remember(walk, record, twin)


def _remember(walk: Walk, record: Record, twin: Record) -> None:
    for mine, shapes, strides in (
        (record, walk.shapes, walk.strides),
        (twin, walk.twin_shapes, walk.twin_strides),
    ):
        if len(mine.shapes) == 1:
            shapes[record.name], strides[record.name] = mine.shapes[0], mine.strides[0]
    if record.dtypes:
        walk.dtypes[record.name] = record.dtypes[0]


def _found(walk: Walk, call: Call) -> Any:
    """What a call gives; None where there is no rule for it. Raises Refused."""
    record = call.record
    items = [walk.known.get(n) for n in tensors_of(record)]
    if any(isinstance(i, Poison) for i in items):
        raise Poisoned
    constant = bool(items) and all(isinstance(i, Fixed) and i.layout is None for i in items)
    if (constant or (not items and record.target in _MADE)) and record.shapes == call.other.shapes:
        return _folded(walk, record)
    try:
        rule = RULES.get(base(record.target))
        return rule(walk, call) if rule else None
    except Refused:
        if items and all(isinstance(i, Fixed) or (isinstance(i, Held) and i.role == "buffer") for i in items):
            return _folded(walk, record)
        raise


def _folded(walk: Walk, record: Record) -> Any:
    """A call of constants, done now."""
    given = {}
    for name in tensors_of(record):
        item = walk.known[name]
        given[name] = item.tensor.clone() if isinstance(item, (Fixed, Held)) else item
    with torch.no_grad():
        result = called(record, given)
    return [Fixed(r) for r in result] if isinstance(result, (list, tuple)) else Fixed(result)


def _parts(walk: Walk, record: Record, twin: Record, index: int) -> None:
    """Walk over what torch composes a call of. Without a rule for it and parts it is refused."""
    parts = decomposed(record, walk.shapes, walk.strides, walk.dtypes)
    twins = decomposed(twin, walk.twin_shapes, walk.twin_strides, walk.dtypes)
    text = _unsupported(walk, record)
    if not text and [p.full for p in parts] != [t.full for t in twins]:
        text = "does something else for another number of chains"
    if text:
        items = [walk.known.get(n) for n in tensors_of(record)]
        if items and all(isinstance(i, Fixed) or (isinstance(i, Held) and i.role == "buffer") for i in items):
            walk.known[record.name] = _folded(walk, record)
        else:
            walk.known[record.name] = Poison()
            _problem(walk, record, text)
        _remember(walk, record, twin)
        return
    for part, other in zip(parts, twins, strict=True):
        _step(walk, part, other, index)


def _unsupported(walk: Walk, record: Record) -> str:
    """Why there are no operators for a call, "" where there are."""
    if record.dynamic:
        return "gives as many elements as values say"
    if base(record.target) in RULES or record.target in (*_MADE, "getitem"):
        return ""
    if "rand" in record.target or record.target in ("bernoulli", "multinomial", "normal"):
        return "draws random numbers within the energy"
    parts = decomposed(record, walk.shapes, walk.strides, walk.dtypes)
    known = parts and all(base(p.target) in RULES or p.target in (*_MADE, "getitem") for p in parts)
    return "" if known else "there are no operators for it"


def _in_place(walk: Walk, record: Record, found: Any, index: int) -> None:
    """What a call has written into is its result from now on. Raises Refused where a view of it is read later."""
    if not record.target.endswith("_") or record.target.endswith("__") or "self" not in record.args:
        return
    mine = record.args["self"].name
    if base(record.target) in ("detach", "requires_grad"):
        return
    assigned = walk.known.pop(f"assigned {mine}", None)
    later = {n for r in walk.exported.records[index + 1 :] for n in tensors_of(r)} | set(walk.exported.outputs)
    root = _root(walk, mine)
    for name in later & walk.known.keys():
        of_it = name != mine and _root(walk, name) == root and not (assigned and name == root)
        if of_it and isinstance(walk.known[name], Value):
            raise Refused("writes in place where a view of the same tensor is read later")
    if assigned:
        walk.known[root] = assigned
    walk.known[mine] = found


def _root(walk: Walk, name: str) -> str:
    """The tensor whose memory a name is a view of."""
    while name in walk.records and walk.records[name].target.rstrip("_") in _VIEWS:
        args = walk.records[name].args
        name = args.get("self", args.get("0")).name
    return name


def _problem(walk: Walk, record: Record, text: str) -> None:
    where = f" in {record.module}" if record.module else ""
    message = f"{record.full.removesuffix('.default')}{where}: {text}"
    walk.problems.append(Problem(message, file=as_given(record.file, walk.file), line=record.line))


def _energy(walk: Walk, file: str) -> Value:
    """The value that the module gives. Raises SpecError where it is not one energy per chain."""
    names = walk.exported.outputs
    shown = "nothing that is a tensor" if not names else f"{len(names)} tensors"
    if len(names) == 1:
        found = walk.known.get(names[0])
        shown = f"a tensor of shape {list(walk.shapes.get(names[0], ()))} for {walk.chains} chains"
        if isinstance(found, Value):
            count = 1
            for size in found.shape:
                count *= size
            if found.own and found.layout and count == 1 and found.layout.at == 0 and found.layout.rank < 3:
                if not _sees(walk, found, walk.exported.inputs[0][0]):
                    raise SpecError([Problem("the energy does not depend on the sample, the first input", file=file)])
                return found
            if not found.own and count == 1:
                shown += ", which does not depend on the sample"
    raise SpecError([Problem(f"expected one energy per chain, of shape [C] or [C, 1], found {shown}", file=file)])


def _sees(walk: Walk, value: Value, sample: str) -> bool:
    seen, waiting = set(), [value.source]
    while waiting:
        source = waiting.pop()
        if source == sample:
            return True
        at = node_of(source)
        if at is not None and at not in seen:
            seen.add(at)
            waiting += walk.nodes[at].reads
    return False
