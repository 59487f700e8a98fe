"""The one walk through all of it: workload × hardware × policy to an Estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmsim import sampling
from ebmsim.cost.kernels import kernel_costs
from ebmsim.cost.machine import machine_of
from ebmsim.cost.products import dtypes
from ebmsim.cost.schedule import by_phase
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.kernels import CATEGORIES, PHASES, KernelTable
from ebmsim.hardware import Hardware
from ebmsim.lowered import Facts, Lowered
from ebmsim.policy import Policy, Profile
from ebmsim.timing import Priced, Timing, time_pass

if TYPE_CHECKING:
    from ebmsim.spec.workload import Workload

FWD, BWD = PHASES.index("forward"), PHASES.index("backward-input")
_BACKWARD = ("backward_positive", "backward_negative", "second_order")
# 80 % of a normal distribution lies within this many standard deviations.
_EIGHTY = 1.2816


@dataclass(frozen=True)
class Estimate:
    """What a workload costs on a device under a policy. SI units; names as in the JSON contract.

    Every figure can be opened: `timing` holds the steady step's kernels, `first` those of the first step.
    """

    hardware: Hardware
    policy: Policy
    profile: Profile
    lowered: Lowered
    timing: Timing
    first: Timing
    seconds: Mapping[str, float | None]
    seconds_interval: Mapping[str, tuple[float, float]]
    memory: Mapping[str, Any]
    energy: Mapping[str, float]

    @cached_property
    def categories(self) -> dict[str, float]:
        """Share of device-busy time by kernel category."""
        busy = np.asarray(self.timing.device)
        total = float(busy.sum()) or 1.0
        table = self.timing.table
        return {name: float(busy[table.category == code].sum()) / total for code, name in enumerate(CATEGORIES)}

    @cached_property
    def bounds(self) -> dict[str, float]:
        """Share of the step's wall time by what binds: compute, memory:<level>, dispatch, sync."""
        shares: dict[str, float] = {}
        for name, seconds in zip(self.bound_of_kernels, self.timing.advance.tolist(), strict=True):
            shares[name] = shares.get(name, 0.0) + seconds
        total = sum(shares.values()) or 1.0
        return {name: value / total for name, value in sorted(shares.items(), key=lambda item: -item[1])}

    @cached_property
    def bound_of_kernels(self) -> list[str]:
        """What binds each kernel of the steady step."""
        timing, costs = self.timing, self.timing.costs
        host, device = timing.host, timing.device
        levels = np.stack(costs.traffic.seconds)
        memory = levels.max(0)
        asynchronous = self.hardware.host.asynchronous
        host_bound = asynchronous and float(host.sum()) >= float(device.sum())
        issued = costs.fixed if asynchronous else np.maximum(costs.fixed, host)
        names = ["sync", "dispatch", "compute", *[f"memory:{level}" for level in costs.traffic.levels]]
        code = np.where(costs.compute >= memory, 2, 3 + levels.argmax(0))
        waits = host_bound & (timing.advance > 1.5 * device)
        code = np.where(waits | (issued > np.maximum(costs.compute, memory)), 1, code)
        code = np.where((timing.table.category == CATEGORIES.index("host")) | (costs.link > 0), 0, code)
        return [names[i] for i in code]

    @property
    def workload(self) -> Facts:
        """The workload's name, file, preset, parameters and tags."""
        return self.lowered.facts

    @property
    def taxonomy(self) -> dict[str, Any]:
        """Declared, derived and published tags."""
        return dict(self.lowered.facts.taxonomy)

    @cached_property
    def work(self) -> dict[str, float]:
        """Operations, bytes and launches of one steady step of one launch."""
        table = self.timing.table
        of = {name: table.phase == PHASES.index(name) for name in PHASES}
        plain = self.lowered.plain
        backward = self.lowered.backward
        moved = table.read + table.written
        return {
            "flops_fwd": float(table.flops[of["forward"]].sum()),
            "flops_bwd_in": float(table.flops[of["backward-input"]].sum()),
            "flops_accept": float(table.flops[of["accept"]].sum()),
            "flops_bwd_w": backward.flops,
            "bytes_fwd": float(moved[of["forward"]].sum()),
            "bytes_bwd_in": float(moved[of["backward-input"]].sum()),
            "kernels": len(table),
            "flops_fwd_matmul_conv": float(plain.product_flops[plain.phase == FWD].sum()),
            "flops_bwd_in_matmul_conv": float(plain.product_flops[plain.phase == BWD].sum()),
            "flops_bwd_w_matmul_conv": backward.product_flops,
        }

    @cached_property
    def size(self) -> dict[str, float]:
        """Parameters, each distinct weight once; allocated ones include those never used."""
        size = self.lowered.size
        return {
            "parameters": size.parameters,
            "allocated_parameters": size.parameters + size.unused,
            "parameter_bytes": size.parameters * self.timing.table.element_bytes,
        }

    @cached_property
    def components(self) -> list[dict[str, Any]]:
        """Per component: times for all its instances; parameters and forward FLOPs per instance (and chain)."""
        return _components(self)

    @property
    def settings(self) -> dict[str, Any]:
        """Preset, counts and parameters used."""
        w = self.workload
        counts = {
            name: w.setting(name) for name in ("chains", "steps", "training_steps", "training_batch", "iterations")
        }
        return {"preset": w.preset, **counts, "parameters": dict(w.parameters)}

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per kernel of the steady step, for pandas."""
        t, table = self.timing, self.timing.table
        bounds = self.bound_of_kernels
        return [
            {
                "kernel": table.names[i],
                "op": table.ops[i],
                "branch": table.branches[i],
                "phase": PHASES[table.phase[i]],
                "category": CATEGORIES[table.category[i]],
                "flops": float(table.flops[i]),
                "bytes_read": float(table.read[i]),
                "bytes_written": float(table.written[i]),
                "device_seconds": float(t.device[i]),
                "host_seconds": float(t.host[i]),
                "seconds": float(t.advance[i]),
                "bound": bounds[i],
            }
            for i in range(len(table))
        ]

    def to_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        p = self.policy
        return {
            "schema": 1,
            "version": package_version(),
            "workload": self.workload.name,
            "hardware": self.hardware.name,
            "validated": self.hardware.validated,
            "taxonomy": self.taxonomy,
            "policy": {
                "execution": p.execution,
                "fidelity": p.fidelity,
                "dtype": p.dtype,
                "math": p.math,
                "software": p.software,
                "streams": p.streams,
                "chain_mode": p.chain_mode,
            },
            "settings": self.settings,
            "seconds": dict(self.seconds),
            "seconds_interval": {k: list(v) for k, v in self.seconds_interval.items()},
            "work": self.work,
            "size": self.size,
            "memory": dict(self.memory),
            "energy": dict(self.energy),
            "categories": self.categories,
            "bounds": self.bounds,
            "components": self.components,
        }


def package_version() -> str:
    """The installed version, "0" from an uninstalled checkout."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ebmsim")
    except PackageNotFoundError:
        return "0"


def estimate(workload: Workload, hardware: Hardware, policy: Policy | None = None) -> Estimate:
    """Predict what a workload costs on a device. Raises SpecError when the three do not fit together."""
    from ebmsim.lowering import lower_workload
    from ebmsim.spec.library import load_profile

    policy = settled(policy or Policy(), hardware)
    profile = calibrated(load_profile(policy.software), hardware, policy)
    return estimate_lowered(lower_workload(workload, policy, profile), hardware, policy, profile)


def settled(policy: Policy, hardware: Hardware) -> Policy:
    """The policy with the hardware's own software profile and fidelity where none is named.

    Raises SpecError for fidelity `calibrated` where the hardware carries no coefficients for the profile.
    """
    software = policy.software or hardware.software
    known = hardware.calibration is not None and hardware.calibration.software == software
    if policy.fidelity == "calibrated" and not known:
        message = f"{hardware.name} carries no calibration, which fidelity calibrated needs"
        if hardware.calibration is not None:
            message = f"{hardware.name} is calibrated with {hardware.calibration.software}, not with {software}"
        raise SpecError([Problem(message, hint="use analytical or roofline")])
    fidelity = policy.fidelity or ("calibrated" if known else "analytical")
    return replace(policy, software=software, fidelity=fidelity)


def calibrated(profile: Profile, hardware: Hardware, policy: Policy) -> Profile:
    """The profile with the device's own coefficients at fidelity `calibrated`; else as it is."""
    if policy.fidelity != "calibrated" or hardware.calibration is None:
        return profile
    return replace(profile, **hardware.calibration.coefficients)


def priced(lowered: Lowered, hardware: Hardware, policy: Policy, profile: Profile) -> Priced:
    """The costs of every row of a lowered workload on a device."""
    machine = machine_of(hardware)
    costs = kernel_costs(lowered.rows, lowered.ways, machine, profile, policy)
    return Priced(lowered.rows, lowered.ways, machine, profile, policy, costs)


def estimate_lowered(lowered: Lowered, hardware: Hardware, policy: Policy, profile: Profile) -> Estimate:
    """The estimate of a lowered workload: no graph work is left to do."""
    prices = priced(lowered, hardware, policy, profile)
    machine = prices.machine
    w = lowered.facts
    chains, steps = w.setting("chains"), w.setting("steps")
    step = time_pass(lowered.step, prices)
    first = time_pass(lowered.first, prices)
    if first.seconds < step.seconds:
        # An empty queue and nothing resident cannot be faster; rounding and overlap with the step before can say so.
        first = replace(first, seconds=step.seconds, stretched=first.stretched * step.seconds / first.seconds)
    outside = [(time_pass(pass_, prices), pass_.repeat * lowered.launches) for pass_ in lowered.once]
    t_once = sum(timing.seconds * repeat for timing, repeat in outside)
    one = step if lowered.one_chain is lowered.step else time_pass(lowered.one_chain, prices)
    phases = by_phase(lowered.step.table, step.advance)
    launches = lowered.launches
    seconds: dict[str, float | None] = {
        "t_fwd": phases["forward"],
        "t_bwd_in": phases["backward-input"],
        "t_rng": phases["rng"],
        "t_update": phases["update"] + phases["host"] + phases["once"],
        "t_accept": phases["accept"],
        "t_samp": step.seconds,
        "t_samp_first": first.seconds,
        "t_once": t_once,
        "t_inf": sampling.t_inf(t_once, first.seconds, step.seconds, steps * launches),
        "t_inf_eq6": sampling.t_inf_eq6(one.seconds, chains, steps),
    }
    seconds |= _training(lowered, prices, step, one)
    joules = step.joules + machine.power.static * step.seconds
    dynamic = step.joules * steps * launches + sum(timing.joules * repeat for timing, repeat in outside)
    energy = {
        "step_joules": joules,
        "inference_joules": dynamic + machine.power.static * (seconds["t_inf"] or 0.0),
        "mean_power_watts": joules / step.seconds if step.seconds else 0.0,
    }
    return Estimate(
        hardware,
        policy,
        profile,
        lowered,
        step,
        first,
        seconds,
        _intervals(seconds, step, profile),
        _memory(lowered, hardware),
        energy,
    )


def _training(lowered: Lowered, prices: Priced, step: Timing, one: Timing) -> dict[str, float | None]:
    names = ("t_train", "t_train_eq7", "t_bwd_w_positive", "t_bwd_w_negative", "t_train_sampling")
    w = lowered.facts
    if lowered.iteration is None or lowered.training_step is None:
        return dict.fromkeys(names)
    pass_ = time_pass(lowered.iteration, prices)
    sampling_step = step if lowered.training_step is lowered.step else time_pass(lowered.training_step, prices)
    part = {name: float(np.sum(pass_.advance[lowered.parts[name]])) for name in _BACKWARD if name in lowered.parts}
    batch, steps, n = w.setting("training_batch"), w.setting("training_steps"), w.setting("iterations")
    if lowered.training_one_chain is not lowered.one_chain:
        one = time_pass(lowered.training_one_chain, prices)
    host = lowered.host_seconds(prices.machine, prices.policy)
    positive = part.get("backward_positive", part.get("second_order", 0.0))
    negative = part.get("backward_negative", 0.0)
    return {
        "t_train": sampling.t_train(n, pass_.seconds + host, sampling_step.seconds, lowered.training.steps),
        "t_train_eq7": sampling.t_train_eq7(n, positive, negative, one.seconds, batch, steps),
        "t_bwd_w_positive": positive,
        "t_bwd_w_negative": negative,
        "t_train_sampling": n * lowered.training.steps * sampling_step.seconds,
    }


def _intervals(seconds: Mapping[str, float | None], step: Timing, profile: Profile) -> dict[str, tuple[float, float]]:
    """80 % intervals: an error common to the whole model, and independent ones of its kernels, which average out.

    With kernel times t_i and deviations σ_i of their logarithm (by category) the independent part is
    √(Σ (σ_i t_i)²) / Σ t_i. A profile without errors is a limit by definition, not a prediction: it has no intervals.
    """
    names = dtypes(profile, step.priced.machine, step.priced.policy)
    of = {"matmul": names.matmul, "convolution": names.convolution}
    deviations = [profile.deviation(c, of.get(c, step.priced.policy.dtype)) for c in CATEGORIES]
    deviation = np.array(deviations)[step.table.category]
    each = deviation * step.advance
    independent = math.sqrt(float(each @ each)) / step.seconds if step.seconds else 0.0
    sigma = math.hypot(profile.common_error, independent)
    if sigma == 0.0:
        return {}
    low, high = math.exp(-_EIGHTY * sigma), math.exp(_EIGHTY * sigma)
    wanted = ("t_samp", "t_fwd", "t_bwd_in", "t_inf", "t_inf_eq6", "t_train", "t_train_eq7")
    return {name: (value * low, value * high) for name in wanted if (value := seconds[name]) is not None}


def _memory(lowered: Lowered, hardware: Hardware) -> dict[str, Any]:
    """Bytes held at most, and whether main memory holds them."""
    inference, training = lowered.inference_bytes, lowered.training_bytes
    capacity = hardware.memory[-1].capacity
    return {
        "inference_bytes": inference,
        "training_bytes": training,
        "capacity_bytes": capacity,
        "fits": bool(inference <= capacity),
        "training_fits": None if training is None else bool(training <= capacity),
    }


def _components(e: Estimate) -> list[dict[str, Any]]:
    table, plain = e.timing.table, e.lowered.plain
    bounds = np.array(e.bound_of_kernels)
    advance = np.asarray(e.timing.advance)
    owner = np.array([b.partition("[")[0] for b in table.branches])
    found = []
    for c in e.lowered.components:
        mine = owner == c.name
        flops, moved = _forward(plain, c.name)
        for once in e.lowered.once if not moved else ():
            more, bytes_ = _forward(once.table, c.name)
            flops, moved = flops + more, moved + bytes_
        time = {b: float(advance[mine & (bounds == b)].sum()) for b in set(bounds[mine])}
        found.append(
            {
                "name": c.name,
                "instances": c.instances,
                "weights": c.weights,
                "parameters": c.parameters,
                "parameter_bytes": c.parameters * table.element_bytes,
                "flops_fwd": c.flops,
                "intensity": flops / moved if moved else 0.0,
                "t_fwd": float(advance[mine & (table.phase == FWD)].sum()),
                "t_bwd_in": float(advance[mine & (table.phase == BWD)].sum()),
                "bound": max(time, key=lambda b: time[b]) if time else "",
            }
        )
    return found


def _forward(table: KernelTable, component: str) -> tuple[float, float]:
    """FLOPs and unfused operator bytes of all instances of a component, forward or once."""
    mine = np.array([b.partition("[")[0] == component for b in table.branches], dtype=np.bool_)
    mine &= (table.phase == FWD) | (table.phase == PHASES.index("once"))
    return float(table.flops[mine].sum()), float((table.read + table.written)[mine].sum())
