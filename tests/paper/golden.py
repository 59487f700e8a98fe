"""Write the golden comparison anew: python tests/paper/golden.py. The diff shows which results a change moves."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebmsim.paper.comparison import SECTIONS, compared
from ebmsim.paper.rows import Row, Section

GOLDEN = Path(__file__).parent / "golden.json"
PROVENANCE = (
    "Our side of `ebmsim paper` at the ledger's settings (docs/settings.md), as computed by the commit that last "
    "changed this file; published values and places are in ebmsim/paper. Not a target: rerun, and explain the diff."
)


def short(row: Row) -> list[Any]:
    """Ours, smallest, largest, verdict."""
    return [*(float(f"{value:.6g}") for value in (row.ours, row.low, row.high)), row.verdict]


def text(sections: Iterable[Section]) -> str:
    """One line per row, so that a diff is a list of results."""
    rows = [
        f"{json.dumps(f'{s.name}: {r.name}', ensure_ascii=False)}: {json.dumps(short(r))}"
        for s in sections
        for r in s.rows
    ]
    head = f'"provenance": {json.dumps(PROVENANCE)}'
    return "{\n" + ",\n".join([head, *rows]) + "\n}\n"


if __name__ == "__main__":
    GOLDEN.write_text(text(compared(SECTIONS)), encoding="utf-8")
