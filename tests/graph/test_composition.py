"""What a file says beyond its components: how energies combine, what runs once, loops of steps, how it is trained."""

from typing import Any

import pytest
import torch
import yaml

from ebmsim.estimation import estimate
from ebmsim.graph.compose import Composer, compose
from ebmsim.graph.graph import Node, Program
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import compose_training, how_trained
from ebmsim.hardware import Hardware
from ebmsim.lowered import Lowered
from ebmsim.lowering import lower_workload
from ebmsim.policy import Policy
from ebmsim.report.show import drawing, print_workload
from ebmsim.spec.library import load_hardware, load_profile
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

DEVICE: Hardware = load_hardware("rtx5090")
STEP = [{"evaluate": "gradient", "name": "g"}, {"op": "sub", "name": "x", "inputs": ["x", "g"]}]
NET = {
    "role": "energy",
    "inputs": {"x": "x"},
    "instances": "n",
    "weights": "distinct",
    "nodes": [{"op": "linear", "name": "in", "out": 4}, {"op": "silu"}, {"op": "linear", "name": "out", "out": 1}],
}


def workload(components: dict[str, Any] | None = None, values: dict[str, Any] | None = None, **parts: Any) -> Workload:
    """A toy over a sample of six elements, read from text as a file is."""
    file = {
        "name": "toy",
        "title": "toy",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "homo-ds", "dependency": "fully-parallel"},
        "parameters": {"chains": 3, "steps": 10, "training_steps": 2, "training_batch": 5, "iterations": 7, "n": 2},
        "components": components or {"net": NET},
        "sampler": {"sample": {"x": [6]}, "program": [{"loop": "steps", "label": "step", "do": STEP}]},
    }
    document = parse_document(yaml.safe_dump(file | parts), "toy.yaml")
    return settle(document, parse_workload(document), "", values or {})


def lowered(w: Workload, **policy: Any) -> Lowered:
    return lower_workload(w, Policy(software="ideal", **policy), load_profile("ideal"))


def kernels(program: Program, label: str = "step") -> list[Node]:
    nodes = [n for s in program.sections if s.label == label for n in program.graph.nodes[s.first : s.last]]
    return [n for n in nodes if OPERATORS[n.op].category != "view"]


# --- combine ---------------------------------------------------------------------------------------------------------

OR = {"nodes": [{"op": "scale", "by": -2}, {"op": "logsumexp", "axes": [0]}, {"op": "scale", "by": -0.5}]}


def test_energies_are_added_where_the_file_does_not_combine_them() -> None:
    program = compose(workload(values={"n": 3}), 2)
    assert [n.op for n in kernels(program) if n.phase == "forward" and not n.branch] == ["add", "add"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_combination_reads_the_energies_of_all_instances(n: int, run, values_of) -> None:
    """A soft minimum -log Σ exp(-2 E_i) / 2, and its gradient, as torch computes them from the energies themselves."""
    composer = Composer(workload(combine=OR, values={"n": n}), 5)
    program, b = composer.program(), composer.b
    own = [node.op for node in kernels(program) if node.phase == "forward" and not node.branch]
    assert own == ["concat"] * (n > 1) + ["scale", "logsumexp", "scale"]
    values = values_of(b)
    found = run(b, values)
    start = next(t for t, tensor in enumerate(b.tensors) if tensor.role == "sample")
    x = values[start].clone().requires_grad_()
    weight = {key: values[t] for key, t in program.weights.items()}
    energies = []
    for owner in ["net", *[f"net[{i}]" for i in range(1, n)]]:
        h = torch.nn.functional.silu(x @ weight[f"{owner}.in.weight"].mT + weight[f"{owner}.in.bias"])
        energies.append((h @ weight[f"{owner}.out.weight"].mT + weight[f"{owner}.out.bias"])[:, 0])
    energy = -torch.logsumexp(-2 * torch.stack(energies, 1), 1) / 2
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    torch.testing.assert_close(found[program.graph.results[0]], x.detach() - gradient)


def test_a_combination_has_a_condition() -> None:
    w = workload(combine=OR | {"when": "n > 2"})
    assert not any(n.op == "logsumexp" for n in compose(w, 1).graph.nodes)
    assert any(n.op == "logsumexp" for n in compose(w.with_parameters(n=3), 1).graph.nodes)


def test_a_combination_may_learn_and_read_inputs() -> None:
    nodes = [
        {"op": "parameter", "name": "gain", "shape": ["n"]},
        {"op": "mul", "inputs": ["net", "gain"]},
        {"op": "mul", "name": "weighted", "inputs": ["mul1", "weight"]},
        {"op": "reduce_sum", "name": "total", "axes": [0]},
        {"op": "scale", "by": 3},
    ]
    combine = {"nodes": nodes, "output": "total"}
    program = compose(workload(combine=combine, inputs={"weight": {"shape": ["n"]}}), 1)
    assert program.graph.tensors[program.weights["combine.gain"]].shape == (2,)
    assert not any(n.name == "combine.scale1" and n.phase == "backward-input" for n in program.graph.nodes)


def test_instances_launched_together_stay_apart() -> None:
    """Two instances of two rows each, as four rows of one launch: the rows are added, the instances are combined."""
    together = NET | {"weights": "shared", "launch": "batched", "rows": 2}
    program = compose(workload({"net": together}, combine=OR), 3)
    own = [n for n in program.graph.nodes if n.phase == "forward" and n.op in ("reduce_sum", "logsumexp")]
    shapes = [[program.graph.tensors[t].shape for t in (n.inputs[0], n.outputs[0])] for n in own]
    assert shapes == [[(3, 2, 2), (3, 2)], [(3, 2), (3,)]]
    added = compose(workload({"net": together}), 3)
    (total,) = [n for n in added.graph.nodes if n.phase == "forward" and n.op == "reduce_sum"]
    assert added.graph.tensors[total.inputs[0]].shape == (3, 4)


def test_scores_are_combined_as_they_are() -> None:
    """Guidance: the mean of two scores, each as large as the sample."""
    score = {"role": "score", "inputs": {"x": "x"}, "instances": "n", "nodes": [{"op": "linear", "out": 6}]}
    program = compose(workload({"net": score}, combine={"nodes": [{"op": "reduce_mean", "axes": [0]}]}), 4)
    mean = next(n for n in program.graph.nodes if n.op == "reduce_mean")
    assert [program.graph.tensors[t].shape for t in (*mean.inputs, *mean.outputs)] == [(4, 2, 6), (4, 6)]


def test_show_says_how_energies_combine(capsys: pytest.CaptureFixture[str]) -> None:
    for combine, expected in (
        (OR | {"text": "a soft minimum"}, "a soft minimum"),
        (OR, "combined by nodes"),
        (OR | {"when": "n > 2"}, "the sum of all outputs"),
    ):
        print_workload(workload(combine=combine))
        assert f"energy   {expected}" in capsys.readouterr().out


def test_show_leaves_out_what_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    w = workload({"net": NET | {"inputs": {"x": "x", "y": "label"}}}, inputs={"label": {"shape": [2], "when": "n > 2"}})
    print_workload(w)
    assert "label" not in capsys.readouterr().out and "label" not in drawing(w, "mermaid")
    assert "label --> net" in drawing(w.with_parameters(n=3), "mermaid")


# --- runs: once ------------------------------------------------------------------------------------------------------

KEPT = NET | {
    "nodes": [
        {"op": "parameter", "name": "raw", "shape": [4, 6], "runs": "once"},
        {"op": "square", "name": "positive", "runs": "once"},
        {"op": "linear", "name": "in", "inputs": ["x"], "weight": "positive", "out": 4},
        {"op": "silu"},
        {"op": "linear", "name": "out", "out": 1},
    ]
}


def test_a_node_that_runs_once_stands_before_the_loop() -> None:
    w = workload({"net": KEPT})
    program = compose(w, 2)
    once = [n for n in kernels(program, "once") if n.op == "square"]
    assert [(n.phase, n.branch) for n in once] == [("once", "net[0]"), ("once", "net[1]")]
    step = kernels(program)
    assert not any(n.op == "square" for n in step)
    products = [n for n in step if n.name.endswith(".in") and n.op == "linear"]
    assert [n.inputs[1] for n in products] == [n.outputs[0] for n in once]
    assert derive(w) == ("homo-ds", "fully-parallel")


def test_what_runs_once_is_not_in_a_steps_figures() -> None:
    plain = {**KEPT, "nodes": [{k: v for k, v in node.items() if k != "runs"} for node in KEPT["nodes"]]}
    kept, every = (lowered(workload({"net": net})) for net in (KEPT, plain))
    assert every.components[0].flops - kept.components[0].flops == 4 * 6
    assert [c.parameters for c in kept.components] == [c.parameters for c in every.components]
    assert len(every.step.table) - len(kept.step.table) == 2


def test_weights_behind_what_runs_once_are_trained() -> None:
    training = {"terms": ["contrastive"]}
    iteration = compose_training(workload({"net": KEPT}, training=training))
    graph = iteration.graph
    updated = {graph.tensors[n.inputs[0]].name for n in graph.nodes if n.op == "adam"}
    assert {"net.raw", "net[1].raw"} <= updated


# --- Loops -----------------------------------------------------------------------------------------------------------


def rounds(first: int, turns: int, then: int) -> dict[str, Any]:
    """`turns` rounds of `first` steps and something after each; then more steps."""
    again = {"label": "step", "do": STEP}
    after = {"op": "clamp", "name": "x", "inputs": ["x"], "low": 0, "high": 1}
    program = [{"loop": turns, "do": [{"loop": first, **again}, after]}, {"loop": then, **again}]
    return {"sample": {"x": [6]}, "program": program}


def test_loops_over_the_same_step_count_together() -> None:
    program = compose(workload(sampler=rounds(3, 2, 4)), 1)
    assert [(s.label, s.repeat) for s in program.sections] == [("step", 3 * 2 + 4), ("once", 2)]
    assert sum(n.name == "sampler.x" and n.op == "sub" for n in program.graph.nodes) == 1
    assert program.graph.tensors[program.graph.results[0]].name == "sampler.x"


@pytest.mark.parametrize(("first", "turns", "then"), [(3, 0, 10), (0, 2, 10), (5, 2, 0)])
def test_a_loop_of_no_turns_is_not_there(first: int, turns: int, then: int) -> None:
    program = compose(workload(sampler=rounds(first, turns, then)), 1)
    after = [("once", turns)] if turns else []
    expected = [("step", 10), *after] if first else [*after, ("step", 10)]
    assert [(s.label, s.repeat) for s in program.sections] == (expected if turns else [("step", 10)])


def test_host_time_per_chain_counts_the_chains_of_a_launch() -> None:
    program = [
        {"loop": "steps", "label": "step", "do": STEP},
        {"op": "host", "name": "x", "inputs": ["x"], "seconds": 0.25, "per": "chain"},
    ]
    w = workload(sampler={"sample": {"x": [6]}, "program": program})
    for mode, seconds in (("batched", 3 * 0.25), ("sequential", 0.25)):
        last = lowered(w, chain_mode=mode).once[-1]
        assert (last.table.seconds.sum(), last.repeat) == (seconds, 1)


# --- Training --------------------------------------------------------------------------------------------------------


def test_training_may_set_parameters() -> None:
    """One network is trained where two are sampled: weights, the iteration and the memory are those of one."""
    training = {"terms": ["contrastive"], "parameters": {"n": "n - 1"}}
    one, alone = (
        lowered(workload(training=training)),
        lowered(workload(training={"terms": ["contrastive"]}, values={"n": 1})),
    )
    parameters = 6 * 4 + 4 + 4 + 1
    assert one.size.parameters == 2 * parameters and one.size.trained == 0
    assert one.training_size == alone.training_size and one.training_size.trained == parameters
    assert one.iteration is not None and alone.iteration is not None
    assert one.iteration.table.names == alone.iteration.table.names
    names = [pass_.table.names for pass_ in (one.training_one_chain, alone.one_chain, one.one_chain)]
    assert names[0] == names[1] != names[2]


def test_conditions_of_training() -> None:
    training = {
        "terms": ["contrastive", "kl"],
        "when": {"kl": "n > 1"},
        "average": "n > 1",
        "clip": "n == 1",
        "host_seconds": "n * 0.5",
    }
    w = workload(training=training)
    assert how_trained(w) == (("contrastive", "kl"), True, False, 1.0, (0, 0))
    assert how_trained(w.with_parameters(n=1)) == (("contrastive",), False, True, 0.5, (0, 0))
    one, two = compose_training(w.with_parameters(n=1)), compose_training(w)
    assert "second_order" in two.parts and "second_order" not in one.parts
    for iteration, op in ((one, "squared_norm"), (two, "running_average")):
        assert [op in {n.op for n in each.graph.nodes} for each in (one, two)] == [iteration is one, iteration is two]


def test_work_on_the_host_adds_to_every_iteration() -> None:
    training = {"terms": ["contrastive"]}
    plain, busy = (workload(training=training | extra) for extra in ({}, {"host_seconds": 0.25}))
    for fidelity in ("analytical", "roofline"):
        policy = Policy(fidelity=fidelity)
        longer = estimate(busy, DEVICE, policy).seconds["t_train"] - estimate(plain, DEVICE, policy).seconds["t_train"]
        assert longer == pytest.approx(7 * 0.25)
