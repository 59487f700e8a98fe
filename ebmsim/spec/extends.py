"""Hardware files that say only what differs from another: `extends`, and the named `variants` of a file.

The result is a document as if one file had been written, in which every part remembers its own file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.spec.located import Document, Mark, Path, format_path, load_document
from ebmsim.spec.shipped import files, find, folder
from ebmsim.units import _shown as shown

ABOUT_THE_FILE = (
    "name", "title", "kind", "software", "validated", "references", "notes", "sources", "extends", "variants",
    "calibration",
)  # fmt: skip
NOT_IN_A_VARIANT = ("name", "extends", "variants")
_OWN = (*NOT_IN_A_VARIANT, "title", "validated")
_FILE_AND_VARIANT = re.compile(r"(.+\.ya?ml):([a-z][a-z0-9_]*)")
_MOST_FILES = 8


def hardware_document(name: str | FilePath) -> Document:
    """The document of a device by name, path, or path:variant, complete. Raises SpecError."""
    return _named(str(name), FilePath(), ())


def extended(document: Document) -> Document:
    """The document with what it extends filled in; the same one if it extends nothing. Raises SpecError."""
    return _extended(document, ())


def variant_files() -> dict[str, FilePath]:
    """The shipped file of every variant that is no file itself. Raises nothing."""
    found: dict[str, FilePath] = {}
    known = files("hardware")
    for path in [folder("hardware") / f"{name}.yaml" for name in known]:
        # Most files have none, and reading all of them as YAML takes long.
        if "\nvariants:" in path.read_text(encoding="utf-8"):
            try:
                written = load_document(path).data.get("variants")
            except SpecError:
                continue
            found |= dict.fromkeys(written if isinstance(written, dict) else (), path)
    return {name: path for name, path in found.items() if name not in known}


def variant(document: Document, name: str) -> Document:
    """A variant of a complete document: its body extends the rest, under its key as name. Raises SpecError."""
    written = document.data.get("variants")
    known = written if isinstance(written, dict) else {}
    if name not in known:
        hint = suggest(name, known) if known else "it has no variants"
        raise SpecError([Problem(f"unknown variant '{name}'", document.file, hint=hint)])
    at: Path = ("variants", name)
    body = known[name]
    if not isinstance(body, dict):
        raise SpecError([document.problem(at, f"expected a mapping, found {shown(body)}")])
    wrong = [key for key in NOT_IN_A_VARIANT if key in body]
    if wrong:
        raise SpecError(
            document.problem((*at, key), f"'{key}' has no place in a variant", at_key=True) for key in wrong
        )
    marks, keys = (
        {path[2:]: mark for path, mark in x.items() if path[:2] == at} for x in (document.marks, document.keys)
    )
    marks[("name",)] = keys[("name",)] = document.keys[at]
    parts = {path[2:]: file for path, file in document.files.items() if path[:2] == at}
    return _merged(document, Document(document.file, {"name": name, **body}, marks, keys, parts))


def is_figure(data: Any, path: Path) -> bool:
    """Whether a source can be given for the value at `path`: no mapping, and about the device."""
    if not path or path[0] in ABOUT_THE_FILE:
        return False
    for item in path:
        data = data[item]
    return not isinstance(data, dict)


def _named(text: str, beside: FilePath, chain: Sequence[FilePath]) -> Document:
    """The document of `text`, a path in it taken from the folder `beside`, for the last file of `chain`."""
    split = _FILE_AND_VARIANT.fullmatch(text)
    if split is not None:
        file, chosen = beside / split[1], split[2]
    elif text not in files("hardware") and (home := variant_files().get(text)) is not None:
        file, chosen = home, text
    else:
        file, chosen = beside / find("hardware", text), ""
    document = _extended(load_document(file), chain)
    return variant(document, chosen) if chosen else document


def _extended(document: Document, chain: Sequence[FilePath]) -> Document:
    if "extends" not in document.data:
        return document
    name = document.data["extends"]
    if not isinstance(name, str) or not name.strip():
        raise SpecError(
            [document.problem(("extends",), f"expected the name or the path of a device, found {shown(name)}")]
        )
    here = FilePath(document.file).resolve()
    if here in chain:
        ring = " -> ".join(path.stem for path in (*chain[chain.index(here) :], here))
        raise SpecError([document.problem(("extends",), f"file {here.stem} extends itself: {ring}")])
    if len(chain) == _MOST_FILES:
        raise SpecError(
            [document.problem(("extends",), f"a chain of more than {_MOST_FILES} files that extend others")]
        )
    try:
        base = _named(name, FilePath(document.file).parent, (*chain, here))
    except SpecError as error:
        # What has no place in a file is about the name.
        raise SpecError(_placed(document, problem) for problem in error.problems) from None
    return _merged(base, document)


def _placed(document: Document, problem: Problem) -> Problem:
    if problem.line:
        return problem
    message = f"{problem.message}: {problem.file}" if problem.file else problem.message
    return document.problem(("extends",), message, problem.hint)


def _merged(base: Document, own: Document) -> Document:
    """`own` over `base`: mappings key by key, all else replaced; sources follow their figures."""
    below = replace(base, data={key: value for key, value in base.data.items() if key not in _OWN})
    merge = _Merge(own.file)
    data = merge.both((), below, own)
    if data.pop("extends", None) is not None:
        del merge.marks[("extends",)], merge.keys[("extends",)]
    title = base.data.get("title")
    if "title" not in data and isinstance(title, str):
        data["title"] = f"{title}, changed"
        merge.marks[("title",)] = own.marks[()]
    _follow(data, own, merge)
    return Document(own.file, data, merge.marks, merge.keys, merge.files)


def _follow(data: dict[str, Any], own: Document, merge: _Merge) -> None:
    """Replace the sources of the figures that `own` gives without one, and drop those of figures that are gone.

    The source of a list is that of its items too.
    """
    sources = data.setdefault("sources", {})
    merge.marks.setdefault(("sources",), own.marks[()])
    written = own.data.get("sources", {})
    if not isinstance(sources, dict) or not isinstance(written, dict):
        return
    for path in [path for path in own.marks if path in merge.marks and is_figure(own.data, path)]:
        figure = format_path(path)
        inside = (f"{figure}.", f"{figure}[")
        for gone in [name for name in sources if name.startswith(inside) and name not in written]:
            del sources[gone], merge.marks[("sources", gone)]
        if figure not in written and not any(isinstance(item, int) for item in path):
            place: Path = ("sources", figure)
            sources[figure] = "estimate, stated in this file"
            merge.marks[place] = merge.keys[place] = own.marks[path]
            merge.files[place] = own.files.get(path, own.file)


class _Merge:
    """Data of two documents put together, with the marks and the file of every part."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Path, Mark] = {}
        self.keys: dict[Path, Mark] = {}
        self.files: dict[Path, str] = {}

    def both(self, path: Path, base: Document, own: Document, pair: tuple[Any, Any] | None = None) -> Any:
        below, above = pair or (base.data, own.data)
        if not isinstance(below, dict) or not isinstance(above, dict):
            return self.one(path, own, above)
        self._mark(path, own)
        data: dict[str, Any] = {}
        for key in _order(below, above):
            if key in below and key in above:
                data[key] = self.both((*path, key), base, own, (below[key], above[key]))
            elif key in above:
                data[key] = self.one((*path, key), own, above[key])
            else:
                data[key] = self.one((*path, key), base, below[key])
        return data

    def one(self, path: Path, document: Document, value: Any) -> Any:
        """A copy of a value of one document."""
        self._mark(path, document)
        if isinstance(value, dict):
            return {key: self.one((*path, key), document, child) for key, child in value.items()}
        if isinstance(value, list):
            return [self.one((*path, index), document, child) for index, child in enumerate(value)]
        return value

    def _mark(self, path: Path, document: Document) -> None:
        self.marks[path] = document.marks[path]
        if path in document.keys:
            self.keys[path] = document.keys[path]
        file = document.files.get(path, document.file)
        if file != self.file:
            self.files[path] = file


def _order(below: dict[str, Any], above: dict[str, Any]) -> Iterator[str]:
    """The keys of both: a new one stands before the next key of its own mapping that is known, or last."""
    waiting: dict[str, list[str]] = {}
    new: list[str] = []
    for key in above:
        if key in below:
            waiting[key], new = new, []
        else:
            new.append(key)
    for key in below:
        yield from waiting.get(key, ())
        yield key
    yield from new
