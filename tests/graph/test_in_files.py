"""Operators as a workload file names them: the chain axis is added where it belongs, and refusals say where."""

import pytest

from ebmsim.errors import SpecError
from ebmsim.graph.compose import compose
from ebmsim.graph.fuse import ALONE, POINTWISE, fuse
from ebmsim.graph.graph import Builder
from ebmsim.graph.operators.table import OPERATORS, SHAPE

CHAINS = 3
ROWS = {"kind": "index", "shape": [7]}
INPUTS = {
    "mine": ROWS,
    "shared": {**ROWS, "chain_axis": False},
    "table": {"shape": [6, 4], "chain_axis": False},
    "values": {"shape": [7, 4]},
    "one": {"shape": [1]},
    "classes": {"shape": [2], "kind": "index"},
    "keys": {"shape": [2, 9, 4], "chain_axis": False},
}


@pytest.fixture
def composed(network):
    """The graph of one node called `it` on the sample x, [2, 6, 4] per chain, and on INPUTS, and what `it` writes."""

    def compose_one(node, before=()):
        rest = [{"op": "reduce_sum", "name": "all", "inputs": ["x"], "axes": [0, 1, 2]}]
        workload = network([*before, {"name": "it", **node}, *rest], INPUTS, [2, 6, 4])
        program = compose(workload, CHAINS)
        return program, next(node for node in program.graph.nodes if node.name == "net.it")

    return compose_one


@pytest.mark.parametrize(
    ("node", "shape", "chain_axis"),
    [
        ({"op": "gather", "inputs": ["x", "shared"], "axis": 1}, (CHAINS, 2, 7, 4), True),
        ({"op": "gather", "inputs": ["x", "mine"], "axis": 1}, (CHAINS, 2, 7, 4), True),
        ({"op": "gather", "inputs": ["x", "mine"], "axis": -1}, (CHAINS, 2, 6, 7), True),
        ({"op": "gather", "inputs": ["table", "mine"]}, (CHAINS, 7, 4), True),
        ({"op": "gather", "inputs": ["table", "shared"], "axis": 1}, (6, 7), False),
        ({"op": "gather", "inputs": ["x", "classes"], "axis": 1, "shared": 1}, (CHAINS, 2, 4), True),
        ({"op": "index_add", "inputs": ["values", "mine"], "size": 5}, (CHAINS, 5, 4), True),
        ({"op": "index_add", "inputs": ["values", "shared"], "size": 5}, (CHAINS, 5, 4), True),
        ({"op": "scatter", "inputs": ["x", "mine", "one"], "axis": 2}, None, True),
        ({"op": "assign", "inputs": ["x", "table"], "axis": 0, "start": 1}, (CHAINS, 2, 6, 4), True),
        ({"op": "attention", "inputs": ["x", "keys", "keys"]}, (CHAINS, 2, 6, 4), True),
        ({"op": "attention", "inputs": ["keys", "keys", "keys"], "causal": True}, (2, 9, 4), False),
        ({"op": "stack", "inputs": ["x", "x"], "axis": 0}, (CHAINS, 2, 2, 6, 4), True),
        ({"op": "stack", "inputs": ["x", "x"], "axis": 1}, (CHAINS, 2, 2, 6, 4), True),
        ({"op": "stack", "inputs": ["x", "x"], "axis": 3}, (CHAINS, 2, 6, 4, 2), True),
        ({"op": "stack", "inputs": ["table", "table"], "axis": -1}, (6, 4, 2), False),
        ({"op": "zeros", "shape": [2, 5]}, (CHAINS, 2, 5), True),
        ({"op": "random_integers", "shape": [2, 5]}, (CHAINS, 2, 5), True),
        ({"op": "categorical", "inputs": ["x"], "count": 9}, (CHAINS, 2, 6, 9), True),
        ({"op": "categorical", "inputs": ["table"], "count": 9}, (6, 9), False),
        ({"op": "one_hot", "inputs": ["mine"], "size": 5}, (CHAINS, 7, 5), True),
        ({"op": "topk", "inputs": ["x"], "count": 2}, (CHAINS, 2, 6, 2), True),
        ({"op": "argmin", "inputs": ["x"], "axis": 0}, (CHAINS, 6, 4), True),
        ({"op": "conv1d", "inputs": ["x"], "out": 2, "kernel": 3}, (2 * CHAINS, 2, 2), True),
        ({"op": "conv1d", "inputs": ["values"], "out": 2, "kernel": 3, "padding": 1}, (CHAINS, 2, 4), True),
        ({"op": "conv_transpose2d", "inputs": ["values"], "out": 2, "kernel": 3}, None, True),
        ({"op": "clamp", "inputs": ["x"], "low": 0}, (CHAINS, 2, 6, 4), True),
    ],
)
def test_the_chain_axis(node, shape, chain_axis, composed):
    """None: the shapes do not fit, and the file's line is named."""
    if shape is None:
        with pytest.raises(SpecError, match=rf"\d+:\d+.*{node['op']}: expected"):
            composed(node)
        return
    program, made = composed(node)
    found = program.graph.tensors[made.outputs[0]]
    assert (found.shape, found.chain_axis) == (shape, chain_axis)
    kind = OPERATORS[made.op].result
    first = program.graph.tensors[made.inputs[0]].kind if kind == "same" else kind
    assert found.kind == (first if isinstance(first, str) else first[0])


def test_an_index_with_a_chain_axis_takes_rows_of_what_has_none(composed):
    with pytest.raises(SpecError, match="expected axis 0: the index has a chain axis, which comes first"):
        composed({"op": "gather", "inputs": ["table", "mine"], "axis": 1})


def test_stored_statistics_are_held_but_not_learned(composed):
    image = {"op": "reshape", "name": "image", "inputs": ["x"], "shape": [4, 3, 4]}
    program, made = composed({"op": "batch_norm", "inputs": ["image"]}, [image])
    roles = [program.graph.tensors[t].role for t in made.inputs[1:]]
    assert roles == ["weight", "weight", "buffer", "buffer"]
    assert {program.weights["net.it.mean"], program.weights["net.it.variance"]} <= program.frozen


# --- Fusion --------------------------------------------------------------------------------------------------------


def test_a_pointwise_operator_writes_one_element_for_one_of_its_largest_input(case):
    if case.op in POINTWISE:
        (written,) = SHAPE[case.op](case.shapes, case.attributes)
        assert all(a in (1, b) for shape in case.shapes for a, b in zip(shape[::-1], written[::-1], strict=False))
        assert OPERATORS[case.op].category == "elementwise" and not OPERATORS[case.op].parameters


def test_all_activations_and_arithmetic_fuse():
    wanted = {"mish", "softplus_gradient", "gelu_tanh", "neg", "abs", "rsqrt", "pow", "maximum", "elu", "to_float"}
    assert wanted <= POINTWISE
    assert POINTWISE.isdisjoint({"softmax", "rms_norm", "gather", "max_pool2d", "upsample", "argmax", *ALONE})


def test_nothing_joins_fused_attention():
    """A library's kernel; a product that a compiler writes takes what follows it along."""
    for op, count, kernels in (("attention", 3, ["attention", "gelu_tanh"]), ("matmul", 2, ["fused_matmul"])):
        b = Builder()
        square = [b.tensor((2, 4, 4), "input") for _ in range(count)]
        a = {"causal": False} if op == "attention" else {"transpose_a": False, "transpose_b": False}
        end = b.emit("gelu_tanh", b.emit(op, *square, **a))
        assert [node.op for node in fuse(b.graph([end]), b.nodes)] == kernels
