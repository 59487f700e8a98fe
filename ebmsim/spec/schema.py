"""The JSON schemas of hardware files, software profiles and sweep files, for editors."""

from __future__ import annotations

from typing import Any

from ebmsim.spec.extends import NOT_IN_A_VARIANT
from ebmsim.spec.hardware import HardwareSpec


def hardware_schema() -> dict[str, Any]:
    """The JSON schema of hardware files, for editors: one that extends another may leave out what is required."""
    whole = HardwareSpec.model_json_schema()
    parts = whole.pop("$defs") | {"Hardware": whole}
    changes = {name + "Changes": _loosened(part) for name, part in parts.items()}
    variant_fields = {k: v for k, v in changes["HardwareChanges"]["properties"].items() if k not in NOT_IN_A_VARIANT}
    changes["Variant"] = changes["HardwareChanges"] | {"properties": variant_fields}
    for part in (whole, changes["HardwareChanges"]):
        part["properties"]["variants"]["additionalProperties"] = {"$ref": "#/$defs/Variant"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/HardwareChanges", "required": ["name"]},
        "else": {"$ref": "#/$defs/Hardware"},
        "$defs": parts | changes,
    }


def software_schema() -> dict[str, Any]:
    """The JSON schema of software profiles, for editors."""
    from ebmsim.spec.software import ProfileSpec

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ProfileSpec.model_json_schema()}


def sweep_schema() -> dict[str, Any]:
    """The JSON schema of sweep files, for editors."""
    from ebmsim.spec.sweep import SweepSpec

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **SweepSpec.model_json_schema()}


def _loosened(schema: Any) -> Any:
    """A copy of a schema in which nothing is required, nor in what it refers to."""
    if isinstance(schema, dict):
        kept = {key: _loosened(value) for key, value in schema.items() if key != "required"}
        return kept | ({"$ref": kept["$ref"] + "Changes"} if "$ref" in kept else {})
    return [_loosened(item) for item in schema] if isinstance(schema, list) else schema
