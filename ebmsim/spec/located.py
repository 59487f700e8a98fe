"""Loading of YAML with the position of every key and value, and with all that is wrong at once.

The tree is built here from parser events, never by the composer of the library: that one recurses in
C without a bound, resolves tags to objects, and keeps neither duplicate keys nor their positions.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, BinaryIO, NoReturn

import yaml
from yaml.reader import Reader

from ebmsim.errors import Problem, SpecError, suggest

Path = tuple[str | int, ...]
Mark = tuple[int, int]
STDIN = "-"
"""In the place of a file's name: standard input."""

_LARGEST_FILE = 4 * 1024 * 1024
_MOST_NODES = 100_000
_DEEPEST = 64

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_TAG_PREFIX = "tag:yaml.org,2002:"
_SCALAR_TAGS = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
}
_KIND_TAGS = {"map": "a mapping", "seq": "a list"}
_CONTEXTS = {
    "flow sequence": "list [...]",
    "flow mapping": "mapping {...}",
    "block mapping": "mapping",
    "block collection": "list",
    "quoted scalar": "quoted text",
    "double-quoted scalar": "quoted text",
    "simple key": "key",
    "block scalar": "text block",
}
_HINTS = {
    "expected the end of the mapping": "check the indentation and the brackets",
    "mapping values are not allowed": "put a text that contains ': ' in quotes, and indent with care",
    "cannot start any token": "indent with spaces, not tabs; put a text that starts with @, ` or % in quotes",
}


@dataclass(frozen=True)
class Document:
    """A loaded file: plain data, and where each part of it is written.

    file: the name for messages. data: nested dict, list, str, int, float, bool and None. marks, keys:
    line and column, from 1, of every value and every mapping key by its path from the top. files: the
    file of each part that stands in another one than `file`.
    """

    file: str
    data: Any
    marks: Mapping[Path, Mark]
    keys: Mapping[Path, Mark]
    files: Mapping[Path, str] = field(default_factory=dict)

    def problem(self, path: Sequence[str | int], message: str, hint: str = "", at_key: bool = False) -> Problem:
        """A problem at `path`, located at its value, or its key with `at_key`.

        Items of the path that the tree lacks are skipped, but a missing last key stays in the text; the
        position is then that of the nearest enclosing value. Raises nothing.
        """
        found: Path = ()
        data = self.data
        shown = ""
        for index, item in enumerate(path):
            if (*found, item) in self.marks:
                found = (*found, item)
                data = data[item]
            elif index == len(path) - 1 and _is_missing_key(data, item):
                shown = format_path((*found, item))
        line, column = self.keys.get(found, self.marks[found]) if at_key else self.marks[found]
        file = self.files.get(found, self.file)
        return Problem(message, file, line, column, shown or format_path(found), hint)


def _is_missing_key(data: object, item: str | int) -> bool:
    # Validators put labels such as "list[int]" or "function-after[check(), int]" in their paths.
    return isinstance(data, dict) and isinstance(item, str) and not set("[(") & set(item)


def format_path(path: Sequence[str | int]) -> str:
    """The path as users read it: ("nodes", 3, "kernel") gives "nodes[3].kernel". Raises nothing."""
    text = ""
    for item in path:
        if isinstance(item, int):
            text += f"[{item}]"
        else:
            text += f".{item}" if text else item
    return text


def load_document(path: str | os.PathLike[str]) -> Document:
    """Load a YAML file of at most 4 MiB; "-" is standard input.

    Raises SpecError with all problems when it cannot be used.
    """
    file = os.fsdecode(path)
    try:
        if file == STDIN and sys.stdin is not None:
            file, content = "<stdin>", _all_of(sys.stdin.buffer)
        else:
            with open(path, "rb") as stream:
                content = stream.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        _refuse("no such file", file)
    except IsADirectoryError:
        _refuse("expected a file, found a directory", file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        _refuse(f"cannot read the file: {reason[:1].lower()}{reason[1:]}", file)
    if len(content) > _LARGEST_FILE:
        _refuse("the file is larger than 4 MiB", file)
    end = content.find(b"\0")
    bad = len(content) if end < 0 else end
    try:
        text = content[:bad].decode("utf-8")
    except UnicodeDecodeError as error:
        bad = error.start
    if bad < len(content):
        before = content[:bad].decode("utf-8")
        line, column = _position(before, len(before))
        _refuse(f"expected UTF-8 text, found bytes that are not (at byte {bad})", file, line, column)
    return parse_document(text, file)


@lru_cache(maxsize=1)
def _all_of(stream: BinaryIO) -> bytes:
    """What a stream gives; a pipe is read once, however often its document is asked for."""
    return stream.read(_LARGEST_FILE + 1)


def parse_document(text: str, file: str = "<text>") -> Document:
    """Load YAML text as `load_document` does. Raises SpecError with all problems."""
    if len(text) > _LARGEST_FILE:
        _refuse("the text is larger than 4 MiB", file)
    text = text.removeprefix("\ufeff")
    refused = Reader.NON_PRINTABLE.search(text)
    if refused is not None:
        line, column = _position(text, refused.start())
        _refuse(f"the character U+{ord(refused.group()):04X} is not allowed in YAML", file, line, column)
    builder = _Builder(file)
    root = builder.build(text)
    if root is None or builder.problems:
        raise SpecError(builder.problems)
    marks: dict[Path, Mark] = {}
    keys: dict[Path, Mark] = {}
    return Document(file, _expand(root, (), marks, keys), marks, keys)


def _refuse(message: str, file: str, line: int = 0, column: int = 0) -> NoReturn:
    raise SpecError([Problem(message, file, line, column)])


def _position(text: str, index: int) -> Mark:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


class _Node:
    """A value at a position; mappings hold (key, mark of the key, value), lists hold values."""

    __slots__ = ("count", "height", "mark", "value")

    def __init__(self, value: Any, mark: Mark, count: int, height: int) -> None:
        self.value = value
        self.mark = mark
        self.count = count
        self.height = height


class _Mapping(list[tuple[str, Mark, _Node]]):
    """The entries of a mapping, to tell them from those of a list."""


def _expand(node: _Node, path: Path, marks: dict[Path, Mark], keys: dict[Path, Mark]) -> Any:
    """The plain data of a node, with aliases copied out so that no two parts share an object."""
    marks[path] = node.mark
    value = node.value
    if isinstance(value, _Mapping):
        data = {}
        for key, mark, child in value:
            keys[(*path, key)] = mark
            data[key] = _expand(child, (*path, key), marks, keys)
        return data
    if isinstance(value, list):
        return [_expand(child, (*path, index), marks, keys) for index, child in enumerate(value)]
    return value


class _UnreadableError(Exception):
    """Nothing after this point can be read; the problem is recorded already."""


class _Builder:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.path: list[str | int] = []
        # None marks an anchor whose node is still being read.
        self.anchors: dict[str, _Node | None] = {}
        self.count = 0
        self.expanded = False
        self.events: Iterator[Any] = iter(())

    def note(self, message: str, mark: Mark, hint: str = "") -> None:
        self.problems.append(Problem(message, self.file, *mark, format_path(self.path), hint))

    def build(self, text: str) -> _Node | None:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.events = iter(yaml.parse(text, Loader=loader))
        try:
            return self._document()
        except _UnreadableError:
            pass
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.note(f"not valid YAML: {' '.join(str(error).split())[:200]}", (0, 0))
        return None

    def _document(self) -> _Node | None:
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.note("expected a mapping, found an empty file", (1, 1))
            return None
        event = next(self.events)
        node = self._node(event, 1)
        if not isinstance(node.value, _Mapping):
            empty = isinstance(event, yaml.ScalarEvent) and event.value == "" and event.implicit[0]
            self.note(f"expected a mapping, found {'an empty file' if empty else _named(node.value)}", node.mark)
        next(self.events)
        event = next(self.events)
        if isinstance(event, yaml.DocumentStartEvent):
            self.note("expected one document, found a second one", _mark(event))
        return node

    def _node(self, event: Any, depth: int) -> _Node:
        mark = _mark(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), mark, depth)
        before = self.count
        self._add(1, depth, mark)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        value: Any
        height = 1
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, mark)
        else:
            kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
            self._check_kind(event.tag, kind, mark)
            value, height = self._mapping(depth) if kind == "map" else self._list(depth)
        node = _Node(value, mark, self.count - before, height)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _add(self, count: int, depth: int, mark: Mark) -> None:
        """Account for `count` nodes that reach down to `depth`."""
        self.count += count
        if depth > _DEEPEST:
            self.path = self.path[:4]
            self.note(f"nested deeper than {_DEEPEST} levels", mark)
        elif self.count > _MOST_NODES:
            cause = "aliases expand to" if self.expanded else "the file holds"
            self.note(f"{cause} more than {_MOST_NODES} nodes", mark)
        else:
            return
        raise _UnreadableError

    def _alias(self, name: str, mark: Mark, depth: int) -> _Node:
        target = self.anchors.get(name)
        if target is None:
            if name in self.anchors:
                self.note(f"alias '{name}' refers to a value that contains it", mark)
            else:
                self.note(f"unknown alias '{name}'", mark, suggest(name, self.anchors))
            return _Node(None, mark, 1, 1)
        self.expanded = True
        self._add(target.count, depth + target.height - 1, mark)
        return _Node(target.value, mark, target.count, target.height)

    def _list(self, depth: int) -> tuple[list[_Node], int]:
        items: list[_Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            self.path.append(len(items))
            items.append(self._node(event, depth + 1))
            self.path.pop()
        return items, 1 + max((item.height for item in items), default=0)

    def _mapping(self, depth: int) -> tuple[_Mapping, int]:
        entries = _Mapping()
        first: dict[str, int] = {}
        height = 0
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key, mark = self._key(event, depth)
            self.path.append("?" if key is None else key)
            if key is not None and key in first:
                self.note(f"duplicate key {_short(key)} (first on line {first[key]})", mark)
            node = self._node(next(self.events), depth + 1)
            self.path.pop()
            height = max(height, node.height)
            if key is not None and key not in first:
                first[key] = mark[0]
                entries.append((key, mark, node))
        return entries, 1 + height

    def _key(self, event: Any, depth: int) -> tuple[str | None, Mark]:
        mark = _mark(event)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<":
            self.note("merge keys are not supported", mark, "write the keys out, or alias a whole value")
            return None, mark
        known = len(self.problems)
        count = self.count
        node = self._node(event, depth + 1)
        # The limit is on values; a key is part of its entry.
        self.count = count
        if isinstance(node.value, str):
            return node.value, mark
        if len(self.problems) == known:
            hint = f"write '{event.value}' in quotes" if getattr(event, "value", "") else ""
            self.note(f"expected a string as key, found {_named(node.value)}", mark, hint)
        return None, mark

    def _check_kind(self, tag: str | None, kind: str, mark: Mark) -> None:
        if tag is None or tag == _TAG_PREFIX + kind:
            return
        name = tag.removeprefix(_TAG_PREFIX)
        wanted = _SCALAR_TAGS | _KIND_TAGS
        if tag.startswith(_TAG_PREFIX) and name in wanted:
            self.note(f"expected {wanted[name]} after '!!{name}', found {_KIND_TAGS.get(kind, 'a scalar')}", mark)
        else:
            shown = f"!!{name}" if tag.startswith(_TAG_PREFIX) else tag
            self.note(f"the tag {_short(shown)} is not allowed", mark)

    def _scalar(self, event: Any, mark: Mark) -> Any:
        text: str = event.value
        tag: str | None = event.tag
        kind = "str" if tag is None else tag.removeprefix(_TAG_PREFIX)
        if tag is not None and (not tag.startswith(_TAG_PREFIX) or kind not in _SCALAR_TAGS):
            self._check_kind(tag, "", mark)
            return None
        if (tag is None and not event.implicit[0]) or (tag is not None and kind == "str"):
            return text
        try:
            value = _core(text)
        except ValueError as error:
            self.note(str(error), mark)
            return 0
        if tag is None:
            return value
        if kind == "float" and type(value) is int:
            value = float(value)
        if type(value).__name__ != kind.replace("null", "NoneType"):
            self.note(f"expected {_SCALAR_TAGS[kind]} after '!!{kind}', found {_short(text)}", mark)
        return value

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        problem = " ".join((error.problem or "unreadable").split())
        problem = problem.replace("did not find expected", "expected")
        problem = problem.replace("<document start>", "the end of the mapping")
        problem = problem.replace("found unexpected end of stream", "unexpected end of the file")
        where = ""
        context = re.sub(r"^while (parsing|scanning) an? ", "", error.context or "")
        if context in _CONTEXTS and error.context_mark is not None:
            where = f" in the {_CONTEXTS[context]} that starts on line {error.context_mark.line + 1}"
        mark = error.problem_mark or error.context_mark
        position = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        hint = next((hint for words, hint in _HINTS.items() if words in problem), "")
        # The path of the value being read is a guess at best once the structure is broken.
        self.path = []
        if "nesting depth" in problem:
            # libyaml from 0.2.6 on gives up by itself, before the events reach us.
            self.note(f"nested deeper than {_DEEPEST} levels", position)
        else:
            self.note(f"not valid YAML: {problem}{where}", position, hint)


def _mark(event: Any) -> Mark:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _core(text: str) -> bool | int | float | str | None:
    """A plain scalar by the core schema of YAML 1.2. Raises ValueError for numbers out of range."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        if len(text) > 400:
            raise ValueError(f"the number {_short(text)} is too long")
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError(f"the number {_short(text)} is too large")
        return value
    return text


def _named(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a mapping" if isinstance(value, _Mapping) else "a list"
