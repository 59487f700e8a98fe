"""JSON Schema of a workload file: the grammar's own, with the operators' attributes in its nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebmsim.graph.nodes import EACH_KEYS, HELD, NODE_KEYS, PHASES, USE_KEYS, public_operators
from ebmsim.graph.operators.table import Attribute
from ebmsim.spec.workload import WorkloadFile

_TEXTS = {
    "op": "operator",
    "use": "name of the block",
    "name": "what other nodes call its output",
    "inputs": "names of what it reads; the node before it if left out",
    "when": "condition under which it is there",
    "weight": "of another node whose output it takes as its weight",
    "phase": "phase of the step that its time counts for",
    "with": "values of the block's arguments",
    "repeat": "how often it stands, one after another; `turn` counts from 0",
    "each": "the component",
    "do": "what is done with every instance",
    "runs": "of a component's nodes: once per inference, before the sampling loop",
}
_EXPRESSION = {"type": ["number", "boolean", "string"]}


def _attribute(a: Attribute) -> dict[str, Any]:
    if a.kind == "choice":
        schema: dict[str, Any] = {"enum": list(a.choices)}
    elif a.kind in ("ints", "axes"):
        schema = {"anyOf": [{"type": "array", "items": _EXPRESSION}, _EXPRESSION]}
    else:
        schema = dict(_EXPRESSION)
    return schema | ({"description": a.text} if a.text else {})


def _described(keys: Sequence[str], **schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of every key of a node, with its text."""
    given = {"runs": {"const": "once"}, **schemas}
    return {key: given.get(key, {}) | {"description": _TEXTS[key]} for key in keys}


def _node(op: str, text: str, attributes: dict[str, Attribute]) -> dict[str, Any]:
    common = _described(NODE_KEYS, op={"const": op}, name={"type": "string"}, phase={"enum": list(PHASES)})
    return {
        "type": "object",
        "description": text,
        "properties": common | {key: _attribute(a) for key, a in attributes.items()},
        "required": ["op", *[key for key, a in attributes.items() if a.required]],
        "additionalProperties": False,
    }


def workload_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that editors use for completion and hover texts."""
    schema = WorkloadFile.model_json_schema()
    nodes = [_node(o.name, o.text, dict(o.attributes)) for o in public_operators()]
    nodes += [_node(op, f"a {op} of its own", dict(attributes)) for op, attributes in HELD.items()]
    use = {
        "type": "object",
        "description": "a block used by name",
        "properties": _described(USE_KEYS),
        "required": ["use"],
        "additionalProperties": False,
    }
    schema["$defs"]["Node"] = {"oneOf": [*nodes, use]}
    each = {
        "type": "object",
        "description": "nodes repeated for every instance of a component, whose name is then that instance's output",
        "properties": _described(EACH_KEYS, do={"type": "array", "items": {"$ref": "#/$defs/Node"}}),
        "required": list(EACH_KEYS),
        "additionalProperties": False,
    }
    combined = schema["$defs"]["Combination"]["properties"]["nodes"]
    combined["items"] = {"oneOf": [{"$ref": "#/$defs/Node"}, each]}
    for model in ("Block", "Component"):
        schema["$defs"][model]["properties"]["nodes"]["items"] = {"$ref": "#/$defs/Node"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
