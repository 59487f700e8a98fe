"""Sweeps over designs, and the questions asked of them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def sweep(file: str | Path) -> dict[str, Any]:
    """What the sweep of a file keeps, as one array for every column: axes, derived quantities, outputs, in SI units.

    For sweeps that fit in memory; `ebmsim sweep` writes any. Raises SpecError with all problems of the file.
    """
    from ebmsim.sweep.run import in_memory

    return in_memory(file)


class _Callable(ModuleType):
    """`ebmsim.sweep` is a function and, once something of it is imported, this module: both can be called."""

    def __call__(self, file: str | Path) -> dict[str, Any]:
        return sweep(file)


sys.modules[__name__].__class__ = _Callable
