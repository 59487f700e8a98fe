"""CCSP against what its paper and code say: sizes, products per edge and node, calls, synchronisations, training."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ebmsim.estimation import estimate
from ebmsim.graph.compose import Program, check_workload, compose
from ebmsim.graph.graph import Node
from ebmsim.graph.lower import lower
from ebmsim.graph.operators.table import OPERATORS, WORK
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.spec.library import load_hardware, load_profile
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DOCUMENT = load_document(Path(__file__).parents[2] / "workload_graphs" / "ccsp.yaml")
FILE = parse_workload(DOCUMENT)
TASKS = ("image", "triangle", "qualitative", "stability", "robot")
TYPES = {"image": 2, "triangle": 2, "qualitative": 13, "stability": 3, "robot": 2}
GEOMETRY = {"triangle": 3, "qualitative": 2, "stability": 2, "robot": 8}
H = 256

# Multiply-adds of one forward: an edge passes the time MLP, its constraint network and, with both ends, the decoder.
TIME = H * 4 * H + 4 * H * H


def edge(task: str) -> int:
    """The robot's networks read a grasp beside two shapes, two poses and the time."""
    return TIME + (6 if task == "robot" else 5) * H * 2 * H + 2 * decoder(task)


def decoder(task: str) -> int:
    return H * 128 + 128 * (5 if task == "robot" else 4)


def encoder(width: int) -> int:
    return width * 128 + 128 * H


def node(task: str) -> int:
    """A pose, and in every call anew a geometry and a grasp where these are vectors."""
    pose = encoder(5 if task == "robot" else 4)
    return pose + (0 if task == "image" else encoder(GEOMETRY[task])) + (encoder(5) if task == "robot" else 0)


# Three convolutions of nine taps on 64×64, 32×32 and 16×16 pixels, and a linear layer on 8×8 pixels of 32 channels.
CNN = 9 * (64 * 64 * 32 + 32 * 32 * 32 * 32 + 16 * 16 * 32 * 32) + 8 * 8 * 32 * H
# Four layers over eight nodes: packed queries, keys and values, output, two layers of the MLP; scores and values.
WIDTH = 2 * H
LAYERS = 4 * (8 * (3 + 1 + 4 + 4) * WIDTH**2 + 2 * 8 * 8 * WIDTH)


def settled(preset: str = "default", **overrides: object) -> Workload:
    return settle(DOCUMENT, FILE, preset, overrides)


def edges(workload: Workload) -> int:
    return int(workload.parameters["edges"])


def types(workload: Workload) -> int:
    return int(workload.parameters["types"])


def step(program: Program) -> list[Node]:
    return [n for s in program.sections if s.label == "step" for n in program.graph.nodes[s.first : s.last]]


def product_flops(program: Program, nodes: list[Node]) -> int:
    tensors, total = program.graph.tensors, 0
    for n in nodes:
        if OPERATORS[n.op].category in ("matmul", "convolution"):
            inputs, outputs = ([tensors[t].shape for t in ts] for ts in (n.inputs, n.outputs))
            total += WORK[n.op](inputs, outputs, dict(n.attributes)).product_flops
    return total


def macs(program: Program, component: str, nodes: list[Node] | None = None) -> float:
    """Multiply-adds of all instances of a component in one step, or in the nodes given."""
    chosen = step(program) if nodes is None else nodes
    return product_flops(program, [n for n in chosen if n.branch.partition("[")[0] == component]) / 2


def parameters(program: Program, prefix: str = "") -> int:
    held = [program.graph.tensors[t] for key, t in program.weights.items() if key.startswith(prefix)]
    return sum(t.elements for t in held if t.role == "weight")


# --- settings, sizes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", FILE.presets)
@pytest.mark.parametrize("overrides", [{}, {"hoisted": True}, {"resident": True}], ids=["", "hoisted", "resident"])
def test_every_preset_composes(preset: str, overrides: dict[str, object]) -> None:
    assert check_workload(settled(preset, **overrides)) == []


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("network", "mode"), [("constraints", "energy"), ("transformer", "score")])
def test_every_task_composes_with_every_network_and_mode(task: str, network: str, mode: str) -> None:
    assert check_workload(settled(task=task, network=network, mode=mode)) == []


def test_settings() -> None:
    workload = settled()
    names = ("chains", "steps", "training_steps", "training_batch", "iterations")
    assert [workload.setting(n) for n in names] == [100, 1000, 0, 128, 300_000]


@pytest.mark.parametrize(
    ("task", "total", "with_transformer"),
    [
        ("triangle", 1_937_924, 53.0),
        ("image", 2_447_748, 55.0),
        ("qualitative", 9_152_388, 53.0),
        ("stability", 2_593_668, 53.0),
        ("robot", 2_234_757, 116.1),
    ],
)
def test_parameters(task: str, total: int, with_transformer: float) -> None:
    """Counted on the original code; in MB, four bytes each, with the transformer in the constraint networks' place."""
    assert parameters(compose(settled(task=task), 1)) == total
    program = compose(settled(task=task, network="transformer"), 1)
    assert 4 * parameters(program) / 1e6 == pytest.approx(with_transformer, abs=0.05)


@pytest.mark.parametrize("task", TASKS)
def test_parameters_of_the_components(task: str) -> None:
    pose = 5 if task == "robot" else 4
    program = compose(settled(task=task), 1)
    inputs = 6 * H if task == "robot" else 5 * H
    assert parameters(program, "pose.") == 128 * pose + 128 + 128 * H + H
    assert parameters(program, "decoder.") == H * 128 + 128 + 128 * pose + pose
    assert parameters(program, "time.") == H * 1024 + 1024 + 1024 * H + H == 525_568
    assert parameters(program, "constraint.") == (inputs + 1) * 512 == (786_944 if task == "robot" else 655_872)
    assert parameters(program, "constraint") == TYPES[task] * (inputs + 1) * 512
    assert parameters(program, "image.") == (543_360 if task == "image" else 0)
    assert parameters(program, "geometry.") == (0 if task == "image" else 128 * GEOMETRY[task] + 128 + 33_024)
    assert parameters(program, "grasp.") == (33_792 if task == "robot" else 0)


@pytest.mark.parametrize(("task", "layers"), [("image", 12_609_536), ("robot", 28_351_488)])
def test_parameters_of_the_transformer(task: str, layers: int) -> None:
    assert parameters(compose(settled(task=task, network="transformer"), 1), "transformer.layer") == layers


@pytest.mark.parametrize(("n", "running"), [(2, 4), (3, 10), (4, 12), (5, 12), (6, 12)])
def test_networks_of_types_without_edges_are_allocated(n: int, running: int) -> None:
    """Rounded means of one problem leave types without an edge; all thirteen networks exist."""
    lowered = lower_workload(settled("qualitative", chains=1, n=n), Policy(), load_profile("ideal"))
    assert lowered.size.parameters == 9_152_388 - (13 - running) * 655_872
    assert lowered.size.parameters + lowered.size.unused == 9_152_388


# --- edges -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 4, 6])
@pytest.mark.parametrize("task", ["triangle", "image", "robot"])
def test_edges_of_a_packing(task: str, n: int) -> None:
    """Each object in the container, and each pair of objects apart."""
    workload = settled(task=task, n=n)
    assert (edges(workload), types(workload)) == (n + n * (n - 1) // 2, 2)


@pytest.mark.parametrize("n", [2, 4, 7])
def test_edges_of_a_stack(n: int) -> None:
    """A pair is apart unless one bears the other; standing on the shelf is an edge of its own."""
    workload = settled("stability", n=n)
    assert edges(workload) == n + n * (n - 1) // 2 + workload.parameters["on_shelf"]


@pytest.mark.parametrize(("n", "found"), [(2, (5, 4)), (3, (15, 10)), (4, (26, 12)), (5, (38, 12))])
def test_edges_of_one_qualitative_problem(n: int, found: tuple[int, int]) -> None:
    """Edges and types with edges, of types whose mean rounds to one or more."""
    workload = settled("qualitative", chains=1, n=n)
    assert (edges(workload), types(workload)) == found


@pytest.mark.parametrize(("n", "of_a_hundred"), [(4, 2567), (5, 3756)])
def test_edges_of_many_qualitative_problems(n: int, of_a_hundred: int) -> None:
    """In a batch all types occur; with one edge of each at least there are up to six in a hundred too many."""
    workload = settled("qualitative", n=n)
    assert types(workload) == 13
    assert of_a_hundred < 100 * edges(workload) < 1.06 * of_a_hundred


# --- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("chains", [1, 3])
def test_products_of_a_call(task: str, chains: int) -> None:
    """By component: per edge, per node, and the images once."""
    workload = settled(task=task)
    program = compose(workload, chains)
    rows, nodes = chains * edges(workload), chains * (int(workload.parameters["n"]) + 1)
    assert macs(program, "time") == rows * TIME
    assert macs(program, "constraint") == rows * (6 if task == "robot" else 5) * H * 2 * H
    assert macs(program, "decoder") == rows * 2 * decoder(task)
    assert macs(program, "pose") == nodes * encoder(5 if task == "robot" else 4)
    assert product_flops(program, step(program)) == 2 * (rows * edge(task) + nodes * node(task))
    once = [n for n in program.graph.nodes if n.phase == "once"]
    assert macs(program, "image", once) == (nodes * CNN if task == "image" else 0)


def test_products_of_an_edge_a_node_and_an_image() -> None:
    """2.49 MFLOP, 42 % of it the time MLP; twice 0.067; 27.0 of convolutions and the linear layer."""
    assert 2 * edge("triangle") / 1e6 == pytest.approx(2.49, abs=0.005)
    assert TIME / edge("triangle") == pytest.approx(0.42, abs=0.005)
    assert 2 * node("triangle") / 1e6 == pytest.approx(0.067 + 0.066, abs=0.001)
    assert round(2 * CNN / 1e6, 2) == 27.00


@pytest.mark.parametrize(
    ("n", "chains", "expected"),
    [
        *((2, 1, 7.9), (2, 10, 78.8), (2, 100, 787.6)),
        *((4, 1, 25.6), (4, 10, 255.9), (4, 100, 2558.8)),
        *((6, 1, 53.3), (6, 10, 532.7), (6, 100, 5327.1)),
    ],
)
def test_products_of_a_call_for_triangles(n: int, chains: int, expected: float) -> None:
    program = compose(settled("triangle", n=n), chains)
    assert product_flops(program, step(program)) / 1e6 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("n", "expected"), [(2, 13), (3, 38), (4, 65), (5, 96)])
def test_products_of_a_call_for_a_qualitative_problem(n: int, expected: float) -> None:
    program = compose(settled("qualitative", chains=1, n=n), 1)
    assert product_flops(program, step(program)) / 1e6 == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize(("n", "expected"), [(4, 6464), (5, 9441)])
def test_products_of_a_call_for_a_hundred_qualitative_problems(n: int, expected: float) -> None:
    program = compose(settled("qualitative", n=n), 100)
    assert product_flops(program, step(program)) / 1e6 == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize(("task", "expected"), [("image", 201.9), ("robot", 453.8)])
def test_products_of_the_transformer(task: str, expected: float) -> None:
    """Of its layers, for a problem of any number of objects: the sequence is padded to eight."""
    for n in (2, 6):
        program = compose(settled(task=task, network="transformer", n=n), 1)
        layers = product_flops(program, [x for x in step(program) if x.name.startswith("transformer.layer")])
        assert layers / 1e6 == pytest.approx(expected, abs=0.05)
        assert task == "robot" or layers == 2 * LAYERS


@pytest.mark.parametrize("preset", ["default", "qualitative"])
def test_one_row_of_the_time_mlp(preset: str) -> None:
    """Hoisted, it runs once a call on one row, whatever the number of edges and problems."""
    program = compose(settled(preset, hoisted=True), 100)
    plain = compose(settled(preset), 100)
    assert macs(program, "time") == TIME
    for component in ("pose", "constraint", "decoder"):
        assert macs(program, component) == macs(plain, component)
    assert parameters(program) == parameters(plain)


@pytest.mark.parametrize(
    ("n", "chains", "networks", "cnn"),
    [(3, 1, 1.5, 19.0), (4, 1, 2.5, 20.6), (5, 1, 3.7, 21.8), (4, 10, 22.0, 29.3), (4, 100, 105.6, 30.6)],
)
def test_intensity_of_the_products(n: int, chains: int, networks: float, cnn: float) -> None:
    """FLOPs per byte of inputs, weights and outputs, unfused, four bytes each: constraint networks, and the CNN."""
    program = compose(settled(n=n), chains)
    tensors = program.graph.tensors
    for component, expected in (("constraint", networks), ("image", cnn)):
        nodes = [
            x for x in program.graph.nodes if x.branch.startswith(f"{component}[") and x.op in ("linear", "conv2d")
        ]
        moved = sum(4 * tensors[t].elements for x in nodes for t in (*x.inputs, *x.outputs))
        assert product_flops(program, nodes) / moved == pytest.approx(expected, abs=0.05)


# --- calls and synchronisations --------------------------------------------------------------------------------------


def calls(program: Program, phase: str = "forward") -> int:
    """Calls of the networks in an inference; backward, those whose gradient the first network passes on."""
    op = "linear" if phase == "forward" else "silu_gradient"
    return sum(
        s.repeat * sum(x.op == op and x.branch == "constraint[0]" and x.phase == phase for x in nodes)
        for s in program.sections
        for nodes in [program.graph.nodes[s.first : s.last]]
    )


@pytest.mark.parametrize(
    ("preset", "overrides", "expected"),
    [
        ("default", {}, 1000),
        ("ula", {}, 1000 * (1 + 3)),
        ("ula10", {}, 11_000),
        ("energy", {"corrections": 10}, 11_000),
        # a gradient and two energies, which are evaluated with their gradients
        ("mala", {}, 1000 * (1 + 10 * 3)),
        # four samples of two leapfrog steps with two gradients each, and two energies
        ("hmc", {}, 1000 * (1 + 4 * (2 * 2 + 2))),
    ],
)
def test_calls_of_an_inference(preset: str, overrides: dict[str, object], expected: int) -> None:
    workload = settled(preset, **overrides)
    program = compose(workload, 1)
    assert calls(program) == expected
    assert calls(program, "backward-input") == (expected if workload.parameters["mode"] == "energy" else 0)


def test_a_step_is_a_noise_level() -> None:
    """What stands before it: copies, the images, the start; its turns do not grow with the corrections."""
    for preset in ("default", "ula", "hmc"):
        sections = compose(settled(preset), 1).sections
        assert [(s.label, s.repeat) for s in sections] == [("once", 1)] * (len(sections) - 1) + [("step", 1000)]


def waits(nodes: list[Node], component: str = "") -> int:
    found = [x for x in nodes if x.op in ("synchronise", "to_host")]
    return sum(x.branch.partition("[")[0] == component for x in found) if component else len(found)


@pytest.mark.parametrize(
    ("preset", "overrides", "running"),
    [
        ("default", {}, 2),
        ("triangle", {}, 2),
        ("qualitative", {}, 13),
        ("qualitative", {"chains": 1}, 12),
        ("qualitative", {"chains": 1, "n": 2}, 4),
        ("stability", {}, 3),
    ],
)
def test_the_host_waits_for_every_type_with_edges(preset: str, overrides: dict[str, object], running: int) -> None:
    """Per type: its edges are copied for either end, and counting nodes asks for the least and the largest.

    Beside them the whole graph is copied, the mask too, and the rows of the mask are asked for twice; vectors are
    copied where there are no images. After a level the host asks whether it was the last, and for the rows again.
    """
    nodes = step(compose(settled(preset, **overrides), 1))
    call = [x for x in nodes if x.phase in ("forward", "host")]
    assert waits(call, "edges") == 2 * running + 1
    asked = [x for x in call if not x.branch and x.op == "to_host"]
    assert len(asked) == 2 * running + 2
    vectors = int(preset != "default")
    assert waits(nodes) == 4 * running + 1 + vectors + 1 + 2 + 1 + 2


def test_the_host_counts_no_nodes_for_an_energy() -> None:
    nodes = step(compose(settled("energy"), 1))
    assert waits(nodes) == 2 * 2 + 1 + 1 + 2


@pytest.mark.parametrize("preset", FILE.presets)
def test_nothing_waits_for_the_host_where_the_graph_is_resident(preset: str) -> None:
    assert waits(step(compose(settled(preset, resident=True), 1))) == 0


def test_the_container_keeps_its_pose() -> None:
    """Written over the score in every call, and over the poses at the start and after every level."""
    program = compose(settled("ula"), 1)
    kept = [x for s in program.sections for x in program.graph.nodes[s.first : s.last] if x.op == "assign"]
    assert [x.phase for x in kept] == ["update", *["forward"] * 4, "update"]


# --- taxonomy, streams, figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["default", "qualitative", "transformer"])
def test_taxonomy(preset: str) -> None:
    """Networks of types are independent of one another; encoders come before them, a decoder after."""
    assert derive(settled(preset)) == ("hetero", "mixed-parallel")


def test_networks_wait_for_what_they_read_and_not_for_one_another() -> None:
    program = compose(settled("qualitative"), 2)
    table = lower(program.graph, step(program), "fp32")
    awaited = {(table.branches[k], table.branches[source]) for k, source in table.awaited}
    assert {source for kernel, source in awaited if kernel == "constraint[3]"} == {
        "edges[3]",
        "geometry[0]",
        "pose[0]",
        "time[3]",
    }
    assert {source for kernel, source in awaited if kernel == "decoder[3]"} == {"constraint[3]"}


def test_streams_shorten_a_captured_step() -> None:
    """Types side by side; launched eagerly less so, for then the host is what takes most of the time."""
    device = load_hardware("rtx5090")
    times = {
        (execution, streams): estimate(settled("qualitative"), device, Policy(execution=execution, streams=streams))
        for execution in ("eager", "graph")
        for streams in (1, 4)
    }
    t = {key: e.seconds["t_samp"] or 0.0 for key, e in times.items()}
    assert t["graph", 4] / t["graph", 1] < t["eager", 4] / t["eager", 1] < 1


def test_figures_of_a_component_are_means_over_its_instances() -> None:
    """Types have different numbers of edges: 4 in the container and 6 apart."""
    lowered = lower_workload(settled(), Policy(), load_profile("ideal"))
    time = next(c for c in lowered.components if c.name == "time")
    constraint = next(c for c in lowered.components if c.name == "constraint")
    assert (constraint.instances, constraint.weights, constraint.parameters) == (2, "distinct", 655_872)
    # product, bias, SiLU
    assert constraint.flops == (4 + 6) / 2 * (2 * 1280 * 512 + 512 + 5 * 512)
    # sine, cosine and product of 128 frequencies, two layers with biases, mish; the frequencies once a type
    row = 3 * 128 + 2 * TIME + 1024 + 256 + 8 * 1024
    assert time.flops == (4 + 6) / 2 * row + 2 * 128


# --- training --------------------------------------------------------------------------------------------------------


def test_a_score_is_trained_to_the_first_order() -> None:
    """A forward and a backward at the batch of 128; the images of the iteration are encoded, and stay frozen."""
    workload = settled()
    iteration = compose_training(workload)
    program = compose(workload, 128)
    assert set(iteration.parts) == {"data", "forward_positive", "backward_positive", "update"}

    def flops(part: str) -> int:
        return sum(product_flops(program_of(iteration), nodes_of(iteration, span)) for span in iteration.parts[part])

    assert flops("data") == 2 * 128 * 5 * CNN
    assert flops("forward_positive") == product_flops(program, step(program))
    updated = [iteration.graph.tensors[n.inputs[0]] for n in iteration.graph.nodes if n.op == "adam"]
    assert sum(t.elements for t in updated) == 2_447_748 - 543_360


def test_an_energy_is_trained_through_its_gradient() -> None:
    assert "second_order" in compose_training(settled("energy")).parts


def nodes_of(iteration, span) -> list[Node]:
    return list(iteration.graph.nodes[span[0] : span[1]])


def program_of(iteration) -> Program:
    return Program(iteration.graph, (), {}, frozenset())


# --- the same network in torch ---------------------------------------------------------------------------------------


class Networks(nn.Module):
    """The networks of a task, called on a batch of graphs put together as one."""

    def __init__(self, task: str, count: int) -> None:
        super().__init__()
        self.task = task
        pose = 5 if task == "robot" else 4
        mlp = lambda width: nn.Sequential(nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, H), nn.SiLU())  # noqa: E731
        self.pose, self.geometry, self.grasp = mlp(pose), mlp(GEOMETRY.get(task, 3)), mlp(5)
        self.decoder = nn.Sequential(nn.Linear(H, 128), nn.SiLU(), nn.Linear(128, pose))
        self.time = nn.Sequential(nn.Linear(H, 4 * H), nn.Mish(), nn.Linear(4 * H, H))
        inputs = (6 if task == "robot" else 5) * H
        self.types = nn.ModuleList(nn.Sequential(nn.Linear(inputs, 2 * H), nn.SiLU()) for _ in range(count))
        layers = []
        for channels in (1, 32, 32):
            layers += [nn.Conv2d(channels, 32, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        self.image = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 8 * 32, H)).requires_grad_(False)

    def shapes(self, given: Tensor) -> Tensor:
        return self.image(given) if self.task == "image" else self.geometry(given)

    def decoded(self, poses: Tensor, shapes: Tensor, grasps: Tensor, graph: list[Tensor]) -> list[Tensor]:
        """For every type [edges, 2, pose]."""
        embedded = self.pose(poses)
        grasped = self.grasp(grasps) if self.task == "robot" else grasps
        found = []
        for network, pairs in zip(self.types, graph, strict=True):
            angles = torch.full((len(pairs), 1), 7.0) * torch.logspace(0, -4, H // 2)
            time = self.time(torch.cat((angles.sin(), angles.cos()), -1))
            parts = [shapes[pairs].flatten(1), embedded[pairs].flatten(1), time]
            parts = [grasped[pairs[:, 0]], *parts] if self.task == "robot" else parts
            out = network(torch.cat(parts, -1))
            found.append(self.decoder(torch.stack((out[:, :H], out[:, H:]), 1)))
        return found

    def score(self, poses: Tensor, found: list[Tensor], graph: list[Tensor]) -> Tensor:
        total, counts = torch.zeros_like(poses), torch.zeros(len(poses))
        for pairs, out in zip(graph, found, strict=True):
            total = total.index_add(0, pairs.flatten(), out.flatten(0, 1))
            counts = counts + torch.bincount(pairs.flatten(), minlength=len(poses))
        return total / counts.sqrt()[:, None]


def problems(workload: Workload, chains: int) -> tuple[Networks, Tensor, Tensor, Tensor, list[Tensor]]:
    """Networks, poses, shapes or images, grasps, and for every type the pairs of nodes of its edges."""
    p = workload.parameters
    task, nodes, counts = str(p["task"]), chains * (int(p["n"]) + 1), []
    program = compose(workload, chains)
    for i in range(types(workload)):
        args = next(x for x in step(program) if x.branch == f"edges[{i}]" and x.op == "stack")
        counts.append(program.graph.tensors[args.outputs[0]].elements // 2)
    shapes = torch.rand(nodes, 1, 64, 64) if task == "image" else torch.rand(nodes, GEOMETRY[task])
    graph = [torch.randint(nodes, (count, 2)) for count in counts]
    return Networks(task, len(counts)), torch.rand(nodes, int(p["pose"])), shapes, torch.rand(nodes, 5), graph


@pytest.mark.parametrize("task", TASKS)
def test_a_call_and_a_training_iteration_as_torch_counts_them(task: str) -> None:
    """Forward products of a call; products of an iteration with the backward to all trained weights."""
    chains = 3
    workload = settled(task=task, training_batch=chains)
    nets, poses, given, grasps, graph = problems(workload, chains)
    program = compose(workload, chains)
    with FlopCounterMode(display=False) as encoding:
        shapes = nets.shapes(given)
    with FlopCounterMode(display=False) as call:
        score = nets.score(poses, nets.decoded(poses, shapes, grasps, graph), graph)
    once = product_flops(program, [x for x in program.graph.nodes if x.phase == "once"])
    vectors = 0 if task == "image" else encoding.get_total_flops()
    assert product_flops(program, step(program)) == call.get_total_flops() + vectors
    assert once == encoding.get_total_flops() - vectors
    with FlopCounterMode(display=False) as backward:
        (score - torch.rand_like(score)).square().nan_to_num().mean().backward()
    iteration = compose_training(workload)
    of = program_of(iteration)
    assert sum(product_flops(of, nodes_of(iteration, s)) for s in iteration.parts["backward_positive"]) == (
        backward.get_total_flops()
    )


@pytest.mark.parametrize("task", ["image", "robot"])
def test_the_gradient_of_the_energy_as_torch_counts_it(task: str) -> None:
    """Squared distances of decoded from given poses, differentiated with respect to the poses alone."""
    chains = 3
    workload = settled(task=task, mode="energy")
    nets, poses, given, grasps, graph = problems(workload, chains)
    nets.requires_grad_(False)
    shapes, poses = nets.shapes(given), poses.requires_grad_()
    found = nets.decoded(poses, shapes, grasps, graph)
    energy = sum(((out - poses[pairs]) ** 2).sum() for pairs, out in zip(graph, found, strict=True))
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(energy, poses)
    program = compose(workload, chains)
    own = [x for x in step(program) if x.phase == "backward-input"]
    assert product_flops(program, own) == backward.get_total_flops()
