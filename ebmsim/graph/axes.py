"""Inputs made to fit an operator by views: the chain axis given to what lacks it, further axes taken into the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ebmsim.graph.graph import Builder


def shared(b: Builder, inputs: Sequence[int]) -> list[int]:
    """Tensors to be joined, of which some have the chain axis: every chain sees those that lack it."""
    rows = next(b.shape(t)[0] for t in inputs if b.tensors[t].chain_axis)
    found = []
    for t in inputs:
        if not b.tensors[t].chain_axis:
            t = b.emit("expand", t, shape=(rows, *b.shape(t)))
            b.tensors[t] = b.tensors[t]._replace(chain_axis=True)
        found.append(t)
    return found


def batched(b: Builder, inputs: Sequence[int], axes: int) -> tuple[list[int], tuple[int, ...]]:
    """Images whose own axes are the last ones, as one batch, and the axes before them where these are several."""
    shape = b.shape(inputs[0])
    lead = shape[:-axes]
    if len(lead) < 2:
        return list(inputs), ()
    flat = b.emit("reshape", inputs[0], shape=(math.prod(lead), *shape[-axes:]))
    return [flat, *inputs[1:]], lead
