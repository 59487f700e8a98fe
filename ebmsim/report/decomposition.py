"""The factors of a speed-up as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ebmsim.report.sensitivity import shown
from ebmsim.report.table import console, plain_table
from ebmsim.sweep.sensitivity import answer

if TYPE_CHECKING:
    from ebmsim.sweep.decomposition import Decomposition


def print_decomposition(found: Decomposition) -> None:
    """Print the factors whose product a speed-up is, largest first; groups that change nothing on one line."""
    where = [f"{shown(found.of, answer(e, found.of))} on {e.hardware.name}" for e in (found.before, found.after)]
    table = plain_table("figures replaced", "factor", "by order of replacement")
    same = [factor for factor in found.factors if factor.least == factor.most == 1.0]
    for factor in sorted(found.factors, key=lambda factor: -abs(math.log(factor.factor))):
        if factor not in same:
            spread = f"{factor.least:.3f} to {factor.most:.3f}"
            table.add_row(factor.group, f"{factor.factor:.3f}", spread)
    table.add_section()
    table.add_row("product", f"{found.speedup:.3f}", "")
    out = console()
    out.print(f"[bold]{found.of}[/] of {found.after.workload.name}: {', '.join(where)}", highlight=False)
    out.print(table)
    if same:
        out.print(f"no change: {'; '.join(factor.group for factor in same)}", highlight=False)
