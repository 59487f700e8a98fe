"""EBT executed: steps of both models against networks written in torch, in numbers, parameters, FLOPs and kernels.

The networks follow the code (alexiglad/EBT at 0ad3628) but for the rotation of queries and keys, which is a plain
product here as in the workload. Attention is also written as one attention over all rows under one mask.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebt.yaml")
FILE = parse_workload(DOCUMENT)
Run = Callable[[Graph, dict[int, Tensor]], dict[int, Tensor]]
CHAINS, TOKENS, WIDTH, HEADS, DEPTH, VOCABULARY, SIDE, PATCH = 3, 5, 12, 3, 2, 11, 32, 16
# torch's operations that launch nothing, or run on the host.
VIEWS = {"view", "_unsafe_view", "expand", "transpose", "permute", "slice", "select", "t", "alias", "unsqueeze"}
VIEWS |= {"squeeze", "detach", "diagonal", "split", "arange", "lift_fresh", "_reshape_alias", "unbind"}


def program(model: str, **values: object) -> Program:
    sizes = {"width": WIDTH, "heads": HEADS, "depth": DEPTH, "tokens": TOKENS, "vocabulary": VOCABULARY}
    return compose(settle(DOCUMENT, FILE, "small", {**sizes, "model": model, **values}), CHAINS)


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.gain


def linear(n: int, m: int = WIDTH, bias: bool = False) -> nn.Linear:
    return nn.Linear(n, m, bias=bias)


class Attention(nn.Module):
    """Two streams as in the code, or one attention of all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (linear(WIDTH) for _ in range(4))
        self.together = False

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        n = TOKENS + 1
        q, k, v = (w(x).view(*x.shape[:2], HEADS, -1) for w in (self.wq, self.wk, self.wv))
        (q_o, q_p), (k_o, k_p), (v_o, v_p) = ((t[:, :n], t[:, n:]) for t in (q, k, v))
        q_o, k_o, q_p, k_p = q_o * rotation[:n], k_o * rotation[:n], q_p * rotation[2:], k_p * rotation[2:]
        root, b = math.sqrt(WIDTH // HEADS), len(x)
        if self.together:
            q, k, v = (torch.cat(t, 1).transpose(1, 2) for t in ((q_o, q_p), (k_o, k_p), (v_o, v_p)))
            sees = torch.zeros(n + TOKENS, n + TOKENS, dtype=torch.bool)
            sees[:n, :n] = torch.ones(n, n).tril().bool()
            sees[n:, :n] = torch.ones(TOKENS, n).tril(1).bool()  # the step embedding and the tokens so far
            sees[n:, n:] = torch.eye(TOKENS).bool()
            shares = (q @ k.mT / root).masked_fill(~sees, -torch.inf).softmax(-1)
            return self.wo((shares @ v).transpose(1, 2).reshape(x.shape))
        q_o, k_o, v_o = (t.transpose(1, 2) for t in (q_o, k_o, v_o))
        scores = torch.matmul(q_o, k_o.transpose(2, 3)) / root + mask[:-1, :-1]
        seen = torch.matmul(fn.softmax(scores, -1), v_o).transpose(1, 2).contiguous().view(b, n, -1)
        q_p, k_p, v_p = (t.transpose(1, 2) for t in (q_p, k_p, v_p))
        scores = torch.matmul(q_p, k_o.transpose(2, 3)) / root
        scores = torch.cat((scores, torch.zeros(*scores.shape[:3], 1, dtype=x.dtype)), -1)
        own = (q_p * k_p).sum(3) / root
        rows, columns = torch.arange(TOKENS), torch.arange(2, TOKENS + 2)
        zero, clearing = torch.zeros_like(own), torch.ones_like(scores)
        clearing[:, :, rows, columns] = zero
        scores = scores * clearing
        added = torch.zeros_like(scores)
        added[:, :, rows, columns] = own
        scores = fn.softmax(scores + added + mask[2:], -1)
        own_share = scores.diagonal(offset=2, dim1=2, dim2=3).clone()
        mixed = torch.matmul((scores * clearing)[:, :, :, :-1], v_o) + v_p * own_share.unsqueeze(-1)
        return self.wo(torch.cat((seen, mixed.transpose(1, 2).contiguous().view(b, TOKENS, -1)), 1))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm, self.attention = Norm(), Norm(), Attention()
        self.w1, self.w2, self.w3 = (linear(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, rotation: Tensor, mask: Tensor) -> Tensor:
        h = x + self.attention(self.attention_norm(x), rotation, mask)
        y = self.ffn_norm(h)
        return h + self.w2(fn.silu(self.w1(y)) * self.w3(y))


class Text(nn.Module):
    """Energies of candidates p after the tokens `ids`, added up."""

    def __init__(self) -> None:
        super().__init__()
        self.observed, self.step = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(2, WIDTH)
        self.vocab_to_embed, self.head, self.norm = linear(VOCABULARY), linear(WIDTH, 1), Norm()
        self.block = nn.ModuleList(Block() for _ in range(DEPTH))
        self.rotation = torch.empty(0)

    def forward(self, p: Tensor, observed: Tensor, landscape: Tensor) -> Tensor:
        both = torch.cat((observed, self.vocab_to_embed(p)), 1)
        x = torch.cat((self.step(landscape).unsqueeze(1), both), 1)
        mask = torch.hstack([torch.triu(torch.full((TOKENS + 2, TOKENS + 2), -torch.inf), 1).to(p.dtype)])
        for block in self.block:
            x = block(x, self.rotation, mask)
        return self.head(self.norm(x)[:, 1:])[:, TOKENS:].reshape(-1, TOKENS).sum(1)


class ImageBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.adaln = nn.ModuleDict({"linear": linear(WIDTH, 6 * WIDTH, True)})
        self.attention = nn.ModuleDict({"qkv": linear(WIDTH, 3 * WIDTH, True), "proj": linear(WIDTH, bias=True)})
        self.fc1, self.fc2 = linear(WIDTH, bias=True), linear(WIDTH, bias=True)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln["linear"](fn.silu(c)).chunk(6, 1)
        y = modulated(x, shift1, scale1)
        q, k, v = self.attention["qkv"](y).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + gate1[:, None] * self.attention["proj"](mixed.transpose(1, 2).reshape(x.shape))
        hidden = fn.gelu(self.fc1(modulated(x, shift2, scale2)), approximate="tanh")
        return x + gate2[:, None] * self.fc2(hidden)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The code's norm has 1e-6 below its root; the operators' have torch's default, 1e-5."""
    return fn.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale[:, None]) + shift[:, None]


class Image(nn.Module):
    """The mean energy of the patches of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.condition = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Embedding(1, WIDTH)
        self.block = nn.ModuleList(ImageBlock() for _ in range(DEPTH))
        self.adaln = nn.ModuleDict({"linear": linear(WIDTH, 2 * WIDTH, True)})
        self.head = linear(WIDTH, 1)
        self.positions = torch.empty(0)

    def forward(self, x: Tensor, zero: Tensor) -> Tensor:
        c = self.condition(zero)
        y = self.patches(x.view(-1, 3, SIDE, SIDE) * 1).flatten(2).transpose(1, 2) + self.positions
        for block in self.block:
            y = block(y, c)
        shift, scale = self.adaln["linear"](fn.silu(c)).chunk(2, 1)
        return self.head(modulated(y, shift, scale)).squeeze(-1).mean(1)


def values_of(graph: Graph) -> dict[int, Tensor]:
    """Values of everything that no node writes: random ones, and the masks and places of the code."""
    generator = torch.Generator().manual_seed(3)
    written = {t for node in graph.nodes for t in node.outputs}
    places = torch.arange(TOKENS) * (TOKENS + 3) + 2
    causal = torch.full((TOKENS + 2, TOKENS + 2), -torch.inf, dtype=torch.float64).triu(1)
    fixed: dict[str, Tensor] = {"places": places, "rows": torch.arange(TOKENS), "causal": causal}
    fixed |= {"one": torch.ones(1).double(), "nothing": torch.zeros(1).double(), "zero": torch.zeros(CHAINS).long()}
    values = {}
    for number, tensor in enumerate(graph.tensors):
        if number not in written and tensor.role != "constant":
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / 2
            index = torch.randint(0, 2, tensor.shape, generator=generator)
            other = index if tensor.kind == "index" else drawn
            values[number] = fixed.get(tensor.name.rpartition(".")[2], other)
    return values


def loaded(model: nn.Module, owner: str, graph: Graph, values: dict[int, Tensor]) -> dict[str, Tensor]:
    """The workload's weights given to a model, which has to have the same; returns all values by name."""
    named = {graph.tensors[t].name: value for t, value in values.items()}
    learned = {graph.tensors[t].name: value for t, value in values.items() if graph.tensors[t].role == "weight"}
    own = {re.sub(r"^block(\d)", r"block.\1", k.split(".", 1)[1]): v for k, v in learned.items() if k.startswith(owner)}
    model.double().load_state_dict(own, strict=True)
    model.requires_grad_(False)
    return named


def step_of(p: Program) -> tuple[Graph, list[Node]]:
    section = next(s for s in p.sections if s.label == "step")
    nodes = p.graph.nodes
    return Graph(p.graph.tensors, nodes[: section.last]), list(nodes[section.first : section.last])


def of_name(nodes: list[Node], name: str) -> int:
    return next(n.outputs[0] for n in reversed(nodes) if n.name == f"sampler.{name}")


def flops(graph: Graph, nodes: list[Node], phase: str) -> int:
    total = 0
    for node in nodes:
        if node.phase == phase and node.op in WORK:
            shapes = ([graph.tensors[t].shape for t in tensors] for tensors in (node.inputs, node.outputs))
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


def counted(f: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = f()
    return result, counter.get_total_flops()


def text_step(workload: Program, run: Run) -> tuple[Text, Graph, list[Node], dict[str, Tensor], dict[int, Tensor]]:
    """The model, and the step executed."""
    graph, nodes = step_of(workload)
    values = values_of(graph)
    named = loaded(model := Text(), "text.", graph, values)
    model.rotation = named["text.rotation"]
    return model, graph, nodes, named, run(graph, values)


@pytest.mark.parametrize("advanced", [True, False])
def test_a_step_of_the_text_model(advanced: bool, run: Run) -> None:
    """Softmax of the noisy state, the energy's gradient at it, and the step; and the FLOPs of either pass."""
    model, graph, nodes, named, found = text_step(program("text", advanced=advanced), run)
    first = next(n for n in graph.nodes if n.name == "sampler.y")
    state = found[first.outputs[0]]
    if advanced:
        state = state + found[of_name(nodes, "noise")] * named["sampler.deviation"]
    p = state.softmax(-1).requires_grad_()
    observed = model.observed(named["ids"])
    energy, forward = counted(lambda: model(p, observed, named["landscape"]))
    (g,), backward = counted(lambda: torch.autograd.grad(energy.sum(), [p]))
    expected = p.detach() - named["sampler.step_size"] * g
    torch.testing.assert_close(found[of_name(nodes, "y")], expected, rtol=1e-9, atol=1e-11)
    assert g.abs().max() > 1e-3
    assert [flops(graph, nodes, phase) for phase in ("forward", "backward-input")] == [forward, backward]


def test_two_streams_are_one_attention(run: Run) -> None:
    """Of observed rows to the rows before them, and of a candidate to the tokens before it and to itself."""
    model, _, nodes, named, found = text_step(program("text", advanced=False), run)
    for block in model.modules():
        if isinstance(block, Attention):
            block.together = True
    p = found[next(n for n in nodes if n.op == "softmax").outputs[0]].requires_grad_()
    (g,) = torch.autograd.grad(model(p, model.observed(named["ids"]), named["landscape"]).sum(), [p])
    torch.testing.assert_close(found[of_name(nodes, "y")], p.detach() - named["sampler.step_size"] * g)


class Launches(TorchDispatchMode):
    """Counts what torch launches."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.__name__.split(".")[0] not in VIEWS
        return func(*args, **(kwargs or {}))


def test_a_forward_of_the_text_model_launches_what_torch_does(run: Run) -> None:
    """But for the copies of rows and columns to the device, four a layer, and the waits for them."""
    model, _, nodes, named, _ = text_step(program("text"), run)
    p = torch.rand(CHAINS, TOKENS, VOCABULARY, dtype=torch.float64, requires_grad=True)
    model.float().rotation = named["text.rotation"].float()
    with Launches() as launches:
        model(p.float(), torch.rand(CHAINS, TOKENS, WIDTH), named["landscape"])
    forward = [n for n in nodes if n.phase == "forward" and OPERATORS[n.op].category != "view"]
    host = [n for n in forward if n.op in ("to_device", "synchronise")]
    assert len(host) == DEPTH * 8
    assert len(forward) - len(host) == launches.count


def test_a_step_of_the_image_model(run: Run) -> None:
    workload = program("image")
    graph, nodes = step_of(workload)
    values = values_of(graph)
    named = loaded(model := Image(), "image.", graph, values)
    model.positions = named["image.positions"]
    found = run(graph, values)
    x = named["noised"].clone().requires_grad_()
    energy, forward = counted(lambda: model(x, named["zero"]))
    (g,), backward = counted(lambda: torch.autograd.grad(energy.sum(), [x]))
    torch.testing.assert_close(found[of_name(nodes, "y")], x.detach() - named["sampler.step_size"] * g)
    assert g.abs().max() > 1e-3
    assert [flops(graph, nodes, phase) for phase in ("forward", "backward-input")] == [forward, backward]


def moved(model: Any, x: Tensor, step_size: Tensor, *given: Tensor) -> Tensor:
    """A step to be differentiated again. Through an identity: torch's counter refuses a leaf as a module's input."""
    (g,) = torch.autograd.grad(model(x * 1, *given).sum(), [x], create_graph=True)
    return x - step_size * g


@pytest.mark.parametrize(("model", "recipe"), [("text", "S1"), ("text", "S2"), ("image", "S1")])
def test_a_training_iteration(model: str, recipe: str, run: Run) -> None:
    """The weights' gradients through a step, after each of K_t = 2 with S1 (text), and the FLOPs of all products."""
    sizes = {"width": WIDTH, "heads": HEADS, "tokens": TOKENS, "vocabulary": VOCABULARY, "landscapes": 2}
    sizes |= {"training_batch": CHAINS}
    iteration = compose_training(settle(DOCUMENT, FILE, "small", {**sizes, "model": model, "recipe": recipe}))
    graph, values = iteration.graph, values_of(iteration.graph)
    found = run(graph, values)
    network = Text() if model == "text" else Image()
    named = loaded(network, f"{model}.", graph, values)
    network.rotation, network.positions = named.get("text.rotation"), named.get("image.positions")
    weights = dict(network.requires_grad_().named_parameters())
    step_size = named["sampler.step_size"].clone().requires_grad_()
    starts = [values[t] for t, tensor in enumerate(graph.tensors) if tensor.role == "sample" and t in values]
    starts = [s for s in starts if s.shape[1] == (TOKENS if model == "text" else 3)]
    noise = [found[n.outputs[0]] for n in graph.nodes if n.op == "random_normal" and n.name == "sampler.noise"]
    assert len(starts) == (2 if (model, recipe) == ("text", "S1") else 1) and len(noise) == (recipe == "S2")

    def loss(start: Tensor) -> Tensor:
        if model == "image":
            y = moved(network, start.clone().requires_grad_(), step_size, named["zero"])
            return (y - named["noised"]).square().mean((1, 2)).sum()
        state = start + noise[0] * named["sampler.deviation"] if noise else start
        given = network.observed(named["ids"]), named["landscape"]
        y = moved(network, state.softmax(-1).requires_grad_(), step_size, *given)
        return fn.cross_entropy(y.flatten(0, 1), named["ids"].flatten(), reduction="sum") / TOKENS

    parameters = [*weights.values(), *([step_size] if recipe == "S1" else [])]
    total = torch.stack([loss(start) for start in starts])
    expected = torch.autograd.grad(total.sum(), parameters, allow_unused=True)
    _, count = counted(lambda: torch.autograd.grad(sum(loss(s) for s in starts), parameters, allow_unused=True))
    updates = {graph.tensors[n.inputs[0]].name: found[n.inputs[1]] for n in graph.nodes if n.op == "adam"}
    names = [re.sub(r"^block\.(\d)", r"block\1", name) for name in weights]
    names = [f"{model}.{name}" for name in names] + ["sampler.step_size"]
    largest = max(g.abs().max() for g in expected if g is not None)
    assert largest > 1e-6
    for name, parameter, grad in zip(names, parameters, expected, strict=False):
        none = torch.zeros_like(parameter)
        theirs = none if grad is None else grad
        torch.testing.assert_close(updates.get(name, none) / largest, theirs / largest, rtol=1e-8, atol=1e-11)
    nodes = [n for first, last in iteration.parts["second_order"] for n in graph.nodes[first:last]]
    assert sum(flops(graph, nodes, phase) for phase in {n.phase for n in nodes}) == count
