"""The assumptions name code and decisions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "assumptions.md").read_text(encoding="utf-8")
# `file:name`, and names in ticks that follow it directly.
REFERENCES = re.findall(r"`([\w/]+\.py)(?::([\w.]+))?`((?:,\s+`[\w.]+`)*)", TEXT)


def names(path: Path) -> set[str]:
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
            found |= {f"{node.name}.{part.name}" for part in ast.walk(node) if isinstance(part, ast.FunctionDef)}
            if isinstance(node, ast.ClassDef):
                # Of another method of the class named just before.
                found |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_code_that_is_named_exists() -> None:
    assert len(REFERENCES) > 30
    missing = []
    for file, name, more in REFERENCES:
        path = ROOT / "ebmsim" / file
        if not path.is_file():
            missing.append(file)
            continue
        have = names(path)
        wanted = [word for word in [name, *re.findall(r"`([\w.]+)`", more)] if word and not word.endswith(".py")]
        missing += [f"{file}:{word}" for word in wanted if word not in have]
    assert not missing


def test_decisions_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]
