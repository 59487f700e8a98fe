"""Kernels that differ by a factor alone on every device of a sweep, made one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from ebmsim.cost.compute import loop_cycles
from ebmsim.cost.kernels import takes_no_time
from ebmsim.cost.machine import Machine
from ebmsim.cost.traffic import held, kinds
from ebmsim.graph.kernels import Floats, Ints
from ebmsim.graph.rows import Flags, Rows
from ebmsim.policy import Policy, Profile
from ebmsim.sweep.engine.points import largest, smallest

# What the time of a kernel is made of: a knee of arithmetic and memory, the larger of both, something else.
KNEED, STREAMING, OTHER = 0, 1, 2
_ACCESSES = ("access_start", "access_bytes", "access_distance", "access_set", "distances")
# Bits of 52 that rounding may change, and what is left of a difference then.
_ROUNDED, _EQUAL = 12, 1e-13
_IRRATIONAL = (5**0.5 - 1) / 2


class Relevant(NamedTuple):
    """What the time of every row can depend on: arithmetic outside products, bytes at the first level, at others."""

    vector: Flags
    first: Flags
    further: Flags


class Merged(NamedTuple):
    """Rows of which each stands for several: those of one part after those of another.

    part: KNEED, STREAMING or OTHER. vector: whether arithmetic outside products matters. group: the row that stands for
    every original one. scale: seconds of the original over those of that row; fixed times are not scaled.
    """

    rows: Rows
    part: Ints
    vector: Flags
    group: Ints
    scale: Floats


def merged(rows: Rows, relevant: Relevant, machine: Machine, profile: Profile, policy: Policy) -> Merged:
    """The rows that are left of some on the devices of a sweep.

    Rows are merged where all relevant figures, in which arithmetic and traffic are linear, are proportional; products
    only where they are equal. What a level holds of an access at the smallest and at the largest capacity alike it
    holds in between: accesses count by what is held of them there, and by their distance only where that differs.
    """
    part = parts_of(rows, machine, policy)
    classes = _classed(rows, relevant.further, machine, profile, policy)
    vector = [rows.flops, rows.special, rows.random, loop_cycles(rows, profile) + np.zeros(len(rows))]
    if policy.fidelity == "roofline":
        vector.append(rows.product_flops)
    # What is read again crosses the first level as well.
    alone = 0.0 if policy.fidelity == "roofline" else np.where(relevant.further, 0.0, rows.again)
    rows = replace(rows, moved=np.where(relevant.first, rows.moved + alone, 0.0))
    figures = np.column_stack([*np.multiply(vector, relevant.vector), rows.moved, classes.again, classes.bytes])
    scale = np.where(part == STREAMING, figures.max(axis=1), 1.0)
    scale[scale == 0.0] = 1.0
    own = np.where(part == OTHER, np.arange(len(rows)), -1)
    first, group = alike(figures / scale[:, None], (part, own, rows.product, classes.of_again))
    kept = _taken(rows, first, classes)
    return Merged(kept, part[first], relevant.vector[first], group, scale / scale[first][group])


def alike(figures: Any, code: Any = ()) -> tuple[Any, Any]:
    """Which lines (of figures at least 0) stand for all, in order of `code`, and the place of every line among them.

    Lines are alike if they are equal in twelve digits. code: rows of whole numbers that must be equal as well, the
    first one the most weighty.
    """
    projection = figures @ (1.0 + np.arange(figures.shape[1]) * _IRRATIONAL % 1.0)
    rounded = projection.view(np.int64) + (1 << (_ROUNDED - 1)) >> _ROUNDED
    keys = np.stack([*code, rounded])
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    starts = np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(0)])[: len(order)]
    leader = np.empty(len(order), dtype=np.int64)
    leader[order] = order[starts][np.cumsum(starts) - 1]
    # Equal sums of different figures are as good as impossible, and are looked for.
    differs = (np.abs(figures - figures[leader]) > _EQUAL * figures[leader]).any(1)
    leader[differs] = np.flatnonzero(differs)
    first = order[leader[order] == order]
    place = np.empty(len(order), dtype=np.int64)
    place[first] = np.arange(len(first))
    return first, place[leader]


def chosen(rows: Rows, which: Any) -> Rows:
    """Some of the rows, in the order given."""
    lengths = np.diff(rows.access_start, append=len(rows.access_bytes))[which]
    start = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(np.int64)
    lines = np.repeat(rows.access_start[which] - start, lengths) + np.arange(int(lengths.sum()))
    touched = {name: getattr(rows, name)[lines] for name in _ACCESSES[1:4]}
    return replace(rows, **_columns(rows, which), access_start=start, **touched)


def summed(rows: Rows, weights: Any, policy: Policy) -> Rows:
    """A row for every column of weights that moves, at every level, what the rows weighted with it move together.

    But for what blocked products read again, which is not linear.
    """
    again = np.zeros(len(rows)) if policy.fidelity == "roofline" else rows.again
    twice = np.flatnonzero(again)
    row = np.concatenate([_row_of_accesses(rows), twice])
    distances, distance = np.unique(
        np.concatenate([rows.distances[rows.access_distance], rows.again_distance[twice]]), return_inverse=True
    )
    sets, set_ = np.unique(np.append(rows.access_set, np.full(len(twice), np.inf)), return_inverse=True)
    bytes_ = np.concatenate([rows.access_bytes, again[twice]])
    place, count = distance * len(sets) + set_, len(distances) * len(sets)
    table: Any = np.stack([np.bincount(place, column[row] * bytes_, count) for column in weights.T])
    touched = table != 0
    touched[:, 0] |= ~touched.any(1)
    line, kind = np.nonzero(touched)
    none: dict[str, Any] = {name: np.zeros(len(table), values.dtype) for name, values in _columns(rows, []).items()}
    return replace(
        rows,
        **none | {"moved": (rows.moved + again) @ weights, "product": np.full(len(table), -1)},
        access_start=np.searchsorted(line, np.arange(len(table))),
        access_bytes=table[line, kind],
        access_distance=kind // len(sets),
        access_set=sets[kind % len(sets)],
        distances=distances,
    )


def _row_of_accesses(rows: Rows) -> Any:
    return np.repeat(np.arange(len(rows)), np.diff(rows.access_start, append=len(rows.access_bytes)))


def _columns(rows: Rows, which: Any) -> dict[str, Any]:
    of_rows = {f.name: getattr(rows, f.name) for f in fields(rows) if f.name not in _ACCESSES}
    return {name: values[which] for name, values in of_rows.items() if isinstance(values, np.ndarray)}


def parts_of(rows: Rows, machine: Machine, policy: Policy) -> Any:
    """KNEED, STREAMING or OTHER of every row."""
    kneed = (rows.product >= 0) & (policy.fidelity != "roofline")
    on_link = rows.crosses & (rows.written > 0) & np.any(np.isfinite(machine.host.link_bandwidth))
    other = takes_no_time(rows, machine) | on_link | (rows.crosses & np.any(machine.host.link_latency))
    return np.where(other, OTHER, np.where(kneed, KNEED, STREAMING))


class _Classes(NamedTuple):
    """Accesses of rows by class: bytes (rows × classes), and the distance and the set that stand for each class.

    again: bytes that are read again; of_again: the class of their distance; again_distance: what stands for it.
    """

    bytes: Floats
    distance: Floats
    set: Floats
    again: Floats
    of_again: Ints
    again_distance: Floats


def _classed(rows: Rows, relevant: Flags, machine: Machine, profile: Profile, policy: Policy) -> _Classes:
    """The accesses of rows, and what they read again, by class; none of rows in which they are not relevant."""
    alike_ = kinds(rows, machine)
    sets = np.broadcast_to(alike_.set, alike_.distance.shape)
    class_, stands = _classes(alike_.distance, sets, machine, profile)
    place = _row_of_accesses(rows) * len(stands) + class_[alike_.of_access]
    bytes_ = np.bincount(place, rows.access_bytes, len(rows) * len(stands)).reshape(len(rows), -1)
    again = np.where(relevant, np.zeros(len(rows)) if policy.fidelity == "roofline" else rows.again, 0.0)
    of_again, distance = np.full(len(rows), -1), rows.again_distance.copy()
    some = np.flatnonzero(again)
    of_again[some], first = _classes(distance[some], np.full(len(some), np.inf), machine, profile)
    distance[some] = distance[some][first][of_again[some]]
    kept: Any = bytes_ * relevant[:, None]
    return _Classes(kept, alike_.distance[stands], sets[stands], again, of_again, distance)


def _classes(distance: Any, sets: Any, machine: Machine, profile: Profile) -> tuple[Any, Any]:
    """The class of every kind of access, and the first kind of each class."""
    least, most = (
        np.stack(held(distance, sets, replace(machine, levels=levels), profile) or [np.zeros(len(distance))])
        for levels in (smallest(machine.levels), largest(machine.levels))
    )
    differs = (least != most).any(0)
    keys = np.column_stack([least.T, np.where(differs, distance, -1.0), np.where(differs, sets, -1.0)])
    _, first, class_ = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return class_.reshape(-1), first


def _taken(rows: Rows, first: Any, classes: _Classes) -> Rows:
    """Those rows, their accesses one for each class."""
    bytes_ = classes.bytes[first]
    touched = bytes_ > 0
    touched[:, 0] |= ~touched.any(1)
    row, class_ = np.nonzero(touched)
    columns: dict[str, Any] = _columns(rows, first)
    columns |= {"again": classes.again[first], "again_distance": classes.again_distance[first]}
    return replace(
        rows,
        **columns,
        access_start=np.searchsorted(row, np.arange(len(first))),
        access_bytes=bytes_[row, class_],
        access_distance=class_,
        access_set=classes.set[class_],
        distances=classes.distance,
    )


def stacked(first: Rows, second: Rows) -> Rows:
    """Rows one after another."""
    before, after = _columns(first, slice(None)), _columns(second, slice(None))
    joined: dict[str, Any] = {name: np.concatenate([before[name], after[name]]) for name in before}
    touched: dict[str, Any] = {n: np.concatenate([getattr(first, n), getattr(second, n)]) for n in _ACCESSES[1:4]}
    start = np.concatenate([first.access_start, second.access_start + len(first.access_bytes)])
    each = np.concatenate([rows.distances[rows.access_distance] for rows in (first, second)])
    distances, touched["access_distance"] = np.unique(each, return_inverse=True)
    return replace(second, **joined, access_start=start, **touched, distances=distances)
