"""Jobs on machines: every plan is possible, lists keep Graham's bounds, and the exact plan is that of brute force."""

import subprocess
import sys
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim.cost.assignment import Plan, assign, exact_schedule, least_makespan, list_schedule

SECONDS = st.floats(1e-6, 10.0)
# Whole numbers make ties.
LENGTHS = st.lists(SECONDS | st.integers(1, 4).map(float), min_size=1, max_size=6)
MACHINES = st.integers(1, 3)
# HiGHS ends at a gap of 1e-6 of the longest job.
CLOSE = 2e-6


def identical(lengths: list[float], machines: int) -> Any:
    return np.repeat(np.array(lengths)[:, None], machines, axis=1)


@st.composite
def unrelated(draw: st.DrawFn) -> Any:
    jobs, machines = draw(st.integers(1, 6)), draw(MACHINES)
    return np.array([[draw(SECONDS) for _ in range(machines)] for _ in range(jobs)])


@st.composite
def waiting(draw: st.DrawFn, most: int = 12) -> tuple[list[float], list[tuple[int, int]]]:
    """Jobs in which each may wait for earlier ones."""
    lengths = draw(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=most))
    pairs = [(job, earlier) for job in range(len(lengths)) for earlier in range(job)]
    return lengths, draw(st.lists(st.sampled_from(pairs), max_size=10, unique=True)) if pairs else []


def brute_force(durations: Any) -> float:
    """The least makespan over all assignments."""
    jobs, machines = durations.shape
    return min(
        max(sum(durations[j, m] for j in range(jobs) if chosen[j] == m) for m in range(machines))
        for chosen in product(range(machines), repeat=jobs)
    )


def longest_chain(lengths: list[float], waits: list[tuple[int, int]]) -> float:
    ends: list[float] = []
    for job, length in enumerate(lengths):
        ends.append(length + max([ends[i] for j, i in waits if j == job], default=0.0))
    return max(ends)


def check(plan: Plan, durations: Any, waits: list[tuple[int, int]]) -> None:
    """Every job takes its time on its machine, alone, and after what it waits for."""
    jobs, machines = durations.shape
    assert len(plan.machine) == len(plan.start) == len(plan.finish) == jobs
    assert all(start >= 0 for start in plan.start)
    for j in range(jobs):
        assert plan.finish[j] - plan.start[j] == pytest.approx(durations[j, plan.machine[j]], abs=1e-12)
    for j, i in waits:
        assert plan.start[j] >= plan.finish[i]
    for m in range(machines):
        mine = sorted((plan.start[j], plan.finish[j]) for j in range(jobs) if plan.machine[j] == m)
        assert all(before[1] <= after[0] for before, after in pairwise(mine))
    assert plan.makespan == max(plan.finish)


@given(waiting(), st.integers(1, 4))
def test_a_list_is_possible_and_keeps_grahams_bound(jobs: Any, machines: int) -> None:
    """makespan ≤ mean load + (1 - 1/m) longest chain ≤ (2 - 1/m) of the larger of both."""
    lengths, waits = jobs
    durations = identical(lengths, machines)
    plan = list_schedule(durations, waits)
    check(plan, durations, waits)
    chain, load = longest_chain(lengths, waits), sum(lengths) / machines
    assert plan.makespan <= load + (1 - 1 / machines) * chain + 1e-9
    assert plan.makespan <= (2 - 1 / machines) * max(chain, load) + 1e-9


@settings(max_examples=200)
@given(LENGTHS, MACHINES)
def test_longest_first_keeps_its_bound(lengths: list[float], machines: int) -> None:
    """4/3 - 1/(3m) of the best of all assignments."""
    durations = identical(lengths, machines)
    plan = list_schedule(durations)
    check(plan, durations, [])
    assert plan.makespan <= (4 / 3 - 1 / (3 * machines)) * brute_force(durations) * (1 + 1e-12)


def test_the_bound_is_reached() -> None:
    """Graham's example of 2 m + 1 jobs: 11/9 on three machines."""
    durations = identical([5, 5, 4, 4, 3, 3, 3], 3)
    assert list_schedule(durations).makespan == 11
    assert exact_schedule(durations).makespan == pytest.approx(brute_force(durations)) == 9


@given(unrelated(), st.data())
def test_a_list_on_unrelated_machines_is_possible(durations: Any, data: st.DataObject) -> None:
    pairs = [(job, earlier) for job in range(len(durations)) for earlier in range(job)]
    waits = data.draw(st.lists(st.sampled_from(pairs), max_size=6, unique=True)) if pairs else []
    check(list_schedule(durations, waits), durations, waits)


def test_a_job_waits_for_the_machine_that_ends_it_first() -> None:
    """The second job runs nine times faster where the first one runs: 1 + 1 < 9."""
    plan = list_schedule(np.array([[1.0, 10.0], [1.0, 9.0]]))
    assert plan == Plan((0, 0), (0.0, 1.0), (1.0, 2.0))


@settings(max_examples=150, deadline=None)
@given(unrelated() | st.builds(identical, LENGTHS, MACHINES))
def test_the_exact_plan_is_the_best_of_all(durations: Any) -> None:
    plan, best = exact_schedule(durations), brute_force(durations)
    check(plan, durations, [])
    assert best - 1e-9 <= plan.makespan <= best + CLOSE * durations.max()
    assert plan.makespan <= list_schedule(durations).makespan
    assert least_makespan(durations) <= best * (1 + 1e-12)


@settings(max_examples=150, deadline=None)
@given(unrelated() | st.builds(identical, LENGTHS, MACHINES), st.floats(0.0, 20.0))
def test_the_plan_taken_is_exact_or_enough(durations: Any, enough: float) -> None:
    """What is taken is the best, or ends no later than something that takes long anyway."""
    plan = assign(durations, enough)
    check(plan, durations, [])
    best = max(brute_force(durations), enough)
    assert max(plan.makespan, enough) <= best + CLOSE * durations.max() + 1e-8 * best
    assert plan == assign(durations, enough)


def test_a_dozen_jobs_have_an_exact_plan() -> None:
    """Twelve lengths whose halves can be made equal, where the list's are not."""
    lengths = [46.0, 43.0, 41.0, 38.0, 37.0, 29.0, 28.0, 23.0, 17.0, 13.0, 5.0, 2.0]
    durations = identical(lengths, 2)
    assert exact_schedule(durations).makespan == pytest.approx(sum(lengths) / 2)


def test_no_job_and_no_time_are_plans_too() -> None:
    assert list_schedule(np.zeros((0, 2))) == Plan((), (), ())
    assert exact_schedule(np.zeros((0, 2))).makespan == assign(np.zeros((0, 2))).makespan == 0.0
    assert exact_schedule(np.zeros((3, 2))).makespan == assign(np.zeros((3, 2))).makespan == 0.0


@pytest.mark.parametrize(
    ("lengths", "machines", "enough", "needed"),
    [
        ([2.0, 2.0, 2.0], 2, 0.0, False),
        ([5.0, 1.0, 1.0, 1.0], 2, 0.0, False),
        ([3.0, 3.0, 2.0, 2.0, 2.0], 2, 0.0, True),
        ([3.0, 3.0, 2.0, 2.0, 2.0], 2, 7.0, False),
        ([3.0, 3.0, 2.0, 2.0, 2.0] + 4 * [1.0], 2, 0.0, False),
    ],
)
def test_scipy_is_imported_where_a_list_could_be_beaten(
    lengths: list[float], machines: int, enough: float, needed: bool
) -> None:
    """Equal jobs, one long job, something else that takes longer, or many jobs: the list's plan stands."""
    code = (
        "import sys, numpy as np; from ebmsim.cost.assignment import assign; "
        f"assign(np.repeat(np.array({lengths})[:, None], {machines}, 1), {enough}); "
        "print('scipy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(needed)
