"""Capture of torch modules as workloads; torch is imported when it is asked for."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ebmsim.capture.factory import capture, capture_file

__all__ = ["capture", "capture_file"]


class _Callable(ModuleType):
    """`ebmsim.capture` is a function and, once something of it is imported, this module: both can be called."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return capture(*args, **settings)


sys.modules[__name__].__class__ = _Callable
