"""JSON Schema of a workload file: the grammar's own, with the operators' attributes in its nodes."""

from __future__ import annotations

from typing import Any

from ebmsim.graph.nodes import EACH_KEYS, HELD, NODE_KEYS, PHASES, USE_KEYS, public_operators
from ebmsim.graph.operators.table import Attribute
from ebmsim.spec.workload import WorkloadFile

_RUNS = {"const": "once", "description": "of a component's nodes: once per inference, before the sampling loop"}
_EXPRESSION = {"type": ["number", "boolean", "string"]}


def _attribute(a: Attribute) -> dict[str, Any]:
    if a.kind == "choice":
        schema: dict[str, Any] = {"enum": list(a.choices)}
    elif a.kind in ("ints", "axes"):
        schema = {"anyOf": [{"type": "array", "items": _EXPRESSION}, _EXPRESSION]}
    else:
        schema = dict(_EXPRESSION)
    return schema | ({"description": a.text} if a.text else {})


def _node(op: str, text: str, attributes: dict[str, Attribute]) -> dict[str, Any]:
    common: dict[str, Any] = {key: {} for key in NODE_KEYS}
    common |= {"op": {"const": op}, "name": {"type": "string"}, "phase": {"enum": list(PHASES)}, "runs": _RUNS}
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
        "properties": {key: {} for key in USE_KEYS} | {"runs": _RUNS},
        "required": ["use"],
        "additionalProperties": False,
    }
    schema["$defs"]["Node"] = {"oneOf": [*nodes, use]}
    each = {
        "type": "object",
        "description": "nodes repeated for every instance of a component, whose name is then that instance's output",
        "properties": {key: {} for key in EACH_KEYS} | {"do": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        "required": list(EACH_KEYS),
        "additionalProperties": False,
    }
    combined = schema["$defs"]["Combination"]["properties"]["nodes"]
    combined["items"] = {"oneOf": [{"$ref": "#/$defs/Node"}, each]}
    for model in ("Block", "Component"):
        schema["$defs"][model]["properties"]["nodes"]["items"] = {"$ref": "#/$defs/Node"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
