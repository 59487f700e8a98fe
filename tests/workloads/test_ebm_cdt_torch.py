"""EBM-CDT executed against its networks written anew in torch: parameters, FLOPs, and every number of a step.

Modules bear the names that weights have in the workload (yilundu/improved_contrastive_divergence@7d3d4ee).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import WORK
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cdt.yaml")
FILE = parse_workload(DOCUMENT)
CHAINS = 2
# Preset, settings that make it small; wider than 128 channels norms are of groups, a multiple of 32.
CASES: dict[str, tuple[str, dict[str, object]]] = {
    "default": ("default", {"f": 40}),
    "conjunction": ("conjunction", {"f": 8}),
    "celeba": ("celeba", {"f": 16, "image": 64}),
    "celeba_fid": ("celeba_fid", {"f": 8, "image": 64}),
    "negation": ("celeba_negation", {"f": 8, "image": 64}),
    "disjunction": ("celeba_disjunction", {"f": 8, "image": 64}),
}


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Standardised(nn.Conv2d):
    """A convolution whose filters lose their mean and are divided by their deviation."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return fn.conv2d(x, w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5), self.bias, padding=1)


class Half(nn.Module):
    def __init__(self, c: int, classes: int) -> None:
        super().__init__()
        self.conv = Standardised(c, c, 3)
        self.norm = nn.InstanceNorm2d(c, affine=True) if c <= 128 else nn.GroupNorm(32, c)
        self.latent_map = nn.Linear(classes, 2 * c) if classes else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        if self.latent_map is not None:
            gain, bias = self.latent_map(y)[:, :, None, None].chunk(2, 1)
            x = gain * x + bias
        return swish(x)


class Block(nn.Module):
    def __init__(self, c: int, out: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = Half(c, classes), Half(c, classes)
        self.conv_downsample = nn.Conv2d(c, out, 3, padding=1) if out else None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.second(self.first(x, y), y) + x
        return x if self.conv_downsample is None else swish(fn.avg_pool2d(self.conv_downsample(x), 3, 2, 1))


class Attention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        share = torch.bmm(self.query(x).flatten(2).mT, self.key(x).flatten(2)).softmax(-1)
        return self.gamma * torch.bmm(self.value(x).flatten(2), share.mT).view_as(x) + x


class Scale(nn.Module):
    def __init__(self, halvings: int, stem: int, blocks: dict[str, nn.Module], top: int) -> None:
        super().__init__()
        self.halvings = halvings
        self.stem = nn.ModuleDict({"conv1": nn.Conv2d(3, stem, 3, padding=1)})
        self.order = list(blocks)
        for name, block in blocks.items():
            self.add_module(name, block)
        self.energy = nn.ModuleDict({"energy_map": nn.Linear(top, 1)})

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(self.halvings):
            x = fn.avg_pool2d(x, 3, stride=2, padding=1)
        x = swish(self.stem["conv1"](x))
        for name in self.order:
            x = getattr(self, name)(x, y)
        energy: Tensor = self.energy["energy_map"](swish(x).mean(2).mean(2))
        return energy


class Model(nn.Module):
    """Three scales; energies of the small, mid and main one side by side."""

    def __init__(self, faces: bool, f: int, classes: int) -> None:
        super().__init__()

        def blocks(*sizes: tuple[int, int]) -> dict[str, nn.Module]:
            names = [f"res_{stage}{part}" for stage in range(1, 5) for part in "ab"]
            return {name: Block(c, out, classes) for name, (c, out) in zip(names, sizes, strict=False)}

        early = f if faces else 0
        first = (f // 2, f) if faces else (f, 0)
        sizes = [(f, early), (f, f), (f, early), (f, 2 * f), (2 * f, 0), (2 * f, 4 * f), (4 * f, 0), (4 * f, 8 * f)]
        whole = list(blocks(first, *sizes[1:]).items())
        place = 6 if faces else 4
        whole.insert(place, ("self_attn", Attention(4 * f if faces else 2 * f)))
        self.main = Scale(0, first[0], dict(whole), 8 * f)
        self.mid = Scale(1, f, blocks(*sizes[:6]), 4 * f)
        self.small = Scale(2, f, blocks(*sizes[:4]), 2 * f)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self.small(x, y), self.mid(x, y), self.main(x, y)], -1)


def composed(case: str) -> tuple[Program, list[Model], dict[str, Any]]:
    """The workload, and torch's models of its sizes."""
    preset, sizes = CASES[case]
    workload = settle(DOCUMENT, FILE, preset, sizes)
    p: dict[str, Any] = dict(workload.parameters)
    classes = p["classes"] if p["conditional"] else 0
    models = [Model(p["network"] == "celeba", p["f"], classes).double() for _ in range(p["models"])]
    return compose(workload, CHAINS), models, p


def joined(models: list[Model], logic: str, x: Tensor, labels: Tensor) -> Tensor:
    """The energies as the composition scripts have them."""
    found = [model(x, labels[:, i]) for i, model in enumerate(models)]
    if logic == "disjunction":
        return -torch.logsumexp(100 * (-1 * torch.stack(found, 1)), 1) / 100
    total = torch.zeros(1, dtype=torch.float64)
    for i, energy in enumerate(found):
        total = (-0.001 * energy if logic == "negation" and i == 1 else energy) + total
    return total


def product_flops(graph: Graph, nodes: tuple[Node, ...], phase: str) -> int:
    total = 0
    for node in nodes:
        if node.phase == phase and node.op in WORK:
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


@pytest.mark.parametrize("case", CASES)
def test_a_step(case: str, run: Callable[..., dict[int, Tensor]]) -> None:
    """Every number of the next sample is the script's; so are parameters and the FLOPs forward and backward."""
    torch.manual_seed(4)
    program, models, p = composed(case)
    graph = program.graph
    weights = {key: t for key, t in program.weights.items() if graph.tensors[t].role == "weight"}
    assert sum(graph.tensors[t].elements for t in weights.values()) == sum(
        q.numel() for model in models for q in model.parameters()
    )

    values: dict[int, Tensor] = {}
    for i, model in enumerate(models):
        mine = {}
        for name, weight in model.named_parameters():
            scale, _, rest = name.partition(".")
            held = f"{scale}[{i}].{rest}" if i else name
            key = held if held in weights else held.replace(".conv.bias", ".conv.conv2d1.bias")
            weight.data = torch.randn(graph.tensors[weights[key]].shape, dtype=torch.float64) * 0.3
            mine[weights[key]] = weight.data
        model.requires_grad_(False)
        values |= mine
    assert values.keys() == set(weights.values())
    labels = torch.randn(CHAINS, p["models"], p["classes"], dtype=torch.float64)
    image = (CHAINS, 3, p["image"], p["image"])
    for t, tensor in enumerate(graph.tensors):
        if tensor.role == "input":
            values[t] = labels
        elif tensor.role == "sample":
            values[t] = torch.rand(image, dtype=torch.float64)
    step = next(s for s in program.sections if s.label == "step")
    nodes = graph.nodes[step.first : step.last]
    found = run(Graph(graph.tensors, graph.nodes[: step.last]), values)

    named = {n.name: n.outputs[0] for n in nodes}
    noise = found[named["sampler.noise"]]
    before = next(n for n in graph.nodes if n.name == "sampler.im" and n.op == "random_uniform")
    x = (found[before.outputs[0]] + 0.001 * noise).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        energy = joined(models, p["logic"], x * 1, labels)
    with FlopCounterMode(display=False) as backward:
        grad = torch.autograd.grad(energy.sum(), x)[0]
    size = (10 if p["network"] == "cifar10" else 500) / p["models"]
    expected = (x - size * grad).clamp(0, 1).detach()
    torch.testing.assert_close(found[named["sampler.im"]], expected, rtol=1e-9, atol=1e-10)
    assert grad.abs().max() > 1e-6
    counts = [product_flops(graph, nodes, phase) for phase in ("forward", "backward-input")]
    assert counts == [forward.get_total_flops(), backward.get_total_flops()] and min(counts) > 0
