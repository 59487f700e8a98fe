"""Independent jobs assigned to machines: streams, devices, or sub-arrays of different size.

A job takes `durations[job, machine]` seconds: equal columns for identical machines, any columns for unrelated ones.
A machine runs one job at a time, and a job stays where it began. What is sought is the least makespan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Jobs up to which the exact plan is sought.
_FEW = 8
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Plan:
    """Where and when every job runs: its machine, and its start and finish in s."""

    machine: tuple[int, ...]
    start: tuple[float, ...]
    finish: tuple[float, ...]

    @property
    def makespan(self) -> float:
        """Seconds until the last job ends."""
        return max(self.finish, default=0.0)


def list_schedule(durations: Any, waits: Sequence[tuple[int, int]] = ()) -> Plan:
    """Jobs taken one by one: of those that could start first, the one with the longest chain of jobs behind it.

    It goes to the machine where it ends first. Without waits and on identical machines this is longest processing time
    first, at most 4/3 - 1/(3m) times the least makespan (Graham 1969); with waits at most 2 - 1/m times the larger of
    longest chain and mean load (Graham 1966), as no machine idles while a job could run. On unrelated machines it is a
    heuristic of the kind of HEFT (Topcuoglu et al. 2002), chains measured in mean durations, without a bound.

    waits: pairs (job, earlier job that must have ended before it starts).
    """
    durations = np.asarray(durations, dtype=np.float64)
    jobs, machines = durations.shape
    before: list[list[int]] = [[] for _ in range(jobs)]
    for job, earlier in waits:
        before[job].append(earlier)
    behind = _chains_behind(durations.mean(1).tolist(), before)
    free = [0.0] * machines
    machine, start, finish = [0] * jobs, [0.0] * jobs, [0.0] * jobs
    left = list(range(jobs))
    done: set[int] = set()
    while left:
        soonest = min(free)
        ready = {j: max([soonest, *[finish[i] for i in before[j]]]) for j in left if done.issuperset(before[j])}
        job = min(ready, key=lambda j: (ready[j], -behind[j], j))
        ends = np.maximum(free, ready[job]) + durations[job]
        place = int(ends.argmin())
        machine[job], finish[job] = place, float(ends[place])
        start[job] = max(free[place], ready[job])
        free[place] = finish[job]
        left.remove(job)
        done.add(job)
    return Plan(tuple(machine), tuple(start), tuple(finish))


def _chains_behind(seconds: Sequence[float], before: Sequence[Sequence[int]]) -> list[float]:
    """Seconds of the longest chain that begins with each job."""
    longest = list(seconds)
    for job in reversed(range(len(longest))):
        for earlier in before[job]:
            longest[earlier] = max(longest[earlier], seconds[earlier] + longest[job])
    return longest


def exact_schedule(durations: Any) -> Plan:
    """The plan of least makespan, of jobs that wait for none; meant for a dozen of them.

        minimise T  with  Σ_m x[j, m] = 1 for every job j,  Σ_j durations[j, m] x[j, m] ≤ T for every machine m

    over x of zeros and ones. Solved by HiGHS (scipy.optimize.milp) to about a millionth of the longest job.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    durations = np.asarray(durations, dtype=np.float64)
    jobs, machines = durations.shape
    least = list_schedule(durations)
    if least.makespan == 0.0:
        return least
    scaled = durations / durations.max()
    # Unknowns: x row by row, then T.
    once = np.hstack([np.kron(np.eye(jobs), np.ones(machines)), np.zeros((jobs, 1))])
    loads = np.hstack([(np.eye(machines)[:, None, :] * scaled).reshape(machines, -1), -np.ones((machines, 1))])
    whole = np.append(np.ones(jobs * machines), 0.0)
    found = milp(
        1.0 - whole,
        integrality=whole,
        bounds=Bounds(0.0, np.where(whole > 0, 1.0, np.inf)),
        constraints=[LinearConstraint(once, 1.0, 1.0), LinearConstraint(loads, -np.inf, 0.0)],
        options={"mip_rel_gap": 0.0},
    )
    chosen = found.x[:-1].reshape(jobs, machines).argmax(1)
    return min(least, _one_by_one(durations, chosen.tolist()), key=lambda plan: plan.makespan)


def dealt(durations: Any) -> Plan:
    """Jobs in their order, each to the machine where it ends first."""
    free = np.zeros(durations.shape[1])
    machine = []
    for seconds in durations:
        machine.append(int((free + seconds).argmin()))
        free[machine[-1]] += seconds[machine[-1]]
    return _one_by_one(durations, machine)


def _one_by_one(durations: Any, machine: Sequence[int]) -> Plan:
    """Every machine runs its jobs in their order, without a pause."""
    free = [0.0] * durations.shape[1]
    start, finish = [], []
    for job, place in enumerate(machine):
        start.append(free[place])
        free[place] += float(durations[job, place])
        finish.append(free[place])
    return Plan(tuple(machine), tuple(start), tuple(finish))


def least_makespan(durations: Any) -> float:
    """A bound that no plan can beat: the mean load, and of the k m + 1 longest jobs the k + 1 shortest, for every k.

    Some of m machines has k + 1 of any k m + 1 jobs; k = 0 is the longest job. Each counts with its fastest machine.
    """
    durations = np.asarray(durations, dtype=np.float64)
    jobs, machines = durations.shape
    longest = np.sort(durations.min(1))[::-1]
    shared = [longest[k * machines - k : k * machines + 1].sum() for k in range(-(-jobs // machines))]
    return float(max([longest.sum() / machines, *shared]))


def assign(durations: Any, enough: float = 0.0) -> Plan:
    """The plan taken for jobs that wait for none: exact for few jobs, unless the list's cannot be beaten.

    enough: a makespan below which nothing is gained, as something else takes that long.
    """
    found = list_schedule(durations)
    bound = max(least_makespan(durations), enough)
    if len(found.machine) > _FEW or found.makespan <= bound * (1.0 + _ROUNDING):
        return found
    return exact_schedule(durations)
