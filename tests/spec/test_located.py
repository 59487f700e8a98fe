"""Located YAML: positions, the core schema, refusals word by word, and hostile input."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ebmsim.errors import SpecError
from ebmsim.spec.located import format_path, load_document, parse_document


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_document(text, "f.yaml")
    return str(caught.value)


def value(text: str) -> Any:
    return parse_document(f"a: {text}\n").data["a"]


def test_marks_and_keys() -> None:
    document = parse_document("name: x\nnodes:\n  - kernel: é🙂\n    size: [1, 2]\n  - {kernel: b}\n")
    assert document.data == {"name": "x", "nodes": [{"kernel": "é🙂", "size": [1, 2]}, {"kernel": "b"}]}
    assert document.marks[()] == (1, 1)
    assert document.marks[("name",)] == (1, 7)
    assert document.marks[("nodes", 0, "size", 1)] == (4, 15)
    assert document.marks[("nodes", 1, "kernel")] == (5, 14)
    assert document.keys[("nodes", 0, "size")] == (4, 5)
    assert document.keys[("nodes",)] == (2, 1)


def test_problem_at_values_keys_and_missing_paths() -> None:
    document = parse_document("a:\n  b:\n    - c: 1\n", "f.yaml")
    assert str(document.problem(("a", "b", 0, "c"), "bad")) == "f.yaml:3:10: a.b[0].c: bad"
    assert str(document.problem(("a", "b", 0, "c"), "bad", at_key=True)) == "f.yaml:3:7: a.b[0].c: bad"
    assert str(document.problem(("a", "b", 0, "d"), "missing")) == "f.yaml:3:7: a.b[0].d: missing"
    assert str(document.problem(("a", "tag", "b", 0, "c"), "bad")) == "f.yaml:3:10: a.b[0].c: bad"
    assert str(document.problem(("a", "b", 0, "c", "int"), "bad")) == "f.yaml:3:10: a.b[0].c: bad"
    assert str(document.problem(("a", "b", 7), "bad")) == "f.yaml:3:5: a.b: bad"
    assert str(document.problem(("a", "list[int]"), "bad", "look")) == "f.yaml:2:3: a: bad\n    look"
    assert str(document.problem((), "bad", at_key=True)) == "f.yaml:1:1: bad"


def test_format_path() -> None:
    assert format_path(("components", "main", "nodes", 3, "kernel")) == "components.main.nodes[3].kernel"
    assert format_path((0, "a")) == "[0].a"
    assert format_path(()) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True), ("True", True), ("TRUE", True), ("false", False), ("tRUE", "tRUE"),
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("012", 12), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("0b1", "0b1"),
        ("1e9", 1e9), ("1.5e-3", 1.5e-3), ("1.", 1.0), (".5", 0.5), ("-1E+2", -100.0), (".", "."),
        (".inf", math.inf), ("-.INF", -math.inf), ("null", None), ("Null", None), ("~", None), ("", None),
        ("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("!!int '12'", 12), ("!!float 1", 1.0),
        ("!!null ''", None), ("!!bool true", True), ("!!seq [1]", [1]), ("!!map {}", {}), ("<<", "<<"),
        ("=", "="), ("|\n  x\n  y", "x\ny\n"),
    ],
)  # fmt: skip
def test_core_schema(text: str, expected: object) -> None:
    result = value(text)
    assert result == expected
    assert type(result) is type(expected)


def test_nan_and_quoted_merge_key() -> None:
    assert math.isnan(value(".nan"))
    assert value("{'<<': 1}") == {"<<": 1}


def test_aliases_are_copied_and_located_where_they_stand() -> None:
    document = parse_document("a: &x [1]\nb: *x\nc: &x 3\nd: *x\n")
    assert document.data == {"a": [1], "b": [1], "c": 3, "d": 3}
    assert document.data["a"] is not document.data["b"]
    assert document.marks[("b",)] == (2, 4)
    assert document.marks[("b", 0)] == (1, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.yaml:1:1: expected a mapping, found an empty file"),
        ("# only\n", "f.yaml:1:1: expected a mapping, found an empty file"),
        ("---\n", "f.yaml:2:1: expected a mapping, found an empty file"),
        ("- a\n", "f.yaml:1:1: expected a mapping, found a list"),
        ("abc", "f.yaml:1:1: expected a mapping, found a string"),
        ("12", "f.yaml:1:1: expected a mapping, found a number"),
        ("~", "f.yaml:1:1: expected a mapping, found null"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: expected one document, found a second one"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: duplicate key 'a' (first on line 1)"),
        (
            "a:\n  b: 1\n  b: 2\na: 3\nc: !foo 1\n",
            "f.yaml:3:3: a.b: duplicate key 'b' (first on line 2)\n"
            "f.yaml:4:1: a: duplicate key 'a' (first on line 1)\n"
            "f.yaml:5:4: c: the tag '!foo' is not allowed\n3 errors",
        ),
        (
            "a: !!python/object:os.system x",
            "f.yaml:1:4: a: the tag '!!python/object:os.system' is not allowed",
        ),
        ("a: !foo {b: 1}", "f.yaml:1:4: a: the tag '!foo' is not allowed"),
        ("a: !!set {b}", "f.yaml:1:4: a: the tag '!!set' is not allowed"),
        ("a: !!int x", "f.yaml:1:4: a: expected an integer after '!!int', found 'x'"),
        ("a: !!seq {}", "f.yaml:1:4: a: expected a list after '!!seq', found a mapping"),
        ("a: !!map x", "f.yaml:1:4: a: expected a mapping after '!!map', found a scalar"),
        ("a: !!str [x]", "f.yaml:1:4: a: expected a string after '!!str', found a list"),
        ("1: x", "f.yaml:1:1: expected a string as key, found a number\n    write '1' in quotes"),
        ("true: x", "f.yaml:1:1: expected a string as key, found a boolean\n    write 'true' in quotes"),
        ("? [a]\n: x", "f.yaml:1:3: expected a string as key, found a list"),
        (
            "a: &x {b: 1}\nc:\n  <<: *x\n",
            "f.yaml:3:3: c: merge keys are not supported\n    write the keys out, or alias a whole value",
        ),
        ("a: *x", "f.yaml:1:4: a: unknown alias 'x'"),
        ("a: &abc 1\nb: *abd", "f.yaml:2:4: b: unknown alias 'abd'\n    did you mean 'abc'?"),
        ("a: &x [*x]", "f.yaml:1:8: a[0]: alias 'x' refers to a value that contains it"),
        ("a: 1e999", "f.yaml:1:4: a: the number '1e999' is too large"),
        ("a: " + "9" * 5000, f"f.yaml:1:4: a: the number '{'9' * 40}...' is too long"),
        ("a: x\x07", "f.yaml:1:5: the character U+0007 is not allowed in YAML"),
        ("a: 1\nb: \ud800", "f.yaml:2:4: the character U+D800 is not allowed in YAML"),
        (
            "a: b: c",
            "f.yaml:1:5: not valid YAML: mapping values are not allowed in this context\n"
            "    put a text that contains ': ' in quotes, and indent with care",
        ),
        (
            "a: [1,\n  2",
            "f.yaml:3:1: not valid YAML: expected ',' or ']' in the list [...] that starts on line 1",
        ),
        (
            "a: 1\nb: 'x",
            "f.yaml:2:6: not valid YAML: unexpected end of the file in the quoted text that starts on line 2",
        ),
        (
            "\ta: 1",
            "f.yaml:1:1: not valid YAML: found character that cannot start any token\n"
            "    indent with spaces, not tabs; put a text that starts with @, ` or % in quotes",
        ),
        (
            "  a: 1\n b: 2",
            "f.yaml:2:2: not valid YAML: expected the end of the mapping\n    check the indentation and the brackets",
        ),
        ("%YAML 9.9\n---\na: 1", "f.yaml:1:1: not valid YAML: found incompatible YAML document"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize("text", ["a: " + "[" * 1_000_000, "a: " + "{a: " * 100_000, "- " * 100_000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "nested deeper than 64 levels" in refusal(text)


def test_nesting_limits() -> None:
    assert value("[" * 63 + "]" * 63)
    assert refusal("a: " + "[" * 64 + "]" * 64).endswith("a[0][0][0]: nested deeper than 64 levels")


def test_aliases_cannot_deepen_or_multiply() -> None:
    deep = ["a0: &a0 " + "[" * 30 + "]" * 30] + [f"a{i}: &a{i} {'[' * 30}*a{i - 1}{']' * 30}" for i in (1, 2)]
    assert "nested deeper than 64 levels" in refusal("\n".join(deep))
    laughs = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 40)]
    assert refusal("\n".join(laughs)).endswith("aliases expand to more than 100000 nodes")
    assert refusal("a: [" + "1, " * 100_001 + "]").endswith("the file holds more than 100000 nodes")


def test_size_limit() -> None:
    assert refusal("a: " + "x" * 4 * 1024 * 1024) == "f.yaml: the text is larger than 4 MiB"


def failure(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        load_document(path)
    return str(caught.value).replace(str(path), "FILE")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    assert failure(path) == "FILE: no such file"
    assert failure(tmp_path) == "FILE: expected a file, found a directory"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    document = load_document(path)
    assert (document.file, document.data) == (str(path), {"a": 1, "b": 2})
    assert document.marks[("a",)] == (1, 4)
    path.write_bytes("é: 1\nb: ".encode() + b"\xff")
    assert failure(path) == "FILE:2:4: expected UTF-8 text, found bytes that are not (at byte 9)"
    path.write_bytes(b"a: 1\0")
    assert failure(path) == "FILE:1:5: expected UTF-8 text, found bytes that are not (at byte 4)"
    path.write_bytes("a: 1".encode("utf-16"))
    assert failure(path) == "FILE:1:1: expected UTF-8 text, found bytes that are not (at byte 0)"
    path.write_bytes(b"a" * (4 * 1024 * 1024 + 1))
    assert failure(path) == "FILE: the file is larger than 4 MiB"
    with pytest.raises(SpecError, match="cannot read the file: embedded null byte"):
        load_document("a\0b")
    with pytest.raises(SpecError, match="cannot read the file: file name too long"):
        load_document("a" * 5000)


class QuotingDumper(yaml.SafeDumper):
    """Quotes every string: the library leaves some plain that are numbers in YAML 1.2, such as 1e9."""


QuotingDumper.add_representer(
    str, lambda dumper, data: dumper.represent_scalar("tag:yaml.org,2002:str", data, style='"')
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXT)
DATA = st.dictionaries(
    TEXT,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=5,
)


@given(DATA, st.booleans())
def test_dumped_data_loads_to_the_same(data: dict[str, Any], flow: bool) -> None:
    text = yaml.dump(data, Dumper=QuotingDumper, default_flow_style=flow)
    assert parse_document(text).data == data


@given(st.dictionaries(st.text("abcäöü", max_size=5), st.integers() | st.text("abc:# \n", max_size=9)))
def test_json_is_yaml(data: dict[str, Any]) -> None:
    assert parse_document(json.dumps(data)).data == data


YAML_LIKE = st.text(st.sampled_from("ab1:-?!&*<>[]{},#|'\"%@`~ \n\t\\.e0x\ufeff\x85\u2028"), max_size=60)


@given(st.text() | YAML_LIKE | st.text().map(lambda text: f"a: {text}"))
def test_any_text_gives_a_document_or_a_spec_error(text: str) -> None:
    try:
        document = parse_document(text)
    except SpecError as error:
        assert error.problems and all(problem.message for problem in error.problems)
        return
    assert isinstance(document.data, dict)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
    assert all(1 <= line <= lines for line, _ in [*document.marks.values(), *document.keys.values()])


@given(st.binary(max_size=200))
def test_any_bytes_give_a_document_or_a_spec_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    try:
        load_document(path)
    except SpecError as error:
        assert error.problems
