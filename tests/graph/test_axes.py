"""Inputs made to fit by views: a condition shared by all chains joined to each, several images per chain."""

from ebmsim.graph.compose import compose
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

# Three images of a chain through one convolution, each joined to a condition that all chains share.
FILE = """
name: views
title: views
paper: {title: none, year: 2024}
taxonomy: {compositionality: mono, dependency: sequential}
parameters: {chains: 7, steps: 2, training_steps: 2, training_batch: 7, iterations: 1}
inputs: {t: {shape: [5], chain_axis: false}}
components:
  energy:
    role: energy
    inputs: {x: x, t: t}
    nodes:
      - {op: linear, name: condition, inputs: t, out: 4}
      - {op: expand, name: each, shape: [3, 4]}
      - {op: conv2d, name: conv, inputs: x, out: 2, kernel: 3, padding: 1}
      - {op: reshape, shape: [3, 128]}
      - {op: concat, name: joined, inputs: [each, reshape1], axis: -1}
      - {op: linear, name: last, out: 1}
      - {op: reduce_sum, axes: [0, 1]}
sampler: {sample: {x: [3, 1, 8, 8]}, preset: langevin}
training: {terms: [contrastive]}
"""


def workload() -> Workload:
    document = parse_document(FILE)
    return settle(document, parse_workload(document))


def test_shapes_and_work() -> None:
    program = compose(workload(), 7)
    tensors = program.graph.tensors
    nodes = {n.name: n for n in program.graph.nodes}
    shapes = {name: [tensors[t].shape for t in (n.inputs[0], n.outputs[0])] for name, n in nodes.items() if n.inputs}
    assert shapes["energy.condition"] == [(5,), (4,)]
    assert shapes["energy.conv"] == [(7 * 3, 1, 8, 8), (7 * 3, 2, 8, 8)]
    assert shapes["energy.joined"] == [(7, 3, 4), (7, 3, 4 + 128)]
    conv = nodes["energy.conv"]
    inputs, outputs = ([tensors[t].shape for t in ts] for ts in (conv.inputs, conv.outputs))
    assert WORK["conv2d"](inputs, outputs, dict(conv.attributes)).product_flops == 7 * 3 * 2 * 9 * 2 * 64


def test_nothing_but_views_is_added() -> None:
    program = compose(workload(), 7)
    kernels = [n for n in program.graph.nodes if n.phase == "forward" and OPERATORS[n.op].category != "view"]
    assert [n.op for n in kernels] == ["linear", "conv2d", "concat", "linear", "reduce_sum"]


def test_gradients_have_the_shapes_of_what_they_are_of() -> None:
    """The condition's weights collect from all chains and images; the sample's gradient has its own axes again."""
    program = compose(workload(), 7)
    tensors = program.graph.tensors
    update = next(n for n in program.graph.nodes if n.name == "sampler.drift")
    assert tensors[update.inputs[0]].shape == (7, 3, 1, 8, 8)
    iteration = compose_training(workload())
    adam = [n for n in iteration.graph.nodes if n.op == "adam"]
    assert len(adam) == 6
    assert all(iteration.graph.tensors[n.inputs[0]].shape == iteration.graph.tensors[n.inputs[1]].shape for n in adam)
