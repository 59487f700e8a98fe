"""What there is: workloads, devices, operators."""

from __future__ import annotations

from ebmsim.report.table import console, plain_table
from ebmsim.spec.library import load_hardware, load_workload, names
from ebmsim.spec.workload import Workload
from ebmsim.units import format_quantity

_ORDER = {
    name: i for i, name in enumerate(("mono", "homo", "homo-dw", "homo-ds", "hetero", "sequential", "mixed-parallel"))
}


def workloads() -> None:
    """Print the shipped workloads as Table II of the characterisation paper does, and the conventional models."""
    found = [load_workload(name) for name in names("workload")]
    conventional = [w for w in found if w.file.baseline is not None]
    table = plain_table("workload", "compositionality", "dependency", "work", "year", "models", "MCMC", "tasks")
    for index, column in enumerate(table.columns):
        column.justify = "left"
        column.no_wrap = index < 3
        column.overflow = "fold"
    for w in sorted((w for w in found if w.file.baseline is None), key=_place):
        f = w.file
        tags, printed = f.taxonomy, f.taxonomy.paper
        table.add_row(
            w.name,
            _differing(tags.compositionality, printed.compositionality if printed else None),
            _differing(tags.dependency, printed.dependency if printed else None),
            f"{printed.work if printed else f.title} {f.paper.reference}",
            str(printed.year if printed and printed.year else f.paper.year),
            printed.models if printed else "–",
            printed.sampler if printed else "–",
            printed.tasks if printed else "–",
        )
    out = console()
    out.print(table, markup=False)
    out.print("Declared tags; in brackets what the paper prints where it differs. `ebmsim show` has the derived ones.")
    if conventional:
        table = plain_table("conventional model", "beside", "task", "", "which", title="")
        for column in table.columns[1:]:
            column.justify = "left"
        for w in conventional:
            b = w.file.baseline
            assert b is not None
            table.add_row(w.name, b.of, b.task, "documented" if b.documented else "stand-in", b.text)
        out.print(table, markup=False)


def _place(w: Workload) -> tuple[int, int, str]:
    """Where Table II has a workload: by compositionality, dependency, year."""
    tags = w.file.taxonomy
    return (
        _ORDER[tags.compositionality.partition("-")[0]],
        _ORDER.get(tags.dependency, len(_ORDER)),
        f"{w.file.paper.year} {w.name}",
    )


def _differing(declared: str, printed: str | None) -> str:
    same = printed is None or declared == printed or declared.startswith(f"{printed}-")
    return declared if same else f"{declared} ({printed})"


def hardware() -> None:
    """Print the shipped devices."""
    table = plain_table("device", "kind", "title", "fp32 products", "main memory", "validated")
    for name in names("hardware"):
        h = load_hardware(name)
        peak = h.matrix.peak.get("fp32")
        last = h.memory[-1]
        table.add_row(
            name,
            h.kind,
            h.title,
            "–" if peak is None else format_quantity(peak, "flop_rate"),
            f"{format_quantity(last.capacity, 'bytes')} at {format_quantity(last.bandwidth, 'bandwidth')}",
            "kernels" if h.validated else "unvalidated",
        )
    console().print(table)


def operators() -> None:
    """Print the operators a workload file may name."""
    from rich.markup import escape

    from ebmsim.graph.nodes import public_operators

    table = plain_table("operator", "category", "inputs", "attributes (* required)", "what it computes")
    for column in table.columns[1:]:
        column.justify = "left"
    for o in public_operators():
        attributes = ", ".join(f"{k}*" if a.required else f"{k}={a.default}" for k, a in o.attributes.items())
        inputs = str(o.least) if o.least == o.most else f"{o.least}…"
        table.add_row(o.name, o.category, inputs, attributes, escape(o.text))
    console().print(table)
