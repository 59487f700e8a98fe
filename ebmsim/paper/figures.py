"""Figs. 3, 4 and 7 beside what is computed: times, shares of phases, scaling with steps.

The figures' own values are not in the paper's text: what is compared are its statements about them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

from ebmsim.estimation import Estimate
from ebmsim.paper.ledger import ADMISSIBLE, CPU, DEFAULT, DEVICES, GPU, PROFILED, TPU, Alternative
from ebmsim.paper.reasons import note, reason
from ebmsim.paper.rows import Row, Section, Tolerance
from ebmsim.paper.runs import Spread, run, spread
from ebmsim.timing import time_pass

HOLDS = Tolerance()
# Workloads whose published training samples negatives.
SAMPLED = ("ebm_imp", "ired", "ebm_cmp", "ebm_cvr")
_SMALL = ("ebm_imp", "ccsp")


def of(e: Estimate, name: str) -> float:
    """A time of an estimate in s, 0 where there is none."""
    return float(e.seconds[name] or 0.0)


def statement(section: str, name: str, place: str, text: str, found: Spread, unit: str, holds: bool) -> Row:
    """A row about a statement: ours, and its range."""
    return Row(name, place, text, *found, unit, holds=holds, reason=reason(section, name))


def _each(found: Iterable[Spread], figure: Callable[[Sequence[float]], float]) -> Spread:
    """The mean, say, of what several workloads have: at the ledger's settings, of the smallest, of the largest."""
    ours, low, high = zip(*found, strict=True)
    return figure(ours), figure(low), figure(high)


def milliseconds(e: Estimate) -> float:
    """T_samp in ms."""
    return 1e3 * of(e, "t_samp")


def inference(e: Estimate) -> float:
    """T_inf in s."""
    return of(e, "t_inf")


def speed_up(workload: str, device: str) -> Spread:
    """T_samp on the CPU over T_samp on a device, at the ledger's settings and over admissible ones."""
    ratios = [
        milliseconds(run(workload, CPU, change)) / milliseconds(run(workload, device, change))
        for change in (DEFAULT, *ADMISSIBLE[workload])
    ]
    return ratios[0], min(ratios), max(ratios)


def fig3() -> Section:
    """Times of a step and of an inference on three devices."""
    rows = []
    step = {(w, d): spread(w, milliseconds, d) for d in DEVICES for w in PROFILED}
    whole = {(w, d): spread(w, inference, d) for d in DEVICES for w in PROFILED}
    for device in DEVICES:
        rows += [Row(f"{w}, step on {device}", "Fig. 3(a)", "", *step[w, device], "ms") for w in PROFILED]
        rows += [Row(f"{w}, inference on {device}", "Fig. 3(b)", "", *whole[w, device], "s") for w in PROFILED]
    text = "the average runtime of a sampling step is at millisecond level"
    for device in (GPU, CPU):
        mean = _each([step[w, device] for w in PROFILED], statistics.fmean)
        rows.append(_of_fig3(f"mean step on {device}", text, mean, "ms", 1.0 <= mean[0] < 1000.0))
    text = "tens of seconds even on high-end GPUs and TPUs"
    for device in (GPU, TPU):
        longest = _each([whole[w, device] for w in PROFILED], max)
        rows.append(_of_fig3(f"longest inference on {device}", text, longest, "s", 10.0 <= longest[0] < 100.0))
    gains = {(w, d): speed_up(w, d) for d in (GPU, TPU) for w in PROFILED}
    best = _each(gains.values(), max)
    text = "up to two orders of magnitude"
    rows.append(_of_fig3("largest gain over the CPU", text, best, "×", 30.0 <= best[0] <= 300.0))
    text = "less gain on GPUs and TPUs than the others"
    for device in (GPU, TPU):
        others = statistics.median(gains[w, device][0] for w in PROFILED if w not in _SMALL)
        for workload in _SMALL:
            ours, low, high = (value / others for value in gains[workload, device])
            name = f"{workload}'s gain on {device} over the others' median"
            rows.append(_of_fig3(name, text, (ours, low, high), "×", ours < 1.0))
    return Section("fig3", "Fig. 3: time of a step and of an inference", HOLDS, note("fig3"), tuple(rows))


def _of_fig3(name: str, text: str, found: Spread, unit: str, holds: bool) -> Row:
    return statement("fig3", name, "Sec. V-B", text, found, unit, holds)


def passes(e: Estimate) -> float:
    """Share of forward and backward passes in a step, the energies that only accept among them, in percent."""
    return 100.0 * (of(e, "t_fwd") + of(e, "t_bwd_in") + of(e, "t_accept")) / of(e, "t_samp")


def balance(e: Estimate) -> float:
    """T_bwd_in over T_fwd."""
    return of(e, "t_bwd_in") / of(e, "t_fwd")


def sampling(e: Estimate) -> float:
    """Share of sampling in a training run, in percent."""
    return 100.0 * of(e, "t_train_sampling") / of(e, "t_train")


def learning(e: Estimate) -> float:
    """Share of all but sampling in a training run, in percent."""
    return 100.0 - sampling(e)


def fig4() -> Section:
    """Shares of phases in inference and in training."""
    shares = {(w, d): spread(w, passes, d) for d in DEVICES for w in PROFILED}
    rows = [Row(f"{w}: passes of a step on {d}", "Fig. 4(a)", "", *found, "%") for (w, d), found in shares.items()]
    best = _each(shares.values(), max)
    text = "up to 99 % of inference time"
    name = "largest share of forward and backward"
    rows.append(statement("fig4", name, "Sec. V-B", text, best, "%", best[0] >= 98.5))
    text = "highly comparable, each almost half of the runtime"
    for workload in PROFILED:
        for device in DEVICES:
            found = spread(workload, balance, device)
            name = f"{workload}: backward over forward on {device}"
            rows.append(statement("fig4", name, "Fig. 4(a)", text, found, "×", 0.5 <= found[0] <= 2.0))
    trained = {workload: spread(workload, sampling) for workload in SAMPLED}
    rows += [Row(f"{w}: sampling in training", "Fig. 4(b)", "", *found, "%") for w, found in trained.items()]
    largest = _each(trained.values(), max)
    text, name = "up to 90 % of training time", "largest share of sampling in training"
    rows.append(statement("fig4", name, "Sec. V-B", text, largest, "%", 80.0 <= largest[0] <= 100.0))
    text = "up to 30 % of training time"
    for workload in SAMPLED:
        found = spread(workload, learning)
        name = f"{workload}: steps 5 and 6 in training"
        rows.append(statement("fig4", name, "Sec. V-B", text, found, "%", found[0] <= 35.0))
    return Section("fig4", "Fig. 4: shares of phases", HOLDS, note("fig4"), tuple(rows))


def first_step(e: Estimate) -> float:
    """Seconds of the first step and of what an inference runs just once: copies, encoders, decoders."""
    once = sum(time_pass(pass_, e.timing.priced).seconds for pass_ in e.lowered.once if pass_.repeat == 1)
    return once + of(e, "t_samp_first")


def head_start(e: Estimate) -> float:
    """The first step with what runs once, over a steady step."""
    return first_step(e) / of(e, "t_samp")


def _bend(workload: str) -> float:
    """By how much time added per step changes with the number of steps, in percent."""
    rounds = {"rounds": 1} if workload == "ebm_cmp" else {}
    unit = 10 if workload == "ired" else 1
    counts = (200, 240, 320) if workload == "ebm_cmp" else (10 * unit, 20 * unit, 40 * unit)
    times = [inference(run(workload, GPU, Alternative(settings={"steps": k, **rounds}))) for k in counts]
    early, late = ((times[i + 1] - times[i]) / (counts[i + 1] - counts[i]) for i in (0, 1))
    return round(100.0 * abs(late / early - 1.0), 6)


def fig7() -> Section:
    """Share of each of the first 50 steps, and whether time is linear in steps."""
    first = {workload: spread(workload, head_start) for workload in PROFILED}
    name = "first step and what runs once, over a steady step"
    rows = [Row(f"{w}: {name}", "Fig. 7", "", *found, "×") for w, found in first.items()]
    longest = _each(first.values(), max)
    text = "some workloads incur higher latency in the first sampling step"
    rows.append(statement("fig7", f"largest {name}", "Sec. V-D", text, longest, "×", longest[0] > 1.05))
    text = "runtime that grows linearly with the number of sampling steps"
    for workload in PROFILED:
        bend = _bend(workload)
        name = f"{workload}: departure from linear"
        rows.append(statement("fig7", name, "Sec. V-D", text, (bend, bend, bend), "%", bend < 1.0))
    return Section("fig7", "Fig. 7: scaling with sampling steps", HOLDS, note("fig7"), tuple(rows))
