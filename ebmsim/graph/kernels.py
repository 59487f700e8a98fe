"""Kernels as arrays: one entry per launch, in the columns that cost formulas are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BYTES = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "fp4": 0.5,
    "int4": 0.5,
}
CATEGORIES = ("matmul", "convolution", "elementwise", "transformation", "movement", "rng", "host")
PHASES = ("forward", "backward-input", "rng", "update", "accept", "host", "once", "backward-weight")


@dataclass(frozen=True)
class KernelTable:
    """Kernels in launch order. All arrays have one entry per kernel, accesses one entry per tensor touched.

    kinds: the operator, or `X backward` of a kernel that belongs to the gradient of an operator X (lower.py tells more
    apart). views: operators that only make views, before it in its phase, or after the phase's last kernel. flops,
    special, random: operations. product: batch, m, n, k (k = 0 without a product). chained: 1 where its first operand
    is made on the chip. window: kernel, stride, height, width of a convolution (0 for others). bytes in B; fresh: those
    written to tensors that the kernel makes; again: those read a second time, again_distance touched in between. An
    access is a read, or a write of what is read later: `distance` is the bytes touched since the tensor was last
    touched (reads) or until it is last read (writes), inf where it was not touched before; `cold` the same in a first
    step. Distances are kept to an eighth of an octave, rounded up, so that alike kernels become equal. awaited: pairs
    of a kernel and an earlier one of another branch whose result it reads.
    """

    names: tuple[str, ...]
    ops: tuple[str, ...]
    kinds: tuple[str, ...]
    lines: tuple[int, ...]
    branches: tuple[str, ...]
    category: Ints
    phase: Ints
    views: Floats
    flops: Floats
    special: Floats
    random: Floats
    product: Floats
    product_flops: Floats
    chained: Floats
    window: Floats
    seconds: Floats
    read: Floats
    read_weights: Floats
    written: Floats
    fresh: Floats
    again: Floats
    again_distance: Floats
    access_kernel: Ints
    access_bytes: Floats
    access_weight: npt.NDArray[np.bool_]
    distance: Floats
    cold: Floats
    element_bytes: float
    weight_bytes: float
    live_bytes: float
    awaited: Ints

    def __len__(self) -> int:
        return len(self.names)
