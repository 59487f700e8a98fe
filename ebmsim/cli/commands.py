"""The commands. Each parses, calls one function of the library, and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from ebmsim.errors import EbmsimError, Problem, SpecError
from ebmsim.policy import Policy

if TYPE_CHECKING:
    from ebmsim.paper.rows import Section


def _workload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--preset", default="", help="Preset of the workload."),
        click.option(
            "--set", "settings", multiple=True, metavar="PATH=VALUE", help="A parameter, or hardware.<figure>=value."
        ),
    ):
        command = option(command)
    return command


def _policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
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


def _policy(**given: Any) -> Policy:
    return Policy(**{name: given[name] for name in Policy.__dataclass_fields__})


def _estimate(workload: str, hw: str, preset: str, settings: tuple[str, ...], policy: Mapping[str, Any]) -> Any:
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
        how = _policy(**policy)
    except SpecError as error:
        problems += error.problems
    return estimate_named(workload, hw, how, preset, mine, theirs, problems)


@click.command()
@click.argument("workload")
@click.option("--hw", required=True, metavar="HARDWARE", help="Name or path of a device.")
@_workload_options
@_policy_options
@click.option("--json", "as_json", is_flag=True, help="Every figure as one JSON object, SI units.")
def estimate(workload: str, hw: str, preset: str, settings: tuple[str, ...], as_json: bool, **policy: Any) -> None:
    """T_samp, T_inf and T_train of WORKLOAD on a device, and why."""
    found = _estimate(workload, hw, preset, settings, policy)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
        return
    from ebmsim.report.table import print_estimate

    print_estimate(found)


@click.command()
@click.argument("workload")
@click.argument("kernel", required=False)
@click.option("--hw", required=True, metavar="HARDWARE", help="Name or path of a device.")
@_workload_options
@_policy_options
def explain(workload: str, kernel: str | None, hw: str, preset: str, settings: tuple[str, ...], **policy: Any) -> None:
    """Every kernel of a step of WORKLOAD, or the time of KERNEL derived step by step."""
    from ebmsim.report.explain import explain_kernel, print_kernels

    found = _estimate(workload, hw, preset, settings, policy)
    if kernel is None:
        print_kernels(found)
    else:
        click.echo(explain_kernel(found, kernel))


class _Several(click.Command):
    """A command whose --hw takes every word up to the next option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        collecting = False
        for word in args:
            if word.startswith("-"):
                collecting = word == "--hw"
                if not collecting:
                    spread.append(word)
            elif collecting:
                spread += ["--hw", word]
            else:
                spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=_Several)
@click.argument("workloads", nargs=-1, required=True)
@click.option("--hw", "hardware", multiple=True, required=True, metavar="HW...", help="Devices, one or more.")
@click.option("--why", is_flag=True, help="The speed-up of every device over the first, by groups of figures.")
@click.option("--of", metavar="FIGURE", help="The time or energy that --why is about; t_inf if not given.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per pair, in a list.")
@_workload_options
@_policy_options
def compare(
    workloads: tuple[str, ...],
    hardware: tuple[str, ...],
    why: bool,
    of: str | None,
    as_json: bool,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """A table of WORKLOADS on devices."""
    if (of is not None and not why) or (why and len(hardware) < 2):
        raise click.UsageError("expected --why with --of" if not why else "expected two devices or more with --why")
    rows = [[_estimate(w, h, preset, settings, policy) for h in hardware] for w in workloads]
    found = [e for row in rows for e in row]
    reasons = _reasons(rows, of or "t_inf") if why else {}
    if as_json:
        added = [{"speedup": reasons[i].to_dict()} if i in reasons else {} for i in range(len(found))]
        objects = [e.to_dict() | more for e, more in zip(found, added, strict=True)]
        click.echo(json.dumps(objects, indent=1, allow_nan=False))
        return
    from ebmsim.report.table import print_comparison

    print_comparison(found)
    for reason in reasons.values():
        from ebmsim.report.decomposition import print_decomposition

        print_decomposition(reason)


def _reasons(rows: Sequence[Sequence[Any]], of: str) -> dict[int, Any]:
    """The speed-ups of the estimates of every row over its first one, by their number among all."""
    from ebmsim.sweep.decomposition import decomposition

    width = len(rows[0])
    return {
        i * width + j: decomposition(row[0], e, of) for i, row in enumerate(rows) for j, e in enumerate(row) if j > 0
    }


class _Fraction(click.FloatRange):
    """A number that is not NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail("expected a fraction, found nan", param, ctx)
        return number


@click.command()
@click.argument("workloads", nargs=-1)
@click.option("--hw", required=True, metavar="HARDWARE", help="Name or path of the device that is measured.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where torch runs the WORKLOADS' steps.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of torch on a CPU; as calibrated, or its own number."
)
@click.option("--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="Rounds of measuring.")
@click.option("--training", is_flag=True, help="Measure training iterations too, without their sampling.")
@click.option("--measurements", type=Path, metavar="TABLE.csv", help="Measured kernels, one per row, in their place.")
@click.option("--max-median", type=_Fraction(min=0), help="Exit 1 where the median error, a fraction, is above.")
@click.option("-o", "--output", type=Path, metavar="PLOT.png", help="Draw predicted against measured times.")
@click.option("--json", "as_json", is_flag=True, help="Errors as one JSON object, fractions.")
@_workload_options
@_policy_options
def validate(
    workloads: tuple[str, ...],
    hw: str,
    device: str | None,
    threads: int | None,
    rounds: int,
    training: bool,
    measurements: Path | None,
    max_median: float | None,
    output: Path | None,
    as_json: bool,
    preset: str,
    settings: tuple[str, ...],
    **policy: Any,
) -> None:
    """How far predictions are from sampling steps of WORKLOADS measured now, or from a table of measured kernels."""
    if bool(workloads) == (measurements is not None) or (workloads and device is None):
        raise click.UsageError("expected workloads with --device, or --measurements")
    if training and not workloads:
        raise click.UsageError("expected workloads with --training")
    if output is not None:
        from ebmsim.report.plots import check_picture

        check_picture(output)
    if measurements is not None:
        error = _validate_kernels(measurements, hw, policy["software"], output, as_json)
    else:
        how = (str(device), threads, rounds, training, output, as_json)
        error = _validate_steps(workloads, hw, preset, settings, policy, *how)
    if max_median is not None and error > max_median:
        click.echo(f"median error {error:.4f} is above {max_median:g}", err=True)
        sys.exit(1)


def _validate_kernels(table: Path, hw: str, software: str, output: Path | None, as_json: bool) -> float:
    """The median error over all rows of a table."""
    from ebmsim.calibration.validation import validate as replay

    found = replay(table, hw, software)
    if output is not None:
        from ebmsim.report.plots import parity

        parity(found, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from ebmsim.report.validation import print_validation

        print_validation(found)
    return found.errors.median_ape


def _validate_steps(
    names: tuple[str, ...],
    hw: str,
    preset: str,
    settings: tuple[str, ...],
    policy: Mapping[str, Any],
    device: str,
    threads: int | None,
    rounds: int,
    training: bool,
    output: Path | None,
    as_json: bool,
) -> float:
    """The median error of T_samp over all workloads."""
    predicted = [_estimate(name, hw, preset, settings, policy) for name in names]
    with needs_torch():
        from ebmsim.calibration.whole import validate_steps

    def told(done: int, of: int) -> None:
        click.echo(f"round {done} of {of}", err=True)

    found = validate_steps(predicted, device, threads, rounds, told, training)
    if output is not None:
        from ebmsim.report.plots import steps_parity

        steps_parity(found, output)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        from ebmsim.report.validation import print_steps

        print_steps(found)
    return median(found.errors("t_samp"))


@contextmanager
def needs_torch() -> Iterator[None]:
    """What is imported inside needs torch. Raises EbmsimError that says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise EbmsimError("this needs torch: pip install 'ebmsim[torch]'") from None


@click.command()
@click.argument("sections", nargs=-1, metavar="[table1|table2|table3|fig3|...]")
@click.option("--json", "as_json", is_flag=True, help="All rows as one JSON object.")
@click.option("-o", "output", type=click.Path(path_type=Path), help="Folder for Figs. 3 to 7 as PNG.")
def paper(sections: tuple[str, ...], as_json: bool, output: Path | None) -> None:
    """Each published table and figure beside ours, computed now. Exit 1 where a difference has no recorded reason."""
    from ebmsim.paper.comparison import chosen, compared, to_dict, unexplained
    from ebmsim.report.paper import print_section, print_summary

    names = chosen(sections)
    found: list[Section] = []
    for name, section in zip(names, compared(names), strict=True):
        click.echo(f"{name} done, {len(names) - len(found) - 1} to go", err=True)
        found.append(section)
        if not as_json:
            print_section(section)
    if as_json:
        click.echo(json.dumps(to_dict(found), indent=1, allow_nan=False))
    else:
        print_summary(found)
    if output is not None:
        from ebmsim.report.paper_pictures import write_pictures

        for path in write_pictures(names, output):
            click.echo(f"wrote {path}", err=True)
    missing = unexplained(found)
    for row in missing:
        click.echo(f"{row} differs from the paper, and no reason is recorded", err=True)
    if missing:
        sys.exit(1)


@click.command()
@click.argument("workload")
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot"]), default="text")
@_workload_options
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
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="W.yaml", help="File to write.")
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
    click.echo(f"wrote {output}: {found.name}, components {components}", err=True)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def check(files: tuple[str, ...]) -> None:
    """All mistakes of workload, hardware and sweep files at once."""
    problems = [problem for file in files for problem in _problems(file)]
    if problems:
        raise SpecError(problems)
    for file in files:
        click.echo(f"{file}: no problems")


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
@click.argument("what", type=click.Choice(["workload", "hardware", "sweep"]))
def schema(what: str) -> None:
    """JSON Schema of workload, hardware or sweep files, for editors."""
    if what == "hardware":
        from ebmsim.spec.schema import hardware_schema

        click.echo(json.dumps(hardware_schema(), indent=1))
    elif what == "sweep":
        from ebmsim.spec.schema import sweep_schema

        click.echo(json.dumps(sweep_schema(), indent=1))
    else:
        from ebmsim.graph.schema import workload_schema

        click.echo(json.dumps(workload_schema(), indent=1))
