"""Rows: what tells kernels apart beside their figures, where a profile asks for it."""

from __future__ import annotations

import numpy as np
import pytest

from ebmsim.graph.graph import Builder
from ebmsim.graph.kernels import KernelTable
from ebmsim.graph.lower import lower
from ebmsim.graph.rows import FORWARD, rows_of
from ebmsim.lowering import lower_workload, told_apart
from ebmsim.policy import Policy
from ebmsim.spec.library import load_profile, load_workload


def table() -> KernelTable:
    """relu, view, view, relu, tanh in the forward phase, then exp and a view of another phase."""
    b = Builder()
    x = b.tensor((4, 8), "sample")
    y = b.emit("relu", x)
    y = b.emit("permute", b.emit("reshape", y, shape=(8, 4)), order=(-1, -2))
    y = b.emit("tanh", b.emit("relu", y))
    with b.at(phase="update"):
        b.emit("reshape", b.emit("exp", y), shape=(32,))
    return lower(b.graph(), b.nodes, "fp32")


def test_views_belong_to_the_kernel_after_them_in_their_phase_or_to_its_last() -> None:
    found = table()
    assert found.ops == ("relu", "relu", "tanh", "exp")
    assert found.views.tolist() == [0, 2, 0, 1]


def test_kernels_since_the_last_of_its_kind_in_a_loop() -> None:
    """Around: relu relu tanh exp relu …: before the first relu ran tanh and exp, before the second none."""
    found = table()
    rows, (order,) = rows_of([(found, False)], ("relu", "tanh", "exp"))
    assert rows.since[order].tolist() == [2, 0, 3, 3]


def test_without_kinds_equal_kernels_are_one_row() -> None:
    found = table()
    rows, (order,) = rows_of([(found, False)])
    assert not rows.since.any() and not rows.views.any() and not rows.recorded.any() and (rows.kind == -1).all()
    assert order[2] != order[0]  # tanh has operations of its own
    told, _ = rows_of([(found, False)], ("relu",))
    assert len(told) >= len(rows)


@pytest.mark.parametrize("name", ["ired", "ccsp"])
def test_autograd_records_the_forward_of_energies_alone(name: str) -> None:
    profile = load_profile("torch-cpu")
    step = lower_workload(load_workload(name, "small"), Policy(software="torch-cpu"), profile).step.table
    rows, (order,) = rows_of([(step, False)], ("linear",))
    recorded = rows.recorded[order]
    assert recorded.any() == (name == "ired")  # ccsp gives its score itself
    assert not recorded[rows.back[order] != FORWARD].any()
    assert rows.starts[order].sum() == (1 if name == "ired" else 0)


def test_shipped_profiles_tell_no_kinds_apart() -> None:
    for software in ("torch-cpu", "torch-cuda", "xla-tpu", "ideal"):
        assert told_apart(load_profile(software)) == ()


def test_kinds_of_kernels() -> None:
    """A gradient's kernels are of its operator; pointwise and single small images, and broadcasts, are apart."""
    b = Builder()
    x = b.tensor((1, 3, 8, 8), "sample")
    many = b.tensor((2, 3, 8, 8), "sample")
    for image, size in ((x, 3), (x, 1), (many, 3)):
        weight = b.tensor((5, 3, size, size), "weight", chain_axis=False)
        b.emit("conv2d", image, weight, kernel=size, out=5, stride=1, padding=0, groups=1, bias=False)
    gain = b.tensor((3, 1, 1), "weight", chain_axis=False)
    b.emit("mul", many, gain)
    b.emit("mul", many, many)
    with b.at(of="square"):
        b.emit("mul", many, many)
    found = lower(b.graph(), b.nodes, "fp32")
    names = ("conv2d, one image", "conv2d, pointwise", "conv2d", "mul, broadcasting", "mul", "square backward")
    assert found.kinds == names
    assert np.array(found.views).sum() == 0
