"""Every operator is complete, and its inferred shapes are the ones torch gives."""

import pytest
import torch
import torch.nn.functional as fn

from ebmsim.graph.graph import Builder
from ebmsim.graph.operators.table import GRADIENT, OPERATORS, SHAPE, WORK, ShapeError


def test_every_operator_has_its_rules(operator, once):
    assert operator in SHAPE
    # As in torch, a fused backward kernel may have no gradient: see test_fused_attention_is_differentiated_once.
    assert (operator in GRADIENT) == (operator not in once)
    # A view is no kernel, so it does no work.
    assert (operator in WORK) == (OPERATORS[operator].category != "view")


def test_every_operator_is_realised_and_has_a_case(realised, cases, separate):
    assert set(realised) == separate
    assert {case.op for case in cases} == separate


def test_a_case_fits_what_the_operator_declares(case):
    """Attributes by name; learned tensors after the inputs from the graph, in number and shape."""
    declared = OPERATORS[case.op]
    assert set(case.attributes) == set(declared.attributes)
    learned = [p.shape(case.shapes, case.attributes) for p in declared.parameters]
    learned = [shape for shape in learned if shape is not None]
    given = len(case.shapes) - len(learned)
    assert declared.least <= given <= declared.most
    assert list(case.shapes[given:]) == learned


def test_inferred_shapes_are_those_of_torch(case, run, values_of):
    b = Builder()
    _, outputs = case.emit(b)
    values = run(b, {t: v.abs() if case.positive else v for t, v in values_of(b).items()})
    assert [b.shape(t) for t in outputs] == [tuple(values[t].shape) for t in outputs]
    dtypes = {"float": torch.float64, "index": torch.int64, "mask": torch.bool}
    kinds = [b.tensors[t].kind for t in outputs]
    if case.op not in ("host", "random_normal", "random_uniform"):
        assert [dtypes[kind] for kind in kinds] == [values[t].dtype for t in outputs]


def test_the_realised_layer_norm_is_that_of_torch(realised):
    x, w, b = torch.randn(2, 3, 4), torch.randn(4), torch.randn(4)
    for i in ([x], [x, w, b]):
        torch.testing.assert_close(realised["layer_norm"](i, {})[0], fn.layer_norm(x, (4,), *i[1:]))


def test_the_realised_batch_norm_is_that_of_torch(realised):
    x, learned, stored = torch.randn(2, 3, 4), [torch.randn(3), torch.randn(3)], [torch.randn(3), torch.rand(3)]
    for pair in ([], learned):
        of_batch = realised["batch_norm"]([x, *pair], {"training": True})[0]
        torch.testing.assert_close(of_batch, fn.batch_norm(x, None, None, *pair, training=True))
        of_stored = realised["batch_norm"]([x, *pair, *stored], {"training": False})[0]
        torch.testing.assert_close(of_stored, fn.batch_norm(x, *stored, *pair))


_TRANSPOSED = {"stride": 1, "padding": 0, "groups": 1, "output_padding": 0}


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("add", ((2, 3), (2, 4)), {}),
        ("conv2d", ((2, 4, 5), (3, 4, 3, 3)), {"stride": 1, "padding": 0, "groups": 1}),
        ("conv2d", ((2, 4, 5, 5), (3, 3, 3, 3)), {"stride": 1, "padding": 0, "groups": 1}),
        ("conv2d", ((2, 4, 5, 5), (3, 2, 3, 3)), {"stride": 1, "padding": 0, "groups": 2}),
        ("conv2d", ((2, 4, 2, 5), (3, 4, 3, 3)), {"stride": 1, "padding": 0, "groups": 1}),
        ("avg_pool2d", ((2, 4, 2, 5),), {"kernel": 3, "stride": 1, "padding": 0}),
        ("avg_pool2d", ((4, 5),), {"kernel": 3, "stride": 1, "padding": 0}),
        ("max_pool2d", ((2, 4, 2, 5),), {"kernel": 3, "stride": 1, "padding": 0}),
        ("max_pool2d", ((2, 4, 5, 5),), {"kernel": 2, "stride": 1, "padding": 2}),
        ("conv1d", ((2, 4, 5, 5), (3, 4, 3)), {"stride": 1, "padding": 0, "groups": 1}),
        ("conv1d", ((2, 4, 2), (3, 4, 3)), {"stride": 1, "padding": 0, "groups": 1}),
        ("conv_transpose2d", ((2, 4, 5), (4, 3, 3, 3)), _TRANSPOSED),
        ("conv_transpose2d", ((2, 4, 5, 5), (3, 4, 3, 3)), _TRANSPOSED),
        ("conv_transpose2d", ((2, 4, 5, 5), (4, 3, 3, 3)), {**_TRANSPOSED, "output_padding": 1}),
        ("conv_transpose2d", ((2, 4, 1, 1), (4, 3, 3, 3)), {**_TRANSPOSED, "padding": 2}),
        ("upsample", ((2, 3),), {"scale": 2, "mode": "nearest"}),
        ("instance_norm", ((2, 4),), {}),
        ("batch_norm", ((4,),), {"training": True}),
        ("attention", ((4, 5), (4, 5), (5,)), {"causal": False}),
        ("attention", ((4, 5), (4, 6), (4, 5)), {"causal": False}),
        ("attention", ((4, 5), (3, 5), (4, 5)), {"causal": False}),
        ("attention", ((2, 4, 5), (3, 4, 5), (3, 4, 5)), {"causal": False}),
        ("attention", ((2, 4, 5), (2, 3, 5), (2, 3, 5), (3, 3)), {"causal": False}),
        ("attention", ((4, 5), (3, 5), (3, 5), (2, 4, 3)), {"causal": False}),
        ("gather", ((2, 3, 4), (3, 5)), {"axis": -2, "shared": 1}),
        ("gather", ((2, 3, 4), (2, 3, 5)), {"axis": -2, "shared": 2}),
        ("index_add", ((2, 3, 4), (5,)), {"axis": -2, "size": 3, "shared": 0}),
        ("index_add", ((3, 4), (2, 3, 4)), {"axis": -2, "size": 3, "shared": 0}),
        ("host", (), {"seconds": 1.0, "per": "chain"}),
        ("reduce_std", ((2, 1, 3),), {"axes": (-2,), "keep": False, "correction": 1}),
        ("linear", ((2, 3), (5, 4)), {}),
        ("matmul", ((2, 3), (4, 5)), {"transpose_a": False, "transpose_b": False}),
        ("matmul", ((2, 2, 3), (3, 3, 5)), {"transpose_a": False, "transpose_b": False}),
        ("matmul", ((3,), (3, 5)), {"transpose_a": False, "transpose_b": False}),
        ("reduce_sum", ((2, 3),), {"axes": (-3,), "keep": False}),
        ("softmax", ((3,),), {"axis": -2}),
        ("group_norm", ((2, 3, 4),), {"groups": 2}),
        ("group_norm", ((2, 4),), {"groups": 2}),
        ("reshape", ((2, 3),), {"shape": (5,)}),
        ("expand", ((2, 3),), {"shape": (2, 4)}),
        ("expand", ((2, 3),), {"shape": (3,)}),
        ("permute", ((2, 3),), {"order": (-1, -1)}),
        ("slice", ((2, 3),), {"axis": -1, "start": 2, "length": 2}),
        ("concat", ((2, 3), (3, 3)), {"axis": -1}),
        ("reduce_var", ((2, 3),), {"axes": (-1,), "keep": False, "correction": 3}),
        ("argmax", ((2,),), {"axis": -2}),
        ("topk", ((2, 3),), {"count": 4}),
        ("stack", ((2, 3), (2, 4)), {"axis": -1}),
        ("scatter", ((2, 3, 4), (5,), (2, 5, 3)), {"axis": -2, "shared": 0}),
        ("scatter", ((3, 4), (5,), (2, 5, 4)), {"axis": -2, "shared": 0}),
        ("assign", ((2, 3), (2, 2)), {"axis": -1, "start": 2, "length": 2}),
        ("assign", ((2, 3), (2, 2)), {"axis": -1, "start": 0, "length": 3}),
        ("pad", ((2, 3),), {"before": (1,), "after": (1, 1), "mode": "zeros"}),
    ],
)
def test_shapes_that_do_not_fit_are_refused_before_a_node_is_written(op, shapes, attributes):
    b = Builder()
    inputs = [b.tensor(shape, "input") for shape in shapes]
    with pytest.raises(ShapeError, match=r"expected|does not fit"):
        b.emit(op, *inputs, **attributes)
    assert not b.nodes and len(b.tensors) == len(inputs)
