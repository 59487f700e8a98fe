"""Commands that ask what would change with other designs: thin, as all commands are."""

from __future__ import annotations

import json
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
@click.option("--of", default="t_inf", show_default=True, metavar="FIGURE", help="A time or energy of the estimate.")
@picture_option()
@click.option("--json", "as_json", is_flag=True, help="Every figure of the device as one JSON object, SI units.")
@workload_options
@policy_options
def sensitivity(
    workload: str,
    hw: str,
    of: str,
    output: Path | None,
    as_json: bool,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """What every figure of a device does to the time of WORKLOAD, and what to improve next."""
    from ebmsim.sweep.sensitivity import elasticities

    found = elasticities(estimated(workload, hw, preset, settings, policy, output), of)
    if output is not None:
        from ebmsim.report.plots_sensitivity import write_sensitivity

        write_sensitivity(found, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    from ebmsim.report.sensitivity import print_sensitivity

    print_sensitivity(found)
