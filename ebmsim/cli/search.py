"""The command that searches a space of designs for the best one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebmsim.errors import Problem, SpecError

if TYPE_CHECKING:
    from ebmsim.design import Sweep
    from ebmsim.sweep.search import Told
    from ebmsim.sweep.tried import Design

_PATH = click.Path(path_type=Path)
# Seconds between two lines of progress where stderr is no terminal.
_PAUSE = 10.0
_LARGEST_SEED = 2**32 - 1


@click.command()
@click.argument("file", type=_PATH, metavar="SWEEP.yaml")
@click.option("-o", "--output", type=_PATH, metavar="BEST.yaml", help="Hardware file of the best design.")
@click.option("--trials", type=click.IntRange(min=1), default=300, show_default=True, help="Designs to try.")
@click.option(
    "--seed", type=click.IntRange(0, _LARGEST_SEED), default=0, show_default=True, help="Which designs are tried."
)
@click.option("--json", "as_json", is_flag=True, help="What was found as one JSON object, SI units.")
def search(file: Path, output: Path | None, trials: int, seed: int, as_json: bool) -> None:
    """The design of SWEEP.yaml that meets its constraints with the least of what `minimize` names.

    Exit status 1 where no design that was tried meets all constraints.
    """
    from ebmsim.sweep.search import search as run

    given = _checked(file, output, trials, seed)
    with _progress(given.minimize[0]) as told:
        found = run(given, trials, seed, told)
    if found.best is not None and output is not None:
        from ebmsim.output import write_output
        from ebmsim.sweep.search_file import design_text

        write_output(output, design_text(found, found.best, output).encode())
        click.echo(f"wrote {output}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from ebmsim.report.search import print_search

        print_search(found)
    if found.best is None:
        from ebmsim.report.search import failure

        click.echo(failure(found) + (f"; {output} is not written" if output else ""), err=True)
    if found.stopped:
        click.echo(f"stopped after {found.trials} trials; the answer is of these", err=True)
        sys.exit(130)
    if found.best is None:
        sys.exit(1)


def _checked(file: Path, output: Path | None, trials: int, seed: int) -> Sweep:
    """The sweep of a file. Raises SpecError with all that is wrong with it, and with the file to write."""
    from ebmsim.output import check_output
    from ebmsim.spec.library import load_sweep
    from ebmsim.sweep.search import check_search

    problems = []
    if output is not None:
        if output.suffix not in (".yaml", ".yml"):
            problems.append(Problem(f"expected a name that ends in .yaml, found '{output.name}'", str(output)))
        try:
            check_output(output)
        except SpecError as error:
            problems += error.problems
    try:
        given = load_sweep(file)
        check_search(given, trials, seed)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems)
    return given


@contextmanager
def _progress(of: str) -> Iterator[Told]:
    """A bar on stderr with the best figure so far; a line now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    last = time.monotonic()

    def line(done: int, trials: int, best: Design | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _PAUSE:
            last = time.monotonic()
            click.echo(f"{done} of {trials} trials, {_so_far(of, best)}", err=True)

    if not console.is_terminal:
        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("trials, {task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, trials, best: bar.update(task, completed=done, total=trials, description=_so_far(of, best))


def _so_far(of: str, best: Design | None) -> str:
    if best is None:
        return "none meets all constraints yet"
    from ebmsim.report.search import figure_text

    return f"best {of} {figure_text(of, best.value(of))}"
