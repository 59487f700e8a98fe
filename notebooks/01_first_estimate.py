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
# # A first estimate
#
# An Energy-Based Model answers by searching: a network scores a candidate (the *sample*) with one number, its energy,
# and the sample moves downhill, step after step. This notebook predicts what that costs for one workload on one device,
# opens the prediction until it rests on figures of a data sheet, and changes some of them.
#
# Nothing here needs a GPU, torch or a network connection.
#
# Three exercises are spread through the text. Each has a cell for your answer and a cell that checks it. Where a check
# fails, it says what to think about.

# %% [markdown]
# ## What, on what, how
#
# An estimate joins three things that are never mixed: a **workload** (what), a **hardware** description (on what) and a
# **policy** (how). `ebm_cvr` draws an image that obeys a relation between two objects; three convolutional networks
# score it and their energies are added.

# %%
import pandas as pd

import ebmsim

cvr = ebmsim.load_workload("ebm_cvr")
rtx = ebmsim.load_hardware("rtx5090")
e = ebmsim.estimate(cvr, rtx)

pd.Series({name: value for name, value in e.seconds.items() if name.startswith(("t_samp", "t_once", "t_inf"))})

# %% [markdown]
# All figures are in SI units, so these are seconds. `t_samp` is one sampling step of all chains, `t_inf` a whole
# inference. How many chains and steps those are stands in the settings, which are part of every answer:

# %%
{name: e.settings[name] for name in ("preset", "chains", "steps")}

# %% [markdown]
# A prediction without its uncertainty is half a prediction. The device says `validated: false`: nothing was measured on
# it, and the 80 % interval is wide.

# %%
low, high = e.seconds_interval["t_samp"]
print(f"T_samp {1e3 * e.seconds['t_samp']:.1f} ms, between {1e3 * low:.1f} and {1e3 * high:.1f} ms; {rtx.validated=}")

# %% [markdown]
# ## Where the time goes
#
# A step is a list of kernels, one row each. First by phase: forward, back to the input (the sample needs a gradient,
# the weights do not), random numbers, update.

# %%
kernels = pd.DataFrame(e.to_rows())
by_phase = kernels.groupby("phase", sort=False).agg(kernels=("kernel", "size"), seconds=("seconds", "sum"))
by_phase["share"] = by_phase["seconds"] / by_phase["seconds"].sum()
by_phase

# %% [markdown]
# Then by what *binds* a kernel: arithmetic (`compute`), a memory level (`memory:dram`), or the fixed cost and the
# launching of kernels (`dispatch`).

# %%
kernels.groupby("bound")["seconds"].sum().sort_values(ascending=False) / kernels["seconds"].sum()

# %% [markdown]
# And the most expensive kernels: single convolutions. But there are hundreds of small kernels behind them. Added up by
# category, convolutions have nearly all the FLOPs and a minor part of the time: most of it goes to elementwise kernels,
# which multiply, add or normalise, and move many bytes for little arithmetic.

# %%
kernels.nlargest(8, "seconds")[["kernel", "op", "phase", "flops", "bytes_read", "seconds", "bound"]]

# %%
by_category = kernels.groupby("category")[["flops", "seconds"]].sum()
by_category / by_category.sum()

# %% [markdown]
# ## What one figure changes
#
# Any figure of the device can be replaced when it is loaded, written as in its file. Here the DRAM becomes twice as
# fast.

# %%
faster = ebmsim.load_hardware("rtx5090", {"memory.dram.bandwidth": "3584 GB/s"})
doubled = ebmsim.estimate(cvr, faster)
print(f"{e.seconds['t_samp'] / doubled.seconds['t_samp']:.2f} times as fast")
pd.DataFrame({"before": e.bounds, "after": doubled.bounds}).fillna(0.0)

# %% [markdown]
# Less than two times: only a part of the step waited for DRAM, and once DRAM is faster something else binds.
#
# ### Exercise 1: how far can it get?
#
# `e.bounds["memory:dram"]` is the share of the step bound by DRAM. If exactly that share took half as long, and all
# else stayed as it is, how long would the step take? Give seconds, computed from `e` alone.

# %% tags=["solution"]
share = e.bounds["memory:dram"]
answer_1 = e.seconds["t_samp"] * (1 - share / 2)

# %% tags=["check"]
assert isinstance(answer_1, float), "answer_1 is no number yet: T_samp is e.seconds['t_samp']; now shorten its share"
assert answer_1 > e.seconds["t_samp"] / 2, (
    "that is a whole step at twice the speed or more, but only a share of it waits for DRAM: leave the rest as it is"
)
assert answer_1 < e.seconds["t_samp"], "faster DRAM cannot make a step longer: which part of T_samp shrinks?"
# The same from the rows: what waits for DRAM counts half, or not at all.
_dram = sum(row["seconds"] for row in e.to_rows() if row["bound"] == "memory:dram")
_rest = sum(row["seconds"] for row in e.to_rows()) - _dram
assert abs(answer_1 / _rest - 1) > 1e-6, (
    "that is the step with an infinitely fast DRAM; here the share takes half its time, not none"
)
assert abs(answer_1 / (_rest + _dram / 2) - 1) < 1e-6, (
    "not quite: one part of the step stays as it is, the other one takes half its time; add up both"
)

# %%
print(f"Amdahl says {1e3 * answer_1:.2f} ms, the model {1e3 * doubled.seconds['t_samp']:.2f} ms")

# %% [markdown]
# The two differ, and both ways are possible. A kernel's share holds its fixed time too, and near the border another
# limit takes over: then the model is slower than Amdahl. A product pays for the slower of two limits and a little more
# for the other one (the soft knee), so kernels that count as `compute` gain too: then it is faster.
#
# ## Steps and chains
#
# Steps follow one another, so T_inf is affine in K: something once, a first step with cold caches, then K - 1 equal
# ones. Chains are independent, so they share each step: the sample has a leading axis of C chains.

# %%
rows = []
for chains in (1, 4, 32):
    one = e if chains == 32 else ebmsim.estimate(ebmsim.load_workload("ebm_cvr", overrides={"chains": chains}), rtx)
    binds = max(one.bounds, key=one.bounds.get)
    rows.append({"C": chains, "t_samp": one.seconds["t_samp"], "t_inf": one.seconds["t_inf"], "bound by": binds})
scaling = pd.DataFrame(rows).set_index("C")
scaling["t_samp per chain"] = scaling["t_samp"] / scaling.index
scaling

# %% [markdown]
# A few chains cost no more than one: the device waits for the host to launch kernels, and a larger kernel takes no
# longer to launch. From some C on, the device has work for the whole step, and time grows with C. Equation 6 of the
# paper, T_inf ≈ T_samp × C × K, counts chains one after another; the gap is what batching brings:

# %%
print(f"batched {e.seconds['t_inf']:.1f} s, one after another (Eq. 6) {e.seconds['t_inf_eq6']:.1f} s")

# %% [markdown]
# ### Exercise 2: more steps
#
# How long is an inference of K steps with the same chains? Write a function of K that uses `e.seconds` only; no new
# estimate is needed.


# %% tags=["solution"]
def answer_2(steps):
    s = e.seconds
    return s["t_once"] + s["t_samp_first"] + (steps - 1) * s["t_samp"]


# %% tags=["check"]
_many = answer_2(1000)
assert isinstance(_many, float), "answer_2 gives no number yet: combine t_once, t_samp_first and t_samp"
assert _many < 2000 * e.seconds["t_samp"], (
    "too long by about the number of chains: one batched step already moves all chains. Only Eq. 6 multiplies by C"
)
assert _many > 900 * e.seconds["t_samp"], "too short: so many steps cannot take less than as many t_samp"
_true = ebmsim.estimate(ebmsim.load_workload("ebm_cvr", overrides={"steps": 1000}), rtx).seconds["t_inf"]
assert abs(_many / _true - 1) < 1e-9, (
    "close, but not the same: one of the K steps is the first one, and some work is done once. Count each step once"
)

# %% tags=["hidden"]
_true = ebmsim.estimate(ebmsim.load_workload("ebm_cvr", overrides={"steps": 1}), rtx).seconds["t_inf"]
assert abs(answer_2(1) / _true - 1) < 1e-9, "right for many steps only: what is left of an inference of a single step?"

# %% [markdown]
# ## Roofline against analytical
#
# The `roofline` fidelity is a lower bound: least arithmetic, least traffic, perfect overlap, no fixed costs. The
# default, `analytical`, adds tiles, caches, launches and synchronisation to the same kernels. Their ratio says how much
# of the time is *not* explained by peak figures, and it depends on the workload more than on the device.

# %%
rows = []
for w in (cvr, ebmsim.load_workload("ired")):
    bound = ebmsim.estimate(w, rtx, ebmsim.Policy(fidelity="roofline")).seconds["t_samp"]
    full = (e if w is cvr else ebmsim.estimate(w, rtx)).seconds["t_samp"]
    rows.append({"workload": w.name, "roofline": bound, "analytical": full, "ratio": full / bound})
pd.DataFrame(rows).set_index("workload")

# %% [markdown]
# ## Devices
#
# The same workload on every device that ships. Nothing about a device is in the workload, so this is one loop.

# %%
rows = []
for name in ("rtx5090", "tpu_v6e", "ryzen9900x"):
    on = e if name == rtx.name else ebmsim.estimate(cvr, ebmsim.load_hardware(name))
    binds = max(on.bounds, key=on.bounds.get)
    rows.append(
        {"device": name, "t_samp": on.seconds["t_samp"], "watts": on.energy["mean_power_watts"], "bound by": binds}
    )
pd.DataFrame(rows).set_index("device")

# %% [markdown]
# Before quoting such a table: none of the three is validated, and the intervals of two devices may overlap.
#
# ### Exercise 3: a small model
#
# The preset `small` has so little work per kernel that the device mostly waits. Which execution is fastest for it:
# `eager`, `graph`, `compiled` or `persistent`? And how many kernels does a step then have (`work["kernels"]`)? The
# answer is a pair: the name and the number.

# %%
small = ebmsim.load_workload("ebm_cvr", "small")

# %% tags=["solution"]
names = ("eager", "graph", "compiled", "persistent")
found = {name: ebmsim.estimate(small, rtx, ebmsim.Policy(execution=name)) for name in names}
best = min(found, key=lambda name: found[name].seconds["t_samp"])
answer_3 = (best, found[best].work["kernels"])

# %% tags=["check"]
assert isinstance(answer_3, tuple), (
    "answer_3 is a pair: the name of an execution and a number of kernels; try Policy(execution=...) for all four"
)
assert answer_3[0] != "eager", "eager pays the host for every single kernel of every step; something is faster"
assert answer_3[0] != "graph", "a captured graph frees the host, but every operator is still a kernel; what also fuses?"
assert answer_3[0] != "compiled", "fused, but the host still issues each kernel of each step; who would not need it?"
assert answer_3[0] == "persistent", "the name is one of eager, graph, compiled, persistent, as Policy takes them"
_kernels = ebmsim.estimate(small, rtx, ebmsim.Policy(execution="persistent")).work["kernels"]
assert answer_3[1] == _kernels, (
    "the execution is right, but it has another number of kernels: take work['kernels'] of its own estimate"
)

# %% [markdown]
# ## On from here
#
# `ebmsim explain ebm_cvr KERNEL --hw rtx5090` derives one kernel's time with its numbers. What every formula assumes
# and leaves out is written in `docs/assumptions.md`. The next notebook draws the roofline that the word comes from.
