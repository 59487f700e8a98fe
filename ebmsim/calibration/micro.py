"""The small steps that calibration measures: chains of a few equal kernels, forward, back and on through the update.

Each is a workload of its own, a few equal blocks between a sample and the sum of what they give, so that its kernels
find caches, allocations and work of the host as those of an energy network do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

_TEXT = """
name: micro
title: A chain of equal kernels
paper: {{title: none, year: 2026}}
taxonomy: {{compositionality: mono, dependency: sequential}}
parameters: {{chains: {chains}, steps: 2}}
blocks:
  block:
    nodes: {nodes}
components:
  net:
    role: {role}
    inputs: {{x: x}}
    nodes:
      - {{use: block, inputs: [x], repeat: {repeat}}}
{end}sampler:
  sample: {{x: {shape}}}
  preset: langevin
"""
_SUM = "      - {{op: reduce_sum, axes: {axes}}}\n"
Shape = tuple[int, ...]
# Elements up to which the host decides how long a kernel takes.
_SMALL = 2048


@dataclass(frozen=True)
class Micro:
    """A small step: its family, its label, the nodes of a block, and the shape of one chain's sample.

    role: score where no gradient is taken.
    """

    family: str
    label: str
    nodes: str
    chains: int
    shape: Shape
    repeat: int
    role: str = "energy"

    def workload(self) -> Workload:
        """The step as a workload. Raises SpecError where its nodes do not fit together."""
        end = _SUM.format(axes=list(range(len(self.shape)))) if self.role == "energy" else ""
        given = {"chains": self.chains, "nodes": self.nodes, "repeat": self.repeat, "role": self.role}
        text = _TEXT.format(**given, shape=list(self.shape), end=end)
        document = parse_document(text)
        return settle(document, parse_workload(document))


def plan(quick: bool = False) -> list[Micro]:
    """All small steps: kinds of kernels, by sizes from launch-bound to out of the caches.

    quick: every other one of each family, its smallest first.
    """
    found = [
        *_products(),
        *_convolutions(),
        *_elementwise(),
        *_rows(),
        *_images(),
        *_moves(),
        *_views(),
        *_mixed(),
        *_scores(),
    ]
    if not quick:
        return found
    families: dict[str, list[Micro]] = {}
    for step in found:
        families.setdefault(step.family, []).append(step)
    return [step for steps in families.values() for step in steps[::2]]


def _micro(family: str, nodes: str, chains: int, shape: Sequence[int], repeat: int = 3) -> Micro:
    label = f"{family} {chains}x{'x'.join(map(str, shape))}"
    return Micro(family, label, nodes, chains, tuple(shape), repeat)


def _products() -> Iterator[Micro]:
    for width in (16, 64, 128, 256, 512, 1024):
        for rows in (1, 8, 64, 512):
            yield _micro("linear", f"[{{op: linear, out: {width}}}]", rows, (width,), 4)
    for width, inner in ((64, 256), (256, 1024), (256, 32)):
        for rows in (4, 32, 256):
            nodes = f"[{{op: linear, out: {inner}}}, {{op: linear, out: {width}}}]"
            yield _micro(f"linear through {inner}", nodes, rows, (width,), 2)
    squares = "[{op: matmul, name: y, inputs: [x, x], transpose_b: true}, {op: matmul, inputs: [y, x]}]"
    for width in (16, 64, 256):
        for rows in (1, 16):
            yield _micro("matmul", squares, rows, (width, 16), 2)
    for tokens, heads, width in ((16, 2, 16), (64, 4, 32), (256, 4, 64)):
        scores = "{op: matmul, name: s, inputs: [x, x], transpose_b: true}, {op: softmax, name: p}"
        for chains in (1, 8):
            by_hand = f"[{scores}, {{op: matmul, inputs: [p, x]}}]"
            yield _micro("attention by hand", by_hand, chains, (heads, tokens, width), 2)
            yield _micro("attention", "[{op: attention, inputs: [x, x, x]}]", chains, (heads, tokens, width), 2)


def _convolutions() -> Iterator[Micro]:
    for channels, side in ((8, 8), (32, 8), (64, 4), (16, 32)):
        nodes = f"[{{op: conv2d, out: {channels}, kernel: 3, padding: 1}}]"
        yield _micro("convolution of one image", nodes, 1, (channels, side, side))
    sizes = ((8, 4), (16, 8), (8, 32), (16, 32), (32, 8), (32, 32), (64, 16), (64, 64), (128, 8), (128, 32), (256, 8))
    for channels, side in sizes:
        for chains in (2, 8):
            nodes = f"[{{op: conv2d, out: {channels}, kernel: 3, padding: 1}}]"
            yield _micro("convolution", nodes, chains, (channels, side, side))
    for channels, side in ((32, 8), (32, 32), (64, 64), (128, 16)):
        nodes = f"[{{op: conv2d, out: {channels}, kernel: 1}}]"
        yield _micro("pointwise convolution", nodes, 4, (channels, side, side))
    for inner, side in ((16, 28), (64, 32)):
        for outer in (1, 3):
            for chains in (2, 16):
                there, back = (f"{{op: conv2d, out: {c}, kernel: 3, padding: 1}}" for c in (inner, outer))
                yield _micro(f"convolution to {inner}", f"[{there}, {back}]", chains, (outer, side, side), 2)
    for channels, side in ((16, 32), (64, 16), (128, 16)):
        for chains in (2, 8):
            down = f"{{op: conv2d, out: {2 * channels}, kernel: 4, stride: 2, padding: 1}}"
            up = f"{{op: conv_transpose2d, out: {channels}, kernel: 4, stride: 2, padding: 1}}"
            yield _micro("convolution down and up", f"[{down}, {up}]", chains, (channels, side, side), 1)
    for channels, length in ((32, 64), (128, 128)):
        nodes = f"[{{op: conv1d, out: {channels}, kernel: 5, padding: 2}}]"
        yield _micro("convolution along one axis", nodes, 4, (channels, length))


UNARY = (
    *("relu", "leaky_relu, slope: 0.2", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "mish", "softplus", "elu"),
    *("exp", "log", "sqrt", "sin", "cos", "neg", "abs", "reciprocal", "rsqrt", "scale, by: 0.5", "shift, by: 0.5"),
    *("square", "pow, by: 3", "clamp, low: -1, high: 1"),
)


# Operators that keep numbers as they come near one, so that many can follow one another.
_DIFFERENT = (
    *("relu", "sigmoid", "tanh", "silu", "softplus", "elu", "neg", "abs", "square", "scale, by: 0.5", "shift, by: 0.5"),
    *("clamp, low: -1, high: 1", "exp", "sin", "cos", "leaky_relu, slope: 0.2"),
)


def _elementwise() -> Iterator[Micro]:
    for count in (64, 65_536, 524_288):
        for op in UNARY:
            yield _micro(op.partition(",")[0], f"[{{op: {op}}}]", 1, (count,), 4)
        for op in ("add", "sub", "mul", "div", "maximum"):
            yield _micro(op, f"[{{op: shift, name: y, by: 0.5}}, {{op: {op}, inputs: [x, y]}}]", 1, (count,))
    for op in ("relu", "scale, by: 0.5", "square"):
        for count in (16_384, 1_048_576, 2_097_152, 9_437_184):
            yield _micro(op.partition(",")[0], f"[{{op: {op}}}]", 1, (count,))
    for channels, side in ((16, 8), (64, 32)):
        for op in ("add", "mul"):
            ends = "{op: reduce_mean, name: m, axes: [1, 2], keep: true}"
            yield _micro(f"{op} of channels", f"[{ends}, {{op: {op}, inputs: [x, m]}}]", 8, (channels, side, side))


def _rows() -> Iterator[Micro]:
    for rows, width in ((16, 32), (256, 64), (1024, 256), (2048, 512)):
        for op in ("layer_norm", "rms_norm", "softmax", "log_softmax"):
            yield _micro(op, f"[{{op: {op}}}]", 1, (rows, width))
    for rows, width in ((16, 32), (256, 64), (1024, 256)):
        for op in ("sum", "mean", "max", "norm", "var", "std"):
            nodes = f"[{{op: reduce_{op}, name: m, axes: [-1], keep: true}}, {{op: add, inputs: [x, m]}}]"
            yield _micro(f"reduce_{op}", nodes, 1, (rows, width))
        nodes = "[{op: logsumexp, name: m, axes: [-1], keep: true}, {op: sub, inputs: [x, m]}]"
        yield _micro("logsumexp", nodes, 1, (rows, width))


def _images() -> Iterator[Micro]:
    for channels, side in ((16, 8), (32, 16), (64, 32), (64, 64)):
        for chains in (1, 8):
            for op in ("group_norm, groups: 8", "instance_norm", "batch_norm"):
                yield _micro(op.partition(",")[0], f"[{{op: {op}}}]", chains, (channels, side, side))
    for channels, side in ((16, 16), (64, 32)):
        for chains in (1, 8):
            for op in ("avg_pool2d", "max_pool2d"):
                yield _micro(op, f"[{{op: {op}, kernel: 2, stride: 2}}]", chains, (channels, side, side), 2)
            for mode in ("nearest", "bilinear"):
                nodes = f"[{{op: upsample, mode: {mode}}}]"
                yield _micro(f"upsample, {mode}", nodes, chains, (channels, side // 4, side // 4), 2)


def _moves() -> Iterator[Micro]:
    for rows, width in ((16, 32), (256, 64), (1024, 256), (2048, 512)):
        index = f"{{op: buffer, name: at, shape: [{rows}]}}"
        yield _micro("copy", "[{op: permute, order: [1, 0]}, {op: copy}]", 1, (rows, width))
        halves = "[{op: split, name: h, axis: -1, parts: 2}, {op: concat, inputs: [h.1, h.0], axis: -1}]"
        yield _micro("concat", halves, 1, (rows, width))
        yield _micro("gather", f"[{index}, {{op: gather, inputs: [x, at], axis: 0}}]", 1, (rows, width))
        nodes = f"[{index}, {{op: index_add, inputs: [x, at], axis: 0, size: {rows}}}]"
        yield _micro("index_add", nodes, 1, (rows, width))
        nodes = f"[{{op: pad, before: [1], after: [1]}}, {{op: slice, axis: -1, start: 1, length: {width}}}]"
        yield _micro("pad", nodes, 1, (rows, width))
        first = f"{{op: slice, axis: 0, length: 1}}, {{op: reshape, shape: [{rows}, {width}]}}"
        nodes = f"[{{op: stack, inputs: [x, x], axis: 0}}, {first}]"
        yield _micro("stack", nodes, 1, (rows, width), 2)


def _views() -> Iterator[Micro]:
    for rows, width in ((16, 32), (256, 64)):
        turned = "{op: permute, order: [1, 0]}"
        yield _micro("permute", f"[{turned}, {turned}, {turned}, {turned}, {{op: relu}}]", 1, (rows, width))
        wide, narrow = f"{{op: reshape, shape: [{rows * width}]}}", f"{{op: reshape, shape: [{rows}, {width}]}}"
        yield _micro("reshape", f"[{wide}, {narrow}, {wide}, {narrow}, {{op: relu}}]", 1, (rows, width))


def _mixed() -> Iterator[Micro]:
    """Blocks of many kinds of kernels, as networks have them."""
    for count in (4, 8, 16):
        different = ", ".join(f"{{op: {op}}}" for op in _DIFFERENT[:count])
        yield _micro(f"{count} kinds", f"[{different}]", 1, (64,), 16 // count)
    for channels, side in ((8, 4), (16, 8), (32, 16)):
        convolution = f"{{op: conv2d, out: {channels}, kernel: 3, padding: 1}}"
        body = f"{{op: group_norm, groups: 4}}, {{op: silu}}, {convolution}, {{op: leaky_relu}}, {convolution}"
        nodes = f"[{body}, {{op: scale, name: y, by: 0.5}}, {{op: add, inputs: [x, y]}}]"
        yield _micro("residual block", nodes, 4, (channels, side, side))
    for rows, width in ((4, 32), (64, 64), (64, 256)):
        gate = f"{{op: linear, inputs: [x], out: {width}}}, {{op: sigmoid, name: g}}"
        gated = f"{gate}, {{op: linear, name: h, inputs: [x], out: {width}}}, {{op: mul, inputs: [h, g]}}"
        body = f"{gated}, {{op: gelu, name: m}}"
        nodes = f"[{body}, {{op: add, inputs: [x, m]}}, {{op: layer_norm}}]"
        yield _micro("gated block", nodes, rows, (width,), 2)
    for tokens, width in ((16, 32), (64, 128)):
        heads = f"{{op: reshape, shape: [{tokens}, 4, {width // 4}]}}"
        turned = "{op: permute, order: [1, 0, 2]}"
        parts = [
            f"{{op: linear, inputs: [x], out: {width}}}, {heads}, {turned.replace('permute', f'permute, name: {name}')}"
            for name in ("q", "k", "v")
        ]
        joined = f"{turned}, {{op: copy}}, {{op: reshape, shape: [{tokens}, {width}]}}"
        after = f"{joined}, {{op: linear, name: a, out: {width}}}, {{op: add, inputs: [x, a]}}, {{op: layer_norm}}"
        nodes = f"[{', '.join(parts)}, {{op: attention, inputs: [q, k, v]}}, {after}]"
        yield _micro("attention block", nodes, 4, (tokens, width), 2)


def _scores() -> Iterator[Micro]:
    """Some of the steps above without a gradient, so without what autograd records."""
    again = ("linear", "relu", "silu", "add", "convolution", "layer_norm", "permute", "residual block", "gated block")
    for step in [*_products(), *_convolutions(), *_elementwise(), *_rows(), *_views(), *_mixed()]:
        small = step.chains * prod(step.shape) <= _SMALL
        if step.family in again and small:
            yield replace(step, family=f"{step.family}, score", label=f"{step.label}, score", role="score")
