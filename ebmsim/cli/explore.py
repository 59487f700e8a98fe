"""Commands that ask what would change with other designs: thin, as all commands are."""

from __future__ import annotations

import json
from typing import Any

import click

from ebmsim.cli.options import estimated, policy_options, workload_options


@click.command()
@click.argument("workload")
@click.option("--hw", required=True, metavar="HARDWARE", help="Name or path of a device.")
@click.option("--of", default="t_inf", show_default=True, metavar="FIGURE", help="A time or energy of the estimate.")
@click.option("--json", "as_json", is_flag=True, help="Every figure of the device as one JSON object, SI units.")
@workload_options
@policy_options
def sensitivity(
    workload: str, hw: str, of: str, as_json: bool, preset: str, settings: tuple[str, ...], **policy: Any
) -> None:
    """What every figure of a device does to the time of WORKLOAD, and what to improve next."""
    from ebmsim.sweep.sensitivity import elasticities

    found = elasticities(estimated(workload, hw, preset, settings, policy), of)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    from ebmsim.report.sensitivity import print_sensitivity

    print_sensitivity(found)
