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
# # Samplers, and how long to sample
#
# An energy says which samples are good; a **sampler** finds them. Three are common: Langevin dynamics, its adjusted
# form MALA, and Hamiltonian Monte Carlo. They differ in how often they ask for a gradient, and gradients are what
# costs. You watch them on a toy energy, price their steps on a device, and see what it is worth to stop in time.
#
# Nothing here needs a GPU, torch or a network connection.

# %% [markdown]
# ## A toy energy
#
# E(x) = (x² - 1)² / T in one dimension: two valleys, at -1 and 1. Each sampler below counts the gradients it takes.

# %%
import tempfile
from functools import cache
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

import ebmsim

T = 0.3
count = {"gradients": 0}


def energy(x):
    """The energy of every chain."""
    return (x**2 - 1) ** 2 / T


def gradient(x):
    """Its derivative, counted: one for all chains together, as they are batched."""
    count["gradients"] += 1
    return 4 * x * (x**2 - 1) / T


# %% [markdown]
# **Langevin dynamics** moves along the gradient and adds noise: x ← x - η g + √(2η) ε. Its steps have a finite size, so
# it is a little off. **MALA** takes the same move as a *proposal* and accepts it with a probability that makes up for
# that; the gradient at the new place serves the next step. **HMC** draws a momentum and follows the energy's slope for
# several *leapfrog* steps, each of which takes a gradient, before it accepts or rejects.


# %%
def langevin(x, steps, rng, size=0.02):
    """Unadjusted Langevin dynamics."""
    for _ in range(steps):
        x = x - size * gradient(x) + np.sqrt(2 * size) * rng.normal(size=x.shape)
    return x


def mala(x, steps, rng, size=0.02):
    """Metropolis-adjusted Langevin: the gradient of a place is taken once."""
    g = gradient(x)
    for _ in range(steps):
        new = x - size * g + np.sqrt(2 * size) * rng.normal(size=x.shape)
        g_new = gradient(new)
        there, back = (new - x + size * g) ** 2, (x - new + size * g_new) ** 2
        ratio = np.exp(energy(x) - energy(new) + (there - back) / (4 * size))
        accept = rng.uniform(size=x.shape) < ratio
        x, g = np.where(accept, new, x), np.where(accept, g_new, g)
    return x


def hmc(x, steps, rng, size=0.1, leapfrog=5):
    """Hamiltonian Monte Carlo: so many gradients a proposal, and one before the first."""
    g = gradient(x)
    for _ in range(steps):
        p = rng.normal(size=x.shape)
        new, momentum, g_new = x, p - size / 2 * g, g
        for i in range(leapfrog):
            new = new + size * momentum
            g_new = gradient(new)
            momentum = momentum - size * g_new * (1 if i < leapfrog - 1 else 0.5)
        accept = rng.uniform(size=x.shape) < np.exp(energy(x) - energy(new) + (p**2 - momentum**2) / 2)
        x, g = np.where(accept, new, x), np.where(accept, g_new, g)
    return x


rows = []
for sampler in (langevin, mala, hmc):
    count["gradients"] = 0
    ends = sampler(np.zeros(2000), 60, np.random.default_rng(0))
    rows.append({"sampler": sampler.__name__, "gradients": count["gradients"], "mean |x|": np.abs(ends).mean()})
pd.DataFrame(rows).set_index("sampler")

# %% [markdown]
# ### Exercise 1: count gradients
#
# Write a function that gives the number of gradients that a sampler (`"langevin"`, `"mala"` or `"hmc"`) takes in K
# steps, with L leapfrog steps each in HMC.


# %% tags=["solution"]
def answer_1(sampler, steps, leapfrog):
    if sampler == "langevin":
        return steps
    return 1 + steps * (leapfrog if sampler == "hmc" else 1)


# %% tags=["check"]
def _counted(sampler, steps, leapfrog):
    """Gradients taken by the samplers above."""
    count["gradients"] = 0
    settings = {"leapfrog": leapfrog} if sampler == "hmc" else {}
    {"langevin": langevin, "mala": mala, "hmc": hmc}[sampler](np.zeros(2), steps, np.random.default_rng(0), **settings)
    return count["gradients"]


assert isinstance(answer_1("langevin", 9, 3), int), "answer_1 gives no number yet: how often does a step call gradient?"
assert answer_1("langevin", 9, 3) == _counted("langevin", 9, 3), "Langevin: one gradient a step, at the place it leaves"
assert answer_1("mala", 9, 3) != 18, "MALA keeps the gradient of where it is; only the new place asks for one"
assert answer_1("mala", 9, 3) == _counted("mala", 9, 3), "MALA: and before the first step, who has taken a gradient?"
assert answer_1("hmc", 9, 3) not in (9, 10), (
    "HMC: a step is a whole path, and each leapfrog step on it takes a gradient"
)
assert answer_1("hmc", 9, 3) == _counted("hmc", 9, 3), "HMC: L for each path, and one before the first; no more"

# %% tags=["hidden"]
for _name in ("langevin", "mala", "hmc"):
    assert answer_1(_name, 4, 7) == _counted(_name, 4, 7), "right for some numbers only: K and L are arguments"

# %% [markdown]
# ## What a step costs
#
# ebmsim knows these samplers by name. This is a small network under each of them.

# %%
TEXT = """
name: net
title: A multilayer perceptron as an energy
paper: {{title: none, year: 2026}}
taxonomy: {{compositionality: mono, dependency: sequential}}
parameters: {{chains: 256, steps: 100}}
components:
  net:
    role: energy
    inputs: {{x: x}}
    nodes:
      - {{op: linear, out: 1024}}
      - {{op: silu}}
      - {{op: linear, out: 1024}}
      - {{op: silu}}
      - {{op: linear, out: 1}}
sampler: {{sample: {{x: [64]}}, preset: {sampler}, settings: {settings}}}
"""
rtx = ebmsim.load_hardware("rtx5090")


@cache
def step_of(sampler, settings="{}"):
    """The estimate of the network under a sampler."""
    file = Path(tempfile.mkdtemp()) / "net.yaml"
    file.write_text(TEXT.format(sampler=sampler, settings=settings))
    return ebmsim.estimate(ebmsim.load_workload(file), rtx)


rows = []
for sampler, settings in (("langevin", "{}"), ("mala", "{}"), ("hmc", "{leapfrog: 5}"), ("hmc", "{leapfrog: 10}")):
    s = step_of(sampler, settings).seconds
    rows.append(
        {
            "sampler": f"{sampler} {settings}",
            **{name: s[name] for name in ("t_fwd", "t_bwd_in", "t_rng", "t_accept", "t_samp")},
        }
    )
pd.DataFrame(rows).set_index("sampler")

# %% [markdown]
# ### Exercise 2: HMC of any length
#
# From the two rows of HMC alone, how long is a step with 30 leapfrog steps? Most of a step repeats with each leapfrog
# step, some of it does not.

# %% tags=["solution"]
five, ten = (step_of("hmc", f"{{leapfrog: {n}}}").seconds["t_samp"] for n in (5, 10))
each = (ten - five) / 5
answer_2 = ten + 20 * each

# %% tags=["check"]
assert isinstance(answer_2, Real), (
    "answer_2 is no number yet: two points give a line; how long is one more leapfrog step?"
)
_five, _ten, _far = (step_of("hmc", f"{{leapfrog: {n}}}").seconds["t_samp"] for n in (5, 10, 30))
assert min(abs(answer_2 / (6 * _five) - 1), abs(answer_2 / (3 * _ten) - 1)) > 1e-9, (
    "that multiplies all of the step, but momentum and acceptance come once a step: which part grows with the length?"
)
assert answer_2 > _ten, "a longer path takes longer: is the difference of both rows divided by the right number?"
assert abs(answer_2 / _far - 1) < 0.01, (
    "not on the line through both rows: begin at one of them and add what is missing"
)

# %% [markdown]
# ## How many steps?
#
# The paper ran CCSP, a constraint solver, at several step sizes, and with a rule that adapts the size and stops by
# itself (its Table IV). Steps are from there; times are ebmsim's:
#
# > Yang et al., "Towards System-2 AI: Workloads and Characterizations of Energy-Based Models", ISPASS 2026

# %%
from ebmsim.paper.tables import ADAPTIVE

published = dict(ADAPTIVE)
ccsp = ebmsim.estimate(ebmsim.load_workload("ccsp"), rtx)
pd.Series(published, name="steps")

# %% [markdown]
# ### Exercise 3: what adapting is worth
#
# How many times as fast is an inference with the adaptive rule as one at the default size (`1×`)? Take T_inf, which has
# things done once and a first step of its own; `ccsp.seconds` and the numbers of steps are enough.


# %% tags=["solution"]
def inference(steps):
    s = ccsp.seconds
    return s["t_once"] + s["t_samp_first"] + (steps - 1) * s["t_samp"]


answer_3 = inference(published["1×"]) / inference(published["adaptive"])

# %% tags=["check"]
assert isinstance(answer_3, Real), "answer_3 is no number yet: T_inf with the steps of 1×, over T_inf with fewer"
assert answer_3 > 1, "upside down: how many times as fast is the time before over the time after"
assert abs(answer_3 / (published["1×"] / published["adaptive"]) - 1) > 1e-6, (
    "that is the ratio of the steps; what is done once does not become shorter, so the gain is a little smaller"
)
_t = [
    ebmsim.estimate(ebmsim.load_workload("ccsp", overrides={"steps": published[name]}), rtx).seconds["t_inf"]
    for name in ("1×", "adaptive")
]
assert answer_3 < published["1×"] / 100, "too fast: compare with the default size, not with the slowest one"
assert abs(answer_3 / (_t[0] / _t[1]) - 1) < 1e-6, (
    "T_inf = t_once + t_samp_first + (K - 1) t_samp: is each part there once?"
)

# %% [markdown]
# ## Chains that stop at different times
#
# A rule that stops each chain by itself gives each a length of its own. Here chains of the toy energy stop once they
# are near the bottom of a valley:


# %%
def lengths_of(chains, seed=0, most=400):
    """Steps until each chain is near the bottom."""
    rng = np.random.default_rng(seed)
    x, found = np.zeros(chains), np.full(chains, most)
    for step in range(1, most + 1):
        x = x - 0.005 * gradient(x) + np.sqrt(0.01) * rng.normal(size=chains)
        found = np.minimum(found, np.where(energy(x) < 0.02, step, most))
    return found


lengths = lengths_of(64)
print(f"from {lengths.min()} to {lengths.max()} steps, {lengths.mean():.1f} in the mean")

# %% [markdown]
# In a batch, all chains share each step, whether some of them are done or not.
#
# ### Exercise 4: one batch, or one by one
#
# Let a step of a batch take `t_batch`, and a step of a single chain `t_one`. Write a function of the lengths and these
# two times that gives how long it takes until all chains are done: as a pair, in one batch, and one chain after
# another.


# %% tags=["solution"]
def answer_4(lengths, t_batch, t_one):
    return np.max(lengths) * t_batch, np.sum(lengths) * t_one


# %% tags=["check"]
_found = answer_4(lengths, 1.0, 1.0)
assert isinstance(_found, tuple), "answer_4 gives a pair: seconds in one batch, seconds one by one"
assert len(_found) == 2, "answer_4 gives a pair: seconds in one batch, seconds one by one"
assert abs(_found[0] - lengths.mean()) > 1e-9, (
    "in a batch the mean chain is not enough: who is the last one to be done?"
)
assert _found[0] < lengths.sum(), "in a batch, chains step together: their lengths are not added up"
assert _found[0] == lengths.max(), "a batch takes steps until its last chain is done"
assert _found[1] > lengths.max(), "one by one, every chain takes its own steps, after the one before"
assert _found[1] == lengths.sum(), "one by one: the steps of all chains, added up"
assert answer_4(lengths, 2.0, 1.0)[0] == 2 * _found[0], (
    "batch: each step of it takes t_batch, however many chains it moves"
)
assert answer_4(lengths, 1.0, 3.0)[1] == 3 * _found[1], "one by one: each step of each chain takes t_one"

# %% tags=["hidden"]
assert answer_4(np.array([3, 1, 8]), 2.0, 0.5) == (16.0, 6.0), "use the lengths that are given, not those of the text"

# %% [markdown]
# The longest of many chains is longer than the longest of few: the larger the batch, the more steps are spent on chains
# that are done. The mean of such maxima, over many batches:

# %%
rows = []
every = np.concatenate([lengths_of(512, seed) for seed in range(4)])
for chains in (1, 4, 16, 64, 256):
    w = ebmsim.load_workload("ired", overrides={"chains": chains})
    t = ebmsim.estimate(w, rtx).seconds["t_samp"]
    maxima = every.reshape(-1, chains).max(axis=1).mean()
    rows.append(
        {
            "C": chains,
            "mean length": every.mean(),
            "mean of the longest": maxima,
            "seconds a chain": maxima * t / chains,
        }
    )
batches = pd.DataFrame(rows).set_index("C")
assert batches["mean of the longest"].is_monotonic_increasing
assert batches["seconds a chain"].is_monotonic_decreasing
batches

# %% [markdown]
# Batching still wins by far on a GPU, since a step of IRED takes hardly longer for many chains than for one. It would
# win by more if places of chains that are done were filled again.
#
# ## On from here
#
# ebmsim takes the number of steps as given, `--set steps=170`; what accuracy it brings is not modelled. Samplers of
# other kinds are written as programs in the workload file: `docs/howto/own_model.md`. The next notebook checks
# predictions against your own machine.
