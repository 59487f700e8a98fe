"""The command that spreads a workload over several devices."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmsim.cli import completion
from ebmsim.cli.options import (
    all_of,
    estimated,
    hardware_option,
    policy_options,
    several_words,
    workload_argument,
    workload_options,
)

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate
    from ebmsim.lowered import Lowered
    from ebmsim.scaled import Scaled

_DEVICES = tuple(2**n for n in range(11))
# Seconds after which a line for every number of devices tells that something happens.
_PATIENCE = 2.0
# Longer words are no numbers of devices.
_LONGEST = 16


@click.command(cls=several_words("--devices"))
@workload_argument
@hardware_option
@click.option("--devices", multiple=True, metavar="N...", help="Numbers of devices; 1, 2, 4, ..., 1024 if not given.")
@click.option(
    "--split",
    default="best",
    help="chains, components, or best: the faster of the two.",
    shell_complete=completion.choices("chains", "components", "best"),
)
@click.option("--weak", is_flag=True, help="Every device has as many chains as one had, and as large a batch.")
@click.option("--json", "as_json", is_flag=True, help="Every figure as one JSON object, SI units.")
@click.option("-o", "--output", type=Path, metavar="PLOT.png", help="Draw speed-up against devices.")
@workload_options
@policy_options
def scale(
    workload: str,
    hw: str,
    devices: tuple[str, ...],
    split: str,
    weak: bool,
    as_json: bool,
    output: Path | None,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """T_samp, T_inf and T_train of WORKLOAD on several devices: strong scaling, or weak."""
    from ebmsim.scaling import check

    counts = [_count(word) for word in devices] or list(_DEVICES)
    _, _, base = all_of(
        lambda: check(counts, split),
        lambda: _check_output(output),
        lambda: estimated(workload, hw, preset, settings, policy),
    )
    found = _scaled(workload, preset, base, counts, split, weak)
    if output is not None:
        from ebmsim.report.plots_scaling import write_scaling

        write_scaling(found, output)
    if as_json:
        click.echo(json.dumps(_object(found), indent=1, allow_nan=False))
        return
    from ebmsim.report.scaling import print_scaling

    print_scaling(found)


def _check_output(output: Path | None) -> None:
    from ebmsim.report.plots import check_picture

    if output is not None:
        check_picture(output)


def _count(word: str) -> Any:
    """A number of devices from the command line; a word that is none stays one, and is refused later."""
    return int(word) if word.isascii() and word.isdecimal() and len(word) < _LONGEST else word


def _scaled(workload: str, preset: str, base: Estimate, counts: list[int], split: str, weak: bool) -> list[Scaled]:
    from ebmsim.scaling import scalings
    from ebmsim.spec.library import load_workload

    loaded = load_workload(workload, preset, base.workload.parameters)
    known = _known(workload, preset, base)
    found = []
    start = time.monotonic()
    for result in scalings(loaded, base.hardware, base.policy, counts, split, weak, known):
        found.append(result)
        if time.monotonic() - start > _PATIENCE:
            click.echo(f"{result.devices} devices done, {len(counts) - len(found)} to go", err=True)
    return found


def _known(workload: str, preset: str, base: Estimate) -> Callable[[int, int], Lowered]:
    """The workload lowered for other chains and another training batch, as kept between runs."""
    from ebmsim.prepared import named_lowered

    given = dict(base.workload.parameters)

    def lower(chains: int, batch: int) -> Lowered:
        changed = {"chains": chains, "training_batch": batch}
        changes = {name: value for name, value in changed.items() if name in given}
        return named_lowered(workload, preset, given | changes, base.policy, base.profile)

    return lower


def _object(found: list[Scaled]) -> dict[str, Any]:
    """What --json prints: what is common, and one entry per number of devices."""
    whole = found[0].base.to_dict()
    common = {
        key: whole[key] for key in ("schema", "version", "workload", "hardware", "validated", "policy", "settings")
    }
    return {**common, "split": found[0].split, "weak": found[0].weak, "devices": [_entry(s) for s in found]}


def _entry(result: Scaled) -> dict[str, Any]:
    return {key: value for key, value in result.to_dict().items() if key not in ("split", "weak")}
