"""Search: the design of a space that makes a figure least, or the front of several, from a few designs that are tried.

A design is evaluated as a point of a sweep is. What is missing of a constraint guides the search, and no design that
misses one is ever the best.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ebmsim.design import Sweep
from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware
from ebmsim.prepared import named_hardware
from ebmsim.spec.library import load_sweep
from ebmsim.sweep.axes import is_inner
from ebmsim.sweep.check import check_sweep
from ebmsim.sweep.chunks import Cell, answers, cell_of, inputs_of
from ebmsim.sweep.conditions import margin, parts
from ebmsim.sweep.figures import figures_of, with_figures
from ebmsim.sweep.outputs import column
from ebmsim.sweep.pareto import front
from ebmsim.sweep.proposals import all_of, proposed
from ebmsim.sweep.tried import Design, Values

Told: TypeAlias = Callable[[int, int, "Design | None"], None]
"""Called after every trial: how many are done, of how many, and the best design so far of the first figure."""

_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Search:
    """What a search found. designs: those that were tried, each once. stopped: before all trials were made."""

    sweep: Sweep
    designs: tuple[Design, ...]
    trials: int
    seed: int
    stopped: bool

    @cached_property
    def front(self) -> tuple[Design, ...]:
        """Designs that meet all constraints and that no other one beats, the least in the first figure first.

        One design only where one figure is made least.
        """
        able = [design for design in self.designs if design.meets_all]
        if not able:
            return ()
        values = np.array([[design.value(name) for name in self.sweep.minimize] for design in able])
        chosen = sorted(front(values), key=lambda i: (tuple(values[i]), i))
        # Of equal ones, the first that was tried.
        distinct = {tuple(values[i]): able[i] for i in reversed(chosen)}
        return tuple(reversed(distinct.values()))

    @property
    def best(self) -> Design | None:
        """The first of the front."""
        return self.front[0] if self.front else None

    @property
    def nearest(self) -> Design | None:
        """The design that misses least."""
        real = [design for design in self.designs if not design.refusal]
        return min(real, key=lambda design: design.violation, default=None)

    @property
    def missed(self) -> dict[str, int]:
        """How many designs miss each part of the constraints, or are none and why; the most frequent first."""
        counts: Counter[str] = Counter()
        for design in self.designs:
            counts.update([design.refusal] if design.refusal else [m.text for m in design.margins if not m.met])
        return dict(counts.most_common())

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints, SI units."""
        several = len(self.sweep.minimize) > 1
        return {
            "schema": 1,
            "search": self.sweep.name,
            "minimize": list(self.sweep.minimize),
            "trials": self.trials,
            "seed": self.seed,
            "stopped": self.stopped,
            "designs": len(self.designs),
            "feasible": sum(design.meets_all for design in self.designs),
            "missed": self.missed,
            "best": self.best.to_dict() if self.best else None,
            **({"nearest": self.nearest.to_dict()} if self.nearest and not self.best else {}),
            **({"front": [design.to_dict() for design in self.front]} if several else {}),
        }


def search(
    file: str | Path | Sweep, trials: int = 300, seed: int = 0, told: Told = lambda done, of, best: None
) -> Search:
    """Search the space of a sweep file for what its `minimize` makes least. The same seed tries the same designs.

    A space with no more points than trials is tried whole. A range with `points` has only those. Its `sampling`, `keep`
    and `format` play no part. A KeyboardInterrupt ends the search with what is found. Raises SpecError for bad input,
    EbmsimError without Optuna.
    """
    sweep = file if isinstance(file, Sweep) else load_sweep(file)
    check_search(sweep, trials, seed)
    cells = lru_cache(maxsize=64)(lambda values: cell_of(sweep, dict(values)))
    size = math.prod(len(axis.values) for axis in sweep.axes)
    whole = all(axis.values for axis in sweep.axes) and size <= trials
    of = size if whole else trials
    designs: dict[tuple[Any, ...], Design] = {}
    best, done, stopped = None, 0, False
    try:
        for values in all_of(sweep) if whole else proposed(sweep, trials, seed, designs):
            key = tuple(values.values())
            if key not in designs:
                designs[key] = _tried(sweep, cells, values)
            best = _better(sweep, best, designs[key])
            done += 1
            told(done, of, best)
    except KeyboardInterrupt:
        stopped = True
    return Search(sweep, tuple(designs.values()), done, seed, stopped)


def check_search(sweep: Sweep, trials: int, seed: int) -> None:
    """Raise SpecError with everything that is wrong with the inputs of a search."""
    problems = []
    if trials < 1:
        problems.append(Problem(f"expected at least 1 trial, found {trials}"))
    if not 0 <= seed <= _LARGEST_SEED:
        problems.append(Problem(f"expected a seed from 0 to {_LARGEST_SEED}, found {seed}"))
    if not sweep.minimize:
        problems.append(sweep.document.problem((), "missing key 'minimize'", "a figure such as t_inf or cost_dollars"))
    try:
        check_sweep(sweep)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)


def _better(sweep: Sweep, best: Design | None, other: Design) -> Design | None:
    if not other.meets_all:
        return best
    name = sweep.minimize[0]
    return other if best is None or other.value(name) < best.value(name) else best


def _tried(sweep: Sweep, cells: Callable[[tuple[tuple[str, Any], ...]], Cell], values: Values) -> Design:
    """A design evaluated as a point of a sweep."""
    outer = {axis.name: values[axis.name] for axis in sweep.axes if not is_inner(axis)}
    inner = {name: np.array([float(value)]) for name, value in values.items() if name not in outer}
    try:
        cell = cells(tuple(outer.items()))
        arrays, given = answers(sweep, cell, outer, inner, (1,))
        device = with_figures(cell.hardware, {path: float(np.ravel(value)[0]) for path, value in given.items()})
    except SpecError as error:
        return Design(values, {}, (), None, error.problems[0].message)
    names = {name: _single(value) for name, value in arrays.items()}
    margins = tuple(margin(part, names) for text in sweep.constraints for part in parts(text))
    wanted = [d.name for d in sweep.derived] + list(map(column, sweep.outputs))
    refusal = _refusal(sweep, named_hardware(inputs_of(sweep, outer).hardware), device, names)
    return Design(values, {name: names[name] for name in wanted}, margins, device, refusal)


def _refusal(sweep: Sweep, base: Hardware, device: Hardware, names: Values) -> str:
    """Why a point of a sweep is no design that could be built and compared, or ""."""
    counts = {path: value for path, value in figures_of(base).items() if type(value) is int}
    found = figures_of(device)
    for path in counts:
        if found[path] != round(found[path]):
            return f"{path} is no whole number"
    for name in sweep.minimize:
        if not math.isfinite(names[name]):
            return f"{name} has no value"
    return ""


def _single(value: Any) -> Any:
    """The one value of an array of one, as a number or text of Python."""
    found = np.ravel(value)[0] if isinstance(value, np.ndarray) else value
    return found.item() if isinstance(found, np.generic) else found
