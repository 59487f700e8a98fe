"""Command lines run in this process, for the tests of every command."""

from __future__ import annotations

from typing import Any

import pytest

from ebmsim.cli.main import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command line."""
    status: Any = 0
    try:
        main(words)
    except SystemExit as stop:
        status = stop.code or 0
    return status, *capsys.readouterr()


def answer(capsys: Capture, *words: str) -> str:
    """stdout of a command that succeeds and says nothing on stderr."""
    status, out, err = run(capsys, *words)
    assert (status, err) == (0, "")
    return out


def refusal(capsys: Capture, *words: str) -> str:
    """stderr, without the last line break, of a command that is refused and prints nothing on stdout."""
    status, out, err = run(capsys, *words)
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    return err.rstrip("\n")
