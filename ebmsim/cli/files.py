"""Commands about files: what they say, which there are, what is wrong with them, and new ones from torch modules."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ebmsim.cli import completion
from ebmsim.cli.options import workload_argument, workload_options
from ebmsim.errors import Problem, SpecError


@click.command()
@workload_argument
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot"]), default="text")
@workload_options
def show(workload: str, form: str, preset: str, settings: tuple[str, ...]) -> None:
    """Components, wiring, taxonomy and sampler of WORKLOAD."""
    from ebmsim.report.show import drawing, print_workload
    from ebmsim.spec.library import load_workload
    from ebmsim.spec.setting import parse_setting

    loaded = load_workload(workload, preset, dict(parse_setting(text) for text in settings))
    if form == "text":
        print_workload(loaded)
    else:
        click.echo(drawing(loaded, form))


@click.command("list")
@click.argument("what", type=click.Choice(["workloads", "hardware", "operators"]))
def list_(what: str) -> None:
    """What there is: workloads, hardware or operators."""
    from ebmsim.report import catalogue

    {"workloads": catalogue.workloads, "hardware": catalogue.hardware, "operators": catalogue.operators}[what]()


globals()["list"] = list_


@click.command()
@click.argument("where", metavar="FILE.py:FACTORY")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="W.yaml",
    help="File to write, - for stdout.",
)
@click.option("--name", default="", help="Name of the workload; the module's class if not given.")
@click.option("--steps", default=100, type=click.IntRange(min=1), help="K, Langevin steps.")
@click.option("--chains", type=click.IntRange(min=1), help="C; as in the example inputs if not given.")
def capture(where: str, output: Path, name: str, steps: int, chains: int | None) -> None:
    """A workload file from a torch module: FACTORY in FILE.py takes nothing and gives it with its example inputs.

    A call gives one energy per chain. The first input is the sample, its first axis the chains; others are
    conditioning, and have a chain axis where their first axis is as long.
    """
    from ebmsim.capture import capture_file

    found = capture_file(where, output, name=name, steps=steps, chains=chains)
    components = ", ".join(found.file.components)
    wrote = "captured" if str(output) == "-" else f"wrote {output}:"
    click.echo(f"{wrote} {found.name}, components {components}", err=True)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=completion.files)
def check(files: tuple[str, ...]) -> None:
    """All mistakes of workload, hardware and sweep files at once; - is stdin."""
    problems = [problem for file in files for problem in _problems(file)]
    if problems:
        raise SpecError(problems)
    for file in files:
        click.echo(f"{'<stdin>' if file == '-' else file}: no problems")


def _problems(file: str) -> list[Problem]:
    """Problems of a file of any kind; one with axes is a sweep."""
    from ebmsim.graph.check import check_file
    from ebmsim.spec.located import load_document

    try:
        document = load_document(file)
        if "axes" in (document.data if isinstance(document.data, dict) else {}):
            from ebmsim.spec.sweep import parse_sweep
            from ebmsim.sweep.check import check_sweep

            check_sweep(parse_sweep(document))
            return []
    except SpecError as error:
        return [*error.problems]
    return check_file(file)


@click.command()
@click.argument("what", type=click.Choice(["workload", "hardware", "software", "sweep"]))
def schema(what: str) -> None:
    """JSON Schema of workload, hardware or sweep files, or of software profiles, for editors."""
    from ebmsim.graph.schema import workload_schema
    from ebmsim.spec.schema import hardware_schema, software_schema, sweep_schema

    schemas = {
        "workload": workload_schema,
        "hardware": hardware_schema,
        "software": software_schema,
        "sweep": sweep_schema,
    }
    click.echo(json.dumps(schemas[what](), indent=1))
