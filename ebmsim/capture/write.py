"""Components as the text of a workload file."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from ebmsim.capture.alike import common
from ebmsim.capture.blocks import Block, blocked, hoisted
from ebmsim.capture.branches import Split, split
from ebmsim.capture.chains import Source
from ebmsim.capture.naming import named, plain, previous, readers
from ebmsim.capture.nodes import Captured, Node
from ebmsim.graph.taxonomy import derive
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import parse_workload, settle

_WIDTH = 118


def written(captured: Captured, title: str, *, steps: int, chains: int, version: str) -> str:
    """The workload file of a captured module; its taxonomy is what is derived from it."""
    parts = split(captured)
    blocks: dict[str, Block] = {}
    for part in parts.parts:
        part.trees = tuple(hoisted(tree, part.output)[0] for tree in part.trees)
        part.nodes, part.output = hoisted(part.nodes, part.output)
        trees = part.trees if part.weights == "distinct" and part.trees else (part.nodes,)
        for tree in trees:
            captured.order += dict.fromkeys(key for node in tree for key in node.params)
        part.nodes, part.output = blocked(part.nodes, part.output, captured.classes, blocks)
    body = [*_blocks(blocks), *_components(captured, parts)]
    tags: tuple[str, ...] = ("mono", "sequential")
    tail = _tail(captured, title, version, any(part.role == "encoder" for part in parts.parts))
    for _ in range(2):
        text = "\n".join([*_head(captured, title, tags, steps, chains), *body, *tail]) + "\n"
        document = parse_document(text, f"{captured.name}.yaml")
        derived = derive(settle(document, parse_workload(document)))
        if tuple(derived) == tags:
            break
        tags = tuple(derived)
    return text


def _head(captured: Captured, title: str, tags: tuple[str, ...], steps: int, chains: int) -> list[str]:
    sample, *others = captured.inputs
    year = datetime.date.today().year
    lines = [
        f"# {title}, captured from torch. The sample is {sample[0]}; shapes are without the chain axis.",
        f"name: {captured.name}",
        f"title: {title}, captured from torch",
        "",
        "paper:",
        "  title: none",
        f"  year: {year}",
        "",
        "taxonomy:",
        f"  compositionality: {tags[0]}",
        f"  dependency: {tags[1]}",
        "",
        "parameters:",
        f"  chains: {{default: {chains}, text: samples drawn at once}}",
        f"  steps: {{default: {steps}, text: Langevin steps of an inference}}",
        f"  training_steps: {{default: {steps}, text: Langevin steps of a training iteration}}",
        f"  training_batch: {{default: {chains}, text: samples of a training iteration}}",
        "  iterations: {default: 10000, text: training iterations}",
        "",
    ]
    if others:
        lines.append("inputs:")
        for name, shape, chain, kind in others:
            more = ("" if chain else ", chain_axis: false") + ("" if kind == "float" else ", kind: index")
            lines.append(f"  {name}: {{shape: {flow(list(shape))}{more}}}")
        lines.append("")
    return lines


def _tail(captured: Captured, title: str, version: str, encoders: bool) -> list[str]:
    name, shape, *_ = captured.inputs[0]
    notes = [
        f"Captured from the torch module {title} with torch {version}, by exporting a call of it.",
        "Sampler, steps and training are defaults of the capture, not facts of the model.",
        *dict.fromkeys(captured.notes),
    ]
    if encoders:
        notes.append("Encoders run with every evaluation, as in a call; `runs: once` is for what stays the same.")
    lines = [
        "",
        "sampler:",
        f"  sample: {{{name}: {flow(list(shape))}}}",
        "  preset: langevin",
        "",
        "training:",
        "  terms: [contrastive]",
        "  negatives: sampler",
        "",
        "notes:",
    ]
    for note in notes:
        lines += folded(note, "  - ")
    return lines


def folded(text: str, lead: str) -> list[str]:
    """A text as an item of a list, on several lines where it is long."""
    if len(lead) + len(text) <= _WIDTH and ": " not in text and " #" not in text and text[0].isalnum():
        return [lead + text]
    lines, indent = [lead + ">-"], " " * (len(lead) + 2)
    line = ""
    for word in text.split():
        if line and len(indent) + len(line) + 1 + len(word) > _WIDTH:
            lines.append(indent + line)
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, indent + line]


def _blocks(blocks: Mapping[str, Block]) -> list[str]:
    lines = ["blocks:"] if blocks else []
    for block in blocks.values():
        lines.append(f"  {block.name}:")
        if block.arguments:
            lines.append("    arguments: {" + ", ".join(f"{a}: null" for a in block.arguments) + "}")
        if block.inputs != ["x"]:
            lines.append(f"    inputs: {flow(block.inputs)}")
        lines.append("    nodes:")
        lines += [*node_lines(block.nodes, block.output, block.module, block.inputs, "      "), ""]
    return lines


def _components(captured: Captured, parts: Split) -> list[str]:
    lines = ["components:"]
    left = captured.unused
    outside = [name for name, *_ in captured.inputs]
    for part in parts.parts:
        reads = [n for n in [*outside, *[p.name for p in parts.parts]] if n in part.reads]
        lines += [f"  {part.name}:", f"    role: {part.role}"]
        if part.instances > 1:
            lines += [f"    instances: {part.instances}", f"    weights: {part.weights}"]
        lines.append("    inputs: {" + ", ".join(f"{n}: {n}" for n in reads) + "}")
        prefix = common([n.module for n in part.nodes if n.params])
        prefix = prefix.rpartition(".")[0] if any(n.module == prefix and n.op == "use" for n in part.nodes) else prefix
        lines.append("    nodes:")
        lines += node_lines(part.nodes, part.output, prefix, reads, "      ")
        if left and part.role == "energy":
            lines.append(f"    unused_parameters: {left}")
            left = 0
        lines.append("")
    if parts.combine:
        lines += ["combine:", "  nodes:"]
        lines += node_lines(parts.combine, len(parts.combine) - 1, "", [p.name for p in parts.parts], "    ")
    return lines if lines[-1] else lines[:-1]


def node_lines(nodes: list[Node], output: Source, prefix: str, reads: list[str], indent: str) -> list[str]:
    """A list of nodes, one a line where it fits."""
    first = reads[0] if reads else ""
    names = named(nodes, output, prefix, set(reads), first)
    again = _again(nodes, output, names)
    lines: list[str] = []
    for i, node in enumerate(nodes):
        lines += item(_fields(nodes, i, names, again, first), indent)
        if i in again:
            lines += item({"op": "reshape", "name": again[i], "shape": list(node.shape)}, indent)
    if not isinstance(output, int) or output != len(nodes) - 1:
        # The output stands last; an input or an earlier node by another name.
        at = output[0] if isinstance(output, tuple) else output
        shape = list(nodes[at].shape) if isinstance(at, int) else [1]
        lines += item({"op": "reshape", "inputs": [_called(output, names, again)], "shape": shape}, indent)
    return lines


def _again(nodes: list[Node], output: Source, names: dict[int, str]) -> dict[int, str]:
    """Other names for results whose own name a later call with the same weights takes while they are still read."""
    reading = readers(nodes, output)
    last = {name: i for i, name in names.items()}
    found: dict[int, str] = {}
    taken = set(names.values())
    for i, name in names.items():
        later = [j for j, other in names.items() if other == name and j > i]
        if last[name] != i and any(r > later[0] for r in reading.get(i, [])):
            n = 1
            while f"{name}_result{n}" in taken:
                n += 1
            found[i] = f"{name}_result{n}"
            taken.add(found[i])
    return found


def _called(source: Source, names: dict[int, str], again: dict[int, str]) -> str:
    if isinstance(source, tuple):
        return f"{names[source[0]]}.{source[1]}"
    if isinstance(source, int):
        return again.get(source, names.get(source, "?"))
    return source


def _fields(nodes: list[Node], i: int, names: dict[int, str], again: dict[int, str], first: str) -> dict[str, Any]:
    node = nodes[i]
    fields: dict[str, Any] = {"use": node.attributes["use"]} if node.op == "use" else {"op": node.op}
    if i in names:
        fields["name"] = names[i]
    before = previous(nodes, i, first)
    if node.inputs and not plain(node, before):
        fields["inputs"] = [_called(s, names, again) for s in node.inputs]
    if node.weight is not None:
        fields["weight"] = _called(node.weight, names, again)
    # What files leave out because it is the default.
    return fields | {k: v for k, v in node.attributes.items() if (k, v) != ("start", 0)}


def item(fields: dict[str, Any], indent: str) -> list[str]:
    """A node as an item of a list: on one line, or on one for each of its keys."""
    line = f"{indent}- {flow(fields)}"
    if len(line) <= _WIDTH:
        return [line]
    pairs = [f"{key}: {flow(value)}" for key, value in fields.items()]
    return [f"{indent}{'  ' if i else '- '}{pair}" for i, pair in enumerate(pairs)]


def flow(value: Any) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(flow(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value)
