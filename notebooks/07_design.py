# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Design an accelerator under a budget
#
# You have a certain area of silicon, a power limit and a time by which the answer must be there. Which chip do you
# build? In this notebook you describe designs in files, sweep a small space of them, keep the ones that are worth
# having, and hand in a chip of your own.
#
# Nothing here needs a GPU, torch or a network connection. Area and cost come from a simple model that is right within a
# factor of about two (`docs/validation/area.md`): use it to rank designs.

# %% [markdown]
# ## The chip to begin with
#
# `ebm_aware_equal` does not exist: six systolic arrays of 128 × 128 cells, SRAM, HBM, and what EBMs ask for: it keeps
# weights on the chip, draws its noise beside the network, and runs the sampling loop by itself. The task is EBM-CVR, 16
# images at once, in bf16.

# %%
import tempfile
from numbers import Integral
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import ebmsim
from ebmsim.cost.area import area, cost
from ebmsim.sweep.pareto import front

cvr = ebmsim.load_workload("ebm_cvr", overrides={"chains": 16})
policy = ebmsim.Policy(execution="persistent", dtype="bf16")


def judged(hardware):
    """What counts here: seconds of an inference, watts, mm² and dollars."""
    e = ebmsim.estimate(cvr, hardware, policy)
    figures = {"t_inf": e.seconds["t_inf"], "mean_power_watts": e.energy["mean_power_watts"]}
    return figures | {"area_mm2": area(hardware).total_mm2, "cost_dollars": cost(hardware).total}


start = ebmsim.load_hardware("ebm_aware_equal")
judged(start)

# %% [markdown]
# ## A space of designs
#
# A sweep file names what varies. Figures of a chip do not follow each other by themselves, so `derived` says what grows
# with what: vector peaks with their lanes, SRAM bandwidth with the arrays that it feeds, DRAM bandwidth and capacity
# with the number of stacks. (Peaks of the arrays do follow their number in a sweep.)

# %%
SWEEP = """
name: design
title: Relatives of an EBM-aware accelerator
workload: ebm_cvr
hardware: ebm_aware_equal
parameters: {chains: 16}
policy: {execution: persistent, dtype: bf16}
axes:
  arrays: {field: hardware.matrix.arrays, values: [2, 4, 6, 8, 12]}
  lanes: {values: [1024, 4096, 8192]}
  sram: {field: hardware.memory.sram.capacity, values: [16 MiB, 64 MiB, 256 MiB]}
  stacks: {values: [1, 2, 4]}
derived:
  vector_fp32: {expression: lanes * 2 * 1.5e9, field: hardware.vector.peak.fp32}
  vector_bf16: {expression: lanes * 2 * 1.5e9, field: hardware.vector.peak.bf16}
  special: {expression: lanes / 8 * 1.5e9, field: hardware.vector.special}
  sram_bandwidth: {expression: 30e12 * arrays / 6, field: hardware.memory.sram.bandwidth}
  bandwidth: {expression: stacks * 819.2e9, field: hardware.memory.dram.bandwidth}
  capacity: {expression: stacks * 24e9, field: hardware.memory.dram.capacity}
outputs: [t_inf, mean_power_watts, area_mm2, cost_dollars]
"""
folder = Path(tempfile.mkdtemp())
(folder / "design.yaml").write_text(SWEEP)
designs = pd.DataFrame(ebmsim.sweep(folder / "design.yaml"))
axes_of = ["arrays", "lanes", "sram", "stacks"]
results = ["t_inf", "mean_power_watts", "area_mm2", "cost_dollars"]
print(len(designs), "designs")
designs[axes_of + results].describe().loc[["min", "50%", "max"]]

# %% [markdown]
# ## Designs worth having
#
# One design **dominates** another if it is at least as good in every figure and better in one. What no other one
# dominates is the **Pareto front**: only these are worth a thought, whatever your priorities are.
#
# ### Exercise 1: dominance
#
# Write a function that says whether design a dominates design b. Both are arrays of figures, of which less is better.


# %% tags=["solution"]
def answer_1(a, b):
    return bool(np.all(a <= b) and np.any(a < b))


# %% tags=["check"]
def _of(a, b):
    return answer_1(np.array(a, dtype=float), np.array(b, dtype=float))


assert isinstance(_of([1, 2], [2, 3]), (bool, np.bool_)), "answer_1 gives True or False: compare all figures at once"
assert _of([1, 2], [2, 3]), "less time and less money: the first one dominates"
assert not _of([2, 3], [1, 2]), "the other way round: less is better, in every figure here"
assert not _of([1, 3], [2, 2]), "faster but dearer: better in one figure is not enough if it is worse in another"
assert _of([1, 2], [1, 3]), (
    "as fast and cheaper: it need not be better in every figure, only no worse, and better in one"
)
assert not _of([1, 2], [1, 2]), "equal designs do not dominate each other, or both would drop out"

# %% tags=["hidden"]
_points = designs[["t_inf", "area_mm2", "cost_dollars"]].to_numpy()[::2]
_kept = [i for i, b in enumerate(_points) if not any(answer_1(a, b) for a in _points)]
assert _kept == front(_points).tolist(), "compared with every other design, those left over are not the front"

# %% [markdown]
# `ebmsim.sweep.pareto.front` finds the front of millions of designs; here are 135:

# %%
best = front(designs[["t_inf", "cost_dollars"]].to_numpy())
figure, axes = plt.subplots(figsize=(7, 4))
axes.loglog(designs["t_inf"], designs["cost_dollars"], ".", color="silver", label="designs")
axes.loglog(*designs.loc[best].sort_values("t_inf")[["t_inf", "cost_dollars"]].to_numpy().T, "o-", label="front")
axes.set(xlabel="T_inf, s", ylabel="dollars")
axes.legend()
designs.loc[best, axes_of + results].sort_values("cost_dollars")

# %% [markdown]
# ### Exercise 2: the cheapest that will do
#
# The answer must be there within `SECONDS`, and the chip may take `WATTS` on average. Which design is the cheapest of
# those that keep both limits? Give its row number in `designs`.

# %%
SECONDS, WATTS = 1.3, 98.0

# %% tags=["solution"]
allowed = designs[(designs["t_inf"] <= SECONDS) & (designs["mean_power_watts"] <= WATTS)]
answer_2 = int(allowed["cost_dollars"].idxmin())

# %% tags=["check"]
assert isinstance(answer_2, Integral), (
    "answer_2 is the number of a row of designs: filter first, then look for the least"
)
assert answer_2 in designs.index, "there is no such row in designs; idxmin of a column gives a row's number"
_mine = designs.loc[answer_2]
assert _mine["t_inf"] <= SECONDS, "that one is too slow: cheap is not enough"
assert _mine["mean_power_watts"] <= WATTS, (
    "fast enough, and cheap, but it takes too much power. A front of time and cost does not know the "
    "power: filter by both"
)
_cheaper = designs[(designs["cost_dollars"] < _mine["cost_dollars"]) & (designs["t_inf"] <= SECONDS)]
assert not (_cheaper["mean_power_watts"] <= WATTS).any(), (
    "it keeps both limits, but a cheaper one does too: the fastest or the most frugal is not what was asked for"
)

# %% [markdown]
# ## A chip of your own
#
# A hardware file that `extends` another one says only what differs. Mappings merge key by key, all else replaces what
# it stands for. This one has less SRAM:


# %%
def chip(text):
    """The hardware that a text describes."""
    (folder / "mine.yaml").write_text(text)
    return ebmsim.load_hardware(folder / "mine.yaml")


LESS = """
name: mine
extends: ebm_aware_equal
memory: {sram: {capacity: 64 MiB}}
"""
pd.DataFrame({"start": judged(start), "less SRAM": judged(chip(LESS))})

# %% [markdown]
# ### Exercise 3: hand in a chip
#
# Describe a relative of `ebm_aware_equal` that answers within `SECONDS` on at most `AREA` mm². Arrays stand under
# `matrix: {subarrays: [{rows: …, columns: …, arrays: …}]}`. Three rules of honesty, since figures of a file do not
# follow each other:
#
# - peaks under `matrix.peak` are totals: in bf16, 2 FLOPs a cell and cycle at 1.5 GHz (fp8 and int8 twice that, fp32 a
#   sixth);
# - the SRAM has at most 5 TB/s for each array of 128 × 128 (or as many cells in smaller ones);
# - a stack of HBM brings 819.2 GB/s and 24 GB.
#
# The answer is the text of the file.

# %%
AREA = 250.0

# %% tags=["solution"]
answer_3 = """
name: mine
extends: ebm_aware_equal
matrix:
  subarrays: [{rows: 128, columns: 128, arrays: 12}]
  peak: {fp32: 98.3 TFLOP/s, bf16: 589.8 TFLOP/s, fp8: 1179.6 TFLOP/s, int8: 1179.6 TFLOP/s}
vector: {peak: {fp32: 12.29 TFLOP/s, bf16: 12.29 TFLOP/s}, special: 768 Gop/s}
memory:
  sram: {capacity: 64 MiB, bandwidth: 60 TB/s}
  dram: {bandwidth: 819.2 GB/s, capacity: 24 GB}
"""

# %% tags=["check"]
assert isinstance(answer_3, str), "answer_3 is the text of a hardware file: begin with LESS, above, and change more"
try:
    _chip, _problem = chip(answer_3), ""
except ebmsim.SpecError as _error:
    _chip, _problem = None, "; ".join(f"{p.message} ({p.hint})" if p.hint else p.message for p in _error.problems)
assert _chip is not None, f"the file has a mistake that `ebmsim check` would show with its line: {_problem}"
_cells = sum(s.rows * s.columns * s.arrays for s in _chip.matrix.subarrays)
assert abs(_chip.matrix.peak["bf16"] / (2 * _cells * _chip.clock) - 1) < 0.01, (
    "the peak in bf16 is not that of these arrays: cells × 2 FLOPs × clock. Peaks are totals and do not "
    "follow by themselves"
)
_sram, _dram = _chip.memory[-2], _chip.memory[-1]
assert _sram.bandwidth <= 1.01 * 5e12 * _cells / 128**2, "the SRAM is faster than the edges of so many cells could take"
assert _dram.capacity <= 1.01 * 24e9 * _dram.bandwidth / 819.2e9, (
    "so much HBM needs more stacks, and they bring bandwidth"
)
_figures = judged(_chip)
assert _figures["area_mm2"] <= AREA, (
    "too large: `area(hardware)` has the parts. Which of arrays, lanes, SRAM and links do you need less of?"
)
assert _figures["t_inf"] <= SECONDS, (
    "small enough, but too slow: look at the bounds of its estimate. What does the step wait for, and "
    "what buys more of that?"
)

# %% [markdown]
# What did you build, and where did the area go?

# %%
print({name: round(float(value), 2) for name, value in judged(chip(answer_3)).items()})
parts = {name: area(start if name == "start" else chip(answer_3)) for name in ("start", "mine")}
pd.DataFrame({name: {k: v / 1e-6 for k, v in vars(a).items()} for name, a in parts.items()}).rename_axis("mm²")

# %% [markdown]
# ## On from here
#
# `ebmsim sweep sweeps/cvr_memory.yaml -o results` sweeps a hundred thousand designs, and `docs/howto/explore.md` has
# more ways to find out what to improve: `ebmsim sensitivity` asks what one per cent more of each figure would be worth.
