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
# # The roofline, by hand and by ebmsim
#
# A device can be slow for two simple reasons: it cannot compute faster, or it cannot fetch its numbers faster. The
# **roofline** says which, with two figures of the device and two of the kernel. You compute it by hand for one layer,
# look where ebmsim agrees and where it knows more, and draw it for a whole sampling step.
#
# Nothing here needs a GPU, torch or a network connection.

# %% [markdown]
# ## Two figures of the device
#
# The peak rate P of arithmetic, in FLOP/s, and the bandwidth W of its main memory (DRAM), in B/s. A FLOP is one
# multiplication or one addition. Data sheets give P at some clock; what the device can sustain may be another one, and
# P grows with it.

# %%
import tempfile
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

import ebmsim

rtx = ebmsim.load_hardware("rtx5090")
dram = rtx.memory[-1]
P = rtx.matrix.peak["fp32"] * rtx.sustained_clock / rtx.clock
W = dram.bandwidth
print(f"{rtx.title}: {P / 1e12:.1f} TFLOP/s in fp32, {W / 1e9:.0f} GB/s from {dram.name}")

# %% [markdown]
# ## Two figures of the kernel
#
# Take the plainest layer there is, y = x Wᵀ: C chains, each a vector of n numbers in, m numbers out. In fp32 a number
# has four bytes. Here it is as a workload with n = m = 8192; the network is one layer, and the energy is the sum of
# what it gives.

# %%
TEXT = """
name: layer
title: One linear layer as an energy
paper: {title: none, year: 2026}
taxonomy: {compositionality: mono, dependency: sequential}
parameters: {chains: 64, steps: 10, inputs: 8192, outputs: 8192}
components:
  net:
    role: energy
    inputs: {x: x}
    nodes:
      - {op: linear, out: outputs, bias: false}
      - {op: reduce_sum, axes: [0]}
sampler:
  sample: {x: [inputs]}
  preset: langevin
"""
file = Path(tempfile.mkdtemp()) / "layer.yaml"
file.write_text(TEXT)


def kernel_of(fidelity="analytical", **sizes):
    """The row of the layer's forward kernel, at the settings given."""
    workload = ebmsim.load_workload(file, overrides=sizes)
    return ebmsim.estimate(workload, rtx, ebmsim.Policy(fidelity=fidelity)).to_rows()[0]


kernel_of(chains=64)

# %% [markdown]
# `flops` is the kernel's arithmetic; `bytes_read` and `bytes_written` are what it must touch, each operand once.
#
# ### Exercise 1: count
#
# Write a function of C, n and m that gives the FLOPs of this layer and the bytes it touches, as a pair. One output of
# one chain is a sum of n products. Three arrays are touched: two are read, one is written.


# %% tags=["solution"]
def answer_1(chains, inputs, outputs):
    flops = 2 * chains * inputs * outputs
    numbers = chains * inputs + inputs * outputs + chains * outputs
    return flops, 4 * numbers


# %% tags=["check"]
_found = answer_1(64, 8192, 8192)
assert isinstance(_found, tuple), "answer_1 gives a pair: first the FLOPs, then the bytes"
assert len(_found) == 2, "answer_1 gives a pair: first the FLOPs, then the bytes"
_row = kernel_of(chains=64)
_flops, _bytes = _row["flops"], _row["bytes_read"] + _row["bytes_written"]
assert _found[0] != _flops / 2, "a product and its addition to the sum are two FLOPs, not one"
assert _found[0] == _flops, "FLOPs: how many outputs are there for all chains, and how many products has each?"
assert _found[1] != _bytes / 4, "those are numbers; each number of fp32 has four bytes"
assert _found[1] < _bytes * 2, "too many bytes: all chains share one matrix of weights, which is read once"
assert _found[1] == _bytes, (
    "bytes: the sample is read, the weights are read, and the outputs are written; add all three"
)

# %% tags=["hidden"]
for _c, _n, _m in ((1, 512, 2048), (300, 4096, 64)):
    _row = kernel_of(chains=_c, inputs=_n, outputs=_m)
    assert answer_1(_c, _n, _m) == (_row["flops"], _row["bytes_read"] + _row["bytes_written"]), (
        "right for a square layer only: inputs and outputs are different sizes, each array has its own"
    )

# %% [markdown]
# ## The ridge
#
# FLOPs over bytes is the kernel's **arithmetic intensity**. With little of it, memory is the limit; with much,
# arithmetic.
#
# ### Exercise 2: where is the ridge?
#
# At which intensity, in FLOPs per byte, do both limits of this device take equally long? Use `P` and `W`.

# %% tags=["solution"]
answer_2 = P / W

# %% tags=["check"]
assert isinstance(answer_2, Real), "answer_2 is no number yet: for one byte, how many FLOPs fit in the time it takes?"
assert answer_2 > 1, "that is bytes per FLOP: how many FLOPs can the device do while one byte arrives?"
_arithmetic, _transfer = answer_2 / P, 1 / W  # s, of a kernel that moves one byte
assert abs(_arithmetic / _transfer - 1) < 0.9, "far off: no unit has to be converted, P and W are in FLOP/s and B/s"
assert abs(_arithmetic / _transfer - 1) < 1e-6, "at the ridge, answer_2 FLOPs take as long as one byte: they do not yet"

# %% [markdown]
# The ridge is a property of the device alone. An elementwise kernel, which reads a number, does one FLOP and writes a
# number, has an intensity of 1/8: it can never reach the ridge, whatever its size.
#
# ## The time
#
# ### Exercise 3: the roofline's time
#
# A device can compute and fetch at once, so a kernel takes at least as long as the slower of the two. Write that as a
# function of FLOPs and bytes.


# %% tags=["solution"]
def answer_3(flops, moved):
    return max(flops / P, moved / W)


# %% tags=["check"]
assert isinstance(answer_3(1.0, 1.0), Real), "answer_3 gives no seconds yet: how long do FLOPs take, how long bytes?"
_much, _little = answer_3(P, W / 4), answer_3(P / 4, W)
assert abs(_much - 1.25) > 1e-6, "that adds both times, as if nothing were fetched while the device computes"
assert _much > 0.5, "that is the shorter of the two; a kernel is not done before the longer one is over"
assert abs(_much - 1) < 1e-6, "P FLOPs take a second; the bytes here arrive within that second"
assert abs(_little - 1) < 1e-6, "W bytes take a second; the arithmetic here is done within that second"

# %% [markdown]
# Beside ebmsim, at two fidelities: `roofline`, the same idea, and `analytical`, the default.

# %%
rows = []
for chains in (1, 16, 64, 128, 256, 1024):
    bound, full = kernel_of("roofline", chains=chains), kernel_of(chains=chains)
    by_hand = answer_3(*answer_1(chains, 8192, 8192))
    assert bound["device_seconds"] <= by_hand * 1.001 <= full["device_seconds"] * 1.2
    times = {"by hand": by_hand, "roofline": bound["device_seconds"], "analytical": full["device_seconds"]}
    rows.append({"C": chains, **times, "bound by": bound["bound"]})
pd.DataFrame(rows).set_index("C")

# %% [markdown]
# By hand and `roofline` nearly agree. The difference is what a formula for one kernel cannot know: the kernel before
# left the sample in a cache, so it need not come from DRAM. `analytical` is longer, since real products do not reach
# peak rates: tiles do not fill the device, memory does not reach its nominal bandwidth.
#
# Up to some number of chains, time hardly grows: the weights are read once for all of them. That is why chains are
# batched.
#
# ### Exercise 4: how many chains are free?
#
# Which is the smallest C among the powers of two (1, 2, 4, …) at which arithmetic becomes the limit of this layer?
# Intensity grows with C; where does it pass the ridge?

# %% tags=["solution"]
answer_4 = 1
while answer_1(answer_4, 8192, 8192)[0] / answer_1(answer_4, 8192, 8192)[1] < answer_2:
    answer_4 = 2 * answer_4

# %% tags=["check"]
assert isinstance(answer_4, int), "answer_4 is a whole number: try C = 1, 2, 4, … with your functions above"
assert answer_4 & (answer_4 - 1) == 0, "a power of two is asked for: double C until the intensity passes the ridge"
_here, _before = (kernel_of("roofline", chains=c)["bound"] for c in (answer_4, max(1, answer_4 // 2)))
assert _here == "compute", "with so few chains memory is still the limit: the weights alone outweigh the arithmetic"
assert _before != "compute", (
    "arithmetic is the limit there, but it is with half as many chains too: look for the smallest"
)

# %% [markdown]
# ## A whole step
#
# Every kernel of a step is a dot: its intensity to the right, the rate it reaches upwards. The roof is the lower of P
# and W × intensity. EBM-CVR, three convolutional networks that score an image:

# %%
import matplotlib.pyplot as plt

step = ebmsim.estimate(ebmsim.load_workload("ebm_cvr"), rtx)
kernels = pd.DataFrame(step.to_rows()).query("flops > 0")
kernels["intensity"] = kernels["flops"] / (kernels["bytes_read"] + kernels["bytes_written"])
kernels["rate"] = kernels["flops"] / kernels["device_seconds"]
l2 = rtx.memory[-2]

x = np.logspace(-3, 4, 200)
figure, axes = plt.subplots(figsize=(7, 4))
axes.loglog(x, np.minimum(P, W * x), color="black", label=f"roof with {dram.name}")
axes.loglog(x, np.minimum(P, l2.bandwidth * x), color="black", linestyle=":", label=f"roof with {l2.name}")
for category, dots in kernels.groupby("category"):
    axes.loglog(dots["intensity"], dots["rate"], ".", label=category)
axes.set(xlabel="FLOPs per byte", ylabel="FLOP/s", title=f"{step.workload.name} on {rtx.name}")
axes.legend()

# No kernel is above the roof of the nearer memory.
assert (kernels["rate"] <= np.minimum(P, l2.bandwidth * kernels["intensity"]) * 1.001).all()

# %% [markdown]
# Two clouds: convolutions to the right, under the flat part of the roof, and elementwise kernels to the left, under the
# slope. Dots between the two slopes found a part of their data in the L2 cache. Dots far below both are small kernels:
# neither arithmetic nor memory limits them, but their launch.
#
# ### Exercise 5: what would help?
#
# If P became infinite, and nothing else changed, which *category* of kernels would still take most of the device's
# time? Use the slope alone (bytes / W for each kernel); give the category's name.

# %% tags=["solution"]
kernels["transfer"] = (kernels["bytes_read"] + kernels["bytes_written"]) / W
answer_5 = kernels.groupby("category")["transfer"].sum().idxmax()

# %% tags=["check"]
assert isinstance(answer_5, str), "answer_5 is the name of a category, such as those in the legend of the picture"
assert answer_5 in set(kernels["category"]), "no kernel has that category; the names are in kernels['category']"
assert answer_5 != "convolution", (
    "convolutions have most of the FLOPs; but with an infinite P only bytes count, and who moves most of those?"
)
_bytes = (kernels["bytes_read"] + kernels["bytes_written"]).groupby(kernels["category"]).sum()
assert answer_5 == _bytes.idxmax(), "add up the bytes of each category: which one moves most?"

# %% [markdown]
# ## On from here
#
# The roofline counts one kernel at a time and knows no launches, no tiles and no waiting. `docs/cost_model.md` derives
# what ebmsim adds to it. The next notebook asks where a step's kernels come from, and why half of them run backwards.
