"""Errors against measurements as a table."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from ebmsim.report.table import console, plain_table, seconds, share

if TYPE_CHECKING:
    from ebmsim.calibration.validation import Validation
    from ebmsim.calibration.whole import Steps


def print_validation(found: Validation) -> None:
    """Print the errors of a replayed table, over all rows and by group."""
    out = console()
    e = found.errors
    out.print(
        f"[bold]{found.hardware.name}[/] with {found.profile.name}: {e.rows} measured kernels, "
        f"median error [bold]{share(e.median_ape)}[/], mean {share(e.mape)}, 90th percentile {share(e.p90_ape)}; "
        f"{share(found.covered)} within the 80 % intervals",
        highlight=False,
        soft_wrap=True,
    )
    table = plain_table("kind", "phase", "dtype", "measured time", "rows", "median", "mean", "90th percentile")
    for group in found.groups:
        kind = [group["kind"], group["phase"], group["dtype"], _band(group)]
        table.add_row(*kind, str(group["rows"]), *[share(group[k]) for k in ("median_ape", "mape", "p90_ape")])
    out.print(table)


def _band(group: dict[str, Any]) -> str:
    low, high = group["from_s"], group["to_s"]
    if high is None:
        return f"{seconds(low)} and more"
    return f"below {seconds(high)}" if low == 0 else f"{seconds(low)} to {seconds(high)}"


def print_steps(found: Steps) -> None:
    """Print measured and predicted times of sampling steps, then how well the measurement repeats."""
    out = console()
    table = plain_table("workload", "", "measured", "spread", "predicted", "error", "80 % interval", "")
    last = ""
    for figure in found.figures:
        name = figure.workload if figure.workload != last else ""
        last = figure.workload
        interval = "–" if figure.interval is None else " to ".join(map(seconds, figure.interval))
        inside = "" if figure.covered is None else "inside" if figure.covered else "outside"
        table.add_row(
            name,
            figure.name,
            seconds(figure.measured),
            f"± {share(figure.spread / 2)}",
            seconds(figure.predicted),
            f"{100 * figure.error:+.1f} %",
            interval,
            inside,
        )
    out.print(table)
    errors = found.errors("t_samp")
    repeat = max(m.repeat_error for m in found.measured)
    disturbed = sum(m.disturbed for m in found.measured)
    out.print(
        f"[bold]{found.hardware.name}[/] with {found.policy.software}: T_samp of {len(errors)} workloads, median error "
        f"[bold]{share(median(errors))}[/], worst {share(max(errors))}. Odd rounds differ from even ones by "
        f"{share(repeat)} at most; {disturbed} disturbed rounds were left out.",
        highlight=False,
        soft_wrap=True,
    )
