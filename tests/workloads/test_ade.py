"""ADE against what its paper and code say: both networks, the leapfrog steps, training through them; torch counts."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as fn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ade.yaml")
FILE = parse_workload(DOCUMENT)
CRITIC, GENERATOR, PIXELS = 1_108_736, 6_576_134, 3 * 32 * 32
# Layer: channels before and after, height and width, parameters, millions of multiply-adds.
CONVOLUTIONS = {
    "c0_0": (3, 64, 32, 1_792, 1.769),
    "c0_1": (64, 128, 32, 73_856, 75.497),
    "c1_0": (128, 128, 16, 147_584, 37.749),
    "c1_1": (128, 256, 16, 295_168, 75.497),
    "c3_0": (256, 256, 8, 590_080, 37.749),
}
# Layer: channels before and after, kernel, height and width read, parameters without the norm, millions.
DECONVOLUTIONS = {
    "dc1.conv": (512, 256, 4, 4, 2_097_408, 33.554),
    "dc2.conv": (256, 128, 4, 8, 524_416, 33.554),
    "dc3.conv": (128, 64, 4, 16, 131_136, 33.554),
    "dc4": (64, 3, 3, 32, 1_731, 1.769),
}
WEIGHTS = 9 * (3 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256) + 256
SIGMAS = 3 * WEIGHTS + 64 + 128 + 128 + 256 + 256 + 1  # products of the power iterations


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


@lru_cache(maxsize=16)
def program(preset: str = "default", chains: int = 1, **overrides: object) -> Program:
    return compose(settled(preset, **overrides), chains)


def macs(graph: Graph, nodes: Sequence[Node]) -> float:
    """Multiply-adds of convolutions and matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category in ("matmul", "convolution"):
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total / 2


def step(p: Program, phase: str = "") -> list[Node]:
    section = next(s for s in p.sections if s.label == "step")
    return [n for n in p.graph.nodes[section.first : section.last] if phase in ("", n.phase)]


def weights(p: Program, owner: str) -> int:
    held = {key: p.graph.tensors[t] for key, t in p.weights.items()}
    return sum(t.elements for key, t in held.items() if t.role == "weight" and key.startswith(owner))


@pytest.mark.parametrize("preset", FILE.presets)
def test_every_preset_composes(preset: str) -> None:
    assert check_workload(settled(preset)) == []


@pytest.mark.parametrize("layer", CONVOLUTIONS)
def test_layer_of_the_critic(layer: str) -> None:
    c, out, side, parameters, millions = CONVOLUTIONS[layer]
    p = program()
    assert weights(p, f"critic.{layer}.") == 9 * c * out + out == parameters
    own = [n for n in step(p, "forward") if n.name == f"critic.{layer}.y"]
    assert macs(p.graph, own) == 9 * c * out * side**2 == pytest.approx(millions * 1e6, abs=500)


@pytest.mark.parametrize("branch", ["mean", "sigma"])
@pytest.mark.parametrize("layer", DECONVOLUTIONS)
def test_layer_of_the_generator(layer: str, branch: str) -> None:
    c, out, kernel, side, parameters, millions = DECONVOLUTIONS[layer]
    p, owner = program(), f"generator.{branch}.{layer}"
    assert weights(p, f"{owner}.") == c * out * kernel**2 + out == parameters
    own = [n for n in p.graph.nodes if n.name == owner]
    assert macs(p.graph, own) == c * out * kernel**2 * side**2 == pytest.approx(millions * 1e6, abs=500)


def test_networks() -> None:
    """CNN 1,108,736 parameters and 228.262 MMAC beside the power iterations; generator 6,576,134 and 205.914, once."""
    p = program()
    norms = 2 * 8192 + 2 * 2 * (256 + 128 + 64)
    learned = 128 * 8192 + norms + 2 * sum(d[4] for d in DECONVOLUTIONS.values())
    assert weights(p, "critic") == sum(c[3] for c in CONVOLUTIONS.values()) + 256 == CRITIC
    assert weights(p, "generator") == learned == GENERATOR
    assert weights(p, "sampler") == PIXELS
    forward = sum(9 * c * out * side**2 for c, out, side, *_ in CONVOLUTIONS.values()) + 256
    assert macs(p.graph, step(p, "forward")) == forward + SIGMAS
    assert macs(p.graph, step(p, "backward-input")) == forward
    assert round(forward / 1e6, 3) == 228.262
    assert pytest.approx(3 * CRITIC, rel=2e-3) == SIGMAS

    first = p.sections[0]
    drawn = macs(p.graph, p.graph.nodes[first.first : first.last])
    assert drawn == 128 * 8192 + 2 * sum(c * o * k * k * s * s for c, o, k, s, *_ in DECONVOLUTIONS.values())
    assert (first.label, first.repeat, round(drawn / 1e6, 3)) == ("once", 1, 205.914)


@pytest.mark.parametrize(("chains", "expected"), [(1, 72.7), (64, 238.1)])
def test_intensity_of_the_products(chains: int, expected: float) -> None:
    """FLOPs per byte of a forward's convolutions and the last product, four bytes per element, biases left out."""
    p = program(chains=chains)
    nodes = [n for n in step(p, "forward") if n.op == "conv2d" or n.name == "critic.energy"]
    moved = sum(4 * p.graph.tensors[t].elements for n in nodes for t in (*n.inputs[:2], *n.outputs))
    assert 2 * macs(p.graph, nodes) / moved == pytest.approx(expected, rel=5e-3)


def test_an_inference() -> None:
    """Thirty forwards and gradients, one draw of the image and of the momentum before them, no accept test."""
    p = program()
    sections = [(s.label, s.repeat) for s in p.sections if s.label == "step"]
    assert sections == [("step", 30)]
    assert sum(n.op == "conv2d_input_gradient" for n in step(p)) == 5
    own = [n.op for n in step(p) if n.name.startswith("sampler.") and n.op != "detach"]
    assert own == ["clamp", "mul", "scale", "add", "add", "clamp"]
    assert not step(p, "accept") and not step(p, "rng")
    random = [p.graph.tensors[n.outputs[0]].elements for n in p.graph.nodes if n.op == "random_normal"]
    assert random == [PIXELS, PIXELS]
    # 13.9 GMAC without the power iterations, 134 times a generator without deviations
    total = 205_914_112 + 30 * 2 * 228_262_144
    assert total / 1e9 == pytest.approx(13.9, abs=0.05)
    assert total / ((205_914_112 + 1_048_576) / 2) == pytest.approx(134, abs=1)
    assert not any(n.op == "batch_norm" and n.attribute("training") for n in p.graph.nodes)


def test_taxonomy() -> None:
    """Two architectures; the connection through the sampler is not derived, so the file gives a reason."""
    assert derive(settled()) == ("hetero", "fully-parallel")
    tags = FILE.taxonomy
    assert (tags.compositionality, tags.dependency) == ("hetero", "sequential") and "through the sampler" in tags.reason


def test_synthetic() -> None:
    """33,537 and 50 parameters; per HMC step two gradients, of which the energies decide, and a momentum."""
    p = program("synthetic")
    assert weights(p, "mlp") == 3 * 128 + 2 * 129 * 128 + 129 == 33_537
    assert weights(p, "flow") == 10 * (2 + 2 + 1) == 50
    assert weights(p, "sampler") == 5 * 2
    products = 2 * 128 + 2 * 128**2 + 128
    assert macs(p.graph, step(p, "forward")) == macs(p.graph, step(p, "backward-input")) == 2 * products
    assert [s.repeat for s in p.sections if s.label == "step"] == [5]
    assert [n.op for n in step(p, "accept")][-5:] == ["sub", "exp", "random_uniform", "less", "select"]
    assert len(step(p, "rng")) == 1
    assert not step(program("synthetic", accept=False), "accept")


@pytest.mark.parametrize(
    ("preset", "expected", "trained"),
    [
        ("default", (30, 1), CRITIC + GENERATOR + PIXELS),
        ("synthetic", (5, 5), 33_537 + 50 + 10),
    ],
)
def test_training_goes_through_the_steps(preset: str, expected: tuple[int, int], trained: int) -> None:
    """Every learned number gets a gradient: the energy's from both samples, the others' through the dynamics."""
    iteration = compose_training(settled(preset))
    nodes, tensors = iteration.graph.nodes, iteration.graph.tensors
    assert iteration.how.terms == ("contrastive", "unrolled") and iteration.how.unrolled == expected
    first, last = iteration.parts["update"][0]
    updated = [tensors[n.inputs[0]] for n in nodes[first:last] if n.op == "adam"]
    assert sum(t.elements for t in updated) == trained == sum(tensors[t].elements for t in iteration.weights)
    # images: the network's gradient is a constant, so no convolution of it is differentiated again
    through = [n for a, b in iteration.parts["second_order"] for n in nodes[a:b] if n.phase == "backward-weight"]
    assert any(n.name.startswith("mlp") for n in through) is (preset == "synthetic")
    assert not any(n.name.startswith("critic") for n in through)
    norms = [n for n in nodes if n.op == "batch_norm"]
    assert all(n.attribute("training") for n in norms) and bool(norms) is (preset == "default")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [("default", [64, 30, 62, 64, 200_000]), ("synthetic", [1000, 5, 30, 100, 10_000]), ("small", [2, 4, 10, 2, 10])],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


class Critic(nn.Module):
    def __init__(self, f: int) -> None:
        super().__init__()
        widths = [3, f, 2 * f, 2 * f, 4 * f, 4 * f]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.last = nn.Linear(4 * f, 1, bias=False)

    @staticmethod
    def normed(weight: torch.Tensor) -> torch.Tensor:
        flat = weight.flatten(1)
        v = fn.normalize(torch.ones(1, len(flat)) @ flat)
        u = fn.normalize(v @ flat.T)
        return weight / ((v @ flat.T) @ u.T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, conv in enumerate(self.convs):
            y = fn.conv2d(x, self.normed(conv.weight), conv.bias, padding=1)
            x = torch.maximum(y, 0.1 * y)
            x = fn.avg_pool2d(x, 2 if i < 4 else 7) if i in (1, 3, 4) else x
        return x.flatten(1) @ self.normed(self.last.weight).T


class Generator(nn.Module):
    def __init__(self, f: int) -> None:
        super().__init__()
        self.seed = nn.Sequential(nn.Linear(128, 128 * f, bias=False), nn.BatchNorm1d(128 * f), nn.ReLU())
        self.mean, self.sigma = self.branch(f), self.branch(f)

    @staticmethod
    def branch(f: int) -> nn.Sequential:
        parts: list[nn.Module] = []
        for a, b in ((8 * f, 4 * f), (4 * f, 2 * f), (2 * f, f)):
            parts += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
        return nn.Sequential(*parts, nn.ConvTranspose2d(f, 3, 3, 1, 1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        seed = self.seed(z).unflatten(1, (-1, 4, 4))
        mean, spread = self.mean(seed), 1e-3 * self.sigma(seed).sigmoid().abs()
        return mean + spread * torch.randn_like(mean)


@pytest.mark.parametrize("f", [8, 64])
def test_torch_counts_the_same(f: int) -> None:
    chains, critic, generator = 2, Critic(f).requires_grad_(False), Generator(f).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as drawn:
        x = generator(torch.randn(chains, 128)).requires_grad_()
    with FlopCounterMode(display=False) as forward:
        energy = critic(x).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, x)
    p = program("default", chains, f=f)
    found = [sum(part.numel() for part in model.parameters()) for model in (critic, generator)]
    assert found == [weights(p, "critic"), weights(p, "generator")]
    once = p.graph.nodes[p.sections[0].first : p.sections[0].last]
    ours = [2 * macs(p.graph, nodes) for nodes in (once, step(p, "forward"), step(p, "backward-input"))]
    assert ours == [part.get_total_flops() for part in (drawn, forward, backward)]


def test_torch_counts_the_same_for_the_mlp() -> None:
    sizes = [2, 128, 128, 128, 1]
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())][:-1]
    model, x = nn.Sequential(*layers).requires_grad_(False), torch.rand(3, 2, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        energy = model(x * 1).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, x)
    p = program("synthetic", 3)
    assert sum(part.numel() for part in model.parameters()) == weights(p, "mlp")
    ours = [macs(p.graph, step(p, phase)) for phase in ("forward", "backward-input")]
    assert ours == [forward.get_total_flops(), backward.get_total_flops()]  # two evaluations, two FLOPs per MAC
