"""Names of nodes: from the module tree where a node holds something, from its operator where another reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ebmsim.capture.chains import Source
from ebmsim.capture.nodes import Node, node_of

_SHORT = {"reduce_sum": "sum", "reduce_mean": "mean", "concat": "joined", "slice": "part", "split": "parts"}
_SHORT |= {"permute": "turned", "reshape": "view", "expand": "spread", "copy": "copied", "select": "chosen"}
_SHORT |= {"add": "sum", "mul": "product", "sub": "difference", "div": "quotient", "reduce_max": "largest"}
_SHORT |= {"gather": "taken", "matmul": "product", "square": "squares", "reduce_norm": "length", "index_add": "added"}


def readable(path: str, op: str) -> str:
    """A module path as a name: blocks.0.conv1 is blocks0_conv1, and a bare number has its operator's name."""
    parts = [p for p in re.split(r"\.?parametrizations\b", path)[0].split(".") if p]
    name = ""
    for part in parts:
        name += part if part.isdigit() and name else f"_{part}" if name else part
    name = re.sub(r"\W+", "_", name)
    return f"{op}{name}" if name[:1].isdigit() else name


def relative(path: str, prefix: str) -> str:
    """A module path seen from another that it begins with; itself where it does not."""
    if not prefix or path == prefix:
        return "" if prefix else path
    return path.removeprefix(prefix + ".")


def previous(nodes: Sequence[Node], at: int, first: str) -> Source | None:
    """What a node reads that says nothing: the node before it, or the first input."""
    return at - 1 if at else first


def readers(nodes: Sequence[Node], output: Source) -> dict[int, list[int]]:
    """For every node those that read it; the end of the list reads the output."""
    found: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        for source in node.reads:
            at = node_of(source)
            if at is not None:
                found.setdefault(at, []).append(i)
    at = node_of(output)
    if at is not None:
        found.setdefault(at, []).append(len(nodes))
    return found


def plain(node: Node, source: Source | None) -> bool:
    """Whether a node reads one thing, and that is what it would read without saying so."""
    return len(node.inputs) == 1 and node.inputs[0] == source and source is not None


def named(nodes: Sequence[Node], output: Source, prefix: str, used: set[str], first: str) -> dict[int, str]:
    """Names of the nodes that need one. Calls that hold the same tensors have the same name."""
    reading = readers(nodes, output)
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.module] = counts.get(node.module, 0) + (bool(node.params) or node.op not in ("reshape", "permute"))
    names: dict[int, str] = {}
    shared: dict[tuple[str, tuple[str, ...]], str] = {}
    taken = set(used)
    for i, node in enumerate(nodes):
        others = [r for r in reading.get(i, []) if not _follows(nodes, r, i)]
        if not node.params and not others:
            continue
        key = (node.op, node.params)
        if node.params and key in shared:
            names[i] = shared[key]
            continue
        path = readable(relative(node.module, prefix), node.attributes["use"] if node.op == "use" else node.op)
        if node.op == "use" and "repeat" in node.attributes:
            path = _of_turns(node, nodes, prefix)
        if node.op in ("parameter", "buffer"):
            label = "constant" if node.label == "constant" else node.label
            base = f"{path}_{label}" if path else label
        elif not path:
            base = _SHORT.get(node.op, node.op)
        elif node.params or counts[node.module] == 1:
            base = path
        else:
            base = f"{path}_{_SHORT.get(node.op, node.op)}"
        name, n = base, 2
        while name in taken:
            name, n = f"{base}_{n}" if base[-1:].isdigit() else f"{base}{n}", n + 1
        taken.add(name)
        names[i] = name
        if node.params:
            shared[key] = name
    return names


def _of_turns(node: Node, nodes: Sequence[Node], prefix: str) -> str:
    """A name for turns of a block: that of the list they stand in, or with the first and the last of them."""
    parent, last = node.label.split(" ")
    whole = readable(relative(parent, prefix), "")
    inside = [n for n in nodes if n is not node and n.params and n.module.startswith(parent + ".")]
    if whole and not inside:
        return whole
    first = node.module.rpartition(".")[2]
    return f"{whole or node.attributes['use']}{first}_{last}"


def _follows(nodes: Sequence[Node], reader: int, at: int) -> bool:
    """Whether a reader is the next node and reads this one without saying so, or is the end behind the last one."""
    if reader == len(nodes):
        return at == len(nodes) - 1
    return reader == at + 1 and plain(nodes[reader], at) and nodes[reader].weight != at
