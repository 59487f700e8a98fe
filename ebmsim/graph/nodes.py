"""The nodes of a workload file: what each may say, and its attributes with their values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ebmsim.graph.operators  # noqa: F401  (fills the tables)
from ebmsim.errors import Problem, suggest
from ebmsim.graph.operators.table import OPERATORS, Attribute, Operator
from ebmsim.spec.expression import ExpressionError, evaluate, free_names
from ebmsim.spec.located import Document
from ebmsim.spec.workload import WorkloadFile, sampler_program

Path = tuple[str | int, ...]

NODE_KEYS = ("op", "name", "inputs", "when", "weight", "phase")
USE_KEYS = ("use", "name", "inputs", "with", "repeat", "when")
EVALUATE_KEYS = ("evaluate", "at", "name", "energy", "phase")
LOOP_KEYS = ("loop", "label", "do")
PHASES = ("rng", "update", "accept", "host")
# Tensors that hold learned or fixed values of their own, beside the operators.
HELD = {
    "parameter": {"shape": Attribute("ints", required=True, text="shape of the learned tensor")},
    "buffer": {"shape": Attribute("ints", required=True, text="shape of the fixed tensor")},
}


def attributes_of(op: str) -> Mapping[str, Attribute]:
    """The attribute table of an operator, or of `parameter` and `buffer`."""
    return HELD[op] if op in HELD else OPERATORS[op].attributes


def public_operators() -> list[Operator]:
    """The operators a workload file may name, by category and name."""
    return sorted((o for o in OPERATORS.values() if o.public), key=lambda o: (o.category, o.name))


def check_nodes(document: Document, file: WorkloadFile) -> list[Problem]:
    """Everything wrong with the nodes that can be seen without values: operators, attributes, names."""
    problems: list[Problem] = []
    known = set(file.parameters)
    for name, block in file.blocks.items():
        problems += _check(document, file, block.nodes, ("blocks", name, "nodes"), known | set(block.arguments))
    for name, component in file.components.items():
        problems += _check(document, file, component.nodes, ("components", name, "nodes"), known | {"instance"})
        for field in ("instances", "rows", "when", "unused_parameters"):
            problems += _names(document, ("components", name, field), getattr(component, field), known)
    program, path = sampler_program(file)
    problems += _check(document, file, program, path, known, program=True)
    return problems


def _names(document: Document, path: Path, value: Any, known: set[str]) -> Iterator[Problem]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (dict, list)) or item is None:
            yield document.problem(path, f"expected a number or an expression, found {_kind(item)}")
            continue
        try:
            missing = free_names(item) - known
        except ExpressionError as error:
            yield document.problem(path, str(error), error.hint)
            continue
        for name in sorted(missing):
            yield document.problem(path, f"unknown name '{name}'", suggest(name, known))


def _kind(item: object) -> str:
    if item is None:
        return "nothing"
    return "a mapping" if isinstance(item, dict) else "a list"


def _check(
    document: Document, file: WorkloadFile, nodes: Sequence[Any], path: Path, known: set[str], program: bool = False
) -> Iterator[Problem]:
    if not nodes:
        yield document.problem(path, "expected at least one node, found an empty list")
    for index, node in enumerate(nodes):
        at = (*path, index)
        if not isinstance(node, dict):
            yield document.problem(at, f"expected a node such as {{op: relu}}, found {_kind(node)}")
        elif program and "loop" in node:
            yield from _unknown_keys(document, at, node, LOOP_KEYS)
            yield from _names(document, (*at, "loop"), node["loop"], known)
            if node.get("label", "step") != "step":
                yield document.problem((*at, "label"), f"expected the label step, found {node['label']!r}")
            yield from _check(document, file, node.get("do") or [], (*at, "do"), known, program)
        elif program and "evaluate" in node:
            yield from _unknown_keys(document, at, node, EVALUATE_KEYS)
            if node["evaluate"] not in ("gradient", "energy", "score"):
                message = f"expected one of gradient, energy, score, found {node['evaluate']!r}"
                yield document.problem((*at, "evaluate"), message)
        elif "use" in node:
            yield from _check_use(document, file, node, at, known)
        else:
            yield from _check_node(document, node, at, known)


def _unknown_keys(document: Document, at: Path, node: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Problem]:
    for key in node:
        if key not in keys:
            yield document.problem((*at, key), f"unknown key '{key}'", suggest(key, keys), True)


def _check_use(
    document: Document, file: WorkloadFile, node: Mapping[str, Any], at: Path, known: set[str]
) -> Iterator[Problem]:
    yield from _unknown_keys(document, at, node, USE_KEYS)
    block = file.blocks.get(str(node["use"]))
    if block is None:
        yield document.problem((*at, "use"), f"unknown block '{node['use']}'", suggest(str(node["use"]), file.blocks))
        return
    given = node.get("with") or {}
    for key, value in given.items():
        if key not in block.arguments:
            hint = suggest(key, block.arguments)
            yield document.problem((*at, "with", key), f"unknown argument '{key}' of block {node['use']}", hint, True)
        yield from _names(document, (*at, "with", key), value, known)
    for key, default in block.arguments.items():
        if default is None and key not in given:
            yield document.problem(at, f"missing argument '{key}' of block {node['use']}")


def _check_node(document: Document, node: Mapping[str, Any], at: Path, known: set[str]) -> Iterator[Problem]:
    op = node.get("op")
    if not isinstance(op, str):
        yield document.problem(at, "missing key 'op'")
        return
    if op not in HELD and (op not in OPERATORS or not OPERATORS[op].public):
        names = [o.name for o in public_operators()] + list(HELD)
        yield document.problem((*at, "op"), f"unknown operator '{op}'", suggest(op, names))
        return
    table = attributes_of(op)
    for key, value in node.items():
        if key in NODE_KEYS:
            continue
        if key not in table:
            takes = ", ".join(sorted(table)) or "no attributes"
            hint = suggest(key, table) or f"{op} takes {takes}"
            yield document.problem((*at, key), f"unknown attribute '{key}' of {op}", hint, True)
        elif table[key].kind != "choice":
            yield from _names(document, (*at, key), value, known)
        elif value not in table[key].choices:
            message = f"expected one of {', '.join(table[key].choices)}, found {value!r}"
            yield document.problem((*at, key), message)
    for key, attribute in table.items():
        if attribute.required and key not in node:
            yield document.problem(at, f"missing attribute '{key}' of {op}")
    if "phase" in node and node["phase"] not in PHASES:
        message = f"expected one of {', '.join(PHASES)}, found {node['phase']!r}"
        yield document.problem((*at, "phase"), message)
    yield from _names(document, (*at, "when"), node.get("when", True), known)


def attribute_value(attribute: Attribute, given: Any, names: Mapping[str, Any], rank: int) -> Any:
    """The value of an attribute: expressions computed, axes made negative. `rank`: axes beside the chain axis.

    Raises ExpressionError, or ValueError with what was expected and found.
    """
    kind = attribute.kind
    if kind == "choice":
        return given
    if kind == "number":
        value = evaluate(given, names)
        if isinstance(value, str):
            raise ValueError(f"expected a number, found {value!r}")
        return float(value)
    if kind == "bool":
        value = evaluate(given, names)
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, found {value!r}")
        return value
    if kind == "int":
        return _whole(given, names, attribute.least)
    if kind == "axis":
        return _axis(given, names, rank)
    items = given if isinstance(given, list) else [given]
    if kind == "axes":
        return tuple(_axis(item, names, rank) for item in items)
    return tuple(_whole(item, names, attribute.least) for item in items)


def _whole(given: Any, names: Mapping[str, Any], least: float) -> int:
    value = evaluate(given, names)
    if isinstance(value, (bool, str)) or value != math.floor(value):
        raise ValueError(f"expected a whole number, found {value!r}")
    if value < least:
        raise ValueError(f"expected a whole number of at least {least:g}, found {value:g}")
    return int(value)


def _axis(given: Any, names: Mapping[str, Any], rank: int) -> int:
    value = _whole(given, names, -rank)
    if value >= rank:
        raise ValueError(f"expected an axis below {rank}, found {value}")
    return value - rank if value >= 0 else value
