"""Seconds of products on the devices of a sweep: ways that are the best on none left out, the others tabulated."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.machine import Machine
from ebmsim.cost.products import gap, way_seconds
from ebmsim.cost.ways import Ways
from ebmsim.graph.kernels import Ints
from ebmsim.graph.rows import Products
from ebmsim.policy import Policy, Profile
from ebmsim.sweep.engine.points import arrays, changed, largest, smallest

# Counts of units that are looked at one by one; more are looked at in so many ranges.
_RANGES = 16
# Counts of units for which tables are made.
_TABLES = 512
# Figures that a way depends on, by the axis of the corners that are looked at.
_AXIS = {"units": 0, "clock": 1, "levels": 2, "launch": 3}
# Further ones.
_OTHERS = ("matrix", "multicast", "features", "subarrays")
_PER_WAY = tuple(name for name in Ways._fields if name not in ("names", "algorithms", "start"))


class Slots(NamedTuple):
    """Ways of some products: the first one of each, then the second ones of those that have two, and so on.

    which: among the ways they are taken from. counts: how many products have a first way, a second way, …
    """

    which: Ints
    counts: tuple[int, ...]

    def least(self, seconds: Any) -> Any:
        """Seconds of the best way of every product, in place of those of all ways (along the first axis)."""
        best, start = seconds[: self.counts[0]], self.counts[0]
        for count in self.counts[1:]:
            np.minimum(best[:count], seconds[start : start + count], out=best[:count])
            start += count
        return best


class Table(NamedTuple):
    """Seconds of ways that are linear in 1 / clock, 1 / bandwidth and the gap between kernels, by count of units.

    terms: at the fast end of all three, and what the slow end of each that varies adds (units × ways × terms). ends:
    the fast and the slow end of each.
    """

    units: Any
    terms: Any
    ends: tuple[tuple[float, float], ...]

    def seconds(self, machine: Machine, policy: Policy) -> Any:
        """Seconds of all ways (ways × points), points along one axis and those of equal units side by side."""
        values = zip(_linear(machine, policy), self.ends, strict=True)
        shares = [np.ravel((value - fast) / (slow - fast)) for value, (fast, slow) in values if slow > fast]
        units = np.ravel(machine.units)
        starts = np.flatnonzero(np.append(True, units[1:] != units[:-1]))
        points = max(len(units), *map(len, shares), 1)
        factors = np.stack([np.ones(points), *[np.broadcast_to(share, points) for share in shares]])
        found = np.empty((self.terms.shape[1], points))
        for i, start, stop in zip(
            np.searchsorted(self.units, units[starts]), starts, [*starts[1:], points], strict=True
        ):
            np.matmul(self.terms[i], factors[:, start:stop], out=found[:, start:stop])
        return found


class Candidates(NamedTuple):
    """Ways that may be the best on some devices, by product. formula, tabled: those of different products.

    place: of every product among the best of `tabled`, then `formula`.
    """

    ways: Ways
    tabled: Slots
    table: Table | None
    formula: Slots
    place: Ints

    def seconds(self, products: Products, machine: Machine, profile: Profile, policy: Policy) -> Any:
        """Seconds of every product, along the first axis in the order of `place`."""
        found = []
        if self.table is not None:
            found.append(self.tabled.least(self.table.seconds(machine, policy)))
        if self.formula.counts:
            seconds = way_seconds(products, _some(self.ways, self.formula.which), machine, profile, policy)
            found.append(self.formula.least(np.ascontiguousarray(np.moveaxis(seconds, -1, 0))))
        return found[0] if len(found) == 1 else np.concatenate(found)


def candidates(products: Products, ways: Ways, machine: Machine, profile: Profile, policy: Policy) -> Candidates:
    """The ways of products that may be the best somewhere on the devices of a sweep.

    Time is convex in 1 / clock, 1 / bandwidth and the gap between kernels, and grows with one over every other figure.
    So a way v is nowhere faster than a way w if, at all corners of these three, w on the slowest device takes at most
    the part of v that is linear in them (all but what waits for operands) on the fastest. Counts of units are looked at
    one by one, or in ranges.
    """
    how = (profile, policy)
    slow, fast = (_at_corners(products, ways, machine, *how, end, _RANGES) for end in (True, False))
    return _arranged(_some(ways, np.flatnonzero(_may_be_best(ways, slow, fast))), None)


def tabled(found: Candidates, products: Products, machine: Machine, profile: Profile, policy: Policy) -> Candidates:
    """Those that may be the best on some of the devices, tabulated where their time is linear for all counts of units.

    That is where operands are waited for at all corners or at none: of two times that are linear, one is then the
    larger everywhere between.
    """
    units = np.unique(machine.units)
    if len(units) > _TABLES or any(path.startswith(_OTHERS) for path, _ in arrays(machine)):
        return found
    how = (profile, policy)
    whole, plain = (_at_corners(products, found.ways, machine, *how, end, len(units)) for end in (True, False))
    which = np.flatnonzero(_may_be_best(found.ways, whole, plain))
    whole, plain = whole[..., which], plain[..., which]
    waits = (whole != plain).reshape(len(units), -1, len(which))
    linear = (waits.all(1) | ~waits.any(1)).all(0)
    slowest, fastest = (_linear(end(machine), policy) for end in (smallest, largest))
    ends = ((fastest[0], slowest[0]), (fastest[1], slowest[1]), (slowest[2], fastest[2]))
    base = whole[:, -1, -1, 0]
    slow = (whole[:, 0, -1, 0], whole[:, -1, 0, 0], whole[:, -1, -1, -1])
    terms = [base, *[at - base for at, (least, most) in zip(slow, ends, strict=True) if most > least]]
    return _arranged(_some(found.ways, which), linear, Table(units, np.stack(terms, axis=-1), ends))


def _linear(machine: Machine, policy: Policy) -> tuple[Any, Any, Any]:
    shared = machine.levels[-2:][0]
    return 1.0 / machine.clock, 1.0 / (shared.bandwidth * shared.efficiency), gap(machine, policy)


def _some(ways: Ways, which: Any) -> Ways:
    per_way = {name: getattr(ways, name)[which] for name in _PER_WAY}
    return ways._replace(**per_way, start=np.searchsorted(per_way["product"], np.arange(len(ways.start))))


def _arranged(ways: Ways, linear: Any, table: Table | None = None) -> Candidates:
    """Ways by product as candidates; tabled are products of which all ways are linear."""
    count = len(ways.start)
    number = np.bincount(ways.product, minlength=count)
    straight = np.zeros(count, dtype=np.bool_)
    if table is not None:
        straight = np.bincount(ways.product, linear, count) == number
    order = np.lexsort((-number, ~straight))
    place = np.empty(count, dtype=np.int64)
    place[order] = np.arange(count)
    slot = np.arange(len(ways.product)) - ways.start[ways.product]
    slots = []
    for wanted in (True, False):
        mine = np.flatnonzero(straight[ways.product] == wanted)
        which = mine[np.lexsort((place[ways.product[mine]], slot[mine]))]
        slots.append(Slots(which, tuple(np.bincount(slot[mine]).tolist())))
    if table is not None:
        which = slots[0].which
        table = table._replace(terms=np.ascontiguousarray(table.terms[:, which])) if len(which) else None
    return Candidates(ways, slots[0], table, slots[1], place)


def _may_be_best(ways: Ways, slow: Any, fast: Any) -> Any:
    """Ways that, for some count of units, no winner of a corner beats at all corners (units × corners … × ways)."""
    kept = np.zeros(len(ways.product), dtype=np.bool_)
    for slowest, fastest in zip(
        slow.reshape(len(slow), -1, len(kept)), fast.reshape(len(fast), -1, len(kept)), strict=True
    ):
        best = np.minimum.reduceat(slowest, ways.start, axis=1)[:, ways.product]
        wins, beaten = np.zeros((2, len(kept)), dtype=np.bool_)
        for corner in range(len(slowest)):
            winners = np.flatnonzero(slowest[corner] == best[corner])
            winner = np.empty(len(ways.start), dtype=np.int64)
            winner[ways.product[winners[::-1]]] = winners[::-1]
            wins[winner] = True
            beaten |= (slowest[:, winner][:, ways.product] <= fastest).all(0)
        kept |= wins | ~beaten
    return kept


def _at_corners(
    products: Products, ways: Ways, machine: Machine, profile: Profile, policy: Policy, slow: bool, ranges: int
) -> Any:
    """Seconds of ways: units × the ends of clock, of bandwidths and of gaps × ways; other figures at one end.

    Fast: without what waits for operands.
    """

    def end(path: str, values: Any) -> Any:
        axis = _AXIS.get(path.partition(".")[0])
        if axis is None:
            return float(values.min() if slow else values.max())
        if axis:
            ends = np.array([values.min(), values.max()])
        else:
            parts = np.array_split(np.unique(values), min(len(np.unique(values)), ranges))
            ends = np.array([part.min() if slow else part.max() for part in parts])
        return ends.reshape([-1 if i == axis else 1 for i in range(len(_AXIS) + 1)])

    if not slow:
        ways = ways._replace(operands=np.zeros(len(ways.operands)))
    seconds = way_seconds(products, ways, changed(machine, end), profile, policy)
    return seconds.reshape(*[1] * (len(_AXIS) + 1 - seconds.ndim), *seconds.shape)
