"""A workload on several devices as tables: inference, then training."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ebmsim.report.table import console, plain_table, seconds, share
from ebmsim.scaled import Inference, Scaled, Training
from ebmsim.units import format_quantity


def print_scaling(found: Sequence[Scaled]) -> None:
    """Print one row per number of devices."""
    out = console()
    first = found[0]
    e = first.base
    facts, hardware, p = e.workload, e.hardware, e.policy
    grows = "weak scaling: every device has" if first.weak else "strong scaling: in all"
    batch = f", training batch {facts.setting('training_batch')}" if first.training else ""
    tag = "kernels validated, links not" if hardware.validated else "unvalidated: nothing was measured on this device"
    out.print(f"[bold]{facts.name}[/] on several [bold]{hardware.name}[/]  ({tag})", highlight=False)
    out.print(f"{grows} {facts.setting('chains')} chains{batch}; split {first.split}", highlight=False)
    out.print(_inferences(found))
    if first.training is not None:
        out.print(_trainings(found))
    out.print(
        f"preset    {facts.preset}\npolicy    {p.execution}, {p.fidelity}, {p.dtype} ({p.math}), {p.software}, "
        f"{p.streams} stream{'s' if p.streams > 1 else ''}, chains {p.chain_mode}",
        highlight=False,
    )
    if hardware.link is not None:
        link = hardware.link
        bandwidth, latency = format_quantity(link.bandwidth, "bandwidth"), seconds(link.latency)
        achieved = "" if link.efficiency == 1 else f", {share(link.efficiency)} of it achieved"
        out.print(f"link      {bandwidth} in each direction{achieved}, {latency} a message", highlight=False)


def _inferences(found: Sequence[Scaled]) -> Table:
    table = plain_table(
        "devices", "used", "split by", "chains each", "T_samp", "link in it", "T_inf", "speed-up",
        "efficiency", "memory each",
    )  # fmt: skip
    table.columns[2].justify = "left"
    for s in found:
        i = s.inference
        row = [str(i.chains), seconds(i.t_samp), seconds(i.communication), seconds(i.t_inf)]
        table.add_row(str(s.devices), str(i.used), i.split, *row, *_gain(i))
    return table


def _trainings(found: Sequence[Scaled]) -> Table:
    table = plain_table(
        "devices", "used", "split by", "batch each", "iteration", "link in it", "T_train", "speed-up",
        "efficiency", "memory each",
    )  # fmt: skip
    table.columns[2].justify = "left"
    for s in found:
        t = s.training
        if t is not None:
            row = [str(t.batch), seconds(t.t_iteration), seconds(t.communication), seconds(t.t_train)]
            table.add_row(str(s.devices), str(t.used), t.split, *row, *_gain(t))
    return table


def _gain(part: Inference | Training) -> tuple[str, str, str]:
    held = format_quantity(part.memory_bytes, "bytes")
    return f"{part.speedup:.2f}", share(part.efficiency), held if part.fits else f"{held}, too much"
