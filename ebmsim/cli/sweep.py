"""The command that sweeps designs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebmsim.design import Sweep

# One thread a process, whatever their number: the same sums in the same order, and so the same bytes. Read by the
# libraries of linear algebra when numpy is first imported.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_PATH = click.Path(path_type=Path)
# Seconds between two lines of progress where stderr is no terminal.
_PAUSE = 10.0


@click.command()
@click.argument("file", type=_PATH, metavar="SWEEP.yaml")
@click.option("-o", "--output", type=_PATH, metavar="DIR", help="Folder for the results.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Processes on this machine.")
@click.option("--scheduler", default="", metavar="ADDRESS", help="A Dask cluster, such as tcp://10.0.0.1:8786.")
@click.option("--resume", is_flag=True, help="Go on with a folder that holds part of this sweep.")
@click.option("--plot", type=_PATH, metavar="PICTURE", help="Draw the front of `keep: {pareto: [...]}`, as .png ....")
@click.option("--plan", "only_plan", is_flag=True, help="How many points, how long and how many bytes; runs one chunk.")
@click.option("--yes", "many", is_flag=True, help="More than 10^9 points are meant.")
def sweep(
    file: Path,
    output: Path | None,
    workers: int,
    scheduler: str,
    resume: bool,
    plot: Path | None,
    only_plan: bool,
    many: bool,
) -> None:
    """Estimate every design of SWEEP.yaml into DIR, chunk by chunk; finished chunks survive any end."""
    from ebmsim.spec.library import load_sweep
    from ebmsim.sweep.run import plan, run
    from ebmsim.units import format_quantity

    given = load_sweep(file)
    if plot is not None:
        _check_plot(given, plot)
    if only_plan:
        found = plan(given)
        seconds, size = format_quantity(found.seconds, "time"), format_quantity(found.bytes, "bytes")
        click.echo(
            f"{given.name}: {found.points:,} points, {found.cells:,} settings of workload, device and policy times "
            f"{found.points // found.cells:,} designs\n"
            f"{found.chunks:,} chunks, about {seconds} with one worker, {size} of {given.format} files"
        )
        return
    if output is None:
        raise click.UsageError("missing option '-o' / '--output': the folder for the results")
    if workers > 1 and scheduler:
        raise click.UsageError("either --workers or --scheduler")
    try:
        with _progress() as told:
            folder = run(given, output, workers, scheduler, resume, many, told)
    except KeyboardInterrupt:
        click.echo(f"stopped; what is done stays in {output}, and --resume goes on with it", err=True)
        sys.exit(130)
    if plot is not None:
        from ebmsim.report.plots_sweep import write_front
        from ebmsim.sweep.store import decoded

        kept = decoded((folder / f"result.{given.format}").read_bytes(), given.format)
        write_front(kept, given.keep.names, given.name, plot)
    click.echo(str(folder))


def _check_plot(given: Sweep, plot: Path) -> None:
    """Refuse a picture that cannot be drawn, before a long sweep. Raises SpecError with all that is wrong."""
    from ebmsim.errors import SpecError
    from ebmsim.report.plots import check_picture

    problems = []
    if given.keep.what != "pareto" or len(given.keep.names) < 2:
        hint = "write for example keep: {pareto: [t_inf, step_joules]}"
        problems.append(given.document.problem(("keep",), "expected a front of two figures for --plot", hint))
    try:
        check_picture(plot)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with rate and time left; a line now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    start, told = time.monotonic(), [float("-inf"), 0.0]

    def line(done: int, of: int) -> None:
        now = time.monotonic()
        if told[0] == float("-inf"):
            told[1] = done
        if now - told[0] < _PAUSE and done < of:
            return
        told[0] = now
        rate = (done - told[1]) / (now - start) if now > start else 0.0
        left = f", {rate:.3g} a second, {(of - done) / rate:.0f} s left" if rate and done < of else ""
        click.echo(f"{done} of {of} chunks{left}", err=True)

    if not console.is_terminal:
        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("chunks"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("chunks", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
