"""The estimate as a table: the answer first, then where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate

_ANSWER = (
    ("T_samp", "t_samp", "one steady sampling step"),
    ("T_inf", "t_inf", "an inference"),
    ("T_train", "t_train", "a training run"),
)
_PHASES = (
    ("forward", "t_fwd"),
    ("backward to the input", "t_bwd_in"),
    ("random numbers", "t_rng"),
    ("update", "t_update"),
    ("accept", "t_accept"),
)


_TEXT = 120
# More columns than any table needs.
_UNBROKEN = 10_000


class _Pipe(Console):
    """A console that is no terminal: text in 120 columns, and every row of a table on one line, as grep reads it."""

    def print(self, *objects: Any, **how: Any) -> None:
        self.width = _UNBROKEN if any(isinstance(item, Table) for item in objects) else _TEXT
        super().print(*objects, **how)


def console() -> Console:
    """The console on stdout."""
    plain = Console(emoji=False)
    return plain if plain.is_terminal else _Pipe(emoji=False)


def seconds(value: float | None) -> str:
    """A time in words, or a dash."""
    return "–" if value is None else format_quantity(value, "time")


def share(value: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.1f} %"


def plain_table(*columns: str, title: str = "") -> Table:
    """A table in the house style: first column left, the others right."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
    return table


def print_estimate(e: Estimate) -> None:
    """Print an estimate."""
    out = console()
    p = e.policy
    tag = "kernels validated" if e.hardware.validated else "unvalidated: nothing was measured on this device"
    out.print(f"[bold]{e.workload.name}[/] on [bold]{e.hardware.name}[/]  ({tag})", highlight=False)
    out.print(_answer(e))
    out.print(_summary(e), highlight=False)
    for table in (_phases(e), _components(e), _shares(e)):
        out.print(table)
    counts = e.settings
    parameters = ", ".join(f"{k}={v}" for k, v in counts["parameters"].items() if k not in counts)
    out.print(
        f"settings  preset {counts['preset']}; C = {counts['chains']} chains, K = {counts['steps']} steps, "
        f"K_t = {counts['training_steps']}, training batch {counts['training_batch']}, N = {counts['iterations']}",
        highlight=False,
    )
    out.print(f"          {parameters}", highlight=False)
    out.print(
        f"policy    {p.execution}, {p.fidelity}, {p.dtype} ({p.math}), {p.software}, {p.streams} stream"
        f"{'s' if p.streams > 1 else ''}, chains {p.chain_mode}",
        highlight=False,
    )


def _answer(e: Estimate) -> Table:
    table = plain_table("", "", "80 % interval", "what it is")
    table.columns[3].justify = "left"
    w = e.workload
    scope = f"{e.lowered.chains} chain{'s' if e.lowered.chains > 1 else ''} at once"
    text = {
        "t_samp": f"one steady sampling step, {scope}",
        "t_inf": f"an inference: {w.setting('steps')} steps of {w.setting('chains')} chains",
        "t_train": f"a training run: {w.setting('iterations')} iterations of {w.setting('training_steps')} steps",
    }
    for label, key, _ in _ANSWER:
        value = e.seconds[key]
        interval = e.seconds_interval.get(key)
        spread = f"{seconds(interval[0])} to {seconds(interval[1])}" if interval else "–"
        table.add_row(
            f"[bold]{label}[/]", f"[bold]{seconds(value)}[/]", spread, text[key] if value is not None else "no training"
        )
    return table


def _summary(e: Estimate) -> str:
    name, part = next(iter(e.bounds.items()))
    m = e.memory
    held = format_quantity(m["inference_bytes"], "bytes")
    fits = "fits in" if m["fits"] else "[bold]does not fit in[/]"
    lines = [f"bound by  {name} ({share(part)} of the step)"]
    lines.append(f"memory    {held} for inference {fits} {format_quantity(m['capacity_bytes'], 'bytes')}")
    if m["training_bytes"] is not None:
        word = "fits" if m["training_fits"] else "[bold]does not fit[/]"
        lines[-1] += f"; training {format_quantity(m['training_bytes'], 'bytes')} {word}"
    energy = e.energy
    lines.append(
        f"energy    {format_quantity(energy['step_joules'], 'energy')} a step, "
        f"{format_quantity(energy['mean_power_watts'], 'power')} on average"
    )
    t = e.taxonomy
    derived = "" if t["derived_dependency"] == t["dependency"] else f" (derived: {t['derived_dependency']})"
    lines.append(f"taxonomy  {t['compositionality']}, {t['dependency']}{derived}")
    return "\n".join(lines)


def _phases(e: Estimate) -> Table:
    table = plain_table("phase of a step", "time", "share", "FLOPs", "bytes", "kernels")
    kernels = e.timing.table
    from ebmsim.graph.kernels import PHASES

    for label, key in _PHASES:
        value = e.seconds[key] or 0.0
        codes = {"t_fwd": "forward", "t_bwd_in": "backward-input", "t_rng": "rng", "t_update": "update"}
        mine = kernels.phase == PHASES.index(codes.get(key, "accept"))
        if not mine.any():
            continue
        moved = float((kernels.read + kernels.written)[mine].sum())
        table.add_row(
            label,
            seconds(value),
            share(value / e.timing.seconds),
            format_quantity(float(kernels.flops[mine].sum()), "flops"),
            format_quantity(moved, "bytes"),
            str(int(mine.sum())),
        )
    first, once = e.seconds["t_samp_first"], e.seconds["t_once"]
    table.add_row("first step", seconds(first), "", "", "", "")
    table.add_row("once per inference", seconds(once), "", "", "", "")
    return table


def _components(e: Estimate) -> Table:
    table = plain_table(
        "component", "instances", "parameters", "FLOPs a chain", "FLOPs/B", "forward", "backward", "bound by"
    )
    for c in e.components:
        table.add_row(
            c["name"],
            f"{c['instances']} {c['weights']}" if c["instances"] > 1 else "1",
            f"{c['parameters']:,}",
            format_quantity(c["flops_fwd"], "flops"),
            f"{c['intensity']:.1f}",
            seconds(c["t_fwd"]),
            seconds(c["t_bwd_in"]),
            c["bound"] or "once",
        )
    return table


def _shares(e: Estimate) -> Table:
    table = plain_table("category", "of busy time", "bound", "of the step")
    table.columns[2].justify = "left"
    left = [(k, v) for k, v in sorted(e.categories.items(), key=lambda i: -i[1]) if v > 0]
    right = list(e.bounds.items())
    for i in range(max(len(left), len(right))):
        a = (left[i][0], share(left[i][1])) if i < len(left) else ("", "")
        b = (right[i][0], share(right[i][1])) if i < len(right) else ("", "")
        table.add_row(*a, *b)
    return table


def print_comparison(found: Sequence[Any]) -> None:
    """Print one row per workload and device."""
    table = plain_table("workload", "device", "T_samp", "T_fwd", "T_bwd,in", "T_inf", "T_train", "bound by", "fits")
    table.columns[1].justify = "left"
    for e in found:
        s = e.seconds
        table.add_row(
            e.workload.name,
            e.hardware.name,
            *[seconds(s[k]) for k in ("t_samp", "t_fwd", "t_bwd_in", "t_inf", "t_train")],
            next(iter(e.bounds)),
            "yes" if e.memory["fits"] else "no",
        )
    console().print(table)
