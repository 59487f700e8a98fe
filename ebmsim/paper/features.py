"""What each feature of an EBM-aware accelerator buys: `python -m ebmsim.paper.features > docs/ebm_aware.md`.

The characterisation paper's Section VI says what hardware for EBMs should do. Here each of its features is added to an
RTX 5090, alone and together, at equal peak and bandwidth, for the workloads that the paper profiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from ebmsim.estimation import Estimate
from ebmsim.graph.kernels import BYTES
from ebmsim.paper.ledger import GPU, POLICY, PROFILED
from ebmsim.policy import Policy
from ebmsim.prepared import estimate_named

WITH_FEATURES, EQUAL, UNEQUAL = "ebm_aware_5090", "ebm_aware_5090_equal", "ebm_aware_5090_subarrays"
# The features that the GPU has not, by the figure that switches them on; its access to transposed weights is free.
FEATURES = ("resident_loop", "stationary_weights", "rng_overlapped")
# The rate of products with transposed weights where a machine has no such access: the least of the file's notes.
NO_TRANSPOSED_ACCESS = 0.5
STREAMS = 4


@dataclass(frozen=True)
class Setting:
    """How the workloads run. chains: C; as the ledger has it if 0."""

    title: str
    execution: str
    chains: int = 0


SETTINGS = (
    Setting("Eager, chains as profiled", "eager"),
    Setting("CUDA graph, chains as profiled", "graph"),
    Setting("Eager, one chain", "eager", 1),
    Setting("CUDA graph, one chain", "graph", 1),
)


def _estimate(workload: str, hardware: str, setting: Setting, streams: int = 1, **features: Any) -> Estimate:
    policy = Policy(execution=setting.execution, streams=streams, **POLICY.get(workload, {}))
    chains = {"chains": setting.chains} if setting.chains else {}
    figures = {f"features.{name}": value for name, value in features.items()}
    return estimate_named(workload, hardware, policy, "", chains, figures)


def _step(workload: str, hardware: str, setting: Setting, streams: int = 1, **features: Any) -> float:
    """T_samp, in s."""
    return float(_estimate(workload, hardware, setting, streams, **features).seconds["t_samp"] or 0.0)


def features_alone(workload: str, setting: Setting) -> dict[str, float]:
    """T_samp of the RTX 5090 over that with one feature, with all, and with none and no transposed access."""
    base = _step(workload, GPU, setting)
    off = dict.fromkeys(FEATURES, False)
    alone = {name: base / _step(workload, WITH_FEATURES, setting, **{**off, name: True}) for name in FEATURES}
    without = _step(workload, WITH_FEATURES, setting, **off, transposed_weights=NO_TRANSPOSED_ACCESS)
    return {**alone, "all": base / _step(workload, WITH_FEATURES, setting), "no transposed access": base / without}


def arrays(workload: str, setting: Setting) -> dict[str, float]:
    """T_samp of the RTX 5090 in one stream over that in several, and over that of all features, by matrix engine."""
    base = _step(workload, GPU, setting)
    found = {"GPU": base / _step(workload, GPU, setting, STREAMS)}
    for name, device in (("tensor cores", WITH_FEATURES), ("equal arrays", EQUAL), ("unequal arrays", UNEQUAL)):
        found[name] = base / _step(workload, device, setting, STREAMS)
    return found


def energy(workload: str, setting: Setting) -> float:
    """Energy of a step on the RTX 5090 over that with all features."""
    of = [_estimate(workload, device, setting).energy["step_joules"] for device in (GPU, WITH_FEATURES)]
    return float(of[0] / of[1])


_HEAD = """# What an EBM-aware accelerator gains

Written by `python -m ebmsim.paper.features > docs/ebm_aware.md`.

The characterisation paper ends with what hardware for Energy-Based Models should do (its Section VI): keep weights
where they are across forward, backward and steps; read them transposed at full rate; make random numbers beside the
network; run the sampling loop on the device; have arrays of several sizes for components of several sizes. Here these
features are added one by one to an RTX 5090 whose peaks, clocks, bandwidths, capacities and software stay as they are
(`hardware/ebm_aware_5090.yaml`). Every number is T_samp of the plain card over T_samp with the feature, on the six
workloads the paper profiles at [its settings](settings.md); above 1 is faster. Nothing here is measured: no such card
exists, and predictions for the plain one are [not validated on whole steps](validation/index.md)."""

_ARRAYS = f"""
## Matrix engines, with all features

Streams for up to {STREAMS} components at once, over the plain card in one stream. Equal arrays: ten of 64 × 68 cells.
Unequal arrays: two each of 128 × 128, 64 × 64, 32 × 32 and 16 × 16. Both have the 43 520 multiply-adds of the
tensor cores, weights stationary and double-buffered."""


_SUM = """
At equal peak and bandwidth these features are worth little at the profiled batch sizes: the steps are bound by products
and activations, which none of them touches. They pay where an answer is wanted soon from one chain, and there a graph
of kernels does most of it. Fewer bytes of activations (fusion, smaller types) and products nearer to the peak would do
more."""


def _table(columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield ""
    yield f"| workload | {' | '.join(columns)} |"
    yield "|---|" + "--:|" * len(columns)
    for workload, values in rows.items():
        yield f"| {workload} | {' | '.join(f'{values[column]:.2f}' for column in columns)} |"


def _spread(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def weights_share(workload: str, setting: Setting) -> float | None:
    """Seconds to read every weight from main memory once, over T_samp; None where the L2 cannot hold them."""
    found = _estimate(workload, GPU, setting)
    held, memory = found.size["parameters"] * BYTES[found.policy.dtype], found.hardware.memory
    return held / memory[-1].bandwidth / found.seconds["t_samp"] if held <= memory[-2].capacity else None


def _reading(alone: Mapping[Setting, Mapping[str, Mapping[str, float]]], engines: Any) -> str:
    """What the tables say, in words with their numbers."""
    eager, graph, eager_one, graph_one = SETTINGS

    def of(name: str, *settings: Setting) -> str:
        return _spread([row[name] for s in settings for row in alone[s].values()])

    def over(name: str, other: str, *settings: Setting) -> str:
        return _spread([row[name] / row[other] for s in settings for row in engines[s].values()])

    shares = [share for s in (graph, graph_one) for w in PROFILED if (share := weights_share(w, s)) is not None]
    joules = _spread([energy(w, eager) for w in PROFILED])
    points = f"""
**The resident loop** is what a step feels most: × {of("resident_loop", eager)} at the profiled chains and
× {of("resident_loop", eager_one)} with one. That is time of the host, and a captured CUDA graph saves it without new
hardware: over such a graph the loop is worth × {of("resident_loop", graph, graph_one)}.

**Stationary weights** buy × {of("stationary_weights", *SETTINGS)}. Reading every weight from memory once takes
{100 * min(shares):.1f} to {100 * max(shares):.1f} % of a step over a graph, mostly beside arithmetic; those of ebm_eqm
fit no L2.

**Random numbers beside the network** buy × {of("rng_overlapped", *SETTINGS)}: one kernel of hundreds.

**Transposed access** is what the card has already. A machine that reads transposed weights at
{NO_TRANSPOSED_ACCESS:g} of the rate is at × {of("no transposed access", graph, graph_one)} of it over a graph: the
feature not to leave out of an array.

**Arrays** in place of tensor cores are at × {over("equal arrays", "tensor cores", *SETTINGS)} of them. No feature of
EBMs does that: tensor cores are predicted with what CUDA's kernels lose (tiles, waves, feeding), arrays with folds and
memory alone, so it shows how far library kernels are from the peak.

**Unequal arrays** are at × {over("unequal arrays", "equal arrays", *SETTINGS)} of equal ones with as many cells: small
arrays fit small components, but a step takes as long as its largest one, which is left with fewer arrays of a good
size.

**Energy** of an eager step at the profiled chains falls by a factor of {joules} with all features: static power for the
time saved."""
    bullets = (fill(f"- {point}", 118, subsequent_indent="  ") for point in points.strip().split("\n\n"))
    return "\n".join(["\n## Reading\n", *bullets, _SUM])


def report() -> Iterator[str]:
    """The lines of docs/ebm_aware.md."""
    yield _HEAD
    alone = {s: {w: features_alone(w, s) for w in PROFILED} for s in SETTINGS}
    engines = {s: {w: arrays(w, s) for w in PROFILED} for s in SETTINGS}
    for setting, rows in alone.items():
        yield f"\n## {setting.title}"
        yield from _table([*FEATURES, "all", "no transposed access"], rows)
    yield _ARRAYS
    for setting, found in engines.items():
        yield f"\n### {setting.title}"
        yield from _table(["GPU", "tensor cores", "equal arrays", "unequal arrays"], found)
    yield _reading(alone, engines)


if __name__ == "__main__":
    print("\n".join(report()).rstrip())
