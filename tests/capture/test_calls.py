"""One call after another: captured graphs give torch's energies and gradients, and what cannot be captured says why."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as fn
from torch import Tensor, nn

from ebmsim.capture.module import nodes_of
from ebmsim.errors import SpecError

_SPEC = importlib.util.spec_from_file_location("captured_shared", Path(__file__).with_name("shared.py"))
assert _SPEC is not None and _SPEC.loader is not None
shared = sys.modules.setdefault("captured_shared", importlib.util.module_from_spec(_SPEC))
if not hasattr(shared, "Case"):
    _SPEC.loader.exec_module(shared)


class Call(nn.Module):
    """A function of what it holds and a sample. held: parameters and modules; other tensors are buffers."""

    def __init__(self, f: Callable[..., Tensor], **held: Any) -> None:
        super().__init__()
        self.f = f
        for name, value in held.items():
            if isinstance(value, (nn.Parameter, nn.Module)):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, x: Tensor, *other: Tensor) -> Tensor:
        return self.f(self, x, *other)


def p(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def total(y: Tensor) -> Tensor:
    """Squares of every chain, added up."""
    return y.flatten(1).square().sum(1)


def without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return (y * 3).sum(1)


def written_over(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3] = x[:, 0:2] * 2
    return total(y)


ENDS, NEXT = torch.tensor([0, 2]), torch.tensor([1, 3])
INTO = torch.tensor([0, 2, 1, 0])
# Name -> function, what it holds, shape of the sample (3 chains), and other inputs.
ROWS, IMAGE = (4, 6), (4, 6, 6)
CALLS: dict[str, tuple[Any, ...]] = {
    "rows in the batch": (
        lambda s, x: total(torch.bmm(x.view(-1, 4, 4), x.view(-1, 4, 4).mT).view(len(x), -1)),
        {},
        (2, 4, 4),
    ),
    "a matrix per head": (lambda s, x: total(torch.einsum("bhnd,hde->bhne", x, s.w)), {"w": p(2, 4, 3)}, (2, 4, 4)),
    "many matrices": (lambda s, x: total(torch.matmul(x, s.w).transpose(0, 1)), {"w": p(2, 4, 3)}, (4,)),
    "bilinear": (lambda s, x: torch.einsum("bi,ij,bj->b", x, s.w, x), {"w": p(4, 4)}, (4,)),
    "outer": (lambda s, x: total(torch.einsum("bi,bj->bij", x, x)), {}, (4,)),
    "quadratic": (lambda s, x: 0.5 * ((x @ s.w) * x).sum(-1) - x @ s.b, {"w": p(4, 4), "b": p(4)}, (4,)),
    "boltzmann": (
        lambda s, x: -(x @ s.a) - fn.softplus(fn.linear(x, s.w, s.b)).sum(1),
        {"w": p(5, 4), "b": p(5), "a": p(4)},
        (4,),
    ),
    "hopfield": (lambda s, x: -torch.logsumexp(x @ s.m.T, -1) + 0.5 * (x * x).sum(-1), {"m": p(5, 4)}, (4,)),
    "roll": (lambda s, x: total(x * x.roll(1, -1).roll((1, 2), (1, 2))), {}, ROWS),
    "flip": (lambda s, x: total(x.flip(1) * x), {}, ROWS),
    "repeat": (lambda s, x: total(x.repeat(1, 2, 1) * s.w), {"w": p(8, 6)}, ROWS),
    "repeat rows": (lambda s, x: total(x.repeat_interleave(2, 1) * s.w), {"w": p(8, 6)}, ROWS),
    "repeat chains": (lambda s, x: total(x.repeat_interleave(2, 0).view(-1, 2, 4, 6) * s.w), {"w": p(2, 4, 6)}, ROWS),
    "stack": (lambda s, x: total(torch.stack([x, x * 2], 1) * s.w), {"w": p(2, 4, 6)}, ROWS),
    "stack in front": (lambda s, x: torch.stack([x[:, 0], x[:, 1] * 2], 0).square().sum(0).sum(-1), {}, ROWS),
    "class token": (
        lambda s, x: total(torch.cat([s.w.expand(len(x), -1, -1), x], 1) * s.v),
        {"w": p(1, 1, 6), "v": p(5, 6)},
        ROWS,
    ),
    "gather": (
        lambda s, x: total(x.gather(1, s.i[None, :, None].expand(len(x), -1, 6)) * s.w),
        {"i": ENDS, "w": p(2, 6)},
        ROWS,
    ),
    "gather of chains": (
        lambda s, x, i: total(x.gather(1, i[:, :, None].expand(-1, -1, 6))),
        {},
        ROWS,
        torch.tensor([[0, 1], [2, 2], [3, 0]]),
    ),
    "two indices": (lambda s, x: total(x[:, s.i, s.j] * s.w), {"i": ENDS, "j": NEXT, "w": p(2)}, ROWS),
    "scatter": (
        lambda s, x: total(x.new_zeros(len(x), 3, 6).scatter_add(1, s.i[None, :, None].expand(len(x), -1, 6), x)),
        {"i": INTO},
        ROWS,
    ),
    "index_add in place": (lambda s, x: total(x.new_zeros(len(x), 3, 6).index_add_(1, s.i, x)), {"i": INTO}, ROWS),
    "topk": (lambda s, x: x.topk(2, -1).values.sum((1, 2)), {}, ROWS),
    "assignment": (lambda s, x: written_over(x), {}, ROWS),
    "causal mask": (
        lambda s, x: total((x @ x.mT).masked_fill(torch.triu(torch.ones(4, 4), 1).bool(), -1e9).softmax(-1)),
        {},
        ROWS,
    ),
    "where": (lambda s, x: total(torch.where(x > 0, x, x * 0.1)), {}, ROWS),
    "extremes": (lambda s, x: x.max(-1).values.sum(1) + x.amin((1, 2)) + torch.maximum(x, -x).sum((1, 2)), {}, ROWS),
    "lengths": (
        lambda s, x: torch.logsumexp(x, (1, 2)) + x.std((1, 2)) + x.norm(dim=2).sum(1) + x.flatten(1).norm(p=1, dim=1),
        {},
        ROWS,
    ),
    "normalize": (lambda s, x: total(fn.normalize(x, dim=-1) * s.w), {"w": p(6)}, ROWS),
    "cosine": (lambda s, x: fn.cosine_similarity(x[:, 0], x[:, 1], dim=-1), {}, ROWS),
    "pairs": (
        lambda s, x: ((x[:, :, None] - x[:, None]) ** 2).sum(-1).add(1e-3).sqrt().triu(1).sum((1, 2)),
        {},
        (4, 2),
    ),
    "activations": (
        lambda s, x: (
            total(
                fn.gelu(x, approximate="tanh")
                + fn.mish(x)
                + fn.elu(x)
                + fn.relu6(x)
                + fn.hardtanh(x)
                + fn.logsigmoid(x)
                + x.abs().sqrt()
                + x.pow(3)
                + (1 - x)
                + 2 / (x.abs() + 1)
                + x.exp().reciprocal()
            )
            + total(fn.glu(x, -1))
        ),
        {},
        ROWS,
    ),
    "layer norm of two axes": (
        lambda s, x: total(fn.layer_norm(x, (4, 6), s.w, s.b) * x),
        {"w": p(4, 6), "b": p(4, 6)},
        ROWS,
    ),
    "layer norm without bias": (lambda s, x: total(s.l(x) * x), {"l": nn.LayerNorm(6, bias=False)}, ROWS),
    "rms norm": (lambda s, x: total(s.l(x) * x), {"l": nn.RMSNorm(6, eps=1e-5)}, ROWS),
    "batch norm of rows": (lambda s, x: total(s.l(x.flatten(0, 1)).view(len(x), -1)), {"l": nn.BatchNorm1d(6)}, ROWS),
    "group norm of rows": (
        lambda s, x: total(s.l(x.flatten(0, 1)).view(len(x), -1) * s.w),
        {"l": nn.GroupNorm(2, 4), "w": p(72)},
        (2, 4, 3, 3),
    ),
    "conv1d": (lambda s, x: total(s.l(x)), {"l": nn.Conv1d(4, 5, 3, padding=1)}, ROWS),
    "transposed": (lambda s, x: total(s.l(x)), {"l": nn.ConvTranspose2d(4, 2, 3, 2, 1, 1)}, IMAGE),
    "convolution of rows": (
        lambda s, x: total(s.l(x.flatten(0, 1)).view(len(x), -1)),
        {"l": nn.Conv2d(3, 5, 3)},
        (2, 3, 5, 5),
    ),
    "fixed filter": (lambda s, x: total(fn.conv2d(x, s.k, groups=4)), {"k": torch.randn(4, 1, 3, 3)}, IMAGE),
    "pixels": (lambda s, x: total(fn.pixel_unshuffle(fn.pixel_shuffle(x, 2) * s.w, 3)), {"w": p(1, 12, 12)}, IMAGE),
    "pooling": (lambda s, x: total(fn.adaptive_avg_pool2d(x, 3)) + total(fn.adaptive_max_pool2d(x, 1)), {}, IMAGE),
    "padding": (
        lambda s, x: total(fn.pad(x, (1, 2, 0, 1))) + total(fn.pad(x, (1, 1, 1, 1), mode="reflect") * 2),
        {},
        IMAGE,
    ),
    "every other": (lambda s, x: total(x[:, :, ::2, 1::2] * s.w), {"w": p(3, 3)}, IMAGE),
    "labels": (lambda s, x, t: total(s.e(t) * x), {"e": nn.Embedding(5, 6)}, (6,), torch.tensor([1, 0, 4])),
    "one condition for all": (lambda s, x, t: total(s.l(t) * x), {"l": nn.Linear(2, 6)}, (6,), torch.randn(2)),
    "tied layers": (lambda s, x: total(s.l(s.l(s.l(x)).relu() + s.l(x))), {"l": nn.Linear(6, 6)}, (6,)),
    "tied weights": (lambda s, x: total(fn.linear(s.l(x), s.l.weight.t())), {"l": nn.Linear(6, 4)}, (6,)),
    "multi-head": (lambda s, x: total(s.l(x, x, x)[0]), {"l": nn.MultiheadAttention(6, 2, batch_first=True)}, ROWS),
    "fused attention": (
        lambda s, x: total(fn.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3)),
        {},
        (2, 4, 6),
    ),
    "attention with a mask": (
        lambda s, x: total(fn.scaled_dot_product_attention(x, x, x, attn_mask=s.m)),
        {"m": torch.randn(4, 4)},
        ROWS,
    ),
    "no_grad": (lambda s, x: total(x) + without_gradient(x), {}, (4,)),
    "joined energies": (
        lambda s, x: torch.cat([s.l(x), s.m(x)], 1).mean(1),
        {"l": nn.Linear(6, 1), "m": nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 1))},
        (6,),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_are_torchs(name: str) -> None:
    f, held, shape, *other = CALLS[name]
    case = shared.Case(name, lambda: (Call(f, **held).eval(), (torch.randn(3, *shape), *other)))
    case.compare()
    assert case.parameters() == sum(p.numel() for p in case.module.parameters())


REFUSED: dict[str, tuple[Any, ...]] = {
    "aten.cumsum: there are no operators for it": (lambda s, x: total(x.cumsum(1)), {}, ROWS),
    "aten.cdist: there are no operators for it": (lambda s, x: total(torch.cdist(x, x)), {}, ROWS),
    "aten.mean.dim: works across the chains": (lambda s, x: total(x - x.mean(0)), {}, ROWS),
    "aten.randn_like: draws random numbers within the energy": (lambda s, x: total(x + torch.randn_like(x)), {}, ROWS),
    "aten.dropout: is in training mode; call .eval() on the module": (lambda s, x: total(fn.dropout(x)), {}, ROWS),
    "aten.batch_norm in l: takes statistics over the chains; call .eval() on the module": (
        lambda s, x: total(s.l(x)),
        {"l": nn.BatchNorm1d(4)},
        ROWS,
    ),
    "aten.conv2d in l: has a dilation": (lambda s, x: total(s.l(x)), {"l": nn.Conv2d(4, 4, 3, dilation=2)}, IMAGE),
    "aten.conv2d in l: has a kernel of [1, 3], which is not the same along all axes": (
        lambda s, x: total(s.l(x)),
        {"l": nn.Conv2d(4, 4, (1, 3))},
        IMAGE,
    ),
    "aten.index.Tensor: gives as many elements as values say": (lambda s, x: total(x) + x[x > 0].sum(), {}, ROWS),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_says_why_and_where(text: str) -> None:
    f, held, shape = REFUSED[text]
    with pytest.raises(SpecError) as caught:
        nodes_of(Call(f, **held), (torch.randn(3, *shape),))
    (problem,) = caught.value.problems
    assert problem.message == text
    assert (problem.file, problem.line > 0) == (__file__, True)


def test_all_that_is_refused_is_listed() -> None:
    with pytest.raises(SpecError) as caught:
        nodes_of(Call(lambda s, x: total(x.cumsum(1).erf()) + torch.cdist(x, x).sum((1, 2))), (torch.randn(3, 4, 6),))
    found = [problem.message.partition(":")[0] for problem in caught.value.problems]
    assert found == ["aten.cumsum", "aten.erf", "aten.cdist"]
