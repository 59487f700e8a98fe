"""The command that calibrates a machine: thin, as all commands are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmsim.cli.validate import needs_torch
from ebmsim.errors import EbmsimError, Problem, SpecError

if TYPE_CHECKING:
    from ebmsim.calibration.calibrate import Calibrated
    from ebmsim.calibration.store import Store

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Device to measure, in torch.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch on a CPU; all if not given.")
@click.option("--quick", is_flag=True, help="Every third step, fewer rounds: about 2 minutes, not 10.")
@click.option("-o", "--output", type=_PATH, required=True, metavar="HW.yaml", help="Hardware file to write.")
@click.option("--save-measurements", "kept", type=_PATH, metavar="FILE", help="File in which measured steps are kept.")
@click.option("--measurements", type=_PATH, metavar="FILE", help="Measured before: such a file, or a table of kernels.")
@click.option(
    "--base", default="", metavar="HW", help="Hardware that the file extends; a CPU that is measured needs none."
)
@click.option("--json", "as_json", is_flag=True, help="Residuals and errors of whole models as one JSON object.")
def calibrate(
    device: str | None,
    threads: int | None,
    quick: bool,
    output: Path,
    kept: Path | None,
    measurements: Path | None,
    base: str,
    as_json: bool,
) -> None:
    """Measure small steps on a device, fit the coefficients of the model to them, and write a hardware file.

    What was measured is kept: after an interruption the same command goes on where it stopped.
    """
    _check(device, measurements, base, output)
    if measurements is not None:
        from ebmsim.calibration.store import is_store, read_store

        if not is_store(measurements):
            from ebmsim.calibration.from_table import calibrate_table

            calibrate_table(measurements, base, output, _say)
            return
        store = read_store(measurements)
        _finish(store, base, output, as_json)
        return
    from ebmsim.calibration.calibrate import store_beside

    path = kept or store_beside(output)
    store = _measured(str(device), threads, quick, path)
    _finish(store, base, output, as_json)
    if kept is None:
        path.unlink()


def _check(device: str | None, measurements: Path | None, base: str, output: Path) -> None:
    """Raise SpecError with everything that is wrong about the options."""
    problems = []
    if (device is None) == (measurements is None):
        problems.append(Problem("expected --device, or --measurements of before"))
    if not base and (measurements is not None or device == "cuda"):
        problems.append(Problem("expected --base, the hardware that the new file extends", hint="ebmsim list hardware"))
    if base and device == "cpu":
        problems.append(Problem("--device cpu describes the processor by itself", hint="leave out --base"))
    if output.suffix not in (".yaml", ".yml"):
        problems.append(Problem(f"expected a name that ends in .yaml, found '{output.name}'", str(output)))
    if not output.parent.is_dir():
        problems.append(Problem("no such folder", str(output.parent)))
    if problems:
        raise SpecError(problems)


def _measured(device: str, threads: int | None, quick: bool, path: Path) -> Store:
    """All steps measured. Raises EbmsimError when interrupted, what was measured kept."""
    with needs_torch():
        import torch

        from ebmsim.calibration.environment import described
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError([Problem("torch sees no CUDA device")])
    if threads is not None:
        torch.set_num_threads(threads)
    from ebmsim.calibration.calibrate import measure_all
    from ebmsim.calibration.store import open_store

    store = open_store(path, described(device))
    try:
        with _progress() as told:
            measure_all(store, device, quick, told)
    except KeyboardInterrupt:
        again = f"{len(store.steps)} steps are kept in {path}; the same command goes on from there"
        raise EbmsimError(f"interrupted: {again}") from None
    return store


def _finish(store: Store, base: str, output: Path, as_json: bool) -> None:
    from ebmsim.calibration.calibrate import calibrate_from
    from ebmsim.calibration.file import hardware_text
    from ebmsim.output import write_output
    from ebmsim.spec.library import load_hardware

    if base:
        start = load_hardware(base)
    else:
        from ebmsim.calibration.environment import draft

        start = draft(output.stem)
    found = calibrate_from(store, start, output.stem, _say)
    write_output(output, hardware_text(found.hardware, found.models, base).encode())
    if as_json:
        click.echo(json.dumps(_answer(found), indent=1, allow_nan=False))
    else:
        from ebmsim.report.calibration import print_calibration

        print_calibration(found, output)


def _answer(found: Calibrated) -> dict[str, Any]:
    errors = [{"workload": name, "error": error} for name, error in found.models.items()]
    return {"schema": 1, "hardware": found.hardware.name, "residuals": list(found.residuals), "models": errors}


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on stderr with the time left; a line now and then where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, of, what: _say(f"measured {done} of {of}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("measuring", total=None)

        def told(done: int, of: int, what: str) -> None:
            bar.update(task, completed=done, total=of, description=f"measuring {what}" if what else "measured")

        yield told
