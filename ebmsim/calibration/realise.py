"""The torch realisation of every operator a workload file may name: the kernel that torch itself would launch.

Gradients have none: torch.autograd takes them. Rules take the operator's inputs and attributes, chain axis included,
and give its outputs; what only a gradient rule reads of them is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional
from torch import Tensor

# Its functions take more than their stubs say.
fn: Any = torch.nn.functional

Rule = Callable[[Sequence[Any], Mapping[str, Any]], tuple[Any, ...]]
EPSILON = 1e-5  # of the norms, torch's default


def _permute(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """Trailing axes in another order."""
    x, order = i[0], a["order"]
    rest = x.dim() - len(order)
    return (x.permute(*range(rest), *(rest + axis % len(order) for axis in order)),)


def _pad(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """torch lists margins from the last axis on."""
    margins = [m for pair in zip(reversed(a["before"]), reversed(a["after"]), strict=True) for m in pair]
    return (fn.pad(i[0], margins, mode="reflect" if a["mode"] == "reflect" else "constant"),)


def _batch_norm(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """With statistics of the batch, or stored ones, which stand last."""
    x, rest = i[0], list(i[1:])
    variance, mean = (None, None) if a["training"] else (rest.pop(), rest.pop())
    gain, bias = [*rest, None, None][:2]
    return fn.batch_norm(x, mean, variance, gain, bias, a["training"], eps=EPSILON), None, None


def _attention(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """Keys and values that all chains share are spread over them."""
    q, k, v, *mask = i
    k, v = (t.expand(*q.shape[:-2], *t.shape[-2:]) for t in (k, v))
    return fn.scaled_dot_product_attention(q, k, v, *mask, is_causal=a["causal"]), None


def _spread(index: Tensor, x: Tensor, axis: int, shared: int) -> Tensor:
    """An index over an axis of x, one for each position of the shared axes, the same for all others."""
    before, after = [1] * (axis - shared), [1] * (x.dim() - axis - 1)
    flat = index.reshape(*index.shape[:shared], *before, -1, *after)
    return flat.expand(*x.shape[:axis], flat.shape[axis], *x.shape[axis + 1 :])


def _gather(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """index_select, or torch.gather where every position of the shared axes has an index of its own."""
    x, index = i
    axis = x.dim() + a["axis"]
    if a["shared"]:
        found = x.gather(axis, _spread(index, x, axis, a["shared"]))
        return (found.reshape(*x.shape[:axis], *index.shape[a["shared"] :], *x.shape[axis + 1 :]),)
    found = x.index_select(axis, index.flatten())
    return (found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]),)


def _into(x: Tensor, index: Tensor, rows: Tensor, a: Mapping[str, Any], add: bool) -> Tensor:
    """Rows added or written into x in place, each where the index says."""
    axis, shared = x.dim() + a["axis"], a["shared"]
    rows = rows.expand(*x.shape[:axis], *index.shape[shared:], *x.shape[axis + 1 :])
    rows = rows.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    if shared:
        where = _spread(index, x, axis, shared)
        return x.scatter_add_(axis, where, rows) if add else x.scatter_(axis, where, rows)
    return (x.index_add_ if add else x.index_copy_)(axis, index.flatten(), rows)


def _index_add(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """Into zeros of `size` rows."""
    x, index = i
    after = x.dim() + a["axis"] + 1
    before, rest = x.shape[: after - (index.dim() - a["shared"])], x.shape[after:]
    rows = x.reshape(*before, -1, *rest)
    zeros = x.new_zeros(*before, a["size"], *rest)
    return (
        _into(
            zeros, index.reshape(*index.shape[: a["shared"]], -1), rows, {**a, "axis": len(before) - zeros.dim()}, True
        ),
    )


def _assign(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    x, part = i
    x.narrow(x.dim() + a["axis"], a["start"], a["length"]).copy_(part)
    return (x,)


def _images(x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of images, which torch takes with one axis before the channels, where there may be several."""
    if x.dim() <= 4:
        return f(x)
    y = f(x.flatten(0, -4))
    return y.reshape(*x.shape[:-3], *y.shape[-3:])


def _upsample(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """Whatever stands before height and width."""
    x = i[0]
    image = fn.interpolate(
        x if x.dim() == 4 else x.reshape(-1, 1, *x.shape[-2:]), scale_factor=a["scale"], mode=a["mode"]
    )
    return (image.reshape(*x.shape[:-2], *image.shape[-2:]),)


def _matmul(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    return (torch.matmul(i[0].mT if a["transpose_a"] else i[0], i[1].mT if a["transpose_b"] else i[1]),)


def _categorical(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    """What is drawn matters to nobody here; invented data may give no distribution, and torch refuses such."""
    shares = i[0].flatten(0, -2)
    try:
        drawn = torch.multinomial(shares, a["count"], replacement=True)
    except RuntimeError:
        drawn = torch.multinomial(torch.ones_like(shares), a["count"], replacement=True)
    return (drawn.reshape(*i[0].shape[:-1], a["count"]),)


def _wait(i: Sequence[Any], a: Mapping[str, Any]) -> tuple[Any, ...]:
    if i and i[0].is_cuda:
        torch.cuda.synchronize()
    return (i[0] if i else None,)


def _steps(a: Mapping[str, Any]) -> dict[str, Any]:
    """Stride, padding and groups of a convolution."""
    return {name: a[name] for name in ("stride", "padding", "groups")}


# Inputs in; one result out.
_PLAIN: dict[str, Callable[..., Any]] = {
    "relu": fn.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": fn.silu,
    "gelu": fn.gelu,
    "mish": fn.mish,
    "softplus": fn.softplus,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "reciprocal": torch.reciprocal,
    "rsqrt": torch.rsqrt,
    "square": torch.square,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "equal": torch.eq,
    "less": torch.lt,
    "linear": fn.linear,
    "embedding": fn.embedding,
    "detach": Tensor.detach,
    "copy": torch.clone,
}
# Inputs and attributes in; one result out.
_WITH: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    "leaky_relu": lambda i, a: fn.leaky_relu(i[0], a["slope"]),
    "gelu_tanh": lambda i, a: fn.gelu(i[0], approximate="tanh"),
    "elu": lambda i, a: fn.elu(i[0], a["alpha"]),
    "pow": lambda i, a: i[0] ** a["by"],
    "scale": lambda i, a: i[0] * a["by"],
    "shift": lambda i, a: i[0] + a["by"],
    "clamp": lambda i, a: i[0].clamp(a["low"], a["high"]),
    "select": lambda i, a: torch.where(i[0] if i[0].dtype == torch.bool else i[0].bool(), i[1], i[2]),
    "argmax": lambda i, a: i[0].argmax(a["axis"]),
    "argmin": lambda i, a: i[0].argmin(a["axis"]),
    "one_hot": lambda i, a: fn.one_hot(i[0], a["size"]),
    "to_float": lambda i, a: i[0].to(torch.get_default_dtype()),
    "conv1d": lambda i, a: fn.conv1d(*i, **_steps(a)),
    "conv2d": lambda i, a: fn.conv2d(*i, **_steps(a)),
    "conv_transpose1d": lambda i, a: fn.conv_transpose1d(*i, **_steps(a), output_padding=a["output_padding"]),
    "conv_transpose2d": lambda i, a: fn.conv_transpose2d(*i, **_steps(a), output_padding=a["output_padding"]),
    "avg_pool2d": lambda i, a: _images(i[0], lambda x: fn.avg_pool2d(x, a["kernel"], a["stride"], a["padding"])),
    "zeros": lambda i, a: torch.zeros(a["shape"], device=a.get("device")),
    "random_normal": lambda i, a: torch.randn(a["shape"], device=a.get("device")),
    "random_uniform": lambda i, a: torch.rand(a["shape"], device=a.get("device")),
    "random_integers": lambda i, a: torch.randint(2, a["shape"], device=a.get("device")),
    "reduce_sum": lambda i, a: i[0].sum(a["axes"], a["keep"]),
    "reduce_mean": lambda i, a: i[0].mean(a["axes"], a["keep"]),
    "reduce_max": lambda i, a: i[0].amax(a["axes"], a["keep"]),
    "reduce_min": lambda i, a: i[0].amin(a["axes"], a["keep"]),
    "reduce_norm": lambda i, a: torch.linalg.vector_norm(i[0], 2, a["axes"], a["keep"]),
    "reduce_var": lambda i, a: i[0].var(a["axes"], correction=a["correction"], keepdim=a["keep"]),
    "reduce_std": lambda i, a: i[0].std(a["axes"], correction=a["correction"], keepdim=a["keep"]),
    "logsumexp": lambda i, a: i[0].logsumexp(a["axes"], a["keep"]),
    "softmax": lambda i, a: i[0].softmax(a["axis"]),
    "log_softmax": lambda i, a: i[0].log_softmax(a["axis"]),
    "reshape": lambda i, a: i[0].reshape(a["shape"]),
    "expand": lambda i, a: i[0].expand(a["shape"]),
    "slice": lambda i, a: i[0].narrow(a["axis"], a["start"], a["length"]),
    "concat": lambda i, a: torch.cat(list(i), a["axis"]),
    "stack": lambda i, a: torch.stack(list(i), a["axis"]),
    "to_device": lambda i, a: i[0].to(a.get("device", "cpu")),
    "to_host": lambda i, a: i[0].cpu(),
    "scatter": lambda i, a: _into(i[0], i[1], i[2], a, False),
    "scatter_add": lambda i, a: _into(i[0], i[1], i[2], a, True),
}


def _plain(f: Callable[..., Any]) -> Rule:
    return lambda i, a: (f(*i),)


def _with(f: Callable[[Sequence[Any], Mapping[str, Any]], Any]) -> Rule:
    return lambda i, a: (f(i, a),)


REALISED: dict[str, Rule] = {
    **{op: _plain(f) for op, f in _PLAIN.items()},
    **{op: _with(f) for op, f in _WITH.items()},
    "topk": lambda i, a: tuple(reversed(i[0].topk(a["count"]))),
    "max_pool2d": lambda i, a: (
        _images(i[0], lambda x: fn.max_pool2d(x, a["kernel"], a["stride"], a["padding"])),
        None,
    ),
    "group_norm": lambda i, a: (fn.group_norm(i[0], a["groups"], *i[1:], eps=EPSILON), None, None),
    "layer_norm": lambda i, a: (fn.layer_norm(i[0], i[0].shape[-1:], *i[1:], eps=EPSILON), None, None),
    "instance_norm": lambda i, a: (fn.instance_norm(i[0], None, None, *i[1:], eps=EPSILON), None, None),
    "rms_norm": lambda i, a: (fn.rms_norm(i[0], i[0].shape[-1:], *i[1:], eps=EPSILON), None),
    "batch_norm": _batch_norm,
    "attention": _attention,
    "upsample": _upsample,
    "gather": _gather,
    "index_add": _index_add,
    "assign": _assign,
    "pad": _pad,
    "permute": _permute,
    "matmul": _matmul,
    "categorical": _categorical,
    "split": lambda i, a: i[0].chunk(a["parts"], a["axis"]),
    "synchronise": _wait,
    "host": _wait,
}
