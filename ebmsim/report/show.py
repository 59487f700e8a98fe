"""A workload as text or as a drawing of its components and their wiring."""

from __future__ import annotations

from typing import Any

from ebmsim.graph.combine import combination
from ebmsim.graph.compose import Composer, compose
from ebmsim.graph.kernels import PHASES
from ebmsim.graph.lower import lower
from ebmsim.graph.taxonomy import derive
from ebmsim.report.table import console, plain_table
from ebmsim.spec.workload import Workload, sampler_program
from ebmsim.units import format_quantity


def print_workload(w: Workload) -> None:
    """Print taxonomy, components, wiring, sampler and notes."""
    out, f = console(), w.file
    program = compose(w, 1)
    derived = derive(w)
    out.print(f"[bold]{w.name}[/]  {f.title}", highlight=False)
    out.print(f"paper     {f.paper.title} ({f.paper.year}) arXiv {f.paper.arxiv}; code {f.paper.code}", highlight=False)
    tags = f.taxonomy
    out.print(
        f"taxonomy  {tags.compositionality}, {tags.dependency} "
        f"(derived: {derived.compositionality}, {derived.dependency})",
        highlight=False,
    )
    if tags.paper is not None:
        printed = (tags.paper.compositionality, tags.paper.dependency, tags.paper.work, tags.paper.models)
        out.print(f"          printed: {', '.join(filter(None, printed))}", highlight=False)
    if tags.reason:
        out.print(f"          {tags.reason}", highlight=False)
    out.print(f"presets   {', '.join(f.presets)}; here {w.preset}", highlight=False)
    if f.baseline is not None:
        kind = "documented" if f.baseline.documented else "a stand-in"
        out.print(f"beside    {f.baseline.of} ({f.baseline.task}), {kind}: {f.baseline.text}", highlight=False)
    table = plain_table("component", "role", "runs", "instances", "weights", "reads", "FLOPs a chain", "fwd FLOPs/B")
    composer = Composer(w, 1)
    forward = lower(program.graph, [n for n in program.graph.nodes if n.phase in ("forward", "once")], "fp32")
    for name, c in f.components.items():
        count = composer.instances(name, c)
        phase = PHASES.index("once" if c.runs == "once" else "forward")
        mine = [i for i, b in enumerate(forward.branches) if b.partition("[")[0] == name and forward.phase[i] == phase]
        flops = float(forward.flops[mine].sum()) if mine else 0.0
        each = flops / count if count else 0.0
        moved = float((forward.read + forward.written)[mine].sum()) if mine else 0.0
        table.add_row(
            name,
            c.role,
            c.runs if count else "not with these settings",
            str(count),
            c.weights,
            ", ".join(source for source in c.inputs.values() if not composer.absent(source)),
            format_quantity(each, "flops"),
            f"{flops / moved:.1f}" if moved else "–",
        )
    out.print(table)
    how = combination(composer)
    out.print(
        f"[bold]energy[/]   {how.text or 'combined by nodes' if how else 'the sum of all outputs'}", highlight=False
    )
    program_nodes, _ = sampler_program(f)
    out.print(f"[bold]sampler[/]  C = {w.setting('chains')}, K = {w.setting('steps')}", highlight=False)
    for line in _program(program_nodes, 1, composer):
        out.print(line, highlight=False, markup=False)
    kernels = [sum(n.phase == p for n in program.graph.nodes) for p in PHASES]
    out.print("nodes     " + ", ".join(f"{p} {k}" for p, k in zip(PHASES, kernels, strict=True) if k), highlight=False)
    for note in f.notes:
        out.print(f"note      {note}", highlight=False, markup=False)


def _program(nodes: list[dict[str, Any]], depth: int, composer: Composer) -> list[str]:
    """A program as lines of text, without what does not run with the settings at hand."""
    lines = []
    for node in nodes:
        pad = "  " * depth
        if composer.value(node.get("when", True), ()) is False:
            continue
        if "loop" in node:
            if composer.value(node["loop"], ()) == 0:
                continue
            label = f" ({node['label']})" if "label" in node else ""
            lines.append(f"{pad}repeat {node['loop']} times{label}:")
            lines += _program(node["do"], depth + 1, composer)
        elif "evaluate" in node:
            lines.append(
                f"{pad}{node.get('name', node['evaluate'])} = {node['evaluate']} at {node.get('at', 'sample')}"
            )
        else:
            inputs = node.get("inputs", [])
            shown = ", ".join(map(str, inputs if isinstance(inputs, list) else [inputs]))
            does = node.get("op") or node["use"]
            lines.append(f"{pad}{node.get('name', does)} = {does}({shown})")
    return lines


def drawing(w: Workload, form: str) -> str:
    """Components and their wiring as Mermaid or DOT text."""
    composer = Composer(w, 1)
    sample = next(iter(w.file.sampler.sample))
    energies = []
    edges = []
    boxes = []
    for name, c in w.file.components.items():
        count = composer.instances(name, c)
        if not count:
            continue
        boxes.append((name, f"{name} × {count}" if count > 1 else name))
        edges += [(source, name) for source in dict.fromkeys(c.inputs.values()) if not composer.absent(source)]
        if c.role != "encoder":
            energies.append(name)
    edges += [(name, "energy") for name in energies] + [("energy", "gradient"), ("gradient", sample)]
    if form == "mermaid":
        lines = ["flowchart LR", *[f'  {n}["{text}"]' for n, text in boxes]]
        return "\n".join([*lines, *[f"  {a} --> {b}" for a, b in edges]])
    lines = [f'digraph "{w.name}" {{', "  rankdir=LR;", *[f'  "{n}" [shape=box, label="{text}"];' for n, text in boxes]]
    return "\n".join([*lines, *[f'  "{a}" -> "{b}";' for a, b in edges], "}"])
