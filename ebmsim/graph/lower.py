"""From a graph to a kernel table: one row per launch, as arrays that the cost formulas work on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np

from ebmsim.graph.graph import Attributes, Graph, Node
from ebmsim.graph.kernels import BYTES, CATEGORIES, PHASES, Floats, Ints, KernelTable
from ebmsim.graph.operators.table import OPERATORS, WORK, Shape, Work, rule

# Elements of a single image up to which torch on a CPU leaves oneDNN out (aten/native/Convolution.cpp, use_mkldnn); so
# it does for windows of 1 × 1 on one thread and fewer than 16 images.
_SMALL_IMAGE = 20480


@lru_cache(maxsize=20_000)
def work_of(op: str, inputs: tuple[Shape, ...], outputs: tuple[Shape, ...], attributes: Attributes) -> Work:
    """The work of one kernel, computed once for equal shapes and attributes."""
    found: Work = WORK[op](inputs, outputs, dict(attributes))
    return found


def lower(graph: Graph, nodes: Sequence[Node], dtype: str, *, cyclic: bool = False) -> KernelTable:
    """The kernels of some nodes of a graph, in order; views become none.

    cyclic: the nodes are a loop body in its steady state, so a tensor that lives across turns was last touched in the
    turn before. Raises EbmsimError for an operator without a work rule.
    """
    return _Lowering(graph, nodes, dtype).table(cyclic)


def view_roots(graph: Graph) -> dict[int, int]:
    """For every tensor that is a view or written in place, the tensor whose memory it shows."""
    root: dict[int, int] = {}
    for node in graph.nodes:
        operator = OPERATORS[node.op]
        if operator.category == "view" or operator.in_place:
            root.update(dict.fromkeys(node.outputs, root.get(node.inputs[0], node.inputs[0])))
    return root


class _Lowering:
    def __init__(self, graph: Graph, nodes: Sequence[Node], dtype: str) -> None:
        self.graph = graph
        self.root = view_roots(graph)
        self.size = {"float": BYTES[dtype], "index": 8.0, "mask": 1.0}
        self.nodes = [node for node in nodes if OPERATORS[node.op].category != "view"]
        self.views = _views(nodes)

    def table(self, cyclic: bool) -> KernelTable:
        tensors, size = self.graph.tensors, self.size
        works: list[Work] = []
        read, read_weights, written, fresh = [], [], [], []
        # (kernel, tensor, bytes, is a write), in the order they happen.
        accesses: list[tuple[int, int, float, bool]] = []
        for index, node in enumerate(self.nodes):
            rule(WORK, "work", node.op, node.name, node.line)
            shapes = tuple([tensors[t].shape for t in node.inputs])
            outputs = tuple([tensors[t].shape for t in node.outputs])
            work = work_of(node.op, shapes, outputs, node.attributes)
            works.append(work)
            activations = weights = 0.0
            for position, t in enumerate(node.inputs):
                tensor = tensors[t]
                origin = self.root.get(t, t)
                count = min(tensor.elements, tensors[origin].elements)
                if work.read is not None:
                    count = min(count, work.read[position])
                amount = count * size[tensor.kind]
                if tensors[origin].role == "weight":
                    weights += amount
                else:
                    activations += amount
                accesses.append((index, origin, amount, False))
            out = new = 0.0
            for t in node.outputs:
                part = work.written if t == node.outputs[0] else None
                amount = (tensors[t].elements if part is None else part) * size[tensors[t].kind]
                out += amount
                new += amount if t not in self.root else 0.0
                accesses.append((index, self.root.get(t, t), amount, True))
            read.append(activations + weights)
            read_weights.append(weights)
            written.append(out)
            fresh.append(new)
        distance, cold = self._distances(accesses, cyclic)
        product = [w.product or (0, 0, 0, 0) for w in works]
        window = [w.window or (0, 0, 0, 0) for w in works]
        nodes = self.nodes
        return KernelTable(
            names=tuple([n.name for n in nodes]),
            ops=tuple([n.op for n in nodes]),
            views=_floats(self.views),
            kinds=tuple([self._kind(n, w) for n, w in zip(nodes, works, strict=True)]),
            lines=tuple([n.line for n in nodes]),
            branches=tuple([n.branch for n in nodes]),
            category=np.array([CATEGORIES.index(OPERATORS[n.op].category) for n in nodes], dtype=np.int64),
            phase=np.array([PHASES.index(n.phase) for n in nodes], dtype=np.int64),
            flops=_floats([w.flops for w in works]),
            special=_floats([w.special for w in works]),
            random=_floats([w.random for w in works]),
            product=_floats(product).reshape(-1, 4).T,
            product_flops=_floats([w.product_flops for w in works]),
            chained=_floats([w.chained for w in works]),
            window=_floats(window).reshape(-1, 4).T,
            seconds=_floats([w.seconds for w in works]),
            read=_floats(read),
            read_weights=_floats(read_weights),
            written=_floats(written),
            fresh=_floats(fresh),
            again=size["float"] * _floats([w.again[0] for w in works]),
            again_distance=size["float"] * _floats([w.again[1] for w in works]),
            access_kernel=np.array([a[0] for a in accesses], dtype=np.int64),
            access_bytes=_floats([a[2] for a in accesses]),
            access_weight=np.array([tensors[a[1]].role == "weight" for a in accesses], dtype=np.bool_),
            distance=distance,
            cold=cold,
            element_bytes=size["float"],
            weight_bytes=sum({a[1]: a[2] for a in accesses if tensors[a[1]].role == "weight"}.values()),
            live_bytes=self._live(accesses),
            awaited=self._awaited(),
        )

    def _kind(self, node: Node, work: Work) -> str:
        """Operator, or whose gradient; apart: modes, broadcasting, and what torch on a CPU convolves without oneDNN."""
        kind = f"{node.of} backward" if node.of else node.op
        mode = dict(node.attributes).get("mode")
        if mode:
            return f"{kind}, {mode}"
        if not work.window:
            return f"{kind}, broadcasting" if self._broadcasts(node) else kind
        if work.window[:2] == (1, 1):
            return f"{kind}, pointwise"
        image = self.graph.tensors[node.inputs[0]].shape
        return f"{kind}, one image" if image[0] == 1 and math.prod(image) <= _SMALL_IMAGE else kind

    def _broadcasts(self, node: Node) -> bool:
        """Whether an operator on two tensors repeats one of them."""
        if OPERATORS[node.op].most != 2 or OPERATORS[node.op].category != "elementwise":
            return False
        counts = [self.graph.tensors[t].elements for t in node.inputs]
        return min(counts) > 1 and min(counts) < max(counts)

    def _awaited(self) -> Ints:
        """Pairs (kernel, earlier kernel of another branch whose result it reads)."""
        writer: dict[int, int] = {}
        pairs: dict[tuple[int, int], None] = {}
        for index, node in enumerate(self.nodes):
            for t in node.inputs:
                source = writer.get(self.root.get(t, t), index)
                if self.nodes[source].branch != node.branch:
                    pairs[index, source] = None
            for t in node.outputs:
                writer[self.root.get(t, t)] = index
        return np.array(list(pairs), dtype=np.int64).reshape(-1, 2)

    def _distances(self, accesses: list[tuple[int, int, float, bool]], cyclic: bool) -> tuple[Floats, Floats]:
        """Bytes touched between two touches of a tensor; for a write, from it to its last read."""
        touched = 0.0
        before: dict[int, float] = {}
        first: dict[int, tuple[int, float]] = {}
        last: dict[int, float] = {}
        writes: list[tuple[int, int, float]] = []
        distance = [float("inf")] * len(accesses)
        for i, (_, tensor, amount, is_write) in enumerate(accesses):
            if is_write:
                writes.append((i, tensor, touched))
            elif tensor in before:
                distance[i] = touched - before[tensor] + amount
            else:
                first[tensor] = (i, touched)
            touched += amount
            before[tensor] = last[tensor] = touched
        for i, tensor, at in writes:
            distance[i] = last[tensor] - at
        cold = list(distance)
        if cyclic:
            for tensor, (i, at) in first.items():
                amount = accesses[i][2]
                distance[i] = touched - last[tensor] + at + amount
        return _rounded(distance), _rounded(cold)

    def _live(self, accesses: list[tuple[int, int, float, bool]]) -> float:
        """Peak bytes of activations alive at once: each from its first write to the last kernel that touches it."""
        end: dict[int, int] = {}
        first: dict[int, int] = {}
        for i, (kernel, tensor, _, is_write) in enumerate(accesses):
            end[tensor] = kernel
            if is_write:
                first.setdefault(tensor, i)
        change = [0.0] * (len(self.nodes) + 1)
        for i, (kernel, tensor, amount, _) in enumerate(accesses):
            if first.get(tensor) == i:
                change[kernel] += amount
                change[end[tensor] + 1] -= amount
        return max(accumulate(change))


def _views(nodes: Sequence[Node]) -> list[int]:
    """How many views belong to each kernel: those before it in its phase, and after the phase's last kernel."""
    counts: list[int] = []
    waiting, phase = 0, ""
    for node in nodes:
        if node.phase != phase and counts:
            counts[-1] += waiting
            waiting = 0
        phase = node.phase
        if OPERATORS[node.op].category == "view":
            waiting += 1
        else:
            counts.append(waiting)
            waiting = 0
    if counts:
        counts[-1] += waiting
    return counts


def _rounded(distances: Sequence[float]) -> Floats:
    """Distances rounded up to an eighth of an octave; inf stays."""
    with np.errstate(divide="ignore"):
        return np.asarray(2.0 ** (np.ceil(8.0 * np.log2(_floats(distances))) / 8.0), dtype=np.float64)


def _floats(values: Sequence[Any]) -> Floats:
    return np.array(values, dtype=np.float64)
