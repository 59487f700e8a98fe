"""The grammar of the three kinds of files as Markdown, from their JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
_FILES = {
    "workload": ("Workload files", "A workload (what): energy networks, their wiring, the sampler, the training loop."),
    "hardware": ("Hardware files", "A device (on what): engines, memory levels, links, power, and all their sources."),
    "sweep": ("Sweep files", "A space of designs, and what is asked of each."),
}
# Nodes are listed by operator, in a table of their own.
_COMMON_OF_NODES = ("op", "name", "inputs", "when", "weight", "phase", "runs")


def format_page(kind: str) -> str:
    """The page of one kind of file."""
    schema = json.loads((SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    parts = {name: part for name, part in schema["$defs"].items() if not name.endswith(("Changes", "Variant"))}
    root = parts.pop("Hardware", None) or schema
    title, about = _FILES[kind]
    lines = [f"# {title}", "", f"{about} Written from `docs/schemas/{kind}.json`, which `ebmsim schema {kind}` prints."]
    lines += ["", "## The file", "", *_section(root, parts)]
    for name, part in parts.items():
        lines += ["", f"## {_words(name)}", "", *(_nodes(part) if name == "Node" else _section(part, parts))]
    return "\n".join(lines) + "\n"


def _section(part: Mapping[str, Any], parts: Mapping[str, Any]) -> Iterator[str]:
    if part.get("description"):
        yield _cell(part["description"])
        yield ""
    yield "| key | what it holds | default | meaning |"
    yield "|---|---|---|---|"
    for key, given in part.get("properties", {}).items():
        default = "required" if key in part.get("required", ()) else _default(given)
        yield f"| `{key}` | {_type(given, parts)} | {default} | {_cell(given.get('description', ''))} |"


def _nodes(part: Mapping[str, Any]) -> Iterator[str]:
    """One row per operator; the keys that all nodes have are left out."""
    yield "A node of a forward graph: an operator (`op`) with its attributes, or a block (`use`). All nodes may have"
    yield f"{', '.join(f'`{key}`' for key in _COMMON_OF_NODES[1:])}; attributes in italics are optional."
    yield ""
    yield "| operator | attributes | what it computes |"
    yield "|---|---|---|"
    for node in part["oneOf"]:
        name = node["properties"].get("op", {}).get("const")
        if name:
            yield f"| `{name}` | {_attributes(node)} | {_cell(node['description'])} |"


def _attributes(node: Mapping[str, Any]) -> str:
    found = []
    for key, given in node["properties"].items():
        if key not in _COMMON_OF_NODES:
            shown = f"`{key}`" if key in node["required"] else f"*{key}*"
            found.append(f"{shown}: {_cell(given.get('description', 'see the text'))}")
    return "; ".join(found)


def _type(given: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    if "$ref" in given:
        name = given["$ref"].rpartition("/")[2]
        return f"[{_words(name)}](#{_anchor(name)})" if name in parts else _words(name)
    if "enum" in given:
        return ", ".join(f"`{value}`" for value in given["enum"])
    if "anyOf" in given:
        kinds = [_type(one, parts) for one in given["anyOf"] if one.get("type") != "null"]
        plain = {"whole number", "number", "true or false", "text"}
        if plain <= set(kinds):
            kinds = [*[kind for kind in kinds if kind not in plain], "expression"]
        return " or ".join(dict.fromkeys(kinds))
    if "oneOf" in given:
        return " or ".join(_type(one, parts) if "$ref" in one else "nodes for each instance" for one in given["oneOf"])
    kind = given.get("type", "")
    if kind == "array":
        return f"list of {_type(given.get('items', {}), parts)}"
    if kind == "object":
        inside = [given.get("additionalProperties"), *given.get("patternProperties", {}).values()]
        of = next((value for value in inside if isinstance(value, dict) and value), {})
        return f"{_type(of, parts)} by name" if of else "mapping"
    if given.get("examples"):
        return f"{'text' if 'pattern' in given else 'quantity'}, such as `{given['examples'][0]}`"
    return {"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind or "anything")


def _default(given: Mapping[str, Any]) -> str:
    default = given.get("default")
    return f"`{json.dumps(default)}`" if default not in (None, "", [], {}) else ""


def _words(name: str) -> str:
    """A name of the grammar in words: LevelSpec is level, PublishedTags published tags."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Spec")).capitalize()


def _anchor(name: str) -> str:
    return _words(name).lower().replace(" ", "-")


def _cell(text: str) -> str:
    """Text that a cell of a table can hold."""
    return re.sub(r"([|<*])", r"\\\1", " ".join(text.split()))
