"""The examples of a page, run from top to bottom in a folder of their own.

A page is plain Markdown. Its `bash` and `python` fences are examples; a comment before a fence or behind it says more:

    <!-- file: NAME -->        the fence is what a reader writes into the file NAME
    <!-- not run: REASON -->   the fence is shown only
    <!-- exit: N -->           its command ends with status N: errors are under test too
    <!-- needs: MODULE … -->   run only where these can be imported
    <!-- output -->            (behind) stdout, and stderr of an error, belong here; `output: N lines` cuts it short
    <!-- holds: TEXT; TEXT --> (behind that) what the page says of the output: it has each TEXT, or the example fails
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"(?P<marks>(?:^<!-- (?:file|not run|exit|needs): [^>]*? -->\n)*)"
    r"^```(?P<language>\w+)\n(?P<text>.*?)^```\n"
    r"(?P<shown>^<!-- output(?:: (?P<lines>\d+) lines)? -->\n)?"
    r"(?:^<!-- holds: (?P<holds>[^>]*?) -->\n)?",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile(r"^<!-- ([a-z ]+): ([^>]*?) -->$", re.MULTILINE)
# What sets up an environment or runs the tests.
_SETS_UP = ("python -m venv", ". .venv/", "pip install", "pytest", "git clone", "cd ")
_LONGEST = 300  # seconds


class Example(NamedTuple):
    """A fence of a page.

    shown: whether its output is; lines: as many of it, 0 for all. holds: what the output has. end: of the fence and its
    comments in the page.
    """

    language: str
    text: str
    marks: dict[str, str]
    shown: bool
    lines: int
    holds: tuple[str, ...]
    end: int


def examples(page: str) -> Iterator[Example]:
    """All fences of a page, in order."""
    for found in _FENCE.finditer(page):
        holds = tuple(text.strip() for text in (found["holds"] or "").split(";") if text.strip())
        shown, lines = found["shown"] is not None, int(found["lines"] or 0)
        marks = dict(_MARK.findall(found["marks"]))
        yield Example(found["language"], found["text"], marks, shown, lines, holds, found.end())


def commands(block: str) -> list[str]:
    """The commands of a bash fence, without comments and without those that install."""
    joined = block.replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith(("#", *_SETS_UP))]


class Runner:
    """Runs the examples of one page: files lie in one folder, Python names stay from fence to fence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, Any] = {"__name__": "__main__"}
        for name in ("hardware", "workload_graphs", "sweeps"):
            (folder / name).symlink_to(ROOT / name)

    def run(self, example: Example) -> str:
        """What an example prints. Raises RuntimeError where it does not end as it should."""
        marks = example.marks
        if "file" in marks:
            (self._folder / marks["file"]).write_text(example.text, encoding="utf-8")
            return ""
        if "not run" in marks or not _there(marks.get("needs", "")):
            return ""
        if example.language == "bash":
            status = int(marks.get("exit", 0))
            output = "".join(self._command(command, status) for command in commands(example.text))
        else:
            output = self._python(example.text) if example.language == "python" else ""
        return output.replace(f"{ROOT}/", "")

    def _command(self, command: str, status: int) -> str:
        # In a shell, as a reader would; `ebmsim` is this very package.
        shell = f"ebmsim() {{ '{sys.executable}' -m ebmsim \"$@\"; }}\n"
        environment = {**os.environ, "EBMSIM_CACHE": str(self._folder / ".cache"), "NO_COLOR": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        done = subprocess.run(
            ["bash", "-euc", shell + command],
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=_LONGEST,
            check=False,
            env=environment,
        )
        if done.returncode != status:
            raise RuntimeError(f"{command}\nended with {done.returncode}, not {status}:\n{done.stdout}{done.stderr}")
        return done.stderr if status == 2 else done.stdout

    def _python(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.chdir(self._folder), contextlib.redirect_stdout(printed):
            exec(compile(code, "<example>", "exec"), self._names)  # noqa: S102
        return printed.getvalue()


def _there(modules: str) -> bool:
    return all(find_spec(name) is not None for name in modules.split())


PLAIN = ("_build/", "_generated/", "adr/", "validation/", "assumptions.", "settings.", "blocks.", "README.")
"""Pages without examples: their fences are not run."""


def pages() -> list[Path]:
    """All pages with examples."""
    docs = ROOT / "docs"
    return [file for file in sorted(docs.rglob("*.md")) if not str(file.relative_to(docs)).startswith(PLAIN)]


def run_page(page: str) -> list[tuple[Example, str]]:
    """Every example of a page with what it printed. Raises what an example raises, with its text."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        for example in examples(page):
            try:
                output = runner.run(example)
                missing = [text for text in example.holds if text not in output] if output else []
                if missing:
                    raise RuntimeError(f"the page says {missing}, and it prints\n{output}")
                found.append((example, output))
            except Exception as error:
                raise RuntimeError(f"an example failed\n{example.text}\n{error}") from error
    return found


def with_outputs(page: str) -> str:
    """A page with the outputs of its examples written behind them."""
    parts, start = [], 0
    for example, output in run_page(page):
        parts.append(page[start : example.end])
        start = example.end
        if example.shown and output.strip():
            parts.append(f"\n```text\n{_cut(output, example.lines)}```\n")
    return "".join([*parts, page[start:]])


def _cut(output: str, lines: int) -> str:
    text = [line.rstrip() for line in output.strip("\n").splitlines()]
    if lines and len(text) > lines:
        text = [*text[:lines], f"… {len(text) - lines} more lines"]
    return "".join(f"{line}\n" for line in text)
