"""EBM-EqM executed: a sampling step, its decoding and a training iteration against a network written in torch.

The network follows the code (raywang4/EqM at fe3b689) and takes its weights by the names they have in the workload.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import Composer
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_eqm.yaml")
FILE = parse_workload(DOCUMENT)
SIZES = {"width": 24, "heads": 3, "depth": 2, "latent": 8, "classes": 5}
CHAINS, HEADS, PATCH, EPSILON = 3, 3, 2, 1e-5
FORMS = ("implicit", "dot", "mean", "l2")
Weights = dict[str, Tensor]


def small(**values: object) -> Workload:
    return settle(DOCUMENT, FILE, "small", {**SIZES, **values})


def values_of(graph: Graph) -> dict[int, Tensor]:
    """Random values of everything that no node writes; weights small enough for softmax to keep its slope."""
    generator = torch.Generator().manual_seed(3)
    written = {t for node in graph.nodes for t in node.outputs}
    values = {}
    for number, tensor in enumerate(graph.tensors):
        if number not in written and tensor.role != "constant":
            scale = 0.3 if tensor.role == "weight" else 1.0
            drawn = scale * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            values[number] = torch.randint(0, 6, tensor.shape) if tensor.kind == "index" else drawn
    return values


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return fn.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return fn.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale[:, None]) + shift[:, None]


def layer(w: Weights, name: str, x: Tensor, c: Tensor) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = linear(w, f"{name}.adaln.linear", fn.silu(c)).chunk(6, 1)
    n, t, d = x.shape
    qkv = linear(w, f"{name}.attention.qkv", modulated(x, shift1, scale1))
    q, k, v = qkv.reshape(n, t, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = attention(q, k, v).transpose(1, 2).reshape(n, t, d)
    x = x + gate1[:, None] * linear(w, f"{name}.attention.proj", mixed)
    hidden = fn.gelu(linear(w, f"{name}.fc1", modulated(x, shift2, scale2)), approximate="tanh")
    return x + gate2[:, None] * linear(w, f"{name}.fc2", hidden)


def condition(w: Weights, owner: str, rows: int, label: Tensor) -> Tensor:
    """Time is 0 whatever is given."""
    angles = torch.zeros(rows, 1, dtype=torch.float64) * w[f"{owner}.frequencies"]
    waves = torch.cat([angles.cos(), angles.sin()], -1)
    return linear(w, f"{owner}.t2", fn.silu(linear(w, f"{owner}.t1", waves))) + w[f"{owner}.class.weight"][label]


def transformer(w: Weights, owner: str, x: Tensor, label: Tensor) -> Tensor:
    net, side = f"{owner}.net", x.shape[-1] // PATCH
    patches = fn.conv2d(x, w[f"{net}.patches.weight"], w[f"{net}.patches.bias"], stride=PATCH)
    y = patches.flatten(2).transpose(1, 2) + w[f"{net}.positions"]
    c = condition(w, f"{owner}.condition", len(x), label)
    for index in range(SIZES["depth"]):
        y = layer(w, f"{net}.layer{index}", y, c)
    shift, scale = linear(w, f"{net}.adaln.linear", fn.silu(c)).chunk(2, 1)
    y = linear(w, f"{net}.head", modulated(y, shift, scale)).reshape(len(x), side, side, PATCH, PATCH, 8)
    return torch.einsum("nhwpqc->nchpwq", y).reshape(len(x), 8, *x.shape[-2:]).chunk(2, 1)[0]


def field(w: Weights, form: str, x: Tensor, label: Tensor, again: bool = False) -> Tensor:
    """The direction of a step. Through an identity: a leaf that is convolved, torch's counter refuses."""
    if form == "implicit":
        return transformer(w, "field", x, label)
    leaf = x.detach().requires_grad_()
    f = transformer(w, "energy", leaf * 1, label)
    energy = -f.square().sum() / 2 if form == "l2" else (f * leaf).sum()
    return torch.autograd.grad(energy, leaf, create_graph=again)[0]


def move(w: Weights, workload: Workload, xs: Tensor, m: Tensor, label: Tensor) -> Tensor:
    """One step of the sampling script, with rows on an axis of their own."""
    p: Any = workload.parameters
    rows = xs.shape[1]
    half = (xs + p["step_size"] * m * p["momentum"])[:, :1]
    at = torch.cat([half] * rows, 1)
    g = field(w, p["form"], at.flatten(0, 1), label).reshape(xs.shape)
    if rows == 2:
        given, free = g[:, :1, :3], g[:, 1:, :3]
        guided = free + p["guidance"] * (given - free)
        g = torch.cat([torch.cat([guided, guided], 1), g[:, :, 3:]], 2)
    return xs + g * p["step_size"]


def counted(f: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = f()
    return result, counter.get_total_flops()


def product_flops(graph: Graph, nodes: list[Node] | tuple[Node, ...]) -> int:
    total = 0
    for node in nodes:
        if node.op in WORK:
            shapes = ([graph.tensors[t].shape for t in tensors] for tensors in (node.inputs, node.outputs))
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


def learned(graph: Graph, values: dict[int, Tensor]) -> Weights:
    """Values of weights and buffers by name."""
    return {graph.tensors[t].name: v for t, v in values.items() if graph.tensors[t].role in ("weight", "buffer")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("guidance", "momentum"), [(4.0, 0), (1, 0), (2.0, 0.3), (1, 0.3)])
def test_a_step(form: str, guidance: float, momentum: float, run) -> None:
    """Every number of the next sample is the script's, and so are the FLOPs of its products."""
    workload = small(form=form, guidance=guidance, momentum=momentum)
    program = Composer(workload, CHAINS).program()
    graph, values = program.graph, values_of(program.graph)
    section = next(s for s in program.sections if s.label == "step")
    found = run(Graph(graph.tensors, graph.nodes[: section.last]), values)
    before = {n.name: n.outputs[0] for n in graph.nodes[: section.first]}
    nodes = graph.nodes[section.first : section.last]
    after = next(n.outputs[0] for n in reversed(nodes) if n.name == "sampler.xs")
    label = next(v for t, v in values.items() if graph.tensors[t].name == "label")
    w = learned(graph, values)
    xs, m = (found[before[name]] for name in ("sampler.xs", "sampler.m"))
    assert xs.shape == (CHAINS, 2 if guidance > 1 else 1, 4, 8, 8)
    expected, count = counted(lambda: move(w, workload, xs, m, label))
    torch.testing.assert_close(found[after], expected, rtol=1e-9, atol=1e-11)
    assert (expected - xs).abs().max() > 1e-3
    assert product_flops(graph, nodes) == count


@pytest.mark.parametrize("form", ["implicit", "dot"])
def test_hoisting_changes_no_number(form: str, run) -> None:
    """The stacked linear layer of all modulations, cut up, gives what the layers' own give."""
    plain, hoisted = (Composer(small(form=form, hoisted=h), CHAINS).program() for h in (False, True))
    owner = "field" if form == "implicit" else "energy"
    given = values_of(plain.graph)
    w = learned(plain.graph, given)
    names = [*(f"{owner}.net.layer{i}.adaln.linear" for i in range(SIZES["depth"])), f"{owner}.net.adaln.linear"]
    w |= {name.replace(owner, "modulations", 1): value for name, value in w.items() if ".condition." in name}
    w |= {f"modulations.adaln.{part}": torch.cat([w[f"{n}.{part}"] for n in names]) for part in ("weight", "bias")}
    w |= {plain.graph.tensors[t].name: v for t, v in given.items() if plain.graph.tensors[t].role == "input"}
    tensors = hoisted.graph.tensors
    values = {t: w.get(tensors[t].name, drawn) for t, drawn in values_of(hoisted.graph).items()}
    results = []
    for program, start in ((plain, given), (hoisted, values)):
        torch.manual_seed(5)
        nodes = [n for n in program.graph.nodes if n.branch != "decoder[0]"]
        results.append(run(Graph(program.graph.tensors, tuple(nodes)), start)[program.graph.results[0]])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-11)


def convolved(w: Weights, name: str, x: Tensor, **how: int) -> Tensor:
    return fn.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)


def normed_conv(w: Weights, name: str, x: Tensor) -> Tensor:
    y = fn.group_norm(x, 32, w[f"{name}.group_norm1.weight"], w[f"{name}.group_norm1.bias"], EPSILON)
    return convolved(w, f"{name}.conv", fn.silu(y), padding=1)


def residual(w: Weights, name: str, x: Tensor) -> Tensor:
    y = normed_conv(w, f"{name}.half2", normed_conv(w, f"{name}.half1", x))
    return y + (convolved(w, f"{name}.shortcut", x) if f"{name}.shortcut.weight" in w else x)


def middle(w: Weights, name: str, x: Tensor) -> Tensor:
    x = residual(w, f"{name}.r1", x)
    y = fn.group_norm(x, 32, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"], EPSILON).flatten(2).mT
    q, k, v = (linear(w, f"{name}.{part}", y) for part in "qkv")
    mixed = linear(w, f"{name}.out", attention(q, k, v)).mT.reshape(x.shape)
    return residual(w, f"{name}.r2", x + mixed)


def decoded(w: Weights, x: Tensor) -> Tensor:
    """AutoencoderKL's decoder and what the script makes of it."""
    y = convolved(w, "decoder.conv_in", convolved(w, "decoder.post_quant", x / 0.18215), padding=1)
    y = middle(w, "decoder.middle", y)
    for stage in range(1, 5):
        for block in ("r1", "r20", "r21"):
            y = residual(w, f"decoder.up{stage}.{block}", y)
        if stage < 4:
            y = convolved(w, f"decoder.up{stage}.conv", fn.interpolate(y, scale_factor=2.0), padding=1)
    return (127.5 * normed_conv(w, "decoder.out", y) + 128).clamp(0, 255).permute(0, 2, 3, 1)


@pytest.mark.parametrize("form", ["implicit", "dot"])
def test_the_decoder(form: str, run) -> None:
    program = Composer(small(form=form), CHAINS).program()
    graph, values = program.graph, values_of(program.graph)
    found = run(graph, values)
    x = found[graph.results[0]]
    expected, count = counted(lambda: decoded(learned(graph, values), x))
    image = next(n.outputs[0] for n in reversed(graph.nodes) if n.op == "to_host")
    torch.testing.assert_close(found[image], expected)
    assert expected.shape == (CHAINS, 64, 64, 3) and expected.std() > 1
    last = program.sections[-1]
    assert product_flops(graph, graph.nodes[last.first : last.last]) == count


def encoded(w: Weights, x: Tensor) -> Tensor:
    """AutoencoderKL's encoder, the mean of the posterior."""
    y = convolved(w, "encoder.conv_in", x, padding=1)
    for stage in range(1, 5):
        for block in ("r1", "r2"):
            y = residual(w, f"encoder.down{stage}.{block}", y)
        if stage < 4:
            y = convolved(w, f"encoder.down{stage}.conv", fn.pad(y, (0, 1, 0, 1)), stride=2)
    y = normed_conv(w, "encoder.out", middle(w, "encoder.middle", y))
    return convolved(w, "encoder.quant", y).chunk(2, 1)[0]


def test_the_encoder(run) -> None:
    iteration = compose_training(small())
    graph, values = iteration.graph, values_of(iteration.graph)
    ((first, last),) = iteration.parts["data"]
    image = next(v for t, v in values.items() if graph.tensors[t].name == "image")
    expected, count = counted(lambda: encoded(learned(graph, values), image))
    found = run(Graph(graph.tensors, graph.nodes[:last]), values)
    mean = next(n.outputs[0] for n in graph.nodes if n.name == "encoder.moments")
    torch.testing.assert_close(found[mean], expected)
    assert product_flops(graph, graph.nodes[first:last]) == count


@pytest.mark.parametrize("form", FORMS)
def test_a_training_iteration(form: str, run) -> None:
    """Squared error to a target; of an energy the weights' gradient goes through the input gradient."""
    iteration = compose_training(small(form=form, training_batch=CHAINS, fused_attention=False))
    graph, values = iteration.graph, values_of(iteration.graph)
    found = run(Graph(graph.tensors, tuple(n for n in graph.nodes if n.branch != "encoder[0]")), values)
    named = {t.name: values[i] for i, t in enumerate(graph.tensors) if t.role in ("input", "sample")}
    w = learned(graph, values)
    trained = {graph.tensors[t].name: w[graph.tensors[t].name].requires_grad_() for t in iteration.weights}
    x, target = named["noised"], named["target"]

    def gradients() -> tuple[Tensor | None, ...]:
        loss = (field(w, form, x, named["label"], again=True) - target).square().sum()
        return torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    expected, count = counted(gradients)
    updates = {graph.tensors[n.inputs[0]].name: found[n.inputs[1]] for n in graph.nodes if n.op == "adam"}
    largest = max(g.abs().max() for g in expected if g is not None)
    for (name, weight), grad in zip(trained.items(), expected, strict=True):
        none = torch.zeros_like(weight)
        ours, theirs = updates.get(name, none) / largest, (none if grad is None else grad) / largest
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    spans = [span for name, spans in iteration.parts.items() if name != "data" for span in spans]
    assert sum(product_flops(graph, graph.nodes[a:b]) for a, b in spans) == count
    assert math.prod(x.shape) == CHAINS * 4 * 8 * 8
