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
# # One network or many: taxonomy and parallelism
#
# Energies can be added. Three networks that each judge one attribute of a face make a model of all three, without any
# training. How a model is composed decides how much of a step can run side by side. You classify models as the paper
# does, weigh their weights, and find out what streams can bring and what they cannot.
#
# > Yang et al., "Towards System-2 AI: Workloads and Characterizations of Energy-Based Models", ISPASS 2026, Section III
#
# Nothing here needs a GPU, torch or a network connection.

# %% [markdown]
# ## Four classes
#
# - **mono**: one network.
# - **homo-ds** (duplicated structure): several networks of the same architecture, each with weights of its own.
# - **homo-dw** (duplicated weights): one network, with one set of weights, used for several parts of a problem.
# - **hetero**: networks of different architectures together.

# %%
import tempfile
from functools import cache
from numbers import Real
from pathlib import Path

import pandas as pd

import ebmsim

rtx = ebmsim.load_hardware("rtx5090")
rows = []
for name in ("ebm_imp", "ebt", "ired", "ebm_gr", "ebm_cmp", "ebm_cvr", "comet", "ccsp"):
    w = ebmsim.load_workload(name, "small")
    tags = ebmsim.estimate(w, rtx).taxonomy
    rows.append({"workload": name, "composed": tags["compositionality"], "dependency": tags["dependency"]})
classes = pd.DataFrame(rows).set_index("workload")
classes

# %% [markdown]
# ### Exercise 1: classify
#
# Four models in words. Give the class of each, as a dictionary from letter to class.
#
# - A: one convolutional network gives the energy of an image.
# - B: to place n queens on a board, one small network judges one line of it, and serves each row, column, diagonal.
# - C: for smile, hair and age of a face there is one network each, equally built and trained apart.
# - D: an image is judged by networks for three sizes of it, built differently, and a text encoder tells them what to
#   look for.

# %% tags=["solution"]
answer_1 = {"A": "mono", "B": "homo-dw", "C": "homo-ds", "D": "hetero"}

# %% tags=["check"]
assert isinstance(answer_1, dict), "answer_1 is a dictionary with the keys A, B, C and D and a class for each"
assert set(answer_1) == set("ABCD"), "answer_1 is a dictionary with the keys A, B, C and D and a class for each"
assert set(answer_1.values()) <= {"mono", "homo-ds", "homo-dw", "hetero"}, (
    "classes are spelt as in the list above: mono, homo-ds and so on"
)
assert answer_1["A"] == classes["composed"]["ebm_imp"], "A: how many networks are there, and how often is it used?"
assert answer_1["B"] != "mono", "B: one network, but it is used many times within one step, for different parts"
assert answer_1["B"] == classes["composed"]["ebm_gr"], (
    "B: does every line have a network of its own, or do all share one?"
)
assert answer_1["C"] == classes["composed"]["ebm_cmp"], (
    "C: equally built, so homogeneous; but they were trained apart: can they share their weights?"
)
assert answer_1["D"] == classes["composed"]["ebm_cvr"], "D: are these networks of one architecture?"

# %% [markdown]
# ## Shared or separate weights
#
# The same small network three times: with one set of weights, and with three. Both do the same arithmetic.

# %%
TEXT = """
name: networks
title: Equal networks that are added
paper: {{title: none, year: 2026}}
taxonomy: {{compositionality: {tag}, dependency: {dependency}}}
parameters: {{chains: 64, steps: 100}}
components:
  net:
    role: energy
    inputs: {{x: x}}
    instances: {instances}
    weights: {weights}
    nodes:
      - {{op: linear, out: 1024}}
      - {{op: silu}}
      - {{op: linear, out: 1024}}
      - {{op: silu}}
      - {{op: linear, out: 1}}
sampler: {{sample: {{x: [256]}}, preset: langevin}}
"""


def networks(instances, weights):
    """The network so many times, its weights `shared` or `distinct`."""
    tag = "mono" if instances == 1 else {"shared": "homo-dw", "distinct": "homo-ds"}[weights]
    dependency = "sequential" if instances == 1 else "fully-parallel"
    file = Path(tempfile.mkdtemp()) / "networks.yaml"
    file.write_text(TEXT.format(tag=tag, dependency=dependency, instances=instances, weights=weights))
    return ebmsim.load_workload(file)


rows = []
for instances, weights in ((1, "shared"), (3, "shared"), (3, "distinct")):
    e = ebmsim.estimate(networks(instances, weights), rtx)
    figures = {"FLOPs": e.work["flops_fwd"], "weights, bytes": e.size["parameter_bytes"], "t_samp": e.seconds["t_samp"]}
    rows.append({"class": e.taxonomy["derived_compositionality"], **figures})
pd.DataFrame(rows).set_index("class")

# %% [markdown]
# Shared weights need to be fetched once, and stay near between forward and backward, and from step to step, as long as
# they fit in a cache. Separate ones need room for all.
#
# ### Exercise 2: when do they no longer fit?
#
# From how many instances on are *separate* weights of this network larger than the L2 cache? `capacity` of the L2 and
# `parameter_bytes` of one instance are in bytes.

# %%
l2 = rtx.memory[-2]
one = ebmsim.estimate(networks(1, "shared"), rtx)
print(f"{l2.name}: {l2.capacity:.0f} B")

# %% tags=["solution"]
answer_2 = int(l2.capacity // one.size["parameter_bytes"]) + 1

# %% tags=["check"]
assert isinstance(answer_2, int), "answer_2 is a whole number of instances: divide room by what one takes, then round"


def _bytes(instances):
    """Bytes of separate weights, as ebmsim counts them."""
    return ebmsim.estimate(networks(instances, "distinct"), rtx).size["parameter_bytes"]


assert answer_2 >= 1, "zero networks surely fit; it is the first number that does not fit that counts"
assert answer_2 < 1000, "far too many: is one of the two figures in numbers, and the other one in bytes?"
assert _bytes(answer_2) > l2.capacity, (
    "so many still fit: a quotient rounded down is the last that fits, not the first not to"
)
assert answer_2 == 1 or _bytes(answer_2 - 1) <= l2.capacity, "it is too late there: one fewer does not fit either"

# %% [markdown]
# ## Side by side
#
# How networks depend on one another is the other half of the taxonomy: **sequential**, one reads what another one
# gives; **fully-parallel**, none does; **mixed-parallel**, some do. Independent networks can run in **streams** of one
# device. What that brings at best is Amdahl's law: if a share p of the time is spread evenly over s streams, the rest
# stays.
#
# ### Exercise 3: Amdahl
#
# Write the speed-up as a function of p and s: the time before, over the time after.


# %% tags=["solution"]
def answer_3(p, s):
    return 1 / ((1 - p) + p / s)


# %% tags=["check"]
assert isinstance(answer_3(0.5, 2), Real), "answer_3 gives no number yet: what is left of a time of 1, in two parts?"
assert answer_3(0.5, 2) > 1, "that is a time; a speed-up is the time before over the time after, more than 1"
assert abs(answer_3(0.0, 4) - 1) < 1e-12, (
    "where nothing can be spread, nothing is gained: what happens to the rest, 1 - p?"
)
assert abs(answer_3(1.0, 4) - 4) < 1e-12, "where all of it is spread, the speed-up is the number of streams"
# In many streams a half of the time vanishes, so the speed-up comes near two.
assert 1.99 < answer_3(0.5, 1000) <= 2, "with p a half the other half remains, however many streams there are"
assert abs(answer_3(0.5, 2) - 4 / 3) < 1e-12, "of a time of one, a half stays, and the other half becomes a quarter"

# %% tags=["hidden"]
assert abs(answer_3(0.9, 3) - 2.5) < 1e-12, "check the formula with p = 0.9: a tenth stays and nine tenths become three"

# %% [markdown]
# Now the model. EBM-CMP adds three convolutional networks; everything of a step but random numbers and the update is in
# them. Policies say how many streams there are at most, and how kernels are launched.


# %%
@cache
def times(preset, execution):
    """T_samp of EBM-CMP in up to one, two and three streams, and the share of it that is in its networks."""
    w = ebmsim.load_workload("ebm_cmp", preset)
    found = [ebmsim.estimate(w, rtx, ebmsim.Policy(execution=execution, streams=s)) for s in (1, 2, 3)]
    (net,) = found[0].components
    return [e.seconds["t_samp"] for e in found], (net["t_fwd"] + net["t_bwd_in"]) / found[0].seconds["t_samp"]


rows = []
for preset in ("default", "small"):
    t, p = times(preset, "graph")
    for s in (2, 3):
        assert t[0] / t[s - 1] <= answer_3(p, s) * (1 + 1e-9)
        rows.append({"preset": preset, "streams": s, "Amdahl": answer_3(p, s), "model": t[0] / t[s - 1]})
pd.DataFrame(rows).set_index(["preset", "streams"])

# %% [markdown]
# Amdahl's law is a bound. At the small size the model comes near it, because the kernels of one network leave most of
# the device idle. At full size they do not: two kernels that each want all of the device take turns in any number of
# streams.
#
# ### Exercise 4: the host
#
# In `eager` execution one thread of the host issues every kernel, one after another; a `graph` is issued at once; with
# `persistent` the loop lives on the device. For the preset `small`: in which of the three do three streams bring the
# *largest speed-up* over one, and how large is it? The answer is a pair.

# %% tags=["solution"]
gains = {}
for execution in ("eager", "graph", "persistent"):
    t, _ = times("small", execution)
    gains[execution] = t[0] / t[2]
best = max(gains, key=gains.get)
answer_4 = (best, gains[best])

# %% tags=["check"]
assert isinstance(answer_4, tuple), "answer_4 is a pair: the name of an execution, and a speed-up"
assert len(answer_4) == 2, "answer_4 is a pair: the name of an execution, and a speed-up"
assert answer_4[0] in ("eager", "graph", "persistent"), "the name is one of eager, graph, persistent"
assert answer_4[0] != "eager", (
    "streams do not help the host: it still issues every kernel by itself, and this step waits for it, "
    "not for the device"
)
_gains = {execution: times("small", execution)[0] for execution in ("graph", "persistent")}
_best = max(_gains, key=lambda name: _gains[name][0] / _gains[name][2])
assert answer_4[0] == _best, "that may be the shortest step; asked for is the largest gain from one stream to three"
assert abs(answer_4[1] / (_gains[_best][0] / _gains[_best][2]) - 1) < 1e-6, (
    "the execution is right; its speed-up is T_samp in one stream over T_samp in three"
)

# %% [markdown]
# ## On from here
#
# The paper measured four workloads in CUDA streams; `ebmsim paper streams` shows its speed-ups beside the model's.
# `ebmsim explain ebm_cmp --hw rtx5090 --streams 3` tells which branch runs when. The next notebook turns from one step
# to many.
