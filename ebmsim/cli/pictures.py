"""Commands whose answer is a picture: thin, as all commands are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ebmsim.cli.options import (
    estimated,
    hardware_option,
    picture_option,
    policy_options,
    workload_argument,
    workload_options,
)


@click.command()
@workload_argument
@hardware_option
@picture_option(required=True)
@workload_options
@policy_options
def roofline(workload: str, hw: str, output: Path, preset: str, settings: tuple[str, ...], **policy: Any) -> None:
    """Every kernel and component of a step of WORKLOAD on the hierarchical roofline of a device."""
    found = estimated(workload, hw, preset, settings, policy, output)
    from ebmsim.report.plots_roofline import write_roofline

    write_roofline(found, output)
    click.echo(str(output))
