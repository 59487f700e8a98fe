"""Parsed and lowered files kept on disk between runs, as Python keeps compiled modules.

An entry holds its key, a value, and size and time of the files it was made from; it is used only while those files and
the package's own sources are the same. `EBMSIM_CACHE` names another folder, or is `off`. Whatever goes wrong with the
cache, the value is computed instead.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar
from zlib import crc32

Value = TypeVar("Value")

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
# Entries kept; beyond it the ones unused for longest are deleted.
_MOST_ENTRIES = 200


def remembered(key: Sequence[Any], compute: Callable[[], tuple[Value, Sequence[str | os.PathLike[str]]]]) -> Value:
    """The value of a key, from the cache or computed.

    compute gives the value and the files it was made from. Raises what `compute` raises; nothing is kept then.
    """
    folder = _folder()
    # What comes from standard input, "-", is another thing each time.
    if folder is None or "-" in key:
        return compute()[0]
    full = repr((_stamp(), *key))
    path = os.path.join(folder, f"{crc32(full.encode()):08x}")
    found = _read(path, full)
    if found is not None:
        value: Value = found[0]
        return value
    computed, files = compute()
    _write(path, full, computed, files)
    return computed


def _folder() -> str | None:
    """The folder of the cache; None where it is off, or other users could write to it."""
    given = os.environ.get("EBMSIM_CACHE", "")
    if given.lower() in ("off", "0", "no"):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = given or os.path.join(home, "ebmsim")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        state = os.stat(folder)
    except OSError:
        return None
    if hasattr(os, "getuid") and (state.st_uid != os.getuid() or state.st_mode & 0o022):
        return None
    return folder


@cache
def _stamp() -> str:
    """What changes whenever the package or the interpreter does."""
    sources = [
        _state(os.path.join(place, name))
        for place, _, names in os.walk(_PACKAGE)
        for name in names
        if name.endswith(".py")
    ]
    return repr((sys.version, sorted(sources)))


def _state(path: str | os.PathLike[str]) -> tuple[str, int, int]:
    """A file's place, size and time of its last change."""
    place = os.path.abspath(os.fspath(path))
    state = os.stat(place)
    return place, state.st_size, state.st_mtime_ns


def _read(path: str, key: str) -> tuple[Any] | None:
    # An entry may be missing, cut short, of another key with the same name, or of another version of a library.
    with suppress(Exception), open(path, "rb") as stream:
        found, files = pickle.load(stream)
        if found == key and all(_state(place) == (place, *state) for place, *state in files):
            value = pickle.load(stream)
            os.utime(path)
            return (value,)
    return None


def _write(path: str, key: str, value: Any, files: Sequence[str | os.PathLike[str]]) -> None:
    with suppress(Exception):
        unfinished = f"{path}.{os.getpid()}"
        with open(unfinished, "xb") as stream:
            pickle.dump((key, [_state(file) for file in files]), stream, protocol=pickle.HIGHEST_PROTOCOL)
            pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
        os.replace(unfinished, path)
        with os.scandir(os.path.dirname(path)) as entries:
            oldest = sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[_MOST_ENTRIES:]
        for entry in oldest:
            os.unlink(entry)
