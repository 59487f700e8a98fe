"""The taxonomy class of a workload, derived from its components and their wiring."""

from __future__ import annotations

from typing import NamedTuple

from ebmsim.graph.compose import Composer
from ebmsim.spec.workload import Workload


class Derived(NamedTuple):
    """Compositionality and dependency as the components and their wiring have them."""

    compositionality: str
    dependency: str


def derive(workload: Workload) -> Derived:
    """The taxonomy class (Section III of the paper).

    Compositionality: one network is mono; several of one architecture homo-dw with shared weights and homo-ds with
    their own; several architectures hetero. Dependency, over all component instances an inference runs: sequential
    when every two depend on each other, fully-parallel when no two do, mixed-parallel otherwise. A decoder is no part
    of the energy landscape and counts for neither.
    """
    composer = Composer(workload, 1)
    landscape = {n: c for n, c in workload.file.components.items() if c.runs != "training" and c.role != "decoder"}
    running = {n: composer.instances(n, c) for n, c in landscape.items()}
    running = {name: count for name, count in running.items() if count}
    components = workload.file.components
    if len(running) > 1:
        compositionality = "hetero"
    else:
        name, count = next(iter(running.items()))
        shared = components[name].weights == "shared"
        compositionality = "mono" if count == 1 else "homo-dw" if shared else "homo-ds"
    return Derived(compositionality, _dependency(workload, running))


def _dependency(workload: Workload, running: dict[str, int]) -> str:
    nodes = [(name, i) for name, count in running.items() for i in range(count)]
    before: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for name, i in nodes:
        reached: set[tuple[str, int]] = set()
        for source in workload.file.components[name].inputs.values():
            if source in running:
                origin = (source, i if i < running[source] else 0)
                reached |= {origin} | before.get(origin, set())
        before[name, i] = reached
    pairs = [(a, b) for k, a in enumerate(nodes) for b in nodes[k + 1 :]]
    dependent = sum(a in before[b] or b in before[a] for a, b in pairs)
    if dependent == len(pairs):
        return "sequential"
    return "mixed-parallel" if dependent else "fully-parallel"
