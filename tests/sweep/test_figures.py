"""Figures of a device by path: what is replaced, what follows, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import ebmsim
from ebmsim.cost.machine import machine_of
from ebmsim.errors import SpecError
from ebmsim.sweep.figures import figures_of, with_figures

A100, TPU = ebmsim.load_hardware("a100"), ebmsim.load_hardware("tpu_v6e")


@pytest.mark.parametrize("hardware", [A100, TPU], ids=["a100", "tpu"])
def test_its_own_figures_change_nothing(hardware: ebmsim.Hardware) -> None:
    assert with_figures(hardware, figures_of(hardware)) == hardware


def test_rates_per_unit_and_cycle_hold() -> None:
    machine = machine_of(with_figures(A100, {"units": 54}))
    assert machine.units == 54
    assert machine.matrix == machine_of(A100).matrix
    assert machine.vector == machine_of(A100).vector
    assert with_figures(TPU, {"matrix.rows": 512}).matrix.peak["bf16"] == 2 * TPU.matrix.peak["bf16"]
    assert with_figures(A100, {"sustained_clock": 1e9}).matrix == A100.matrix


def test_a_figure_that_is_given_does_not_follow() -> None:
    found = with_figures(A100, {"units": 54, "matrix.peak.bf16": 1e14})
    assert found.matrix.peak["bf16"] == 1e14
    assert found.matrix.peak["fp32"] == A100.matrix.peak["fp32"] / 2


def test_arrays_keep_their_axes() -> None:
    units, bandwidth = np.ix_([54.0, 108.0], [1e12, 2e12, 3e12], [0.0])[:2]
    machine = machine_of(with_figures(A100, {"units": units, "memory.dram.bandwidth": bandwidth}))
    assert machine.units.shape == (2, 1, 1)
    assert machine.levels[-1].bandwidth.shape == (1, 3, 1)
    assert machine.matrix == machine_of(A100).matrix  # the same at every point: no axes


def test_unknown_figures_are_all_named() -> None:
    with pytest.raises(SpecError) as caught:
        with_figures(A100, {"memory.dram.bandwith": 1.0, "clock": 1.0})
    assert "a100 has no figure 'memory.dram.bandwith'" in str(caught.value)
    assert "memory.dram.bandwidth" in str(caught.value)
    assert "a100 has no figure 'clock'" in str(caught.value)
