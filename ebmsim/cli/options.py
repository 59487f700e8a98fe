"""Options that several commands take, and the estimate that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ebmsim.cli import completion
from ebmsim.errors import Problem, SpecError
from ebmsim.policy import CHAIN_MODES, DTYPES, EXECUTIONS, FIDELITIES, MATHS, Policy

workload_argument = click.argument("workload", shell_complete=completion.workloads)
"""One workload."""

hardware_option = click.option(
    "--hw", required=True, metavar="HARDWARE", help="Name or path of a device.", shell_complete=completion.hardware
)
"""One device."""


def picture_option(required: bool = False) -> Callable[..., Any]:
    """-o: a picture; `estimated` refuses a file that cannot be one."""
    path = click.Path(path_type=Path)
    return click.option("-o", "--output", type=path, required=required, metavar="PICTURE", help="A .png, .pdf or .svg.")


def workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--preset and --set."""
    for option in (
        click.option("--preset", default="", help="Preset of the workload.", shell_complete=completion.presets),
        click.option(
            "--set", "settings", multiple=True, metavar="PATH=VALUE", help="A parameter, or hardware.<figure>=value."
        ),
    ):
        command = option(command)
    return command


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for every field of a policy."""
    for option in (
        _choice("--execution", EXECUTIONS, default="eager", help="eager, graph, compiled or persistent."),
        _choice("--fidelity", FIDELITIES, default="", help="roofline, analytical or calibrated."),
        _choice("--dtype", DTYPES, default="fp32", help="Storage: fp32, bf16, fp16, fp8, ..."),
        _choice("--math", MATHS, default="torch-default", help="strict, torch-default or fast."),
        click.option(
            "--software",
            default="",
            help="Software profile; the device's own if not given.",
            shell_complete=completion.software,
        ),
        click.option("--streams", default=1, type=int, help="Branches that may run side by side."),
        _choice("--chain-mode", CHAIN_MODES, default="batched", help="batched or sequential."),
    ):
        command = option(command)
    return command


def _choice(name: str, options: Sequence[str], default: str, help: str) -> Callable[..., Any]:
    """An option of fixed words; `Policy` is who refuses others."""
    return click.option(name, default=default, help=help, shell_complete=completion.choices(*options))


def estimated(
    workload: str,
    hw: str,
    preset: str,
    settings: tuple[str, ...],
    policy: Mapping[str, Any],
    picture: Path | None = None,
) -> Any:
    """An estimate with its overrides; the problems of all inputs at once, and of a picture that is to be written."""
    from ebmsim.prepared import estimate_named

    mine: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    problems: list[Problem] = []
    how = None
    for text in settings:
        from ebmsim.spec.setting import parse_setting

        try:
            path, value = parse_setting(text)
            if path.startswith(("hardware.", "hw.")):
                theirs[path.partition(".")[2]] = value
            else:
                mine[path] = value
        except SpecError as error:
            problems += error.problems
    try:
        how = Policy(**policy)
    except SpecError as error:
        problems += error.problems
    if picture is not None:
        from ebmsim.report.plots import check_picture

        try:
            check_picture(picture)
        except SpecError as error:
            problems += error.problems
    return estimate_named(workload, hw, how, preset, mine, theirs, problems)


def several_words(name: str) -> type[click.Command]:
    """A command whose option `name` takes every word up to the next option."""

    class Several(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            spread: list[str] = []
            collecting = False
            for word in args:
                if word.startswith("-") and word != "-":
                    collecting = word == name
                elif collecting and spread[-1] != name:
                    spread.append(name)
                spread.append(word)
            ctx.meta[completion.COLLECTING] = name if collecting else ""
            return super().parse_args(ctx, spread)

    return Several


def all_of(*steps: Callable[[], Any]) -> list[Any]:
    """What all steps give. Raises SpecError with the problems of all of them."""
    found: list[Any] = []
    problems: list[Problem] = []
    for step in steps:
        try:
            found.append(step())
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return found
