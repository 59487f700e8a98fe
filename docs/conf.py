"""Sphinx: `sphinx-build -W --keep-going docs docs/_build` builds the pages offline and runs every example on them."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

from ebmsim_docs import commands, docstrings, examples, formats, links  # noqa: E402

project = "ebmsim"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.viewcode", "myst_parser", "sphinx_copybutton"]
exclude_patterns = ["_build", "ebmsim_docs", "schemas", "README.md"]
html_theme = "furo"
html_title = "ebmsim"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
nitpicky = True  # a name that nothing describes is an error
nitpick_ignore_regex = [("py:class", ".*")]


def setup(app: Any) -> None:
    """Generated pages first; examples and links while a page is read; docstrings as they are written."""
    app.add_config_value("run_examples", True, "env", (bool,))
    app.connect("builder-inited", _generate)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-skip-member", _skip)


def _generate(app: Any) -> None:
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    named = [test for page in sorted(DOCS.glob("*.md")) for test in links.tests_of(page.read_text(encoding="utf-8"))]
    pages = {f"{kind}_files": formats.format_page(kind) for kind in ("workload", "hardware", "sweep")}
    pages |= {f"api_{package or 'ebmsim'}": links.reference_page(package) for package in links.MODULES}
    pages["commands"] = commands.commands_page()
    pages["tests"] = links.tests_page(set(named))
    for name, text in pages.items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _read(app: Any, docname: str, source: list[str]) -> None:
    if app.config.run_examples and not f"{docname}.md".startswith(examples.PLAIN):
        source[0] = examples.with_outputs(source[0])
    if not docname.startswith("_generated/"):
        source[0] = links.linked(source[0], "../" * docname.count("/"))


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = docstrings.as_rst(lines)


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    # Public functions are there even without a text; fields of named tuples are described by that of the tuple.
    if inspect.isfunction(obj) and not name.startswith("_"):
        return False
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None
