"""Independent truth for the operators: each one realised in torch, and a table of cases that reaches them all."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor

import ebmsim.graph.operators  # noqa: F401  (fills the tables)
from ebmsim.graph.graph import Builder, Graph
from ebmsim.graph.operators.table import OPERATORS

Values = dict[int, Tensor]
Rule = Callable[[Sequence[Tensor], Mapping[str, Any]], tuple[Tensor, ...]]
EPSILON = 1e-5  # of the norms, torch's default


def transposed(f: Callable[[Tensor], Tensor], dy: Tensor, x: Tensor) -> Tensor:
    """What torch itself makes of dy on the way back through f at x."""
    return torch.func.vjp(f, x)[1](dy)[0]


def permute(x: Tensor, order: Sequence[int]) -> Tensor:
    """Permute trailing axes."""
    rest = x.dim() - len(order)
    return x.permute(*range(rest), *(x.dim() + i for i in order))


def pad(x: Tensor, a: Mapping[str, Any]) -> Tensor:
    """torch lists margins from the last axis on, and reflects batches of at most three axes."""
    margins = [m for pair in zip(reversed(a["before"]), reversed(a["after"]), strict=True) for m in pair]
    return fn.pad(x, margins, mode="reflect" if a["mode"] == "reflect" else "constant")


def norm(x: Tensor, groups: int, w: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Group norm, or with 0 groups layer norm.

    The layer norm is a group norm of rows: third derivatives of torch's own are wrong (pytorch issue 175754).
    """
    if groups:
        return fn.group_norm(x, groups, w, b, EPSILON)
    rows = fn.group_norm(x.reshape(-1, 1, x.shape[-1]), 1, eps=EPSILON).reshape(x.shape)
    rows = rows if w is None else rows * w
    return rows if b is None else rows + b


def normalise(i: Sequence[Tensor], groups: int) -> tuple[Tensor, ...]:
    """A norm with the mean and the reciprocal standard deviation it saves."""
    x = i[0]
    flat = x.reshape(x.shape[0], groups, -1) if groups else x
    rate = (flat.var(-1, correction=0) + EPSILON).rsqrt()
    return norm(x, groups, *i[1:]), flat.mean(-1), rate


def norm_weight_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Of a gain and a bias in the torch norm."""
    dy, x = i[:2]
    ones = torch.ones(x.shape[1] if a["groups"] else x.shape[-1], dtype=x.dtype)
    return torch.func.vjp(lambda w, b: norm(x, a["groups"], w, b), ones, torch.zeros_like(ones))[1](dy)


def adam(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The first step, with torch's default constants."""
    w, g, m, v = i
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return w - 1e-3 * (m / 0.1) / ((v / 0.001).sqrt() + 1e-8), m, v


def steps(a: Mapping[str, Any]) -> dict[str, Any]:
    """Stride, padding and groups of a convolution."""
    return {name: a[name] for name in ("stride", "padding", "groups")}


def pool(x: Tensor, a: Mapping[str, Any]) -> Tensor:
    """Mean over windows."""
    return fn.avg_pool2d(x, a["kernel"], a["stride"], a["padding"])


def _embedding_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    table = torch.zeros(a["entries"], a["width"], dtype=i[0].dtype)
    return (transposed(lambda w: fn.embedding(i[1], w), i[0], table),)


def _slice_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    full = list(i[0].shape)
    full[a["axis"]] = a["size"]
    return (transposed(lambda x: x.narrow(a["axis"], a["start"], a["length"]), i[0], i[0].new_zeros(full)),)


def _pad_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    k = i[0].dim() - len(a["before"])
    sizes = [s - p - q for s, p, q in zip(i[0].shape[k:], a["before"], a["after"], strict=True)]
    return (transposed(lambda x: pad(x, a), i[0], i[0].new_zeros(*i[0].shape[:k], *sizes)),)


def _identity(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return (i[0] if i else torch.zeros(1),)


REALISED: dict[str, Rule] = {
    "relu": lambda i, a: (fn.relu(i[0]),),
    "leaky_relu": lambda i, a: (fn.leaky_relu(i[0], a["slope"]),),
    "sigmoid": lambda i, a: (i[0].sigmoid(),),
    "tanh": lambda i, a: (i[0].tanh(),),
    "silu": lambda i, a: (fn.silu(i[0]),),
    "gelu": lambda i, a: (fn.gelu(i[0]),),
    "exp": lambda i, a: (i[0].exp(),),
    "log": lambda i, a: (i[0].log(),),
    "sqrt": lambda i, a: (i[0].sqrt(),),
    "sin": lambda i, a: (i[0].sin(),),
    "cos": lambda i, a: (i[0].cos(),),
    # The fused backward kernels; those of relu, sigmoid and tanh read the result of the forward, not its argument.
    "relu_gradient": lambda i, a: (i[0] * (i[1] > 0),),
    "leaky_relu_gradient": lambda i, a: (transposed(lambda x: fn.leaky_relu(x, a["slope"]), *i),),
    "sigmoid_gradient": lambda i, a: (i[0] * i[1] * (1 - i[1]),),
    "tanh_gradient": lambda i, a: (i[0] * (1 - i[1] ** 2),),
    "silu_gradient": lambda i, a: (transposed(fn.silu, *i),),
    "gelu_gradient": lambda i, a: (transposed(fn.gelu, *i),),
    "add": lambda i, a: (i[0] + i[1],),
    "sub": lambda i, a: (i[0] - i[1],),
    "mul": lambda i, a: (i[0] * i[1],),
    "div": lambda i, a: (i[0] / i[1],),
    "equal": lambda i, a: (i[0] == i[1],),
    "less": lambda i, a: (i[0] < i[1],),
    "scale": lambda i, a: (i[0] * a["by"],),
    "shift": lambda i, a: (i[0] + a["by"],),
    "square": lambda i, a: (i[0] ** 2,),
    "clamp": lambda i, a: (i[0].clamp(a["low"], a["high"]),),
    "clamp_gradient": lambda i, a: (transposed(lambda x: x.clamp(a["low"], a["high"]), *i),),
    "select": lambda i, a: (torch.where(i[0].bool(), i[1], i[2]),),
    "conv2d": lambda i, a: (fn.conv2d(*i, **steps(a)),),
    "conv2d_input_gradient": lambda i, a: (
        torch.nn.grad.conv2d_input(
            (len(i[0]), i[1].shape[1] * a["groups"], *a["size"]), i[1], i[0], a["stride"], a["padding"], 1, a["groups"]
        ),
    ),
    "conv2d_weight_gradient": lambda i, a: (
        torch.nn.grad.conv2d_weight(
            i[0], (i[1].shape[1], i[0].shape[1] // a["groups"], *a["size"]), i[1], **steps(a), dilation=1
        ),
    ),
    "to_device": _identity,
    "to_host": _identity,
    "synchronise": _identity,
    "host": _identity,
    "embedding": lambda i, a: (fn.embedding(i[0], i[1]),),
    "embedding_gradient": _embedding_gradient,
    "group_norm": lambda i, a: normalise(i, a["groups"]),
    "layer_norm": lambda i, a: normalise(i, 0),
    "norm_gradient": lambda i, a: (transposed(lambda x: norm(x, a["groups"], *i[4:]), i[0], i[1]),),
    "norm_weight_gradient": norm_weight_gradient,
    "avg_pool2d": lambda i, a: (pool(i[0], a),),
    "avg_pool2d_gradient": lambda i, a: (
        transposed(lambda x: pool(x, a), i[0], i[0].new_zeros(*i[0].shape[:-2], *a["size"])),
    ),
    "linear": lambda i, a: (fn.linear(*i),),
    "matmul": lambda i, a: ((i[0].mT if a["transpose_a"] else i[0]) @ (i[1].mT if a["transpose_b"] else i[1]),),
    "random_normal": lambda i, a: (torch.randn(a["shape"]),),
    "random_uniform": lambda i, a: (torch.rand(a["shape"]),),
    "reduce_sum": lambda i, a: (i[0].sum(a["axes"], a["keep"]),),
    "reduce_mean": lambda i, a: (i[0].mean(a["axes"], a["keep"]),),
    "reduce_std": lambda i, a: (i[0].std(a["axes"], keepdim=a["keep"]),),
    "reduce_max": lambda i, a: (i[0].amax(a["axes"], a["keep"]),),
    "reduce_min": lambda i, a: (i[0].amin(a["axes"], a["keep"]),),
    "logsumexp": lambda i, a: (i[0].logsumexp(a["axes"], a["keep"]),),
    "softmax": lambda i, a: (i[0].softmax(a["axis"]),),
    "softmax_gradient": lambda i, a: (i[1] * (i[0] - (i[0] * i[1]).sum(a["axis"], keepdim=True)),),
    "reshape": lambda i, a: (i[0].reshape(a["shape"]),),
    "expand": lambda i, a: (i[0].expand(a["shape"]),),
    "permute": lambda i, a: (permute(i[0], a["order"]),),
    "slice": lambda i, a: (i[0].narrow(a["axis"], a["start"], a["length"]),),
    "slice_gradient": _slice_gradient,
    "concat": lambda i, a: (torch.cat(list(i), a["axis"]),),
    "pad": lambda i, a: (pad(i[0], a),),
    "pad_gradient": _pad_gradient,
    "copy": lambda i, a: (i[0].clone(),),
    "adam": adam,
    "running_average": lambda i, a: (0.999 * i[0] + 0.001 * i[1],),
    "squared_norm": lambda i, a: (i[0].square().sum().reshape(1),),
}


def execute(graph: Graph | Builder, values: Mapping[int, Tensor]) -> Values:
    """Every tensor of a graph, from the values of those that no node writes; inferred shapes must be torch's."""
    found = dict(values)
    for number, tensor in enumerate(graph.tensors):
        if tensor.role == "constant":
            found[number] = torch.full(tensor.shape, {"one": 1.0, "zero": 0.0}[tensor.name], dtype=torch.float64)
    for node in graph.nodes:
        results = REALISED[node.op]([found[t] for t in node.inputs], dict(node.attributes))
        for t, result in zip(node.outputs, results, strict=True):
            assert tuple(result.shape) == graph.tensors[t].shape, f"{node.name}: {node.op}"
            found[t] = result
    return found


class Case(NamedTuple):
    """One operator on shapes. kinds: one letter an input, f(loat), i(ndex), m(ask); empty when all are floats."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: dict[str, Any]
    kinds: str = ""
    positive: bool = False

    def emit(self, b: Builder) -> tuple[list[int], tuple[int, ...]]:
        """The inputs and the outputs of the operator, emitted alone."""
        inputs = self.inputs(b)
        return inputs, b.emit_all(self.op, inputs, **self.attributes)

    def inputs(self, b: Builder) -> list[int]:
        """Tensors of the case's shapes and kinds."""
        letters = self.kinds or "f" * len(self.shapes)
        kinds = [{"f": "float", "i": "index", "m": "mask"}[letter] for letter in letters]
        return [b.tensor(s, "input", f"input{i}", k) for i, (s, k) in enumerate(zip(self.shapes, kinds, strict=True))]


def random_values(b: Builder) -> Values:
    """Random values for every tensor of a builder that no node writes."""
    generator = torch.Generator().manual_seed(20)
    values = {}
    for t, tensor in enumerate(b.tensors):
        if t in b.producer or tensor.role == "constant":
            continue
        if tensor.kind == "float":
            values[t] = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        else:
            values[t] = torch.randint(0, 3 if tensor.kind == "index" else 2, tensor.shape, generator=generator)
    return values


def _conv(out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1, bias: bool = True) -> dict:
    return {"out": out, "kernel": kernel, "stride": stride, "padding": padding, "groups": groups, "bias": bias}


def _back(size: tuple[int, int], stride: int = 1, padding: int = 0, groups: int = 1) -> dict:
    return {"size": size, "stride": stride, "padding": padding, "groups": groups}


def _matmul(a: bool, b: bool) -> dict:
    return {"transpose_a": a, "transpose_b": b}


def _axes(*axes: int, keep: bool = False) -> dict:
    return {"axes": axes, "keep": keep}


X = (2, 3, 4)
_IMAGE = (2, 4, 5, 6)
_BOUNDS = {"low": -0.3, "high": 0.6}
_ONE = ["relu", "sigmoid", "tanh", "silu", "gelu", "exp", "sin", "cos", "square", "copy"]
_TWO = ["relu_gradient", "sigmoid_gradient", "tanh_gradient", "silu_gradient", "gelu_gradient"]
_REDUCTIONS = ["reduce_sum", "reduce_mean", "reduce_std", "reduce_max", "reduce_min", "logsumexp"]
CASES = [
    *(Case(op, (X,), {}) for op in _ONE),
    *(Case(op, (X,), {}, positive=True) for op in ("log", "sqrt")),
    Case("leaky_relu", (X,), {"slope": 0.2}),
    *(Case(op, (X, X), {}) for op in _TWO),
    Case("leaky_relu_gradient", (X, X), {"slope": 0.2}),
    *(
        Case(op, shapes, {}, positive=op == "div")
        for op in ("add", "sub", "mul", "div")
        for shapes in ((X, X), (X, (4,)), ((3, 1), X), ((2, 1, 4), (1, 3, 1)), ((), X), (X, (1, 1, 1)))
    ),
    Case("scale", (X,), {"by": -1.5}),
    Case("shift", (X,), {"by": 0.7}),
    Case("clamp", (X,), _BOUNDS),
    Case("clamp_gradient", (X, X), _BOUNDS),
    Case("select", (X, X, X), {}, "mff"),
    Case("select", ((3, 1), X, (4,)), {}, "mff"),
    Case("select", (X, (), (2, 1, 1)), {}, "mff"),
    Case("conv2d", (_IMAGE, (3, 4, 3, 3), (3,)), _conv(3, 3)),
    Case("conv2d", (_IMAGE, (3, 4, 3, 3)), _conv(3, 3, padding=1, bias=False)),
    Case("conv2d", (_IMAGE, (6, 2, 2, 2), (6,)), _conv(6, 2, stride=2, padding=1, groups=2)),
    Case("conv2d", (_IMAGE, (4, 1, 3, 3), (4,)), _conv(4, 3, stride=3, padding=2, groups=4)),
    Case("conv2d", (_IMAGE, (5, 4, 1, 1)), _conv(5, 1, stride=2, bias=False)),
    Case("conv2d_input_gradient", ((2, 3, 5, 6), (3, 4, 3, 3)), _back((5, 6), padding=1)),
    Case("conv2d_input_gradient", ((2, 6, 2, 2), (6, 2, 3, 3)), _back((5, 6), stride=2, groups=2)),
    Case("conv2d_weight_gradient", (_IMAGE, (2, 3, 5, 6)), _back((3, 3), padding=1)),
    Case("conv2d_weight_gradient", (_IMAGE, (2, 6, 2, 2)), _back((3, 3), stride=2, groups=2)),
    Case("avg_pool2d", (_IMAGE,), {"kernel": 2, "stride": 2, "padding": 0}),
    Case("avg_pool2d", (_IMAGE,), {"kernel": 3, "stride": 2, "padding": 1}),
    Case("avg_pool2d_gradient", ((2, 4, 2, 3),), {"kernel": 2, "stride": 2, "padding": 0, "size": (5, 6)}),
    Case("linear", ((5, 3), (4, 3), (4,)), {"out": 4, "bias": True}),
    Case("linear", (X, (5, 4), (5,)), {"out": 5, "bias": True}),
    Case("linear", (X, (5, 4)), {"out": 5, "bias": False}),
    *(
        Case("matmul", (batch_a + ((3, 4) if ta else (4, 3)), batch_b + ((5, 3) if tb else (3, 5))), _matmul(ta, tb))
        for ta in (False, True)
        for tb in (False, True)
        for batch_a, batch_b in (((), ()), ((2, 2), (2, 2)), ((2,), ()), ((), (2,)))
    ),
    *(
        Case(op, (X,), a)
        for op in _REDUCTIONS
        for a in (_axes(-1), _axes(-3, -1), _axes(-2, keep=True), _axes(-3, -2, -1))
    ),
    *(Case("softmax", (X,), {"axis": axis}) for axis in (-1, -2)),
    *(Case("softmax_gradient", (X, X), {"axis": axis}) for axis in (-1, -3)),
    Case("group_norm", (_IMAGE, (4,), (4,)), {"groups": 2, "affine": True}),
    Case("group_norm", (_IMAGE,), {"groups": 4, "affine": False}),
    Case("group_norm", ((2, 6, 5), (6,), (6,)), {"groups": 1, "affine": True}),
    Case("layer_norm", (X, (4,), (4,)), {"affine": True}),
    Case("layer_norm", ((3, 5),), {"affine": False}),
    Case("norm_gradient", (_IMAGE, _IMAGE, (2, 2), (2, 2), (4,)), {"groups": 2}),
    Case("norm_gradient", (_IMAGE, _IMAGE, (2, 1), (2, 1)), {"groups": 1}),
    Case("norm_gradient", (X, X, (2, 3), (2, 3), (4,)), {"groups": 0}),
    Case("norm_weight_gradient", (_IMAGE, _IMAGE, (2, 2), (2, 2)), {"groups": 2}),
    Case("norm_weight_gradient", (X, X, (2, 3), (2, 3)), {"groups": 0}),
    Case("reshape", (X,), {"shape": (2, 12)}),
    Case("expand", ((3, 1),), {"shape": (2, 3, 4)}),
    Case("expand", ((2, 1, 4),), {"shape": (2, 3, 4)}),
    Case("permute", (X,), {"order": (-1, -2)}),
    Case("permute", (_IMAGE,), {"order": (-2, -1, -3)}),
    Case("slice", (X,), {"axis": -1, "start": 1, "length": 2}),
    Case("slice_gradient", (X,), {"axis": -2, "start": 1, "length": 3, "size": 5}),
    Case("concat", (X, (2, 2, 4)), {"axis": -2}),
    Case("concat", (X, X, (2, 3, 1)), {"axis": -1}),
    *(
        Case(op, (shape,), {"before": (1, 2), "after": (2, 0), "mode": mode})
        for op, shape in (("pad", X), ("pad_gradient", (2, 6, 6)))
        for mode in ("zeros", "reflect")
    ),
    Case("pad", ((2, 5),), {"before": (0,), "after": (3,), "mode": "zeros"}),
    Case("embedding", ((2, 4), (3, 5)), {"entries": 3, "width": 5}, "if"),
    Case("embedding_gradient", ((2, 4, 5), (2, 4)), {"entries": 3, "width": 5}, "fi"),
    # Nothing flows back through these.
    *(Case(op, (X, (4,)), {}) for op in ("equal", "less")),
    *(Case(op, (X,), {}) for op in ("to_device", "to_host", "synchronise")),
    Case("host", (X,), {"seconds": 1e-3, "per": "launch"}),
    Case("host", (X,), {"seconds": 1e-3, "per": "chain"}),
    Case("host", (), {"seconds": 1e-3, "per": "launch"}),
    Case("random_normal", (), {"shape": (2, 3)}),
    Case("random_uniform", (), {"shape": (2, 3)}),
    Case("adam", (X, X, X, X), {}, positive=True),
    Case("running_average", (X, X), {}),
    Case("squared_norm", (X,), {}),
]
# Operators that gradients stop at. The norms' kernels take statistics that belong to their x, so they are reached by
# differentiating the norms once and twice, not alone.
STOP = {"equal", "less", "to_device", "to_host", "synchronise", "host", "random_normal", "random_uniform"}
STOP |= {"adam", "running_average", "squared_norm"}
NOT_ALONE = {"norm_gradient", "norm_weight_gradient"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` runs over all cases, `smooth` over those with a gradient, `operator` over the operators' names."""
    smooth = [case for case in CASES if case.op not in STOP | NOT_ALONE]
    for name, values in (("case", CASES), ("smooth", smooth)):
        if name in metafunc.fixturenames:
            ids = [f"{c.op}-{'-'.join(map(str, c.shapes))}".replace(", ", "x") for c in values]
            metafunc.parametrize(name, values, ids=ids)
    if "operator" in metafunc.fixturenames:
        metafunc.parametrize("operator", list(OPERATORS))


@pytest.fixture(scope="session")
def separate() -> set[str]:
    """The operators that a graph is made of; fusion makes the others, which do not say how their members connect."""
    return {name for name in OPERATORS if not name.startswith("fused")}


@pytest.fixture(scope="session")
def realised() -> dict[str, Rule]:
    """Every operator in torch."""
    return REALISED


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    """All cases."""
    return CASES


@pytest.fixture(scope="session")
def run() -> Callable[[Graph | Builder, Mapping[int, Tensor]], Values]:
    """Execute a graph in torch."""
    return execute


@pytest.fixture(scope="session")
def values_of() -> Callable[[Builder], Values]:
    """Random values for what no node writes."""
    return random_values


# The number of elements a case's operator must not exceed, so that plain loops stay quick.
assert max((math.prod(s) for c in CASES for s in c.shapes), default=0) < 1000
