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
# # Forward, backward, and why only the input gradient
#
# A network that classifies runs forward, once. An energy network runs forward *and backward*, at every step, to find
# out in which direction its input should move. You write such a backward pass by hand, count what it costs beside the
# backward pass of training, and see which parts of a model never run backwards.
#
# Nothing here needs a GPU, torch or a network connection.

# %% [markdown]
# ## An energy, and downhill
#
# A small energy in numpy. Each row of x is a chain; h = x Wᵀ, a = tanh(h), and the energy of a chain is E = Σ v a.

# %%
import tempfile
from itertools import pairwise
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

import ebmsim

rng = np.random.default_rng(0)
x = rng.normal(size=(5, 4))  # 5 chains of 4 numbers
W = rng.normal(size=(8, 4))
v = rng.normal(size=8)


def energy(x):
    """The energy of every chain."""
    return np.tanh(x @ W.T) @ v


energy(x)

# %% [markdown]
# To move x downhill we need ∂E/∂x, the **input gradient**. The chain rule goes through the network from its end to its
# beginning: the derivative of E by a is v; that of tanh is 1 - a²; and h = x Wᵀ passes a gradient on by W.
#
# ### Exercise 1: the input gradient
#
# Write a function that gives ∂E/∂x for all chains: an array with the shape of x.


# %% tags=["solution"]
def answer_1(x):
    a = np.tanh(x @ W.T)
    gradient_h = v * (1 - a**2)
    return gradient_h @ W


# %% tags=["check"]
_found = answer_1(x)
assert isinstance(_found, np.ndarray), "answer_1 gives no array yet: begin at the end, with the derivative of E by a"
assert _found.shape != W.shape, "that has the shape of W: it is the gradient that training wants. Here x is what moves"
assert _found.shape == x.shape, "the gradient of x has the shape of x: one number for each number of each chain"
_small = 1e-6 * np.eye(4)
_slope = np.stack([(energy(x + d) - energy(x - d)) / 2e-6 for d in _small], axis=1)  # along each axis, by differences
assert not np.allclose(_found, np.broadcast_to(v @ W, x.shape)), "tanh is missing: its derivative is 1 - a²"
assert not np.allclose(_found, -_slope), "the sign: this is the direction downhill, the gradient points uphill"
assert np.allclose(_found, _slope, atol=1e-6), (
    "compared with energies a little to the left and to the right it is not the slope: check each factor "
    "of the chain rule"
)

# %% tags=["hidden"]
_other = np.random.default_rng(1).normal(size=(3, 4))
assert answer_1(_other).shape == _other.shape, "right for these chains only: compute it from the x that is given"
_slope = np.stack([(energy(_other + d) - energy(_other - d)) / 2e-6 for d in _small], axis=1)
assert np.allclose(answer_1(_other), _slope, atol=1e-6), "right for these chains only: each chain has its own a"

# %% [markdown]
# Now the sample moves. The noise is left out here, so that every step goes down:

# %%
moved, energies = x.copy(), []
for _ in range(30):
    energies.append(energy(moved).mean())
    moved = moved - 0.02 * answer_1(moved)
assert all(later < before for before, later in pairwise(energies))
print(f"mean energy from {energies[0]:.2f} to {energies[-1]:.2f}, and W has not changed")

# %% [markdown]
# ## What it costs
#
# Backward has the same products as forward, with the matrix the other way round: x Wᵀ multiplies each of the C chains
# with each number of W, and so does the gradient times W. Training needs one more product per layer, the gradient of W,
# which adds up over chains.
#
# Take a network of linear layers with widths n₀ (the sample), n₁, …, n_L. Each product of a C × n with an n × m matrix
# has 2 C n m FLOPs.
#
# ### Exercise 2: three passes
#
# Write a function of C and the widths that gives the FLOPs of all products in (1) the forward pass, (2) the backward
# pass of a sampling step, (3) the backward pass of training, as a tuple. In training nobody asks for the gradient of
# the sample itself, so the first layer passes nothing on.


# %% tags=["solution"]
def answer_2(chains, widths):
    layers = [2 * chains * n * m for n, m in pairwise(widths)]
    forward = sum(layers)
    to_weights, passed_on = sum(layers), sum(layers[1:])
    return forward, forward, to_weights + passed_on


# %% tags=["check"]
def _truth(chains, widths):
    """What ebmsim derives for such a network: gradients are found from its forward graph, not written down."""
    layers = "".join(f"      - {{op: linear, out: {m}}}\n      - {{op: silu}}\n" for m in widths[1:])
    text = f"""
name: layers
title: Linear layers
paper: {{title: none, year: 2026}}
taxonomy: {{compositionality: mono, dependency: sequential}}
parameters: {{chains: {chains}, training_batch: {chains}, steps: 10}}
components:
  net:
    role: energy
    inputs: {{x: x}}
    nodes:
{layers}sampler: {{sample: {{x: [{widths[0]}]}}, preset: langevin}}
training: {{terms: [contrastive]}}
"""
    file = Path(tempfile.mkdtemp()) / "layers.yaml"
    file.write_text(text)
    work = ebmsim.estimate(ebmsim.load_workload(file), ebmsim.load_hardware("rtx5090")).work
    return tuple(work[f"flops_{part}_matmul_conv"] for part in ("fwd", "bwd_in", "bwd_w"))


_widths = (64, 512, 256, 1)
_found, _wanted = answer_2(32, _widths), _truth(32, _widths)
assert isinstance(_found, tuple), "answer_2 gives three numbers: forward, sampling, training"
assert len(_found) == 3, "answer_2 gives three numbers: forward, sampling, training"
assert _found[0] != _wanted[0] / 2, "a multiplication and its addition are two FLOPs"
assert _found[0] == _wanted[0], "forward: go through neighbouring widths and add one product for each layer"
assert _found[1] != _wanted[2], "that is the backward pass of training; a sampling step has no gradients of weights"
assert _found[1] != 2 * _wanted[1], (
    "twice as much is the rule of thumb of training; sampling leaves out the weights' half"
)
assert _found[1] == _wanted[1], "sampling: the gradient goes back through every layer, the first one too, to the sample"
assert _found[2] != 2 * _wanted[0], "nearly: in training the first layer passes no gradient on to its input"
assert _found[2] != _wanted[0], (
    "that is the gradients of the weights alone; to reach the first layers, the gradient must also pass "
    "through the others"
)
assert _found[2] == _wanted[2], "training: gradients of all weights, and the gradient passed on by all layers but one"

# %% tags=["hidden"]
for _c, _w in ((1, (8, 16, 1)), (100, (784, 300, 300, 10, 1))):
    assert answer_2(_c, _w) == _truth(_c, _w), "right for one network only: take the widths as they are given"

# %% [markdown]
# So a step costs about two forward passes. In time the two need not be equal: the backward pass also has kernels that
# add gradients, and its products read matrices the other way. Here for several workloads, with the products alone and
# with everything:

# %%
rows = []
rtx = ebmsim.load_hardware("rtx5090")
for name in ("ebm_imp", "ired", "comet", "ebm_cvr"):
    e = ebmsim.estimate(ebmsim.load_workload(name), rtx)
    work, s = e.work, e.seconds
    products = work["flops_bwd_in_matmul_conv"] / work["flops_fwd_matmul_conv"]
    rows.append({"workload": name, "products": products, "time": s["t_bwd_in"] / s["t_fwd"]})
ratios = pd.DataFrame(rows).set_index("workload")
ratios

# %% [markdown]
# The products come out at about one, in IRED at less: a part of its network reads the question and never the answer
# that moves. The times differ more than the products do, because much of a step is not products.
#
# ## What never runs backwards
#
# A gradient is needed only on paths from the sample to the energy. A part of the model that does not see the sample
# costs nothing backward, however large it is.
#
# ### Exercise 3: who is left out?
#
# Which components of EBM-CVR run forward in a step and not backward? Give the set of their names. `components` has
# `t_fwd` and `t_bwd_in` of each; `ebmsim show ebm_cvr` says what each one reads.

# %%
pd.DataFrame(e.components)[["name", "parameters", "flops_fwd"]]

# %% tags=["solution"]
answer_3 = {part["name"] for part in e.components if part["t_fwd"] > 0 and part["t_bwd_in"] == 0}

# %% tags=["check"]
assert isinstance(answer_3, set), (
    "answer_3 is a set of names: look at t_fwd and t_bwd_in of every entry of e.components"
)
_names = {part["name"] for part in e.components}
assert answer_3 <= _names, "at least one of these is no component of EBM-CVR; the names are in the table above"
assert answer_3, "there is one: not every part of this model sees the image"
_back = {part["name"] for part in e.components if part["t_bwd_in"] > 0}
assert not answer_3 & _back, (
    "a network that sees the image has a path from the sample to the energy, so its gradient is needed: "
    "who sees only text?"
)
assert answer_3 == _names - _back, "one is missing: compare t_bwd_in of all components"

# %% [markdown]
# ## Training
#
# A training iteration draws negatives by K_t sampling steps, and only then takes gradients of the weights, once for
# data and once for negatives. So most of the training of an EBM is sampling. For EBM-IMP, an image generator:

# %%
imp = ebmsim.estimate(ebmsim.load_workload("ebm_imp"), rtx)
share = imp.seconds["t_train_sampling"] / imp.seconds["t_train"]
print(f"K_t = {imp.settings['training_steps']}, and {share:.0%} of the training is sampling")

# %% [markdown]
# ### Exercise 4: when is it half?
#
# T_train = N (K_t t + r): t is one sampling step at the training batch, and r the rest of an iteration. For which K_t
# would sampling be exactly half of the training time? Find t and r from `t_train`, `t_train_sampling` (= N K_t t) and
# the settings; the answer need not be whole.

# %% tags=["solution"]
s, n, k = imp.seconds, imp.settings["iterations"], imp.settings["training_steps"]
t = s["t_train_sampling"] / (n * k)
r = (s["t_train"] - s["t_train_sampling"]) / n
answer_4 = r / t

# %% tags=["check"]
assert isinstance(answer_4, Real), "answer_4 is no number yet: sampling is half of the time where K_t t equals r"
_settings = imp.settings
assert abs(answer_4 / (_settings["training_steps"] / 2) - 1) > 1e-6, (
    "half the steps take half the sampling time, but then the rest weighs more: which K_t makes K_t t as long as r?"
)
assert answer_4 < _settings["training_steps"], "with more steps sampling only gains weight: it has to lose some here"
_shares = []
for _steps in (int(answer_4), int(answer_4) + 1):
    _e = ebmsim.estimate(ebmsim.load_workload("ebm_imp", overrides={"training_steps": _steps}), rtx)
    _shares.append(_e.seconds["t_train_sampling"] / _e.seconds["t_train"])
assert _shares[0] < 0.5 < _shares[1], (
    "estimates with the whole numbers around your answer are not on both sides of a half: is t one step "
    "of one iteration?"
)

# %% [markdown]
# ## On from here
#
# ebmsim derives gradients from the forward graph by a rule for each operator, so that they are operators with costs of
# their own (`docs/adr/0004-gradients-are-operators.md`). The next notebook puts several networks into one energy.
