"""Settings of the command line: `path=value`."""

from __future__ import annotations

from typing import Any

from ebmsim.errors import Problem, SpecError
from ebmsim.spec.expression import ExpressionError, evaluate


def parse_setting(text: str) -> tuple[str, Any]:
    """One `path=value` of the command line, the value as YAML would read it. Raises SpecError."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip() or not value.strip():
        raise SpecError([Problem(f"expected path=value, found '{text}'", hint="for example --set chains=8")])
    value = value.strip()
    words = {"true": True, "false": False}
    if value in words:
        return path.strip(), words[value]
    try:
        return path.strip(), evaluate(value, {})
    except ExpressionError:
        return path.strip(), value
