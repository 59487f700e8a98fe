"""The conventional models written anew in torch: equal parameters, and equal FLOPs of a forward."""

import importlib.util
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

FOLDER = Path(__file__).parents[2] / "workload_graphs"


def ours(name: str, chains: int, **sizes: object) -> tuple[int, int]:
    """Parameters, and FLOPs of the products of a step."""
    document = load_document(FOLDER / f"{name}.yaml")
    composed = compose(settle(document, parse_workload(document), "default", sizes), chains)
    graph = composed.graph
    learned = [graph.tensors[t] for t in composed.weights.values() if graph.tensors[t].role == "weight"]
    section = next(s for s in composed.sections if s.label == "step")
    flops = 0
    for node in graph.nodes[section.first : section.last]:
        if node.op in WORK:
            inputs, outputs = ([graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs))
            flops += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return sum(t.elements for t in learned), flops


def theirs(model: nn.Module, *inputs: torch.Tensor) -> tuple[int, int]:
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


class MLP(nn.Module):
    def __init__(self, given: int, out: int, h: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 128))
        self.first, self.last = nn.Linear(given + out, h), nn.Linear(h, out)
        self.hidden = nn.ModuleList(nn.Linear(h, h) for _ in range(2))
        self.maps = nn.ModuleList(nn.Linear(128, 2 * h) for _ in range(2))

    def forward(self, given: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        angles = t * torch.exp(-9.21 * torch.arange(64) / 63)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        x = fn.silu(self.first(torch.cat([given, y], -1)))
        for layer, both in zip(self.hidden, self.maps, strict=True):
            gain, bias = both(time).chunk(2, -1)
            x = fn.silu(layer(x) * (gain + 1) + bias)
        out: torch.Tensor = self.last(x)
        return out


@pytest.mark.parametrize(("task", "given"), [("addition", 50), ("low-rank", 25)])
def test_mlp(task: str, given: int) -> None:
    found = theirs(MLP(given, 25, 16), torch.ones(3, given), torch.ones(3, 25), torch.ones(3, 1))
    assert ours("mlp_reverse", 3, task=task, rank=5, h=16) == found


def normalised(weight: torch.Tensor, turns: int = 1) -> torch.Tensor:
    """A weight over its largest singular value, by power iteration with products of matrices."""
    flat = weight.reshape(len(weight), -1)
    u = torch.ones(1, len(flat))
    for _ in range(turns):
        v = fn.normalize(u @ flat)
        u = fn.normalize(v @ flat.T)
    return weight / (v @ flat.T @ u.T)


class Filters(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(b, a, 3, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fn.conv2d(x, normalised(self.weight), padding=1)


class Grown(nn.Module):
    def __init__(self, a: int, b: int, label: int) -> None:
        super().__init__()
        self.first, self.second = Filters(a, b), Filters(b, b)
        self.beside = Filters(a, b) if a != b else nn.Identity()
        self.shifts = nn.ModuleList(nn.Linear(label, c, bias=False) for c in (a, b))
        self.gain = nn.Linear(label, b)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        shifts = [shift(label)[..., None, None] for shift in self.shifts]
        y = self.second(fn.silu(self.first(x + shifts[0])) + shifts[1]) * self.gain(label)[..., None, None]
        return fn.silu(fn.interpolate(y + self.beside(x), scale_factor=2))


class Cubes(nn.Module):
    def __init__(self, f: int, label: int, blocks: int) -> None:
        super().__init__()
        self.f, self.weight, self.bias = f, nn.Parameter(torch.rand(64 * f, 2 * f)), nn.Parameter(torch.zeros(64 * f))
        widths = [(4 * f, 2 * f), (2 * f, 2 * f), (2 * f, f), (f, f), (f, f)][:blocks]
        self.blocks = nn.ModuleList(Grown(a, b, label) for a, b in widths)
        self.out = Filters(f, 3)

    def forward(self, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = fn.silu(fn.linear(noise, normalised(self.weight, 2), self.bias)).view(-1, 4 * self.f, 4, 4)
        for block in self.blocks:
            x = block(x, label)
        out: torch.Tensor = self.out(x)
        return out


@pytest.mark.parametrize("image", [64, 128])
def test_generator_of_cubes(image: int) -> None:
    model = Cubes(4, 3, 4 if image == 64 else 5)
    noise, label = torch.rand(2, 8), torch.rand(2, 3)
    assert model(noise, label).shape == (2, 3, image, image)
    assert ours("cubes_generator", 2, f=4, image=image) == theirs(model, noise, label)


class Equalised(nn.Module):
    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(b, a)), nn.Parameter(torch.zeros(b))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fn.linear(x, self.weight * self.weight.shape[1] ** -0.5, self.bias)


class Layer(nn.Module):
    """A modulated convolution: scaled before, demodulated after, with noise, bias and activation."""

    def __init__(self, a: int, b: int, width: int, side: int, doubles: bool = False) -> None:
        super().__init__()
        self.side, self.doubles, self.affine = side, doubles, Equalised(width, a)
        self.weight, self.bias = nn.Parameter(torch.rand(b, a, 3, 3)), nn.Parameter(torch.zeros(b, 1, 1))
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style = self.affine(w)
        rate = (self.weight * style[:, None, :, None, None]).square().sum((2, 3, 4)).add(1e-8).rsqrt()
        x = x * style[..., None, None]
        if self.doubles:
            x = fn.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = fn.conv2d(x, torch.ones(x.shape[1], 1, 4, 4), padding=1, groups=x.shape[1])
        else:
            x = fn.conv2d(x, self.weight, padding=1)
        noise = torch.randn(len(w), 1, self.side, self.side) * self.strength
        return 2**0.5 * fn.leaky_relu(x * rate[..., None, None] + noise + self.bias, 0.2)


class Colour(nn.Module):
    def __init__(self, c: int, width: int) -> None:
        super().__init__()
        self.affine = Equalised(width, c)
        self.weight, self.bias = nn.Parameter(torch.rand(3, c, 1, 1)), nn.Parameter(torch.zeros(3))

    def forward(self, before: torch.Tensor | None, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        rgb = fn.conv2d(x * self.affine(w)[..., None, None], self.weight, self.bias)
        if before is None:
            return rgb
        return rgb + fn.conv_transpose2d(before, torch.ones(3, 1, 4, 4), stride=2, padding=1, groups=3)


class StyleGAN2(nn.Module):
    def __init__(self, image: int, base: int, most: int, width: int, condition: int) -> None:
        super().__init__()
        channels = {2**k: min(base >> k, most) for k in range(2, image.bit_length())}
        self.embed = Equalised(condition, width) if condition else None
        entered = 2 * width if condition else width
        self.mapping = nn.ModuleList(Equalised(entered if i == 0 else width, width) for i in range(8))
        self.start = nn.Parameter(torch.rand(channels[4], 4, 4))
        self.doubling = nn.ModuleList(Layer(channels[s // 2], c, width, s, True) for s, c in channels.items() if s > 4)
        self.layers = nn.ModuleList(Layer(c, c, width, side) for side, c in channels.items())
        self.colours = nn.ModuleList(Colour(c, width) for c in channels.values())

    def forward(self, z: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        w = z * z.square().mean(1, keepdim=True).rsqrt()
        if self.embed is not None:
            told = self.embed(caption)
            w = torch.cat([w, told * told.square().mean(1, keepdim=True).rsqrt()], 1)
        for layer in self.mapping:
            w = fn.leaky_relu(layer(w), 0.2)
        x = self.layers[0](self.start[None], w)
        image: torch.Tensor = self.colours[0](None, x, w)
        for doubling, layer, colour in zip(self.doubling, self.layers[1:], self.colours[1:], strict=True):
            x = layer(doubling(x, w), w)
            image = colour(image, x, w)
        return image


@pytest.mark.parametrize(("image", "condition"), [(16, 6), (64, 0)])
def test_stylegan2(image: int, condition: int) -> None:
    sizes = {"image": image, "base": 256, "most": 16, "width": 8, "condition": condition}
    model = StyleGAN2(**sizes)
    z, caption = torch.rand(2, 8), torch.rand(2, max(condition, 1))
    assert model(z, caption).shape == (2, 3, image, image)
    assert ours("stylegan2", 2, **sizes) == theirs(model, z, caption)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_score_unet(sampler: str) -> None:
    """RRR's U-Net as its own test has it; its energy has no products."""
    spec = importlib.util.spec_from_file_location("rrr_in_torch", Path(__file__).parent / "test_rrr_torch.py")
    assert spec is not None and spec.loader is not None
    rrr = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rrr)
    rows = 6
    label, given = torch.zeros(rows, dtype=torch.long), torch.ones(rows, dtype=torch.bool)
    found = theirs(rrr.UNet(32), torch.rand(rows, 3, 16, 16), torch.ones(rows), label, given)
    assert ours("score_unet", 2, w=32, size=16, head=32, sampler=sampler) == found


class Bottleneck(nn.Module):
    def __init__(self, before: int, c: int, stride: int) -> None:
        super().__init__()
        kernels = [(before, c, 1, 1), (c, c, 3, stride), (c, 4 * c, 1, 1)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in kernels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in kernels)
        wider = [nn.Conv2d(before, 4 * c, 1, stride, bias=False), nn.BatchNorm2d(4 * c)] if before != 4 * c else []
        self.beside = nn.Sequential(*wider)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = norm(conv(y))
            y = y.relu() if i < 2 else y
        return fn.relu(y + self.beside(x))


def resnet50(w: int, outputs: int) -> nn.Module:
    first = [nn.Conv2d(3, w, 7, 2, 3, bias=False), nn.BatchNorm2d(w), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    blocks: list[nn.Module] = []
    before = w
    for level, count in enumerate((3, 4, 6, 3)):
        c = w << level
        for block in range(count):
            blocks.append(Bottleneck(before, c, 2 if level and block == 0 else 1))
            before = 4 * c
    last = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, outputs)]
    return nn.Sequential(*first, *blocks, *last).eval()


@pytest.mark.parametrize(("w", "side"), [(8, 32), (64, 64)])
def test_resnet50(w: int, side: int) -> None:
    assert ours("resnet50", 2, w=w, side=side) == theirs(resnet50(w, 10), torch.rand(2, 3, side, side))
