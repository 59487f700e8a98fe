"""The command that writes a file to start from: thin, as all commands are."""

from __future__ import annotations

from pathlib import Path

import click

from ebmsim.cli import completion
from ebmsim.errors import Problem, SpecError

_STDOUT = Path("-")
_NEXT = {
    "workload": "ebmsim estimate {} --hw rtx5090",
    "hardware": "ebmsim estimate ebm_cvr --hw {}",
    "sweep": "ebmsim sweep {} --plan",
}


@click.command()
@click.argument("kind", type=click.Choice(list(_NEXT)))
@click.argument("name")
@click.option(
    "--like", metavar="HARDWARE", help="Device that new hardware changes.", shell_complete=completion.hardware
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    help="File to write, - for stdout; NAME.yaml if not given.",
)
def new(kind: str, name: str, like: str | None, output: Path | None) -> None:
    """A workload, hardware or sweep file called NAME to start from: complete, with comments that teach the format."""
    from ebmsim.spec.start import changed_device, starting_file

    if like is not None and kind != "hardware":
        raise click.UsageError("expected --like with hardware")
    file = Path(f"{name}.yaml") if output is None else output
    text = starting_file(kind, name) if like is None else changed_device(name, like, file.parent)
    if file == _STDOUT:
        click.echo(text, nl=False)
        return
    _write(file, text)
    click.echo(f"wrote {file}; next: {_NEXT[kind].format(file)}", err=True)


def _write(file: Path, text: str) -> None:
    """A file that was not there before. Raises SpecError."""
    if file.suffix not in (".yaml", ".yml"):
        raise SpecError([Problem(f"expected a name that ends in .yaml, found '{file.name}'", str(file))])
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise SpecError([Problem("is there already, and stays as it is", str(file), hint="-o FILE.yaml")]) from None
    except FileNotFoundError:
        raise SpecError([Problem(f"no such folder '{file.parent}'", str(file))]) from None
    except OSError as error:
        raise SpecError([Problem(f"cannot be written: {error.strerror}", str(file))]) from None
