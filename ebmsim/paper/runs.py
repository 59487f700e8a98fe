"""Estimates of the profiled workloads at the ledger's settings and at admissible ones, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from ebmsim.estimation import Estimate, estimate_lowered
from ebmsim.paper.ledger import ADMISSIBLE, DEFAULT, GPU, POLICY, Alternative
from ebmsim.policy import Policy
from ebmsim.prepared import estimate_named

# Ours, the smallest, the largest.
Spread = tuple[float, float, float]


def run(workload: str, hardware: str = GPU, change: Alternative = DEFAULT, sharing: float | None = None) -> Estimate:
    """The estimate of a workload at the ledger's settings, changed as one admissible alternative says.

    sharing: in place of the software profile's, where streams are asked for.
    """
    policy = tuple(sorted({**POLICY.get(workload, {}), **change.policy}.items()))
    found = _run(workload, hardware, change.preset, tuple(sorted(change.settings.items())), policy)
    if sharing is None:
        return found
    return estimate_lowered(found.lowered, found.hardware, found.policy, replace(found.profile, sharing=sharing))


@cache
def _run(workload: str, hardware: str, preset: str, settings: Any, policy: Any) -> Estimate:
    return estimate_named(workload, hardware, Policy(**dict(policy)), preset, dict(settings))


def spread(
    workload: str,
    figure: Callable[[Estimate], float],
    hardware: str = GPU,
) -> Spread:
    """A figure at the ledger's settings, and the smallest and largest over its admissible ones."""
    ours = figure(run(workload, hardware))
    all_ = [ours, *(figure(run(workload, hardware, change)) for change in ADMISSIBLE.get(workload, ()))]
    return ours, min(all_), max(all_)
