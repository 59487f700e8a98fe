"""IREM against what its paper and code say: both networks, what flows back, evaluations, training; and torch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.graph.compose import check_workload, compose
from ebmsim.graph.graph import Graph, Node, Program
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "irem.yaml")
FILE = parse_workload(DOCUMENT)
# Elements of a problem and of an answer.
WIDTHS = {"default": (800, 400), "inverse": (400, 400), "low_rank": (400, 400)}
GRAPHS = {"graph": 10, "graph_generalisation": 15}


def mlp_layers(preset: str) -> list[tuple[int, int]]:
    """Inputs and outputs of the linear layers."""
    return [(sum(WIDTHS[preset]), 512), (512, 512), (512, 512), (512, 1)]


def gnn_layers(n: int) -> list[tuple[str, int, int, int]]:
    """Linear layers as (name, rows per graph, inputs, outputs)."""
    e = n * n
    return [
        ("problem_map", e, 1, 64),
        ("candidate_map", e, 1, 64),
        ("conv1.edge_map", e, 128, 1),
        ("conv1.node_map", n, 1, 128),
        ("conv2.edge_map", e, 128, 128),
        ("conv2.node_map", n, 128, 128),
        ("conv3.edge_map", e, 128, 128),
        ("conv3.node_map", n, 128, 128),
        ("fc1", 1, 128, 128),
        ("fc2", 1, 128, 1),
    ]


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def step_nodes(program: Program) -> list[Node]:
    return [n for s in program.sections if s.label == "step" for n in program.graph.nodes[s.first : s.last]]


def macs(graph: Graph, nodes: list[Node]) -> int:
    """Multiply-adds of matrix products."""
    total = 0
    for node in nodes:
        if OPERATORS[node.op].category == "matmul":
            inputs, outputs = ([graph.tensors[t].shape for t in ts] for ts in (node.inputs, node.outputs))
            total += WORK[node.op](inputs, outputs, dict(node.attributes)).product_flops
    return total // 2


def phase_macs(program: Program, phase: str) -> int:
    return macs(program.graph, [n for n in step_nodes(program) if n.phase == phase])


def layer_macs(program: Program) -> dict[str, int]:
    nodes = [n for n in step_nodes(program) if n.op == "linear"]
    return {n.name.partition(".")[2]: macs(program.graph, [n]) for n in nodes}


def parameters(program: Program, part: str = "") -> int:
    """Learned numbers of all layers, or of those whose names start with the part."""
    held = {k.partition(".")[2]: program.graph.tensors[t] for k, t in program.weights.items()}
    return sum(t.elements for name, t in held.items() if t.role == "weight" and name.startswith(part))


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("network", ["mlp", "gnn"])
def test_every_preset_composes_with_either_network(preset: str, network: str) -> None:
    assert check_workload(settled(preset, network=network)) == []


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("default", [512, 80, 10, 1024, 10_000]),
        ("low_rank", [512, 80, 10, 1024, 10_000]),
        ("graph", [512, 40, 10, 544, 10_000]),
        ("graph_generalisation", [256, 40, 10, 544, 10_000]),
    ],
)
def test_settings(preset: str, expected: list[int]) -> None:
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [settled(preset).setting(n) for n in names] == expected


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "total", "megabytes"),
    [("default", 1_140_737, 4.56), ("inverse", 935_937, 3.74), ("low_rank", 935_937, 3.74)],
)
def test_parameters_of_the_mlp(preset: str, total: int, megabytes: float) -> None:
    program = compose(settled(preset), 1)
    assert parameters(program) == sum((a + 1) * b for a, b in mlp_layers(preset)) == total
    assert 4 * total / 1e6 == pytest.approx(megabytes, abs=0.005)


@pytest.mark.parametrize(("layer", "expected"), [("fc1", 614_912), ("fc2", 262_656), ("fc3", 262_656), ("fc4", 513)])
def test_parameters_of_the_layers_of_the_mlp(layer: str, expected: int) -> None:
    assert parameters(compose(settled(), 1), layer) == expected


@pytest.mark.parametrize("preset", GRAPHS)
def test_parameters_of_the_graph_network(preset: str) -> None:
    """83,330 whatever the number of nodes: 0.333 MB."""
    program = compose(settled(preset), 1)
    for name, _, a, b in gnn_layers(GRAPHS[preset]):
        assert parameters(program, name) == (a + 1) * b
    assert parameters(program) == sum((a + 1) * b for _, _, a, b in gnn_layers(10)) == 83_330
    assert 4 * parameters(program) / 1e6 == pytest.approx(0.333, abs=0.0005)


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "millions"), [("default", 1.139), ("inverse", 0.934), ("low_rank", 0.934)])
def test_products_of_the_mlp(preset: str, millions: float) -> None:
    program = compose(settled(preset), 1)
    assert list(layer_macs(program).values()) == [a * b for a, b in mlp_layers(preset)]
    assert phase_macs(program, "forward") == sum(a * b for a, b in mlp_layers(preset))
    assert phase_macs(program, "forward") / 1e6 == pytest.approx(millions, abs=0.0005)


@pytest.mark.parametrize("preset", WIDTHS)
def test_all_layers_of_the_mlp_pass_the_gradient_on(preset: str) -> None:
    """The first one to problem and answer alike, as torch does."""
    program = compose(settled(preset), 3)
    assert phase_macs(program, "backward-input") == phase_macs(program, "forward") > 0


@pytest.mark.parametrize(("preset", "millions"), [("graph", 3.65), ("graph_generalisation", 7.94)])
def test_products_of_the_graph_network(preset: str, millions: float) -> None:
    program = compose(settled(preset), 1)
    assert layer_macs(program) == {name: rows * a * b for name, rows, a, b in gnn_layers(GRAPHS[preset])}
    assert phase_macs(program, "forward") / 1e6 == pytest.approx(millions, abs=0.005)


def test_products_of_the_layers_of_the_graph_network() -> None:
    found = layer_macs(compose(settled("graph"), 1))
    expected = [6_400, 6_400, 12_800, 1_280, 1_638_400, 163_840, 1_638_400, 163_840, 16_384, 128]
    assert list(found.values()) == expected


def test_the_gradient_of_a_graph_leaves_out_the_problem_and_the_first_nodes() -> None:
    """It goes through the candidate's edges alone; nothing before the first convolution depends on them."""
    program = compose(settled("graph"), 1)
    assert phase_macs(program, "forward") - phase_macs(program, "backward-input") == 6_400


def test_products_of_an_inference() -> None:
    """182 million multiply-adds or 0.36 GFLOP per answer, 80 steps forward and back."""
    program = compose(settled(), 1)
    total = sum(s.repeat * macs(program.graph, list(program.graph.nodes[s.first : s.last])) for s in program.sections)
    assert total == 80 * 2 * 1_139_200
    assert total / 1e6 == pytest.approx(182, abs=0.5)
    assert 2 * total / 1e9 == pytest.approx(0.36, abs=0.005)


# --- sampler ---------------------------------------------------------------------------------------------------------


def test_the_steps() -> None:
    """A draw that is never added (matrices only), a gradient, one scaled subtraction; the start stands before them."""
    for preset, drawn, repeat in (("default", ["random_uniform", "shift"], 80), ("graph", [], 40)):
        program = compose(settled(preset), 1)
        assert [(s.label, s.repeat) for s in program.sections][-1] == ("step", repeat)
        assert {s.repeat for s in program.sections[:-1]} == {1}
        nodes = step_nodes(program)
        assert [n.op for n in nodes if n.phase in ("rng", "update")] == [*drawn, "scale", "sub"]
        evaluated = [n for n in nodes if n.op == "linear" and n.phase == "forward" and n.name.endswith("fc1")]
        assert len(evaluated) == 1
        read = [t for n in nodes if n.phase != "rng" for t in n.inputs]
        assert not any(t in read for n in nodes if n.name == "sampler.unused" for t in n.outputs)


def test_the_device_is_asked_for_the_number_of_graphs() -> None:
    """Once an evaluation, before pooling; never for matrices."""
    for preset, count in (("default", 0), ("graph", 1)):
        assert sum(n.op == "to_host" for n in step_nodes(compose(settled(preset), 1))) == count


def test_taxonomy() -> None:
    assert [derive(settled(p)) for p in ("default", "graph")] == [("mono", "sequential")] * 2
    assert FILE.taxonomy.paper is not None
    assert (FILE.taxonomy.paper.compositionality, FILE.taxonomy.paper.dependency) == ("homo", "mixed-parallel")


# --- the same networks in torch --------------------------------------------------------------------------------------


class Mlp(nn.Module):
    def __init__(self, preset: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in mlp_layers(preset))

    def forward(self, y: Tensor, problem: Tensor) -> Tensor:
        x = torch.cat([y, problem], -1)
        for layer in self.layers[:-1]:
            x = layer(x)
            x = x * torch.sigmoid(x)
        energy: Tensor = self.layers[-1](x)
        return energy


class Convolution(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.edge_map, self.node_map = nn.Linear(128, width), nn.Linear(width, 128)

    def forward(self, x: Tensor, edge: Tensor, pairs: Tensor) -> Tensor:
        messages = torch.relu(x.index_select(0, pairs[0]) + self.edge_map(edge))
        received: Tensor = self.node_map(torch.zeros_like(x).index_add(0, pairs[1], messages) + x)
        return received


class GraphNetwork(nn.Module):
    """On graphs put together as one, whose nodes are numbered through."""

    def __init__(self) -> None:
        super().__init__()
        self.problem_map, self.candidate_map = nn.Linear(1, 64), nn.Linear(1, 64)
        self.convolutions = nn.ModuleList(Convolution(width) for width in (1, 128, 128))
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, y: Tensor, problem: Tensor) -> Tensor:
        graphs, edges = y.shape
        n = round(edges**0.5)
        one = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
        pairs = torch.cat([one + n * graph for graph in range(graphs)], 1)
        edge = torch.cat([self.problem_map(problem.reshape(-1, 1)), self.candidate_map(y.reshape(-1, 1))], -1)
        x = torch.zeros(graphs * n, 1)
        for convolution in self.convolutions:
            x = convolution(x, edge, pairs)
        energy: Tensor = self.head(x.view(graphs, n, 128).amax(1))
        return energy


def in_torch(preset: str, chains: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, answers, problems."""
    torch.manual_seed(1)
    inputs, outputs = WIDTHS.get(preset) or (GRAPHS[preset] ** 2,) * 2
    model = Mlp(preset) if preset in WIDTHS else GraphNetwork()
    return model, torch.rand(chains, outputs, requires_grad=True), torch.rand(chains, inputs)


@pytest.mark.parametrize("preset", [*WIDTHS, *GRAPHS])
def test_torch_counts_the_same(preset: str) -> None:
    model, y, problem = in_torch(preset, 3)
    model.requires_grad_(False)
    program = compose(settled(preset), 3)
    assert parameters(program) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as forward:
        energy = model(y, problem).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, y)
    assert 2 * phase_macs(program, "forward") == forward.get_total_flops() > 0
    assert 2 * phase_macs(program, "backward-input") == backward.get_total_flops() > 0


@pytest.mark.parametrize("preset", ["default", "graph"])
def test_a_loss_of_the_last_answer(preset: str) -> None:
    """It is differentiated through the gradient, on which constants of a (piecewise linear) energy are lost."""
    model, y, problem = in_torch(preset, 64)
    with FlopCounterMode(display=False) as counter:
        (gradient,) = torch.autograd.grad(model(y * 1, problem).sum(), y, create_graph=True)
        loss = (y.detach() - 100 * gradient).square().mean()
        loss.backward(inputs=list(model.parameters()))  # type: ignore[no-untyped-call]
    reached = [p for p in model.parameters() if p.grad is not None and bool(p.grad.any())]
    iteration = compose_training(settled(preset, training_batch=64))
    assert set(iteration.parts) == {"second_order", "update"}
    updated = [iteration.graph.tensors[n.inputs[0]].elements for n in iteration.graph.nodes if n.op == "adam"]
    assert sorted(updated) == sorted(p.numel() for p in reached)
    if preset == "default":  # through the other network torch carries zeros, which is more products
        assert 2 * macs(iteration.graph, list(iteration.graph.nodes)) == counter.get_total_flops()


@pytest.mark.parametrize("preset", ["default", "graph"])
def test_all_but_the_last_step_of_training_are_plain(preset: str) -> None:
    lowered = lower_workload(settled(preset), Policy(), load_profile("ideal"))
    assert lowered.training.steps == 10 - 1
    assert lowered.training.buffer_bytes > 0
