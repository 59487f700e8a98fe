"""The pages name code, tests and commands that exist; the cost model's page has every formula."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from ebmsim_docs import commands, docstrings, examples, formats, links

from ebmsim.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COST_MODEL = (DOCS / "cost_model.md").read_text(encoding="utf-8")
FORMULAS = [*sorted((ROOT / "ebmsim" / "cost").glob("*.py")), ROOT / "ebmsim" / "sampling.py"]


def functions(file: Path) -> set[str]:
    """Public functions of a module, and methods of its public classes."""
    classes = {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)}
    return links.public(file) - classes


def rows_of(page: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith("| ") and "`tests/" in line]


@pytest.mark.parametrize("file", FORMULAS, ids=lambda file: file.stem)
def test_every_formula_is_on_the_page_with_a_test(file: Path) -> None:
    below = str(file.relative_to(ROOT / "ebmsim"))
    there = {name for row in rows_of(COST_MODEL) for named, name in links.code_of(row) if named == below}
    assert not functions(file) - there


@pytest.mark.parametrize("page", examples.pages(), ids=lambda page: page.stem)
def test_code_and_tests_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for test in links.tests_of(text):
        assert links.source(test)
    for file, name in links.code_of(text):
        assert links.qualified(ROOT / "ebmsim" / file, name), f"{file}:{name}"


def test_there_are_many() -> None:
    assert len(rows_of(COST_MODEL)) > 40
    with pytest.raises(LookupError, match="no test test_of_nothing"):
        links.source(links.Test("tests/cost/test_laws.py", "test_of_nothing"))


@pytest.mark.parametrize("page", examples.pages(), ids=lambda page: page.stem)
def test_commands_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join([e.text for e in examples.examples(text)] + re.findall(r"`([^`\n]+)`", text))
    assert set(re.findall(r"\bebmsim ([a-z][a-z-]*)", code)) <= set(COMMANDS)


@pytest.mark.parametrize("kind", ["workload", "hardware", "sweep"])
def test_every_key_of_a_file_has_a_row(kind: str) -> None:
    page = formats.format_page(kind)
    schema = json.loads((formats.SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    parts = [part for name, part in schema["$defs"].items() if not name.endswith(("Changes", "Variant"))]
    for part in [schema, *parts]:
        for key in part.get("properties", {}):
            assert f"| `{key}` |" in page
        for node in part.get("oneOf", []):
            if "op" in node["properties"]:
                assert f"| `{node['properties']['op']['const']}` |" in page


def test_code_becomes_a_link_and_a_test_too() -> None:
    text = "`cost/traffic.py:hit` `cost/traffic.py:_holders` `tests/cost/test_laws.py::test_parts_sum_to_the_whole`"
    assert links.linked(text, "../").split() == [
        "{py:obj}`hit",
        "<ebmsim.cost.traffic.hit>`",
        "`cost/traffic.py:_holders`",
        "[`test_parts_sum_to_the_whole`](../_generated/tests.md#cost-test-laws-test-parts-sum-to-the-whole)",
    ]


def test_every_command_has_a_section() -> None:
    page = commands.commands_page()
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == list(COMMANDS)
    assert page.count("Usage: ebmsim ") == len(COMMANDS)
    assert max(map(len, page.splitlines())) <= 120


def test_folders_and_what_lies_outside_are_no_pages() -> None:
    text = "[all](adr/) [one](adr/0001-record-decisions.md) [files](../workload_graphs) [guide](../howto/sweep.md)"
    expected = "[all](decisions.md) [one](adr/0001-record-decisions.md) files [guide](../howto/sweep.md)"
    assert links.linked(text, "") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plain *what* of `name_` and a_b | x*y <z>.", r"Plain *what* of \ ``name_``\  and a\_b \| x\*y \<z\>."),
        ("Text:\n\n    T = a * b_\n\nMore_.", "Text:\n\n\n::\n\n    T = a * b_\n\n\nMore\\_."),
    ],
)
def test_docstrings_as_restructured_text(text: str, expected: str) -> None:
    assert "\n".join(docstrings.as_rst(text.split("\n"))) == expected
