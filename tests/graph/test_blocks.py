"""The documented blocks give what torch gives, with as many kernels as the documentation says."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as fn
import yaml

from ebmsim.graph.compose import compose
from ebmsim.graph.operators.table import OPERATORS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "blocks.md").read_text(encoding="utf-8")
BLOCKS = yaml.safe_load(re.search(r"^```yaml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL).group(1))["blocks"]
KERNELS = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", TEXT, re.MULTILINE)}


def spectral(x, weight, v_before, bias):
    """As torch's parametrisation: the vectors of the power iteration are constants to the gradient."""
    matrix = weight.flatten(1)
    with torch.no_grad():
        u = fn.normalize(v_before @ matrix.mT)
        v = fn.normalize(u @ matrix)
    return fn.conv2d(x, weight / (u @ matrix @ v.mT), bias, padding=1)


def standardised(x, weight, bias):
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    return fn.conv2d(x, centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5), bias, padding=1)


IMAGE = [4, 5, 5]
# Block: its arguments, shapes per chain of its inputs, and torch's word on them and on what it holds, in order.
TORCH = {
    "quick_gelu": ({}, [[4]], lambda x: x * torch.sigmoid(1.702 * x)),
    "sinusoidal": ({"width": 6}, [[1]], lambda x, f: torch.cat([(x * f).sin(), (x * f).cos()], -1)),
    "repeat": ({"rows": 2, "width": 3, "n": 4}, [[2, 3]], lambda x: x.repeat_interleave(4, 1)),
    "unit": ({}, [[2, 3]], lambda x: fn.normalize(x, dim=-1)),
    "spectral": ({"c": 4}, [IMAGE], spectral),
    "standardised": ({"c": 4}, [IMAGE], standardised),
    "channel_norm": ({"c": 4}, [IMAGE], lambda x, g: fn.layer_norm(x.mT.movedim(1, -1), (4,)).movedim(-1, 1).mT * g),
    "rms": ({"width": 4}, [[2, 4]], lambda x, g: fn.rms_norm(x, (4,), g, 1e-5)),
    "blur": ({"c": 4}, [IMAGE], lambda x, w: fn.conv2d(x, w, padding=1, groups=4)),
    "attention_by_hand": ({"width": 4}, [[2, 3, 4]] * 3, fn.scaled_dot_product_attention),
}


def program(network, block, arguments, shapes):
    """A workload of one network: the block, and the squares of what it gives summed."""
    names = ["x", *BLOCKS[block].get("inputs", ["x"])[1:]]
    nodes = [
        {"use": block, "name": "block", "inputs": names, "with": arguments},
        {"op": "square"},
        {"op": "reduce_sum", "axes": list(range(len(shapes[0])))},
    ]
    inputs = {name: {"shape": shape} for name, shape in zip(names[1:], shapes[1:], strict=True)}
    return compose(network(nodes, inputs, shapes[0], blocks=BLOCKS), 3)


def test_the_table_lists_the_blocks():
    assert list(KERNELS) == list(BLOCKS) == list(TORCH)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block(block, network, run):
    """Values, and the gradient of the sum of their squares with respect to the first input."""
    arguments, shapes, theirs = TORCH[block]
    graph = program(network, block, arguments, shapes).graph
    generator = torch.Generator().manual_seed(4)
    made = {t for node in graph.nodes for t in node.outputs}
    values = {
        t: torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for t, tensor in enumerate(graph.tensors)
        if t not in made and tensor.role != "constant"
    }
    found = run(graph, values)
    of_role = {role: [values[t] for t in values if graph.tensors[t].role in role] for role in ("sample", "input")}
    held = [values[t] for t in values if graph.tensors[t].role in ("weight", "buffer")]
    x = of_role["sample"][0].requires_grad_()
    y = theirs(x, *of_role["input"], *held)
    forward = [node for node in graph.nodes if node.branch and node.phase == "forward"]
    square = next(node for node in forward if node.name == "net.square1")
    torch.testing.assert_close(found[square.inputs[0]], y.detach())
    (g,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(found[graph.nodes[-1].outputs[0]], g)
    kernels = [node for node in forward if OPERATORS[node.op].category != "view"]
    assert len(kernels) - 2 == KERNELS[block]  # without the square and its sum
