"""Random workloads, devices and policies: the strategies behind `@given(...)` for the types of the three parts."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ebmsim.hardware import Hardware, SubArray
from ebmsim.policy import EXECUTIONS, Policy
from ebmsim.spec.library import load_hardware
from ebmsim.spec.located import parse_document
from ebmsim.spec.workload import Workload, parse_workload, settle

TPU = load_hardware("tpu_v6e")
# The same cells in unequal arrays.
UNEQUAL = replace(TPU, matrix=replace(TPU.matrix, subarrays=(SubArray(256, 256, 3), SubArray(64, 128, 8))))
DEVICES = (load_hardware("rtx5090"), load_hardware("ryzen9900x"), TPU, UNEQUAL)
# No fp64: the TPU has none.
DTYPES = ("fp32", "bf16")


@st.composite
def _images(draw: st.DrawFn, side: int) -> list[dict[str, Any]]:
    """A network over [4, side, side]: convolutions, norms, activations, residuals, halving and doubling."""
    nodes: list[dict[str, Any]] = [{"op": "reshape", "inputs": "x", "shape": [4, side, side]}]
    channels = 4
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["conv", "conv", "norm", "activation", "residual", "strided", "pooled", "doubled"]))
        here = f"n{index}"
        if kind == "conv":
            channels = draw(st.sampled_from([4, 16, 64, 200]))
            kernel = draw(st.sampled_from([1, 3]))
            nodes += [{"op": "conv2d", "name": here, "out": channels, "kernel": kernel, "padding": kernel // 2}]
        elif kind == "norm":
            norms = [{"op": "group_norm", "groups": 4}, {"op": "instance_norm"}, {"op": "batch_norm"}]
            nodes += [{**draw(st.sampled_from(norms)), "name": here}]
        elif kind == "activation":
            nodes += [{"op": draw(st.sampled_from(["relu", "silu", "tanh", "mish"])), "name": here}]
        elif kind == "pooled" and side > 4:
            side //= 2
            nodes += [{"op": "max_pool2d", "name": here, "kernel": 2, "stride": 2}]
        elif kind == "doubled" and side < 32:
            side *= 2
            up = {"op": "conv_transpose2d", "out": channels, "kernel": 4, "stride": 2, "padding": 1}
            nodes += [{**draw(st.sampled_from([up, {"op": "upsample"}])), "name": here}]
        elif kind == "strided" and side > 4:
            side //= 2
            nodes += [{"op": "conv2d", "name": here, "out": channels, "kernel": 3, "padding": 1, "stride": 2}]
        else:
            nodes += [
                {"op": "silu", "name": f"{here}a"},
                {"op": "conv2d", "name": f"{here}b", "out": channels, "kernel": 3, "padding": 1},
                {"op": "add", "name": here, "inputs": [f"{here}a", f"{here}b"]},
            ]
    return [*nodes, {"op": "reduce_mean", "axes": [1, 2]}, {"op": "linear", "out": 1}]


@st.composite
def _tokens(draw: st.DrawFn, side: int, conditioned: bool) -> list[dict[str, Any]]:
    """A network over [side, 4 · side]: linear layers, norms, activations, attention, rows taken and replaced.

    A condition may be added.
    """
    nodes: list[dict[str, Any]] = [{"op": "reshape", "name": "start", "inputs": "x", "shape": [side, 4 * side]}]
    if conditioned:
        nodes += [
            {"op": "linear", "inputs": "z", "out": 4 * side},
            {"op": "reshape", "name": "bias", "shape": [1, 4 * side]},
            {"op": "add", "inputs": ["start", "bias"]},
        ]
    width = 4 * side
    for index in range(draw(st.integers(1, 3))):
        kinds = ["linear", "linear", "norm", "activation", "attention", "fused attention", "gathered", "replaced"]
        kind = draw(st.sampled_from(kinds))
        here = f"n{index}"
        if kind == "linear":
            width = draw(st.sampled_from([8, 64, 500, 2048]))
            nodes += [{"op": "linear", "name": here, "out": width}]
        elif kind == "norm":
            nodes += [{"op": draw(st.sampled_from(["layer_norm", "rms_norm"])), "name": here}]
        elif kind == "activation":
            nodes += [{"op": draw(st.sampled_from(["gelu", "sigmoid", "relu", "gelu_tanh"])), "name": here}]
        elif kind == "gathered":
            nodes += [
                {"op": "scale", "name": f"{here}x", "by": 1},
                {"op": "gather", "name": f"{here}y", "inputs": [f"{here}x", "which"]},
                {"op": "zeros", "name": f"{here}z", "shape": [side, width]},
                {"op": "scatter_add", "name": here, "inputs": [f"{here}z", "which", f"{here}y"]},
            ]
        elif kind == "replaced":
            nodes += [
                {"op": "scale", "name": f"{here}x", "by": 1},
                {"op": "slice", "name": f"{here}first", "axis": 0, "length": 1},
                {"op": "exp", "name": f"{here}part"},
                {"op": "assign", "name": here, "inputs": [f"{here}x", f"{here}part"], "start": 1},
            ]
        else:
            nodes += [
                {"op": "scale", "name": f"{here}x", "by": 1},
                {"op": "linear", "name": f"{here}q", "inputs": f"{here}x", "out": width},
                {"op": "linear", "name": f"{here}k", "inputs": f"{here}x", "out": width},
                {"op": "linear", "name": f"{here}v", "inputs": f"{here}x", "out": width},
            ]
            if kind == "fused attention":
                causal = draw(st.booleans())
                qkv = [f"{here}{part}" for part in "qkv"]
                nodes += [{"op": "attention", "name": here, "inputs": qkv, "causal": causal}]
                continue
            nodes += [
                {"op": "matmul", "name": f"{here}s", "inputs": [f"{here}q", f"{here}k"], "transpose_b": True},
                {"op": "softmax", "name": f"{here}p"},
                {"op": "matmul", "name": here, "inputs": [f"{here}p", f"{here}v"]},
            ]
    return [*nodes, {"op": "reduce_mean", "axes": [0]}, {"op": "linear", "out": 1}]


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """A workload written as a file and read back."""
    side = draw(st.sampled_from([4, 16, 32]))
    conditioned = draw(st.booleans())
    preset = draw(st.sampled_from(["langevin", "mala", "hmc", "gradient-descent"]))
    components: dict[str, Any] = {}
    if conditioned:
        components["embed"] = {
            "role": "encoder",
            "inputs": {"label": "label"},
            "runs": draw(st.sampled_from(["once", "every-step", "every-evaluation"])),
            "nodes": [{"op": "linear", "out": 64}, {"op": "silu"}],
        }
    for index in range(draw(st.integers(1, 3))):
        image = draw(st.booleans())
        uses = conditioned and not image
        components[f"net{index}"] = {
            "role": "energy",
            "inputs": {"x": "x", "which": "which"} | ({"z": "embed"} if uses else {}),
            "instances": draw(st.integers(1, 3)),
            "weights": draw(st.sampled_from(["shared", "distinct"])),
            "nodes": draw(_images(side) if image else _tokens(side, uses)),
        }
    file = {
        "name": "random",
        "title": "random",
        "paper": {"title": "none", "year": 2024},
        "taxonomy": {"compositionality": "hetero", "dependency": "mixed-parallel"},
        "parameters": {
            "chains": draw(st.sampled_from([1, 2, 7, 64, 1000])),
            "steps": draw(st.integers(1, 100)),
            "training_steps": draw(st.integers(0, 20)),
            "training_batch": draw(st.sampled_from([1, 16, 100])),
            "iterations": 10,
        },
        "inputs": {"which": {"shape": [side], "kind": "index", "chain_axis": draw(st.booleans())}}
        | ({"label": {"shape": [16]}} if conditioned else {}),
        "components": components,
        "sampler": {
            "sample": {"x": [4, side, side]},
            "preset": preset,
            "settings": {"leapfrog": 2} if preset == "hmc" else {},
        },
        "training": {
            "terms": ["contrastive"],
            "clip": draw(st.booleans()),
            "average": draw(st.booleans()),
            "buffer": draw(st.sampled_from([0, 1000])),
        },
    }
    document = parse_document(yaml.safe_dump(file, sort_keys=False))
    return settle(document, parse_workload(document))


def scaled(hardware: Hardware, what: str, factor: float) -> Hardware:
    """A device with one figure multiplied: units or clock (rates per unit and cycle held), limit, or l2.bandwidth."""
    h = hardware
    if what in ("units", "clock"):
        units = round(h.units * factor) if what == "units" else h.units
        f = units / h.units if what == "units" else factor
        m, v = h.matrix, h.vector
        fixed = what == "units"
        return replace(
            h,
            units=units,
            clock=h.clock * (1.0 if fixed else f),
            sustained_clock=h.sustained_clock * (1.0 if fixed else f),
            matrix=replace(
                m,
                peak={k: p * f for k, p in m.peak.items()},
                clocks={k: c * (1.0 if fixed else f) for k, c in m.clocks.items()},
                subarrays=tuple(replace(g, arrays=g.arrays * f) for g in m.subarrays) if fixed else m.subarrays,
            ),
            vector=replace(v, peak={k: p * f for k, p in v.peak.items()}, special=v.special * f, random=v.random * f),
        )
    if what == "limit":
        p = h.power
        return replace(h, power=replace(p, limit=p.static + (p.limit - p.static) * factor))
    name, _, field = what.partition(".")
    changed = [replace(x, **{field: getattr(x, field) * factor}) if x.name == name else x for x in h.memory]
    return replace(h, memory=tuple(changed))


def figures(hardware: Hardware) -> list[str]:
    """The figures of a device of which more is never slower."""
    levels = [f"{x.name}.{field}" for x in hardware.memory for field in ("bandwidth", "capacity")]
    return ["units", "clock", "limit", *levels]


@st.composite
def devices(draw: st.DrawFn) -> Hardware:
    """One of the shipped devices with some of its figures changed."""
    h = draw(st.sampled_from(DEVICES))
    for what in draw(st.lists(st.sampled_from(figures(h)), max_size=4, unique=True)):
        h = scaled(h, what, draw(st.integers(1, 5)) if what == "units" else draw(st.floats(0.1, 10)))
    return h


class Change:
    """A device before and after more of one thing."""

    def __init__(self, what: str, factor: float, before: Hardware, after: Hardware) -> None:
        self.what, self.factor, self.before, self.after = what, factor, before, after

    def __repr__(self) -> str:
        return f"{self.before.name}: {self.what} x {self.factor}, from {self.before}"


@st.composite
def changes(draw: st.DrawFn) -> Change:
    before = draw(devices())
    what = draw(st.sampled_from(figures(before)))
    factor = draw(st.floats(1, 4))
    return Change(what, factor, before, scaled(before, what, factor))


@pytest.fixture(scope="session")
def more() -> SearchStrategy[Change]:
    """A device, and the same device with more of one figure."""
    return changes()


st.register_type_strategy(Workload, workloads())
st.register_type_strategy(Hardware, devices())
st.register_type_strategy(
    Policy,
    st.builds(
        Policy,
        execution=st.sampled_from(EXECUTIONS),
        fidelity=st.sampled_from(["analytical", "roofline"]),
        dtype=st.sampled_from(DTYPES),
        streams=st.sampled_from([1, 2, 3, 4]),
        chain_mode=st.sampled_from(["batched", "sequential"]),
    ),
)
