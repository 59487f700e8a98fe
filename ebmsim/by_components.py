"""A workload whose components are spread over devices: inference and training put together from placed passes."""

from __future__ import annotations

from collections.abc import Mapping

from ebmsim import sampling
from ebmsim.estimation import Estimate, priced
from ebmsim.lowering import fused
from ebmsim.placement import (
    Turn,
    assigned,
    held_by,
    iteration_turn,
    loads,
    messages_seconds,
    seconds_of,
    step_turn,
)
from ebmsim.scaled import Inference, Study, Training, resized


def infer_by_components(study: Study, chains: int, batch: int, devices: int) -> Inference | None:
    """Instances are assigned to devices, and all devices work on the same chains, step by step; None if one suffices.

    The sample is broadcast and its gradient summed in every step. What runs once in an inference runs on one device.
    """
    e = study.estimate(chains, batch)
    w, p = e.lowered, study.policy
    prices = priced(w, study.hardware, p, study.profile)
    of = assigned(loads(w.step, prices), [w.step], devices)
    used = _used(of)
    if used == 1:
        return None
    turn = step_turn(resized(study.workload, chains, batch), w.chains, p.dtype, fused(study.profile, p))
    communication = messages_seconds(turn, of, study.wire(used))
    t_samp = seconds_of(w.step, prices, turn, of) + communication
    t_first = max(seconds_of(w.first, prices, turn, of) + communication, t_samp)
    t_once = e.seconds["t_once"] or 0.0
    t_inf = sampling.t_inf(t_once, t_first, t_samp, w.facts.setting("steps") * w.launches)
    held = _inference_memory(e, turn, of, used)
    fits = held <= e.memory["capacity_bytes"]
    return Inference("components", used, chains, t_once, t_first, t_samp, communication, 0.0, t_inf, held, bool(fits))


def train_by_components(study: Study, chains: int, batch: int, devices: int) -> Training | None:
    """Every iteration samples and learns where the instances are; None if one device suffices, or nothing is trained.

    No gradient of a weight is sent but of those that several instances share: they are summed where the first one is,
    and the weights broadcast after every update.
    """
    e = study.estimate(chains, batch)
    w, p = e.lowered, study.policy
    if w.iteration is None or w.training_step is None:
        return None
    prices = priced(w, study.hardware, p, study.profile)
    sampled = w.training.steps
    seconds = {name: sampled * value for name, value in loads(w.training_step, prices).items()}
    for name, value in loads(w.iteration, prices).items():
        seconds[name] = seconds.get(name, 0.0) + value
    of = assigned(seconds, [w.training_step, w.iteration], devices)
    used = _used(of)
    if used == 1:
        return None
    workload, fuses, wire = resized(study.workload, chains, batch), fused(study.profile, p), study.wire(used)
    learning = iteration_turn(workload, p.dtype, fuses)
    communication = messages_seconds(learning, of, wire)
    t_compute = seconds_of(w.iteration, prices, learning, of)
    t_compute += w.host_seconds(prices.machine, p)
    turns = [learning]
    if sampled:
        step = step_turn(workload.in_training(), batch, p.dtype, fuses)
        communication += sampled * messages_seconds(step, of, wire)
        t_compute += sampled * seconds_of(w.training_step, prices, step, of)
        turns.append(step)
    t_iteration = t_compute + communication
    held = _training_memory(e, turns, of, used)
    fits = held <= e.memory["capacity_bytes"]
    t_train = w.facts.setting("iterations") * t_iteration
    return Training("components", used, batch, t_iteration, communication, t_train, held, bool(fits))


def _used(of: Mapping[str, int]) -> int:
    """Devices with work: those with an instance, and the one that runs the sampler."""
    return len({0, *of.values()})


def _inference_memory(e: Estimate, turn: Turn, of: Mapping[str, int], used: int) -> float:
    """Bytes of the device with most. What no step reads, and what is not used, is with the sampler on device 0."""
    size, element = e.lowered.size, e.lowered.rows.element_bytes
    devices = [held_by(turn, of, d) for d in range(used)]
    outside = devices[0].outside
    stepped = {name: count for held in devices for name, count in held.weights.items()}
    rest = size.parameters + size.unused + size.held - outside - sum(stepped.values())
    once = max((pass_.table.live_bytes for pass_ in e.lowered.once), default=0.0)
    first, *others = devices
    bytes_ = [element * (sum(held.weights.values()) + outside) + held.live for held in others]
    return max(element * (sum(first.weights.values()) + outside + rest) + max(first.live, once), *bytes_)


def _training_memory(e: Estimate, turns: list[Turn], of: Mapping[str, int], used: int) -> float:
    """Bytes of the device with most: as in an inference, and moments and average of the weights updated there."""
    states, element = 2 + e.lowered.training.average, e.lowered.rows.element_bytes
    found = []
    for d in range(used):
        held = [held_by(turn, of, d) for turn in turns]
        weights = {name: count for h in held for name, count in h.weights.items()}
        elements = sum(weights.values()) + states * held[0].updated + held[0].outside
        found.append(element * elements + max(h.live for h in held))
    return max(found)
