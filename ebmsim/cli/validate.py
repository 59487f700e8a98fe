"""The command that sets predictions beside measurements: thin, as all commands are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import click

from ebmsim.cli import completion
from ebmsim.cli.options import estimated, policy_options, workload_options
from ebmsim.errors import EbmsimError


class _Fraction(click.FloatRange):
    """A number that is not NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail("expected a fraction, found nan", param, ctx)
        return number


@click.command()
@click.argument("workloads", nargs=-1, shell_complete=completion.workloads)
@click.option(
    "--hw",
    required=True,
    metavar="HARDWARE",
    help="Name or path of the device that is measured.",
    shell_complete=completion.hardware,
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where torch runs the WORKLOADS' steps.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of torch on a CPU; as calibrated, or its own number."
)
@click.option("--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="Rounds of measuring.")
@click.option("--training", is_flag=True, help="Measure training iterations too, without their sampling.")
@click.option("--measurements", type=Path, metavar="TABLE.csv", help="Measured kernels, one per row, in their place.")
@click.option("--max-median", type=_Fraction(min=0), help="Exit 1 where the median error, a fraction, is above.")
@click.option("-o", "--output", type=Path, metavar="PLOT.png", help="Draw predicted against measured times.")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object, fractions.")
@workload_options
@policy_options
def validate(
    workloads: tuple[str, ...],
    hw: str,
    device: str | None,
    threads: int | None,
    rounds: int,
    training: bool,
    measurements: Path | None,
    max_median: float | None,
    output: Path | None,
    as_json: bool,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """How far predictions are from sampling steps of WORKLOADS measured now, or from a table of measured kernels."""
    if bool(workloads) == (measurements is not None) or (workloads and device is None):
        raise click.UsageError("expected workloads with --device, or --measurements")
    if training and not workloads:
        raise click.UsageError("expected workloads with --training")
    if output is not None:
        from ebmsim.report.plots import check_picture

        check_picture(output)
    if measurements is not None:
        error = _validate_kernels(measurements, hw, policy["software"], output, as_json)
    else:
        how = (str(device), threads, rounds, training, output, as_json)
        error = _validate_steps(workloads, hw, preset, settings, policy, *how)
    if max_median is not None and error > max_median:
        click.echo(f"median error {error:.4f} is above {max_median:g}", err=True)
        sys.exit(1)


def _validate_kernels(table: Path, hw: str, software: str, output: Path | None, as_json: bool) -> float:
    """The median error over all rows of a table."""
    from ebmsim.calibration.validation import validate as replay

    found = replay(table, hw, software)
    if output is not None:
        from ebmsim.report.plots_parity import parity

        parity(found, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from ebmsim.report.validation import print_validation

        print_validation(found)
    return found.errors.median_ape


def _validate_steps(
    names: tuple[str, ...],
    hw: str,
    preset: str,
    settings: tuple[str, ...],
    policy: Mapping[str, Any],
    device: str,
    threads: int | None,
    rounds: int,
    training: bool,
    output: Path | None,
    as_json: bool,
) -> float:
    """The median error of T_samp over all workloads."""
    predicted = [estimated(name, hw, preset, settings, policy) for name in names]
    with needs_torch():
        from ebmsim.calibration.whole import validate_steps

    def told(done: int, of: int) -> None:
        click.echo(f"round {done} of {of}", err=True)

    found = validate_steps(predicted, device, threads, rounds, told, training)
    if output is not None:
        from ebmsim.report.plots_parity import steps_parity

        steps_parity(found, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from ebmsim.report.validation import print_steps

        print_steps(found)
    return median(found.errors("t_samp"))


@contextmanager
def needs_torch() -> Iterator[None]:
    """What is imported inside needs torch. Raises EbmsimError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EbmsimError("this needs torch: pip install 'ebmsim[torch]'") from None
