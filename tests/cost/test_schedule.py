"""Branches in streams: plans against kernels walked one by one and the best of all assignments; laws of streams."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebmsim.cost.schedule import Groups, StagePlan, longest_chain, overlapped, planned, stages
from ebmsim.estimation import Estimate, estimate
from ebmsim.hardware import Hardware, SubArray
from ebmsim.policy import Policy
from ebmsim.report.explain import print_kernels
from ebmsim.spec.library import load_hardware, load_workload
from ebmsim.units import format_quantity

SECONDS = st.floats(0, 10, allow_subnormal=False)


class Launches(SimpleNamespace):
    """As much of a kernel table as a schedule reads."""

    def __len__(self) -> int:
        return len(self.phase)


class Case:
    """Kernels of one stage: seconds alone, those of all units and of a level, and what an event takes."""

    def __init__(self, kernels: list[tuple[int, float, float, float]], waits: set[tuple[int, int]], event: float):
        self.branches = [branch for branch, *_ in kernels]
        # Pairs within a branch say nothing new; a table has none.
        self.waits = sorted((k, j) for k, j in waits if self.branches[k] != self.branches[j])
        names = [f"b[{branch}]" for branch in self.branches]
        self.table: Any = Launches(phase=[0] * len(kernels), branches=names, awaited=np.array(self.waits))
        self.given, units, level = (np.array(column) for column in list(zip(*kernels, strict=True))[1:])
        self.units, self.level = np.minimum(units, self.given), np.minimum(level, self.given)
        self.event = event

    def plan(self, streams: int) -> StagePlan:
        found = planned(self.table, self.given, [self.level], self.units, streams, self.event)
        assert len(found) == 1
        return found[0]

    def walked(self, stream: dict[int, int]) -> list[float]:
        """When every kernel ends: issued in order, each after its stream and after what it reads."""
        ends: list[float] = []
        for k, branch in enumerate(self.branches):
            before = [ends[j] for j in range(k) if stream[self.branches[j]] == stream[branch]]
            before += [ends[j] for i, j in self.waits if i == k]
            ends.append(max(before, default=0.0) + self.given[k])
        return ends

    @property
    def floor(self) -> float:
        """Longest chain, units, level."""
        own = {branch: branch for branch in self.branches}
        return float(max(max(self.walked(own)), self.units.sum(), self.level.sum()))

    def __repr__(self) -> str:
        return f"{self.branches}, {self.waits}, {self.given}, {self.units}, {self.level}, {self.event}"


@st.composite
def cases(draw: st.DrawFn, waits: bool = True) -> Case:
    """Two to five branches, one after another or mixed; a kernel may wait for earlier ones of other branches."""
    branches = draw(st.lists(st.integers(0, 4), min_size=2, max_size=14).filter(lambda b: len(set(b)) > 1))
    if draw(st.booleans()):
        branches = sorted(branches)
    kernels = [(branch, draw(SECONDS), draw(SECONDS), draw(SECONDS)) for branch in branches]
    pairs = [(k, j) for k in range(len(branches)) for j in range(k) if branches[k] != branches[j]]
    chosen = draw(st.sets(st.sampled_from(pairs), max_size=6)) if waits and pairs else set()
    return Case(kernels, chosen, draw(st.sampled_from([0.0, 0.1, 1.0])))


@given(cases(), st.integers(1, 6))
def test_a_plan_is_what_its_kernels_take(case: Case, streams: int) -> None:
    """In the streams it names the kernels end as planned; the stage takes the larger of that and every resource."""
    plan = case.plan(streams)
    placed = {int(p.branch[2:-1]): p for p in plan.placements}
    assert set(placed) == set(case.branches)
    used = len({p.stream for p in plan.placements})
    assert used <= streams
    assert {p.stream for p in plan.placements} <= set(range(streams))
    ends = case.walked({branch: p.stream for branch, p in placed.items()})
    for branch, p in placed.items():
        mine = [k for k, other in enumerate(case.branches) if other == branch]
        assert p.start == pytest.approx(ends[mine[0]] - case.given[mine[0]], abs=1e-9)
        assert p.finish == pytest.approx(ends[mine[-1]], abs=1e-9)
    serial = case.given.sum()
    if used == 1:
        assert plan.seconds == pytest.approx(serial)
    else:
        assert plan.seconds >= max(case.floor, max(ends)) + 2 * case.event * (used - 1) - 1e-9
    assert plan.seconds <= serial + 1e-9


@given(cases())
def test_one_more_stream_is_never_slower(case: Case) -> None:
    times = [case.plan(streams).seconds for streams in range(1, 7)]
    assert all(after <= before for before, after in pairwise(times))


@given(cases(), st.integers(1, 6))
def test_a_stage_takes_its_longest_chain_and_every_resource(case: Case, streams: int) -> None:
    found = overlapped(case.table, case.given, [case.level], case.units, streams, case.event)
    assert found.sum() >= case.floor - 1e-9
    assert found.sum() == pytest.approx(case.plan(streams).seconds)
    assert (found <= case.given * (1 + 1e-12)).all()
    (stage,) = stages(case.table)
    assert max(case.walked({b: b for b in case.branches})) == pytest.approx(
        longest_chain(case.table, stage, case.given)
    )


@settings(deadline=None)
@given(cases(waits=False), st.integers(2, 3))
def test_branches_that_do_not_wait_are_assigned_as_well_as_can_be(case: Case, streams: int) -> None:
    """The best of all assignments: max(load, resources) and the events of the streams that it uses."""
    names = sorted(set(case.branches))
    best = case.given.sum()
    for chosen in product(range(streams), repeat=len(names)):
        ends = case.walked(dict(zip(names, chosen, strict=True)))
        used = len(set(chosen))
        if used > 1:
            best = min(best, max(case.floor, *ends) + 2 * case.event * (used - 1))
    assert case.plan(streams).seconds == pytest.approx(best, rel=1e-5, abs=1e-9)


def test_branches_that_add_up_in_turn_are_dealt_in_their_order() -> None:
    """Four gradients of 10 s, each ending in an addition of 1 s to the sum so far, in two streams.

    In order of issue the streams take turns: the additions end at 11, 12, 22 and 23. Two neighbours in a stream would
    end at 34 (0 and 1 | 2 and 3: the addition of 2 waits for that of 1 until 22, and 3 follows it).
    """
    kernels = [(branch, seconds, 0.0, 0.0) for branch in range(4) for seconds in (10.0, 1.0)]
    case = Case(kernels, {(3, 1), (5, 3), (7, 5)}, 0.0)
    assert max(case.walked({0: 0, 1: 0, 2: 1, 3: 1})) == 34.0
    plan = case.plan(2)
    assert plan.seconds == 23.0
    assert [p.stream for p in plan.placements] == [0, 1, 0, 1]
    assert [p.finish for p in plan.placements] == [11.0, 12.0, 22.0, 23.0]


def test_what_begins_by_waiting_is_planned_behind_what_it_waits_for() -> None:
    """Issued a 3 s, b 2 s, c 2 s, d 5 s, and d waits for b: b and d | a and c take 7 s.

    Longest first would give c and d | a and b, 10 s (d waits for b until 5); dealt in order a and d | b and c, 8 s.
    """
    case = Case([(0, 3.0, 0, 0), (1, 2.0, 0, 0), (2, 2.0, 0, 0), (3, 5.0, 0, 0)], {(3, 1)}, 0.0)
    assert max(case.walked({0: 1, 1: 1, 2: 0, 3: 0})) == 10.0
    assert max(case.walked({0: 0, 1: 1, 2: 1, 3: 0})) == 8.0
    assert case.plan(2).seconds == 7.0


# --- groups of arrays -----------------------------------------------------------------------------------------------


class Grouped(Case):
    """The same kernels, which take longer on one of two or three groups of arrays alone, and share other units."""

    def __init__(self, case: Case, slower: Any, shared: Any) -> None:
        self.__dict__.update(case.__dict__)
        self.groups = Groups(case.given * slower, np.minimum(shared, case.given))

    def plan(self, streams: int) -> StagePlan:
        limits = ([self.level], self.units, streams, self.event, self.groups)
        (found,) = planned(self.table, self.given, *limits)
        assert overlapped(self.table, self.given, *limits).sum() == pytest.approx(found.seconds)
        return found

    def on_groups(self, group: dict[int, int]) -> float:
        """The least time with every branch on its group: kernels walked, the level, the shared units, events."""
        alone, self.given = (
            self.given,
            self.groups.seconds[[group[b] for b in self.branches], range(len(self.branches))],
        )
        ends = self.walked(group)
        self.given = alone
        events = 2 * self.event * (len(set(group.values())) - 1)
        return float(max(self.level.sum(), self.groups.shared.sum(), *ends)) + events


@st.composite
def grouped(draw: st.DrawFn, waits: bool = True) -> Grouped:
    case = draw(cases(waits))
    count = len(case.branches)
    factors = st.lists(st.floats(1, 4), min_size=count, max_size=count)
    slower = draw(st.lists(factors, min_size=2, max_size=3))
    return Grouped(case, np.array(slower), np.array(draw(st.lists(SECONDS, min_size=count, max_size=count))))


@settings(deadline=None)
@given(grouped(), st.integers(1, 5))
def test_groups_are_taken_where_they_are_faster(case: Grouped, streams: int) -> None:
    """Never slower than one stream or than streams on all arrays; a branch keeps its group, and takes what it takes."""
    plan = case.plan(streams)
    together = Case.plan(case, streams)
    assert plan.seconds <= together.seconds <= case.given.sum() * (1 + 1e-12)
    if all(p.group is None for p in plan.placements):
        assert plan.placements == together.placements
        assert plan.seconds == together.seconds
    else:
        group = {int(p.branch[2:-1]): p.group for p in plan.placements if p.group is not None}
        assert set(group) == set(case.branches)
        assert len(set(group.values())) <= streams
        assert plan.seconds >= case.on_groups(group) - 1e-9
    assert case.plan(streams + 1).seconds <= plan.seconds


@settings(deadline=None)
@given(grouped(waits=False))
def test_branches_get_the_best_of_all_groups(case: Grouped) -> None:
    """With streams for all groups: the best of every assignment to the s groups that are fastest for all branches."""
    names = sorted(set(case.branches))
    count = len(case.groups.seconds)
    fastest = sorted(range(count), key=lambda group: float(case.groups.seconds[group].sum()))
    best = Case.plan(case, count).seconds
    for chosen in product(range(count), repeat=len(names)):
        group = {name: fastest[place] for name, place in zip(names, chosen, strict=True)}
        # As many streams as the slowest of the groups taken asks for.
        events = 2 * case.event * (max(chosen) - len(set(chosen)) + 1)
        if 0 < max(chosen) < len(names):
            best = min(best, case.on_groups(group) + events)
    assert case.plan(count).seconds <= best * (1 + 1e-5) + 1e-9


# --- estimates ------------------------------------------------------------------------------------------------------


def timed(workload: str, hardware: str = "rtx5090", **policy: Any) -> Estimate:
    return estimate(load_workload(workload, "small"), load_hardware(hardware), Policy(**policy))


@pytest.mark.parametrize("execution", ["eager", "graph"])
@pytest.mark.parametrize("workload", ["ebm_cvr", "ebm_cmp", "ccsp"])
def test_plans_lie_in_the_step(workload: str, execution: str) -> None:
    """Every stage's plan fills the time that its kernels have in the step, and holds all its branches."""
    e = timed(workload, streams=3, execution=execution)
    table, advance = e.timing.table, e.timing.advance
    assert e.timing.plans
    for plan in e.timing.plans:
        mine = set(np.array(table.branches)[plan.kernels])
        assert {p.branch for p in plan.placements} == mine
        assert len(mine) > 1
        before = float(advance[: plan.kernels[0]].sum())
        assert min(p.start for p in plan.placements) == pytest.approx(before, abs=1e-12)
        took = float(advance[plan.kernels].sum())
        assert max(p.finish for p in plan.placements) == pytest.approx(before + took, rel=1e-9)
        assert all(p.start <= p.finish for p in plan.placements)
        assert sorted({p.stream for p in plan.placements}) == list(range(len({p.stream for p in plan.placements})))


def test_there_is_no_plan_in_one_stream() -> None:
    """Of one asked for, on a device that runs one kernel at a time, or without branches."""
    assert timed("ebm_cmp").timing.plans == ()
    assert timed("ebm_cmp", "ryzen9900x", streams=3).timing.plans == ()
    assert timed("ired", streams=3).timing.plans == ()


def printed(e: Estimate, capsys: pytest.CaptureFixture[str]) -> list[str]:
    print_kernels(e)
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_plans_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Stage, stream and its components in order, from when to when."""
    e = timed("ebm_cmp", streams=2, execution="graph")
    lines = printed(e, capsys)
    assert "stage stream components from to" in lines
    forward, backward = e.timing.plans
    assert [p.stream for p in forward.placements] == [p.stream for p in backward.placements] == [0, 1, 0]
    for plan, names in ((forward, "main[0, 2]"), (backward, "main[2, 0]")):
        mine = [p for p in plan.placements if p.stream == 0]
        times = f"{format_quantity(mine[0].start, 'time')} {format_quantity(mine[-1].finish, 'time')}"
        assert f"{plan.phase} 0 {names} {times}" in lines
        assert any(line.startswith(f"{plan.phase} 1 main[1] ") for line in lines)


def test_components_of_one_stream_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(timed("ebm_cvr", streams=2, execution="graph"), capsys)
    assert any(line.startswith("forward 1 mid[0], small[0] ") for line in lines)


def test_what_cannot_run_side_by_side_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(timed("ebm_cmp", "ryzen9900x", streams=2), capsys)
    assert "no two components of ebm_cmp run side by side on ryzen9900x" in lines
    assert not any("stream" in line or "side by side" in line for line in printed(timed("ebm_cmp"), capsys))


@pytest.fixture
def unequal() -> Hardware:
    """A TPU with the same cells in unequal arrays, which runs four kernels at a time."""
    tpu = load_hardware("tpu_v6e")
    matrix = replace(tpu.matrix, subarrays=(SubArray(256, 256, 3), SubArray(64, 128, 8)))
    return replace(tpu, name="unequal", matrix=matrix, launch=replace(tpu.launch, concurrent_kernels=4))


@pytest.mark.parametrize("workload", ["ebm_cmp", "comet", "ccsp"])
def test_components_get_groups_of_arrays(workload: str, unequal: Hardware, capsys: pytest.CaptureFixture[str]) -> None:
    """Never slower than in one stream, never faster than all arrays at their peak; the groups are printed."""
    settled = load_workload(workload, "small")
    steps = [estimate(settled, unequal, Policy(streams=s, dtype="bf16")) for s in (1, 2, 3)]
    times = [e.seconds["t_samp"] or 0.0 for e in steps]
    assert times[0] >= times[1] >= times[2]
    roofline = estimate(settled, unequal, Policy(streams=2, dtype="bf16", fidelity="roofline"))
    assert times[1] >= (roofline.seconds["t_samp"] or 0.0)
    assert all(p.group is None for plan in roofline.timing.plans for p in plan.placements)
    if workload == "ebm_cmp":
        assert {p.group for p in steps[1].timing.plans[0].placements} == {0, 1}
        lines = printed(steps[1], capsys)
        assert "stage stream arrays components from to" in lines
        forward = " ".join(line for line in lines if line.startswith(("forward 0 ", "forward 1 ")))
        assert re.search(r"forward \d 3 of 256 × 256 main\[", forward)
        assert re.search(r"forward \d 8 of 64 × 128 main\[", forward)


def test_a_kernel_on_one_group_takes_at_least_what_it_takes_on_all(unequal: Hardware) -> None:
    e = estimate(load_workload("ebm_cmp"), unequal, Policy(streams=2, dtype="bf16"))
    priced = e.timing.priced
    assert priced.groups is not None
    alone = priced.groups.seconds
    assert alone.shape == (2, len(priced.rows))
    assert (alone >= priced.device * (1 - 1e-12)).all()
    others = priced.rows.product < 0
    np.testing.assert_allclose(alone[:, others], np.stack([priced.device[others]] * 2))
    assert (alone[1] > 1.5 * priced.device).any()


def test_a_step_in_streams_needs_no_scipy_where_a_list_is_best() -> None:
    """Three equal networks of which two have to share a stream, and others where the list reaches a bound."""
    code = (
        "import sys, ebmsim\n"
        "for name in ('ebm_cmp', 'ebm_cvr'):\n"
        "    w, h = ebmsim.load_workload(name, 'small'), ebmsim.load_hardware('rtx5090')\n"
        "    assert ebmsim.estimate(w, h, ebmsim.Policy(streams=2)).timing.plans\n"
        "print('scipy' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
