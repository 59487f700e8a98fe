"""Nodes of a combination repeated for every instance: outputs of different sizes, gathered from and added to nodes."""

import re
from typing import Any

import pytest
import torch
import yaml

from ebmsim.errors import SpecError
from ebmsim.graph.compose import Composer, compose
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

CHAINS, NODES, WIDTH = 5, 4, 2
# Instance i of `net` scores i + 1 nodes, chosen by instance i of `chosen`; the scores of a node are added up.
FILE: dict[str, Any] = {
    "name": "toy",
    "title": "toy",
    "paper": {"title": "none", "year": 2024},
    "taxonomy": {"compositionality": "hetero", "dependency": "mixed-parallel"},
    "parameters": {"chains": CHAINS, "steps": 2, "n": 3},
    "inputs": {"order": {"shape": ["n"], "kind": "index"}},
    "components": {
        "chosen": {
            "role": "encoder",
            "inputs": {"order": "order"},
            "instances": "n",
            "nodes": [{"op": "slice", "axis": 0, "length": "instance + 1"}],
        },
        "net": {
            "role": "score",
            "inputs": {"x": "x", "chosen": "chosen"},
            "instances": "n",
            "weights": "distinct",
            "nodes": [{"op": "gather", "inputs": ["x", "chosen"]}, {"op": "linear", "name": "fc", "out": WIDTH}],
        },
    },
    "combine": {
        "nodes": [
            {"op": "zeros", "name": "total", "shape": [NODES, WIDTH]},
            {
                "each": "net",
                "do": [
                    {"op": "index_add", "name": "part", "inputs": ["net", "chosen"], "size": NODES},
                    {"op": "scale", "name": "part", "by": "instance + 2"},
                    {"op": "add", "name": "total", "inputs": ["total", "part"]},
                ],
            },
            {"op": "scale", "inputs": ["total"], "by": -1},
        ]
    },
    "sampler": {
        "sample": {"x": [NODES, WIDTH]},
        "program": [{"loop": "steps", "label": "step", "do": [{"evaluate": "score", "at": "x", "name": "x"}]}],
    },
}


def workload(**parts: Any) -> Workload:
    document = parse_document(yaml.safe_dump(FILE | parts, sort_keys=False), "toy.yaml")
    return settle(document, parse_workload(document))


@pytest.mark.parametrize("n", [1, 3])
def test_every_instance_adds_to_what_the_ones_before_gave(n: int, run, values_of) -> None:
    """Σ_i (i + 2) · index_add(net_i(x[order[:i+1]])), its sign turned, against torch."""
    composer = Composer(workload().with_parameters(n=n), CHAINS)
    program, b = composer.program(), composer.b
    values = values_of(b)
    found = run(b, values)
    x = next(values[t] for t, tensor in enumerate(b.tensors) if tensor.role == "sample")
    order = next(values[t] for t, tensor in enumerate(b.tensors) if tensor.role == "input")
    expected = torch.zeros_like(x)
    for i, owner in enumerate(["net", *[f"net[{i}]" for i in range(1, n)]]):
        weight, bias = (values[program.weights[f"{owner}.fc.{name}"]] for name in ("weight", "bias"))
        for chain in range(CHAINS):
            picked = order[chain, : i + 1]
            expected[chain] -= (i + 2) * torch.zeros_like(x[0]).index_add(
                0, picked, x[chain, picked] @ weight.mT + bias
            )
    torch.testing.assert_close(found[program.graph.results[0]], expected)


def test_nodes_are_launched_once_for_each_instance_outside_all_branches() -> None:
    nodes = [n for n in compose(workload(), 1).graph.nodes if n.name.startswith("combine.")]
    own = ["index_add", "scale", "add"]
    assert [n.op for n in nodes] == ["zeros", *own * 3, "scale"]
    assert {n.branch for n in nodes} == {""}


def test_no_instance_no_nodes() -> None:
    """A component whose condition does not hold leaves the total as it is; another one may take its place."""
    parts = {**FILE["components"], "net": FILE["components"]["net"] | {"when": "n > 5"}}
    parts["other"] = {"role": "score", "inputs": {"x": "x"}, "nodes": [{"op": "linear", "out": WIDTH}]}
    program = compose(workload(components=parts), 1)
    assert [n.op for n in program.graph.nodes if n.name.startswith("combine.")] == ["zeros", "scale"]


def test_instances_launched_together_are_refused() -> None:
    net = FILE["components"]["net"] | {"weights": "shared", "launch": "batched", "nodes": [{"op": "linear", "out": 2}]}
    with pytest.raises(SpecError) as caught:
        compose(workload(components=FILE["components"] | {"net": net | {"inputs": {"x": "x"}}}), 1)
    message = "combine.nodes[1].each: expected instances launched one after another, found net batched"
    assert re.search(re.escape(message), str(caught.value))
