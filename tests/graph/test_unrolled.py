"""Training through the sampler: weight gradients of a loss after differentiated steps, against torch.autograd."""

import pytest
import torch

from ebmsim.errors import SpecError
from ebmsim.graph.training import compose_training, how_trained
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

WIDTH, HIDDEN, BATCH, SIZE = 3, 5, 4, 0.1
CROSS_ENTROPY = "loss: [{op: log_softmax, inputs: [x], axis: -1}, {op: mul, inputs: [log_softmax1, wanted]}]"


def workload(unrolled: str, training_steps: int = 6) -> Workload:
    text = f"""
name: toy
title: A toy
paper: {{title: None, year: 2020}}
taxonomy: {{compositionality: mono, dependency: sequential}}
parameters: {{chains: 2, steps: 8, training_batch: {BATCH}, training_steps: {training_steps}, iterations: 10}}
inputs: {{wanted: {{shape: [{WIDTH}]}}}}
components:
  net:
    role: energy
    inputs: {{x: x}}
    nodes:
      - {{op: linear, name: first, out: {HIDDEN}}}
      - {{op: tanh}}
      - {{op: linear, name: last, out: 1}}
sampler:
  sample: {{x: [{WIDTH}]}}
  program:
    - {{op: random_normal, name: x, shape: [{WIDTH}]}}
    - {{op: buffer, name: size, shape: [1]}}
    - loop: 0
      label: step
      do:
        - {{op: scale, name: x, inputs: [nothing], by: 2}}
    - loop: 2
      do:
        - loop: steps // 2
          label: step
          do:
            - {{evaluate: gradient, at: x, name: g}}
            - {{op: mul, name: move, inputs: [g, size]}}
            - {{op: sub, name: x, inputs: [x, move]}}
training:
  terms: [unrolled]
  unrolled: {{{unrolled}}}
"""
    document = parse_document(text)
    return settle(document, parse_workload(document))


def torch_gradients(
    x: torch.Tensor, weights: dict[str, torch.Tensor], steps: int, target: torch.Tensor, ce: bool
) -> dict[str, torch.Tensor]:
    """What autograd gives for the same steps and loss."""
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    x = x.clone().requires_grad_()
    for _ in range(steps):
        hidden = torch.tanh(x @ leaves["net.first.weight"].T + leaves["net.first.bias"])
        energy = hidden @ leaves["net.last.weight"].T + leaves["net.last.bias"]
        (g,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        x = x - SIZE * g
    loss = x.log_softmax(-1) * target if ce else (x - target).square()
    found = torch.autograd.grad(loss.sum(), list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("loss", ["", CROSS_ENTROPY])
def test_weight_gradients_are_those_of_autograd(steps: int, loss: str, run, values_of) -> None:
    iteration = compose_training(workload(f"steps: {steps}" + (f", {loss}" if loss else "")))
    tensors = iteration.graph.tensors
    updates = {tensors[n.inputs[0]].name: n.inputs[1] for n in iteration.graph.nodes if n.op == "adam"}
    assert set(updates) == {"net.first.weight", "net.first.bias", "net.last.weight"}  # a gradient sees no last bias
    kept = tuple(n for n in iteration.graph.nodes if n.op not in ("adam", "random_normal", "to_device"))
    made = {t for n in kept for t in n.outputs}
    generator = torch.Generator().manual_seed(20)
    values = {
        i: torch.randn(t.shape, generator=generator, dtype=torch.float64)
        for i, t in enumerate(tensors)
        if i not in made and t.role != "constant"
    }
    of = {t.name: i for i, t in enumerate(tensors) if i in values}
    values[of["sampler.size"]] = torch.full((1,), SIZE, dtype=torch.float64)
    found = run(iteration.graph._replace(nodes=kept), values)
    (target,) = [values[n.outputs[0]] for n in iteration.graph.nodes if n.op == "to_device"]
    weights = {name: values[of[name]] for name in (*updates, "net.last.bias")}
    theirs = torch_gradients(
        values[of["started"]], weights, steps, target if loss else values[of["target"]], bool(loss)
    )
    for name, grad in updates.items():
        torch.testing.assert_close(found[grad].reshape(theirs[name].shape), theirs[name], rtol=1e-9, atol=1e-10)


def test_what_comes_before_the_steps_is_not_counted() -> None:
    """The start of the sample is drawn before the steps, which is no part of an iteration."""
    iteration = compose_training(workload("steps: 1"))
    counted = [n.op for spans in iteration.parts.values() for a, b in spans for n in iteration.graph.nodes[a:b]]
    assert "random_normal" in [n.op for n in iteration.graph.nodes] and "random_normal" not in counted


def test_steps_that_are_differentiated_are_not_sampled_too() -> None:
    w = workload("steps: 2, times: 2")
    assert how_trained(w).unrolled == (2, 2)
    lowered = lower_workload(w, Policy(), load_profile("ideal"))
    assert lowered.training.steps == 6 - 2 * 2
    once, twice = (compose_training(workload(f"steps: 1, times: {n}")) for n in (1, 2))
    spans = [sum(b - a for a, b in iteration.parts["second_order"]) for iteration in (once, twice)]
    assert spans[1] > 1.9 * spans[0]


def test_no_more_steps_than_there_are() -> None:
    with pytest.raises(SpecError) as caught:
        compose_training(workload("steps: 7"))
    (problem,) = caught.value.problems
    assert problem.path == "training.unrolled"
    assert problem.message == "expected steps · times of at most training_steps = 6, found 7"
