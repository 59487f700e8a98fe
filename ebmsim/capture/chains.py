"""The chain axis of torch tensors: found by two calls with different numbers of chains, followed through views.

A tensor of a workload file has no chain axis, or has it in front of everything. In torch it may stand anywhere, alone
or folded together with rows (view(C · r, d)). A layout says where, so that a value's own shape, without chains, keeps
all other axes in their order, those folded before or after the chains as axes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Shape = tuple[int, ...]
# A node by number, a part of a split node, or an input by name.
Source = int | tuple[int, int] | str


class Refused(Exception):  # noqa: N818  (a reason, collected and reported)
    """Why a call cannot be written as operators; the text follows the name of its target."""


class Layout(NamedTuple):
    """Where torch has the chain axis: axis `at` of `rank`, which holds before × C × after elements."""

    rank: int
    at: int
    before: int = 1
    after: int = 1

    @property
    def folded(self) -> int:
        """How many axes of the value's own shape are folded into the axis of the chains."""
        return (self.before > 1) + (self.after > 1)


class Value(NamedTuple):
    """A tensor: where it comes from and its shape without chains.

    layout: None where torch's tensor has no chain axis. own: whether every chain has its own; False with a layout where
    torch repeats one for all chains. kind: float | index | mask.
    """

    source: Source
    shape: Shape
    layout: Layout | None = None
    own: bool = False
    kind: str = "float"

    @property
    def rank(self) -> int:
        """Number of torch's axes."""
        return self.layout.rank if self.layout else len(self.shape)


def groups(value: Value) -> list[tuple[int, ...]]:
    """For each of torch's axes the axes of the value's own shape that it holds."""
    layout = value.layout
    found: list[tuple[int, ...]] = []
    own = 0
    for axis in range(value.rank):
        count = layout.folded if layout and axis == layout.at else 1
        found.append(tuple(range(own, own + count)))
        own += count
    return found


def own_axis(value: Value, axis: int) -> int:
    """The axis of the value's own shape that is torch's `axis`. Raises Refused where that is the chains'."""
    axis %= max(1, value.rank)
    if value.layout and axis == value.layout.at:
        raise Refused("works across the chains")
    return groups(value)[axis][0]


def chain_axis(shape: Shape, other: Shape, chains: int) -> tuple[int, int] | None:
    """The axis that grows with the chains, and how many elements each has on it; shapes with C and with C + 1 chains.

    None where no axis does. Raises Refused where several do, or not in proportion.
    """
    if len(shape) != len(other):
        raise Refused("has as many axes as the number of chains says")
    differing = [i for i, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
    if not differing:
        return None
    if len(differing) > 1:
        raise Refused(f"relates chains to each other: its result {list(shape)} has them on several axes")
    axis = differing[0]
    each = other[axis] - shape[axis]
    if shape[axis] != each * chains:
        raise Refused("joins chains with something else on one axis")
    return axis, each


def without(shape: Shape, layout: Layout | None) -> Shape:
    """The shape without chains of a torch shape whose chain axis is at the layout's place."""
    if layout is None:
        return shape
    folded = [n for n in (layout.before, layout.after) if n > 1]
    return (*shape[: layout.at], *folded, *shape[layout.at + 1 :])


def viewed(value: Value, shape: Shape, found: tuple[int, int] | None) -> tuple[Shape, Layout | None]:
    """Own shape and layout after a view in the order of memory. Raises Refused where chains and rows get mixed."""
    if value.layout is None:
        if found is not None:
            raise Refused("makes chains of other axes")
        return shape, None
    if found is None:
        raise Refused("hides the chains among other axes")
    axis, each = found
    cut = [g for i, g in enumerate(groups(value)) if i < value.layout.at]
    ahead = math.prod(value.shape[i] for g in cut for i in g) * value.layout.before
    before, rest = divmod(ahead, math.prod(shape[:axis]))
    if rest or before == 0 or each % before:
        raise Refused("mixes chains with other axes")
    layout = Layout(len(shape), axis, before, each // before)
    return without(shape, layout), layout


def permuted(value: Value, order: Sequence[int]) -> tuple[tuple[int, ...], Layout | None]:
    """The order of the value's own axes, and the layout, when torch's axes are put into another order."""
    order = [axis % len(order) for axis in order]
    parts = groups(value)
    layout = value.layout._replace(at=order.index(value.layout.at)) if value.layout else None
    return tuple(i for axis in order for i in parts[axis]), layout


def aligned(value: Value, rank: int, over: Layout | None) -> Shape:
    """The value's own shape as it broadcasts, from the right, to a result of so many axes with the layout `over`.

    Raises Refused where its chains meet another axis.
    """
    if over is None:
        return value.shape
    missing = rank - value.rank
    if value.layout is not None:
        mine = value.layout
        if (mine.at + missing, mine.before, mine.after) != (over.at, over.before, over.after):
            raise Refused("lets chains meet other axes, or rows folded into them differently")
        return (1,) * missing + value.shape
    shape: list[int] = []
    for axis, size in enumerate(value.shape, missing):
        if axis != over.at:
            shape.append(size)
        elif size == 1:
            shape += [1] * over.folded
        else:
            raise Refused(f"lets chains meet an axis of {size}")
    return tuple(shape)
