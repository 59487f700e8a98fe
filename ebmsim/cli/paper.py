"""The command that sets what is published beside what is computed: thin, as all commands are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ebmsim.paper.rows import Section


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
