"""The components of a workload and what they read, in layers: for a drawing of an inference."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any, NamedTuple

from ebmsim.graph.combine import combination
from ebmsim.graph.compose import Composer
from ebmsim.spec.workload import Component, Workload, sampler_program

# Boxes that are neither component nor tensor; no name of a file begins with a dot.
_ENERGY, _SCORE, _GRADIENT, _SAMPLER = ".energy", ".score", ".gradient", ".sampler"


class Box(NamedTuple):
    """What is drawn as a box. kind: tensor, component or result."""

    title: str
    detail: str
    kind: str


class Wiring(NamedTuple):
    """Boxes by key, and arrows between them, of an inference without the way back from the sampler to the sample."""

    boxes: Mapping[str, Box]
    arrows: tuple[tuple[str, str], ...]
    sample: str
    sampler: str

    @property
    def words(self) -> str:
        """The drawing for who cannot see it."""
        readers: dict[str, list[str]] = {}
        for start, end in (*self.arrows, (self.sampler, self.sample)):
            readers.setdefault(start, []).append(self.boxes[end].title)
        return "; ".join(f"{self.boxes[start].title} to {', '.join(ends)}" for start, ends in readers.items())


def wiring(w: Workload) -> Wiring:
    """What is wired to what in an inference; components of training alone are left out.

    Outputs of energies are combined and differentiated to the sample, those of scores are not; the sampler moves the
    sample, and a decoder reads the last one. Inputs that no component reads go where nodes name them.
    """
    composer = Composer(w, 1)
    sample = composer.sample
    given = [name for name in w.file.inputs if not composer.absent(name)]
    running = {
        name: (c, composer.instances(name, c))
        for name, c in w.file.components.items()
        if c.runs != "training" and composer.instances(name, c)
    }
    arrows = [
        (_SAMPLER if source == sample and c.role == "decoder" else source, name)
        for name, (c, _) in running.items()
        for source in dict.fromkeys(c.inputs.values())
        if source == sample or source in running or source in given
    ]
    evaluated = {name: count for name, (c, count) in running.items() if c.role in ("energy", "score")}
    energies = [name for name in evaluated if running[name][0].role == "energy"]
    how = combination(composer)
    ends = list(evaluated)
    if how or sum(evaluated.values()) > 1:
        together = _ENERGY if energies else _SCORE
        arrows += [(name, together) for name in ends]
        ends = [together]
    result = ends[-1] if ends else _SAMPLER
    program = _words(sampler_program(w.file)[0])
    if energies and "gradient" in program:
        arrows += [(end, _GRADIENT) for end in ends]
        ends = [_GRADIENT]
    arrows += [(end, _SAMPLER) for end in ends]
    combining = _words(how.nodes) if how else set()
    read = {start for start, _ in arrows}
    for name in [name for name in (*given, *running) if name not in read]:
        if name in combining or name in program:
            arrows.append((name, result if name in combining else _SAMPLER))
    combined = "combined" if how else "the sum"
    boxes = {sample: Box(sample, f"sample, C = {w.setting('chains')}", "tensor")}
    boxes |= {name: Box(name, "input", "tensor") for name in given}
    boxes |= {name: _component(name, *of) for name, of in running.items()}
    boxes |= {
        _ENERGY: Box("energy", combined, "result"),
        _SCORE: Box("score", combined, "result"),
        _GRADIENT: Box("gradient", "to the sample", "result"),
        _SAMPLER: Box("sampler", f"K = {w.setting('steps')}", "result"),
    }
    named = {name for arrow in arrows for name in arrow} | {sample, _SAMPLER}
    kept = {key: box for key, box in boxes.items() if key in named or box.kind == "component"}
    return Wiring(kept, tuple(arrows), sample, _SAMPLER)


def _component(name: str, c: Component, count: int) -> Box:
    when = {"once": ", once", "every-step": ", every step"}.get(c.runs, "")
    weights = f", {c.weights} weights" if count > 1 else ""
    return Box(f"{name} × {count}" if count > 1 else name, f"{c.role}{when}{weights}", "component")


def _words(value: Any) -> set[str]:
    """Every text in nodes, at any depth."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        value = list(value.values())
    return {word for item in value for word in _words(item)} if isinstance(value, list) else set()


def layers(w: Wiring) -> list[list[str]]:
    """Boxes from left to right: each behind all it reads, inputs just before their first reader.

    An arrow over several layers passes a place in each of those between, named "start>end>layer".
    """
    before: dict[str, list[str]] = {key: [] for key in w.boxes}
    for start, end in w.arrows:
        before[end].append(start)
    depth: dict[str, int] = {}

    def of(key: str) -> int:
        if key not in depth:
            depth[key] = 1 + max(map(of, before[key]), default=-1)
        return depth[key]

    for key in w.boxes:
        of(key)
    for key, box in w.boxes.items():
        readers = [depth[end] for start, end in w.arrows if start == key]
        if box.kind == "tensor" and key != w.sample and readers:
            depth[key] = min(readers) - 1
    found: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    for key in w.boxes:
        found[depth[key]].append(key)
    for start, end in w.arrows:
        for place in range(depth[start] + 1, depth[end]):
            found[place].append(_between(start, end, place))
    return _ordered(found, w)


def _ordered(found: list[list[str]], w: Wiring) -> list[list[str]]:
    """Each layer by the mean place of its neighbours before and behind; sample and sampler last, for the way back."""
    passed = [steps(arrow, found) for arrow in w.arrows]
    pairs = [pair for path in passed for pair in pairwise(path)]
    backward = [(b, a) for a, b in pairs]
    ahead = [(here, here - 1, backward) for here in range(1, len(found))]
    back = [(here, here + 1, pairs) for here in range(len(found) - 2, -1, -1)]
    for here, beside, near in (*ahead, *back, *ahead):
        place = {key: i / len(found[beside]) for i, key in enumerate(found[beside])}
        mean = {key: fmean([place[b] for a, b in near if a == key] or [0.5]) for key in found[here]}
        found[here].sort(key=mean.__getitem__)
    for layer in found:
        layer.sort(key=lambda key: key in (w.sample, w.sampler))
    return found


def steps(arrow: tuple[str, str], found: list[list[str]]) -> list[str]:
    """The places an arrow passes, from its start to its end."""
    start, end = arrow
    between = [_between(start, end, place) for place, _ in enumerate(found)]
    return [start, *[key for key, layer in zip(between, found, strict=True) if key in layer], end]


def _between(start: str, end: str, place: int) -> str:
    return f"{start}>{end}>{place}"
