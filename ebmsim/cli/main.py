"""The entry point: commands by name, loaded when they are used; errors without a traceback."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from ebmsim.errors import EbmsimError, suggest

# Name -> one line of help.
COMMANDS = {
    "estimate": "T_samp, T_inf and T_train of a workload on a device, and why",
    "explain": "every kernel of a step, or one kernel's time derived with its numbers",
    "compare": "a table of workloads × devices, and why one is faster",
    "sensitivity": "what every figure of a device does to a time, and what to improve next",
    "roofline": "a picture of every kernel under the ceilings of a device",
    "timeline": "the first and a steady step as a trace for Perfetto",
    "report": "one page with the answer, drawings, tables and sources",
    "scale": "several devices: speed-up and efficiency by number of devices",
    "paper": "what the characterisation paper publishes, beside what is computed here",
    "sweep": "every design of a space, a million a second: tables of figures",
    "search": "the best design of a space that meets its constraints, from few that are tried",
    "validate": "how far predicted kernel times are from measured ones",
    "show": "components, wiring, taxonomy and sampler of a workload",
    "list": "workloads, hardware or operators",
    "new": "a workload, hardware or sweep file to start from, with comments",
    "calibrate": "measure a device and fit the model to it: a hardware file",
    "capture": "a workload file from a torch module",
    "check": "all mistakes of workload, hardware and sweep files at once",
    "schema": "JSON Schema of every kind of file, for editors",
    "export": "the graph of a step as a Chakra trace, for other simulators",
}

# Where the function of the same name stands.
_HOMES = {
    "estimate": "ebmsim.cli.estimate",
    "explain": "ebmsim.cli.estimate",
    "compare": "ebmsim.cli.estimate",
    "roofline": "ebmsim.cli.pictures",
    "paper": "ebmsim.cli.paper",
    "validate": "ebmsim.cli.validate",
    "show": "ebmsim.cli.files",
    "list": "ebmsim.cli.files",
    "capture": "ebmsim.cli.files",
    "check": "ebmsim.cli.files",
    "schema": "ebmsim.cli.files",
    "sweep": "ebmsim.cli.sweep",
    "search": "ebmsim.cli.search",
    "sensitivity": "ebmsim.cli.explore",
    "scale": "ebmsim.cli.scale",
    "calibrate": "ebmsim.cli.calibration",
    "new": "ebmsim.cli.new",
    "timeline": "ebmsim.cli.traces",
    "report": "ebmsim.cli.report",
    "export": "ebmsim.cli.traces",
}


class _Lazy(click.Group):
    """A group whose commands are imported when one of them runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(_HOMES[name]), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Options; commands by their line of help, not imported for it.
        found = click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=COMMANDS[name]) for name in COMMANDS if name.startswith(incomplete)] + found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if ctx.resilient_parsing and args[:1] and args[0] not in COMMANDS:
            # Nothing is to be completed after what is no command.
            return None, None, args
        if args and args[0] not in COMMANDS:
            hint = suggest(args[0], COMMANDS)
            raise click.UsageError(f"no command '{args[0]}'" + (f"; {hint}" if hint else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ebmsim")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """An analytical performance model of Energy-Based Models."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Exit status: 0 done, 1 a check failed, 2 bad input or usage."""
    # Most commands end before a collection would free anything worth its time.
    gc.set_threshold(100_000)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    # `compare --hw A B` and `estimate … --debug` are understood wherever the words stand.
    arguments = [a for a in arguments if a != "--debug"]
    try:
        cli(list(arguments), prog_name="ebmsim", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        if debug:
            raise
        error.show()
        sys.exit(2)
    except EbmsimError as error:
        if debug:
            raise
        click.echo(str(error), err=True)
        sys.exit(2)
    except BrokenPipeError:
        # The reader of a pipe left: not an error of ours, and nothing is left to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
