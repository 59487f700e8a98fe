"""EBM-CMP's networks written anew in torch: equal parameters, and equal FLOPs forward and back to the image."""

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

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cmp.yaml")
F, IMAGE, CHAINS, ATTRIBUTES = 16, 64, 2, 2


class Standardised(nn.Conv2d):
    """A convolution whose filters lose their mean and are divided by their deviation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return fn.conv2d(x, w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5), self.bias, padding=1)


class Block(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Standardised(c, c, 3) for _ in range(2))
        self.norms = nn.ModuleList(
            nn.InstanceNorm2d(c, affine=True) if c <= 128 else nn.GroupNorm(32, c) for _ in range(2)
        )
        self.maps = nn.ModuleList(nn.Linear(2, 2 * c) for _ in range(2))
        self.down = nn.Conv2d(c, out, 3, padding=1) if out else None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        start = x
        for conv, norm, film in zip(self.convs, self.norms, self.maps, strict=True):
            gain, bias = film(y)[:, :, None, None].chunk(2, 1)
            x = fn.silu(norm(conv(x)) * gain + bias)
        x = x + start
        return x if self.down is None else fn.silu(fn.avg_pool2d(self.down(x), 3, 2, 1))


class Attention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c // 8, 1), nn.Conv2d(c, c, 1)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share = torch.bmm(self.q(x).flatten(2).mT, self.k(x).flatten(2)).softmax(-1)
        return self.gamma * torch.bmm(self.v(x).flatten(2), share.mT).view_as(x) + x


class Trunk(nn.Module):
    """One network at one scale: blocks of (channels, channels after halving), attention before the last two or none."""

    def __init__(self, blocks: list[tuple[int, int]], halvings: int, attention: bool) -> None:
        super().__init__()
        self.halvings, self.stem = halvings, nn.Conv2d(3, blocks[0][0], 3, padding=1)
        self.blocks = nn.ModuleList(Block(c, out) for c, out in blocks)
        self.attention = Attention(blocks[-2][0]) if attention else None
        self.top = nn.Linear(blocks[-1][1], 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        for _ in range(self.halvings):
            x = fn.avg_pool2d(x, 3, 2, 1)
        x = fn.silu(self.stem(x))
        for i, block in enumerate(self.blocks):
            x = self.attention(x) if self.attention is not None and i == len(self.blocks) - 2 else x
            x = block(x, y)
        return self.top(fn.silu(x).mean((2, 3)))[:, 0]


class Resnet(nn.Module):
    """The TensorFlow network with its kernels as they are after normalisation."""

    def __init__(self, f: int) -> None:
        super().__init__()

        def conv(a: int, b: int) -> nn.Conv2d:
            return nn.Conv2d(a, b, 3, padding=1, bias=False)

        self.pre = conv(3, f)
        widths = [(f, f), (f, 2 * f), (2 * f, 4 * f), (4 * f, 8 * f), (8 * f, 8 * f), (8 * f, 8 * f)]
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "first": conv(a, b),
                    "second": conv(b, b),
                    "bypass": conv(a, b) if a != b else nn.Identity(),
                    "shift_1": nn.Linear(2, a, bias=False),
                    "shift_2": nn.Linear(2, b, bias=False),
                    "gain": nn.Linear(2, b),
                }
            )
            for a, b in widths
        )
        self.top = nn.Linear(8 * f, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = fn.silu(self.pre(x))
        for i, m in enumerate(self.blocks):
            act = fn.silu if i else lambda h: fn.leaky_relu(h, 0.2)
            part = {name: m[name](y)[:, :, None, None] for name in ("shift_1", "shift_2", "gain")}
            h = act(m["first"](x + part["shift_1"])) + part["shift_2"]
            x = m["second"](h) * part["gain"] + m["bypass"](x)
            x = act(fn.avg_pool2d(x, 2) if i < len(self.blocks) - 1 else x)
        return self.top(fn.silu(x).sum((2, 3)))[:, 0]


def networks(preset: str, f: int, count: int) -> list[nn.Module]:
    if preset == "resnet128":
        return [Resnet(f) for _ in range(count)]
    main = [(f // 2, f), (f, f), (f, f), (f, 2 * f), (2 * f, 0), (2 * f, 4 * f), (4 * f, 0), (4 * f, 8 * f)]
    mid = [(f, f), (f, f), (f, f), (f, 2 * f), (2 * f, 0), (2 * f, 4 * f)]
    trunks = [(main, 0, True), (mid, 1, False), (mid[:4], 2, False)]
    return [Trunk(*how) for how in (trunks if preset == "multiscale" else trunks[:1]) for _ in range(count)]


@pytest.mark.parametrize("preset", ["default", "multiscale", "resnet128"])
def test_torch_counts_the_same(preset: str) -> None:
    torch.manual_seed(1)
    models = networks(preset, F, ATTRIBUTES)
    for model in models:
        model.requires_grad_(False)
    sizes = {"attributes": ATTRIBUTES, "f": F, "image": IMAGE}
    graph = (composed := compose(settle(DOCUMENT, parse_workload(DOCUMENT), preset, sizes), CHAINS)).graph
    learned = [graph.tensors[t] for t in composed.weights.values() if graph.tensors[t].role == "weight"]
    assert sum(t.elements for t in learned) == sum(p.numel() for model in models for p in model.parameters())

    x, y = torch.rand(CHAINS, 3, IMAGE, IMAGE, requires_grad=True), torch.eye(2)
    with FlopCounterMode(display=False) as forward:
        energy = sum(model(x * 1, y).sum() for model in models)
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, x)
    ours = {"forward": 0, "backward-input": 0}
    for node in graph.nodes:
        if node.phase in ours and node.op in WORK:
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            ours[node.phase] += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    assert list(ours.values()) == [forward.get_total_flops(), backward.get_total_flops()]
    assert min(ours.values()) > 0
