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
from ebmsim.spec.workload import Component, WorkloadFile, is_choice, sampler_program

Path = tuple[str | int, ...]

NODE_KEYS = ("op", "name", "inputs", "when", "weight", "phase", "runs")
USE_KEYS = ("use", "name", "inputs", "with", "repeat", "when", "runs")
EVALUATE_KEYS = ("evaluate", "at", "name", "energy", "phase")
LOOP_KEYS = ("loop", "label", "do")
EACH_KEYS = ("each", "do")
PHASES = ("rng", "update", "accept", "host")
_MOMENTS = {"once": 0, "every-step": 1, "every-evaluation": 2, "training": 3}
_LAST = 4  # decoders
# When a component may run, by its role.
_RUNS = {
    "encoder": tuple(_MOMENTS),
    "decoder": ("once",),
    "energy": ("every-evaluation", "training"),
    "score": ("every-evaluation", "training"),
}
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
    # A file without chains or steps is told so once.
    known = {*file.parameters, "chains", "steps"}
    for name, given in file.inputs.items():
        problems += _names(document, ("inputs", name, "shape"), given.shape, known, several=True)
        problems += _names(document, ("inputs", name, "when"), given.when, known)
    for name, block in file.blocks.items():
        inside = known | {"turn", *block.arguments}
        problems += _check(document, file, block.nodes, ("blocks", name, "nodes"), inside)
        problems += _runs(document, block.nodes, ("blocks", name, "nodes"), False)
    problems += _recursion(document, file)
    for name, component in file.components.items():
        problems += _check(document, file, component.nodes, ("components", name, "nodes"), known | {"instance"})
        problems += _runs(document, component.nodes, ("components", name, "nodes"), component.runs != "once")
        for field in ("instances", "rows", "when", "unused_parameters"):
            problems += _names(document, ("components", name, field), getattr(component, field), known)
    if file.combine is not None:
        problems += _check(document, file, file.combine.nodes, ("combine", "nodes"), known, combine=True)
        problems += _runs(document, file.combine.nodes, ("combine", "nodes"), False)
        problems += _names(document, ("combine", "when"), file.combine.when, known)
    if file.sampler.sample:
        problems += _wiring(document, file)
    problems += _names(document, ("sampler", "rows"), file.sampler.rows, known)
    for name, shape in file.sampler.sample.items():
        problems += _names(document, ("sampler", "sample", name), shape, known, several=True)
    if file.training is not None:
        for field in ("buffer", "average", "clip", "host_seconds"):
            problems += _names(document, ("training", field), getattr(file.training, field), known)
        unrolled = file.training.unrolled
        if unrolled.loss:
            problems += _check(document, file, unrolled.loss, ("training", "unrolled", "loss"), known)
        for field in ("steps", "times"):
            problems += _names(document, ("training", "unrolled", field), getattr(unrolled, field), known)
        for field in ("when", "parameters"):
            for name, value in getattr(file.training, field).items():
                if field == "when" or not is_choice(file.parameters.get(name), value):
                    problems += _names(document, ("training", field, name), value, known)
    if file.sampler.program is not None or (file.sampler.preset is not None and file.sampler.sample):
        program, path = sampler_program(file)
        problems += _check(document, file, program, path, known, program=True)
        problems += _runs(document, program, path, False)
    return problems


def _runs(document: Document, nodes: Sequence[Any], path: Path, may: bool) -> Iterator[Problem]:
    """`runs: once` where it has no meaning, and any other value."""
    for index, node in enumerate(nodes):
        if not isinstance(node, dict):
            continue
        if isinstance(node.get("do"), list):
            yield from _runs(document, node["do"], (*path, index, "do"), may)
        if "runs" in node and not may:
            message = "'runs' is of the nodes of a component that runs in the sampling loop"
            yield document.problem((*path, index, "runs"), message, "", True)
        elif "runs" in node and node["runs"] != "once":
            yield document.problem((*path, index, "runs"), f"expected once, found {_found(node['runs'])}")


def _recursion(document: Document, file: WorkloadFile) -> Iterator[Problem]:
    """Blocks that use themselves, directly or through others: one problem per ring."""
    uses = {
        name: [(i, str(n["use"])) for i, n in enumerate(block.nodes) if n.get("use") in list(file.blocks)]
        for name, block in file.blocks.items()
    }
    for start, index, ring in _rings(uses):
        message = f"block {start} uses itself: {' -> '.join(ring)}"
        yield document.problem(("blocks", start, "nodes", index, "use"), message)


def _wiring(document: Document, file: WorkloadFile) -> Iterator[Problem]:
    """Component inputs that nothing gives, or that come from a component that has not run."""
    order = list(file.components)
    known = [*file.sampler.sample, *file.inputs, *order]
    reads = {
        name: [(local, source) for local, source in component.inputs.items() if source in file.components]
        for name, component in file.components.items()
    }
    in_ring = set()
    for start, local, ring in _rings(reads):
        in_ring |= set(ring)
        message = f"component {start} reads itself" if len(ring) == 2 else f"components in a ring: {' -> '.join(ring)}"
        yield document.problem(("components", start, "inputs", local), message)
    for name, component in file.components.items():
        if component.runs not in _RUNS[component.role]:
            expected = " or ".join(_RUNS[component.role])
            message = f"expected runs {expected} of a component with role {component.role}"
            yield document.problem(("components", name, "runs"), f"{message}, found {component.runs}")
        early = component.runs in ("once", "training") and component.role != "decoder"
        for local, source in component.inputs.items():
            at = ("components", name, "inputs", local)
            if source not in known:
                yield document.problem(at, f"no sample, input or component '{source}'", suggest(source, known))
            elif source in file.sampler.sample and early:
                message = f"component {name} runs {component.runs}, before there is a sample '{source}'"
                yield document.problem(at, message)
            elif source in file.components and not {name, source} <= in_ring:
                other = file.components[source]
                if _moment(other) > _moment(component):
                    when = "last" if other.role == "decoder" else other.runs
                    message = f"component {source} runs {when}, after {name}, which runs {component.runs}"
                    yield document.problem(at, message)
                elif order.index(source) > order.index(name):
                    message = f"component {source} stands after {name}, which reads it"
                    yield document.problem(at, message, f"put {source} before {name}")


def _moment(component: Component) -> int:
    return _LAST if component.role == "decoder" else _MOMENTS[component.runs]


def _rings(edges: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[tuple[str, Any, list[str]]]:
    """Rings among names: a name, the label of the edge it starts with, and the names around to itself."""
    done: set[str] = set()
    for start in edges:
        came: dict[str, str] = {}
        stack = [start] if start not in done else []
        while stack:
            name = stack.pop()
            for _, target in edges[name]:
                if target not in came:
                    came[target] = name
                    stack.append(target)
        if start not in came:
            continue
        ring = [start]
        while len(ring) == 1 or ring[0] != start:
            ring.insert(0, came[ring[0]])
        done |= set(came)
        yield start, next(label for label, target in edges[start] if target == ring[1]), ring


def _names(document: Document, path: Path, value: Any, known: set[str], several: bool = False) -> Iterator[Problem]:
    if several and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _names(document, (*path, index), item, known)
        return
    if isinstance(value, (dict, list)) or value is None:
        yield document.problem(path, f"expected a number or an expression, found {_kind(value)}")
        return
    try:
        missing = free_names(value) - known
    except ExpressionError as error:
        yield document.problem(path, str(error), error.hint)
        return
    for name in sorted(missing):
        yield document.problem(path, f"unknown name '{name}'", suggest(name, sorted(known)))


def _kind(item: object) -> str:
    if item is None:
        return "nothing"
    return "a mapping" if isinstance(item, dict) else "a list"


def _check(
    document: Document,
    file: WorkloadFile,
    nodes: Sequence[Any],
    path: Path,
    known: set[str],
    program: bool = False,
    combine: bool = False,
) -> Iterator[Problem]:
    if not nodes:
        yield document.problem(path, "expected at least one node, found an empty list")
    yield from _turns(document, nodes, path)
    for index, node in enumerate(nodes):
        at = (*path, index)
        if not isinstance(node, dict):
            yield document.problem(at, f"expected a node such as {{op: relu}}, found {_kind(node)}")
        elif program and "loop" in node:
            yield from _unknown_keys(document, at, node, LOOP_KEYS)
            yield from _names(document, (*at, "loop"), node["loop"], known)
            if node.get("label", "step") != "step":
                yield document.problem((*at, "label"), f"expected the label step, found {_found(node['label'])}")
            yield from _body(document, file, node, at, known, "a loop", program)
        elif combine and "each" in node:
            yield from _unknown_keys(document, at, node, EACH_KEYS)
            if not isinstance(node["each"], str) or node["each"] not in file.components:
                hint = suggest(str(node["each"]), file.components)
                yield document.problem((*at, "each"), f"expected a component, found {_found(node['each'])}", hint)
            yield from _body(document, file, node, at, known | {"instance"}, "nodes for each instance")
        elif program and "evaluate" in node:
            yield from _unknown_keys(document, at, node, EVALUATE_KEYS)
            if node["evaluate"] not in ("gradient", "energy", "score"):
                message = f"expected one of gradient, energy, score, found {_found(node['evaluate'])}"
                yield document.problem((*at, "evaluate"), message)
            yield from _references(document, at, node, ("at", "name", "energy"))
            yield from _phase(document, at, node)
        elif "use" in node:
            yield from _check_use(document, file, node, at, known)
        else:
            yield from _check_node(document, node, at, known)


def _turns(document: Document, nodes: Sequence[Any], path: Path) -> Iterator[Problem]:
    """Nodes with the name of a turn of a repeated block beside them, whose weights would be taken for its own."""
    named = [(i, str(n["name"])) for i, n in enumerate(nodes) if isinstance(n, dict) and isinstance(n.get("name"), str)]
    repeated = {name for i, name in named if "repeat" in nodes[i]}
    for index, name in named:
        block = name.rstrip("0123456789")
        if block != name and block in repeated:
            message = f"'{name}' is the name of a turn of the repeated block '{block}'"
            yield document.problem((*path, index, "name"), message, "give one of them another name")


def _body(
    document: Document,
    file: WorkloadFile,
    node: Mapping[str, Any],
    at: Path,
    known: set[str],
    of: str,
    program: bool = False,
) -> Iterator[Problem]:
    """The nodes under the key `do`."""
    if isinstance(node.get("do"), list):
        yield from _check(document, file, node["do"], (*at, "do"), known, program)
    elif "do" in node:
        yield document.problem((*at, "do"), f"expected a list of nodes, found {_found(node['do'])}")
    else:
        yield document.problem(at, f"missing key 'do' of {of}")


def _found(value: object) -> str:
    return _kind(value) if value is None or isinstance(value, (dict, list)) else repr(value)


def _references(document: Document, at: Path, node: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Problem]:
    """Names of nodes that are no text."""
    for key in keys:
        if key in node and not (isinstance(node[key], str) and node[key]):
            yield document.problem((*at, key), f"expected a name, found {_found(node[key])}")
    given = node.get("inputs")
    if isinstance(given, list):
        for index, name in enumerate(given):
            if not isinstance(name, str):
                yield document.problem((*at, "inputs", index), f"expected a name, found {_found(name)}")
    elif "inputs" in node and not isinstance(given, str):
        yield document.problem((*at, "inputs"), f"expected a list of names, found {_found(given)}")


def _phase(document: Document, at: Path, node: Mapping[str, Any]) -> Iterator[Problem]:
    if "phase" in node and node["phase"] not in PHASES:
        message = f"expected one of {', '.join(PHASES)}, found {_found(node['phase'])}"
        yield document.problem((*at, "phase"), message)


def _unknown_keys(document: Document, at: Path, node: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Problem]:
    for key in node:
        if key not in keys:
            yield document.problem((*at, key), f"unknown key '{key}'", suggest(key, keys), True)


def _check_use(
    document: Document, file: WorkloadFile, node: Mapping[str, Any], at: Path, known: set[str]
) -> Iterator[Problem]:
    yield from _unknown_keys(document, at, node, USE_KEYS)
    yield from _references(document, at, node, ("name",))
    for key in ("when", "repeat"):
        if key in node:
            yield from _names(document, (*at, key), node[key], known)
    used = node["use"]
    block = file.blocks.get(used) if isinstance(used, str) else None
    if block is None:
        message = f"unknown block '{used}'" if isinstance(used, str) else f"expected a block, found {_found(used)}"
        yield document.problem((*at, "use"), message, suggest(str(used), file.blocks))
        return
    given = node.get("with", {})
    if not isinstance(given, dict):
        yield document.problem((*at, "with"), f"expected arguments such as {{c: 64}}, found {_found(given)}")
        return
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
        if "op" in node:
            yield document.problem((*at, "op"), f"expected an operator, found {_found(op)}")
        elif "each" in node:
            yield document.problem((*at, "each"), "'each' is of the nodes of combine only", "", True)
        elif "loop" in node or "evaluate" in node:
            key = "loop" if "loop" in node else "evaluate"
            yield document.problem((*at, key), f"'{key}' is of the sampler's program only", "", True)
        else:
            yield document.problem(at, "missing key 'op'", "a node has an operator (op) or uses a block (use)")
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
            yield from _names(document, (*at, key), value, known, several=table[key].kind in ("ints", "axes"))
        elif value not in table[key].choices:
            message = f"expected one of {', '.join(table[key].choices)}, found {_found(value)}"
            yield document.problem((*at, key), message)
    for key, attribute in table.items():
        if attribute.required and key not in node:
            yield document.problem(at, f"missing attribute '{key}' of {op}")
    yield from _references(document, at, node, ("name", "weight"))
    yield from _phase(document, at, node)
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
    if kind in ("axis", "new axis"):
        return _axis(given, names, rank + (kind == "new axis"))
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
