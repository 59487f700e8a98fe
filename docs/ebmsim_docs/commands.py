"""The help of every command as a page."""

from __future__ import annotations

import click

from ebmsim.cli.main import COMMANDS, cli

_WIDTH = 100


def commands_page() -> str:
    """One section for every command: what it is for, and what --help prints."""
    lines = ["# Commands", "", "What `ebmsim COMMAND --help` prints."]
    width = {"max_content_width": _WIDTH, "terminal_width": _WIDTH}
    with click.Context(cli, info_name="ebmsim", **width, **cli.context_settings) as context:
        for name, text in COMMANDS.items():
            command = cli.get_command(context, name)
            if command is None:
                raise LookupError(f"no command {name}")
            with click.Context(command, parent=context, info_name=name) as inner:
                shown = command.get_help(inner)
            lines += ["", f"## {name}", "", f"{text[0].upper()}{text[1:]}.", "", "```text", shown, "```"]
    return "\n".join(lines) + "\n"
