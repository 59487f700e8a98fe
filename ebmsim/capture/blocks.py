"""Modules that stand several times in a component as blocks: written once, used with arguments or repeated."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ebmsim.capture.chains import Source
from ebmsim.capture.nodes import FREE, Node, node_of, renumbered

_FEWEST_KERNELS = 2
_FEWEST_NODES = 3
_MOST_ARGUMENTS = 5
_INPUTS = ("x", "y", "z", "u", "v", "w")
# What an argument that an attribute differs in is called.
_ARGUMENTS = {"out": "c", "shape": "size", "by": "factor"}


@dataclass
class Block:
    """Nodes used by name. inputs: names of its inputs; arguments: what differs from use to use."""

    name: str
    inputs: list[str]
    arguments: list[str]
    nodes: list[Node]
    output: Source
    module: str


@dataclass
class _Stretch:
    """The nodes of one module, one after another: first to last, what it reads from outside, and what it gives."""

    path: str
    first: int
    last: int
    reads: list[Source]
    output: int
    nodes: list[Node]
    result: Source


def hoisted(nodes: Sequence[Node], output: Source) -> tuple[list[Node], Source]:
    """The same nodes with what several modules read, and holds no result of others, in front."""
    counts: dict[int, set[str]] = {}
    for node in nodes:
        for source in node.reads:
            at = node_of(source)
            if at is not None and nodes[at].op in ("buffer", "parameter"):
                counts.setdefault(at, set()).add(node.module)
    front = [i for i, n in enumerate(nodes) if n.op == "buffer" and n.label == "constant"]
    front += [i for i, modules in counts.items() if len(modules) > 1 and i not in front]
    for i in front:
        if nodes[i].label == "constant" and len(counts.get(i, ())) > 1:
            nodes[i].module = ""
    front = [i for i in front if len(counts.get(i, ())) > 1]
    order = sorted(front) + [i for i in range(len(nodes)) if i not in front]
    number: dict[int, Source] = {old: new for new, old in enumerate(order)}
    moved = []
    for i in order:
        node = nodes[i]
        weight = None if node.weight is None else renumbered(node.weight, number)
        moved.append(replace(node, inputs=[renumbered(s, number) for s in node.inputs], weight=weight))
    return moved, renumbered(output, number)


def blocked(
    nodes: list[Node], output: Source, classes: Mapping[str, str], blocks: dict[str, Block]
) -> tuple[list[Node], Source]:
    """Nodes with a node `use` for every module that stands several times; adds to the blocks."""
    found = _stretches(nodes, output, classes)
    groups: list[list[_Stretch]] = []
    for stretch in found:
        for group in groups:
            if _alike(group[0], stretch):
                group.append(stretch)
                break
        else:
            groups.append([stretch])
    groups = [g for g in groups if len(g) > 1]
    groups.sort(key=lambda g: -len(g[0].nodes))
    taken: set[int] = set()
    uses: list[tuple[_Stretch, Block, dict[str, Any]]] = []
    for group in groups:
        free = [s for s in group if not taken & set(range(s.first, s.last))]
        if len(free) < 2:
            continue
        made = _block(free, classes, blocks)
        if made is None:
            continue
        block, arguments = made
        blocks[block.name] = block
        for stretch, given in zip(free, arguments, strict=True):
            taken |= set(range(stretch.first, stretch.last))
            uses.append((stretch, block, given))
    if not uses:
        return nodes, output
    return _repeated(*_contracted(nodes, output, uses))


def _stretches(nodes: list[Node], output: Source, classes: Mapping[str, str]) -> list[_Stretch]:
    """The modules whose nodes stand beside each other, read for one result, and hold tensors of their own."""
    readers: dict[int, set[int]] = {}
    for i, node in enumerate(nodes):
        for source in node.reads:
            at = node_of(source)
            if at is not None:
                readers.setdefault(at, set()).add(i)
    end = node_of(output)
    times: dict[str, int] = {}
    for node in nodes:
        for key in node.params:
            times[key] = times.get(key, 0) + 1
    found = []
    for path in classes:
        inside = [i for i, n in enumerate(nodes) if path and (n.module == path or n.module.startswith(path + "."))]
        if not inside or len(inside) < _FEWEST_NODES or inside[-1] - inside[0] + 1 != len(inside):
            continue
        if sum(nodes[i].op not in FREE for i in inside) < _FEWEST_KERNELS:
            continue
        keys = [key for i in inside for key in nodes[i].params]
        if not keys or any(times[key] > 1 for key in keys):
            continue
        mine = set(inside)
        given = [i for i in inside if readers.get(i, set()) - mine or i == end]
        if len(given) != 1 or nodes[given[0]].op == "split":
            continue
        reads = dict.fromkeys(s for i in inside for s in nodes[i].reads if node_of(s) not in mine)
        if not 0 < len(reads) <= len(_INPUTS) or any(isinstance(s, tuple) for s in reads):
            continue
        part, result = _part(nodes, inside, given[0], list(reads))
        found.append(_Stretch(path, inside[0], inside[-1] + 1, list(reads), given[0], part, result))
    return found


def _part(nodes: list[Node], inside: list[int], output: int, reads: list[Source]) -> tuple[list[Node], Source]:
    """The nodes of a stretch with numbers of their own, and #0, #1, … for what they read from outside."""
    places: dict[Source, Source] = {source: f"#{i}" for i, source in enumerate(reads)}
    number: dict[int, Source] = {old: new for new, old in enumerate(inside)}

    def inner(source: Source) -> Source:
        return places[source] if source in places else renumbered(source, number)

    part = []
    for i in inside:
        weight = nodes[i].weight
        inputs = [inner(s) for s in nodes[i].inputs]
        part.append(replace(nodes[i], inputs=inputs, weight=None if weight is None else inner(weight)))
    return part, number[output]


def _alike(a: _Stretch, b: _Stretch) -> bool:
    """Whether two modules do the same but for numbers."""
    if len(a.nodes) != len(b.nodes) or len(a.reads) != len(b.reads) or a.result != b.result:
        return False
    for p, q in zip(a.nodes, b.nodes, strict=True):
        if (p.op, p.inputs, p.weight, len(p.params), p.own) != (q.op, q.inputs, q.weight, len(q.params), q.own):
            return False
        if p.attributes.keys() != q.attributes.keys() or len(p.shape) != len(q.shape):
            return False
        if any(not _comparable(p.attributes[k], q.attributes[k]) for k in p.attributes):
            return False
        if p.module.removeprefix(a.path) != q.module.removeprefix(b.path):
            return False
    return True


def _comparable(p: Any, q: Any) -> bool:
    """Whether two values of an attribute are equal, or numbers of which an argument can stand."""
    if isinstance(p, list) and isinstance(q, list):
        return len(p) == len(q) and all(_comparable(a, b) for a, b in zip(p, q, strict=True))
    plain = isinstance(p, int) and isinstance(q, int) and not isinstance(p, bool) and not isinstance(q, bool)
    return p == q or plain


def _block(
    uses: list[_Stretch], classes: Mapping[str, str], blocks: Mapping[str, Block]
) -> tuple[Block, list[dict[str, Any]]] | None:
    """A block of modules that are alike, and the arguments of every use; None where they differ in too much."""
    arguments: dict[str, list[int]] = {}

    def one(key: str, values: list[Any]) -> Any:
        if all(v == values[0] for v in values):
            return values[0]
        for name, known in arguments.items():
            if known == values:
                return name
            if all(k and v % k == 0 and v // k == values[0] // known[0] for k, v in zip(known, values, strict=True)):
                return f"{values[0] // known[0]} * {name}"
        base = _ARGUMENTS.get(key, key)
        name, n = base, 2
        while name in arguments:
            name, n = f"{base}{n}", n + 1
        arguments[name] = values
        return name

    body = []
    for same in zip(*[u.nodes for u in uses], strict=True):
        attributes: dict[str, Any] = {}
        for key in same[0].attributes:
            values = [n.attributes[key] for n in same]
            if isinstance(values[0], list):
                attributes[key] = [one(key, list(items)) for items in zip(*values, strict=True)]
            else:
                attributes[key] = one(key, values)
        body.append(replace(same[0], attributes=attributes))
    if len(arguments) > _MOST_ARGUMENTS:
        return None
    name = base = classes[uses[0].path]
    n = 2
    while name in blocks:
        name, n = f"{base}{n}", n + 1
    order = _order(uses)
    names: dict[Source, Source] = {f"#{place}": _INPUTS[i] for i, place in enumerate(order)}
    for node in body:
        node.inputs = [names.get(s, s) for s in node.inputs]
        node.weight = None if node.weight is None else names.get(node.weight, node.weight)
    for use in uses:
        use.reads = [use.reads[place] for place in order]
    block = Block(name, list(_INPUTS[: len(order)]), list(arguments), body, uses[0].result, uses[0].path)
    return block, [{key: values[i] for key, values in arguments.items()} for i in range(len(uses))]


def _order(uses: list[_Stretch]) -> list[int]:
    """The inputs in the order of a block's: first the one that is most often what the use before gives."""
    places = list(range(len(uses[0].reads)))
    follows = [sum(b.reads[i] == a.output for a, b in itertools.pairwise(uses)) for i in places]
    first = follows.index(max(follows))
    return [first, *[i for i in places if i != first]]


def _contracted(
    nodes: list[Node], output: Source, uses: list[tuple[_Stretch, Block, dict[str, Any]]]
) -> tuple[list[Node], Source]:
    """The nodes with one node in the place of every stretch."""
    at = {stretch.first: (stretch, block, given) for stretch, block, given in uses}
    number: dict[int, Source] = {}
    made: list[Node] = []
    i = 0
    while i < len(nodes):
        if i not in at:
            node = nodes[i]
            number[i] = len(made)
            weight = None if node.weight is None else renumbered(node.weight, number)
            made.append(replace(node, inputs=[renumbered(s, number) for s in node.inputs], weight=weight))
            i += 1
            continue
        stretch, block, given = at[i]
        inside = nodes[stretch.first : stretch.last]
        attributes: dict[str, Any] = {"use": block.name} | ({"with": given} if given else {})
        inputs = [renumbered(s, number) for s in stretch.reads]
        result = nodes[stretch.output]
        params = tuple(dict.fromkeys(key for n in inside for key in n.params))
        number[stretch.output] = len(made)
        made.append(Node("use", inputs, attributes, result.shape, result.own, params, None, stretch.path))
        i = stretch.last
    return made, renumbered(output, number)


def _repeated(nodes: list[Node], output: Source) -> tuple[list[Node], Source]:
    """Uses that follow each other with the same arguments, each of the one before, as one that repeats."""
    readers: dict[int, int] = {}
    for node in nodes:
        for source in node.reads:
            at = node_of(source)
            if at is not None:
                readers[at] = readers.get(at, 0) + 1
    end = node_of(output)
    number: dict[int, Source] = {}
    made: list[Node] = []
    for i, node in enumerate(nodes):
        before = made[-1] if made else None
        follows = (
            before is not None
            and node.op == before.op == "use"
            and i - 1 != end
            and node.inputs[0] == i - 1
            and readers.get(i - 1) == 1
            and [renumbered(s, number) for s in node.inputs[1:]] == before.inputs[1:]
            and {**node.attributes, "repeat": 0} == {**before.attributes, "repeat": 0}
            and node.shape == before.shape
        )
        if follows and before is not None:
            before.attributes = {**before.attributes, "repeat": before.attributes.get("repeat", 1) + 1}
            before.params += node.params
            parent = node.module.rpartition(".")[0]
            before.label = f"{parent} {node.module.rpartition('.')[2]}"
            number[i] = len(made) - 1
            continue
        number[i] = len(made)
        made.append(replace(node, inputs=[renumbered(s, number) for s in node.inputs]))
        if node.weight is not None:
            made[-1].weight = renumbered(node.weight, number)
    return made, renumbered(output, number)
