"""EBM-CL executed against its networks written anew in torch: parameters, FLOPs, energies, weight gradients.

Modules bear the names that weights have in the workload (ShuangLI59/ebm-continual-learning@0450d69).
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
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import WORK
from ebmsim.graph.training import compose_training
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ebm_cl.yaml")
FILE = parse_workload(DOCUMENT)
CHAINS = 3
PRESETS = ("default", "cifar100", "split_mnist", "split_mnist_agnostic")
Run = Callable[..., dict[int, Tensor]]


class Mlp(nn.Module):
    def __init__(self, pixels: int, h: int, classes: int, boundaries: bool) -> None:
        super().__init__()
        self.y_ebm = nn.Embedding(classes, h)
        self.fc1, self.classifier = nn.Linear(pixels, h), nn.Linear(h, 1)
        self.fc2 = None if boundaries else nn.Linear(h, h)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        y = self.y_ebm(labels)
        x = self.fc1(image.flatten(1))[:, None, :].expand_as(y)
        y = fn.normalize(y, p=2, dim=-1)
        x = fn.relu(x + x * y)
        if self.fc2 is not None:
            x = self.fc2(x)
            x = fn.relu(x + x * y)
        return self.classifier(x)[..., 0]


class Cnn(nn.Module):
    def __init__(self, h: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3)
        self.conv3, self.conv4 = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3)
        self.fc1, self.classifier = nn.Linear(2304, h), nn.Linear(h, 1)
        self.y_ebm = nn.Embedding(classes, h)

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        x = fn.max_pool2d(fn.relu(self.conv2(fn.relu(self.conv1(image)))), 2)
        x = fn.max_pool2d(fn.relu(self.conv4(fn.relu(self.conv3(x)))), 2)
        y = self.y_ebm(labels)
        y = fn.softmax(y, -1) * y.shape[-1]
        return self.classifier(self.fc1(x.flatten(1))[:, None, :].expand_as(y) * y)[..., 0]


class Masked(nn.Module):
    """A linear layer with a fixed factor for every feature, gated by the class's mask."""

    def __init__(self, c_in: int, h: int, classes: int) -> None:
        super().__init__()
        self.product = nn.Linear(c_in, h, bias=False)
        self.bias = nn.Parameter(torch.zeros(h))
        self.register_buffer("ones", torch.ones(h))
        self.register_buffer("masks", torch.ones(classes, h))

    def forward(self, x: Tensor, one_hot: Tensor) -> Tensor:
        active = x.matmul(self.product.weight.t()) * self.ones + self.bias
        return fn.relu(torch.matmul(one_hot, self.masks) * active)


class Frozen(nn.Module):
    """Negative energies from a frozen CNN; batch norm as in an evaluation."""

    def __init__(self, h: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        sizes = [(3, 16), (16, 32), (32, 64), (64, 128)]
        for i, (a, b) in enumerate(sizes, 1):
            block = nn.Sequential(nn.Conv2d(a, b, 3, stride=min(i, 2), padding=1), nn.BatchNorm2d(b), nn.ReLU())
            self.add_module(f"conv{i}", block)
        self.conv5 = nn.Conv2d(128, 256, 3, stride=2, padding=1)
        self.fc1, self.fc2 = Masked(1024, h, classes), Masked(h, h, classes)
        self.classifier = nn.Linear(h, 1)
        self.eval()

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(image))))).flatten(1)  # type: ignore[operator]
        x = x[:, None, :].expand(*labels.shape, x.shape[-1])
        y = torch.zeros(*labels.shape, self.classes, dtype=x.dtype)
        y.scatter_(2, labels[:, :, None], 1.0)
        return self.classifier(self.fc2(self.fc1(x, y), y))[..., 0]


def workload(preset: str) -> Workload:
    return settle(DOCUMENT, FILE, preset, {"h": 24, "training_batch": CHAINS})


def network(p: dict[str, Any]) -> nn.Module:
    if p["dataset"] == "cifar10":
        return Cnn(p["h"], p["classes"]).double()
    if p["dataset"] == "cifar100":
        return Frozen(p["h"], p["classes"]).double()
    return Mlp(p["side"] ** 2, p["h"], p["classes"], p["boundaries"]).double()


def adopted(model: nn.Module, graph: Graph) -> dict[int, Tensor]:
    """Values of a graph's tensors that no node writes; weights and statistics are those of the model."""
    blocks = {".0.": ".conv.", ".1.": ".bn."}
    mine = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for old, new in blocks.items():
            name = name.replace(old, new) if name.startswith("conv") else name
        mine[name.replace("running_mean", "mean").replace("running_var", "variance")] = tensor
    written = {t for node in graph.nodes for t in node.outputs}
    values: dict[int, Tensor] = {}
    for t, tensor in enumerate(graph.tensors):
        if t in written or tensor.role == "constant":
            continue
        name = tensor.name.partition(".")[2]
        name = name if name in mine else name.replace(".conv.", ".")
        if tensor.name == "gates.one":
            values[t] = torch.ones(CHAINS, *tensor.shape, dtype=torch.float64)
        elif tensor.role in ("weight", "buffer") and not tensor.name.startswith("moment"):
            values[t] = mine[name]
        elif tensor.kind == "index":
            values[t] = torch.stack([torch.randperm(10)[: tensor.shape[1]] for _ in range(CHAINS)])
        else:
            values[t] = torch.randn(tensor.shape, dtype=torch.float64)
    return values


def drawn(model: nn.Module) -> nn.Module:
    """The model with random weights, masks and statistics."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) if "running_var" in name else torch.randn_like(tensor) * 0.3
    return model


def product_flops(graph: Graph, nodes: tuple[Node, ...], phase: str) -> int:
    total = 0
    for node in nodes:
        if node.phase == phase and node.op in WORK:
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            total += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    return total


def given(graph: Graph, values: dict[int, Tensor], name: str) -> Tensor:
    return next(v for t, v in values.items() if graph.tensors[t].role == "input" and graph.tensors[t].name == name)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_inference(preset: str, run: Run) -> None:
    """Energies of all candidates and the answer, parameters, FLOPs."""
    torch.manual_seed(6)
    settled = workload(preset)
    model = drawn(network(dict(settled.parameters)))
    program = compose(settled.with_parameters(candidates=7), CHAINS)
    graph, values = program.graph, adopted(model, program.graph)
    weights = [t for t in program.weights.values() if graph.tensors[t].role == "weight"]
    assert sum(graph.tensors[t].elements for t in weights) == sum(p.numel() for p in model.parameters())
    found = run(graph, values)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        expected = model(given(graph, values, "image"), given(graph, values, "candidates"))
    choice = next(n for n in graph.nodes if n.name == "sampler.class")
    torch.testing.assert_close(found[choice.inputs[0]], expected, rtol=1e-9, atol=1e-11)
    answer = expected.argmax(1) if preset == "cifar100" else expected.argmin(1)
    assert torch.equal(found[choice.outputs[0]], answer) and expected.std() > 1e-3
    assert product_flops(graph, graph.nodes, "forward") == counter.get_total_flops() > 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_training_iteration(preset: str, run: Run) -> None:
    """Weight gradients of E(right) + log(exp(-E(right)) + exp(-E(wrong))), and the FLOPs back."""
    torch.manual_seed(8)
    settled = workload(preset)
    model = drawn(network(dict(settled.parameters)))
    iteration = compose_training(settled)
    graph, values = iteration.graph, adopted(model, iteration.graph)
    with torch.no_grad():
        found = run(graph, {t: v.detach() for t, v in values.items()})
    kept = {id(p) for t, p in values.items() if t in iteration.weights}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    energy = model(given(graph, values, "image"), given(graph, values, "candidates"))
    energy = -energy if preset == "cifar100" else energy
    loss = (energy[:, 0] + torch.logsumexp(-1 * energy, 1)).sum()
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    updates = {n.inputs[0]: n.inputs[1] for n in graph.nodes if n.op == "adam"}
    assert updates.keys() == set(iteration.weights)
    for weight, gradient in updates.items():
        expected = values[weight].grad
        assert expected is not None
        torch.testing.assert_close(found[gradient].reshape(expected.shape), expected, rtol=1e-8, atol=1e-10)
    assert product_flops(graph, graph.nodes, "backward-weight") == counter.get_total_flops() > 0
