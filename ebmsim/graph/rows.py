"""The kernels of several passes without repetition: equal ones counted once, in the columns that formulas read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebmsim.graph.kernels import CATEGORIES, PHASES, Floats, Ints, KernelTable

Flags = npt.NDArray[np.bool_]
CONVOLUTION = CATEGORIES.index("convolution")
# What the cost of a kernel depends on of its phase: not backward, to the input, to the weights.
FORWARD, TO_INPUT, TO_WEIGHTS = 0, 1, 2
_BACK = np.array([{"backward-input": TO_INPUT, "backward-weight": TO_WEIGHTS}.get(p, FORWARD) for p in PHASES])
_COPIES = ("to_device", "to_host")


@dataclass(frozen=True)
class Products:
    """The different matrix products of some rows, along the last axis.

    shape: batch, m, n, k. window: kernel, stride, height and width written of a convolution, else 0. convolution,
    to_input: whether it is one, and whether it is of the backward pass to the input. chained: 1 where the first operand
    is made on the chip.
    """

    shape: Floats
    window: Floats
    convolution: Flags
    to_input: Flags
    chained: Floats
    element_bytes: float

    def __len__(self) -> int:
        return len(self.convolution)


@dataclass(frozen=True)
class Rows:
    """Distinct kernels, one entry each. back: FORWARD, TO_INPUT or TO_WEIGHTS. flops: those outside products.

    kind: which of `kinds` it is, that are told apart beside their figures; -1 for others. starts: 1 where a gradient
    begins. recorded: 1 where autograd records it, a gradient being to come. views: made before it. since: kernels that
    ran since the last one of its kind. moved, written: bytes; fresh: those of tensors it makes. again: bytes read a
    second time, again_distance touched in between. crosses: a copy over the host link. seconds: work on the host of a
    stated time. product: the entry of its product among `products`, -1 without one. The accesses of row i are those
    from access_start[i] on: bytes, which of `distances` the tensor was last touched at, and bytes of the weights it is
    one of (inf for others).
    """

    category: Ints
    back: Ints
    flops: Floats
    product_flops: Floats
    special: Floats
    random: Floats
    seconds: Floats
    kind: Ints
    kinds: tuple[str, ...]
    starts: Floats
    recorded: Floats
    views: Floats
    since: Floats
    moved: Floats
    written: Floats
    fresh: Floats
    again: Floats
    again_distance: Floats
    crosses: Flags
    product: Ints
    products: Products
    access_start: Ints
    access_bytes: Floats
    access_distance: Ints
    access_set: Floats
    distances: Floats
    element_bytes: float

    def __len__(self) -> int:
        return len(self.category)


def rows_of(passes: Sequence[tuple[KernelTable, bool]], kinds: Sequence[str] = ()) -> tuple[Rows, tuple[Ints, ...]]:
    """The distinct kernels of some passes (table, whether it is a first one), and the row of every launch of each.

    Equal: in every figure a cost formula reads, accesses included, and of the same kind among `kinds`. Without kinds,
    neither what is recorded, nor views and other kernels since are told apart (all are 0).
    """
    size = passes[0][0].element_bytes
    columns = np.concatenate([_columns(table, kinds) for table, _ in passes])
    parts = [_accesses(table, cold) for table, cold in passes]
    touched = np.concatenate([part for part, _ in parts])
    offsets = np.cumsum([0, *[len(part) for part, _ in parts]])
    starts = np.concatenate([start + offset for (_, start), offset in zip(parts, offsets, strict=False)])
    stops = np.append(starts[1:], len(touched)).tolist()
    seen: dict[bytes, int] = {}
    order = np.empty(len(columns), dtype=np.int64)
    first: list[int] = []
    keys, bounds = columns.tobytes(), touched.tobytes()
    wide, deep = columns.itemsize * columns.shape[1], touched.itemsize * touched.shape[1]
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        key = keys[i * wide : (i + 1) * wide] + bounds[start * deep : stop * deep]
        row = seen.setdefault(key, len(first))
        if row == len(first):
            first.append(i)
        order[i] = row
    counts = [len(table) for table, _ in passes]
    orders = np.split(order, np.cumsum(counts)[:-1])
    rows = _rows(columns[first], touched, starts, np.array(stops), np.array(first, dtype=np.int64), size, tuple(kinds))
    return rows, tuple(orders)


def counted(order: Ints, rows: int) -> Floats:
    """How often each row occurs among some launches."""
    return np.bincount(order, minlength=rows).astype(np.float64)


def _columns(table: KernelTable, kinds: Sequence[str]) -> Floats:
    """The figures of every kernel, one line each."""
    back = _BACK[table.phase]
    codes = {name: code for code, name in enumerate(kinds)}
    return np.stack(
        [
            table.category.astype(np.float64),
            back.astype(np.float64),
            table.flops - table.product_flops,
            table.product_flops,
            table.special,
            table.random,
            table.seconds,
            table.read + table.written,
            table.written,
            np.isin(table.ops, _COPIES).astype(np.float64),
            *table.product,
            *table.window,
            table.chained,
            table.again,
            table.again_distance,
            np.array([codes.get(kind, -1) for kind in table.kinds], dtype=np.float64),
            (back != FORWARD) & (np.concatenate([[FORWARD], back[:-1]]) == FORWARD),
            table.fresh,
            *((_recorded(table), table.views, _since(table)) if kinds else np.zeros((3, len(table)))),
        ],
        axis=1,
    )


def _recorded(table: KernelTable) -> Floats:
    """1 for kernels of the forward phase before the last backward one."""
    back = np.flatnonzero(_BACK[table.phase] != FORWARD)
    last = back[-1] if len(back) else -1
    forward: Floats = np.where(table.phase == PHASES.index("forward"), 1.0, 0.0)
    return forward * (np.arange(len(table)) < last)


def _since(table: KernelTable) -> Floats:
    """How many other kernels ran since the last one of the same kind, in a loop over the table."""
    count = len(table)
    last = {kind: i - count for i, kind in enumerate(table.kinds)}
    found = []
    for i, kind in enumerate(table.kinds):
        found.append(i - last[kind] - 1)
        last[kind] = i
    return np.array(found, dtype=np.float64)


def _accesses(table: KernelTable, cold: bool) -> tuple[Floats, Ints]:
    """Bytes, distance and weight set of every access, and where those of each kernel start.

    A kernel that touches nothing gets an access of 0 bytes, so that every kernel has one.
    """
    distance = table.cold if cold else table.distance
    held = np.where(table.access_weight, table.weight_bytes, np.inf)
    lines = np.stack([table.access_bytes, distance, held], axis=1)
    starts = np.searchsorted(table.access_kernel, np.arange(len(table) + 1))
    empty = np.flatnonzero(np.diff(starts) == 0)
    if len(empty):
        lines = np.insert(lines, starts[empty], [0.0, np.inf, np.inf], axis=0)
        starts = starts + np.searchsorted(empty, np.arange(len(table) + 1))
    return lines, starts[:-1]


def _rows(
    columns: Floats, touched: Floats, starts: Ints, stops: Ints, first: Ints, size: float, kinds: tuple[str, ...]
) -> Rows:
    lengths = (stops - starts)[first]
    begins = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    lines = touched[np.repeat(starts[first] - begins, lengths) + np.arange(int(lengths.sum()))]
    distances, which = np.unique(lines[:, 1], return_inverse=True)
    category, back = columns[:, 0].astype(np.int64), columns[:, 1].astype(np.int64)
    shape, window, chained = columns[:, 10:14], columns[:, 14:18], columns[:, 18]
    is_product = shape[:, 3] > 0
    alike = np.column_stack([category == CONVOLUTION, back == TO_INPUT, shape, window, chained])[is_product]
    product = np.full(len(columns), -1, dtype=np.int64)
    different, place = np.unique(alike, axis=0, return_inverse=True)
    product[is_product] = place.reshape(-1)
    products = Products(
        shape=np.ascontiguousarray(different[:, 2:6].T),
        window=np.ascontiguousarray(different[:, 6:10].T),
        convolution=different[:, 0] > 0,
        to_input=different[:, 1] > 0,
        chained=different[:, 10],
        element_bytes=size,
    )
    figures: Any = np.ascontiguousarray(columns.T)
    return Rows(
        category=category,
        back=back,
        flops=figures[2],
        product_flops=figures[3],
        special=figures[4],
        random=figures[5],
        seconds=figures[6],
        kind=figures[21].astype(np.int64),
        kinds=kinds,
        starts=figures[22],
        fresh=figures[23],
        recorded=figures[24],
        views=figures[25],
        since=figures[26],
        moved=figures[7],
        written=figures[8],
        again=figures[19],
        again_distance=figures[20],
        crosses=figures[9] > 0,
        product=product,
        products=products,
        access_start=begins,
        access_bytes=np.ascontiguousarray(lines[:, 0]),
        access_distance=which.reshape(-1),
        access_set=np.ascontiguousarray(lines[:, 2]),
        distances=distances,
        element_bytes=size,
    )
