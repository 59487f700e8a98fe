"""Commands that write a step as a trace for other tools: thin, as all commands are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmsim.cli import completion
from ebmsim.cli.options import all_of, estimated, hardware_option, policy_options, workload_argument, workload_options
from ebmsim.policy import Policy

if TYPE_CHECKING:
    from ebmsim.placement import Turn
    from ebmsim.policy import Profile
    from ebmsim.spec.workload import Workload

_PATH = click.Path(path_type=Path)


@click.command()
@workload_argument
@hardware_option
@click.option("-o", "--output", type=_PATH, required=True, metavar="FILE.json", help="File to write, - for stdout.")
@workload_options
@policy_options
def timeline(workload: str, hw: str, output: Path, preset: str, settings: tuple[str, ...], **policy: Any) -> None:
    """The first and one steady step of WORKLOAD as a trace: open it in https://ui.perfetto.dev or chrome://tracing."""
    from ebmsim.output import check_output, write_output
    from ebmsim.report.timeline import timeline as drawn

    _, e = all_of(lambda: check_output(output), lambda: estimated(workload, hw, preset, settings, policy))
    turn = _turn(_loaded(workload, preset, e.workload.parameters), e.policy, e.profile)
    write_output(output, json.dumps(drawn(e, turn), ensure_ascii=False, allow_nan=False).encode())
    _tell(output)


@click.command()
@workload_argument
@click.option("--format", "form", type=click.Choice(["chakra"]), default="chakra", help="MLCommons Chakra, protobuf.")
@click.option(
    "--hw",
    metavar="HARDWARE",
    help="Device whose times kernels get; none if not given.",
    shell_complete=completion.hardware,
)
@click.option("-o", "--output", type=_PATH, required=True, metavar="FILE.et", help="File to write, - for stdout.")
@workload_options
@policy_options
def export(
    workload: str, form: str, hw: str | None, output: Path, preset: str, settings: tuple[str, ...], **policy: Any
) -> None:
    """The steady step of WORKLOAD as a graph that other simulators read."""
    from ebmsim.output import check_output, write_output

    make = _untimed if hw is None else _timed
    _, content = all_of(lambda: check_output(output), lambda: make(workload, hw or "", preset, settings, policy))
    write_output(output, content)
    _tell(output)


def _timed(workload: str, hw: str, preset: str, settings: tuple[str, ...], policy: Mapping[str, Any]) -> bytes:
    from ebmsim.report.chakra import chakra_trace, settings_of

    e = estimated(workload, hw, preset, settings, policy)
    turn = _turn(_loaded(workload, preset, e.workload.parameters), e.policy, e.profile)
    return chakra_trace(
        turn, e.timing.table, settings_of(e.workload.name, e.hardware.name, e.workload.parameters), e.timing
    )


def _untimed(workload: str, hw: str, preset: str, settings: tuple[str, ...], policy: Mapping[str, Any]) -> bytes:
    """Without a device, kernels are those of the software profile, or of none."""
    from ebmsim.graph.lower import lower
    from ebmsim.report.chakra import chakra_trace, settings_of
    from ebmsim.spec.library import load_profile
    from ebmsim.spec.setting import parse_setting

    how, loaded = all_of(
        lambda: Policy(**policy),
        lambda: _loaded(workload, preset, dict(parse_setting(text) for text in settings)),
    )
    turn = _turn(loaded, how, load_profile(how.software or "ideal"))
    table = lower(turn.graph, turn.kernels, turn.dtype)
    return chakra_trace(turn, table, settings_of(loaded.name, hw, loaded.parameters))


def _loaded(workload: str, preset: str, settings: Mapping[str, Any]) -> Workload:
    from ebmsim.spec.library import load_workload

    return load_workload(workload, preset, settings)


def _turn(workload: Workload, policy: Policy, profile: Profile) -> Turn:
    """The graph behind a steady step."""
    from ebmsim.lowering import fused
    from ebmsim.placement import step_turn

    rows = 1 if policy.chain_mode == "sequential" else workload.setting("chains")
    return step_turn(workload, rows, policy.dtype, fused(profile, policy))


def _tell(output: Path) -> None:
    if str(output) != "-":
        click.echo(str(output))
