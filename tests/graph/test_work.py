"""Work against counts that plain loops make while they compute the result."""

import itertools
import math

import pytest
import torch

from ebmsim.graph.operators.table import OPERATORS, SHAPE, WORK, elements


def work_of(op, shapes, **attributes):
    return WORK[op](shapes, SHAPE[op](shapes, attributes), attributes)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def over(*sizes):
    return itertools.product(*map(range, sizes))


# --- Products ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    m, k, n = 5, 3, 4
    x, w, c = random(m, k), random(n, k), random(n)
    y, count = torch.zeros(m, n, dtype=torch.float64), 0
    for i, o in over(m, n):
        for j in range(k):
            y[i, o] += x[i, j] * w[o, j]
            count += 2
        if bias:
            y[i, o] += c[o]
            count += 1
    torch.testing.assert_close(y, torch.nn.functional.linear(x, w, c if bias else None))
    found = work_of("linear", ((m, k), (n, k), (n,))[: 2 + bias], out=n, bias=bias)
    assert found.flops == count == 2 * m * k * n + bias * m * n
    assert found.product == (1, m, n, k) and found.product_flops == 2 * m * k * n


def test_linear_takes_all_leading_axes_as_rows():
    found = work_of("linear", ((2, 7, 3), (4, 3)), out=4, bias=False)
    assert found == work_of("linear", ((14, 3), (4, 3)), out=4, bias=False)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_matmul(transpose_a, transpose_b):
    size, m, k, n = 2, 3, 5, 4
    p, q = random(size, m, k), random(size, k, n)
    c, count = torch.zeros(size, m, n, dtype=torch.float64), 0
    for e, i, j, r in over(size, m, n, k):
        c[e, i, j] += p[e, i, r] * q[e, r, j]
        count += 2
    torch.testing.assert_close(c, p @ q)
    a = (size, k, m) if transpose_a else (size, m, k)
    b = (size, n, k) if transpose_b else (size, k, n)
    for shapes in ((a, b), (a[1:], b), (a, b[1:])):
        found = work_of("matmul", shapes, transpose_a=transpose_a, transpose_b=transpose_b)
        assert found.flops == found.product_flops == count == 2 * size * m * k * n
        assert found.product == (size, m, n, k)


# --- Convolution ---------------------------------------------------------------------------------------------------

CONVOLUTIONS = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"),
    [(1, 1, 0, 1), (3, 1, 1, 1), (2, 2, 0, 2), (3, 2, 1, 1), (3, 2, 2, 4), (2, 3, 1, 2)],
)


class Nest:
    """Every tap of a convolution: (image, filter, channel of the group, channel, tap, pixel, padded pixel)."""

    def __init__(self, kernel, stride, padding, groups):
        self.n, self.c, self.o, self.h, self.w = 2, 4, 8, 5, 6
        self.kernel, self.stride, self.padding, self.groups = kernel, stride, padding, groups
        self.x, self.y = random(self.n, self.c, self.h, self.w), None
        self.filters = random(self.o, self.c // groups, kernel, kernel)
        self.a = {"stride": stride, "padding": padding, "groups": groups}
        self.p, self.q = ((s + 2 * padding - kernel) // stride + 1 for s in (self.h, self.w))
        self.dy = random(self.n, self.o, self.p, self.q)

    def padded(self, x):
        return torch.nn.functional.pad(x, [self.padding] * 4)

    def cropped(self, x):
        return x[:, :, self.padding : self.padding + self.h, self.padding : self.padding + self.w]

    def taps(self):
        """Taps that fall on the padding included, as torch's counter and direct kernels have it."""
        each = self.c // self.groups
        for i, o, p, q, c, r, s in over(self.n, self.o, self.p, self.q, each, self.kernel, self.kernel):
            channel = o // (self.o // self.groups) * each + c
            yield (i, o, p, q), (o, c, r, s), (i, channel, p * self.stride + r, q * self.stride + s)


@CONVOLUTIONS
@pytest.mark.parametrize("bias", [True, False])
def test_conv2d(kernel, stride, padding, groups, bias):
    nest = Nest(kernel, stride, padding, groups)
    x, y, count = nest.padded(nest.x), torch.zeros_like(nest.dy), 0
    for at_y, at_w, at_x in nest.taps():
        y[at_y] += nest.filters[at_w] * x[at_x]
        count += 2
    torch.testing.assert_close(y, torch.nn.functional.conv2d(nest.x, nest.filters, **nest.a))
    shapes = (tuple(nest.x.shape), tuple(nest.filters.shape), (nest.o,))[: 2 + bias]
    found = work_of("conv2d", shapes, out=nest.o, kernel=kernel, bias=bias, **nest.a)
    assert found.product_flops == count
    assert found.flops == count + bias * y.numel()
    g, m, n, k = found.product
    assert 2 * g * m * n * k == count
    assert (g, n * g, k * g) == (groups, nest.o, nest.c * kernel**2)
    assert found.window == (kernel, stride, nest.p, nest.q)


@CONVOLUTIONS
def test_conv2d_input_gradient(kernel, stride, padding, groups):
    nest = Nest(kernel, stride, padding, groups)
    full, count = torch.zeros_like(nest.padded(nest.x)), 0
    for at_y, at_w, at_x in nest.taps():
        full[at_x] += nest.filters[at_w] * nest.dy[at_y]
        count += 2
    x = nest.x.clone().requires_grad_()
    y = torch.nn.functional.conv2d(x, nest.filters, **nest.a)
    torch.testing.assert_close(nest.cropped(full), torch.autograd.grad(y, x, nest.dy)[0])
    shapes = (tuple(nest.dy.shape), tuple(nest.filters.shape))
    found = work_of("conv2d_input_gradient", shapes, size=(nest.h, nest.w), **nest.a)
    assert found.flops == found.product_flops == count
    # The product has whole numbers: k is the mean number of taps that reach a pixel, rounded down.
    g, m, n, k = found.product
    assert (g, m, n) == (groups, nest.n * nest.h * nest.w, nest.c // groups)
    assert k == 1 or 2 * g * m * n * k <= count < 2 * g * m * n * (k + 1)
    assert found.window == (kernel, stride, nest.h, nest.w)


@CONVOLUTIONS
def test_conv2d_weight_gradient(kernel, stride, padding, groups):
    nest = Nest(kernel, stride, padding, groups)
    x, dw, count = nest.padded(nest.x), torch.zeros_like(nest.filters), 0
    for at_y, at_w, at_x in nest.taps():
        dw[at_w] += nest.dy[at_y] * x[at_x]
        count += 2
    w = nest.filters.clone().requires_grad_()
    y = torch.nn.functional.conv2d(nest.x, w, **nest.a)
    torch.testing.assert_close(dw, torch.autograd.grad(y, w, nest.dy)[0])
    shapes = (tuple(nest.x.shape), tuple(nest.dy.shape))
    found = work_of("conv2d_weight_gradient", shapes, size=(kernel, kernel), **nest.a)
    assert found.flops == found.product_flops == count
    g, m, n, k = found.product
    assert 2 * g * m * n * k == count
    assert (g, m * g, n * g) == (groups, nest.o, nest.c * kernel**2)
    assert found.window is None


def test_along_one_axis_a_convolution_is_one_over_images_of_height_one():
    """With a kernel of height one, too: the taps along the height are left out, and no window is square."""
    steps = {"stride": 2, "padding": 1, "groups": 2}
    x, w, y, size = (2, 4, 9), (6, 2, 3), (2, 6, 5), (9,)
    taps = 2 * 3
    flops = 2 * math.prod(y) * taps
    found = work_of("conv1d", (x, w, (6,)), out=6, kernel=3, bias=True, **steps)
    assert (found.flops, found.product_flops) == (flops + math.prod(y), flops)
    assert found.product == (2, 2 * 5, 3, taps)
    of_x = work_of("conv1d_input_gradient", (y, w), size=size, **steps)
    of_w = work_of("conv1d_weight_gradient", (x, y), size=(3,), **steps)
    assert of_x.product_flops == of_w.product_flops == flops
    assert of_x.product[:3] == (2, 2 * 9, 2) and of_w.product == (2, 3, taps, 2 * 5)
    assert {w.window for w in (found, of_x, of_w)} == {None}


@CONVOLUTIONS
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution_is_an_input_gradient_with_a_bias(kernel, stride, padding, groups, bias):
    nest = Nest(kernel, stride, padding, groups)
    shapes = (tuple(nest.dy.shape), tuple(nest.filters.shape))
    cut = (nest.h + 2 * padding - kernel) % stride  # the convolution does not see this rest of the height
    attributes = {"out": nest.c, "kernel": kernel, "bias": bias, "output_padding": cut, **nest.a}
    full = ((nest.c,),) if bias else ()
    (y,) = SHAPE["conv_transpose2d"]((*shapes, *full), attributes)
    assert y[:3] == (nest.n, nest.c, nest.h)
    found = WORK["conv_transpose2d"]((*shapes, *full), (y,), attributes)
    other = WORK["conv2d_input_gradient"](shapes, (y,), {"size": y[2:], **nest.a})
    assert found == other._replace(flops=other.flops + bias * math.prod(y))


# --- Attention -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("s", "t"), [(4, 4), (3, 5), (5, 3)])
def test_attention_and_its_gradient(causal, s, t):
    """Every product of the loop nest over heads and pairs (query, key); a causal one skips later keys."""
    heads, d, e = 2, 5, 3
    q, k, v, dy = random(heads, s, d), random(heads, t, d), random(heads, t, e), random(heads, s, e)
    scores = torch.full((heads, s, t), -torch.inf, dtype=torch.float64)
    y = torch.zeros(heads, s, e, dtype=torch.float64)
    forward = backward = pairs = 0
    seen = [(h, i, j) for h, i, j in over(heads, s, t) if j <= i or not causal]
    for h, i, j in seen:
        scores[h, i, j] = q[h, i] @ k[h, j] / d**0.5
        pairs, forward = pairs + 1, forward + 2 * d
    share = scores.softmax(-1)
    for h, i, j in seen:
        y[h, i] += share[h, i, j] * v[h, j]
        forward += 2 * e
    grads = [torch.zeros_like(t) for t in (q, k, v)]
    for h, i, j in seen:
        dp = dy[h, i] @ v[h, j]
        ds = share[h, i, j] * (dp - dy[h, i] @ y[h, i]) / d**0.5
        grads[2][h, j] += share[h, i, j] * dy[h, i]
        grads[0][h, i] += ds * k[h, j]
        grads[1][h, j] += ds * q[h, i]
        backward += 2 * d + 2 * e + 2 * e + 2 * d + 2 * d  # the scores again, dp, dv, dq, dk
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
    torch.testing.assert_close(y, theirs)
    for ours, g in zip(grads, torch.autograd.grad(theirs, leaves, dy), strict=True):
        torch.testing.assert_close(ours, g)
    shapes = tuple(tuple(x.shape) for x in (q, k, v))
    found = work_of("attention", shapes, causal=causal)
    assert found.product_flops == forward
    assert found.flops == forward + 5 * pairs + y.numel()
    assert found.special == pairs + heads * s
    inputs = ((heads, s, e), *shapes, (heads, s, e), (heads, s))
    back = work_of("attention_gradient", inputs, causal=causal)
    assert back.product_flops == backward
    assert back.flops == backward + 6 * pairs + 2 * y.numel()
    assert back.special == pairs
    assert found.chained and back.chained  # the scores are no operand that is fetched
    for work, rows, width in ((found, s, e), (back, t, d)):
        b, m, n, k = work.product
        assert (b, m, n) == (heads, rows, width)
        assert 2 * b * m * n * (k - 1) < work.product_flops <= 2 * b * m * n * k
    masked = work_of("attention", (*shapes, (s, t)), causal=causal)
    assert masked.flops - found.flops == pairs
    assert work_of("attention_gradient", (*inputs, (s, t)), causal=causal).flops - back.flops == pairs


# --- Conventions ---------------------------------------------------------------------------------------------------

# Per operator: (flops, special), with r elements read of the first input and w written over the first output.
CONVENTIONS = {
    **dict.fromkeys(["add", "sub", "mul", "div", "maximum", "minimum", "equal", "less", "select"], ("w", "0")),
    **dict.fromkeys(["scale", "shift", "square", "neg", "abs", "sign", "reciprocal", "to_float"], ("w", "0")),
    "pow": ("(by - 1) * w if by in (2, 3) else w", "0 if by in (2, 3) else 2*w"),
    "clamp": ("2*w", "0"),
    "clamp_gradient": ("2*w", "0"),
    "relu": ("w", "0"),
    "leaky_relu": ("2*w", "0"),
    "sigmoid": ("4*w", "w"),
    "tanh": ("4*w", "w"),
    "silu": ("5*w", "w"),
    "gelu": ("5*w", "w"),
    "gelu_tanh": ("12*w", "w"),
    "mish": ("8*w", "3*w"),
    "softplus": ("3*w", "2*w"),
    "elu": ("3*w", "w"),
    **dict.fromkeys(["exp", "log", "sqrt", "rsqrt", "sin", "cos"], ("w", "w")),
    "relu_gradient": ("w", "0"),
    "leaky_relu_gradient": ("2*w", "0"),
    "sigmoid_gradient": ("3*w", "0"),
    "tanh_gradient": ("3*w", "0"),
    "silu_gradient": ("8*w", "w"),
    "gelu_gradient": ("9*w", "2*w"),
    "gelu_tanh_gradient": ("21*w", "w"),
    "mish_gradient": ("17*w", "4*w"),
    "softplus_gradient": ("4*w", "w"),
    "elu_gradient": ("3*w", "w"),
    **dict.fromkeys(["reduce_sum", "reduce_mean", "reduce_max", "reduce_min"], ("r", "0")),
    "reduce_norm": ("2*r", "w"),
    "reduce_var": ("4*r", "0"),
    "reduce_std": ("4*r", "w"),
    "argmax": ("r", "0"),
    "argmin": ("r", "0"),
    "topk": ("16*r", "0"),
    "logsumexp": ("4*r", "r + w"),
    "log_softmax": ("5*w", "w + rows"),
    "log_softmax_gradient": ("4*w", "w"),
    "softmax": ("5*w", "w"),
    "softmax_gradient": ("3*w", "0"),
    **dict.fromkeys(["group_norm", "instance_norm", "layer_norm"], ("8*r", "statistics")),
    "rms_norm": ("4*r", "statistics"),
    "batch_norm": ("8*r if training else 4*r", "statistics"),
    "norm_gradient": ("{'rms': 7, 'stored': 2}.get(over, 11) * r", "0"),
    "norm_weight_gradient": ("3*r if over == 'rms' else 5*r", "0"),
    "upsample": ("9*w if mode == 'bilinear' else 0", "0"),
    "upsample_gradient": ("12*r if mode == 'bilinear' else r", "0"),
    "avg_pool2d": ("kernel**2 * w", "0"),
    "max_pool2d": ("kernel**2 * w", "0"),
    "max_pool2d_gradient": ("r", "0"),
    "avg_pool2d_gradient": ("kernel**2 * r", "0"),
    **dict.fromkeys(
        ["concat", "stack", "pad", "copy", "slice_gradient", "embedding", "gather", "scatter", "assign", "one_hot"],
        ("0", "0"),
    ),
    "pad_gradient": ("r - w if mode == 'reflect' else 0", "0"),
    "embedding_gradient": ("r", "0"),
    "index_add": ("r", "0"),
    "scatter_add": ("written", "0"),
    "zeros": ("0", "0"),
    **dict.fromkeys(["to_device", "to_host", "synchronise", "host"], ("0", "0")),
    "random_normal": ("0", "2*w"),
    "random_uniform": ("0", "0"),
    "random_integers": ("0", "0"),
    "categorical": ("2*r + 2*w", "0"),  # two comparisons find one of four
    "adam": ("12*w", "w"),
    "running_average": ("3*w", "0"),
    "squared_norm": ("2*r", "0"),
}
CONVOLVED = {f"conv{n}d{of}" for n in (1, 2) for of in ("", "_input_gradient", "_weight_gradient")}
PRODUCTS = {"linear", "matmul", "attention", "attention_gradient", "conv_transpose1d", "conv_transpose2d", *CONVOLVED}


def test_every_kernel_has_a_stated_convention(separate):
    views = {name for name, known in OPERATORS.items() if known.category == "view"}
    assert set(CONVENTIONS) == separate - views - PRODUCTS


def test_conventions(case):
    if case.op not in CONVENTIONS:
        return
    outputs = SHAPE[case.op](case.shapes, case.attributes)
    found = WORK[case.op](case.shapes, outputs, case.attributes)
    names = {
        "r": elements(case.shapes[0]) if case.shapes else 0,
        "w": elements(outputs[0]),
        "rows": elements(outputs[0]) // outputs[0][case.attributes["axis"]] if case.op == "log_softmax" else 0,
        "statistics": elements(outputs[1]) if len(outputs) > 1 else 0,
        "written": found.written,
        **case.attributes,
    }
    assert (found.flops, found.special) == tuple(eval(text, {}, names) for text in CONVENTIONS[case.op])
    assert found.random == (names["w"] if OPERATORS[case.op].category == "rng" else 0)
    assert found.product is None and found.product_flops == 0 and found.window is None
    times = case.shapes[0][0] if case.attributes.get("per") == "chain" else 1
    assert found.seconds == times * case.attributes.get("seconds", 0.0)


def test_a_reflected_margin_is_added_to_where_it_came_from():
    """One addition for each element of the margin, counted over the indices that torch reflects."""
    index = torch.arange(12.0).reshape(1, 3, 4)
    copies = torch.nn.functional.pad(index, (2, 0, 1, 2), mode="reflect").flatten().int().bincount()
    found = work_of("pad_gradient", ((1, 6, 6),), before=(1, 2), after=(2, 0), mode="reflect")
    assert found.flops == int((copies - 1).sum())


IN_PLACE = {"scatter", "scatter_add", "assign"}


def test_what_touches_less_than_its_tensors(case):
    if case.op not in WORK:
        return
    outputs = SHAPE[case.op](case.shapes, case.attributes)
    found = WORK[case.op](case.shapes, outputs, case.attributes)
    assert (found.written is not None) == OPERATORS[case.op].in_place == (case.op in IN_PLACE)
    less = case.op in ("embedding", "gather", *IN_PLACE) or (case.op, case.attributes.get("over")) == STORED
    assert (found.read is not None) == less
    if less:
        assert all(read <= elements(shape) for read, shape in zip(found.read, case.shapes, strict=True))


STORED = ("norm_gradient", "stored")


def test_what_is_written_in_place():
    """Rows and the index are read and the rows written, whatever stands beside them."""
    rows, width, chains, count = 1000, 5, 2, 3
    shapes = ((chains, rows, width), (count,), (chains, count, width))
    found = work_of("scatter", shapes, axis=-2, shared=0)
    assert (found.read, found.written) == ((0, count, chains * count * width), chains * count * width)
    spread = work_of("scatter", (*shapes[:2], ()), axis=-2, shared=0)
    assert (spread.read, spread.written) == ((0, count, 1), chains * count * width)
    # What rows are added to is read and written, never more of it than there is.
    for count, touched in ((3, chains * 3 * width), (2 * rows, chains * rows * width)):
        inputs = (shapes[0], (count,), (chains, count, width))
        added = work_of("scatter_add", inputs, axis=-2, shared=0)
        assert (added.read, added.written) == ((touched, count, chains * count * width), touched)
    part = work_of("assign", ((chains, rows, width), (chains, 1, width)), axis=-2, start=7, length=1)
    assert (part.read, part.written) == ((0, chains * width), chains * width)


@pytest.mark.parametrize(("count", "rows"), [(3, 10), (10, 10), (20, 10)])
def test_a_gather_reads_the_parts_asked_for_and_never_more_than_there_are(count, rows):
    width, chains = 5, 2
    of_all = work_of("gather", ((chains, rows, width), (count,)), axis=-2, shared=0)
    of_each = work_of("gather", ((chains, rows, width), (chains, count)), axis=-2, shared=1)
    assert of_all.read == (chains * min(count, rows) * width, count)
    assert of_each.read == (chains * min(count, rows) * width, chains * count)


def test_the_backward_of_stored_statistics_does_not_read_what_it_does_not_need():
    n = 2 * 3 * 4
    shapes = ((2, 3, 4), (2, 3, 4), (3,), (3,), (3,))
    assert work_of("norm_gradient", shapes, over="stored", groups=1).read == (n, 0, 0, 3, 3)


@pytest.mark.parametrize(("count", "entries"), [(3, 10), (10, 10), (20, 10)])
def test_an_embedding_reads_rows_and_never_more_than_the_table(count, entries):
    width = 5
    read = work_of("embedding", ((1, count), (entries, width)), entries=entries, width=width).read
    assert read == (count, min(count, entries) * width)
