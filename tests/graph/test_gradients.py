"""Gradients of gradients: what `differentiate` emits, executed, is what torch.autograd computes."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ebmsim.errors import EbmsimError
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder

# Norms return their statistics beside the result; no gradient is asked of those.
STATISTICS = ("group_norm", "instance_norm", "layer_norm", "rms_norm", "batch_norm")


def close(ours, theirs):
    """Equal up to rounding, measured against the largest element; no gradient at all is a gradient of zeros."""
    if theirs is None or ours is None:
        other = ours if theirs is None else theirs
        assert other is None or not other.detach().any()
        return
    assert ours.shape == theirs.shape
    scale = max(1.0, float(theirs.detach().abs().max()))
    torch.testing.assert_close(ours.detach() / scale, theirs.detach() / scale, rtol=1e-9, atol=1e-10)


def gradients(total, leaves):
    """torch's, differentiable again; None for what the total does not depend on."""
    if not total.requires_grad:
        return [None for _ in leaves]
    return torch.autograd.grad(total, list(leaves), create_graph=True, allow_unused=True)


def both_orders(b, outputs, wrt, run, values):
    """First-order gradients of the sum of `outputs`, and those of the sum of squares of these, against torch.

    Both read the same realised forward. Returns the second gradients.
    """
    leaves = {t: values[t].clone().requires_grad_() for t in wrt}
    forward = run(b, {**values, **leaves})
    total = sum(forward[t].sum() for t in outputs)
    theirs = gradients(total, leaves.values())
    first = differentiate(b, outputs, wrt, phase="backward")
    squares = [b.emit("square", first[t]) for t in wrt if t in first]
    second = differentiate(b, squares, wrt, phase="double")
    with torch.no_grad():
        found = run(b, values)
    for t, g in zip(wrt, theirs, strict=True):
        close(found[first[t]] if t in first else None, g)
    penalty = sum((g.square().sum() for g in theirs if g is not None), torch.zeros(()))
    again = gradients(penalty, leaves.values())
    for t, g in zip(wrt, again, strict=True):
        close(found[second[t]] if t in second else None, g)
    return again


def floats(b, tensors):
    """Those that have a gradient: buffers hold what is not learned."""
    return [t for t in tensors if b.tensors[t].kind == "float" and b.tensors[t].role != "buffer"]


def test_an_operator_between_activations(smooth, run, values_of):
    """Activations before and after, so that neither the first nor the second derivative is constant."""
    b = Builder()
    inputs = smooth.inputs(b)
    before = "exp" if smooth.positive else "silu"
    bent = [b.emit(before, t) if t in floats(b, inputs) else t for t in inputs]
    outputs = b.emit_all(smooth.op, bent, **smooth.attributes)
    ends = [b.emit("silu", t) for t in (outputs[:1] if smooth.op in STATISTICS else floats(b, outputs))]
    again = both_orders(b, ends, floats(b, inputs), run, values_of(b))
    assert any(g is not None and g.any() for g in again)


def test_an_operator_alone(smooth, run, values_of):
    """Without activations: the gradient of a linear operator does not see its input, and nothing is emitted for it."""
    b = Builder()
    inputs, outputs = smooth.emit(b)
    values = {t: v.abs() + 0.5 if smooth.positive else v for t, v in values_of(b).items()}
    both_orders(b, outputs[:1], floats(b, inputs), run, values)


def test_each_input_by_itself(smooth, run, values_of):
    """Asking for one gradient gives the same as asking for all."""
    for i in range(len(smooth.shapes)):
        b = Builder()
        inputs, outputs = smooth.emit(b)
        if inputs[i] not in floats(b, inputs):
            continue
        values = {t: v.abs() + 0.5 if smooth.positive else v for t, v in values_of(b).items()}
        end = b.emit("tanh", outputs[0])
        both_orders(b, [end], [inputs[i]], run, values)


@pytest.mark.parametrize("op", STATISTICS)
@pytest.mark.parametrize("end", ["square", "copy"])
def test_a_norm_to_the_third_order(op, end, run, values_of):
    """As sliced score matching needs it. `copy`: the result is linear, so only its statistics have a gradient."""
    b = Builder()
    x = b.tensor((2, 4, 4), "sample")
    learned = [b.tensor((4,), "weight") for _ in range(1 if op == "rms_norm" else 2)]
    v = b.tensor((2, 4, 4), "input")
    attributes = {"group_norm": {"groups": 2}, "batch_norm": {"training": True}}.get(op, {})
    y = b.emit("mul", b.emit(end, b.emit(op, b.emit("sin", x), *learned, affine=True, **attributes)), v)
    (g,) = differentiate(b, [y], {x}, phase="backward").values()
    both_orders(b, [b.emit("mul", g, v)], [x, *learned, v], run, values_of(b))


@pytest.mark.parametrize("which", [0, 1])
def test_gradients_of_one_of_a_norms_weights_gradients(which, run, values_of):
    """The kernel gives the gradients of gain and bias together; either may be used alone."""
    b = Builder()
    x = b.tensor((2, 4), "sample")
    learned = [b.tensor((4,), "weight") for _ in range(2)]
    y = b.emit("square", b.emit("layer_norm", x, *learned, affine=True))
    of_one = differentiate(b, [y], learned, phase="backward")[learned[which]]
    both_orders(b, [of_one], [x, *learned], run, values_of(b))


# --- Attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention(causal, masked, run, values_of):
    """Against torch's own. Keys and values without chains: their gradient is the sum over the chains."""
    b = Builder()
    q, k, v = b.tensor((2, 3, 4, 5), "sample"), b.tensor((3, 6, 5), "input"), b.tensor((3, 6, 2), "input")
    mask = [b.tensor((4, 6), "input")] if masked else []
    y = b.emit("attention", q, k, v, *mask, causal=causal)
    values = values_of(b)
    leaves = [values[t].clone().requires_grad_() for t in (q, k, v)]
    bias = values[mask[0]] if masked else torch.zeros(4, 6, dtype=torch.float64)
    if causal:
        bias = bias + torch.full((4, 6), -torch.inf).triu(1)
    theirs = torch.nn.functional.scaled_dot_product_attention(*[t.expand(2, *t.shape[-3:]) for t in leaves], bias)
    first = differentiate(b, [b.emit("sin", y)], [q, k, v], phase="backward")
    found = run(b, values)
    torch.testing.assert_close(found[y], theirs)
    for t, g in zip((q, k, v), torch.autograd.grad(theirs.sin().sum(), leaves), strict=True):
        torch.testing.assert_close(found[first[t]], g)
    assert sum(node.op == "attention_gradient" for node in b.nodes) == 1


def test_fused_attention_is_differentiated_once():
    """As torch's: its derivative is not implemented there either."""
    b = Builder()
    qkv = [b.tensor((2, 3, 4, 5), "sample") for _ in range(3)]
    b.line, b.prefix = 7, "energy."
    y = b.emit("square", b.emit("attention", *qkv, causal=False, name="mix"))
    first = differentiate(b, [y], qkv, phase="backward")
    with pytest.raises(EbmsimError) as caught:
        differentiate(b, [b.emit("square", first[qkv[0]])], qkv, phase="double")
    assert str(caught.value) == (
        "node 'energy.mix'attention_gradient' (line 7): operator 'attention_gradient' has no gradient rule; "
        "fused attention is differentiated once; for a second derivative write it out with matmul and softmax"
    )
    theirs = [torch.randn(2, 3, 4, 5, requires_grad=True) for _ in range(3)]
    total = torch.nn.functional.scaled_dot_product_attention(*theirs).square().sum()
    (g,) = torch.autograd.grad(total, theirs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="is not implemented"):
        torch.autograd.grad(g.square().sum(), theirs)


def test_the_mask_of_fused_attention_has_no_gradient():
    b = Builder()
    qkv = [b.tensor((3, 4, 5), "input") for _ in range(3)]
    mask = b.tensor((4, 4), "sample")
    y = b.emit("attention", *qkv, mask, causal=False, name="mix")
    with pytest.raises(EbmsimError, match="node 'mix': fused attention gives its mask no gradient; write it out"):
        differentiate(b, [y], [mask], phase="backward")


# --- Choices -------------------------------------------------------------------------------------------------------


def test_ties_of_a_maximum_and_bounds_of_a_clamp(run):
    """Where torch has a choice of its own: a clamp passes the gradient at its bounds, as torch; a maximum that is
    shared passes it to every one in full, where torch divides it."""
    b = Builder()
    x = b.tensor((1, 3), "sample")
    top = b.emit("reduce_max", x, axes=(-1,), keep=False)
    cut = b.emit("clamp", x, low=0.0, high=1.0)
    of_top = differentiate(b, [top], {x}, phase="backward")[x]
    of_cut = differentiate(b, [cut], {x}, phase="backward")[x]
    found = run(b, {x: torch.tensor([[0.0, 1.0, 1.0]], dtype=torch.float64)})
    assert found[of_top].tolist() == [[0.0, 1.0, 1.0]]
    assert found[of_cut].tolist() == [[1.0, 1.0, 1.0]]


# --- Graphs --------------------------------------------------------------------------------------------------------

FULL = (2, 3, 4)
STEPS = [
    "silu",
    "tanh",
    "sin",
    "sigmoid",
    "square",
    "add",
    "sub",
    "mul",
    "softmax",
    "mean_last",
    "mean_middle",
    "layer_norm",
    "linear",
    "halves",
    "product",
    "maximum",
    "logsumexp",
]


@st.composite
def graphs(draw):
    """A builder, its inputs and its ends. Each step reads any earlier tensors, so tensors fan out and rejoin."""
    b = Builder()
    leaves = [b.tensor(shape, "input") for shape in (FULL, FULL, (4,), (2, 1, 4))]
    known = list(leaves)
    for _ in range(draw(st.integers(2, 9))):
        step = draw(st.sampled_from(STEPS))
        # Recent tensors more often, so that chains grow long.
        p, q = (known[-1 - min(draw(st.integers(0, 4)), len(known) - 1)] for _ in range(2))
        shape = b.shape(p)
        if step in ("add", "sub", "mul"):
            made = b.emit(step, p, q)
        elif step == "softmax":
            made = b.emit(step, p, axis=-1)
        elif step in ("mean_last", "maximum", "logsumexp"):
            op = {"mean_last": "reduce_mean", "maximum": "reduce_max"}.get(step, step)
            made = b.emit(op, p, axes=(-1,), keep=True)
        elif step == "mean_middle":
            assume(len(shape) > 1)
            made = b.emit("reduce_mean", p, axes=(-2,), keep=True)
        elif step == "layer_norm":
            assume(shape[-1] == 4)
            made = b.emit(step, p, affine=False)
        elif step == "linear":
            w = b.tensor((4, shape[-1]), "weight")
            leaves.append(w)
            made = b.emit(step, p, w, out=4, bias=False)
        elif step == "halves":
            assume(shape[-1] == 4)
            left, right = (b.emit("slice", p, axis=-1, start=s, length=2) for s in (0, 2))
            made = b.emit("concat", right, left, axis=-1)
        elif step == "product":
            assume(shape == b.shape(q) == FULL)
            scores = b.emit("matmul", p, q, transpose_a=False, transpose_b=True)
            made = b.emit("matmul", scores, q, transpose_a=False, transpose_b=False)
        else:
            made = b.emit(step, p)
        known.append(made)
    ends = draw(st.lists(st.sampled_from(known[4:]), min_size=1, max_size=3, unique=True))
    return b, leaves, [b.emit("tanh", b.emit("scale", end, by=0.1)) for end in ends]


@given(drawn=graphs(), data=st.data())
def test_random_graphs(drawn, data, run, values_of):
    b, leaves, ends = drawn
    wrt = data.draw(st.lists(st.sampled_from(leaves), min_size=1, unique=True))
    both_orders(b, ends, wrt, run, values_of(b))


# --- Activity ------------------------------------------------------------------------------------------------------


def two_branches():
    """energy = Σ silu(x A) · silu(c B): the second branch reads the condition alone."""
    b = Builder()
    x, c = b.tensor((2, 3), "sample"), b.tensor((2, 5), "input")
    left, right, unused = b.tensor((4, 3), "weight"), b.tensor((4, 5), "weight"), b.tensor((7,), "weight")
    with b.at(branch="sample"):
        seen = b.emit("silu", b.emit("linear", x, left, out=4, bias=False))
    with b.at(branch="condition"):
        blind = b.emit("silu", b.emit("linear", c, right, out=4, bias=False))
    energy = b.emit("reduce_sum", b.emit("mul", seen, blind), axes=(-1,), keep=False)
    return b, x, left, right, unused, energy


def test_a_branch_that_does_not_see_the_sample_has_no_backward_node():
    b, x, *_, energy = two_branches()
    grads = differentiate(b, [energy], {x}, phase="backward")
    back = [node for node in b.nodes if node.phase == "backward"]
    assert set(grads) == {x} and {node.branch for node in back} == {"", "sample"}
    # Σ spreads as a view, the product once, silu once, the linear layer's input gradient once.
    assert [node.op for node in back] == ["reshape", "expand", "mul", "silu_gradient", "reshape", "matmul", "reshape"]


def test_an_unused_weight_gets_no_gradient_and_no_node():
    b, _, left, right, unused, energy = two_branches()
    grads = differentiate(b, [energy], [unused, left, right], phase="backward")
    assert list(grads) == [left, right]
    assert sum(node.op == "matmul" for node in b.nodes) == 2
    count = len(b.nodes)
    assert differentiate(b, [energy], [unused], phase="backward") == {} and len(b.nodes) == count


def test_gradients_of_uses_are_added_by_nodes_of_their_own():
    b = Builder()
    x = b.tensor((2, 3), "sample")
    y = b.emit("mul", b.emit("sin", x), b.emit("add", b.emit("cos", x), x))
    differentiate(b, [y], {x}, phase="backward")
    sums = [node for node in b.nodes if node.op == "add" and node.phase == "backward"]
    assert len(sums) == 2 and all(node.name.endswith("'.sum") for node in sums)  # three uses


def test_nodes_before_since_are_not_followed():
    b = Builder()
    x = b.tensor((2, 3), "sample")
    y = b.emit("sin", x)
    since = len(b.nodes)
    z = b.emit("cos", y)
    assert differentiate(b, [z], {x}, phase="backward", since=since) == {}
    assert set(differentiate(b, [z], {y}, phase="backward", since=since)) == {y}


def test_backward_nodes_carry_phase_branch_name_and_line():
    b = Builder()
    x = b.tensor((2, 3), "sample")
    with b.at(branch="main", prefix="energy."):
        b.line = 12
        y = b.emit("sin", x, name="wave")
    b.line = 99
    differentiate(b, [y], {x}, phase="backward")
    assert [n.op for n in b.nodes[1:]] == ["cos", "mul"]
    assert {(n.phase, n.branch, n.line) for n in b.nodes[1:]} == {("backward", "main", 12)}
    assert all(n.name.startswith("energy.wave'") for n in b.nodes[1:])
    assert (b.phase, b.branch, b.prefix) == ("forward", "", "")


def test_nothing_flows_back_through_a_mask_or_the_host(run, values_of):
    b = Builder()
    x = b.tensor((2, 3), "sample")
    level = b.tensor((3,), "input")
    kept = b.emit("select", b.emit("less", x, level), x, b.emit("to_device", b.emit("to_host", x)))
    (grad,) = differentiate(b, [kept], {x}, phase="backward").values()
    values = values_of(b)
    assert torch.equal(run(b, values)[grad], (values[x] < values[level]).double())
