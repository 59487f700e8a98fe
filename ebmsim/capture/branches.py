"""Components: what stands beside each other in a graph of nodes, each with weights of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ebmsim.capture.alike import common, merged, same
from ebmsim.capture.chains import Source
from ebmsim.capture.nodes import FREE, Captured, Node, behind, chosen, node_of

Held = frozenset[str]
Tree = tuple[list[Node], Source]
# What a combination may do with the energies that were put side by side.
_REDUCED = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "logsumexp")
_AFTER = (*_REDUCED, "reshape", "scale", "shift", "neg", "log", "exp")


@dataclass
class Part:
    """A component: its nodes with numbers of their own. reads: inputs and components, by name.

    trees: the nodes of every instance; those of the first are `nodes`, with attributes that may say `instance`.
    """

    name: str
    role: str
    nodes: list[Node]
    output: Source
    instances: int = 1
    weights: str = "shared"
    trees: tuple[list[Node], ...] = ()

    @property
    def reads(self) -> list[str]:
        """The names of the tensors from outside."""
        found = dict.fromkeys(s for node in self.nodes for s in node.reads if isinstance(s, str))
        return list(found) or ([self.output] if isinstance(self.output, str) else [])


@dataclass
class Unit:
    """Energies that make a component. bundle: they are instances of one network."""

    terms: list[Source]
    bundle: bool = False


@dataclass
class Split:
    """All components in order, and the nodes of a combination, which read components by name."""

    parts: list[Part]
    combine: list[Node]


def split(captured: Captured) -> Split:
    """The components of a module's nodes."""
    graph = _Graph(captured)
    encoders = graph.encoders()
    names = _names(graph, [sorted(graph.back[c]) for c in encoders], captured, otherwise="encoder")
    parts: list[Part] = []
    outside = graph.ends
    for at, name in zip(encoders, names, strict=True):
        nodes, output = chosen(captured.nodes, sorted(behind(captured.nodes, at, outside)), at, outside)
        parts.append(Part(name, "encoder", nodes, output))
        outside[at] = name
    taken = [p.name for p in parts]
    terms, tail = graph.terms(captured.output)
    energies = graph.units(terms)
    apart = len(energies) > 1 or energies[0].bundle
    if apart and (not tail or len(energies) == 1 or all(len(u.terms) == 1 for u in energies)):
        found = graph.components(energies, taken)
        return Split([*parts, *found], _combine(graph, tail, found))
    keep = sorted(behind(captured.nodes, captured.output, outside))
    nodes, output = chosen(captured.nodes, keep, captured.output, outside)
    used = {n for n, *_ in captured.inputs} | set(taken)
    name = next(n for n in (captured.name, "energy", "energies", "model", f"{captured.name}_energy") if n not in used)
    return Split([*parts, Part(name, "energy", nodes, output)], [])


class _Graph:
    """A module's nodes with what each needs and sees."""

    def __init__(self, captured: Captured) -> None:
        self.nodes, self.captured = captured.nodes, captured
        self.sample = captured.inputs[0][0]
        self.back: list[set[int]] = []
        # Encoders, whose results energies read from outside.
        self.ends: dict[int, str] = {}
        self.sees: list[bool] = []
        self.given: list[bool] = []
        for i, node in enumerate(self.nodes):
            before = [node_of(s) for s in node.reads]
            self.sees.append(self.sample in node.reads or any(self.sees[b] for b in before if b is not None))
            known = any(isinstance(s, str) for s in node.reads)
            self.given.append(known or any(self.given[b] for b in before if b is not None))
            # Of what sees the sample nobody asks.
            self.back.append(set() if self.sees[i] else {i}.union(*[self.back[b] for b in before if b is not None]))

    def held(self, some: set[int]) -> Held:
        """The learned tensors that nodes hold."""
        return frozenset(k for i in some for k in self.nodes[i].params if k in self.captured.weights)

    # --- encoders -----------------------------------------------------------------------------------------------

    def encoders(self) -> list[int]:
        """Nodes that conditioning comes together in before anything that sees the sample reads it."""
        found = [i for i in range(len(self.nodes)) if self._closed(i)]
        found = [i for i in found if not any(i != j and i in self.back[j] for j in found)]
        several = [i for i in found if len([n for n in self.back[i] if self.held({n})]) > 1]
        return several or (found if len(found) == 1 else [])

    def _closed(self, at: int) -> bool:
        """Whether all that a node needs of inputs and learned tensors is read for it alone."""
        node = self.nodes[at]
        if self.sees[at] or not self.given[at] or node.op == "split" or not self.held(self.back[at]):
            return False
        mine = self.back[at]
        learned = self.held(mine)
        for i, other in enumerate(self.nodes):
            if i in mine:
                continue
            if learned & set(other.params):
                return False
            for source in other.reads:
                read = node_of(source)
                if read in mine and read != at and (self.given[read] or self.nodes[read].op == "parameter"):
                    return False
        return True

    # --- energies -----------------------------------------------------------------------------------------------

    def terms(self, source: Source) -> tuple[list[Source], list[int]]:
        """What is added up, or put side by side and reduced, at the end; the nodes of the latter, the last first."""
        added = self._added(source)
        if len(added) > 1:
            return added, []
        tail: list[int] = []
        at = node_of(source)
        while at is not None and self.nodes[at].op in _AFTER and self.nodes[at].own and len(self.nodes[at].inputs) == 1:
            tail.append(at)
            at = node_of(self.nodes[at].inputs[0])
        if at is None or self.nodes[at].op not in ("concat", "stack") or not tail:
            return [source], []
        joined = self.nodes[at]
        single = all(self._single(s) for s in joined.inputs)
        if not single or not any(self.nodes[t].op in _REDUCED for t in tail):
            return [source], []
        return list(joined.inputs), [*tail, at]

    def _single(self, source: Source) -> bool:
        at = node_of(source)
        return at is not None and self.nodes[at].own and set(self.nodes[at].shape) <= {1}

    def _added(self, source: Source) -> list[Source]:
        at = node_of(source)
        node = self.nodes[at] if at is not None else None
        if node is None or not self._single(source):
            return [source]
        if node.op == "add" and all(self._single(s) for s in node.inputs):
            return [t for s in node.inputs for t in self._added(s)]
        if node.op == "shift" and node.attributes["by"] == 0:
            self.captured.notes.append("sum() starts from 0, an addition of a number that is left out here.")
            return self._added(node.inputs[0])
        if node.op == "reshape":
            inside = self._added(node.inputs[0])
            return inside if len(inside) > 1 else [source]
        return [source]

    def kernels(self, source: Source) -> set[int]:
        """The kernels of a term that see the sample."""
        return {i for i in behind(self.nodes, source, self.ends) if self.sees[i] and self.nodes[i].op not in FREE}

    def units(self, terms: list[Source]) -> list[Unit]:
        """Terms that are instances of one network, and others that share a kernel or a weight, each together."""
        groups: list[Unit] = []
        for term in terms:
            for group in groups:
                if self.alike(group.terms, term):
                    group.terms.append(term)
                    group.bundle = True
                    break
            else:
                groups.append(Unit([term]))
        done: list[Unit] = []
        for group in groups:
            while other := next((o for o in done if self._tied(o, group)), None):
                done.remove(other)
                group = Unit([*other.terms, *group.terms])
            done.append(group)
        bare = [u for u in done if not self.held(self.needs(u))]
        rest = [u for u in done if u not in bare]
        if bare and rest:
            rest[0] = Unit([*rest[0].terms, *[t for u in bare for t in u.terms]])
        return rest or [Unit(list(terms))]

    def needs(self, unit: Unit) -> set[int]:
        """All nodes of a unit."""
        return set[int]().union(*[behind(self.nodes, t, self.ends) for t in unit.terms])

    def _tied(self, a: Unit, b: Unit) -> bool:
        """Whether two units share a kernel that sees the sample, or a weight."""
        kernels = [set[int]().union(*[self.kernels(t) for t in u.terms]) for u in (a, b)]
        return bool(kernels[0] & kernels[1] or self.held(self.needs(a)) & self.held(self.needs(b)))

    def tree(self, term: Source) -> Tree:
        """The nodes of a term alone."""
        return chosen(self.nodes, sorted(behind(self.nodes, term, self.ends)), term, self.ends)

    def alike(self, group: list[Source], term: Source) -> bool:
        """Whether a term is the network of a group once more, with all weights its own or all the same."""
        first, _ = self.tree(group[0])
        other, _ = self.tree(term)
        if any(self.kernels(t) & self.kernels(term) for t in group) or not self.kernels(term):
            return False
        if len(first) != len(other) or any(not same(a, b) for a, b in zip(first, other, strict=True)):
            return False
        if merged([self.tree(t)[0] for t in (*group, term)]) is None:
            return False
        mine = [k for n in first for k in n.params if k in self.captured.weights]
        keys = [k for n in other for k in n.params if k in self.captured.weights]
        if len(group) > 1:
            second = [k for n in self.tree(group[1])[0] for k in n.params if k in self.captured.weights]
            if (second == mine) != (keys == mine):
                return False
        return bool(mine) and (keys == mine or not set(keys) & self._all(group))

    def _all(self, group: list[Source]) -> set[str]:
        return set(self.held(self.needs(Unit(group))))

    def components(self, units: list[Unit], taken: list[str]) -> list[Part]:
        """A component for every unit: instances of one network, or a sum of terms."""
        parts: list[Part] = []
        names = _names(self, [sorted(self.needs(unit)) for unit in units], self.captured, taken)
        for unit, name in zip(units, names, strict=True):
            if not unit.bundle:
                parts.append(Part(name, "energy", *self._sum(unit.terms)))
                continue
            trees = [self.tree(t) for t in unit.terms]
            learned = [[k for n in nodes for k in n.params if k in self.captured.weights] for nodes, _ in trees]
            weights = "shared" if learned[0] == learned[1] else "distinct"
            nodes = merged([nodes for nodes, _ in trees]) or []
            parts.append(Part(name, "energy", nodes, trees[0][1], len(trees), weights, tuple(n for n, _ in trees)))
        return parts

    def _sum(self, terms: list[Source]) -> Tree:
        """The nodes of several terms and their additions."""
        nodes = list(self.nodes)
        total = terms[0]
        for term in terms[1:]:
            flat = [self._flat(nodes, t) for t in (total, term)]
            nodes.append(Node("add", flat, {}, (), True))
            total = len(nodes) - 1
        return chosen(nodes, sorted(behind(nodes, total, self.ends)), total, self.ends)

    def _flat(self, nodes: list[Node], source: Source) -> Source:
        """An energy without axes of its own."""
        at = node_of(source)
        if at is not None and nodes[at].shape:
            nodes.append(Node("reshape", [source], {"shape": []}, (), True))
            return len(nodes) - 1
        return source


def _combine(graph: _Graph, tail: list[int], parts: list[Part]) -> list[Node]:
    """The nodes of a tail, reading components instead of the terms; the joining is done by the composer or a concat."""
    if not tail:
        return []
    joined, after = graph.nodes[tail[-1]], tail[-2::-1]
    count = len(joined.inputs)
    where = joined.attributes["axis"]
    del where
    nodes: list[Node] = []
    names = [p.name for p in parts]
    if len(parts) > 1:
        nodes = [Node("reshape", [n], {"shape": [1]}, (1,), True) for n in names]
        nodes.append(Node("concat", list(range(count)), {"axis": -1}, (count,), True))
    for at in after:
        node = graph.nodes[at]
        source: Source = len(nodes) - 1 if nodes else names[0]
        if node.op == "reshape":
            continue
        attributes = dict(node.attributes)
        if "axes" in attributes:
            attributes = {"axes": [-1]}
        shape = () if "axes" in attributes else nodes[-1].shape if nodes else (count,)
        nodes.append(Node(node.op, [source], attributes, shape, True))
    return nodes


def _names(
    graph: _Graph, keeps: list[list[int]], captured: Captured, taken: Sequence[str] = (), otherwise: str = "net"
) -> list[str]:
    """A name for each part from where its weights stand in the module tree; `otherwise` where that is everywhere."""
    used = {name for name, *_ in captured.inputs} | set(taken)
    found = []
    for keep in keeps:
        paths = [k.rpartition(".")[0].partition(".parametrizations")[0] for k in sorted(graph.held(set(keep)))]
        prefix = common(paths)
        parts = prefix.split(".") if prefix else []
        parts = [p for i, p in enumerate(parts) if not i or p != parts[i - 1]]
        name = re.sub(r"\W+", "_", "_".join(parts)).strip("_") or otherwise
        name = re.sub(r"_(?=\d+(_|$))", "", name)
        name = f"net{name}" if name[0].isdigit() else name
        unique, n = name, 2
        while unique in used:
            unique, n = f"{name}_{n}", n + 1
        used.add(unique)
        found.append(unique)
    return found
