"""Steps run in torch: every shipped workload, with the gradients that its own graph computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from ebmsim.calibration.execute import Step, defaults, measured_phases, starting_values
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Evaluation, Graph
from ebmsim.graph.kernels import PHASES
from ebmsim.spec.library import load_workload, names

_SPEC = importlib.util.spec_from_file_location("truths", Path(__file__).parents[1] / "graph" / "conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
truths = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(truths)

# Small enough for one thread in float64.
COMPARED = ("ade", "ebm_imp", "ebm_eqm", "ired", "irem", "ebm_cvr", "ebm_cmp", "ebm_mbp", "comet", "ebm_cdt")


@pytest.mark.parametrize("name", names("workload"))
def test_every_workload_runs(name: str) -> None:
    step = Step(load_workload(name, "small"))
    seconds = step.run()
    assert set(seconds) == {*PHASES, "step"}
    assert seconds["step"] == pytest.approx(sum(seconds[phase] for phase in PHASES))
    again = step.run()
    assert all((again[phase] > 0) == (seconds[phase] > 0) for phase in PHASES)
    found = measured_phases(seconds)
    assert found["t_samp"] == pytest.approx(sum(value for key, value in found.items() if key != "t_samp"))
    scores = not step.program.evaluations
    assert (found["t_bwd_in"] > 0) != scores and found["t_fwd"] > 0


@pytest.mark.parametrize("name", COMPARED)
def test_autograd_gives_the_gradient_of_the_graph(name: str) -> None:
    """The graph's own backward nodes, executed by their definitions, from the values that the step starts with."""
    workload = load_workload(name, "small")
    step = Step(workload, dtype="fp64", seed=3)
    graph, first = step.program.graph, min(s.first for s in step.program.sections if s.label == "step")
    evaluation = next(e for e in step.program.evaluations if e.since >= first)
    values = dict(step.values)
    # As far as the gradient; random numbers that entered it are then those of both.
    actions = (action for stretch in step.stretches for action in stretch.actions)
    with defaults(step.dtype):
        while evaluation.gradient not in values:
            next(actions)(values)
    made = made_by(graph, evaluation)
    known = {t: v.detach() for t, v in values.items() if t not in made and v is not None}
    for number, tensor in enumerate(graph.tensors):
        if tensor.role == "constant":
            known[number] = torch.full(tensor.shape, {"one": 1.0, "zero": 0.0}[tensor.name], dtype=torch.float64)
    for node in graph.nodes[evaluation.since : evaluation.last]:
        results = truths.REALISED[node.op]([known[t] for t in node.inputs], dict(node.attributes))
        known |= dict(zip(node.outputs, results, strict=True))
    theirs = known[evaluation.gradient]
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(values[evaluation.gradient] / scale, theirs / scale, rtol=1e-7, atol=1e-8)


def made_by(graph: Graph, evaluation: Evaluation) -> set[int]:
    return {t for node in graph.nodes[evaluation.since : evaluation.last] for t in node.outputs}


def test_indices_choose_among_what_there_is() -> None:
    """Tables of embeddings, nodes of graphs: drawn below the fewest entries of all that read them."""
    workload = load_workload("ccsp", "small")
    program = compose(workload, 4)
    values = starting_values(program.graph, "cpu", 0)
    graph = next(t for t, tensor in enumerate(program.graph.tensors) if tensor.name == "graph" and t in values)
    assert set(values[graph].flatten().tolist()) == set(range(4)) and values[graph].dtype == torch.int64
