"""Nodes of a workload file emitted in scopes of names: expressions, blocks, inputs, attributes, learned tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebmsim.errors import SpecError, suggest
from ebmsim.graph.axes import batched, shared
from ebmsim.graph.graph import Builder, Section
from ebmsim.graph.nodes import HELD, Path, attribute_value, attributes_of
from ebmsim.graph.operators.table import OPERATORS, ShapeError
from ebmsim.spec.expression import ExpressionError, evaluate
from ebmsim.spec.workload import Component, Workload

Scope = dict[str, int]

# What a file may ask for; beyond it, it is a mistake and would not end in reasonable time.
MOST_NODES = 200_000
_MOST_INSTANCES = 4096
_LARGEST_TENSOR = 10**15


class Emitter:
    """Emits lists of nodes for a number of chains; keeps the tensors they share: weights, and what stands outside."""

    def __init__(self, workload: Workload, chains: int) -> None:
        self.workload, self.file, self.document = workload, workload.file, workload.document
        self.chains = chains
        self.b = Builder()
        self.values: dict[str, Any] = dict(workload.parameters)
        self.weights: dict[str, int] = {}
        self.frozen: set[int] = set()
        self.outside: dict[str, list[int]] = {}
        self.sections: list[Section] = []
        self._mark = 0
        self._visited = 0
        self.sample, shape = next(iter(self.file.sampler.sample.items()))
        self.sample_shape = tuple(self.whole(s, ("sampler", "sample", self.sample)) for s in shape)
        self.rows = self.whole(self.file.sampler.rows, ("sampler", "rows"))

    # --- values and errors --------------------------------------------------------------------------------------

    def refuse(self, path: Path, message: str, hint: str = "") -> SpecError:
        """The located error to raise."""
        return SpecError([self.document.problem(path, message, hint)])

    def value(self, given: Any, path: Path, values: Mapping[str, Any] | None = None) -> Any:
        """An expression computed. Raises SpecError."""
        try:
            return evaluate(given, self.values if values is None else values)
        except ExpressionError as error:
            raise self.refuse(path, str(error), error.hint) from None

    def whole(self, given: Any, path: Path) -> int:
        value = self.value(given, path)
        if isinstance(value, (bool, str)) or value != int(value) or value < 0:
            raise self.refuse(path, f"expected a whole number, found {value!r}")
        return int(value)

    def condition(self, given: Any, path: Path, values: Mapping[str, Any] | None = None) -> bool:
        """A condition decided. Raises SpecError."""
        value = self.value(given, path, values)
        if not isinstance(value, bool):
            raise self.refuse(path, f"expected true or false, found {value!r}")
        return value

    def _visit(self, path: Path) -> None:
        """Account for one more node or turn of a loop."""
        self._visited += 1
        if self._visited > MOST_NODES:
            raise self.refuse(path, f"the workload has more than {MOST_NODES} nodes")

    # --- sections -----------------------------------------------------------------------------------------------

    def close(self, label: str, repeat: int) -> None:
        """The nodes since the last call are a section."""
        if len(self.b.nodes) > self._mark:
            self.sections.append(Section(label, repeat, self._mark, len(self.b.nodes)))
            self._mark = len(self.b.nodes)

    # --- nodes --------------------------------------------------------------------------------------------------

    def emit_nodes(
        self,
        nodes: Sequence[Mapping[str, Any]],
        path: Path,
        scope: Scope,
        values: Mapping[str, Any],
        owner: str,
        previous: int | None,
        frozen: bool = False,
        moment: str = "",
    ) -> int | None:
        """Emit a list of nodes in a scope of names; `owner` prefixes the keys of their weights.

        moment: `once` for those that run once alone, `later` for the others, which find the former in the scope.
        """
        counts: dict[str, int] = {}
        for index, node in enumerate(nodes):
            at = (*path, index)
            self._visit(at)
            if "each" in node:
                previous = self._each(node, at, scope, values, owner, previous)
                continue
            if "when" in node and not self.condition(node["when"], (*at, "when"), values):
                continue
            kind = str(node.get("op") or node.get("use"))
            counts[kind] = counts.get(kind, 0) + 1
            name = str(node.get("name") or f"{kind}{counts[kind]}")
            if moment and ("runs" in node) != (moment == "once"):
                previous = scope.get(name) if moment == "later" else None
                continue
            self.b.line = self.document.marks.get(at, (0, 0))[0]
            if "use" in node:
                previous = self._use(node, at, scope, values, f"{owner}.{name}", previous, frozen)
            else:
                previous = self._node(node, at, scope, values, f"{owner}.{name}", previous, frozen)
            scope[name] = previous
        return previous

    def _each(
        self,
        node: Mapping[str, Any],
        at: Path,
        scope: Scope,
        values: Mapping[str, Any],
        owner: str,
        previous: int | None,
    ) -> int | None:
        """Emit nodes once for every instance of a component; what they are named goes on to the next instance.

        A component's name is there the output of the instance at hand, or its only one.
        """
        name, components = node["each"], self.file.components
        launched, _, together = self.launches(name, components[name])
        if together > 1:
            raise self.refuse((*at, "each"), f"expected instances launched one after another, found {name} batched")
        for index in range(launched):
            found = {n: outputs for n, outputs in self.outside.items() if n in components and outputs}
            mine = {n: outputs[index] if index < len(outputs) else outputs[0] for n, outputs in found.items()}
            inner, named = {**scope, **mine}, {**values, "instance": index}
            previous = self.emit_nodes(node["do"], (*at, "do"), inner, named, f"{owner}.{name}", previous)
            scope.update({n: tensor for n, tensor in inner.items() if n not in components})
        return previous

    def _inputs(self, node: Mapping[str, Any], at: Path, scope: Scope, previous: int | None, most: int) -> list[int]:
        given = node.get("inputs")
        if given is None:
            if most == 0:
                return []
            if previous is None:
                raise self.refuse(at, "expected inputs: there is no node before this one")
            return [previous]
        names = given if isinstance(given, list) else [given]
        found = []
        for index, name in enumerate(names):
            if name not in scope:
                where = (*at, "inputs", index) if isinstance(given, list) else (*at, "inputs")
                if node.get("runs"):
                    message = f"expected what is there before the sampling loop, found '{name}'"
                    raise self.refuse(where, message, suggest(str(name), scope))
                raise self.refuse(where, f"no node or input called '{name}'", suggest(str(name), scope))
            found.append(scope[name])
        return found

    def _use(
        self,
        node: Mapping[str, Any],
        at: Path,
        scope: Scope,
        values: Mapping[str, Any],
        owner: str,
        previous: int | None,
        frozen: bool,
    ) -> int:
        block = self.file.blocks[node["use"]]
        inputs = self._inputs(node, at, scope, previous, len(block.inputs))
        if len(inputs) != len(block.inputs):
            raise self.refuse(at, f"expected {len(block.inputs)} inputs of block {node['use']}, found {len(inputs)}")
        arguments = {k: v for k, v in block.arguments.items() if v is not None}
        arguments |= {k: self.value(v, (*at, "with", k), values) for k, v in (node.get("with") or {}).items()}
        times = self.value(node.get("repeat", 1), (*at, "repeat"), values)
        if isinstance(times, (bool, str)) or times != int(times) or times < 0:
            raise self.refuse((*at, "repeat"), f"expected a whole number, found {times!r}")
        if times > MOST_NODES:
            raise self.refuse((*at, "repeat"), f"expected at most {MOST_NODES}, found {times}")
        if not inputs and times != 1:
            raise self.refuse((*at, "repeat"), f"expected a block with inputs to repeat, found {node['use']}")
        fed = inputs[:1]
        for turn in range(int(times)):
            inner: Scope = dict(zip(block.inputs, [*fed, *inputs[1:]], strict=True))
            key = owner if times == 1 else f"{owner}{turn}"
            path = ("blocks", node["use"], "nodes")
            first = fed[0] if fed else None
            within = {**values, **arguments, "turn": turn}
            last = self.emit_nodes(block.nodes, path, inner, within, key, first, frozen)
            fed = [self.output(block.output, inner, last, ("blocks", node["use"], "output"))]
        return fed[0]

    def output(self, name: str, scope: Scope, last: int | None, path: Path) -> int:
        """The tensor a list of nodes yields: the named one, or the last. Raises SpecError."""
        if not name:
            if last is None:
                raise self.refuse(path[:-1], "expected at least one node that runs")
            return last
        if name not in scope:
            raise self.refuse(path, f"no node called '{name}'", suggest(name, scope))
        return scope[name]

    def _node(
        self,
        node: Mapping[str, Any],
        at: Path,
        scope: Scope,
        values: Mapping[str, Any],
        owner: str,
        previous: int | None,
        frozen: bool,
    ) -> int:
        op = node["op"]
        held = op in HELD
        inputs = [] if held else self._inputs(node, at, scope, previous, OPERATORS[op].most)
        tensors = self.b.tensors
        chain = any(tensors[i].chain_axis for i in inputs)
        rank = len(tensors[inputs[0]].shape) - (1 if inputs and tensors[inputs[0]].chain_axis else 0) if inputs else 0
        attributes: dict[str, Any] = {}
        for key, attribute in attributes_of(op).items():
            if key not in node and not attribute.required:
                given = attribute.default
                attributes[key] = given - rank if attribute.kind == "axis" and given >= 0 else given
                continue
            try:
                attributes[key] = attribute_value(attribute, node[key], values, rank)
            except ExpressionError as error:
                raise self.refuse((*at, key), str(error), error.hint) from None
            except ValueError as error:
                raise self.refuse((*at, key), str(error)) from None
        if held:
            return self._held(owner, attributes["shape"], "weight" if op == "parameter" else "buffer", frozen)
        operator = OPERATORS[op]
        if not operator.least <= len(inputs) <= operator.most:
            wanted = f"{operator.least}" if operator.least == operator.most else f"at least {operator.least}"
            raise self.refuse(at, f"expected {wanted} inputs of {op}, found {len(inputs)}")
        if operator.most == 0 or (op in ("reshape", "expand") and chain):
            rows = tensors[inputs[0]].shape[0] if inputs else self.chains
            attributes["shape"] = (rows, *attributes["shape"])
        if op == "concat" and chain:
            inputs = shared(self.b, inputs)
        lead: tuple[int, ...] = ()
        if operator.category == "convolution":
            inputs, lead = batched(self.b, inputs, 3 if op.endswith("2d") else 2)
        if "shared" in attributes:
            indexed, index = (tensors[i].chain_axis for i in inputs[:2])
            attributes["shared"] += indexed and index
            if index and not indexed and attributes["axis"] != -rank:
                message = "expected axis 0: the index has a chain axis, which comes first, and what it indexes has none"
                raise self.refuse((*at, "axis") if "axis" in node else at, message)
        ranks = {len(tensors[i].shape) for i in inputs if tensors[i].chain_axis}
        if operator.category == "elementwise" and len(ranks) > 1:
            shown = " and ".join(str(list(tensors[i].shape[1:])) for i in inputs if tensors[i].chain_axis)
            raise self.refuse(at, f"expected inputs with equally many axes per chain, found {shown}")
        weights = []
        try:
            for parameter in operator.parameters:
                shape = parameter.shape([tensors[i].shape for i in inputs], attributes)
                if shape is None:
                    continue
                if parameter.name == "weight" and "weight" in node:
                    weights += self._inputs({"inputs": node["weight"]}, (*at, "weight"), scope, None, 1)
                else:
                    weights.append(self._held(f"{owner}.{parameter.name}", shape, parameter.role, frozen))
            kept = {k: v for k, v in attributes.items() if k != "affine"}
            phase = self._phase(node, operator.category)
            with self.b.at(phase=phase):
                outputs = self.b.emit_all(op, (*inputs, *weights), owner, **kept)
                if lead:
                    shape = (*lead, *self.b.shape(outputs[0])[1:])
                    outputs = (self.b.emit("reshape", outputs[0], shape=shape),)
            output = outputs[0]
            if op == "split":
                name = owner.rpartition(".")[2]
                scope.update({f"{name}.{part}": tensor for part, tensor in enumerate(outputs)})
            if tensors[output].elements > _LARGEST_TENSOR:
                raise self.refuse(at, f"expected at most 1e15 elements, found {tensors[output].elements:.3g}")
            return output
        except ShapeError as error:
            raise self.refuse(at, f"{op}: {error}") from None
        except IndexError:
            shown = " and ".join(str(list(tensors[i].shape)) for i in inputs)
            raise self.refuse(at, f"{op}: expected inputs of more axes, found {shown}") from None

    def _phase(self, node: Mapping[str, Any], category: str) -> str:
        if "phase" in node:
            return str(node["phase"])
        if self.b.phase != "update":
            return self.b.phase
        return {"rng": "rng", "host": "host"}.get(category, "update")

    def _held(self, key: str, shape: Sequence[int], role: str, frozen: bool) -> int:
        if key not in self.weights:
            tensor = self.b.tensor(tuple(shape), role, key, chain_axis=False)
            self.weights[key] = tensor
            if frozen or role == "buffer":
                self.frozen.add(tensor)
        return self.weights[key]

    # --- instances ----------------------------------------------------------------------------------------------

    def instances(self, name: str, component: Component) -> int:
        """How many instances of a component run; 0 when its condition does not hold."""
        if not self.condition(component.when, ("components", name, "when")):
            return 0
        path = ("components", name, "instances")
        count = self.whole(component.instances, path)
        if count > _MOST_INSTANCES:
            raise self.refuse(path, f"expected at most {_MOST_INSTANCES} instances, found {count}")
        return count

    def launches(self, name: str, component: Component) -> tuple[int, int, int]:
        """Launches of a component, rows per chain in each, and instances that these rows are of."""
        count = self.instances(name, component)
        rows = self.whole(component.rows, ("components", name, "rows"))
        if component.launch == "batched" and component.weights == "shared" and count:
            return 1, rows * count, count
        return count, rows, 1
