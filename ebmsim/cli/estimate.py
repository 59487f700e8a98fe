"""Commands that estimate: thin, as all commands are. Each parses, calls one function of the library, and prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ebmsim.cli import completion
from ebmsim.cli.options import (
    estimated,
    hardware_option,
    picture_option,
    policy_options,
    several_words,
    workload_argument,
    workload_options,
)


@click.command()
@workload_argument
@hardware_option
@workload_options
@policy_options
@picture_option()
@click.option("--json", "as_json", is_flag=True, help="Every figure as one JSON object, SI units.")
def estimate(
    workload: str,
    hw: str,
    preset: str,
    settings: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    **policy: Any,
) -> None:
    """T_samp, T_inf and T_train of WORKLOAD on a device, and why."""
    found = estimated(workload, hw, preset, settings, policy, output)
    _draw([found], output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    from ebmsim.report.table import print_estimate

    print_estimate(found)


@click.command()
@workload_argument
@click.argument("kernel", required=False)
@hardware_option
@workload_options
@policy_options
def explain(workload: str, kernel: str | None, hw: str, preset: str, settings: tuple[str, ...], **policy: Any) -> None:
    """Every kernel of a step of WORKLOAD, or the time of KERNEL derived step by step."""
    from ebmsim.report.explain import explain_kernel, print_kernels

    found = estimated(workload, hw, preset, settings, policy)
    if kernel is None:
        print_kernels(found)
    else:
        click.echo(explain_kernel(found, kernel))


@click.command(cls=several_words("--hw"))
@click.argument("workloads", nargs=-1, required=True, shell_complete=completion.workloads)
@click.option(
    "--hw",
    "hardware",
    multiple=True,
    required=True,
    metavar="HW...",
    help="Devices, one or more.",
    shell_complete=completion.hardware,
)
@click.option("--why", is_flag=True, help="The speed-up of every device over the first, by groups of figures.")
@click.option("--of", metavar="FIGURE", help="The time or energy that --why is about; t_inf if not given.")
@picture_option()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per pair, in a list.")
@workload_options
@policy_options
def compare(
    workloads: tuple[str, ...],
    hardware: tuple[str, ...],
    why: bool,
    of: str | None,
    output: Path | None,
    as_json: bool,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """A table of WORKLOADS on devices."""
    if (of is not None and not why) or (why and len(hardware) < 2):
        raise click.UsageError("expected --why with --of" if not why else "expected two devices or more with --why")
    rows = [[estimated(w, h, preset, settings, policy, output) for h in hardware] for w in workloads]
    found = [e for row in rows for e in row]
    reasons = _reasons(rows, of or "t_inf") if why else {}
    _draw(found, output)
    if as_json:
        added = [{"speedup": reasons[i].to_dict()} if i in reasons else {} for i in range(len(found))]
        objects = [e.to_dict() | more for e, more in zip(found, added, strict=True)]
        click.echo(json.dumps(objects, indent=1, allow_nan=False))
        return
    from ebmsim.report.table import print_comparison

    print_comparison(found)
    for reason in reasons.values():
        from ebmsim.report.decomposition import print_decomposition

        print_decomposition(reason)


def _draw(found: Sequence[Any], output: Path | None) -> None:
    if output is not None:
        from ebmsim.report.plots_breakdown import write_breakdown

        write_breakdown(found, output)


def _reasons(rows: Sequence[Sequence[Any]], of: str) -> dict[int, Any]:
    """The speed-ups of the estimates of every row over its first one, by their number among all."""
    from ebmsim.sweep.decomposition import decomposition

    width = len(rows[0])
    return {
        i * width + j: decomposition(row[0], e, of) for i, row in enumerate(rows) for j, e in enumerate(row) if j > 0
    }
