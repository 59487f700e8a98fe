"""What a program may ask of components: rows of a chain, decoders, encoders of training alone, numbered blocks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ebmsim
from ebmsim.graph.compose import Composer, Program, check_workload, compose
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder
from ebmsim.graph.lower import lower
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

CHAINS, ROWS, WIDTH, HIDDEN, LAYERS = 3, 2, 4, 6, 3
TOY = f"""
name: toy
title: A toy
paper: {{title: None, year: 2020}}
taxonomy: {{compositionality: mono, dependency: sequential}}
parameters:
  chains: {CHAINS}
  steps: 2
  training_batch: 5
  form: {{default: energy, choices: [energy, score]}}
  training_steps: 0
  rows: {ROWS}
  count: rows
inputs:
  label: {{shape: [], kind: index, row_axis: true}}
  context: {{shape: [{WIDTH}]}}
  picture: {{shape: [7]}}
blocks:
  layer:
    inputs: [x, bends]
    nodes:
      - {{op: slice, name: bend, inputs: [bends], axis: 0, start: {WIDTH} * turn, length: {WIDTH}}}
      - {{op: add, name: bent, inputs: [x, bend]}}
      - {{op: tanh}}
  network:
    inputs: [x, label, context]
    nodes:
      - {{op: embedding, name: class, inputs: [label], entries: 3, width: {WIDTH}}}
      - {{op: add, name: y, inputs: [x, class]}}
      - {{op: mul, name: z, inputs: [y, context]}}
      - {{op: parameter, name: bends, shape: [{LAYERS * WIDTH}]}}
      - {{use: layer, inputs: [z, bends], repeat: {LAYERS}}}
      - {{op: linear, out: {HIDDEN}}}
      - {{op: tanh}}
components:
  energy:
    role: energy
    when: form == 'energy'
    inputs: &inputs {{x: x, label: label, context: context}}
    nodes:
      - {{use: network, name: net, inputs: [x, label, context]}}
      - {{op: linear, out: 1}}
  field:
    role: score
    when: form == 'score'
    inputs: *inputs
    nodes:
      - {{use: network, name: net, inputs: [x, label, context]}}
      - {{op: linear, out: {WIDTH}}}
  painter:
    role: decoder
    runs: once
    trained: false
    inputs: {{x: x}}
    nodes:
      - {{op: linear, out: 1000}}
      - {{op: to_host}}
  eye:
    role: encoder
    runs: training
    trained: false
    inputs: {{picture: picture}}
    nodes:
      - {{op: linear, out: {WIDTH}}}
sampler:
  sample: {{x: [{WIDTH}]}}
  rows: rows
  program:
    - {{op: random_normal, name: xs, shape: [count, {WIDTH}]}}
    - loop: steps
      label: step
      do:
        - {{evaluate: gradient, at: xs, name: g}}
        - {{op: sub, name: xs, inputs: [xs, g]}}
    - {{op: reduce_sum, name: x, inputs: [xs], axes: [0]}}
training: {{terms: [denoising], average: true}}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., Workload]:
    """The toy, with its text changed and its parameters set."""

    def make(old: str = "", new: str = "", **values: object) -> Workload:
        assert old in TOY
        (tmp_path / "toy.yaml").write_text(TOY.replace(old, new) if old else TOY, encoding="utf-8")
        document = load_document(tmp_path / "toy.yaml")
        return settle(document, parse_workload(document), "", values)

    return make


def step(program: Program) -> list:
    section = next(s for s in program.sections if s.label == "step")
    return list(program.graph.nodes[section.first : section.last])


def products(graph, nodes) -> int:
    """FLOPs of matrix products, from their shapes."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category == "matmul":
            inner = graph.tensors[node.inputs[0]].shape[-2 if dict(node.attributes).get("transpose_a") else -1]
            total += 2 * inner * graph.tensors[node.outputs[0]].elements
    return total


def test_every_row_has_its_own_gradient(toy, run, values_of) -> None:
    """Executed, the step gives what autograd gives for each row on its own, before anything adds rows up."""
    composer = Composer(toy(), CHAINS)
    program = composer.program()
    values = values_of(composer.b)
    found = run(program.graph, values)
    named = {t.name: found[i] for i, t in enumerate(program.graph.tensors) if t.role in ("weight", "input")}
    at = next(n.outputs[0] for n in program.graph.nodes if n.name == "sampler.xs")
    g = next(n.inputs[1] for n in step(program) if n.name == "sampler.xs")
    labels = named["label"].reshape(CHAINS, ROWS)
    bends = named["energy.net.bends"].reshape(LAYERS, WIDTH)
    for chain in range(CHAINS):
        for row in range(ROWS):
            x = found[at][chain, row].double().requires_grad_()
            y = (x + named["energy.net.class.weight"][labels[chain, row]]) * named["context"][chain]
            for bend in bends:
                y = torch.tanh(y + bend)
            hidden = torch.tanh(y @ named["energy.net.linear1.weight"].T + named["energy.net.linear1.bias"])
            energy = hidden @ named["energy.linear1.weight"][0] + named["energy.linear1.bias"][0]
            torch.testing.assert_close(found[g][chain, row], torch.autograd.grad(energy, x)[0])


def test_inputs_stand_once_a_row_or_are_copied_to_the_rows(toy) -> None:
    program = compose(toy(), CHAINS)
    given = {t.name: t.shape for t in program.graph.tensors if t.role == "input"}
    assert given == {"label": (CHAINS * ROWS,), "context": (CHAINS, WIDTH)}
    copies = [n for n in step(program) if n.name == "rows"]
    assert [program.graph.tensors[n.outputs[0]].elements for n in copies] == [CHAINS * ROWS * WIDTH]


def test_rows_multiply_the_work_of_a_step_and_nothing_else(toy) -> None:
    two = step(compose(toy(), CHAINS))
    four = compose(toy(rows=4), CHAINS)
    assert [n.op for n in two] == [n.op for n in step(four)]
    assert products(four.graph, step(four)) == 2 * products(compose(toy(), CHAINS).graph, two)
    iterations = [compose_training(toy()), compose_training(toy(rows=4))]
    assert iterations[0].graph == iterations[1].graph


def test_one_row_is_no_copy(toy) -> None:
    one = toy(rows=1)
    assert check_workload(one) == []
    assert not any(n.name == "rows" for n in compose(one, CHAINS).graph.nodes)


def test_a_sample_without_rows_does_not_go_with_inputs_that_have_them(toy) -> None:
    (problem,) = check_workload(toy("at: xs", "at: x"))
    assert problem.message == "expected as many rows of a sample as its inputs have, 2, found 1"


def test_rows_that_the_sampler_does_not_declare_are_refused(toy) -> None:
    (problem,) = check_workload(toy(rows=3, count=2))
    assert problem.message == "expected 3 rows, as the sampler's rows say, found 2"
    assert problem.path == "sampler.program[1].do[0].at"


def test_a_decoder_ends_an_inference(toy) -> None:
    """Once, on the sample that the program leaves; its weights count, but it is no part of the energy landscape."""
    workload = toy()
    program = compose(workload, CHAINS)
    last = program.sections[-1]
    nodes = program.graph.nodes[last.first : last.last]
    assert (last.label, last.repeat) == ("once", 1)
    assert [n.op for n in nodes] == ["reduce_sum", "linear", "to_host"]
    assert nodes[1].branch == "painter[0]" and nodes[1].inputs[0] == nodes[0].outputs[0]
    assert derive(workload) == ("mono", "sequential")
    iteration = compose_training(workload)
    assert not any(t.name.startswith("painter") for t in iteration.graph.tensors)
    assert program.weights["painter.linear1.weight"] in program.frozen


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        (
            "    runs: once\n",
            "    runs: every-step\n",
            "components.painter.runs",
            "expected runs once of a component with role decoder, found every-step",
        ),
        (
            "{picture: picture}",
            "{picture: painter}",
            "components.eye.inputs.picture",
            "component painter runs last, after eye, which runs training",
        ),
        (
            "{picture: picture}",
            "{picture: x}",
            "components.eye.inputs.picture",
            "component eye runs training, before there is a sample 'x'",
        ),
        ("rows: rows", "rows: row", "sampler.rows", "unknown name 'row'"),
    ],
)
def test_what_cannot_be_wired(toy, old: str, new: str, path: str, message: str) -> None:
    (problem,) = check_workload(toy(old, new))
    assert (problem.path, problem.message) == (path, message)


def test_an_encoder_of_training_alone(toy) -> None:
    """Its input is copied and its forward runs in training only; it costs no backward and is not updated."""
    workload = toy(form="score")
    assert not any(t.name == "picture" for t in compose(workload, CHAINS).graph.tensors)
    iteration = compose_training(workload)
    ((first, last),) = iteration.parts["data"]
    assert [n.name for n in iteration.graph.nodes[first:last]] == ["eye.linear1"]
    learned = {t.name for t in iteration.graph.tensors if t.role == "weight"}
    updated = {iteration.graph.tensors[n.inputs[0]].name for n in iteration.graph.nodes if n.op == "adam"}
    assert learned - updated == {"eye.linear1.weight", "eye.linear1.bias"}
    size = lower_workload(workload, Policy(), load_profile("ideal")).size
    assert size.training == 7 * WIDTH + WIDTH


def test_memory_counts_what_each_phase_holds(toy) -> None:
    """The fullest moment of an inference is the decoder's; training holds the weights of its own encoder, too."""
    workload = toy(form="score", training_batch=CHAINS)
    e = ebmsim.estimate(workload, ebmsim.load_hardware("rtx5090"))
    decoder = 1000 * WIDTH + 1000
    size = e.lowered.size
    network = 3 * WIDTH + LAYERS * WIDTH + (WIDTH + 1) * HIDDEN + (HIDDEN + 1) * WIDTH
    assert size.parameters == network + decoder and size.trained == network
    inputs = CHAINS * ROWS + CHAINS * WIDTH + CHAINS * WIDTH  # labels, context, sample
    live = CHAINS * 2 * 1000  # what the decoder writes and its copy on the way to the host
    assert e.memory["inference_bytes"] == 4 * (size.parameters + inputs + live)
    states = size.parameters + inputs + 3 * network + 7 * WIDTH + WIDTH
    assert e.memory["training_bytes"] == 4 * states + e.lowered.iteration.table.live_bytes


def test_memory_of_training_holds_a_sampling_step_where_there_is_one(toy) -> None:
    """Of 64 rows a chain, which is more than an iteration with one row holds at once."""
    without, with_ = (toy(form="score", rows=64, training_batch=CHAINS, training_steps=k) for k in (0, 2))
    hardware = ebmsim.load_hardware("rtx5090")
    held = [ebmsim.estimate(w, hardware).memory["training_bytes"] for w in (without, with_)]
    assert held[0] < held[1]


def test_blocks_know_which_turn_they_are(toy) -> None:
    """Every turn cuts its own part of a tensor."""
    cut = [n.attribute("start") for n in compose(toy(), 1).graph.nodes if n.name.endswith(".bend")][:LAYERS]
    assert cut == [0, WIDTH, 2 * WIDTH]


def test_parts_are_views_and_their_gradients_are_joined_once(run, values_of) -> None:
    """One kernel for all parts, zeros for the one that nothing reads."""
    b = Builder()
    x = b.tensor((2, 6), "sample")
    parts = b.emit_all("split", (x,), axis=-1, parts=3)
    y = b.emit("mul", parts[0], parts[2])
    grad = differentiate(b, [y], [x], phase="backward-input")[x]
    assert [n.op for n in b.nodes] == ["split", "mul", "mul", "mul", "concat"]
    values = values_of(b)
    first, _, last = values[x].chunk(3, -1)
    torch.testing.assert_close(run(b, values)[grad], torch.cat([last, torch.zeros_like(first), first], -1))
    kernels = lower(b.graph(), b.nodes, "fp32")
    assert kernels.ops == ("mul", "mul", "mul", "concat")
    assert kernels.distance[0] == float("inf") and kernels.distance[1] < float("inf")  # both parts are of x


def test_parts_have_the_name_of_their_node_and_a_number(toy) -> None:
    cut = "      - {op: split, name: halves, inputs: [x], axis: 0, parts: 2}\n"
    join = "      - {op: concat, name: x, inputs: [halves.1, halves.0], axis: 0}\n"
    old = "      - {op: embedding, name: class"
    assert check_workload(toy(old, cut + join + old)) == []
    (problem,) = check_workload(toy(old, cut + join.replace("halves.1", "halves.2") + old))
    assert problem.message == "no node or input called 'halves.2'"
    (problem,) = check_workload(toy(old, cut.replace("parts: 2", "parts: 3") + old))
    assert problem.message == "split: expected an axis that 3 parts divide, found 4 indices"


def parts_of(iteration: Iteration, *names: str) -> int:
    spans = [span for name in names for span in iteration.parts[name]]
    return sum(products(iteration.graph, iteration.graph.nodes[a:b]) for a, b in spans)


def test_a_score_is_trained_to_the_first_order(toy) -> None:
    """One forward and one backward, which gives every layer's input and weight gradient once."""
    workload = toy(form="score")
    iteration = compose_training(workload)
    forward = 2 * 5 * (WIDTH * HIDDEN + HIDDEN * WIDTH)
    assert set(iteration.parts) == {"data", "forward_positive", "backward_positive", "update"}
    assert parts_of(iteration, "forward_positive") == forward
    assert parts_of(iteration, "backward_positive") == 2 * forward
    for graph in (iteration.graph, compose(workload, 1).graph):
        assert not any(n.phase == "backward-input" for n in graph.nodes)


def test_an_energy_is_trained_through_its_gradient(toy) -> None:
    """Forward and input gradient once each; back through both, four products of the first layer.

    Of the last layer, whose input gradient is its weight times a constant, only that weight's gradient is left.
    """
    iteration = compose_training(toy())
    first, last = WIDTH * HIDDEN, HIDDEN
    assert set(iteration.parts) == {"data", "second_order", "update"}
    assert parts_of(iteration, "second_order") == 2 * 5 * (2 * (first + last) + 4 * first + last)
