"""The order of a step in streams: whatever touches the same memory is ordered, counted pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebmsim.calibration.actions import Replaced, Unit, input_gradient, units
from ebmsim.calibration.streams import START, Plan, plan
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Builder, Graph, Program
from ebmsim.graph.lower import lower
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.spec.library import load_workload, names


def before(found: Plan) -> list[int]:
    """For every unit, the units that have ended when it begins, one bit each: of its stream, and what it waits for."""
    earlier: list[int] = []
    last: dict[int, int] = {}
    for i, (stream, waits) in enumerate(found.placed):
        known = 0
        for j in (*waits, *([last[stream]] if stream in last else [])):
            known |= 0 if j == START else earlier[j] | 1 << j
        earlier.append(known)
        last[stream] = i
    return earlier


def conflicts(of: Sequence[Unit], graph: Graph) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of units that touch the same memory, of which one writes."""
    memory = list(range(len(graph.tensors)))
    for node in graph.nodes:
        if OPERATORS[node.op].category == "view" or OPERATORS[node.op].in_place:
            for t in node.outputs:
                memory[t] = memory[node.inputs[0]]
    touched: dict[tuple[str, int], list[tuple[int, bool]]] = {}
    for i, unit in enumerate(of):
        changes = OPERATORS[graph.nodes[unit.node].op].in_place
        for t in unit.reads:
            touched.setdefault(("memory", memory[t]), []).append((i, False))
            touched.setdefault(("tensor", t), []).append((i, False))
        for t in unit.writes:
            touched.setdefault(("tensor", t), []).append((i, True))
            if changes or memory[t] == t:
                touched.setdefault(("memory", memory[t]), []).append((i, True))
    pairs = set()
    for accesses in touched.values():
        for n, (i, writes) in enumerate(accesses):
            pairs |= {(j, i) for j, wrote in accesses[:n] if j != i and (writes or wrote)}
    return pairs


def check(of: Sequence[Unit], graph: Graph, streams: int) -> Plan:
    found = plan(of, graph, streams)
    earlier = before(found)
    assert all(earlier[later] >> first & 1 for first, later in conflicts(of, graph))
    begun = {0}
    for i, (stream, waits) in enumerate(found.placed):
        assert 0 <= stream < streams and all(START <= j < i for j in waits)
        assert all(j == START or found.placed[j].stream != stream for j in waits)
        # The first of another stream is behind something of stream 0, or what was there at the start.
        assert stream in begun or any(j == START or found.placed[j].stream == 0 for j in waits)
        begun.add(stream)
        if not of[i].branch:
            assert stream == 0
        gradients = [j for j in range(i) if of[j].several]
        assert all(earlier[i] >> j & 1 for j in gradients)
    last = {stream: i for i, (stream, _) in enumerate(found.placed) if stream}
    assert set(found.ends) == set(last.values())
    return found


def step_of(program: Program) -> list[Unit]:
    graph = program.graph
    inside = [i for s in program.sections if s.label == "step" for i in range(s.first, s.last)]
    return units(graph, inside, lambda i: graph.nodes[i].phase, "cpu", [input_gradient(e) for e in program.evaluations])


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("name", names("workload"))
def test_what_depends_on_one_another_is_ordered(name: str, streams: int) -> None:
    program = compose(load_workload(name, "small"), 2)
    of = step_of(program)
    found = check(of, program.graph, streams)
    if streams == 1:
        assert set(found.placed) == {(0, ())} and found.ends == ()


@pytest.mark.parametrize("name", ["ebm_cmp", "ebm_cvr", "ccsp", "rrr", "ebm_cdt"])
def test_what_kernels_await_is_ordered(name: str) -> None:
    """Kernels and the earlier ones of other branches that they wait for, as costs have them."""
    program = compose(load_workload(name, "small"), 2)
    graph, of = program.graph, step_of(program)
    earlier = before(plan(of, graph, 4))
    inside = [i for s in program.sections if s.label == "step" for i in range(s.first, s.last)]
    kernels = [i for i in inside if OPERATORS[graph.nodes[i].op].category != "view"]
    unit = {u.node: number for number, u in enumerate(of) if not u.several}
    table = lower(graph, [graph.nodes[i] for i in inside], "fp32")
    pairs = [(unit[kernels[j]], unit[kernels[i]]) for i, j in table.awaited if {kernels[i], kernels[j]} <= set(unit)]
    assert len(pairs) > 0 and all(earlier[later] >> first & 1 for first, later in pairs)


def test_branches_are_spread_and_wait_for_little() -> None:
    """Three networks and what adds their energies up: it waits for two of them, and they for the start."""
    program = compose(load_workload("ebm_cmp", "small"), 2)
    of = step_of(program)
    found = plan(of, program.graph, 3)
    streams = {unit.branch: set() for unit in of if unit.branch}
    for unit, placed in zip(of, found.placed, strict=True):
        if unit.branch:
            streams[unit.branch].add(placed.stream)
    assert len(streams) == 3 and sorted(s for (s,) in streams.values()) == [0, 1, 2]
    forward = [waits for unit, (_, waits) in zip(of, found.placed, strict=True) if unit.label == "forward"]
    assert sum(map(len, forward)) <= 6


def emitted(operations: Sequence[tuple[str, int, int, int]]) -> Graph:
    """A graph of operators (name, branch, 0 for none, and two of the tensors there are, counted from the latest)."""
    b = Builder()
    made = [b.tensor((2, 3), "input"), b.tensor((2, 3), "input")]
    for op, branch, first, second in operations:
        x, y = made[-1 - first % len(made)], made[-1 - second % len(made)]
        with b.at(branch=f"branch{branch}" if branch else ""):
            if op == "assign":
                made.append(b.emit("assign", x, y, axis=-1, start=0, length=3))
            else:
                made.append(b.emit("add", x, y) if op == "add" else b.emit("reshape", x, shape=(2, 3)))
    return b.graph()


def all_of(graph: Graph, replaced: Sequence[Replaced] = ()) -> list[Unit]:
    return units(graph, range(len(graph.nodes)), lambda i: "forward", "cpu", replaced)


OPERATION = st.tuples(
    st.sampled_from(["assign", "add", "reshape"]), st.sampled_from([1, 2, 3, 0]), st.integers(0, 7), st.integers(0, 7)
)


@given(st.lists(OPERATION, min_size=12, max_size=24), st.integers(2, 4))
def test_any_graph_is_ordered(operations: list[tuple[str, int, int, int]], streams: int) -> None:
    """Arithmetic, views and writes in place, in any branch."""
    graph = emitted(operations)
    check(all_of(graph), graph, streams)


def test_a_write_in_place_waits_for_reads_and_for_writes() -> None:
    """x + y in one branch, x overwritten in another: after the first has read it, though it reads nothing of it."""
    graph = emitted([("add", 1, 1, 0), ("assign", 2, 2, 1)])
    assert check(all_of(graph), graph, 2).placed == ((0, ()), (1, (0,)))
    through_a_view = emitted([("reshape", 1, 1, 0), ("add", 1, 0, 0), ("assign", 2, 3, 2)])
    assert check(all_of(through_a_view), through_a_view, 2).placed[-1].waits == (1,)


def test_what_follows_a_gradient_waits_for_it() -> None:
    """It reads what autograd saved, which is not among its inputs."""
    graph = emitted([("add", 1, 1, 0), ("add", 2, 2, 1), ("add", 0, 0, 1), ("add", 1, 4, 4), ("add", 2, 5, 5)])
    gradient = Replaced(2, 3, (2, 3), (4,), lambda values: None)
    placed = check(all_of(graph, [gradient]), graph, 2).placed
    assert [stream for stream, _ in placed] == [0, 1, 0, 0, 1] and placed[-1].waits == (2,)
