"""One figure of a device, read as hardware files write it: for files that name figures by their path."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from ebmsim.spec.hardware import HardwareSpec
from ebmsim.units import exact_quantity, format_quantity, parse_quantity


def read_figure(path: str, value: Any) -> Any:
    """A value of the figure at a path such as "memory.dram.bandwidth", in SI units.

    Raises ValueError with what is expected and found; KeyError where hardware files have no such path.
    """
    return _reader(path)(value)


def written_figure(path: str, value: Any) -> Any:
    """A value in SI units as hardware files write it: `read_figure` gives the same. Raises KeyError as it does."""
    dimension = _dimension(path)
    if isinstance(value, (bool, str)) or dimension == "number":
        return value
    return exact_quantity(value, dimension) if dimension else int(value) if is_whole(path) else float(value)


def short_figure(path: str, value: float) -> float:
    """The nearest value with three digits in the unit that files would write it with. Raises KeyError as above."""
    dimension = _dimension(path) or "number"
    short = format_quantity(value, dimension)
    return parse_quantity(float(short) if dimension == "number" else short, dimension, zero=True)


def _dimension(path: str) -> str:
    """The dimension of a quantity, "" for what is none."""
    found: str = getattr(_reader(path), "keywords", {}).get("dimension", "")
    return found


def is_whole(path: str) -> bool:
    """Whether a figure is a whole number. Raises KeyError for an unknown path."""
    schema: dict[str, Any] = getattr(_annotation(path), "schema", {})
    return schema.get("type") == "integer"


@cache
def _reader(path: str) -> Callable[[Any], Any]:
    read: Callable[[Any], Any] = _annotation(path).read
    return read


def _annotation(path: str) -> Any:
    current: Any = HardwareSpec
    metadata: tuple[Any, ...] = ()
    for key in path.split("."):
        if get_origin(current) is Annotated:
            current = get_args(current)[0]
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields[key]
            current, metadata = field.annotation, tuple(field.metadata)
        elif get_origin(current) is dict and re.fullmatch("[a-z][a-z0-9_]*", key):
            current = get_args(current)[1]
            metadata = tuple(current.__metadata__) if get_origin(current) is Annotated else ()
        else:
            raise KeyError(path)
    for item in metadata:
        if hasattr(item, "read"):
            return item
    raise KeyError(path)
