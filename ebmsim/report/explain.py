"""Why a kernel takes as long as it does: every term with its numbers and the source of each figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmsim.cost.compute import vector_rate
from ebmsim.cost.products import dtypes, product_rate
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.graph.kernels import CATEGORIES, PHASES
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate
    from ebmsim.hardware import SubArray


def print_kernels(e: Estimate) -> None:
    """Print every kernel of the steady step, in order, and where components ran if there is more than one stream."""
    from ebmsim.report.table import console, plain_table, seconds, share

    table = plain_table("kernel", "phase", "operator", "FLOPs", "bytes", "time", "of step", "bound by")
    for column in table.columns:
        column.no_wrap = True
    for row in e.to_rows():
        table.add_row(
            row["kernel"],
            row["phase"],
            row["op"],
            format_quantity(row["flops"], "flops"),
            format_quantity(row["bytes_read"] + row["bytes_written"], "bytes"),
            seconds(row["seconds"]),
            share(row["seconds"] / e.timing.seconds),
            row["bound"],
        )
    out = console()
    out.print(table)
    if e.policy.streams > 1:
        out.print(_streams(e), highlight=False)
    out.print("name a kernel to see its time derived", highlight=False)


def _streams(e: Estimate) -> Any:
    """The branches of every stage by stream, in order, with start and end in the step."""
    from ebmsim.report.table import plain_table, seconds

    if not e.timing.plans:
        return f"no two components of {e.workload.name} run side by side on {e.hardware.name}"
    groups = e.timing.priced.machine.subarrays
    columns = ("stage", "stream", *(("arrays",) if len(groups) > 1 else ()), "components", "from", "to")
    table = plain_table(*columns)
    table.columns[-3].justify = "left"
    for plan in e.timing.plans:
        for stream in sorted({placed.stream for placed in plan.placements}):
            mine = sorted((p for p in plan.placements if p.stream == stream), key=lambda p: p.start)
            end = max(placed.finish for placed in mine)
            where = [_arrays(groups, mine[0].group)] if len(groups) > 1 else []
            names = _together(placed.branch for placed in mine)
            table.add_row(plan.phase, str(stream), *where, names, seconds(mine[0].start), seconds(end))
    return table


def _arrays(groups: Sequence[SubArray], group: int | None) -> str:
    if group is None:
        return "all"
    return f"{groups[group].arrays:g} of {groups[group].rows:g} × {groups[group].columns:g}"


def _together(branches: Iterable[str]) -> str:
    """Branches with neighbours of one component written together: `main[0, 2]`."""
    runs = groupby((branch.rstrip("]").split("[") for branch in branches), key=lambda parts: parts[0])
    return ", ".join(f"{name}[{', '.join(index for _, index in run)}]" for name, run in runs)


def explain_kernel(e: Estimate, name: str) -> str:
    """The derivation of one kernel's time. Raises SpecError with the nearest names."""
    table = e.timing.table
    if name not in table.names:
        raise SpecError(
            [Problem(f"no kernel '{name}' in a step of {e.workload.name}", hint=suggest(name, table.names))]
        )
    i = table.names.index(name)
    return "\n".join([*_head(e, i), *compute_lines(e, i), *memory_lines(e, i), *total_lines(e, i), *_sources(e, i)])


def _head(e: Estimate, i: int) -> list[str]:
    t = e.timing.table
    where = f"{e.workload.file}:{t.lines[i]}" if t.lines[i] else "derived by the gradient rules"
    lines = [
        f"{t.names[i]}: {t.ops[i]}, {PHASES[t.phase[i]]}, {CATEGORIES[t.category[i]]}  ({where})",
        f"  work      {_n(t.flops[i])} FLOPs, {_n(t.special[i])} transcendental, {_n(t.random[i])} random numbers",
    ]
    if t.product[3, i]:
        b, m, n, k = (int(v) for v in t.product[:, i])
        lines.append(f"            as a product: {b} × ({m} × {k}) · ({k} × {n}), {_n(t.product_flops[i])} FLOPs")
    lines.append(f"  bytes     {_b(t.read[i])} read ({_b(t.read_weights[i])} of weights), {_b(t.written[i])} written")
    return lines


def _n(value: Any) -> str:
    return f"{float(value):,.0f}"


def _b(value: Any) -> str:
    return format_quantity(float(value), "bytes")


def _s(value: Any) -> str:
    return format_quantity(float(value), "time")


def compute_lines(e: Estimate, i: int) -> list[str]:
    """How a kernel computes, and its seconds."""
    p = e.timing.priced
    machine, row = p.machine, e.timing.pass_.order[i]
    lines = []
    units = f"{machine.units:g} units at {format_quantity(machine.clock, 'frequency')}"
    product = int(p.rows.product[row])
    if product >= 0 and e.policy.fidelity != "roofline":
        names = dtypes(e.profile, machine, e.policy)
        dtype = names.convolution if p.rows.products.convolution[product] else names.matmul
        rate = float(product_rate(p.rows.products, machine, names)[product])
        choice = p.choices[product]
        lines.append(f"  compute   {dtype} at {rate:,.1f} FLOPs per unit and cycle, {units}")
        systolic = machine.organisation == "systolic"
        parts, rounds = ("folds", "on each array") if systolic else ("tiles", "waves")
        lines.append(f"            best way: {choice.name}: {_n(choice.parts)} {parts}, {choice.rounds:,.4g} {rounds}")
    else:
        rate = vector_rate(machine, e.policy)
        lines.append(
            f"  compute   {rate:,.1f} FLOPs, {machine.special:,.1f} transcendental per unit and cycle, {units}"
        )
    lines.append(f"            = {_s(e.timing.costs.compute[i])}")
    return lines


def memory_lines(e: Estimate, i: int) -> list[str]:
    """Bytes and seconds at every level, and how long ago each tensor was touched."""
    t, costs = e.timing.table, e.timing.costs
    lines = []
    levels = {level.name: level for level in e.hardware.memory}
    for name, amount, seconds in zip(costs.traffic.levels, costs.traffic.bytes, costs.traffic.seconds, strict=True):
        level = levels[name]
        rate = format_quantity(level.bandwidth, "bandwidth")
        full = " (full bandwidth)" if e.policy.fidelity == "roofline" else f" × {level.efficiency:g}"
        lines.append(f"  {name:<9} {_b(amount[i])} / ({rate}{full}) = {_s(seconds[i])}")
    mine = t.access_kernel == i
    shown = ", ".join("first touch" if not np.isfinite(d) else _b(d) for d in t.distance[mine])
    lines.append(f"            bytes since each tensor was last touched: {shown}")
    return lines


def total_lines(e: Estimate, i: int) -> list[str]:
    """Seconds of the device, the host and the step."""
    t, timing = e.timing.table, e.timing
    costs = timing.costs
    fixed = float(costs.fixed[i])
    rule = f"knee p = {e.profile.knee:g}" if t.product[3, i] else "the larger"
    if e.policy.fidelity == "roofline":
        rule = "the larger"
    lines = [
        f"  device    {_s(fixed)} fixed + {rule} of compute {_s(costs.compute[i])} and memory "
        f"{_s(costs.memory[i])} = {_s(timing.device[i])}",
        f"  host      {_s(timing.host[i])} to issue it",
        f"  time      {_s(timing.advance[i])} of the step's {_s(timing.seconds)}, bound by {e.bound_of_kernels[i]}",
    ]
    if timing.stretched > 1.0:
        lines.append(f"            stretched {timing.stretched:.3f} times: the step would exceed the power limit")
    return lines


def _sources(e: Estimate, i: int) -> list[str]:
    wanted = ["units", "sustained_clock", "launch.eager", "launch.graph", "launch.persistent"]
    wanted += [f"memory.{name}.bandwidth" for name in e.timing.costs.traffic.levels]
    wanted += [p for p in e.hardware.sources if p.startswith(("matrix.peak.", "vector.")) and _used(e, i, p)]
    lines = ["  figures"]
    for path in wanted:
        mark, text = e.hardware.sources.get(path, ("unsourced", "no source given"))
        lines.append(f"    {path}: {mark}, {text}")
    lines.append(
        f"    software profile {e.profile.name}: " + "; ".join(f"{k}: {v}" for k, v in e.profile.sources.items())
    )
    return lines


def _used(e: Estimate, i: int, path: str) -> bool:
    t = e.timing.table
    if not t.product[3, i]:
        return path in ("vector.special", "vector.random", f"vector.peak.{e.policy.dtype}")
    names = dtypes(e.profile, e.timing.priced.machine, e.policy)
    is_convolution = CATEGORIES[t.category[i]] == "convolution"
    return path == f"matrix.peak.{names.convolution if is_convolution else names.matmul}"
