"""Whole networks, written once in torch and once with the builder: equal results, and equal FLOPs by torch's counter.

The counter (torch.utils.flop_counter) counts matrix products and convolutions; views, elementwise operators and
biases count zero there, so it is compared with the sum of `Work.product_flops`. Its defects are shown below.
"""

import pytest
import torch
import torch.nn.functional as fn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder
from ebmsim.graph.operators.table import SHAPE, WORK

BATCH = 3


# --- The networks in torch: an energy per chain ----------------------------------------------------------------------


class Cnn(nn.Module):
    """Norms, strides and a residual block. Kernels and strides divide the images; see the last test below."""

    shape = (2, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.skip = nn.Conv2d(4, 6, 4, stride=2, padding=1), nn.Conv2d(4, 6, 2, stride=2)
        self.top = nn.Linear(6, 1)

    def forward(self, x):
        x = fn.silu(self.norm(self.stem(x)))
        x = x + self.second(fn.silu(self.first(x)))
        x = fn.avg_pool2d(fn.silu(self.down(x) + self.skip(x)), 2)
        return self.top(x.mean((-2, -1)))


class Mlp(nn.Module):
    """A branch that never sees the sample modulates (FiLM) and is concatenated."""

    shape = (5,)

    def __init__(self):
        super().__init__()
        self.condition = nn.Parameter(torch.randn(BATCH, 3), requires_grad=False)
        self.embed, self.film = nn.Linear(3, 4), nn.Linear(4, 14)
        self.lift, self.norm, self.mix, self.top = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(11, 6), nn.Linear(6, 1)

    def forward(self, x):
        context = torch.tanh(self.embed(self.condition))
        gain, shift = self.film(context).chunk(2, -1)
        h = self.norm(self.lift(x)) * (gain + 1) + shift
        return self.top(fn.gelu(self.mix(torch.cat([fn.silu(h), context], -1))))


class Attention(nn.Module):
    """Self-attention with two heads, a residual and a feed-forward layer. (torch's fused attention is not counted.)"""

    shape = (4, 6)

    def __init__(self):
        super().__init__()
        self.norm, self.after = nn.LayerNorm(6), nn.LayerNorm(6)
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6, bias=bias) for bias in (False, False, True, True))
        self.up, self.down, self.top = nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 1)

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).reshape(-1, 4, 2, 3).permute(0, 2, 1, 3) for layer in (self.q, self.k, self.v))
        scores = (q @ k.mT * 3**-0.5).softmax(-1)
        x = x + self.out((scores @ v).permute(0, 2, 1, 3).reshape(-1, 4, 6))
        x = x + self.down(fn.gelu(self.up(self.after(x))))
        return self.top(x.mean(-2))


class Grouped(nn.Module):
    """Grouped, depthwise and pointwise convolutions."""

    shape = (4, 7, 7)

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(4, 8, 3, groups=2, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, stride=2, groups=8)
        self.point, self.top = nn.Conv2d(8, 4, 1), nn.Linear(4, 1)

    def forward(self, x):
        x = torch.sigmoid(self.point(fn.silu(self.depth(torch.tanh(self.wide(x))))))
        return self.top(x.sum((-2, -1)))


class Enlarging(nn.Module):
    """Transposed convolutions, a largest window and enlarged images on the way from features to an image."""

    shape = (4, 4, 4)

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), nn.InstanceNorm2d(6, affine=True)
        self.second = nn.ConvTranspose2d(6, 4, 3, padding=1, bias=False)
        self.third, self.top = nn.Conv2d(4, 2, 3, padding=1), nn.Linear(2, 1)

    def forward(self, x):
        x = fn.mish(self.norm(self.first(x)))
        x = fn.interpolate(fn.max_pool2d(self.second(x), 2), scale_factor=2, mode="nearest")
        return self.top(fn.softplus(self.third(x)).mean((-2, -1)))


class Temporal(nn.Module):
    """A one-dimensional U-Net in small: convolutions along time, halved and doubled, and a skip."""

    shape = (3, 8)

    def __init__(self):
        super().__init__()
        self.wide, self.down = nn.Conv1d(3, 4, 5, padding=2), nn.Conv1d(4, 6, 4, stride=2, padding=1)
        self.up, self.mix = nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1), nn.Conv1d(8, 4, 1, bias=False)
        self.norm, self.top = nn.RMSNorm(8, eps=1e-5), nn.Linear(4, 1)

    def forward(self, x):
        skip = fn.gelu(self.wide(x), approximate="tanh")
        x = fn.elu(self.up(fn.gelu(self.down(skip), approximate="tanh")))
        return self.top(self.norm(self.mix(torch.cat([x, skip], 1))).square().sum(-1))


NETWORKS = [Cnn, Mlp, Attention, Grouped, Enlarging, Temporal]


# --- The same with the builder ---------------------------------------------------------------------------------------


class Writer:
    """A builder and the weights of a torch network under their names."""

    def __init__(self, network):
        self.b = Builder()
        self.weights, self.values = {}, {}
        for name, value in network.named_parameters():
            role = "weight" if value.requires_grad else "input"
            self.weights[name] = self.b.tensor(tuple(value.shape), role, name, chain_axis=role == "input")
            self.values[self.weights[name]] = value.detach().double()
        self.x = self.b.tensor((BATCH, *network.shape), "sample")
        self.learned = [self.weights[name] for name, value in network.named_parameters() if value.requires_grad]

    def of(self, layer):
        return [self.weights[n] for n in (f"{layer}.weight", f"{layer}.bias") if n in self.weights]

    def linear(self, layer, x):
        w = self.of(layer)
        return self.b.emit("linear", x, *w, out=self.b.shape(w[0])[0], bias=len(w) > 1)

    def conv(self, layer, x, stride=1, padding=0, groups=1):
        w = self.of(layer)
        out, *_, kernel = self.b.shape(w[0])
        a = {"stride": stride, "padding": padding, "groups": groups}
        op = f"conv{len(self.b.shape(x)) - 2}d"
        return self.b.emit(op, x, *w, out=out, kernel=kernel, bias=len(w) > 1, **a)

    def transposed(self, layer, x, stride=1, padding=0):
        w = self.of(layer)
        _, out, *_, kernel = self.b.shape(w[0])
        a = {"stride": stride, "padding": padding, "groups": 1, "output_padding": 0}
        op = f"conv_transpose{len(self.b.shape(x)) - 2}d"
        return self.b.emit(op, x, *w, out=out, kernel=kernel, bias=len(w) > 1, **a)

    def layer_norm(self, layer, x):
        return self.b.emit("layer_norm", x, *self.of(layer), affine=True)


def cnn(w):
    b = w.b
    x = b.emit("group_norm", w.conv("stem", w.x, padding=1), *w.of("norm"), groups=2, affine=True)
    x = b.emit("silu", x)
    inner = b.emit("silu", w.conv("first", x, padding=1))
    x = b.emit("add", x, w.conv("second", inner, padding=1))
    x = b.emit("silu", b.emit("add", w.conv("down", x, 2, 1), w.conv("skip", x, 2)))
    x = b.emit("avg_pool2d", x, kernel=2, stride=2, padding=0)
    return w.linear("top", b.emit("reduce_mean", x, axes=(-2, -1), keep=False))


def mlp(w):
    b = w.b
    context = b.emit("tanh", w.linear("embed", w.weights["condition"]))
    film = w.linear("film", context)
    gain, move = (b.emit("slice", film, axis=-1, start=start, length=7) for start in (0, 7))
    h = b.emit("mul", w.layer_norm("norm", w.linear("lift", w.x)), b.emit("shift", gain, by=1.0))
    joined = b.emit("concat", b.emit("silu", b.emit("add", h, move)), context, axis=-1)
    return w.linear("top", b.emit("gelu", w.linear("mix", joined)))


def attention(w):
    b = w.b
    h = w.layer_norm("norm", w.x)
    heads = [
        b.emit("permute", b.emit("reshape", w.linear(n, h), shape=(BATCH, 4, 2, 3)), order=(-2, -3, -1)) for n in "qkv"
    ]
    scores = b.emit("matmul", heads[0], heads[1], transpose_a=False, transpose_b=True)
    scores = b.emit("softmax", b.emit("scale", scores, by=3**-0.5), axis=-1)
    mixed = b.emit("matmul", scores, heads[2], transpose_a=False, transpose_b=False)
    mixed = b.emit("reshape", b.emit("copy", b.emit("permute", mixed, order=(-2, -3, -1))), shape=(BATCH, 4, 6))
    x = b.emit("add", w.x, w.linear("out", mixed))
    x = b.emit("add", x, w.linear("down", b.emit("gelu", w.linear("up", w.layer_norm("after", x)))))
    return w.linear("top", b.emit("reduce_mean", x, axes=(-2,), keep=False))


def grouped(w):
    b = w.b
    x = b.emit("tanh", w.conv("wide", w.x, padding=1, groups=2))
    x = b.emit("silu", w.conv("depth", x, stride=2, groups=8))
    x = b.emit("sigmoid", w.conv("point", x))
    return w.linear("top", b.emit("reduce_sum", x, axes=(-2, -1), keep=False))


def enlarging(w):
    b = w.b
    x = b.emit("instance_norm", w.transposed("first", w.x, 2, 1), *w.of("norm"), affine=True)
    x = w.transposed("second", b.emit("mish", x), padding=1)
    x = b.emit("upsample", b.emit("max_pool2d", x, kernel=2, stride=2, padding=0), scale=2, mode="nearest")
    x = b.emit("softplus", w.conv("third", x, padding=1))
    return w.linear("top", b.emit("reduce_mean", x, axes=(-2, -1), keep=False))


def temporal(w):
    b = w.b
    skip = b.emit("gelu_tanh", w.conv("wide", w.x, padding=2))
    x = w.transposed("up", b.emit("gelu_tanh", w.conv("down", skip, 2, 1)), 2, 1)
    joined = b.emit("concat", b.emit("elu", x, alpha=1.0), skip, axis=-2)
    x = b.emit("square", b.emit("rms_norm", w.conv("mix", joined), *w.of("norm"), affine=True))
    return w.linear("top", b.emit("reduce_sum", x, axes=(-1,), keep=False))


WRITTEN = {
    Cnn: cnn,
    Mlp: mlp,
    Attention: attention,
    Grouped: grouped,
    Enlarging: enlarging,
    Temporal: temporal,
}


def flops_of(b, node):
    if node.op not in WORK:  # a view
        return 0
    shapes = ([b.shape(t) for t in tensors] for tensors in (node.inputs, node.outputs))
    return WORK[node.op](*shapes, dict(node.attributes)).product_flops


def product_flops(b, since=0):
    return sum(flops_of(b, node) for node in b.nodes[since:])


def counted(f):
    """What f returns, and what torch's counter counts meanwhile."""
    with FlopCounterMode(display=False) as counter:
        result = f()
    return result, counter.get_total_flops()


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def pair(request):
    torch.manual_seed(7)
    network = request.param().double()
    w = Writer(network)
    w.values[w.x] = torch.randn(BATCH, *network.shape, dtype=torch.float64)
    energy = WRITTEN[request.param](w)
    learned = [p for p in network.parameters() if p.requires_grad]
    return network, learned, w, energy


def over_counted(b, since):
    """What the counter reports too much for the weight gradients of grouped convolutions: G times instead of once.

    Not for those that come from differentiating an input gradient: torch computes them group by group.
    """
    total = 0
    for node in b.nodes[since:]:
        if node.op == "conv2d_weight_gradient" and "conv2d_input_gradient'" not in node.name:
            total += (node.attribute("groups") - 1) * flops_of(b, node)
    return total


def test_forward(pair, run):
    network, _, w, energy = pair
    value, count = counted(lambda: network(w.values[w.x]))
    torch.testing.assert_close(run(w.b, w.values)[energy], value)
    assert product_flops(w.b) == count > 0


def test_gradient_of_the_sample(pair, run):
    """What a step of Langevin dynamics computes: no weight has a gradient."""
    network, _, w, energy = pair
    x = w.values[w.x].clone().requires_grad_()
    total = network(x * 1).sum()  # x itself, a leaf, the counter refuses: see below
    theirs, count = counted(lambda: torch.autograd.grad(total, x)[0])
    since = len(w.b.nodes)
    grad = differentiate(w.b, [energy], {w.x}, phase="backward")[w.x]
    torch.testing.assert_close(run(w.b, w.values)[grad], theirs)
    assert product_flops(w.b, since) == count > 0


def test_gradient_of_the_weights(pair, run):
    """What contrastive divergence computes once the samples are drawn: the sample has no gradient."""
    network, learned, w, energy = pair
    total = network(w.values[w.x]).sum()
    theirs, count = counted(lambda: torch.autograd.grad(total, learned))
    since = len(w.b.nodes)
    grads = differentiate(w.b, [energy], w.learned, phase="backward")
    found = run(w.b, w.values)
    for t, g in zip(w.learned, theirs, strict=True):
        torch.testing.assert_close(found[grads[t]], g)
    assert product_flops(w.b, since) == count - over_counted(w.b, since) > 0


def test_double_backward(pair, run):
    """A gradient penalty: the weights' gradient of the squared norm of the sample's gradient."""
    network, learned, w, energy = pair
    x = w.values[w.x].clone().requires_grad_()
    (inner,) = torch.autograd.grad(network(x * 1).sum(), x, create_graph=True)
    penalty = inner.square().sum()
    theirs, count = counted(lambda: torch.autograd.grad(penalty, learned, allow_unused=True))
    grad = differentiate(w.b, [energy], {w.x}, phase="backward")[w.x]
    square = w.b.emit("square", grad)
    since = len(w.b.nodes)
    grads = differentiate(w.b, [square], w.learned, phase="double")
    found = run(w.b, w.values)
    for t, g in zip(w.learned, theirs, strict=True):
        ours = found[grads[t]] if t in grads else torch.zeros(w.b.shape(t), dtype=torch.float64)
        torch.testing.assert_close(ours, torch.zeros_like(ours) if g is None else g)
    assert product_flops(w.b, since) == count - over_counted(w.b, since) > 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("s", "t", "e"), [(4, 4, 5), (3, 7, 5), (6, 6, 2)])
def test_fused_attention(s, t, e, causal):
    """The counter's own formulas, since it does not count the kernel for the CPU.

    It counts all pairs of query and key. Causal kernels skip the later keys, and so does ours: of n tokens it counts
    n (n + 1) / 2 pairs and not n².
    """
    q, k, v, y = (2, 3, s, 5), (2, 3, t, 5), (2, 3, t, e), (2, 3, s, e)
    forward, backward = sdpa_flop_count(q, k, v), sdpa_backward_flop_count(y, q, k, v)
    a = {"causal": causal}
    outputs = SHAPE["attention"]((q, k, v), a)
    assert outputs[0] == y
    ours = WORK["attention"]((q, k, v), outputs, a).product_flops
    inputs = (y, q, k, v, *outputs)
    back = WORK["attention_gradient"](inputs, SHAPE["attention_gradient"](inputs, a), a).product_flops
    pairs = sum(min(i + 1, t) for i in range(s)) if causal else s * t
    assert (ours, back) == (forward * pairs // (s * t), backward * pairs // (s * t))
    if e == 5:
        assert 2 * back == 5 * ours  # two products forward, five backward


# --- Defects of the counter (torch 2.13) -----------------------------------------------------------------------------


def test_the_counter_refuses_autograd_grad_of_a_leaf_that_enters_a_module():
    """The modules' hooks do not work for a leaf; through `x * 1` they do."""
    network = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1))
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf node was passed"):
        counted(lambda: torch.autograd.grad(network(x).sum(), x))
    _, count = counted(lambda: torch.autograd.grad(network(x * 1).sum(), x))
    assert count == 2 * 2 * (2 * 3 * 4 + 2 * 4 * 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_counter_counts_a_grouped_weight_gradient_groups_times(groups):
    w = torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
    y, forward = counted(lambda: fn.conv2d(torch.randn(2, 8, 5, 5), w, groups=groups))
    _, backward = counted(lambda: torch.autograd.grad(y.sum(), w))
    assert forward == 2 * y.numel() * w[0].numel()
    assert backward == groups * forward


@pytest.mark.parametrize(("groups", "size"), [(1, 7), (1, 8), (4, 7), (4, 8)])
def test_the_counter_sees_taps_that_a_strided_double_backward_throws_away(groups, size):
    """The weight gradient from an input gradient: torch convolves and cuts the result where the stride leaves a rest.

    An image of 7 is covered by a kernel of 3 with stride 2, and the counts agree; of 8, a column and a row are left.
    Then torch computes 4×4 taps and keeps 3×3; other implementations need not, and ours counts what is kept. (One
    forward more is counted: torch computes the cotangent of dy even where, as here, dy is a constant.)
    """
    x = torch.randn(2, 4, size, size, requires_grad=True)
    w = torch.randn(8, 4 // groups, 3, 3, requires_grad=True)
    y, forward = counted(lambda: fn.conv2d(x, w, stride=2, groups=groups))
    (inner,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    _, count = counted(lambda: torch.autograd.grad(inner.square().sum(), w))
    taps = 4 * 4 if size == 8 else 3 * 3
    assert count == forward + forward * taps // (3 * 3)
