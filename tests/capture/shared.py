"""What the tests of captured modules share: a file as a module, and a module with what is captured of it."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ebmsim.capture.module import nodes_of
from ebmsim.capture.write import written
from ebmsim.graph.compose import compose
from ebmsim.graph.graph import Program
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle


def loaded(path: Path) -> ModuleType:
    """A file as a module."""
    name = f"captured_{path.parent.name}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


HERE = Path(__file__).parent
truth = loaded(HERE.parent / "graph" / "conftest.py")


class Case:
    """A module in float64 with what is captured of it."""

    def __init__(self, name: str, make: Callable[[], tuple[nn.Module, Any]]) -> None:
        torch.manual_seed(7)
        module, inputs = make()
        given = inputs if isinstance(inputs, tuple) else (inputs,)
        self.name, self.module = name, module.double()
        self.inputs = tuple(t.double() if t.is_floating_point() else t for t in given)
        self.captured = nodes_of(self.module, self.inputs)
        self.chains = len(self.inputs[0])
        self.text = written(self.captured, type(module).__name__, steps=3, chains=self.chains, version="0")
        document = parse_document(self.text, "captured.yaml")
        self.workload: Workload = settle(document, parse_workload(document))
        self.program: Program = compose(self.workload, self.chains)

    def held(self) -> dict[int, Tensor]:
        """The module's own tensors, by the numbers that they have in the graph."""
        tensors = {**self.captured.weights, **self.captured.buffers}
        graph, order = self.program.graph, self.captured.order
        found = {}
        for key, t in zip(order, self.program.weights.values(), strict=True):
            assert tensors[key].numel() == graph.tensors[t].elements, key
            found[t] = tensors[key].reshape(graph.tensors[t].shape)
        return found

    def computed(self) -> tuple[Tensor, Tensor]:
        """Energies and gradient, as the graph of the captured file has them."""
        graph, values = self.program.graph, self.held()
        named = dict(zip([n for n, *_ in self.captured.inputs], self.inputs, strict=True))
        values |= {t: named[x.name] for t, x in enumerate(graph.tensors) if x.role in ("input", "sample")}
        evaluation = self.program.evaluations[0]
        values[evaluation.sample] = self.inputs[0]
        for t, tensor in enumerate(graph.tensors):
            if tensor.role == "constant":
                values[t] = torch.full(tensor.shape, {"one": 1.0, "zero": 0.0}[tensor.name], dtype=torch.float64)
        for node in graph.nodes[: evaluation.last]:
            if all(t in values for t in node.outputs):
                continue  # the random start, in whose place the sample is
            results = truth.REALISED[node.op]([values[t] for t in node.inputs], dict(node.attributes))
            for t, result in zip(node.outputs, results, strict=True):
                assert tuple(result.shape) == graph.tensors[t].shape, f"{node.name}: {node.op}"
                values[t] = result
        return values[evaluation.energy].flatten(), values[evaluation.gradient]

    def compare(self) -> None:
        """Energies and gradients are the module's; so are the parameters."""
        x = self.inputs[0].clone().requires_grad_()
        energy = self.module(x, *self.inputs[1:])
        (gradient,) = torch.autograd.grad(energy.sum(), x)
        energies, slope = self.computed()
        assert torch.allclose(energies, energy.detach().flatten(), rtol=1e-9, atol=1e-9)
        assert torch.allclose(slope, gradient, rtol=1e-9, atol=1e-9)

    def parameters(self) -> int:
        """Learned elements, unused ones included."""
        tensors = [self.program.graph.tensors[t] for t in self.program.weights.values()]
        unused = sum(int(c.unused_parameters) for c in self.workload.file.components.values())
        return sum(t.elements for t in tensors if t.role == "weight") + unused
