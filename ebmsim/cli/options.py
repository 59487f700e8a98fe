"""Options that several commands take, and the estimate that they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ebmsim.errors import Problem, SpecError
from ebmsim.policy import Policy


def workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--preset and --set."""
    for option in (
        click.option("--preset", default="", help="Preset of the workload."),
        click.option(
            "--set", "settings", multiple=True, metavar="PATH=VALUE", help="A parameter, or hardware.<figure>=value."
        ),
    ):
        command = option(command)
    return command


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One option for every field of a policy."""
    for option in (
        click.option("--execution", default="eager", help="eager, graph, compiled or persistent."),
        click.option("--fidelity", default="", help="roofline, analytical or calibrated."),
        click.option("--dtype", default="fp32", help="Storage: fp32, bf16, fp16, fp8, ..."),
        click.option("--math", default="torch-default", help="strict, torch-default or fast."),
        click.option("--software", default="", help="Software profile; the device's own if not given."),
        click.option("--streams", default=1, type=int, help="Branches that may run side by side."),
        click.option("--chain-mode", default="batched", help="batched or sequential."),
    ):
        command = option(command)
    return command


def estimated(workload: str, hw: str, preset: str, settings: tuple[str, ...], policy: Mapping[str, Any]) -> Any:
    """An estimate with its overrides; the problems of all inputs at once."""
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
    return estimate_named(workload, hw, how, preset, mine, theirs, problems)


def several_words(name: str) -> type[click.Command]:
    """A command whose option `name` takes every word up to the next option."""

    class Several(click.Command):
        def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
            spread: list[str] = []
            collecting = False
            for word in args:
                if word.startswith("-"):
                    collecting = word == name
                elif collecting and spread[-1] != name:
                    spread.append(name)
                spread.append(word)
            return super().parse_args(ctx, spread)

    return Several
