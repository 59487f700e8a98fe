"""What there is: workloads, devices, operators."""

from __future__ import annotations

from ebmsim.report.table import console, plain_table
from ebmsim.spec.library import load_hardware, load_workload, names
from ebmsim.units import format_quantity


def workloads() -> None:
    """Print the shipped workloads in the order of the taxonomy."""
    table = plain_table("workload", "compositionality", "dependency", "work", "year", "components", "presets")
    found = [load_workload(name) for name in names("workload")]
    order = ("mono", "homo-dw", "homo-ds", "hetero")
    for w in sorted(found, key=lambda w: (order.index(w.file.taxonomy.compositionality), w.name)):
        f = w.file
        table.add_row(
            w.name,
            f.taxonomy.compositionality,
            f.taxonomy.dependency,
            f"{f.paper.title} {f.paper.reference}".strip(),
            str(f.paper.year),
            ", ".join(f.components),
            ", ".join(f.presets),
        )
    console().print(table)


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
    from ebmsim.graph.nodes import public_operators

    table = plain_table("operator", "category", "inputs", "attributes (* required)", "what it computes")
    for column in table.columns[1:]:
        column.justify = "left"
    for o in public_operators():
        attributes = ", ".join(f"{k}*" if a.required else f"{k}={a.default}" for k, a in o.attributes.items())
        inputs = str(o.least) if o.least == o.most else f"{o.least}…"
        table.add_row(o.name, o.category, inputs, attributes, o.text)
    console().print(table)
