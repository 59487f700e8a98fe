"""COMET's networks written anew in torch: equal images after a step, parameters, FLOPs, and gradients of training.

Layers are made in the order in which the workload names them, which is how weights are handed over.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "comet.yaml")
FILE = parse_workload(DOCUMENT)
CASES = ["default", "global64", "clevr"]
CHAINS, F, LATENT, CONCEPTS, STEP = 2, 8, 4, 3, 100


def settled(preset: str, **overrides: object) -> Workload:
    """Small, in one step that leaves most of the image between its bounds."""
    side = 64 if preset == "default" else 32
    sizes = {"f": F, "latent": LATENT, "concepts": CONCEPTS, "side": side, "step_size": STEP, "steps": 1}
    return settle(DOCUMENT, FILE, preset, {**sizes, "perceptual": False, **overrides})


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def conv(a: int, b: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3, padding=1)


class Residual(nn.Module):
    """Conditioned by a latent, or not; its end halves height and width."""

    def __init__(self, c: int, out: int, latent: int = 0) -> None:
        super().__init__()
        self.film = nn.ModuleList(nn.Linear(latent, 2 * c) for _ in range(2 if latent else 0))
        self.convs = nn.ModuleList([conv(c, c), conv(c, c)])
        self.down = conv(c, out)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        start = x
        for i, layer in enumerate(self.convs):
            x = layer(x)
            if self.film:
                gain, bias = self.film[i](z)[:, :, None, None].chunk(2, 1)
                x = gain * x + bias
            x = swish(x)
        return fn.avg_pool2d(swish(self.down(start + x)), 3, 2, 1)


class Encoder(nn.Module):
    def __init__(self, preset: str) -> None:
        super().__init__()
        self.recurrent = preset == "clevr"
        self.stem = conv(3, F)
        self.blocks = nn.ModuleList(Residual(F, F) for _ in range(4 if self.recurrent else 3))
        if self.recurrent:
            self.attend = nn.Sequential(nn.Linear(2 * F, F), nn.ReLU(), nn.Linear(F, 1))
            self.map_embed, self.lstm = nn.Linear(2 * F, F), nn.LSTMCell(F, F)
            self.top: nn.Module = nn.Linear(F, LATENT)
        else:
            self.top = nn.Sequential(nn.Linear(F, F), nn.ReLU(), nn.Linear(F, CONCEPTS * LATENT))

    def forward(self, image: Tensor) -> list[Tensor]:
        x = torch.relu(self.stem(image))
        for block in self.blocks:
            x = block(x)
        if not self.recurrent:
            return list(self.top(x.mean(2).mean(2)).chunk(CONCEPTS, 1))
        tokens = x.flatten(2).mT
        h = c = tokens.new_zeros(len(tokens), F)
        outputs = []
        for _ in range(CONCEPTS):
            context = torch.cat([c[:, None].expand(-1, tokens.shape[1], -1), tokens], -1)
            seen = (self.attend(context).softmax(1) * context).sum(1)
            h, c = self.lstm(self.map_embed(seen), (h, c))
            outputs.append(h)
        return list(self.top(torch.stack(outputs, 1)).unbind(1))


class Energy(nn.Module):
    def __init__(self, preset: str) -> None:
        super().__init__()
        self.deep, self.positions = preset == "default", preset == "clevr"
        widths = [F // 4, F // 2, F, F, F, 2 * F] if self.deep else [F, F, F, 2 * F]
        self.stem = conv(3, F // 2 if self.positions else widths[0])
        self.embed = conv(2, F // 2) if self.positions else None
        self.blocks = nn.ModuleList(Residual(a, b, LATENT) for a, b in pairwise(widths))
        self.top = nn.Linear(2 * F, 1)

    def forward(self, x: Tensor, z: Tensor, grid: Tensor) -> Tensor:
        x = swish(self.stem(x))
        if self.embed is not None:
            x = torch.cat([x, swish(self.embed(grid))], 1)
        x = x if self.deep else fn.avg_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x, z)
        energy: Tensor = self.top(x.mean(2).mean(2))
        return energy


def parameters(*models: nn.Module) -> list[nn.Parameter]:
    """In the workload's order: an LSTM's weight and bias for what comes in, then those for its state."""
    found: list[nn.Parameter] = []
    for module in (m for model in models for m in model.modules()):
        own = list(module.parameters(recurse=False))
        found += [own[i] for i in (0, 2, 1, 3)] if isinstance(module, nn.LSTMCell) else own
    return found


def flops(graph: Graph, nodes: list[Node]) -> int:
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total


def filled(graph: Graph, nodes: list[Node]) -> dict[int, Tensor]:
    """Values of what none of the nodes writes; images are between 0 and 1, weights so that layers keep the size."""
    made = {t for n in nodes for t in n.outputs}
    generator = torch.Generator().manual_seed(3)
    values: dict[int, Tensor] = {}
    for i, t in enumerate(graph.tensors):
        if i not in made and t.role != "constant":
            if t.role == "weight":
                values[i] = torch.randn(t.shape, generator=generator, dtype=torch.float64)
                values[i] *= (t.elements / t.shape[0]) ** -0.5 if len(t.shape) > 1 else 0.3
            else:
                values[i] = torch.rand(t.shape, generator=generator, dtype=torch.float64)
    return values


def given(weights: list[Tensor], preset: str) -> tuple[Encoder, Energy]:
    models = Encoder(preset).double(), Energy(preset).double()
    with torch.no_grad():
        for mine, value in zip(parameters(*models), weights, strict=True):
            assert mine.shape == value.shape
            mine.copy_(value)
    return models


def total_energy(energy: Energy, x: Tensor, latents: list[Tensor], grid: Tensor) -> Tensor:
    return torch.stack([energy(x * 1, z, grid).sum() for z in latents]).sum()


@pytest.mark.parametrize("preset", CASES)
def test_torch_makes_and_counts_the_same(preset: str, run: Callable[..., dict[int, Any]]) -> None:
    program = compose(settled(preset), CHAINS)
    graph = program.graph
    kept = [n for n in graph.nodes if not n.op.startswith("random")]
    values = filled(graph, kept)
    inputs = {graph.tensors[i].name: v for i, v in values.items() if graph.tensors[i].role == "input"}
    (start,) = [n.outputs[0] for n in graph.nodes if n.op == "random_uniform"]
    x = values[start].clone().requires_grad_()
    encoder, energy = given([values[t] for t in program.weights.values()], preset)
    grid = torch.cat([inputs["rows"], inputs["columns"]], 1) if preset == "clevr" else x.detach()
    for model in (encoder, energy):
        model.requires_grad_(False)

    with FlopCounterMode(display=False) as encoding:
        latents = encoder(inputs["image"])
    with FlopCounterMode(display=False) as forward:
        total = total_energy(energy, x, latents, grid)
    with FlopCounterMode(display=False) as backward:
        (slope,) = torch.autograd.grad(total, x)
    ours = {
        phase: flops(graph, [n for n in graph.nodes if n.phase == phase])
        for phase in ("once", "forward", "backward-input")
    }
    assert list(ours.values()) == [c.get_total_flops() for c in (encoding, forward, backward)]
    assert min(ours.values()) > 0

    found = run(Graph(graph.tensors, tuple(kept)), values)[graph.results[0]]
    expected = (x - STEP * slope).clamp(0, 1)
    torch.testing.assert_close(found, expected)
    assert 0.5 < ((expected > 0) & (expected < 1)).double().mean() < 1
    assert not torch.allclose(expected, x, atol=1e-3)


@pytest.mark.parametrize("preset", CASES)
def test_gradients_of_training(preset: str, run: Callable[..., dict[int, Any]]) -> None:
    """Of the squared error after a step, through that step and through the latents into the encoder."""
    workload = settled(preset, training_batch=CHAINS)
    iteration = compose_training(workload)
    tensors = iteration.graph.tensors
    updated = {n.inputs[0]: n for n in iteration.graph.nodes if n.op == "adam"}
    left_out = ("adam", "squared_norm", "random_normal", "random_uniform")
    kept = [n for n in iteration.graph.nodes if n.op not in left_out]
    values = filled(iteration.graph, kept)
    inputs = {t.name: values[i] for i, t in enumerate(tensors) if i in values and t.role in ("input", "sample")}
    weights = {t.name: i for i, t in enumerate(tensors) if t.role == "weight"}
    models = given([values[t] for t in weights.values()], preset)
    x = inputs["started"].clone().requires_grad_()
    grid = torch.cat([inputs["rows"], inputs["columns"]], 1) if preset == "clevr" else x.detach()
    with FlopCounterMode(display=False) as counter:
        energy = total_energy(models[1], x, models[0](inputs["image"]), grid)
        (slope,) = torch.autograd.grad(energy, x, create_graph=True)
        moved = (x.detach() - STEP * slope).clamp(0, 1)
        loss = (moved - inputs["image"]).square().mean((1, 2, 3)).sum()
        loss.backward(inputs=parameters(*models))  # type: ignore[no-untyped-call]
    assert flops(iteration.graph, kept) == counter.get_total_flops() > 0

    found = run(Graph(tensors, tuple(kept)), values)
    mine = dict(zip(weights, parameters(*models), strict=True))
    # a constant added to an energy is lost in its gradient
    assert {tensors[t].name for t in updated} == set(mine) - {"energy.energy_map.bias"}
    for weight, node in updated.items():
        name = tensors[weight].name
        theirs = mine[name].grad
        assert theirs is not None
        # softmax is the same for scores that a constant is added to
        assert theirs.abs().max() > 1e-8 or name.endswith("at_fc2.bias")
        torch.testing.assert_close(found[node.inputs[1]].reshape(theirs.shape), theirs, rtol=1e-7, atol=1e-14)
