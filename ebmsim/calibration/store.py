"""Measured steps kept in a file while they are measured: a line of JSON each, after one that tells the environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ebmsim.errors import Problem, SpecError

_FORMAT = "ebmsim small steps 1"


@dataclass(frozen=True)
class StepTimes:
    """Times of one step: its label, s of each figure, and by how much rounds differ (see clock.Measured)."""

    label: str
    seconds: Mapping[str, float]
    spread: Mapping[str, float]
    repeat_error: float
    rounds: int
    disturbed: int


@dataclass
class Store:
    """A file of measured steps that grows. environment: what they were measured on."""

    path: Path
    environment: Mapping[str, str]
    steps: dict[str, StepTimes] = field(default_factory=dict)

    def add(self, found: Sequence[StepTimes]) -> None:
        """Keep some more steps, at once and for good."""
        with self.path.open("a", encoding="utf-8") as file:
            for times in found:
                _write(file, asdict(times))
                self.steps[times.label] = times


def open_store(path: Path, environment: Mapping[str, str]) -> Store:
    """The store of a file, with what it holds already; a new one where there is no file.

    Raises SpecError where the file holds something else, or was measured in another environment.
    """
    if path.exists():
        store = read_store(path)
        for key, value in environment.items():
            known = store.environment.get(key, "")
            if known != value:
                message = f"these steps were measured with {key} '{known}', not '{value}'"
                raise SpecError([Problem(message, str(path), 1, 1, hint="remove the file, or name another one")])
        return store
    try:
        with path.open("x", encoding="utf-8") as file:
            _write(file, {"format": _FORMAT, "environment": dict(environment)})
    except OSError as error:
        raise SpecError([Problem(f"cannot write: {error.strerror}", str(path))]) from None
    return Store(path, environment)


def is_store(path: Path) -> bool:
    """Whether a file begins as one of steps does, and not as a table of kernels."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(1) == "{"
    except (OSError, UnicodeDecodeError):
        return False


def read_store(path: Path) -> Store:
    """The steps of a file. A last line that is cut off is left out. Raises SpecError with every bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError([Problem(f"cannot read the measured steps: {error}", str(path))]) from None
    problems: list[Problem] = []
    parsed: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append((number, dict(json.loads(line))))
        except (ValueError, TypeError):
            if number < len(lines) or number == 1:
                problems.append(Problem("expected one object of JSON", str(path), number, 1))
    _, header = parsed[0] if parsed else (1, {})
    if header.get("format") != _FORMAT or not isinstance(header.get("environment"), dict):
        raise SpecError([Problem(f"expected a file of '{_FORMAT}'", str(path), 1, 1)])
    steps = {}
    wanted = "label, seconds, spread, repeat_error, rounds, disturbed"
    for number, entry in parsed[1:]:
        try:
            times = StepTimes(**entry)
            bad = [k for k, v in times.seconds.items() if not 0 <= v < float("inf")]
        except (TypeError, AttributeError):
            problems.append(Problem(f"expected {wanted}", str(path), number, 1))
            continue
        if bad:
            message = f"expected a time of {bad[0]}, found {times.seconds[bad[0]]}"
            problems.append(Problem(message, str(path), number, 1))
        steps[times.label] = times
    if problems:
        raise SpecError(problems)
    return Store(path, header["environment"], steps)


def _write(file: TextIO, entry: Mapping[str, Any]) -> None:
    file.write(json.dumps(entry) + "\n")
