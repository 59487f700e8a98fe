"""Files to start from: whole ones whose comments teach the format, and devices that change another."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml

from ebmsim.errors import Problem, SpecError
from ebmsim.spec.extends import ABOUT_THE_FILE, hardware_document

_FOLDER = Path(__file__).parent / "starts"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def starting_file(kind: str, name: str) -> str:
    """The text of a workload, hardware or sweep file to be changed. Raises SpecError for a bad name."""
    _check(kind, name)
    text = (_FOLDER / f"{kind}.yaml").read_text(encoding="utf-8")
    return re.sub(r"^name: .*$", f"name: {name}", text, count=1, flags=re.MULTILINE)


def changed_device(name: str, like: str, folder: Path) -> str:
    """The text of a hardware file in `folder` that extends a device, whose figures stand in comments.

    Raises SpecError for a bad name, and with the problems of the device.
    """
    _check("hardware", name)
    device = hardware_document(like).data
    figures = {key: value for key, value in device.items() if key not in ABOUT_THE_FILE}
    written: str = yaml.safe_dump(figures, sort_keys=False, default_flow_style=None, width=1000, allow_unicode=True)
    lines = [
        f"# {device.get('title', like)}, with what you change.",
        "#   ebmsim check FILE                       all mistakes at once, with line and column",
        f"#   ebmsim compare ebm_cvr --hw {like} FILE --why",
        "#                                           what the changes do, and why",
        "# Mappings merge key by key, all else replaces what it stands for. Every key: `ebmsim schema hardware`.",
        f"name: {name}",
        f"extends: {_seen_from(folder, like)}",
        "",
        "# Its figures. Take the # off a line to change it, and off those of the keys above it; in braces keep what",
        "# you change. Figures do not follow each other: peaks are totals of the device, so a chip with twice the",
        "# units needs its peaks doubled as well.",
        *[f"# {line}" for line in written.splitlines()],
        "",
        "# Where your figures come from, by path; one that is not here counts as your estimate.",
        "# sources:",
        "#   units: vendor, data sheet",
    ]
    return "\n".join(lines) + "\n"


def _check(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        hint = "a name has small letters, digits and underscores, and begins with a letter"
        raise SpecError([Problem(f"expected a name for the {kind}, found '{name}'", hint=hint)])


def _seen_from(folder: Path, like: str) -> str:
    """A device as a file in `folder` names it: paths are relative to it."""
    is_path = "/" in like or re.search(r"\.ya?ml(:|$)", like)
    return os.path.relpath(like, folder) if is_path and not os.path.isabs(like) else like
