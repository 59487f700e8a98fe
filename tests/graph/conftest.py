"""Independent truth for the operators: each one realised in torch, and a table of cases that reaches them all."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as fn
import yaml
from torch import Tensor

import ebmsim.graph.operators  # noqa: F401  (fills the tables)
from ebmsim.graph.graph import Builder, Graph
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

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


def rms_norm(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Of the last axis, with the rate it saves."""
    return fn.rms_norm(i[0], i[0].shape[-1:], *i[1:], eps=EPSILON), (i[0].square().mean(-1) + EPSILON).rsqrt()


def batch_norm(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """With statistics of the batch, or stored ones (of random values the size, since a variance is not negative)."""
    x = i[0]
    if a["training"]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        learned, mean, variance = i[1:], x.mean(axes), x.var(axes, correction=0)
    else:
        *learned, mean, variance = i[1:]
    rate = (variance.abs() + EPSILON).rsqrt()
    y, *learned = (t.reshape(-1, *[1] * (x.dim() - 2)) for t in (mean, rate, *learned))
    y = (x - y) * learned[0]
    return (y * learned[1] + learned[2] if learned[1:] else y), mean, rate


def of_kind(x: Tensor, saved: Sequence[Tensor], a: Mapping[str, Any], *learned: Tensor) -> Tensor:
    """The norm that a backward kernel belongs to, as a function of x and what is learned."""
    if a["over"] == "rms":
        return rms_norm([x, *learned], a)[0]
    if a["over"] == "batch":
        return batch_norm([x, *learned], {"training": True})[0]
    if a["over"] == "stored":
        return fn.batch_norm(x, saved[0], saved[1] ** -2, *learned, eps=0.0)
    return norm(x, a["groups"] if a["over"] == "group" else 0, *learned)


def norm_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Of x; without a bias, which plays no part (torch's batch norm asks for both)."""
    count = 1 if a["over"] == "rms" else 2
    dy, x, saved, gain = *i[:2], i[2 : 2 + count], i[2 + count :]
    bias = [torch.zeros_like(gain[0])] if gain and a["over"] != "rms" else []
    return (transposed(lambda x: of_kind(x, saved, a, *gain, *bias), dy, x),)


def norm_weight_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Of a gain and a bias in the torch norm."""
    dy, x, *saved = i
    ones = torch.ones(x.shape[-1] if a["over"] in ("layer", "rms") else x.shape[1], dtype=x.dtype)
    learned = [ones] if a["over"] == "rms" else [ones, torch.zeros_like(ones)]
    return torch.func.vjp(lambda *learned: of_kind(x, saved, a, *learned), *learned)[1](dy)


def adam(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The first step, with torch's default constants."""
    w, g, m, v = i
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    return w - 1e-3 * (m / 0.1) / ((v / 0.001).sqrt() + 1e-8), m, v


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Result, and logarithm of the sum of exponentials, by the definition."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if a["causal"]:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    scores = scores + mask[0] if mask else scores
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def attention_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Of q, k and v, one of each for every chain."""
    dy, q, k, v, *_ = i
    full = (t.expand(*q.shape[:-2], *t.shape[-2:]) for t in (k, v))
    return torch.func.vjp(lambda *qkv: attention(*qkv, i[6:], a)[0], q, *full)[1](dy)


def gather(x: Tensor, index: Tensor, a: Mapping[str, Any]) -> Tensor:
    """One index_select for every position of the shared axes."""
    if a["shared"]:
        return torch.stack([gather(p, q, {**a, "shared": a["shared"] - 1}) for p, q in zip(x, index, strict=True)])
    axis = x.dim() + a["axis"]
    return x.index_select(axis, index.flatten()).reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def index_add(x: Tensor, index: Tensor, a: Mapping[str, Any]) -> Tensor:
    """torch's index_add of zeros, for every position of the shared axes."""
    if a["shared"]:
        return torch.stack([index_add(p, q, {**a, "shared": a["shared"] - 1}) for p, q in zip(x, index, strict=True)])
    after = x.dim() + a["axis"] + 1
    before, rest = x.shape[: after - index.dim()], x.shape[after:]
    zeros = x.new_zeros(*before, a["size"], *rest)
    return zeros.index_add(len(before), index.flatten(), x.reshape(*before, index.numel(), *rest))


def scatter(x: Tensor, index: Tensor, rows: Tensor, a: Mapping[str, Any], add: bool = False) -> Tensor:
    """torch's index_copy or index_add, for every position of the shared axes; what is written broadcasts."""
    axis = x.dim() + a["axis"]
    rows = rows.expand((*x.shape[:axis], *index.shape[a["shared"] :], *x.shape[axis + 1 :]))
    if a["shared"]:
        each = zip(x, index, rows, strict=True)
        return torch.stack([scatter(*three, {**a, "shared": a["shared"] - 1}, add) for three in each])
    rows = rows.reshape((*x.shape[:axis], index.numel(), *x.shape[axis + 1 :]))
    return (x.index_add if add else x.index_copy)(axis, index.flatten(), rows)


def assign(x: Tensor, part: Tensor, a: Mapping[str, Any]) -> Tensor:
    """The part between what stands before and after it."""
    axis, end = x.dim() + a["axis"], a["start"] + a["length"]
    part = part.expand(*x.shape[:axis], a["length"], *x.shape[axis + 1 :])
    return torch.cat([x.narrow(axis, 0, a["start"]), part, x.narrow(axis, end, x.shape[axis] - end)], axis)


def upsample(x: Tensor, a: Mapping[str, Any]) -> Tensor:
    """torch takes images with exactly one axis before the channels."""
    image = fn.interpolate(x.reshape(-1, 1, *x.shape[-2:]), scale_factor=a["scale"], mode=a["mode"])
    return image.reshape(*x.shape[:-2], *image.shape[-2:])


def _upsample_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    small = i[0].new_zeros(*i[0].shape[:-2], *(s // a["scale"] for s in i[0].shape[-2:]))
    return (transposed(lambda x: upsample(x, a), i[0], small),)


def _max_pool_gradient(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    dy, index = i
    flat = dy.new_zeros(*dy.shape[:-2], math.prod(a["size"]))
    return (flat.scatter_add(-1, index.flatten(-2), dy.flatten(-2)).unflatten(-1, a["size"]),)


def conv_input(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """torch's own input gradient of a convolution along one axis or two."""
    dy, w = i
    f = torch.nn.grad.conv1d_input if w.dim() == 3 else torch.nn.grad.conv2d_input
    return (f((len(dy), w.shape[1] * a["groups"], *a["size"]), w, dy, **steps(a), dilation=1),)


def conv_weight(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """torch's own weight gradient of a convolution along one axis or two."""
    x, dy = i
    f = torch.nn.grad.conv1d_weight if x.dim() == 3 else torch.nn.grad.conv2d_weight
    return (f(x, (dy.shape[1], x.shape[1] // a["groups"], *a["size"]), dy, **steps(a), dilation=1),)


def conv_transpose(i: Sequence[Tensor], a: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """Along one axis or two."""
    f = fn.conv_transpose1d if i[0].dim() == 3 else fn.conv_transpose2d
    return (f(*i, **steps(a), output_padding=a["output_padding"]),)


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
    "gelu_tanh": lambda i, a: (fn.gelu(i[0], approximate="tanh"),),
    "mish": lambda i, a: (fn.mish(i[0]),),
    "softplus": lambda i, a: (fn.softplus(i[0]),),
    "elu": lambda i, a: (fn.elu(i[0], a["alpha"]),),
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
    "gelu_tanh_gradient": lambda i, a: (transposed(lambda x: fn.gelu(x, approximate="tanh"), *i),),
    "mish_gradient": lambda i, a: (transposed(fn.mish, *i),),
    "softplus_gradient": lambda i, a: (transposed(fn.softplus, *i),),
    "elu_gradient": lambda i, a: (transposed(lambda x: fn.elu(x, a["alpha"]), *i),),
    "neg": lambda i, a: (-i[0],),
    "abs": lambda i, a: (i[0].abs(),),
    "sign": lambda i, a: (i[0].sign(),),
    "reciprocal": lambda i, a: (i[0].reciprocal(),),
    "rsqrt": lambda i, a: (i[0].rsqrt(),),
    "pow": lambda i, a: (i[0] ** a["by"],),
    "maximum": lambda i, a: (torch.maximum(*i),),
    "minimum": lambda i, a: (torch.minimum(*i),),
    "argmax": lambda i, a: (i[0].argmax(a["axis"]),),
    "argmin": lambda i, a: (i[0].argmin(a["axis"]),),
    "topk": lambda i, a: tuple(reversed(i[0].topk(a["count"]))),
    "one_hot": lambda i, a: (fn.one_hot(i[0], a["size"]),),
    "to_float": lambda i, a: (i[0].double(),),
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
    "conv1d": lambda i, a: (fn.conv1d(*i, **steps(a)),),
    "conv_transpose1d": conv_transpose,
    "conv_transpose2d": conv_transpose,
    "conv1d_input_gradient": conv_input,
    "conv2d_input_gradient": conv_input,
    "conv1d_weight_gradient": conv_weight,
    "conv2d_weight_gradient": conv_weight,
    "attention": lambda i, a: attention(*i[:3], i[3:], a),
    "attention_gradient": attention_gradient,
    "upsample": lambda i, a: (upsample(i[0], a),),
    "upsample_gradient": _upsample_gradient,
    "max_pool2d": lambda i, a: fn.max_pool2d(i[0], a["kernel"], a["stride"], a["padding"], return_indices=True),
    "max_pool2d_gradient": _max_pool_gradient,
    "gather": lambda i, a: (gather(*i, a),),
    "index_add": lambda i, a: (index_add(*i, a),),
    "zeros": lambda i, a: (torch.zeros(a["shape"], dtype=torch.float64),),
    "scatter_add": lambda i, a: (scatter(*i, a, add=True),),
    "scatter": lambda i, a: (scatter(*i, a),),
    "assign": lambda i, a: (assign(*i, a),),
    "to_device": _identity,
    "to_host": _identity,
    "synchronise": _identity,
    "host": _identity,
    "embedding": lambda i, a: (fn.embedding(i[0], i[1]),),
    "embedding_gradient": _embedding_gradient,
    "group_norm": lambda i, a: normalise(i, a["groups"]),
    "layer_norm": lambda i, a: normalise(i, 0),
    "instance_norm": lambda i, a: normalise(i, i[0].shape[1]),
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "norm_gradient": norm_gradient,
    "norm_weight_gradient": norm_weight_gradient,
    "avg_pool2d": lambda i, a: (pool(i[0], a),),
    "avg_pool2d_gradient": lambda i, a: (
        transposed(lambda x: pool(x, a), i[0], i[0].new_zeros(*i[0].shape[:-2], *a["size"])),
    ),
    "linear": lambda i, a: (fn.linear(*i),),
    "matmul": lambda i, a: ((i[0].mT if a["transpose_a"] else i[0]) @ (i[1].mT if a["transpose_b"] else i[1]),),
    "random_normal": lambda i, a: (torch.randn(a["shape"]),),
    "random_uniform": lambda i, a: (torch.rand(a["shape"]),),
    "random_integers": lambda i, a: (torch.randint(9, a["shape"]),),
    "categorical": lambda i, a: (
        torch.multinomial(i[0].flatten(0, -2), a["count"], replacement=True).unflatten(0, i[0].shape[:-1]),
    ),
    "reduce_sum": lambda i, a: (i[0].sum(a["axes"], a["keep"]),),
    "reduce_mean": lambda i, a: (i[0].mean(a["axes"], a["keep"]),),
    "reduce_max": lambda i, a: (i[0].amax(a["axes"], a["keep"]),),
    "reduce_min": lambda i, a: (i[0].amin(a["axes"], a["keep"]),),
    "reduce_norm": lambda i, a: (torch.linalg.vector_norm(i[0], 2, a["axes"], a["keep"]),),
    "reduce_var": lambda i, a: (i[0].var(a["axes"], correction=a["correction"], keepdim=a["keep"]),),
    "reduce_std": lambda i, a: (i[0].std(a["axes"], correction=a["correction"], keepdim=a["keep"]),),
    "logsumexp": lambda i, a: (i[0].logsumexp(a["axes"], a["keep"]),),
    "softmax": lambda i, a: (i[0].softmax(a["axis"]),),
    "log_softmax": lambda i, a: (i[0].log_softmax(a["axis"]),),
    "log_softmax_gradient": lambda i, a: (i[0] - i[1].exp() * i[0].sum(a["axis"], keepdim=True),),
    "softmax_gradient": lambda i, a: (i[0] - i[1] * i[0].sum(a["axis"], keepdim=True),),
    "reshape": lambda i, a: (i[0].reshape(a["shape"]),),
    "expand": lambda i, a: (i[0].expand(a["shape"]),),
    "detach": lambda i, a: (i[0].detach(),),
    "permute": lambda i, a: (permute(i[0], a["order"]),),
    "slice": lambda i, a: (i[0].narrow(a["axis"], a["start"], a["length"]),),
    "split": lambda i, a: tuple(i[0].chunk(a["parts"], a["axis"])),
    "slice_gradient": _slice_gradient,
    "concat": lambda i, a: (torch.cat(list(i), a["axis"]),),
    "stack": lambda i, a: (torch.stack(list(i), a["axis"]),),
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
    """One operator on shapes. kinds: one letter an input, f(loat), i(ndex), m(ask), b(uffer of floats).

    Empty when all are floats.
    """

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
        kinds = {"i": "index", "m": "mask"}
        return [
            b.tensor(s, "buffer" if letter == "b" else "input", f"input{i}", kinds.get(letter, "float"))
            for i, (s, letter) in enumerate(zip(self.shapes, letters, strict=True))
        ]


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


def _transposed(*a: int, output_padding: int = 0, **more: Any) -> dict:
    return {**_conv(*a, **more), "output_padding": output_padding}


def _over(over: str, groups: int = 1) -> dict:
    return {"over": over, "groups": groups}


def _back(size: tuple[int, ...], stride: int = 1, padding: int = 0, groups: int = 1) -> dict:
    return {"size": size, "stride": stride, "padding": padding, "groups": groups}


def _matmul(a: bool, b: bool) -> dict:
    return {"transpose_a": a, "transpose_b": b}


def _axes(*axes: int, keep: bool = False) -> dict:
    return {"axes": axes, "keep": keep}


X = (2, 3, 4)
_IMAGE = (2, 4, 5, 6)
_ROWS = (2, 4, 7)
_BOUNDS = {"low": -0.3, "high": 0.6}
_ACTIVATIONS = ["relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "mish", "softplus"]
_ONE = [*_ACTIVATIONS, "exp", "sin", "cos", "neg", "abs", "square", "copy"]
_TWO = [f"{op}_gradient" for op in _ACTIVATIONS]
_REDUCTIONS = ["reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_norm", "logsumexp"]
CASES = [
    *(Case(op, (X,), {}) for op in _ONE),
    *(Case(op, (X,), {}, positive=True) for op in ("log", "sqrt", "rsqrt", "reciprocal")),
    *(Case("pow", (X,), {"by": by}, positive=True) for by in (2.0, 3.0, -0.7)),
    Case("leaky_relu", (X,), {"slope": 0.2}),
    Case("elu", (X,), {"alpha": 0.7}),
    Case("elu_gradient", (X, X), {"alpha": 0.7}),
    *(Case(op, (X, X), {}) for op in _TWO),
    Case("leaky_relu_gradient", (X, X), {"slope": 0.2}),
    *(
        Case(op, shapes, {}, positive=op == "div")
        for op in ("add", "sub", "mul", "div", "maximum", "minimum")
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
    Case("conv1d", (_ROWS, (3, 4, 3), (3,)), _conv(3, 3)),
    Case("conv1d", (_ROWS, (6, 2, 5), (6,)), _conv(6, 5, stride=2, padding=2, groups=2)),
    Case("conv1d", (_ROWS, (5, 4, 1)), _conv(5, 1, bias=False)),
    Case("conv1d_input_gradient", ((2, 6, 3), (6, 2, 3)), _back((8,), stride=2, groups=2)),
    Case("conv1d_weight_gradient", (_ROWS, (2, 6, 3)), _back((3,), stride=2, groups=2)),
    Case("conv_transpose1d", (_ROWS, (4, 3, 4), (3,)), _transposed(3, 4, stride=2, padding=1)),
    Case("conv_transpose2d", (_IMAGE, (4, 3, 3, 3), (3,)), _transposed(3, 3)),
    Case("conv_transpose2d", (_IMAGE, (4, 3, 2, 2), (6,)), _transposed(6, 2, stride=2, groups=2)),
    Case("conv_transpose2d", (_IMAGE, (4, 1, 3, 3)), _transposed(1, 3, 2, 1, bias=False, output_padding=1)),
    Case("avg_pool2d", (_IMAGE,), {"kernel": 2, "stride": 2, "padding": 0}),
    Case("avg_pool2d", (_IMAGE,), {"kernel": 3, "stride": 2, "padding": 1}),
    Case("avg_pool2d_gradient", ((2, 4, 2, 3),), {"kernel": 2, "stride": 2, "padding": 0, "size": (5, 6)}),
    Case("max_pool2d", (_IMAGE,), {"kernel": 2, "stride": 2, "padding": 0}),
    Case("max_pool2d", (_IMAGE,), {"kernel": 3, "stride": 2, "padding": 1}),
    Case("max_pool2d_gradient", ((2, 4, 2, 3), (2, 4, 2, 3)), {"size": (5, 6)}, "fi"),
    *(
        Case(op, (shape,), {"scale": scale, "mode": mode})
        for mode in ("nearest", "bilinear")
        for op, shape, scale in (("upsample", (2, 2, 3, 4), 2), ("upsample_gradient", (2, 6, 9), 3))
    ),
    *(
        Case("attention", shapes, {"causal": causal})
        for causal in (False, True)
        for shapes in (
            ((2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)),
            ((2, 3, 4, 5), (3, 6, 5), (3, 6, 2)),
            ((2, 3, 4, 5), (2, 3, 2, 5), (2, 3, 2, 5), (4, 2)),
        )
    ),
    *(
        Case("attention_gradient", shapes, {"causal": causal})
        for causal in (False, True)
        for shapes in (
            ((2, 3, 4, 2), (2, 3, 4, 5), (3, 6, 5), (3, 6, 2), (2, 3, 4, 2), (2, 3, 4)),
            ((3, 4, 5), (3, 4, 5), (3, 2, 5), (3, 2, 5), (3, 4, 5), (3, 4), (3, 1, 2)),
        )
    ),
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
    *(
        Case(op, (X,), {**a, "correction": correction})
        for op in ("reduce_var", "reduce_std")
        for a, correction in ((_axes(-1), 1), (_axes(-3, -1), 0), (_axes(-2, keep=True), 2))
    ),
    *(Case(op, (X,), {"axis": axis}) for op in ("softmax", "log_softmax") for axis in (-1, -2)),
    *(Case(f"{op}_gradient", (X, X), {"axis": axis}) for op in ("softmax", "log_softmax") for axis in (-1, -3)),
    Case("topk", (X,), {"count": 2}),
    Case("group_norm", (_IMAGE, (4,), (4,)), {"groups": 2, "affine": True}),
    Case("group_norm", (_IMAGE,), {"groups": 4, "affine": False}),
    Case("group_norm", ((2, 6, 5), (6,), (6,)), {"groups": 1, "affine": True}),
    Case("layer_norm", (X, (4,), (4,)), {"affine": True}),
    Case("layer_norm", ((3, 5),), {"affine": False}),
    Case("instance_norm", (_IMAGE, (4,), (4,)), {"affine": True}),
    Case("instance_norm", ((2, 3, 5),), {"affine": False}),
    Case("rms_norm", (X, (4,)), {"affine": True}),
    Case("rms_norm", ((3, 5),), {"affine": False}),
    Case("batch_norm", (_IMAGE, (4,), (4,)), {"affine": True, "training": True}),
    Case("batch_norm", ((5, 3),), {"affine": False, "training": True}),
    Case("batch_norm", (_IMAGE, (4,), (4,), (4,), (4,)), {"affine": True, "training": False}, "fffbb"),
    Case("batch_norm", ((5, 3), (3,), (3,)), {"affine": False, "training": False}, "fbb"),
    Case("norm_gradient", (_IMAGE, _IMAGE, (2, 2), (2, 2), (4,)), _over("group", 2)),
    Case("norm_gradient", (_IMAGE, _IMAGE, (2, 1), (2, 1)), _over("group", 1)),
    Case("norm_gradient", (X, X, (2, 3), (2, 3), (4,)), _over("layer")),
    Case("norm_gradient", (X, X, (2, 3), (4,)), _over("rms")),
    Case("norm_gradient", (_IMAGE, _IMAGE, (4,), (4,), (4,)), _over("batch")),
    Case("norm_gradient", (_IMAGE, _IMAGE, (4,), (4,), (4,)), _over("stored")),
    Case("norm_weight_gradient", (_IMAGE, _IMAGE, (2, 2), (2, 2)), _over("group", 2)),
    Case("norm_weight_gradient", (X, X, (2, 3), (2, 3)), _over("layer")),
    Case("norm_weight_gradient", (X, X, (2, 3)), _over("rms")),
    Case("norm_weight_gradient", (_IMAGE, _IMAGE, (4,), (4,)), _over("batch")),
    Case("norm_weight_gradient", (_IMAGE, _IMAGE, (4,), (4,)), _over("stored")),
    Case("reshape", (X,), {"shape": (2, 12)}),
    Case("expand", ((3, 1),), {"shape": (2, 3, 4)}),
    Case("expand", ((2, 1, 4),), {"shape": (2, 3, 4)}),
    Case("permute", (X,), {"order": (-1, -2)}),
    Case("permute", (_IMAGE,), {"order": (-2, -1, -3)}),
    Case("slice", (X,), {"axis": -1, "start": 1, "length": 2}),
    Case("split", (X,), {"axis": -1, "parts": 2}),
    Case("split", ((2, 6),), {"axis": -1, "parts": 3}),
    Case("slice_gradient", (X,), {"axis": -2, "start": 1, "length": 3, "size": 5}),
    Case("concat", (X, (2, 2, 4)), {"axis": -2}),
    Case("concat", (X, X, (2, 3, 1)), {"axis": -1}),
    Case("stack", (X, X), {"axis": -1}),
    Case("stack", (X, X, X), {"axis": -3}),
    *(
        Case(op, (shape,), {"before": (1, 2), "after": (2, 0), "mode": mode})
        for op, shape in (("pad", X), ("pad_gradient", (2, 6, 6)))
        for mode in ("zeros", "reflect")
    ),
    Case("pad", ((2, 5),), {"before": (0,), "after": (3,), "mode": "zeros"}),
    Case("embedding", ((2, 4), (3, 5)), {"entries": 3, "width": 5}, "if"),
    Case("embedding_gradient", ((2, 4, 5), (2, 4)), {"entries": 3, "width": 5}, "fi"),
    *(
        Case("gather", shapes, {"axis": axis, "shared": shared}, "fi")
        for shapes, axis, shared in (
            (((2, 3, 4), (5,)), -2, 0),
            (((2, 3, 4), (2, 5)), -2, 1),
            (((2, 3, 4), (2, 2, 3)), -1, 1),
            (((2, 4, 3), (2, 4)), -1, 2),
            (((3, 4), (2, 5)), -2, 0),
        )
    ),
    *(
        Case("index_add", shapes, {"axis": axis, "size": 3, "shared": shared}, "fi")
        for shapes, axis, shared in (
            (((2, 5, 4), (5,)), -2, 0),
            (((2, 5, 4), (2, 5)), -2, 1),
            (((2, 4, 2, 3), (4, 2)), -2, 0),
            (((2, 4), (2, 4)), -1, 2),
        )
    ),
    *(
        Case(op, shapes, {"axis": axis, "shared": shared}, "fif")
        for op in ("scatter", "scatter_add")
        for shapes, axis, shared in (
            (((2, 3, 4), (2,), (2, 2, 4)), -2, 0),
            (((2, 3, 4), (2, 2), (2, 4)), -2, 1),
            (((2, 4, 3), (2, 4), ()), -1, 2),
        )
    ),
    Case("assign", (X, (2, 2, 4)), {"axis": -2, "start": 1, "length": 2}),
    Case("assign", (X, (3, 1)), {"axis": -1, "start": 0, "length": 1}),
    Case("assign", (X, ()), {"axis": -1, "start": 3, "length": 1}),
    # Nothing flows back through these.
    *(Case(op, (X,), {"axis": axis}) for op in ("argmax", "argmin") for axis in (-1, -2)),
    Case("one_hot", ((2, 3),), {"size": 4}, "i"),
    Case("to_float", ((2, 3),), {}, "m"),
    Case("sign", (X,), {}),
    Case("zeros", (), {"shape": (2, 3)}),
    Case("detach", (X,), {}),
    Case("random_integers", (), {"shape": (2, 3)}),
    Case("categorical", (X,), {"count": 5}, positive=True),
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
STOP |= {"argmax", "argmin", "one_hot", "to_float", "sign", "zeros", "detach", "random_integers", "categorical"}
STOP |= {"adam", "running_average", "squared_norm"}
# Neither is the backward kernel of attention, whose result and sums belong to its q, k and v; nor attention itself,
# which has no second derivative.
NOT_ALONE = {"norm_gradient", "norm_weight_gradient", "attention", "attention_gradient"}


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
def once() -> set[str]:
    """Operators without a gradient: torch has none either."""
    return {"attention_gradient"}


@pytest.fixture(scope="session")
def realised() -> dict[str, Rule]:
    """Every operator in torch."""
    return REALISED


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    """All cases."""
    return CASES


def one_network(nodes: list[dict], inputs: Mapping[str, dict], sample: list[int], **more: Any) -> Workload:
    """A workload of one network `net` of the sample x and of inputs, whose energy's gradient is taken once."""
    names = ["x", *inputs]
    file = {
        "name": "one",
        "title": "one",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "mono", "dependency": "sequential"},
        "parameters": {"chains": 3, "steps": 1},
        "inputs": dict(inputs),
        "components": {"net": {"role": "energy", "inputs": {name: name for name in names}, "nodes": nodes}},
        "sampler": {
            "sample": {"x": sample},
            "program": [{"loop": 1, "label": "step", "do": [{"evaluate": "gradient", "at": "x", "name": "g"}]}],
        },
        **more,
    }
    document = parse_document(yaml.safe_dump(file, sort_keys=False))
    return settle(document, parse_workload(document))


@pytest.fixture(scope="session")
def network() -> Callable[..., Workload]:
    """Writes a workload of one network, for 3 chains, and reads it back."""
    return one_network


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
