"""The step graph: tensors, nodes in execution order, and the builder that emits them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from ebmsim.graph.operators.table import OPERATORS, SHAPE, Shape

Attributes = tuple[tuple[str, Any], ...]


class Tensor(NamedTuple):
    """An array of the graph. shape counts every axis, the chain axis first where there is one.

    role: sample | input | weight | buffer | constant | activation. kind: float (stored in the dtype of the
    policy) | index (8 bytes) | mask (1 byte).
    """

    shape: Shape
    role: str
    name: str
    kind: str = "float"
    chain_axis: bool = True

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Node(NamedTuple):
    """One operator applied: tensors by number, attributes sorted by name, and where it came from.

    of: the operator whose gradient it is part of, "" in no gradient.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: Attributes
    phase: str
    branch: str
    name: str
    line: int
    of: str = ""

    def attribute(self, name: str) -> Any:
        """The value of an attribute. Raises KeyError."""
        return dict(self.attributes)[name]


class Graph(NamedTuple):
    """Nodes in execution order over numbered tensors; `results` are the tensors that outlive it."""

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    results: tuple[int, ...] = ()


class Section(NamedTuple):
    """A run of nodes executed `repeat` times in one inference. label: once | step."""

    label: str
    repeat: int
    first: int
    last: int


class Evaluation(NamedTuple):
    """A gradient taken in a program: of which energy, with respect to which sample, and where its nodes are.

    since: first node of the forward. first, last: nodes of the backward. Scores have none.
    """

    energy: int
    sample: int
    gradient: int
    since: int
    first: int
    last: int


class Program(NamedTuple):
    """An inference of one launch as a graph in sections; `weights` are its learned tensors by key."""

    graph: Graph
    sections: tuple[Section, ...]
    weights: Mapping[str, int]
    frozen: frozenset[int]
    evaluations: tuple[Evaluation, ...] = ()


@lru_cache(maxsize=20_000)
def _shapes(op: str, inputs: tuple[Shape, ...], attributes: Attributes) -> tuple[Shape, ...]:
    return SHAPE[op](inputs, dict(attributes))


class Builder:
    """Emits nodes one after another and infers the shapes of what they write.

    The composition of a workload and the gradient rules both write through it.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.nodes: list[Node] = []
        self.producer: dict[int, int] = {}
        self.phase = "forward"
        self.branch = ""
        self.line = 0
        self.prefix = ""
        self.of = ""

    @contextmanager
    def at(
        self, *, phase: str | None = None, branch: str | None = None, prefix: str | None = None, of: str | None = None
    ) -> Iterator[None]:
        """Nodes emitted inside belong to this phase and branch, and to the gradient of an operator."""
        saved = (self.phase, self.branch, self.prefix, self.of)
        self.phase = saved[0] if phase is None else phase
        self.branch = saved[1] if branch is None else branch
        self.prefix = saved[2] if prefix is None else prefix
        self.of = saved[3] if of is None else of
        yield
        self.phase, self.branch, self.prefix, self.of = saved

    def tensor(self, shape: Shape, role: str, name: str = "", kind: str = "float", chain_axis: bool = True) -> int:
        """A tensor that no node writes: the sample, an input, a weight, a buffer, a constant."""
        self.tensors.append(Tensor(tuple(shape), role, name, kind, chain_axis))
        return len(self.tensors) - 1

    def shape(self, tensor: int) -> Shape:
        """The shape of a tensor, chain axis included."""
        return self.tensors[tensor].shape

    def emit_all(self, op: str, inputs: Sequence[int], name: str = "", **attributes: Any) -> tuple[int, ...]:
        """Emit one node and return the tensors it writes. Raises ShapeError when the shapes do not fit."""
        key = tuple(sorted(attributes.items()))
        tensors = self.tensors
        shapes = _shapes(op, tuple([tensors[i].shape for i in inputs]), key)
        first = len(tensors)
        operator = OPERATORS[op]
        chain = operator.most == 0 or any(tensors[i].chain_axis for i in inputs)
        full = self.prefix + (name or op)
        kinds = (operator.result,) * len(shapes) if isinstance(operator.result, str) else operator.result
        for shape, result in zip(shapes, kinds, strict=True):
            kind = tensors[inputs[0]].kind if result == "same" else result
            tensors.append(Tensor(shape, "activation", full, kind, chain))
        outputs = tuple(range(first, len(tensors)))
        index = len(self.nodes)
        for output in outputs:
            self.producer[output] = index
        self.nodes.append(Node(op, tuple(inputs), outputs, key, self.phase, self.branch, full, self.line, self.of))
        return outputs

    def emit(self, op: str, *inputs: int, name: str = "", **attributes: Any) -> int:
        """Emit one node and return the first tensor it writes."""
        return self.emit_all(op, inputs, name, **attributes)[0]

    def graph(self, results: Sequence[int] = ()) -> Graph:
        """What has been emitted so far, as a value."""
        return Graph(tuple(self.tensors), tuple(self.nodes), tuple(results))
