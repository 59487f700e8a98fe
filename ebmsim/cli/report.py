"""The command that writes an estimate as a page: thin, as all commands are."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ebmsim.cli.options import all_of, estimated, hardware_option, policy_options, workload_argument, workload_options


@click.command()
@workload_argument
@hardware_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PAGE.html",
    help="File to write, - for stdout.",
)
@workload_options
@policy_options
def report(workload: str, hw: str, output: Path, preset: str, settings: tuple[str, ...], **policy: Any) -> None:
    """One page with the answer for WORKLOAD on a device, where it comes from, and what to improve next."""
    from ebmsim.output import write_output
    from ebmsim.report.html import check_page, page
    from ebmsim.spec.library import load_workload

    _, e = all_of(lambda: check_page(output), lambda: estimated(workload, hw, preset, settings, policy))
    loaded = load_workload(workload, preset, e.workload.parameters)
    command = _words(workload, hw, preset, settings, asdict(e.policy))
    write_output(output, page(e, loaded, command).encode())
    if str(output) != "-":
        click.echo(str(output))


def _words(workload: str, hw: str, preset: str, settings: tuple[str, ...], policy: Mapping[str, Any]) -> str:
    """The command that gives the same estimate, whatever the defaults will be by then."""
    given = [*(("--preset", preset) if preset else ()), *(word for text in settings for word in ("--set", text))]
    how = [word for name, value in policy.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ("ebmsim", "report", workload, "--hw", hw, *given, *how, "-o", "report.html")
    return shlex.join(words)
