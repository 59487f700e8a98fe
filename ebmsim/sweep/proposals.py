"""Which designs a search tries, one after another, each from how those before it turned out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from ebmsim.design import Axis, Sweep
from ebmsim.errors import EbmsimError
from ebmsim.spec.figure import short_figure
from ebmsim.sweep.tried import Design, Values

Tried: TypeAlias = Mapping[tuple[Any, ...], Design]
"""The designs tried so far, by their values. It grows while proposals are taken: the last one is in it before the next
is asked for."""

# The first of so many parts of the trials are random: they tell where to go on.
_RANDOM = 6
_LEAST_RANDOM = 10
# Designs of one generation with several figures.
_POPULATION = (10, 50)
# Designs that are varied, at most; axes that are changed at once, on average; the smallest step, as a share of an axis.
_VARIED = 4
_CHANGED = 2.0
_SMALLEST = 1 / 256
# Attempts at a variation that was not tried before.
_ATTEMPTS = 50


def all_of(sweep: Sweep) -> Iterator[Values]:
    """Every design of a space of lists."""
    for values in product(*[axis.values for axis in sweep.axes]):
        yield {axis.name: value for axis, value in zip(sweep.axes, values, strict=True)}


def proposed(sweep: Sweep, trials: int, seed: int, tried: Tried) -> Iterator[Values]:
    """As many designs as there are trials, by Optuna.

    With several figures all are from NSGA-II (Deb et al., IEEE TEVC 6(2), 2002). With one figure they are random first,
    then in turn from a tree of Parzen estimators (Bergstra et al., NeurIPS 2011), which tells promising parts of the
    space, and variations of the best designs, which end in an optimum that estimators only come near.
    """
    optuna = _optuna()
    one = len(sweep.minimize) == 1
    first = max(_LEAST_RANDOM, trials // _RANDOM)
    low, high = _POPULATION
    sampler = (
        optuna.samplers.TPESampler(n_startup_trials=first, seed=seed)
        if one
        else optuna.samplers.NSGAIISampler(population_size=max(low, min(trials // 10, high)), seed=seed)
    )
    study = optuna.create_study(directions=["minimize"] * len(sweep.minimize), sampler=sampler)
    best = _Best(sweep)
    random = np.random.default_rng(seed)
    for number in range(trials):
        if one and number >= first and number % 2 and (near := best.varied(random, tried)):
            study.enqueue_trial({axis.name: _parameter(axis, near[axis.name]) for axis in sweep.axes})
        trial = study.ask()
        values = {axis.name: _value(axis, trial) for axis in sweep.axes}
        yield values
        design = tried[tuple(values.values())]
        best.add(design)
        for i, violation in enumerate(design.violations):
            trial.set_constraint(f"{i}", violation)
        # A design that misses a constraint is compared by what it misses alone.
        study.tell(trial, [1.0 if design.refusal else design.value(name) for name in sweep.minimize])


def _optuna() -> Any:
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        optuna = None
    if optuna is None or not hasattr(optuna.Trial, "set_constraint"):
        raise EbmsimError("a search needs Optuna 5 or later: pip install 'ebmsim[search]'")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _value(axis: Axis, trial: Any) -> Any:
    """The value of an axis that a trial proposes: numbers of a list are in order, other values are not."""
    if axis.values and axis.numeric:
        return _ordered(axis)[trial.suggest_int(axis.name, 0, len(axis.values) - 1)]
    if axis.values:
        return axis.values[trial.suggest_categorical(axis.name, tuple(range(len(axis.values))))]
    suggest = trial.suggest_int if axis.whole else trial.suggest_float
    return _short(axis, suggest(axis.name, axis.low, axis.high, log=axis.log))


def _parameter(axis: Axis, value: Any) -> Any:
    """What a trial suggests where `_value` gives a value."""
    if axis.values:
        return (_ordered(axis) if axis.numeric else axis.values).index(value)
    return value


def _ordered(axis: Axis) -> tuple[Any, ...]:
    return tuple(sorted(axis.values))


def _short(axis: Axis, value: float) -> float:
    """A value within its range, with three digits as files would write it; whole numbers as they are."""
    assert axis.low is not None
    assert axis.high is not None
    value = min(max(value, axis.low), axis.high)
    if not axis.whole:
        value = short_figure(axis.figure, value) if axis.figure else float(f"{value:.3g}")
    return min(max(value, axis.low), axis.high)


class _Best:
    """The best design of every combination of values without an order: a step from one to another is a leap.

    A device with another kind of memory is a good one only after much else has changed, so that a search from the best
    of all alone would never come to it.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._found: dict[tuple[Any, ...], Design] = {}

    def add(self, design: Design) -> None:
        """Take note of a design."""
        key = tuple(design.axes[axis.name] for axis in self._sweep.axes if axis.values and not axis.numeric)
        if key not in self._found or self._rank(design) < self._rank(self._found[key]):
            self._found[key] = design

    def _rank(self, design: Design) -> tuple[float, float]:
        """What it misses, then the figure: of two that meet all constraints, the smaller figure comes first."""
        return design.violation, 0.0 if design.refusal else design.value(self._sweep.minimize[0])

    def varied(self, random: np.random.Generator, tried: Tried) -> Values | None:
        """One of the best with other values of some axes; None where none was found that is new."""
        some = sorted(self._found.values(), key=self._rank)[:_VARIED]
        axes = [axis for axis in self._sweep.axes if len(axis.values) != 1]
        for _ in range(_ATTEMPTS if axes else 0):
            here = some[random.integers(len(some))].axes
            changed = random.random(len(axes)) < _CHANGED / len(axes)
            changed[random.integers(len(axes))] = True
            moved = [axis for axis, change in zip(axes, changed, strict=True) if change]
            values = {**here, **{axis.name: _moved(axis, here[axis.name], random) for axis in moved}}
            if tuple(values.values()) not in tried:
                return values
        return None


def _moved(axis: Axis, value: Any, random: np.random.Generator) -> Any:
    """Another value of an axis: any other without an order, else a step away, small ones more often than large."""
    if axis.values and not axis.numeric:
        others = [other for other in axis.values if other != value]
        return others[random.integers(len(others))]
    sign = 1 if random.random() < 0.5 else -1
    share = sign * _SMALLEST ** random.random()
    if axis.values:
        ordered = _ordered(axis)
        place = ordered.index(value) + (round(share * len(ordered)) or sign)
        return ordered[min(max(place, 0), len(ordered) - 1)]
    assert axis.low is not None
    assert axis.high is not None
    near = value * (axis.high / axis.low) ** share if axis.log else value + share * (axis.high - axis.low)
    if axis.whole:
        near = round(near) if round(near) != value else value + sign
    return _short(axis, float(near) if not axis.whole else near)
