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
# # Capture a torch model of your own
#
# If your energy network exists in torch, nobody has to describe it again: ebmsim reads the module. You capture one,
# check what was captured against a count by hand and against torch's own counter, and repair a module that cannot be
# captured.
#
# This notebook needs torch (`pip install 'ebmsim[torch]'`), but no GPU: the module is exported, never run for its time.

# %%
from importlib.util import find_spec

assert find_spec("torch"), "this notebook needs torch: pip install 'ebmsim[torch]', then start it again"

# %% [markdown]
# ## A module and example inputs
#
# A call of the module gives one energy per chain. The first input is the sample, and its first axis the chains; other
# inputs are conditions.

# %%
from itertools import pairwise
from numbers import Real

import pandas as pd
import torch
from torch import nn

import ebmsim

torch.manual_seed(0)


class Layers(nn.Module):
    """Linear layers of the given widths, with a SiLU between them; the last one gives the energy."""

    def __init__(self, widths):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.nn.functional.silu(layer(x))
        return self.layers[-1](x).squeeze(-1)


module, sample = Layers((64, 256, 256, 1)), torch.randn(32, 64)
workload = ebmsim.capture(module, sample, steps=50)
rtx = ebmsim.load_hardware("rtx5090")
e = ebmsim.estimate(workload, rtx)
print(f"{e.settings['chains']} chains, {e.settings['steps']} steps: {1e3 * e.seconds['t_inf']:.2f} ms on {rtx.name}")

# %% [markdown]
# The chains are those of the example; sampler (Langevin dynamics) and number of steps are defaults, not facts of the
# module. This is what a step consists of:

# %%
pd.DataFrame(e.to_rows())[["kernel", "op", "phase", "flops"]]

# %% [markdown]
# ### Exercise 1: parameters
#
# Before you trust a captured model, count something yourself. Write a function of the widths that gives the number of
# parameters of such layers; a linear layer from n to m has a weight for every pair, and m biases.


# %% tags=["solution"]
def answer_1(widths):
    return sum(n * m + m for n, m in pairwise(widths))


# %% tags=["check"]
_widths = (64, 256, 256, 1)
_found = answer_1(_widths)
assert isinstance(_found, Real), "answer_1 gives no number yet: go through neighbouring widths, one layer each"
assert _found != sum(n * m for n, m in pairwise(_widths)), "those are the weights alone; every layer has biases too"
assert _found < 4 * e.size["parameters"] or _found != e.size["parameter_bytes"], (
    "those are bytes; asked for is how many numbers the layers have"
)
assert _found == e.size["parameters"], (
    "not what was captured: each layer has n times m weights and m biases, nothing else"
)

# %% tags=["hidden"]
_other = (8, 16, 4, 1)
_size = ebmsim.estimate(ebmsim.capture(Layers(_other), torch.randn(2, 8)), rtx).size
assert answer_1(_other) == _size["parameters"], "right for one network only: use the widths that are given"

# %% [markdown]
# ## Against torch's counter
#
# torch can count FLOPs of products while a module runs. A sampling step runs forward, and backward *to the sample
# only*.
#
# ### Exercise 2: count a step
#
# Write a function of a module and a sample that gives what torch counts for the forward pass and the gradient of the
# summed energy with respect to the sample, both together. `FlopCounterMode` counts what is done within its `with`
# block. The gradient of one tensor alone is `energy.backward(inputs=[x])`, where x is a copy of the sample that
# requires one.

# %%
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter:
    module(sample)
print(counter.get_total_flops(), "in the forward pass")


# %% tags=["solution"]
def answer_2(module, sample):
    x = sample.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        module(x).sum().backward(inputs=[x])
    return counter.get_total_flops()


# %% tags=["check"]
_found = answer_2(module, sample)
assert isinstance(_found, Real), "answer_2 gives no number yet: give the counter's total after the with block"
_forward, _back, _weights = (e.work[f"flops_{part}_matmul_conv"] for part in ("fwd", "bwd_in", "bwd_w"))
assert _found != _forward, "that is the forward pass alone: take the gradient within the with block too"
assert _found != _forward + _weights, (
    "that has gradients of the weights and none of the sample: let x require a gradient, and ask torch for that one"
)
assert _found < _forward + _back + _weights / 2, (
    "that has gradients of the weights too, as a plain .backward() takes them; with inputs=[x] torch "
    "takes that of x alone"
)
assert _found == _forward + _back, (
    "not what ebmsim derives from the captured graph: is anything counted twice or left out?"
)

# %% [markdown]
# ebmsim never ran the module: it derived the backward pass from the forward graph, and found the same products.
#
# ## What cannot be captured
#
# An operator that ebmsim does not know is an error, with its line; nothing is counted as zero. This energy is the
# distance from the least to the largest number of a chain:


# %%
def spread(x):
    """The largest number of each chain less the least."""
    ordered, _ = torch.sort(x, dim=-1)
    return ordered[:, -1] - ordered[:, 0]


class Energy(nn.Module):
    """A function of the sample as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


try:
    ebmsim.capture(Energy(spread), torch.randn(32, 64))
except ebmsim.SpecError as error:
    print(error)

# %% [markdown]
# ### Exercise 3: the same without sorting
#
# Sorting is much more than this energy needs. Write a function that gives the same and can be captured.


# %% tags=["solution"]
def answer_3(x):
    return x.amax(dim=-1) - x.amin(dim=-1)


# %% tags=["check"]
_x = torch.randn(32, 64)
_found = answer_3(_x)
assert isinstance(_found, torch.Tensor), (
    "answer_3 gives no tensor yet: what are the largest and the least of each chain?"
)
assert _found.shape == (32,), "one energy per chain: reduce along the last axis, and leave the first one, the chains"
assert torch.allclose(_found, spread(_x)), "not the same as spread(x): it is the largest number less the least"
try:
    _work, _problem = ebmsim.estimate(ebmsim.capture(Energy(answer_3), _x), rtx).work, ""
except ebmsim.SpecError as _error:
    _work, _problem = None, "; ".join(p.message for p in _error.problems)
assert _work is not None, f"the values are right, but ebmsim cannot take it, and says: {_problem}"
assert _work["flops_bwd_in"] > 0, "no gradient reaches the sample: does every number of the result depend on it?"

# %% [markdown]
# ## Chains and devices
#
# A captured workload is like any other. More chains, on other devices:

# %%
rows = []
for device in ("rtx5090", "a100", "ryzen9900x"):
    for chains in (32, 4096):
        found = ebmsim.estimate(workload.with_parameters(chains=chains), ebmsim.load_hardware(device))
        rows.append(
            {
                "device": device,
                "C": chains,
                "t_samp": found.seconds["t_samp"],
                "bound by": max(found.bounds, key=found.bounds.get),
            }
        )
pd.DataFrame(rows).set_index(["device", "C"])

# %% [markdown]
# ## On from here
#
# `ebmsim capture FILE.py:FACTORY -o my_energy.yaml` writes the workload file, where sampler and counts can be changed:
# `docs/howto/capture.md`. Then go back to the first notebooks, with your own model in the place of theirs.
