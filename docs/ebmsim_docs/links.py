"""Code and tests that pages name: `cost/traffic.py:hit` becomes a link to the reference, a test one to its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_CODE = re.compile(r"(?<!`)`(?P<file>[a-z_]+(?:/[a-z_]+)*)\.py:(?P<name>[A-Za-z_][\w.]*)`(?!`)")
_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!adr/|validation/|howto/|_generated/|api/|\w+\.md)[^)]*\)")
_TEST = re.compile(r"(?<!`)`(?P<file>tests/[\w/]+\.py)::(?P<name>test_\w+)`(?!`)")

# Modules with a page in the reference, by page. Names of `ebmsim` itself stand on the page of the public names.
MODULES = {
    "cost": (
        *("machine", "compute", "ways", "products", "systolic", "traffic", "kernels"),
        *("schedule", "stages", "assignment", "area", "area_model"),
    ),
    "graph": ("graph", "compose", "differentiate", "training", "fuse", "lower", "rows", "kernels", "taxonomy"),
    "sweep": ("run", "search", "proposals", "conditions", "pareto", "sensitivity", "decomposition"),
    "": ("sampling", "timing", "communication", "placement", "scaling"),
}


class Test(NamedTuple):
    """A test that a page names."""

    file: str
    name: str

    @property
    def anchor(self) -> str:
        """Where its source stands on the page of tests."""
        return f"{self.file.removeprefix('tests/').removesuffix('.py').replace('/', '-')}-{self.name}".replace("_", "-")


def modules() -> Iterator[str]:
    """Full names of the modules with a page in the reference."""
    for package, names in MODULES.items():
        yield from (f"ebmsim.{package}.{name}" if package else f"ebmsim.{name}" for name in names)


def tests_of(page: str) -> list[Test]:
    """Tests that a page names, each once."""
    return [Test(*key) for key in dict.fromkeys((m["file"], m["name"]) for m in _TEST.finditer(page))]


def code_of(page: str) -> list[tuple[str, str]]:
    """File below ebmsim/ and name of all code that a page names."""
    return [(f"{m['file']}.py", m["name"]) for m in _CODE.finditer(page)]


def linked(page: str, up: str) -> str:
    """A page with links in place of what it names. up: from its folder to that of the documentation."""
    known = set(modules())

    def code(found: re.Match[str]) -> str:
        module = f"ebmsim.{found['file'].replace('/', '.')}"
        name = qualified(ROOT / "ebmsim" / f"{found['file']}.py", found["name"]) if module in known else ""
        if not name:
            return found[0]
        return f"{{py:obj}}`{found['name']} <{module}.{name}>`"

    def test(found: re.Match[str]) -> str:
        return f"[`{found['name']}`]({up}_generated/tests.md#{Test(found['file'], found['name']).anchor})"

    # Folders are no pages, and what lies outside has none.
    page = _OUTSIDE.sub(r"\1", page.replace("](adr/)", "](decisions.md)"))
    return _TEST.sub(test, _CODE.sub(code, page))


def public(file: Path) -> set[str]:
    """Public functions and classes of a module, and methods of the latter."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in found if not any(part.startswith("_") for part in name.split("."))}


def qualified(file: Path, name: str) -> str:
    """A name of a module in full, the class before a method; "" where it is not public or not there."""
    return next((known for known in sorted(public(file)) if known in (name, f"{known.partition('.')[0]}.{name}")), "")


def source(test: Test) -> str:
    """The source of a test. Raises LookupError where there is none of that name."""
    text = (ROOT / test.file).read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == test.name:
            first = min([node.lineno, *[decorator.lineno for decorator in node.decorator_list]])
            return "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    raise LookupError(f"{test.file} has no test {test.name}")


def tests_page(tests: Iterable[Test]) -> str:
    """The page with the source of every test."""
    lines = [
        "# Tests that derive the formulas again",
        "",
        "Run one with `pytest FILE::NAME`; all of them with `pytest`.",
    ]
    for test in sorted(tests):
        lines += [
            "",
            f"({test.anchor})=",
            f"## {test.name}",
            "",
            f"`{test.file}`",
            "",
            "```python",
            source(test),
            "```",
        ]
    return "\n".join(lines) + "\n"


def reference_page(package: str) -> str:
    """The page of the reference for the modules of a package."""
    title = f"ebmsim.{package}" if package else "ebmsim: from a step to a run"
    lines = [f"# {title}", ""]
    for name in MODULES[package]:
        module = f"ebmsim.{package}.{name}" if package else f"ebmsim.{name}"
        lines += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:", "```", ""]
    return "\n".join(lines)
