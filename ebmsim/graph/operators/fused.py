"""Kernels that fusion makes: several operators in one, which read and write only what crosses their border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ebmsim.errors import EbmsimError
from ebmsim.graph.operators.table import WORK, Shape, Work, gradient, operator, shape, work

if TYPE_CHECKING:
    from ebmsim.graph.graph import Builder, Node

operator("fused", "elementwise", (0, 1000), public=False, text="several operators in one kernel")
operator("fused_matmul", "matmul", (0, 1000), public=False, text="a matrix product and what follows it")
operator("fused_convolution", "convolution", (0, 1000), public=False, text="a convolution and what follows it")


@shape("fused", "fused_matmul", "fused_convolution")
def _(inputs: Sequence[Shape], a: Mapping[str, Any]) -> tuple[Shape, ...]:
    return tuple(a["outputs"])


@work("fused", "fused_matmul", "fused_convolution")
def _(inputs: Sequence[Shape], outputs: Sequence[Shape], a: Mapping[str, Any]) -> Work:
    """The sum of the members' operations; at most one of them is a product."""
    total = Work()
    for op, shapes_in, shapes_out, attributes in a["members"]:
        one = WORK[op](shapes_in, shapes_out, dict(attributes))
        total = total._replace(
            flops=total.flops + one.flops,
            special=total.special + one.special,
            random=total.random + one.random,
            product=one.product or total.product,
            product_flops=total.product_flops + one.product_flops,
            window=one.window or total.window,
        )
    return total


@gradient("fused", "fused_matmul", "fused_convolution")
def _(b: Builder, node: Node, grads: Sequence[int], want: Sequence[bool]) -> Sequence[int | None]:
    raise EbmsimError(f"node '{node.name}': a fused kernel is not differentiated; differentiate before fusing")
