"""EBM-IGM's networks written anew in torch, with the names they have in the file: parameters, FLOPs and numbers.

The U-Net and the VAE follow diffusers 0.25.1. Group norms of several rows share statistics in the file, so numbers are
compared where an image has one row for each call, and counts with several.
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

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_igm.yaml")
FILE = parse_workload(DOCUMENT)
C, VAE, IMAGE, CHAINS = 8, 32, 64, 2


class Fused(torch.autograd.Function):
    """Attention that keeps no scores and computes them again on the way back."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        share = (q @ k.mT * scale).softmax(-1)
        dv, dp = share.mT @ grads[0], grads[0] @ v.mT
        ds = share * (dp - (dp * share).sum(-1, keepdim=True)) * scale
        return ds @ k, ds.mT @ q, dv


class Residual(nn.Module):
    def __init__(self, i: int, o: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, i), nn.GroupNorm(1, o)
        self.conv1, self.conv2 = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)
        self.of_time = nn.Linear(time, o)
        self.shortcut = nn.Conv2d(i, o, 1) if i != o else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(fn.silu(self.norm1(x))) + self.of_time(fn.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(fn.silu(self.norm2(h)))


class Attend(nn.Module):
    def __init__(self, w: int, given: int) -> None:
        super().__init__()
        self.q = nn.Linear(w, w, bias=False)
        self.k, self.v = (nn.Linear(given, w, bias=False) for _ in range(2))
        self.out = nn.Linear(w, w)

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        return self.out(Fused.apply(self.q(x), self.k(given), self.v(given)))


class Transformer(nn.Module):
    def __init__(self, w: int, label: int) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = nn.GroupNorm(1, w), nn.Conv2d(w, w, 1), nn.Conv2d(w, w, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(w) for _ in range(3))
        self.add_module("self", Attend(w, w))
        self.cross = Attend(w, label)
        self.fc1, self.fc2 = nn.Linear(w, 8 * w), nn.Linear(4 * w, w)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        y = self.proj_in(self.norm(x)).flatten(2).mT
        given = self.norm1(y)
        y = y + self.get_submodule("self")(given, given)
        y = y + self.cross(self.norm2(y), label)
        value, gate = self.fc1(self.norm3(y)).chunk(2, -1)
        y = y + self.fc2(value * fn.gelu(gate))
        return x + self.proj_out(y.mT.reshape(x.shape))


class Stage(nn.Module):
    """Residual block (`res` on the way down, `join.res` on the way up), then perhaps a transformer."""

    def __init__(self, i: int, o: int, c: int, label: int, up: bool = False) -> None:
        super().__init__()
        res = Residual(i, o, 4 * c)
        self.add_module("join" if up else "res", nn.ModuleDict({"res": res}) if up else res)
        self.attn = Transformer(o, label)
        self.block = [res]

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        y: Tensor = self.attn(self.block[0](x, time), label)
        return y


class Unet(nn.Module):
    def __init__(self, c: int, label: int) -> None:
        super().__init__()
        w = [c, 2 * c, 4 * c, 4 * c]
        self.c, t = c, 4 * c
        self.time = nn.ModuleDict({"mlp1": nn.Linear(c, t), "mlp2": nn.Linear(t, t)})
        self.conv_in = nn.Conv2d(4, c, 3, padding=1)
        previous = c
        for level in range(3):
            for part in "ab":
                self.add_module(f"d{level}{part}", Stage(previous, w[level], c, label))
                previous = w[level]
            self.add_module(f"d{level}", nn.Conv2d(previous, previous, 3, 2, 1))
        for name in ("d3a", "d3b", "mid_b"):
            self.add_module(name, Residual(w[3], w[3], t))
        self.mid_a = Stage(w[3], w[3], c, label)
        for part in "abc":
            self.add_module(f"u0{part}", nn.ModuleDict({"res": Residual(2 * w[3], w[3], t)}))
        skips = {1: (w[2], w[2], w[1]), 2: (w[1], w[1], w[0]), 3: (w[0], w[0], w[0])}
        for level in range(1, 4):
            self.add_module(f"u{level - 1}", nn.ModuleDict({"conv": nn.Conv2d(previous, previous, 3, padding=1)}))
            for part, skip in zip("abc", skips[level], strict=True):
                o = w[3 - level]
                self.add_module(f"u{level}{part}", Stage(previous + skip, o, c, label, up=True))
                previous = o
        self.norm_out, self.conv_out = nn.GroupNorm(1, c), nn.Conv2d(c, 4, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor, range_: Tensor) -> Tensor:
        part = self.get_submodule
        angles = t[:, None] * (range_ * -9.210340371976184 * 2 / self.c).exp()
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        time = part("time.mlp2")(fn.silu(part("time.mlp1")(waves)))
        left = [self.conv_in(x)]
        for level in range(3):
            for name in "ab":
                left.append(part(f"d{level}{name}")(left[-1], time, label))
            left.append(part(f"d{level}")(left[-1]))
        for name in ("d3a", "d3b"):
            left.append(part(name)(left[-1], time))
        y = part("mid_b")(self.mid_a(left[-1], time, label), time)
        for name in "abc":
            y = part(f"u0{name}.res")(torch.cat([y, left.pop()], 1), time)
        for level in range(1, 4):
            y = part(f"u{level - 1}.conv")(fn.interpolate(y, scale_factor=2.0))
            for name in "abc":
                y = part(f"u{level}{name}")(torch.cat([y, left.pop()], 1), time, label)
        assert not left
        y = self.conv_out(fn.silu(self.norm_out(y)))
        return y


def encode(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """AutoencoderKL's encoder, the moments of the posterior."""

    def conv(name: str, x: Tensor, **how: int) -> Tensor:
        return fn.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], **how)

    def half(name: str, x: Tensor) -> Tensor:
        return conv(f"{name}.conv", fn.silu(norm(f"{name}.norm", x)), padding=1)

    def norm(name: str, x: Tensor) -> Tensor:
        return fn.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"])

    def res(name: str, x: Tensor) -> Tensor:
        y = half(f"{name}.half2", half(f"{name}.half1", x))
        return y + (conv(f"{name}.shortcut", x) if f"{name}.shortcut.weight" in w else x)

    y = conv("conv_in", x, padding=1)
    for level in range(4):
        y = res(f"down{level}.res1", res(f"down{level}.res0", y))
        y = conv(f"down{level}.downsample", fn.pad(y, (0, 1, 0, 1)), stride=2) if level < 3 else y
    y = res("mid_res0", y)
    tokens = norm("mid_attn.norm", y).flatten(2).mT
    q, k, v = (fn.linear(tokens, w[f"mid_attn.{p}.weight"], w[f"mid_attn.{p}.bias"]) for p in "qkv")
    mixed = fn.linear(Fused.apply(q, k, v), w["mid_attn.out.weight"], w["mid_attn.out.bias"])
    return conv("quant_conv", half("out", res("mid_res1", y + mixed.mT.reshape(y.shape))))


def composed(objects: int, **values: object) -> Program:
    return compose(settle(DOCUMENT, FILE, "small", {"objects": objects, "c": C, "vae": VAE, **values}), CHAINS)


def held(p: Program, owner: str) -> dict[str, Tensor]:
    """Random weights of a component by their names in it, as torch's modules have them."""
    generator = torch.Generator().manual_seed(2)
    found = {}
    for key, t in p.weights.items():
        if key.startswith(owner) and p.graph.tensors[t].role == "weight":
            drawn = torch.randn(p.graph.tensors[t].shape, generator=generator, dtype=torch.float64)
            found[key.removeprefix(owner).replace(".group_norm1", "")] = 0.3 * drawn
    return found


def counted(f: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = f()
    return result, counter.get_total_flops()


def product_flops(graph: Graph, nodes: list[Node]) -> int:
    total = 0
    for node in nodes:
        if node.op in WORK:
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


def unet_of(p: Program) -> Unet:
    """With the weights of the graph: equal names and shapes, none missing on either side."""
    net = Unet(C, 2).double()
    net.load_state_dict(held(p, "energy.composed.net.unet."), strict=True)
    return net.requires_grad_(False)


def error(
    net: Unet, noised: Tensor, t: Tensor, labels: Tensor, range_: Tensor, noise: Tensor, shares: Tensor
) -> Tensor:
    """The script's loss of every image: labels [images, objects, 2], noised [images, 4, side, side]."""
    images, objects, _ = labels.shape
    rows = noised[:, None].expand(-1, objects, -1, -1, -1).flatten(0, 1)
    given = net(rows, t[:, None].expand(-1, objects).flatten(), labels.reshape(-1, 1, 2), range_)
    free = net(noised, t, torch.zeros(images, 1, 2, dtype=noised.dtype), range_)
    parts = given.reshape(images, objects, *noised.shape[1:]) - free[:, None]
    prediction = free + (shares[:, :, None, None, None] * parts).sum(1)
    return (prediction - noise).square().mean((1, 2, 3))


@pytest.mark.parametrize("objects", [1, 3])
def test_torch_counts_the_same(objects: int) -> None:
    p = composed(objects)
    net, side = unet_of(p), IMAGE // 8
    labels = torch.rand(CHAINS, objects, 2, dtype=torch.float64, requires_grad=True)
    noised = torch.randn(CHAINS, 4, side, side, dtype=torch.float64)
    t, range_, shares = torch.tensor([3, 400]), torch.arange(C // 2).double(), torch.ones(CHAINS, objects) / objects
    loss, forward = counted(lambda: error(net, noised, t, labels * 1, range_, noised, shares).sum())
    _, backward = counted(lambda: torch.autograd.grad(loss, labels))
    w = held(p, "latent.moments.")
    _, vae = counted(lambda: encode(w, torch.rand(CHAINS, 3, IMAGE, IMAGE, dtype=torch.float64)))
    nodes = list(p.graph.nodes)
    latent = [n for n in nodes if n.name.startswith("latent")]
    phases = [[n for n in nodes if n.phase == phase and n not in latent] for phase in ("forward", "backward-input")]
    ours = [product_flops(p.graph, part) for part in (latent, *phases)]
    assert ours == [vae, forward, backward]
    assert min(ours) > 0


def test_numbers(run: Callable[..., dict[int, Any]]) -> None:
    """Latent, error and gradient of one object's label, from what a step of the graph has drawn."""
    p = composed(1)
    graph = p.graph
    section = next(s for s in p.sections if s.label == "step")
    generator = torch.Generator().manual_seed(4)
    written = {t for node in graph.nodes for t in node.outputs}
    values: dict[int, Tensor] = {}
    for owner in ("energy.composed.net.unet.", "latent.moments."):
        weights = held(p, owner)
        names = {key.removeprefix(owner).replace(".group_norm1", ""): t for key, t in p.weights.items()}
        values |= {names[name]: value for name, value in weights.items()}
    for number, tensor in enumerate(graph.tensors):
        if number not in written and number not in values and tensor.role != "constant":
            drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            values[number] = torch.ones_like(drawn) if tensor.name.endswith(".one") else drawn
    found = run(Graph(graph.tensors, graph.nodes[: section.last]), values)
    named = {n.name: found[n.outputs[0]] for n in graph.nodes[section.first : section.last]}
    inputs = {t.name: values[i] for i, t in enumerate(graph.tensors) if i in values}

    moments = encode(held(p, "latent.moments."), inputs["image"])
    torch.testing.assert_close(named["latent.moments.quant_conv"], moments)
    mean, log_variance = moments.chunk(2, 1)
    latent = (mean + (log_variance.clamp(-30, 20) / 2).exp() * named["latent.noise"]) * 0.18215
    noise, t = named["energy.noise"][:, 0], named["energy.t"][:, 0]
    alpha = inputs["energy.noised.alphas"][t][:, None, None, None]
    noised = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise

    first = next(n.outputs[0] for n in reversed(graph.nodes[: section.first]) if n.name == "sampler.labels")
    labels = found[first].clone().requires_grad_()
    range_ = inputs["energy.composed.net.unet.time.range"]
    loss = error(unet_of(p), noised, t, labels, range_, noise, inputs["shares"])
    (slope,) = torch.autograd.grad(loss.sum(), labels)
    torch.testing.assert_close(named["energy.error.reduce_mean1"].flatten(), loss.detach(), rtol=1e-9, atol=0)
    moved = next(n for n in graph.nodes if n.name == "sampler.g" and n.op == "add")
    torch.testing.assert_close(found[moved.outputs[0]], slope, rtol=1e-6, atol=1e-12)
    assert slope.abs().max() > 1e-6
