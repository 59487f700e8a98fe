"""EBM-CGID's networks written anew in torch: equal weights, equal FLOPs, equal numbers forward and back."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import Program, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cgid.yaml")
FILE = parse_workload(DOCUMENT)
SMALL = {"width": 8, "side": 16, "frames": 2, "horizon": 16}
# Preset and sizes: small ones are computed, full ones counted on torch's meta device.
AIRFOIL: list[dict[str, Any]] = [{}, SMALL, SMALL | {"nb": 1}]
NBODY: list[tuple[str, dict[str, Any]]] = [("nbody", {}), ("nbody4", SMALL), ("nbody4", SMALL | {"n": 3, "windows": 2})]


class Weights:
    """Weights by the names that the workload gives them; each must have the shape that the torch code asks for."""

    def __init__(self, program: Program, values: dict[int, Tensor] | None) -> None:
        self.shapes = {k: program.graph.tensors[t] for k, t in program.weights.items()}
        self.values, self.tensors = values, program.weights
        self.asked: dict[str, tuple[int, ...]] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        self.asked[name] = shape
        if self.values is None:
            return torch.empty(shape, device="meta", dtype=torch.float64)
        assert self.shapes[name].shape == shape
        return self.values[self.tensors[name]]

    def complete(self) -> None:
        learned = {k: t.shape for k, t in self.shapes.items() if t.role == "weight"}
        assert self.asked == learned

    def conv(self, name: str, x: Tensor, c: int, k: int, *, bias: bool = True, **how: int) -> Tensor:
        weight = self(f"{name}.weight", c, x.shape[1], *[k] * (x.dim() - 2))
        convolve = fn.conv2d if x.dim() == 4 else fn.conv1d
        return convolve(x, weight, self(f"{name}.bias", c) if bias else None, **how)

    def linear(self, name: str, x: Tensor, c: int) -> Tensor:
        return fn.linear(x, self(f"{name}.weight", c, x.shape[-1]), self(f"{name}.bias", c))

    def group_norm(self, name: str, x: Tensor) -> Tensor:
        c = x.shape[1]
        return fn.group_norm(x, 8, self(f"{name}.weight", c), self(f"{name}.bias", c))

    def channel_norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        gain = self(f"{name}.gain", x.shape[1], *[1] * (x.dim() - 2))
        return centred * (x.var(1, unbiased=False, keepdim=True) + 1e-5).rsqrt() * gain


def waves(t: Tensor, width: int) -> Tensor:
    """The code's -log(10000) / (width / 2 - 1), rounded in the workload; numbers 0, 1, 2, ..."""
    angles = t * torch.exp(torch.arange(width // 2, device=t.device, dtype=t.dtype) * -0.297)
    return torch.cat((angles.sin(), angles.cos()), -1)


# --- airfoil ----------------------------------------------------------------------------------------------------------


def block(w: Weights, name: str, x: Tensor, c: int) -> Tensor:
    weight = w(f"{name}.weight", c, x.shape[1], 3, 3)
    weight = weight - weight.mean((1, 2, 3), keepdim=True)
    weight = weight * (weight.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5).rsqrt()
    return w.group_norm(f"{name}.norm", fn.conv2d(x, weight, w(f"{name}.conv.bias", c), padding=1))


def residual(w: Weights, name: str, x: Tensor, c: int, t: Tensor | None = None) -> Tensor:
    y = block(w, f"{name}.half1", x, c)
    if t is not None:
        scale, shift = w.linear(f"{name}.film", fn.silu(t), 2 * c)[..., None, None].chunk(2, 1)
        y = y * (scale + 1) + shift
    y = fn.silu(block(w, f"{name}.half2", fn.silu(y), c))
    return y + (w.conv(f"{name}.shortcut", x, c, 1) if x.shape[1] != c else x)


def attention(w: Weights, name: str, x: Tensor, full: bool = False) -> Tensor:
    c, n = x.shape[1], x[0, 0].numel()
    qkv = w.conv(f"{name}.qkv", w.channel_norm(f"{name}.pre", x), 384, 1, bias=False)
    q, k, v = (part.reshape(len(x), 4, 32, n) for part in qkv.chunk(3, 1))
    if full:
        share = torch.einsum("bhdi,bhdj->bhij", q * 32**-0.5, k).softmax(-1)
        mixed = torch.einsum("bhij,bhdj->bhdi", share, v)
    elif x.dim() == 4:
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v / n)
        mixed = torch.einsum("bhde,bhdn->bhen", context, q.softmax(-2) * 32**-0.5)
    else:
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
        mixed = torch.einsum("bhde,bhdn->bhen", context, q * 32**-0.5)
    out = w.conv(f"{name}.out", mixed.reshape(len(x), 128, *x.shape[2:]), c, 1)
    return x + (out if full or x.dim() == 3 else w.channel_norm(f"{name}.post", out))


def shrink(w: Weights, name: str, x: Tensor, c: int) -> Tensor:
    return w.conv(f"{name}.conv", fn.pixel_unshuffle(x, 2), c, 1)


def unet2d(w: Weights, x: Tensor, t: Tensor, width: int) -> Tensor:
    res, att = (partial(f, w) for f in (residual, attention))
    channels, start = x.shape[1], w.conv("unet2d.conv_in", x, width, 7, padding=3)
    time = w.linear("unet2d.time1", waves(t, width), 4 * width)
    time = w.linear("unet2d.time", fn.gelu(time), 4 * width)
    x, left = start, []
    for level in (0, 1):
        x = res(f"unet2d.down{level}_1", x, width, time)
        left.append(x)
        x = att(f"unet2d.down{level}_3", res(f"unet2d.down{level}_2", x, width, time))
        left.append(x)
        x = w.conv("unet2d.widen", x, 2 * width, 3, padding=1) if level else shrink(w, "unet2d.shrink", x, width)
    x = att("unet2d.middle_2", res("unet2d.middle_1", x, 2 * width, time), full=True)
    x = res("unet2d.middle_3", x, 2 * width, time)
    for level, c in ((0, 2 * width), (1, width)):
        x = res(f"unet2d.up{level}_1", torch.cat((x, left.pop()), 1), c, time)
        x = res(f"unet2d.up{level}_2", torch.cat((x, left.pop()), 1), c, time)
        x = att(f"unet2d.up{level}_3", x)
        x = x if level else fn.interpolate(x, scale_factor=2)
        x = w.conv("unet2d.conv_up" if level else "unet2d.grow", x, width, 3, padding=1)
    x = res("unet2d.final", torch.cat((x, start), 1), width, time)
    return w.conv("unet2d.conv_out", x, channels, 1)


def force(w: Weights, x: Tensor, width: int) -> Tensor:
    x = w.conv("force.conv_in", x, width, 7, padding=3)
    for level, times in enumerate((1, 1, 2, 4)):
        for half in (0, 1):
            x = residual(w, f"force.down{level}.res{half}", x, times * width)
        x = attention(w, f"force.down{level}.att", x)
        x = shrink(w, f"force.shrink{level}", x, (1, 2, 4)[level] * width) if level < 3 else x
    x = residual(w, "force.middle_1", w.conv("force.widen", x, 8 * width, 3, padding=1), 8 * width)
    x = residual(w, "force.middle_3", attention(w, "force.middle_2", x, full=True), 8 * width)
    return w.linear("force.forces", x.mean(-1).mean(-1), 2)


def objective(w: Weights, x: Tensor, p: Any, eye: Tensor) -> Tensor:
    """Forces in all frames and overlaps, of each sample; sums over nb boundaries are over nb pixels."""
    nb, side, boundary = p["nb"], p["side"], x[:, -3:]
    scene = (
        boundary.reshape(len(x), -1, nb).sum(-1, keepdim=True).clamp(0, 1).expand(-1, -1, nb).reshape(boundary.shape)
    )
    total = torch.zeros(len(x), device=x.device, dtype=x.dtype)
    for frame in range(p["frames"]):
        pressure = 0.5 * x[:, 3 * frame + 2 : 3 * frame + 3] + 0.5
        drag, lift = force(w, torch.cat((pressure, scene), 1), p["width"]).unbind(-1)
        total = total + drag.abs() + lift
    mask = x[:, -3].clamp(0, 1).reshape(len(x), side // 4, 4, side // 4, 4).mean((2, 4)).reshape(len(x), 1, -1)
    return total + (torch.bmm(mask, mask.expand(-1, nb, -1).mT) * -eye).mean((1, 2))


# --- nbody ------------------------------------------------------------------------------------------------------------


def temporal(w: Weights, name: str, x: Tensor, t: Tensor, c: int) -> Tensor:
    def half(part: str, x: Tensor) -> Tensor:
        return fn.mish(w.group_norm(f"{name}.{part}.norm", w.conv(f"{name}.{part}.conv", x, c, 5, padding=2)))

    y = half("half1", x) + w.linear(f"{name}.film", fn.mish(t), c)[..., None]
    return half("half2", y) + (w.conv(f"{name}.shortcut", x, c, 1) if x.shape[1] != c else x)


def unet1d(w: Weights, x: Tensor, t: Tensor, width: int) -> Tensor:
    """Of [instants, 8]; the first of the tensors kept on the way down is not read."""
    time = w.linear("unet1d.time1", waves(t, width), 4 * width)
    time = w.linear("unet1d.time", fn.mish(time), width)
    x, left = x.mT, []

    def stage(name: str, x: Tensor, c_mid: int, c: int) -> Tensor:
        x = temporal(w, f"unet1d.{name}.res1", x, time, c_mid)
        return attention(w, f"unet1d.{name}.att", temporal(w, f"unet1d.{name}.res2", x, time, c))

    for level in range(4):
        c = 2**level * width
        x = stage(f"down{level}", x, c, c)
        left.append(x)
        x = w.conv(f"unet1d.shrink{level}", x, c, 3, stride=2, padding=1) if level < 3 else x
    x = attention(w, "unet1d.middle_2", temporal(w, "unet1d.middle_1", x, time, 8 * width))
    x = temporal(w, "unet1d.middle_3", x, time, 8 * width)
    for level in range(3):
        c = 2 ** (2 - level) * width
        x = stage(f"up{level}", torch.cat((x, left.pop()), 1), 2 * c, c)
        kernel, bias = w(f"unet1d.grow{level}.weight", c, c, 4), w(f"unet1d.grow{level}.bias", c)
        x = fn.conv_transpose1d(x, kernel, bias, stride=2, padding=1)
    x = fn.mish(w.group_norm("unet1d.final.norm", w.conv("unet1d.final.conv", x, width, 5, padding=2)))
    return w.conv("unet1d.conv_out", x, 8, 1).mT


def design(x: Tensor, targets: Tensor) -> Tensor:
    """Of [instants, bodies, 4]: mean distance of last places from the target, and the squares of all moves."""
    far = (x[:, -1, :, :2] - targets).square().sum(-1).sqrt().sum(-1)
    moves = (x[:, 1:, :, :2] - x[:, :-1, :, :2]).square().sum((2, 3)).mean(-1)
    return 0.4 * far + 0.1 * moves


# --- both against the workload ----------------------------------------------------------------------------------------


def settled(preset: str, **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def evaluation(p: Program) -> list[Node]:
    """The nodes of one evaluation: networks, objective, and the gradient of the objective."""
    section = next(s for s in p.sections if s.label == "step")
    nodes = p.graph.nodes[section.first : section.last]
    return [n for n in nodes if n.phase in ("forward", "backward-input")]


def flops(graph: Graph, nodes: list[Node], phase: str, component: str = "") -> int:
    total = 0
    for n in nodes:
        if (
            n.phase == phase
            and n.branch.startswith(component)
            and OPERATORS[n.op].category in ("matmul", "convolution")
        ):
            shapes = [[graph.tensors[t].shape for t in side] for side in (n.inputs, n.outputs)]
            total += WORK[n.op](*shapes, dict(n.attributes)).product_flops
    return total


def filled(graph: Graph, nodes: list[Node], given: dict[str, Tensor]) -> dict[int, Tensor]:
    """Values of what none of the nodes writes: those given by name, waves as they are, else random ones."""
    made = {t for n in nodes for t in n.outputs}
    generator = torch.Generator().manual_seed(5)
    values: dict[int, Tensor] = {}
    for i, t in enumerate(graph.tensors):
        if i in made or t.role == "constant":
            continue
        if t.name in given and t.shape == given[t.name].shape:
            values[i] = given[t.name]
        elif t.name.endswith(".range"):
            values[i] = torch.arange(t.elements, dtype=torch.float64)
        else:
            values[i] = torch.randn(t.shape, generator=generator, dtype=torch.float64)
            if t.role == "weight" and len(t.shape) > 1:
                values[i] *= math.sqrt(t.shape[0] / t.elements)
    return values


def only(values: list[Any]) -> Any:
    (value,) = values
    return value


@pytest.mark.parametrize("sizes", AIRFOIL)
def test_the_airfoil(sizes: dict[str, Any], run: Callable[..., dict[int, Any]]) -> None:
    chains, workload = 2, settled("default", **sizes)
    program, p = compose(workload, chains), workload.parameters
    graph, nodes = program.graph, evaluation(program)
    width = int(p["width"])
    at = only([n for n in graph.nodes if n.name == "sampler.at"]).outputs[0]
    t = torch.tensor([[3], [7]])
    values = filled(graph, nodes, {"t": t}) if sizes else None
    w = Weights(program, values)
    device = "cpu" if sizes else "meta"
    x = values[at] if values else torch.empty(graph.tensors[at].shape, device=device, dtype=torch.float64)
    x = x.clone().requires_grad_()
    eye = values[program.weights["overlap.eye"]] if values else torch.ones(1, int(p["nb"]), device=device)
    with FlopCounterMode(display=False) as denoising, torch.no_grad():
        noise = unet2d(w, x, t.double().to(device), width)
    with FlopCounterMode(display=False) as forward:
        energy = objective(w, x * 1, p, eye)
    with FlopCounterMode(display=False) as backward:
        (slope,) = torch.autograd.grad(energy.sum(), x)
    w.complete()
    assert flops(graph, nodes, "forward", "unet2d") == denoising.get_total_flops() > 0
    assert flops(graph, nodes, "forward") == (denoising.get_total_flops() + forward.get_total_flops())
    assert flops(graph, nodes, "backward-input") == backward.get_total_flops() > 0
    if values:
        found = run(Graph(graph.tensors, tuple(nodes)), values)
        last = only([n for n in nodes if n.name == "unet2d.conv_out"])
        torch.testing.assert_close(found[last.outputs[0]], noise)
        torch.testing.assert_close(found[only([n for n in graph.nodes if n.name == "sampler.pull"]).inputs[0]], slope)
        assert slope[:, -3:].abs().max() > 1e-6 and slope[:, 2].abs().max() > 1e-6


@pytest.mark.parametrize(("preset", "sizes"), NBODY)
def test_nbody(preset: str, sizes: dict[str, Any], run: Callable[..., dict[int, Any]]) -> None:
    """Every call sees its pair in its window, [10 k, 10 k + horizon); the objective sees all places."""
    chains, workload = 2, settled(preset, **sizes)
    program, p = compose(workload, chains), workload.parameters
    graph, nodes = program.graph, evaluation(program)
    width, n, horizon = (int(p[k]) for k in ("width", "n", "horizon"))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    states = torch.tensor([[*range(4 * i, 4 * i + 4), *range(4 * j, 4 * j + 4)] for i, j in pairs])
    places = torch.tensor([4 * i + k for i in range(n) for k in (0, 1)])
    at = only([node for node in graph.nodes if node.name == "sampler.at"]).outputs[0]
    t = torch.tensor([[3], [7]])
    values = filled(graph, nodes, {"t": t, "states": states, "places": places}) if sizes else None
    w, device = Weights(program, values), "cpu" if sizes else "meta"
    x = values[at] if values else torch.empty(graph.tensors[at].shape, device=device, dtype=torch.float64)
    flat, x = x.flatten(2), x.clone().requires_grad_()
    calls = []
    with FlopCounterMode(display=False) as denoising:
        for k in range(int(p["windows"])):
            for pair in states.to(device):
                calls.append(unet1d(w, flat[:, 10 * k : 10 * k + horizon, pair], t.double().to(device), width))
    w.complete()
    assert flops(graph, nodes, "forward") == denoising.get_total_flops() > 0
    assert flops(graph, nodes, "backward-input") == 0
    if values:
        (slope,) = torch.autograd.grad(design(x, values[program.weights["reach.target"]][0, 0]).sum(), x)
        found = run(Graph(graph.tensors, tuple(nodes)), values)
        outputs = [found[node.outputs[0]] for node in nodes if node.name == "unet1d.conv_out"]
        assert len(outputs) == len(calls) == len(pairs) * int(p["windows"])
        for ours, torchs in zip(outputs, calls, strict=True):
            torch.testing.assert_close(ours.mT, torchs)
        (subtracted,) = [node for node in graph.nodes if node.name == "sampler.mean" and node.op == "sub"]
        torch.testing.assert_close(found[subtracted.inputs[1]], slope)
