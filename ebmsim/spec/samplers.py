"""The named samplers, written in the same program grammar a workload file uses.

Textbook form: one forward and backward per proposal or leapfrog step, the energies of end points cached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmsim.spec.workload import Sampler

Program = list[dict[str, Any]]


def _sample(sampler: Sampler) -> tuple[str, list[Any]]:
    name, shape = next(iter(sampler.sample.items()))
    return name, shape


def _start(x: str, shape: list[Any]) -> Program:
    return [{"op": "random_normal", "name": x, "shape": shape}]


def _move(x: str, shape: list[Any], step_size: Any, noise: Any) -> Program:
    """x ← x - η g + √(2η) ε (Eq. 2 of the paper), g already computed."""
    return [
        {"op": "random_normal", "name": "noise", "shape": shape},
        {"op": "scale", "name": "drift", "inputs": ["g"], "by": step_size},
        {"op": "sub", "name": "moved", "inputs": [x, "drift"]},
        {"op": "scale", "name": "kick", "inputs": ["noise"], "by": noise},
    ]


def langevin(sampler: Sampler) -> Program:
    """Unadjusted Langevin dynamics, Eq. 2: one gradient a step."""
    x, shape = _sample(sampler)
    a = sampler.settings
    step = [
        {"evaluate": "gradient", "at": x, "name": "g"},
        *_move(x, shape, a.get("step_size", 0.01), a.get("noise", 0.1414)),
        {"op": "add", "name": x, "inputs": ["moved", "kick"]},
    ]
    return [*_start(x, shape), {"loop": "steps", "label": "step", "do": step}]


def gradient_descent(sampler: Sampler) -> Program:
    """Plain gradient descent on the energy: x ← x - η g."""
    x, shape = _sample(sampler)
    step = [
        {"evaluate": "gradient", "at": x, "name": "g"},
        {"op": "scale", "name": "drift", "inputs": ["g"], "by": sampler.settings.get("step_size", 0.01)},
        {"op": "sub", "name": x, "inputs": [x, "drift"]},
    ]
    return [*_start(x, shape), {"loop": "steps", "label": "step", "do": step}]


def annealed_langevin(sampler: Sampler) -> Program:
    """Langevin dynamics at `levels` noise levels one after another, steps / levels at each."""
    x, shape = _sample(sampler)
    inner = langevin(sampler)[-1]
    levels = sampler.settings.get("levels", 10)
    inner = {**inner, "loop": f"steps // ({levels})"}
    return [*_start(x, shape), {"loop": levels, "do": [inner]}]


def _accept(rank: int) -> Program:
    """Accept or reject a proposal per chain by the energy difference (and what the proposal adds to it)."""
    return [
        {"op": "sub", "name": "rise", "inputs": ["energy_new", "energy_old"], "phase": "accept"},
        {"op": "exp", "name": "ratio", "inputs": ["rise"], "phase": "accept"},
        {"op": "random_uniform", "name": "coin", "shape": [], "phase": "accept"},
        {"op": "less", "name": "lower", "inputs": ["coin", "ratio"], "phase": "accept"},
        {"op": "reshape", "name": "accepted", "inputs": ["lower"], "shape": [1] * rank, "phase": "accept"},
    ]


def mala(sampler: Sampler) -> Program:
    """Metropolis-adjusted Langevin: one gradient (and its energy) per proposal, the accepted one cached.

    The log-densities of the proposal and its reverse are sums of squares over the sample.
    """
    x, shape = _sample(sampler)
    a = sampler.settings
    axes = list(range(len(shape)))
    step = [
        *_move(x, shape, a.get("step_size", 0.01), a.get("noise", 0.1414)),
        {"op": "add", "name": "proposal", "inputs": ["moved", "kick"]},
        {"evaluate": "gradient", "at": "proposal", "name": "g_new", "energy": "energy_new"},
        {"op": "sub", "name": "back", "inputs": [x, "proposal"], "phase": "accept"},
        {"op": "square", "name": "back2", "inputs": ["back"], "phase": "accept"},
        {"op": "reduce_sum", "name": "reverse", "inputs": ["back2"], "axes": axes, "phase": "accept"},
        {"op": "square", "name": "kick2", "inputs": ["kick"], "phase": "accept"},
        {"op": "reduce_sum", "name": "energy_old", "inputs": ["kick2"], "axes": axes, "phase": "accept"},
        *_accept(len(shape)),
        {"op": "select", "name": x, "inputs": ["accepted", "proposal", x], "phase": "accept"},
    ]
    first = {"evaluate": "gradient", "at": x, "name": "g", "energy": "energy_old"}
    return [*_start(x, shape), first, {"loop": "steps", "label": "step", "do": step}]


def hmc(sampler: Sampler) -> Program:
    """Hamiltonian Monte Carlo: `leapfrog` gradients per proposal, the gradient at its end point cached."""
    x, shape = _sample(sampler)
    a = sampler.settings
    axes = list(range(len(shape)))
    size = a.get("step_size", 0.01)
    leapfrog = [
        {"op": "scale", "name": "push", "inputs": ["p"], "by": size},
        {"op": "add", "name": "q", "inputs": ["q", "push"]},
        {"evaluate": "gradient", "at": "q", "name": "g", "energy": "energy_new"},
        {"op": "scale", "name": "force", "inputs": ["g"], "by": size},
        {"op": "sub", "name": "p", "inputs": ["p", "force"]},
    ]
    step = [
        {"op": "random_normal", "name": "p", "shape": shape},
        {"op": "square", "name": "p2", "inputs": ["p"], "phase": "accept"},
        {"op": "reduce_sum", "name": "energy_old", "inputs": ["p2"], "axes": axes, "phase": "accept"},
        {"op": "scale", "name": "q", "inputs": [x], "by": 1},
        {"loop": a.get("leapfrog", 10), "do": leapfrog},
        *_accept(len(shape)),
        {"op": "select", "name": x, "inputs": ["accepted", "q", x], "phase": "accept"},
    ]
    return [*_start(x, shape), {"loop": "steps", "label": "step", "do": step}]


PRESETS: dict[str, Callable[[Any], Program]] = {
    "langevin": langevin,
    "gradient-descent": gradient_descent,
    "annealed-langevin": annealed_langevin,
    "mala": mala,
    "hmc": hmc,
}
# The constants each takes.
PRESET_SETTINGS: dict[str, tuple[str, ...]] = {
    "langevin": ("step_size", "noise"),
    "gradient-descent": ("step_size",),
    "annealed-langevin": ("step_size", "noise", "levels"),
    "mala": ("step_size", "noise"),
    "hmc": ("step_size", "leapfrog"),
}
