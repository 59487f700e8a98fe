"""Files that a command writes: whole or not at all, or to stdout."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ebmsim.errors import Problem, SpecError

_STDOUT = Path("-")


def check_output(path: Path) -> None:
    """Raise SpecError where a file cannot be written: a folder, in no folder, or in a protected one; "-" is stdout."""
    if os.path.isdir(path):
        raise SpecError([Problem("expected a file, found a directory", str(path))])
    if not os.path.isdir(path.parent):
        raise SpecError([Problem(f"no such folder '{path.parent}'", str(path))])
    if not os.access(path.parent, os.W_OK):
        raise SpecError([Problem(f"cannot write in the folder '{path.parent}'", str(path))])


def write_output(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, or to stdout. Raises SpecError."""
    if path == _STDOUT:
        sys.stdout.buffer.write(content)
        return
    unfinished = path.with_name(f".{os.getpid()}{path.suffix}")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        raise SpecError([Problem(f"cannot be written: {error.strerror or error}", str(path))]) from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
