"""Training iterations run in torch: the weight gradients that their own graphs compute, and their parts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ebmsim.calibration.actions import follow_on, input_gradient
from ebmsim.calibration.execute import defaults
from ebmsim.calibration.train import Iteration, Recorded, recorded, run_iteration
from ebmsim.graph.graph import Evaluation
from ebmsim.graph.training import PARTS, compose_training
from ebmsim.spec.library import load_workload, names
from ebmsim.spec.workload import Workload


def of_graph_tests(file: str) -> Any:
    """A module of the tests of graphs."""
    spec = importlib.util.spec_from_file_location(file, Path(__file__).parents[1] / "graph" / f"{file}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


truths, toys = of_graph_tests("conftest"), of_graph_tests("test_unrolled")

RANDOM = ("random_normal", "random_uniform", "random_integers", "categorical")
# But for ebm_cvg, whose 56 million weights take seconds.
TRAINED = [n for n in names("workload") if n != "ebm_cvg" and load_workload(n).file.training is not None]
# Terms: contrastive, also with denoising; scores; unrolled, some with what encodes the data; KL; denoised energies.
COMPARED = (
    *(
        "ebm_imp",
        "ebm_mbp",
        "ired",
        "ebm_gr",
        "ccsp",
        "mlp_reverse",
        "ebm_cgid",
        "irem",
        "ebt",
        "ebm_cl",
        "comet",
        "ade",
    ),
    *("ebm_cmp", "ebm_cvr", "ebm_eqm", "ebm_ebp"),
)


@pytest.mark.parametrize("name", TRAINED)
def test_every_workload_with_training_runs(name: str) -> None:
    workload = load_workload(name, "small")
    iteration = Iteration(workload)
    seconds = iteration.run()
    assert set(seconds) == {*PARTS, "iteration"}
    assert seconds["iteration"] == pytest.approx(sum(seconds[part] for part in PARTS))
    assert {part for part in PARTS if seconds[part] > 0} == set(iteration.recorded.parts)
    composed = compose_training(workload)
    assert (iteration.recorded.graph, iteration.recorded.parts) == (composed.graph, composed.parts)
    assert all(weight.grad is None for weight in iteration.weights)


def autograd(iteration: Iteration) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Gradients of an iteration by weight, and what was drawn at random or held in it."""
    values, drawn = dict(iteration.values), {}
    nodes, held = iteration.recorded.graph.nodes, [e.gradient for e in iteration.recorded.constants]
    with defaults(iteration.dtype), torch.enable_grad():
        for unit in (unit for unit in iteration.units if unit.label != "update"):
            for action in unit.actions:
                action(values)
            if nodes[unit.node].op in RANDOM or set(unit.writes) & set(held):
                drawn |= {t: values[t].detach().clone() for t in unit.writes if t in values}
    zero = torch.zeros(())
    return {t: zero if (g := iteration.values[t].grad) is None else g for t in iteration.recorded.updated}, drawn


def pooled(i: list[Tensor], a: dict[str, Any]) -> tuple[Tensor, ...]:
    """Several images a chain, which torch takes as one axis."""
    found = truths.REALISED["max_pool2d"]([i[0].flatten(0, -4)], a)
    return tuple(t.reshape(*i[0].shape[:-3], *t.shape[-3:]) for t in found)


REALISED = {**truths.REALISED, "max_pool2d": pooled}


def node_by_node(found: Recorded, values: dict[int, Tensor], drawn: dict[int, Tensor]) -> dict[int, Tensor]:
    """Every tensor of the graph before the optimiser, by the definitions of its operators."""
    graph = found.graph
    known = {t: value.detach() for t, value in values.items()} | drawn
    for t, tensor in enumerate(graph.tensors):
        if tensor.role == "constant" and t not in known:
            known[t] = torch.full(tensor.shape, {"one": 1.0, "zero": 0.0}[tensor.name], dtype=torch.float64)
    for node in graph.nodes[: found.parts["update"][0][0]]:
        if node.op in RANDOM and node.outputs[0] in drawn:
            continue
        results = REALISED[node.op]([known[t] for t in node.inputs], dict(node.attributes))
        known |= dict(zip(node.outputs, results, strict=True))
    return known


@pytest.mark.parametrize("name", COMPARED)
def test_autograd_gives_the_weight_gradients_of_the_graph(name: str) -> None:
    compare(load_workload(name, "small"))


def test_gradients_go_through_two_steps_and_not_into_the_time_of_what_is_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A gradient taken before the loop is run by autograd too, and counted nowhere."""
    toy = toys.workload("steps: 2, times: 2")
    compare(toy)
    program = toy.file.sampler.program  # of this toy alone
    first = next(i for i, node in enumerate(program) if "loop" in node)
    program.insert(first, {"evaluate": "gradient", "at": "x", "name": "early"})
    compare(toy)
    units = Iteration(toy).units
    assert [unit.label for unit in units if unit.several].count("") == 2


def compare(workload: Workload) -> None:
    iteration = Iteration(workload, dtype="fp64", seed=5)
    found = iteration.recorded
    mine, drawn = autograd(iteration)
    known = node_by_node(found, iteration.values, drawn)
    assert sum(bool(g.any()) for g in mine.values()) > 0.5 * len(found.updated) > 0
    for weight, gradient in found.updated.items():
        theirs = known[gradient].reshape(iteration.values[weight].shape)
        assert theirs.isfinite().all()
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine[weight].expand_as(theirs) / scale, theirs / scale, rtol=1e-9, atol=1e-9)
    for e in found.constants:  # what is held is the gradient that the graph takes at the moved sample
        taken = [known[t] for node in found.graph.nodes[e.first : e.last] for t in node.outputs]
        alike = [t for t in taken if t.shape == drawn[e.gradient].shape]
        assert any(torch.allclose(t, drawn[e.gradient], rtol=1e-9, atol=1e-9) for t in alike)


def test_what_read_the_sample_before_an_evaluation_is_no_part_of_its_gradient() -> None:
    """E = x² + x y with y = 3 x from before: ∂E/∂x = 2 x + y, whose own derivative is 2 + 3, as y follows x there."""
    start = torch.tensor([2.0], requires_grad=True)
    values = {0: 1 * start}
    values[1] = 3 * values[0]
    follow_on(0)(values)
    values[2] = values[0] ** 2 + values[0] * values[1]
    input_gradient(Evaluation(2, 0, 3, 0, 0, 0), again=True).action(values)
    assert values[3].item() == 2 * 2 + 6
    assert torch.autograd.grad(values[3], start)[0].item() == 2 + 3


def test_weights_stay_and_averages_follow() -> None:
    """Clipped, updated and averaged, with a rate of 0: every run does the same work on the same numbers."""
    iteration = Iteration(load_workload("ired", "small"))
    how = iteration.recorded.how
    assert how.clip and how.average
    before = [weight.detach().clone() for weight in iteration.weights]
    found = [run_iteration(iteration) for _ in range(2)]
    assert all(torch.equal(w, b) for w, b in zip(iteration.weights, before, strict=True))
    assert set(found[0]) == {"t_iteration", *PARTS}
    assert iteration.host_seconds == 0.0


def test_a_workload_without_training() -> None:
    with pytest.raises(ValueError, match="resnet50 has no training"):
        recorded(load_workload("resnet50", "small"))
