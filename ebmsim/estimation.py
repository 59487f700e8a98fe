"""The one walk through all of it: workload × hardware × policy to an Estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from ebmsim import sampling
from ebmsim.cost.kernels import Kernels, expanded, host_costs, kernel_costs
from ebmsim.cost.machine import Machine, machine_of
from ebmsim.cost.schedule import by_phase, first_pass, overlapped, steady_pass, synchronisations
from ebmsim.errors import Problem, SpecError
from ebmsim.graph.compose import Composer, Program, compose
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.fuse import fuse
from ebmsim.graph.graph import Graph, Node
from ebmsim.graph.lower import CATEGORIES, PHASES, KernelTable, lower
from ebmsim.graph.operators.table import OPERATORS
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import Iteration, compose_training
from ebmsim.hardware import Hardware
from ebmsim.spec.expression import evaluate
from ebmsim.spec.library import load_profile
from ebmsim.spec.policy import Policy, Profile
from ebmsim.spec.workload import Workload

FWD, BWD = PHASES.index("forward"), PHASES.index("backward-input")
# 80 % of a normal distribution lies within this many standard deviations.
_EIGHTY = 1.2816


@dataclass(frozen=True)
class Lowered:
    """A workload as kernel tables: everything an estimate needs of it, once per dtype, fusion and chain mode.

    step: one steady step of one launch. plain: the same without fusion. once: what one inference does outside its
    steps, with how often. one_chain: the step of a single chain. training_step, iteration: at the training batch.
    """

    workload: Workload
    program: Program
    chains: int
    launches: int
    step: KernelTable
    plain: KernelTable
    once: tuple[tuple[KernelTable, int], ...]
    one_chain: KernelTable
    training_step: KernelTable | None
    iteration: KernelTable | None
    parts: Mapping[str, Any]
    trained_bytes: float

    def buffer_seconds(self, machine: Machine, policy: Policy) -> Any:
        """Replay buffer per iteration: negatives to the host as bytes and back, the host waiting for the first copy."""
        training, w = self.workload.file.training, self.workload
        if training is None or not evaluate(training.buffer, w.parameters) or policy.fidelity == "roofline":
            return 0.0
        sample = self.program.graph.tensors[self.program.graph.results[0]]
        amount = math.prod(sample.shape[1:]) * w.setting("training_batch")
        return 2 * (machine.host.link_latency + amount / machine.host.link_bandwidth) + machine.host.synchronise


def fused(profile: Profile, policy: Policy) -> bool:
    """Whether operators are fused: always, or in compiled and persistent execution, as the profile says."""
    return profile.fuses == "always" or (profile.fuses == "compiled" and policy.execution in ("compiled", "persistent"))


def lower_workload(workload: Workload, policy: Policy, profile: Profile) -> Lowered:
    """The kernel tables of a workload. Raises SpecError where its graphs do not fit together."""
    fuses = fused(profile, policy)
    chains = workload.setting("chains")
    sequential = policy.chain_mode == "sequential"
    rows = 1 if sequential else chains
    program = compose(workload, rows)
    step, plain = _step(program, policy.dtype, fuses)
    once = []
    for section in program.sections:
        if section.label == "once":
            nodes = program.graph.nodes[section.first : section.last]
            table = lower(program.graph, fuse(program.graph, nodes) if fuses else nodes, policy.dtype)
            if len(table):
                once.append((table, section.repeat))
    single = step if rows == 1 else _step(compose(workload, 1), policy.dtype, fuses)[0]
    training_step = iteration_table = None
    parts: dict[str, Any] = {}
    trained = 0.0
    batch = workload.setting("training_batch")
    if workload.file.training is not None:
        training_step = step if batch == rows else _step(compose(workload, batch), policy.dtype, fuses)[0]
        iteration = compose_training(workload)
        iteration_table, parts = _iteration(iteration, policy.dtype, fuses)
        trained = sum(iteration.graph.tensors[t].elements for t in iteration.weights) * step.element_bytes
    return Lowered(
        workload,
        program,
        rows,
        chains if sequential else 1,
        step,
        plain,
        tuple(once),
        single,
        training_step,
        iteration_table,
        parts,
        trained,
    )


def _step(program: Program, dtype: str, fuses: bool) -> tuple[KernelTable, KernelTable]:
    nodes: list[Node] = []
    for section in program.sections:
        if section.label == "step":
            nodes += program.graph.nodes[section.first : section.last]
    plain = lower(program.graph, nodes, dtype, cyclic=True)
    return (lower(program.graph, fuse(program.graph, nodes), dtype, cyclic=True) if fuses else plain), plain


def _iteration(iteration: Iteration, dtype: str, fuses: bool) -> tuple[KernelTable, dict[str, Any]]:
    """The iteration's kernels in order, and which of them belong to each part."""
    graph: Graph = iteration.graph
    spans = sorted((first, last, name) for name, runs in iteration.parts.items() for first, last in runs)
    nodes: list[Node] = []
    parts: dict[str, list[int]] = {}
    count = 0
    for first, last, name in spans:
        run = graph.nodes[first:last]
        chosen = fuse(graph, run) if fuses else run
        kernels = sum(OPERATORS[node.op].category != "view" for node in chosen)
        parts.setdefault(name, []).extend(range(count, count + kernels))
        nodes += chosen
        count += kernels
    return lower(graph, nodes, dtype, cyclic=True), {k: np.array(v, dtype=np.int64) for k, v in parts.items()}


@dataclass(frozen=True)
class Timing:
    """One step timed: costs of each distinct kernel, advance of the completion time per kernel, and its totals."""

    table: KernelTable
    each: Kernels
    host: Any
    device: Any
    advance: Any
    seconds: float
    joules: float
    throttled: float

    @cached_property
    def costs(self) -> Kernels:
        """Costs of every launch."""
        return expanded(self.each, self.table.order)


@dataclass(frozen=True)
class Estimate:
    """What a workload costs on a device under a policy. SI units; names as in the JSON contract.

    Every figure can be opened: `timing` holds the steady step's kernels, `first` those of the first step.
    """

    workload: Workload
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
        for name, seconds in zip(self.bound_of_kernels(), self.timing.advance, strict=True):
            shares[name] = shares.get(name, 0.0) + float(seconds)
        total = sum(shares.values()) or 1.0
        return {name: value / total for name, value in sorted(shares.items(), key=lambda item: -item[1])}

    def bound_of_kernels(self) -> list[str]:
        """What binds each kernel of the steady step."""
        costs, table = self.timing.costs, self.timing.table
        host = np.asarray(self.timing.host)
        levels = np.stack(np.broadcast_arrays(*costs.traffic.seconds))
        level = levels.argmax(0)
        asynchronous = self.hardware.host.asynchronous
        host_bound = asynchronous and float(host.sum()) >= float(np.asarray(self.timing.device).sum())
        names = []
        for i in range(len(table)):
            work = max(costs.compute.seconds[i], costs.memory[i])
            waits = host_bound and self.timing.advance[i] > 1.5 * self.timing.device[i]
            issued = max(np.broadcast_to(costs.fixed, len(table))[i], 0.0 if asynchronous else host[i])
            if CATEGORIES[table.category[i]] in ("host",) or costs.link[i] > 0:
                names.append("sync")
            elif waits or issued > work:
                names.append("dispatch")
            elif costs.compute.seconds[i] >= costs.memory[i]:
                names.append("compute")
            else:
                names.append(f"memory:{costs.traffic.levels[level[i]]}")
        return names

    @cached_property
    def taxonomy(self) -> dict[str, Any]:
        """Declared, derived and published tags."""
        declared = self.workload.file.taxonomy
        derived = derive(self.workload)
        paper = declared.paper
        return {
            "compositionality": declared.compositionality,
            "dependency": declared.dependency,
            "derived_compositionality": derived.compositionality,
            "derived_dependency": derived.dependency,
            "paper": None
            if paper is None
            else {"compositionality": paper.compositionality, "dependency": paper.dependency},
        }

    @cached_property
    def work(self) -> dict[str, float]:
        """Operations, bytes and launches of one steady step of one launch."""
        table = self.timing.table
        of = {name: table.phase == PHASES.index(name) for name in PHASES}
        plain = self.lowered.plain
        backward = _weight_backward(self.workload, self.lowered.chains, self.policy.dtype)
        moved = table.read + table.written
        return {
            "flops_fwd": float(table.flops[of["forward"]].sum()),
            "flops_bwd_in": float(table.flops[of["backward-input"]].sum()),
            "flops_accept": float(table.flops[of["accept"]].sum()),
            "flops_bwd_w": float(backward.flops.sum()),
            "bytes_fwd": float(moved[of["forward"]].sum()),
            "bytes_bwd_in": float(moved[of["backward-input"]].sum()),
            "kernels": len(table),
            "flops_fwd_matmul_conv": float(plain.product_flops[plain.phase == FWD].sum()),
            "flops_bwd_in_matmul_conv": float(plain.product_flops[plain.phase == BWD].sum()),
            "flops_bwd_w_matmul_conv": float(backward.product_flops.sum()),
        }

    @cached_property
    def size(self) -> dict[str, float]:
        """Parameters, each distinct weight once; allocated ones include those never used."""
        used, unused = _parameters(self.lowered)
        return {
            "parameters": used,
            "allocated_parameters": used + unused,
            "parameter_bytes": used * self.timing.table.element_bytes,
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
        bounds = self.bound_of_kernels()
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
    try:
        return version("ebmsim")
    except PackageNotFoundError:
        return "0"


def estimate(workload: Workload, hardware: Hardware, policy: Policy | None = None) -> Estimate:
    """Predict what a workload costs on a device. Raises SpecError when the three do not fit together."""
    policy = settled(policy or Policy(), hardware)
    profile = load_profile(policy.software)
    return estimate_lowered(lower_workload(workload, policy, profile), hardware, policy, profile)


def settled(policy: Policy, hardware: Hardware) -> Policy:
    """The policy with the hardware's own software profile and fidelity where none is named.

    Raises SpecError for fidelity `calibrated`: no hardware file carries fitted coefficients yet.
    """
    if policy.fidelity == "calibrated":
        message = f"{hardware.name} carries no calibration, which fidelity calibrated needs"
        raise SpecError([Problem(message, hint="use analytical or roofline")])
    return replace(policy, software=policy.software or hardware.software, fidelity=policy.fidelity or "analytical")


def time_table(
    table: KernelTable, machine: Machine, profile: Profile, policy: Policy, *, cold: bool = False, steady: bool = True
) -> Timing:
    """Time one pass over a table: a steady step of a long run, or a pass that starts with an empty queue."""
    each = kernel_costs(table.rows, machine, profile, policy, policy.fidelity, cold=cold)
    host = host_costs(table, machine, profile, policy, policy.fidelity)
    event = profile.host_cost.get("elementwise", 0.0) * machine.host.speed
    device = np.asarray(each.seconds)[table.order]
    streams = min(policy.streams, int(machine.launch.concurrent_kernels))
    if streams > 1:
        device = overlapped(table, expanded(each, table.order), streams, event)
    wait = 0.0 if policy.fidelity == "roofline" else machine.host.synchronise
    breaks = synchronisations(table)
    if machine.host.asynchronous:
        advance = (steady_pass if steady else first_pass)(host, device, breaks, wait)
    else:
        advance = device + host
    seconds = float(np.sum(advance))
    joules = float(np.sum(each.joules[table.order]))
    # Dynamic power above what the limit leaves stretches the step: the device throttles.
    least = joules / (machine.power.limit - machine.power.static)
    throttled = max(1.0, least / seconds) if seconds > 0 else 1.0
    return Timing(table, each, host, device, advance * throttled, seconds * throttled, joules, throttled)


def estimate_lowered(lowered: Lowered, hardware: Hardware, policy: Policy, profile: Profile) -> Estimate:
    """The estimate of a lowered workload: no graph work is left to do."""
    machine = machine_of(hardware)
    w = lowered.workload
    chains, steps = w.setting("chains"), w.setting("steps")

    def timed(table: KernelTable, cold: bool = False, steady: bool = True) -> Timing:
        return time_table(table, machine, profile, policy, cold=cold, steady=steady)

    step = timed(lowered.step)
    cold = timed(lowered.step, cold=True, steady=False)
    if cold.seconds < step.seconds:
        # An empty queue and nothing resident cannot be faster; rounding and overlap with the step before can say so.
        cold = replace(cold, seconds=step.seconds, advance=step.advance)
    outside = [(timed(table, cold=True, steady=False), repeat * lowered.launches) for table, repeat in lowered.once]
    t_once = sum(timing.seconds * repeat for timing, repeat in outside)
    one = step if lowered.one_chain is lowered.step else timed(lowered.one_chain)
    phases = {k: float(v) for k, v in by_phase(step.table, step.advance).items()}
    launches = lowered.launches
    seconds: dict[str, float | None] = {
        "t_fwd": phases["forward"],
        "t_bwd_in": phases["backward-input"],
        "t_rng": phases["rng"],
        "t_update": phases["update"] + phases["host"] + phases["once"],
        "t_accept": phases["accept"],
        "t_samp": step.seconds,
        "t_samp_first": cold.seconds,
        "t_once": t_once,
        "t_inf": sampling.t_inf(t_once, cold.seconds, step.seconds, steps * launches),
        "t_inf_eq6": sampling.t_inf_eq6(one.seconds, chains, steps),
    }
    seconds |= _training(lowered, machine, profile, policy, step, one)
    joules = step.joules + machine.power.static * step.seconds
    dynamic = step.joules * steps * launches + sum(timing.joules * repeat for timing, repeat in outside)
    energy = {
        "step_joules": joules,
        "inference_joules": dynamic + machine.power.static * (seconds["t_inf"] or 0.0),
        "mean_power_watts": joules / step.seconds if step.seconds else 0.0,
    }
    return Estimate(
        w,
        hardware,
        policy,
        profile,
        lowered,
        step,
        cold,
        seconds,
        _intervals(seconds, step, profile),
        _memory(lowered, hardware),
        energy,
    )


def _training(
    lowered: Lowered, machine: Machine, profile: Profile, policy: Policy, step: Timing, one: Timing
) -> dict[str, float | None]:
    names = ("t_train", "t_train_eq7", "t_bwd_w_positive", "t_bwd_w_negative", "t_train_sampling")
    w = lowered.workload
    training = w.file.training
    if training is None or lowered.iteration is None or lowered.training_step is None:
        return dict.fromkeys(names)
    pass_ = time_table(lowered.iteration, machine, profile, policy)
    sampling_step = (
        step if lowered.training_step is lowered.step else time_table(lowered.training_step, machine, profile, policy)
    )
    part = {name: float(np.sum(pass_.advance[index])) for name, index in lowered.parts.items()}
    batch, steps, n = w.setting("training_batch"), w.setting("training_steps"), w.setting("iterations")
    buffer = lowered.buffer_seconds(machine, policy)
    positive = part.get("backward_positive", part.get("second_order", 0.0))
    negative = part.get("backward_negative", 0.0)
    return {
        "t_train": sampling.t_train(n, pass_.seconds + buffer, sampling_step.seconds, steps),
        "t_train_eq7": sampling.t_train_eq7(n, positive, negative, one.seconds, batch, steps),
        "t_bwd_w_positive": positive,
        "t_bwd_w_negative": negative,
        "t_train_sampling": n * steps * sampling_step.seconds,
    }


def _intervals(seconds: Mapping[str, float | None], step: Timing, profile: Profile) -> dict[str, tuple[float, float]]:
    """80 % intervals: an error common to the whole model, and independent ones of its kernels, which average out.

    With kernel times t_i the independent part has the deviation σ_k √(Σ t_i²) / Σ t_i in the logarithm.
    """
    t = np.asarray(step.advance)
    spread = math.sqrt(float(np.sum(t * t))) / step.seconds if step.seconds else 0.0
    sigma = math.hypot(profile.common_error, profile.kernel_error * spread)
    low, high = math.exp(-_EIGHTY * sigma), math.exp(_EIGHTY * sigma)
    wanted = ("t_samp", "t_fwd", "t_bwd_in", "t_inf", "t_inf_eq6", "t_train", "t_train_eq7")
    return {name: (value * low, value * high) for name in wanted if (value := seconds[name]) is not None}


def _memory(lowered: Lowered, hardware: Hardware) -> dict[str, Any]:
    """Bytes held at most: weights, buffers, sample, inputs and activations; in training the moments too."""
    used, unused = _parameters(lowered)
    e = lowered.step.element_bytes
    graph = lowered.program.graph
    held = {t for t in lowered.program.weights.values() if graph.tensors[t].role == "buffer"}
    held |= {t for t, tensor in enumerate(graph.tensors) if tensor.role in ("sample", "input")}
    fixed = (used + unused + sum(graph.tensors[t].elements for t in held)) * e
    inference = fixed + lowered.step.live_bytes
    training = None
    if lowered.iteration is not None and lowered.training_step is not None:
        # Two moments, and the running average; gradients are alive among the activations.
        states = 2 + (1 if lowered.workload.file.training and lowered.workload.file.training.average else 0)
        live = max(lowered.iteration.live_bytes, lowered.training_step.live_bytes)
        training = fixed + states * lowered.trained_bytes + live
    capacity = hardware.memory[-1].capacity
    return {
        "inference_bytes": inference,
        "training_bytes": training,
        "capacity_bytes": capacity,
        "fits": bool(inference <= capacity),
        "training_fits": None if training is None else bool(training <= capacity),
    }


def _parameters(lowered: Lowered) -> tuple[int, int]:
    program, w = lowered.program, lowered.workload
    tensors = program.graph.tensors
    used = sum(tensors[t].elements for t in program.weights.values() if tensors[t].role == "weight")
    composer = Composer(w, 1)
    unused = sum(
        int(composer.value(c.unused_parameters, ("components", name, "unused_parameters")))
        for name, c in w.file.components.items()
        if composer.instances(name, c)
    )
    return used, unused


def _weight_backward(workload: Workload, chains: int, dtype: str) -> KernelTable:
    """The kernels of one backward pass to the weights of the energy, the sample not asking for a gradient."""
    composer = Composer(workload, chains)
    composer.prepare()
    sample = composer.b.tensor((chains, *composer.sample_shape), "sample", composer.sample)
    since = len(composer.b.nodes)
    energy = composer.energy(sample)
    mark = len(composer.b.nodes)
    trained = [t for t in composer.weights.values() if t not in composer.frozen]
    differentiate(composer.b, [energy], trained, phase="backward-weight", since=since)
    graph = composer.b.graph()
    return lower(graph, graph.nodes[mark:], dtype)


def _components(e: Estimate) -> list[dict[str, Any]]:
    table, plain = e.timing.table, e.lowered.plain
    bounds = np.array(e.bound_of_kernels())
    advance = np.asarray(e.timing.advance)
    owner = np.array([b.partition("[")[0] for b in table.branches])
    plain_branch = np.array(plain.branches)
    tensors = e.lowered.program.graph.tensors
    found = []
    composer = Composer(e.workload, 1)
    for name, spec in e.workload.file.components.items():
        instances = composer.instances(name, spec)
        if not instances:
            continue
        mine = owner == name
        forward = (plain_branch == f"{name}[0]") & (plain.phase == FWD)
        once = [t for t, _ in e.lowered.once]
        flops = float(plain.flops[forward].sum())
        moved = float((plain.read + plain.written)[forward].sum())
        for t in once if not forward.any() else []:
            here = np.array(t.branches) == f"{name}[0]"
            flops += float(t.flops[here].sum())
            moved += float((t.read + t.written)[here].sum())
        own = sum(
            tensors[t].elements
            for key, t in e.lowered.program.weights.items()
            if key.startswith(f"{name}.") and tensors[t].role == "weight"
        )
        time = {b: float(advance[mine & (bounds == b)].sum()) for b in set(bounds[mine])}
        # A component without a chain axis is computed once for all chains.
        found.append(
            {
                "name": name,
                "instances": instances,
                "weights": spec.weights,
                "parameters": own,
                "parameter_bytes": own * table.element_bytes,
                "flops_fwd": flops / e.lowered.chains,
                "intensity": flops / moved if moved else 0.0,
                "t_fwd": float(advance[mine & (table.phase == FWD)].sum()),
                "t_bwd_in": float(advance[mine & (table.phase == BWD)].sum()),
                "bound": max(time, key=lambda b: time[b]) if time else "",
            }
        )
    return found
