"""Matrix products: linear layers and batched products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.graph.operators.arithmetic import reduce_to
from ebmsim.graph.operators.table import (
    Attribute,
    Parameter,
    Shape,
    ShapeError,
    Work,
    elements,
    gradient,
    operator,
    shape,
    work,
)

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

operator(
    "linear",
    "matmul",
    attributes={
        "out": Attribute("int", required=True, text="output features"),
        "bias": Attribute("bool", True, text="whether a bias is added"),
    },
    parameters=(
        Parameter("weight", lambda inputs, a: (a["out"], inputs[0][-1])),
        Parameter("bias", lambda inputs, a: (a["out"],) if a["bias"] else None),
    ),
    text="y = x wᵀ + b over the last axis",
)
operator(
    "matmul",
    "matmul",
    2,
    attributes={
        "transpose_a": Attribute("bool", False, text="use the first operand transposed in its last two axes"),
        "transpose_b": Attribute("bool", False, text="use the second operand transposed in its last two axes"),
    },
    text="batched matrix product over the last two axes",
)


@shape("linear")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    x, w = inputs[0], inputs[1]
    if x[-1] != w[-1]:
        raise ShapeError(f"expected {w[-1]} features on the last axis, found {x[-1]}")
    return ((*x[:-1], w[0]),)


@work("linear")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y[m,n] = Σ_k x[m,k] w[n,k] (+ b[n]).

    2 m k n FLOPs, and m n more for the bias. Rows m are all leading axes together.
    """
    n, k = inputs[1]
    m = elements(inputs[0]) // k
    bias = m * n if len(inputs) > 2 else 0
    return Work(flops=2 * m * k * n + bias, product=(1, m, n, k), product_flops=2 * m * k * n)


@gradient("linear")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """dx = dy w;  dw = dyᵀ x;  db = Σ_rows dy."""
    x, w = node.inputs[0], node.inputs[1]
    (n, k), rows = b.shape(w), elements(b.shape(x)) // b.shape(x)[-1]
    dy = b.emit("reshape", grads[0], shape=(rows, n))
    out: list[int | None] = [None] * len(node.inputs)
    if want[0]:
        dx = b.emit("matmul", dy, w, transpose_a=False, transpose_b=False)
        out[0] = b.emit("reshape", dx, shape=b.shape(x))
    if want[1]:
        flat = b.emit("reshape", x, shape=(rows, k))
        out[1] = b.emit("matmul", dy, flat, transpose_a=True, transpose_b=False)
    if len(want) > 2 and want[2]:
        out[2] = b.emit("reduce_sum", dy, axes=(-2,), keep=False)
    return out


def _operands(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, int, int, int, int]:
    x, y = inputs
    if len(x) < 2 or len(y) < 2:
        raise ShapeError(f"expected two matrices, found shapes {list(x)} and {list(y)}")
    m, k = (x[-1], x[-2]) if a["transpose_a"] else (x[-2], x[-1])
    other, n = (y[-1], y[-2]) if a["transpose_b"] else (y[-2], y[-1])
    if x[:-2] and y[:-2] and x[:-2] != y[:-2]:
        raise ShapeError(f"expected equal batch axes, found shapes {list(x)} and {list(y)}")
    return x[:-2] or y[:-2], m, n, k, other


@shape("matmul")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    batch, m, n, k, other = _operands(inputs, a)
    if k != other:
        raise ShapeError(f"expected equal inner sizes, found {k} and {other}")
    return ((*batch, m, n),)


@work("matmul")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """c[b,m,n] = Σ_k a[b,m,k] b[b,k,n]: 2 b m k n FLOPs; operands read and result written once."""
    batch, m, n, k, _ = _operands(inputs, a)
    count = elements(batch)
    return Work(flops=2 * count * m * n * k, product=(count, m, n, k), product_flops=2 * count * m * n * k)


@gradient("matmul")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """c = op(a) op(b): da = dc op(b)ᵀ and db = op(a)ᵀ dc, each transposed where its operand was."""
    x, y = node.inputs
    a = dict(node.attributes)
    ta, tb = a["transpose_a"], a["transpose_b"]
    dy = grads[0]
    out: list[int | None] = [None, None]
    if want[0]:
        left = (
            b.emit("matmul", y, dy, transpose_a=tb, transpose_b=True)
            if ta
            else b.emit("matmul", dy, y, transpose_a=False, transpose_b=not tb)
        )
        out[0] = reduce_to(b, left, b.shape(x))
    if want[1]:
        right = (
            b.emit("matmul", dy, x, transpose_a=True, transpose_b=ta)
            if tb
            else b.emit("matmul", x, dy, transpose_a=not ta, transpose_b=False)
        )
        out[1] = reduce_to(b, right, b.shape(y))
    return out
