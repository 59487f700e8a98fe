"""What some devices of a sweep have in common: kernels merged, ways left out, the columns that passes are made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ebmsim.cost.compute import beside_products, bound_seconds
from ebmsim.cost.kernels import issue_seconds, kernel_costs, link_seconds, page_seconds, takes_no_time
from ebmsim.cost.machine import Machine
from ebmsim.cost.products import launch_seconds, product_seconds
from ebmsim.cost.traffic import Traffic, traffic
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.graph.rows import Flags, Rows
from ebmsim.lowered import Lowered, Pass
from ebmsim.policy import Policy, Profile
from ebmsim.sweep.engine.launches import Plan, flat, plan_of
from ebmsim.sweep.engine.points import ends
from ebmsim.sweep.engine.rows import (
    KNEED,
    OTHER,
    STREAMING,
    Merged,
    Relevant,
    chosen,
    merged,
    parts_of,
    stacked,
    summed,
)
from ebmsim.sweep.engine.ways import Candidates, candidates, tabled

# Seconds of a kernel of which nothing is known.
_LONG = 1e6


@dataclass(frozen=True)
class Prepared:
    """A workload with what no device changes. passes: the distinct ones. counts: launches of every row by pass."""

    lowered: Lowered
    profile: Profile
    policy: Policy
    passes: tuple[Pass, ...]
    counts: Floats


@dataclass(frozen=True)
class Work:
    """The kernels of all passes, as far as some devices tell them apart.

    rows: merged ones, `part` and `vector` as in Merged. entries: sums as column, row and weight of every entry. plan:
    the columns. launched, pages: kernels that take a fixed time, and seconds of their pages, by column. moving: rows
    that move at every level what passes do, moves: the weights of each by pass. ways: None but for tiles.
    """

    prepared: Prepared
    rows: Rows
    part: Ints
    vector: Flags
    entries: tuple[Ints, Ints, Floats]
    plan: Plan
    launched: Floats
    pages: Floats
    moving: Rows
    moves: Floats
    ways: Candidates | None

    @property
    def bound(self) -> bool:
        """Whether the estimates are bounds (fidelity roofline)."""
        return self.prepared.policy.fidelity == "roofline"

    def arithmetic(self, rows: Rows, machine: Machine) -> Any:
        """Seconds of arithmetic of some rows (… × rows): outside of products, or all of it at fidelity roofline."""
        p = self.prepared
        if p.policy.fidelity == "roofline":
            return bound_seconds(rows, machine, p.profile, p.policy)
        return beside_products(rows, None, machine, p.profile, p.policy)

    def products(self, machine: Machine, ways: Candidates | None) -> tuple[Any, Any]:
        """Seconds of all products by the best of some ways, along the first axis, and the place of each there."""
        p = self.prepared
        products = self.rows.products
        if not len(products) or p.policy.fidelity == "roofline":
            return np.zeros((0, 1)), np.zeros(0, dtype=np.int64)
        if ways is not None:
            return ways.seconds(products, machine, p.profile, p.policy), ways.place
        seconds = product_seconds(products, p.lowered.ways, machine, p.profile, p.policy)
        return np.ascontiguousarray(np.moveaxis(seconds, -1, 0)), np.arange(len(products))

    def candidates(self, machine: Machine) -> Candidates | None:
        """The ways for some of the devices."""
        p = self.prepared
        if self.ways is None:
            return None
        return tabled(self.ways, self.rows.products, machine, p.profile, p.policy)

    def traffic(self, rows: Rows, machine: Machine) -> Traffic:
        """Bytes of some rows at every level."""
        p = self.prepared
        return traffic(rows, machine, p.profile, bound=p.policy.fidelity == "roofline")

    def other(self, rows: Rows, machine: Machine) -> Any:
        """Seconds of rows of the part OTHER: those of the host link, or none on the device."""
        return np.where(takes_no_time(rows, machine), 0.0, link_seconds(rows, machine, self.prepared.policy))

    def fixed(self, machine: Machine) -> Any:
        """Fixed seconds of a kernel but for its pages."""
        p = self.prepared
        return 0.0 if p.policy.fidelity == "roofline" else flat(launch_seconds(machine, p.profile, p.policy))

    def narrowed(self, machine: Machine) -> Work:
        """The same for fewer devices, on which more kernels may be alike."""
        p = self.prepared
        fewer = merged(self.rows, _relevant(self, machine), machine, p.profile, p.policy)
        everything = Relevant(*np.ones((3, len(self.moving)), dtype=np.bool_))
        moving = merged(self.moving, everything, machine, p.profile, p.policy)
        moves = [_summed(moving.group, column * moving.scale, len(moving.rows)) for column in self.moves.T]
        return replace(
            self,
            rows=fewer.rows,
            part=fewer.part,
            vector=fewer.vector,
            entries=_moved(self, fewer),
            moving=moving.rows,
            moves=np.stack(moves, axis=1),
        )


def _moved(work: Work, found: Merged) -> tuple[Ints, Ints, Floats]:
    """Entries for merged rows, those of the same column and row added up."""
    column, row, weight = work.entries
    key, place = np.unique(column * len(found.rows) + found.group[row], return_inverse=True)
    return key // len(found.rows), key % len(found.rows), _summed(place, weight * found.scale[row], len(key))


def _summed(place: Any, values: Any, count: int) -> Any:
    """Values summed up by place, in 0 … count - 1."""
    return np.bincount(place.reshape(-1), values, count)


def prepare(lowered: Lowered, profile: Profile, policy: Policy) -> Prepared:
    """What a sweep needs of a workload, made once for all of its devices."""
    passes = [lowered.step, lowered.first, lowered.one_chain, *lowered.once]
    if lowered.iteration is not None and lowered.training_step is not None:
        passes += [lowered.iteration, lowered.training_step]
    distinct = tuple({id(pass_): pass_ for pass_ in passes}.values())
    return Prepared(lowered, profile, policy, distinct, np.stack([pass_.counts for pass_ in distinct], axis=1))


def work_of(prepared: Prepared, machine: Machine) -> Work:
    """The kernels of a workload for the devices of a sweep."""
    rows, profile, policy = prepared.lowered.rows, prepared.profile, prepared.policy
    issue = issue_seconds(rows, machine, profile, policy)
    low, high = _bounds(prepared, machine)
    plan = plan_of(prepared.passes, machine.host.asynchronous, rows.seconds, issue, machine.host.speed, low, high)
    # Rows of the host link and of the host take no fixed time.
    part = parts_of(rows, machine, policy)
    fixed = (part != OTHER).astype(np.float64)
    bound = policy.fidelity == "roofline"
    pages = fixed * (0.0 if bound else page_seconds(rows, profile))
    lengths = [len(order) for order in plan.launches]
    column, row = np.repeat(np.arange(len(lengths)), lengths), np.concatenate(plan.launches)
    ways = None
    if machine.organisation != "systolic" and len(rows.products) and not bound:
        ways = candidates(rows.products, prepared.lowered.ways, machine, profile, policy)
    moving, moves = _moving(rows, prepared, machine)
    work = Work(
        prepared=prepared,
        rows=rows,
        part=part,
        vector=np.ones(len(rows), dtype=np.bool_),
        entries=(column, row, np.ones(len(row))),
        plan=plan,
        launched=_summed(column, fixed[row], len(lengths)),
        pages=_summed(column, pages[row], len(lengths)),
        moving=moving,
        moves=moves,
        ways=ways,
    )
    return work.narrowed(machine)


def _moving(rows: Rows, prepared: Prepared, machine: Machine) -> tuple[Rows, Floats]:
    """Rows that move what passes do, and their weights: one of each pass, one of every product that is read again."""
    policy, profile = prepared.policy, prepared.profile
    whole = summed(rows, prepared.counts, policy)
    moves = np.eye(prepared.counts.shape[1])
    if policy.fidelity == "roofline" or not len(rows.products):
        return whole, moves
    mine = np.flatnonzero(rows.product >= 0)
    first = mine[np.unique(rows.product[mine], return_index=True)[1]]
    none = np.zeros(len(rows))
    bare = chosen(replace(rows, moved=none, again=none, access_bytes=np.zeros(len(rows.access_bytes))), first)
    found = ends(machine)
    slow = found[1] if found else machine
    again = np.any(
        [np.any(b > 0, axis=tuple(range(np.ndim(b) - 1))) for b in traffic(bare, slow, profile, bound=False).bytes],
        axis=0,
    )
    which = np.flatnonzero(again)
    if not len(which):
        return whole, moves
    often = np.stack([np.bincount(rows.product[mine], c[mine], len(first)) for c in prepared.counts.T], axis=1)
    return stacked(whole, chosen(bare, which)), np.concatenate([moves, often[which]])


def _bounds(prepared: Prepared, machine: Machine) -> tuple[Any, Any]:
    """The least and the most seconds of every original row on the device."""
    p, found = prepared, ends(machine)
    if found is None:
        return np.zeros(len(p.lowered.rows)), np.full(len(p.lowered.rows), _LONG)
    fast, slow = (kernel_costs(p.lowered.rows, p.lowered.ways, end, p.profile, p.policy) for end in found)
    return fast.seconds(p.profile.knee), slow.seconds(p.profile.knee)


def _relevant(work: Work, machine: Machine) -> Relevant:
    """What the time of rows can depend on: not what takes less on the slowest device than another on the fastest.

    Arithmetic outside products is beside that of products, or beside memory where there are none.
    """
    rows = work.rows
    found = ends(machine)
    everything = np.ones(len(rows), dtype=np.bool_)
    if found is None:
        return Relevant(work.vector, everything, everything)
    streams = work.part == STREAMING
    low, high = (work.arithmetic(rows, end) for end in found)
    fast, slow = (np.stack(work.traffic(rows, end).seconds) for end in found)
    alone = np.where(streams, low, 0.0)
    none = np.zeros(len(rows))
    further_low, further_high = fast[1:].max(0, initial=0.0), slow[1:].max(0, initial=0.0)
    first = slow[0] > np.maximum(further_low, alone)
    further = (further_high > alone) & ~(first & (further_high <= fast[0]))
    other = np.where(streams, np.maximum(np.where(first, fast[0], none), np.where(further, further_low, none)), none)
    kneed = work.part == KNEED
    if kneed.any():
        seconds, place = work.products(found[0], work.ways)
        other = np.where(kneed, seconds.reshape(len(seconds), -1)[:, 0][place][rows.product], other)
    vector = work.vector & (high > other)
    if work.prepared.profile.element_cycles:
        # Cycles of a kernel's code are counted by its bytes.
        first, further = first | vector, further | vector
    return Relevant(vector, first, further)
