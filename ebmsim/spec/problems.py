"""Problems found by the grammar (pydantic), put at their place in the file and in our words."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ebmsim.errors import Problem, suggest
from ebmsim.spec.located import Document

_EXPECTED = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def located(document: Document, error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every problem of a validation, located. A union reports the reading that fits best. Raises nothing."""
    problems: list[Problem] = []
    seen: set[tuple[Any, ...]] = set()
    for item in error.errors(include_url=False):
        path = tuple(item["loc"])
        # Parameter | number | text: a mapping is meant as the first, all else as one of the others.
        if path[-1:] in (("int",), ("float",), ("bool",), ("str",)) and isinstance(item["input"], dict):
            if len(path) > 2 and path[0] == "parameters":
                continue
        elif path[-1:] == ("Parameter",):
            continue
        # A union of scalars gives one error per branch: say it once.
        place = tuple(p for p in path if not (isinstance(p, str) and p in ("int", "float", "bool", "str", "Parameter")))
        if place in seen:
            continue
        seen.add(place)
        if path[-1:] != place[-1:]:
            message = f"expected a number or an expression, found {_shown(item['input'])}"
            problems.append(document.problem(place, message))
            continue
        problems.append(_problem(document, model, place, item))
    return problems


def _problem(document: Document, model: type[BaseModel], path: tuple[Any, ...], item: Any) -> Problem:
    kind, context = item["type"], item.get("ctx", {})
    last = path[-1] if path else ""
    if kind == "extra_forbidden":
        return document.problem(path, f"unknown key '{last}'", suggest(str(last), _fields(model, path[:-1])), True)
    if kind == "missing":
        return document.problem(path[:-1], f"missing key '{last}'")
    found = _shown(item.get("input"))
    if kind == "literal_error":
        options = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ")
        hint = suggest(str(item.get("input")), options.split(", "))
        return document.problem(path, f"expected one of {options}, found {found}", hint)
    if kind == "value_error":
        return document.problem(path, str(context["error"]))
    if kind == "string_pattern_mismatch":
        return document.problem(path, f"expected a name such as 'my_model' (lower case, digits, _), found {found}")
    if kind in _EXPECTED:
        return document.problem(path, f"expected {_EXPECTED[kind]}, found {found}")
    return document.problem(path, f"{item['msg'][:1].lower()}{item['msg'][1:]}, found {found}")


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _fields(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys that the model at a path takes, found by walking the annotations."""
    current: Any = model
    for item in path:
        fields = getattr(current, "model_fields", None)
        if fields is not None and item in fields:
            current = _model(fields[item].annotation)
        if current is None:
            return []
    return list(getattr(current, "model_fields", {}))


def _model(annotation: Any) -> Any:
    """The model inside an annotation such as dict[str, Model] or Model | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model(arg)) is not None), None)
