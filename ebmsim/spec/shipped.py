"""Names of shipped workloads, devices and software profiles, and where their files are; quick to import."""

from __future__ import annotations

from pathlib import Path

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.spec.located import STDIN

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = {"workload": "workload_graphs", "hardware": "hardware", "software": "hardware/software"}


def folder(kind: str) -> Path:
    """The folder of the shipped files of a kind: inside the package, or the checkout of an editable install."""
    inside = _PACKAGE / "data" / FOLDERS[kind]
    return inside if inside.is_dir() else _PACKAGE.parent / FOLDERS[kind]


def files(kind: str) -> list[str]:
    """The names of the shipped files of a kind, sorted."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def names(kind: str) -> list[str]:
    """The shipped names of a kind, sorted: files, and variants of hardware files."""
    if kind != "hardware":
        return files(kind)
    from ebmsim.spec.extends import variant_files

    return sorted({*files(kind), *variant_files()})


def find(kind: str, name: str | Path) -> Path:
    """The file of a name, or of a path; "-" is standard input. Raises SpecError with the nearest names."""
    text = str(name)
    if text == STDIN or text.endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return Path(name)
    path = folder(kind) / f"{text}.yaml"
    if path.is_file():
        return path
    known = names(kind)
    hint = suggest(text, known) or "there are: " + ", ".join(known)
    raise SpecError([Problem(f"unknown {kind} '{text}'", hint=hint)])
