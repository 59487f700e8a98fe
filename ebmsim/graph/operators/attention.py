"""Attention in one kernel: the scores stay on the chip. Written out with matmul and softmax it is several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.errors import EbmsimError
from ebmsim.graph.operators.arithmetic import reduce_to
from ebmsim.graph.operators.table import (
    Attribute,
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

_CAUSAL = {"causal": Attribute("bool", False, text="token i sees keys 0 to i alone")}
operator(
    "attention",
    "matmul",
    (3, 4),
    attributes=_CAUSAL,
    text="softmax(q kᵀ / √width + mask) v of [heads, tokens, width], fused; inputs q, k, v and maybe a mask",
)
operator(
    "attention_gradient",
    "matmul",
    (6, 7),
    attributes=_CAUSAL,
    public=False,
    text="fused attention is differentiated once; for a second derivative write it out with matmul and softmax",
)


def _sizes(q: Shape, k: Shape, v: Shape) -> tuple[int, int, int, int, int]:
    """Batch (heads included), queries, keys, width of q and k, width of v."""
    return elements(q[:-2]), q[-2], k[-2], q[-1], v[-1]


def _pairs(q: Shape, k: Shape, a: Mapping[str, Any]) -> int:
    """Query-key pairs of one head. Causal: token i sees min(i + 1, t) keys."""
    s, t = q[-2], k[-2]
    seen = min(s, t)
    return seen * (seen + 1) // 2 + (s - seen) * t if a["causal"] else s * t


@shape("attention")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    q, k, v = inputs[:3]
    if min(len(q), len(k), len(v)) < 2:
        raise ShapeError(f"expected [heads, tokens, width], found shapes {list(q)}, {list(k)} and {list(v)}")
    if q[-1] != k[-1]:
        raise ShapeError(f"expected queries and keys of one width, found {q[-1]} and {k[-1]}")
    if k[-2] != v[-2]:
        raise ShapeError(f"expected as many keys as values, found {k[-2]} and {v[-2]}")
    for other in (k, v):
        if tuple(other[:-2]) != tuple(q[len(q) - len(other) : -2]):
            raise ShapeError(f"expected heads and chains as in the queries' {list(q)}, found {list(other)}")
    scores = (*q[:-1], k[-2])
    for mask in inputs[3:]:
        if len(mask) > len(scores) or any(m not in (1, s) for m, s in zip(mask[::-1], scores[::-1], strict=False)):
            raise ShapeError(f"expected a mask that broadcasts to {list(scores)}, found {list(mask)}")
    return ((*q[:-1], v[-1]), tuple(q[:-1]))


@work("attention")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """y = softmax(q kᵀ / √d) v: 2 (d + e) FLOPs per head and pair of query and key, d, e the widths of q and v.

    Five operations and an exponential per pair (scale, maximum, difference, exponential, sum), one more with a mask;
    a division per element of y; a logarithm per query for the sum that is saved. As a product, per head: m queries,
    n = e, k = keys · (d + e) / e. The scores touch no memory. Causal: pairs (i, j ≤ i) alone, as the kernels skip
    the others; torch's counter (sdpa_flop_count) counts every pair. Source: Dao, arXiv:2307.08691.
    """
    q, k, v = inputs[:3]
    b, s, _, d, e = _sizes(q, k, v)
    pairs = _pairs(q, k, a)
    flops = 2 * b * pairs * (d + e)
    each = 5 + len(inputs[3:])
    return Work(
        flops=flops + each * b * pairs + elements(outputs[0]),
        special=b * pairs + elements(outputs[1]),
        product=(b, s, e, -(-pairs * (d + e) // (s * e))),
        product_flops=flops,
    )


@gradient("attention")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    """One kernel gives all three gradients, wanted or not; it recomputes the scores from q, k and the saved sum."""
    q, k, v, *mask = node.inputs
    if any(want[3:]):
        raise EbmsimError(f"node '{node.name}': fused attention gives its mask no gradient; write it out with matmul")
    y, total = node.outputs
    given = b.emit_all("attention_gradient", (grads[0], q, k, v, y, total, *mask), **dict(node.attributes))
    of_inputs = zip((q, k, v), given, want[:3], strict=True)
    return [reduce_to(b, g, b.shape(t)) if w else None for t, g, w in of_inputs] + [None] * len(mask)


@shape("attention_gradient")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    _, q, k, v = inputs[:4]
    return (q, (*q[:-2], *k[-2:]), (*q[:-2], *v[-2:]))


@work("attention_gradient")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """Five products per head: q kᵀ again, dp = dy vᵀ, dv = pᵀ dy, dq = ds k, dk = dsᵀ q, ds = p (dp - Σ dy y) / √d.

    2 (3 d + 2 e) FLOPs per pair, as torch's counter has it (which counts all pairs of a causal one, too). Six
    operations and an exponential per pair, one more with a mask; two per element of y for Σ dy y. As a product, per
    head: m keys, n = d, k = queries · (3 d + 2 e) / d. Not counted: the two small kernels beside the large one (Σ dy y,
    conversion of dq) as launches of their own. Source: Dao, arXiv:2307.08691.
    """
    dy, q, k, v = inputs[:4]
    b, _, t, d, e = _sizes(q, k, v)
    pairs = _pairs(q, k, a)
    flops = 2 * b * pairs * (3 * d + 2 * e)
    return Work(
        flops=flops + (6 + len(inputs[6:])) * b * pairs + 2 * elements(dy),
        special=b * pairs,
        product=(b, t, d, -(-pairs * (3 * d + 2 * e) // (t * d))),
        product_flops=flops,
    )
