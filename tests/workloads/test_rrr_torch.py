"""RRR's networks written anew in torch: equal parameters, and equal FLOPs forward and back to the sample."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as fn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import compose
from ebmsim.graph.operators.table import WORK
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "rrr.yaml")
W, SIZE, HEAD, CLASSES = 32, 16, 32, 3


class Residual(nn.Module):
    """Two convolutions, between them an embedding of `width`; resize: 0.5 halves, 2 doubles height and width."""

    def __init__(self, c: int, out: int, width: int, resize: float = 1) -> None:
        super().__init__()
        self.resize = resize
        self.norm1, self.conv1 = nn.GroupNorm(32, c), nn.Conv2d(c, out, 3, padding=1)
        self.shift = nn.Linear(width, out)
        self.norm2, self.conv2 = nn.GroupNorm(32, out), nn.Conv2d(out, out, 3, padding=1)
        self.skip = nn.Conv2d(c, out, 1) if c != out else nn.Identity()

    def resized(self, x: torch.Tensor) -> torch.Tensor:
        if self.resize == 1:
            return x
        return fn.avg_pool2d(x, 2) if self.resize < 1 else fn.interpolate(x, scale_factor=2, mode="nearest")

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        h = self.conv1(self.resized(fn.silu(self.norm1(x)))) + self.shift(fn.silu(e))[..., None, None]
        return self.skip(self.resized(x)) + self.conv2(fn.silu(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.proj = nn.GroupNorm(32, c), nn.Conv1d(c, 3 * c, 1), nn.Conv1d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.norm(x).flatten(2)
        q, k, v = self.qkv(flat).reshape(-1, 3 * HEAD, flat.shape[2]).split(HEAD, 1)
        share = torch.einsum("bct,bcs->bts", q * HEAD**-0.25, k * HEAD**-0.25).softmax(-1)
        mixed = torch.einsum("bts,bcs->bct", share, v).reshape(flat.shape)
        return x + self.proj(mixed).view_as(x)


class Stage(nn.Module):
    """What stands between two skips."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x, e) if isinstance(part, Residual) else part(x)
        return x


class UNet(nn.Module):
    """Built as the code builds it: levels of three blocks down and four up, all skips kept."""

    def __init__(self, w: int) -> None:
        super().__init__()
        e = 4 * w
        self.time = nn.Sequential(nn.Linear(w, e), nn.SiLU(), nn.Linear(e, e))
        self.label, self.null = nn.Embedding(CLASSES, e), nn.Embedding(1, e)
        down: list[nn.Module] = [nn.Conv2d(3, w, 3, padding=1)]
        c, kept = w, [w]
        for level in range(4):
            for _ in range(3):
                out = (level + 1) * w
                down.append(Stage(Residual(c, out, e), *([Attention(out)] if level else [])))
                kept.append(c := out)
            if level < 3:
                down.append(Stage(Residual(c, c, e, 0.5)))
                kept.append(c)
        middle = Stage(Residual(c, c, e), Attention(c), Residual(c, c, e))
        up: list[nn.Module] = []
        for level in reversed(range(4)):
            for i in range(4):
                out = (level + 1) * w
                attention = [Attention(out)] if level else []
                larger = [Residual(out, out, e, 2)] if level and i == 3 else []
                up.append(Stage(Residual(c + kept.pop(), out, e), *attention, *larger))
                c = out
        self.down, self.middle, self.up = nn.ModuleList(down), middle, nn.ModuleList(up)
        self.out = nn.Sequential(nn.GroupNorm(32, w), nn.SiLU(), nn.Conv2d(w, 3, 3, padding=1))

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        half = self.time[0].in_features // 2
        angles = t[:, None] * torch.exp(-9.21 * torch.arange(half) / half)
        table = torch.where(given[:, None], self.label(label), self.null.weight)
        e = self.time(torch.cat([angles.cos(), angles.sin()], -1)) + table
        skips = []
        for i, stage in enumerate(self.down):
            x = stage(x, e) if i else stage(x)
            skips.append(x)
        x = self.middle(x, e)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], 1), e)
        return 0.5 * self.out(x).square().sum((1, 2, 3))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time, self.first, self.last = nn.Embedding(100, 32), nn.Linear(2, 128), nn.Linear(128, 2)
        sizes = {"h": (128, 256), "time": (32, 256), "inner": (256, 256), "out": (256, 128)}
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(128)} | {name: nn.Linear(a, b) for name, (a, b) in sizes.items()})
            for _ in range(4)
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h, e = self.first(x), self.time(t)
        for m in self.layers:
            inner = fn.silu(m["h"](fn.silu(m["norm"](h))) + m["time"](e))
            h = h + m["out"](fn.silu(m["inner"](inner)))
        return (self.last(h) - x).square().sum(-1)


def ours(preset: str, chains: int, **sizes: object) -> tuple[int, list[int]]:
    """Parameters, and FLOPs of the products of one gradient, forward and back."""
    settings = {"sampler": "none", "chains": chains, **sizes}
    composed = compose(settle(DOCUMENT, parse_workload(DOCUMENT), preset, settings), chains)
    graph = composed.graph
    learned = [graph.tensors[t] for t in composed.weights.values() if graph.tensors[t].role == "weight"]
    section = next(s for s in composed.sections if s.label == "step")
    flops = {"forward": 0, "backward-input": 0}
    for node in graph.nodes[section.first : section.last]:
        if node.phase in flops and node.op in WORK:
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            flops[node.phase] += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return sum(t.elements for t in learned), list(flops.values())


@pytest.mark.parametrize("labels", [1, 2])
def test_unet(labels: int) -> None:
    rows = 2 * (labels + 1)
    model = UNet(W).requires_grad_(False)
    x = torch.rand(rows, 3, SIZE, SIZE, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        energy = model(x, torch.ones(rows), torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool))
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy.sum(), x)
    found = ours("default", 2, labels=labels, w=W, size=SIZE, head=HEAD, levels=4, corrected=2)
    parameters = sum(p.numel() for p in model.parameters())
    assert found == (parameters, [forward.get_total_flops(), backward.get_total_flops()])


def test_unet_as_published() -> None:
    """The same network at the published width has the published number of parameters."""
    with torch.device("meta"):
        model = UNet(128)
    assert sum(p.numel() for p in model.parameters()) == ours("none", 1)[0] == 125_121_667


def test_mlps() -> None:
    models = [MLP().requires_grad_(False) for _ in range(2)]
    x = torch.rand(5, 2, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        energy = sum(model(x * 1, torch.zeros(5, dtype=torch.long)).sum() for model in models)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, x)
    parameters = sum(p.numel() for model in models for p in model.parameters())
    assert ours("toy", 5) == (parameters, [forward.get_total_flops(), backward.get_total_flops()])
