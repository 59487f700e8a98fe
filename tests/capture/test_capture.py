"""Captured modules: parameters, FLOPs, launches and values are torch's."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.check import check_file
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.operators.table import OPERATORS, WORK

_SPEC = importlib.util.spec_from_file_location("captured_shared", Path(__file__).with_name("shared.py"))
assert _SPEC is not None and _SPEC.loader is not None
shared = sys.modules.setdefault("captured_shared", importlib.util.module_from_spec(_SPEC))
if not hasattr(shared, "Case"):
    _SPEC.loader.exec_module(shared)
MODELS = {k: v for name in ("models.py", "networks.py") for k, v in shared.loaded(shared.HERE / name).MODELS.items()}

_CASES: dict[str, Any] = {}


@pytest.fixture(params=list(MODELS))
def case(request: pytest.FixtureRequest) -> Any:
    if request.param not in _CASES:
        _CASES[request.param] = shared.Case(request.param, MODELS[request.param])
    return _CASES[request.param]


def test_parameters_are_the_modules(case: Any) -> None:
    assert case.parameters() == sum(p.numel() for p in case.module.parameters())


def test_flops_are_torchs(case: Any) -> None:
    """Products and convolutions, forward and back to the sample; all weights stand still, as in sampling."""
    module = case.module.requires_grad_(False)
    x = case.inputs[0].clone().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        energy = module(x, *case.inputs[1:]).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, x)
    ours = {"forward": 0, "backward-input": 0, "once": 0}
    graph = case.program.graph
    for node in graph.nodes:
        if node.phase in ours and node.op in WORK and counted(graph, node):
            shapes = [[graph.tensors[t].shape for t in side] for side in (node.inputs, node.outputs)]
            ours[node.phase] += WORK[node.op](*shapes, dict(node.attributes)).product_flops
    assert [ours["forward"] + ours["once"], ours["backward-input"]] == [
        forward.get_total_flops(),
        backward.get_total_flops(),
    ]


def counted(graph: Graph, node: Node) -> bool:
    """Whether torch's counter sees a product: neither fused attention on a CPU nor matrices with vectors."""
    result = graph.tensors[node.outputs[0]]
    vector = node.op == "matmul" and not result.chain_axis and 1 in result.shape
    return "attention" not in node.op and not vector


# Views that are not marked as such, memory without a kernel, and what the operator instance_norm leaves out.
NO_LAUNCH = ("detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "empty", "repeat")


class Launches(TorchDispatchMode):
    """Counts what is no view."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in NO_LAUNCH:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


# What torch launches beyond: constants made in every call, sum() from 0, copy and bias of a linear layer whose input
# is not contiguous. Less: its weight norm is one kernel, and index_add a copy and an addition.
OTHER_LAUNCHES = {"timed": 4, "composed": 1, "normed": -2, "pairs": -1, "transformer": 2}


def test_launches_are_torchs(case: Any) -> None:
    module = case.module.requires_grad_(False)
    x = case.inputs[0].clone().requires_grad_()
    with Launches() as launches:
        module(x, *case.inputs[1:])
    graph = case.program.graph
    views = ("view", "rng")
    nodes = [n for n in graph.nodes if n.phase in ("forward", "once") and n.op != "to_device"]
    ours = [n.op for n in nodes if OPERATORS[n.op].category not in views]
    extra = OTHER_LAUNCHES.get(case.name, 0)
    assert len(ours) + extra == len(launches.names), (sorted(ours), sorted(launches.names))


def test_values_are_torchs(case: Any) -> None:
    case.compare()


def test_the_file_has_no_problems(case: Any, tmp_path: Path) -> None:
    path = tmp_path / "captured.yaml"
    path.write_text(case.text)
    assert check_file(str(path)) == []
    assert all(len(line) <= 120 for line in case.text.splitlines())


# Components (role, instances, weights), and the class that follows.
COMPONENTS = {
    "mlp": ({"mlp": ("energy", 1, "shared")}, "mono"),
    "timed": ({"embed": ("encoder", 1, "shared"), "timed": ("energy", 1, "shared")}, "hetero"),
    "composed": ({"nets": ("energy", 3, "distinct")}, "homo-ds"),
    "disjunction": ({"nets": ("energy", 3, "distinct")}, "homo-ds"),
    "rows": ({"net": ("energy", 4, "shared")}, "homo-dw"),
    "folded": ({"folded": ("energy", 1, "shared")}, "mono"),
    "multiscale": (dict.fromkeys(("big", "mid", "small"), ("energy", 1, "shared")), "hetero"),
    "pairs": ({"pairs": ("energy", 1, "shared")}, "mono"),
    "encoded": ({"encoder": ("encoder", 1, "shared"), "encoded": ("energy", 1, "shared")}, "hetero"),
}


@pytest.mark.parametrize("case", COMPONENTS, indirect=True)
def test_components(case: Any) -> None:
    file = case.workload.file
    found = {name: (c.role, c.instances, c.weights) for name, c in file.components.items()}
    assert (found, file.taxonomy.compositionality) == COMPONENTS[case.name]


@pytest.mark.parametrize(
    ("case", "used"),
    [
        ("resnet", "- {use: basic, name: layers0_1, with: {c: 8}, repeat: 2}"),
        ("molecule", "- {use: messages, name: layers, inputs: [kinds, x, start, end], repeat: 3}"),
        ("vision", "- {use: modulated, name: blocks, inputs: [sum, labels], repeat: 3}"),
        ("transformer", "- {use: transformer_encoder_layer, name: encoder_layers, repeat: 2}"),
    ],
    indirect=["case"],
)
def test_what_repeats_is_a_block(case: Any, used: str) -> None:
    assert used in case.text
