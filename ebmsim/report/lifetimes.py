"""The tensors of a step: how long each is held, and which kernels wait for one another because of them."""

from __future__ import annotations

from typing import NamedTuple

from ebmsim.graph.kernels import BYTES
from ebmsim.graph.lower import work_of
from ebmsim.placement import Turn


class Life(NamedTuple):
    """A tensor that a step writes: its bytes, and the kernels that touch it from the one that writes it first."""

    bytes: float
    kernels: tuple[int, ...]


class Waits(NamedTuple):
    """Earlier kernels that one waits for. data: they wrote what it reads. control: they read what it writes over."""

    data: tuple[int, ...]
    control: tuple[int, ...]


def element_bytes(turn: Turn) -> dict[str, float]:
    """Bytes of an element by kind of tensor."""
    return {"float": BYTES[turn.dtype], "index": 8.0, "mask": 1.0}


def lifetimes(turn: Turn) -> list[Life]:
    """Every tensor that one turn writes; views are part of the tensor they show.

    Bytes are those of the first write, as the table of kernels counts them.
    """
    sizes, tensors = element_bytes(turn), turn.graph.tensors
    size: dict[int, float] = {}
    touched: dict[int, list[int]] = {}
    for k, node in enumerate(turn.kernels):
        for t in node.inputs:
            if turn.root.get(t, t) in touched:
                touched[turn.root.get(t, t)].append(k)
        shapes = [tuple([tensors[t].shape for t in given]) for given in (node.inputs, node.outputs)]
        first = work_of(node.op, *shapes, node.attributes).written
        for t in node.outputs:
            count = first if t == node.outputs[0] and first is not None else tensors[t].elements
            size.setdefault(turn.root.get(t, t), count * sizes[tensors[t].kind])
            touched.setdefault(turn.root.get(t, t), []).append(k)
    return [Life(size[t], tuple(kernels)) for t, kernels in touched.items()]


def waits(turn: Turn) -> list[Waits]:
    """What every kernel of one turn waits for; nothing of the turn before."""
    writer: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    found = []
    for k, node in enumerate(turn.kernels):
        read = [turn.root.get(t, t) for t in node.inputs]
        written = [turn.root.get(t, t) for t in node.outputs]
        data = {writer[t] for t in read if t in writer}
        control = {reader for t in written for reader in readers.pop(t, ())} - data
        found.append(Waits(tuple(sorted(data)), tuple(sorted(control))))
        for t in read:
            readers.setdefault(t, []).append(k)
        for t in written:
            writer[t] = k
            readers.pop(t, None)
    return found
