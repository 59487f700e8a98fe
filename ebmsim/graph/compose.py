"""From a workload to its graphs: components instantiated and wired, the sampling program walked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.graph.axes import batched, shared
from ebmsim.graph.combine import combination, combined, energies
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.graph import Builder, Program, Section
from ebmsim.graph.nodes import HELD, Path, attribute_value, attributes_of, check_nodes
from ebmsim.graph.operators.table import OPERATORS, ShapeError
from ebmsim.spec.expression import ExpressionError, evaluate
from ebmsim.spec.workload import Component, Workload, sampler_program

Scope = dict[str, int]

# What a file may ask for; beyond it, it is a mistake and would not end in reasonable time.
_MOST_NODES = 200_000
_MOST_INSTANCES = 4096
_LARGEST_TENSOR = 10**15


class Composer:
    """Emits a workload's nodes for a number of chains (the size of the chain axis)."""

    def __init__(self, workload: Workload, chains: int) -> None:
        self.workload, self.file, self.document = workload, workload.file, workload.document
        self.chains = chains
        self.b = Builder()
        self.values: dict[str, Any] = dict(workload.parameters)
        self.weights: dict[str, int] = {}
        self.frozen: set[int] = set()
        self.outside: dict[str, list[int]] = {}
        self.kept: dict[tuple[str, int], Scope] = {}
        self.sections: list[Section] = []
        self._mark = 0
        self._visited = 0
        self._body: Sequence[Mapping[str, Any]] = ()
        self._after: Scope = {}
        self.sample, shape = next(iter(self.file.sampler.sample.items()))
        self.sample_shape = tuple(self._int(s, ("sampler", "sample", self.sample)) for s in shape)
        self.rows = self._int(self.file.sampler.rows, ("sampler", "rows"))

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

    def _int(self, given: Any, path: Path) -> int:
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
        if self._visited > _MOST_NODES:
            raise self.refuse(path, f"the workload has more than {_MOST_NODES} nodes")

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
        if times > _MOST_NODES:
            raise self.refuse((*at, "repeat"), f"expected at most {_MOST_NODES}, found {times}")
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

    # --- components ---------------------------------------------------------------------------------------------

    def instances(self, name: str, component: Component) -> int:
        """How many instances of a component run; 0 when its condition does not hold."""
        if not self.condition(component.when, ("components", name, "when")):
            return 0
        path = ("components", name, "instances")
        count = self._int(component.instances, path)
        if count > _MOST_INSTANCES:
            raise self.refuse(path, f"expected at most {_MOST_INSTANCES} instances, found {count}")
        return count

    def prepare(self, rows: int = 1, training: bool = False) -> None:
        """Inputs copied from the host and components that run once: the beginning of an inference.

        `rows`: rows of a chain in inputs that have them. Inputs for components of training alone are copied there only.
        """
        with self.b.at(phase="once", branch=""):
            for name, spec in self.file.inputs.items():
                if not self.condition(spec.when, ("inputs", name, "when")):
                    continue
                readers = {c.runs for c in self.file.components.values() if name in c.inputs.values()}
                if readers == {"training"} and not training:
                    continue
                shape = tuple(self._int(s, ("inputs", name, "shape")) for s in spec.shape)
                full = (self.chains * (rows if spec.row_axis else 1), *shape) if spec.chain_axis else shape
                source = self.b.tensor(full, "input", name, spec.kind, spec.chain_axis)
                self.b.line = self.document.marks.get(("inputs", name), (0, 0))[0]
                copied = self.b.emit("to_device", source, name=name)
                self.b.tensors[copied] = self.b.tensors[copied]._replace(kind=spec.kind)
                self.outside[name] = [copied]
            self.run("once", None)
            for name, component in self.file.components.items():
                if component.runs != "once" and any("runs" in node for node in component.nodes):
                    for index in range(self.launches(name, component)[0]):
                        with self.b.at(branch=f"{name}[{index}]"):
                            self.kept[name, index], *_ = self._nodes_of(name, component, index, None, "once")
        self.close("once", 1)

    def launches(self, name: str, component: Component) -> tuple[int, int, int]:
        """Launches of a component, rows per chain in each, and instances that these rows are of."""
        count = self.instances(name, component)
        rows = self._int(component.rows, ("components", name, "rows"))
        if component.launch == "batched" and component.weights == "shared" and count:
            return 1, rows * count, count
        return count, rows, 1

    def run(self, when: str, sample: int | None, only: Sequence[str] = ("encoder",)) -> list[tuple[str, int]]:
        """Emit all components of a kind that run at this moment; returns (component, output) per instance."""
        outputs: list[tuple[str, int]] = []
        for name, component in self.file.components.items():
            if component.runs != when or component.role not in only:
                continue
            count, _, _ = self.launches(name, component)
            results = [self._instance(name, component, index, sample) for index in range(count)]
            self.outside[name] = results
            outputs += [(name, result) for result in results]
        return outputs

    def _instance(self, name: str, component: Component, index: int, sample: int | None) -> int:
        """Emit one instance, but for what it keeps from before the loop, and return its output."""
        with self.b.at(branch=f"{name}[{index}]"):
            scope, last, chains = self._nodes_of(name, component, index, sample, "later")
            result = self.output(component.output, scope, last, ("components", name, "output"))
            if component.role == "energy":
                _, rows, together = self.launches(name, component)
                result = energies(self, name, result, chains, rows, together if combination(self) else 1)
            return result

    def _nodes_of(
        self, name: str, component: Component, index: int, sample: int | None, moment: str
    ) -> tuple[Scope, int | None, int]:
        """Emit nodes of an instance; returns the names in its scope, the last tensor, and rows of the batch it read."""
        owner = f"{name}[{index}]" if component.weights == "distinct" and index > 0 else name
        _, rows, _ = self.launches(name, component)
        read = {
            local: self._source(name, local, source, index, sample)
            for local, source in component.inputs.items()
            if not (self.absent(source) or (moment == "once" and source not in self.outside))
        }
        # As many as the input with most, and each of them as often as the component says.
        widest = max([self.b.shape(t)[0] for t in read.values() if self.b.tensors[t].chain_axis], default=self.chains)
        scope: Scope = {local: self._rows(t, widest * rows) for local, t in read.items()}
        first = next(iter(scope.values()), None)
        if (name, index) in self.kept:
            scope = {**self.kept[name, index], **scope}
        values = {**self.values, "instance": index}
        path = ("components", name, "nodes")
        frozen = not component.trained
        return scope, self.emit_nodes(component.nodes, path, scope, values, owner, first, frozen, moment), widest

    def absent(self, source: str) -> bool:
        """Whether a source is declared but its condition does not hold; nodes that read it must not run either."""
        for kind, declared in (("inputs", self.file.inputs), ("components", self.file.components)):
            if source in declared and not self.condition(declared[source].when, (kind, source, "when")):
                return True
        return False

    def _source(self, name: str, local: str, source: str, index: int, sample: int | None) -> int:
        if source == self.sample and sample is not None:
            return sample
        found = self.outside.get(source)
        if not found:
            known = [self.sample, *self.outside]
            raise self.refuse(
                ("components", name, "inputs", local),
                f"no sample, input or component '{source}'",
                suggest(source, known),
            )
        return found[index] if index < len(found) else found[0]

    def _rows(self, tensor: int, rows: int) -> int:
        """A tensor with its chain axis spread out to so many rows."""
        t = self.b.tensors[tensor]
        if not t.chain_axis or t.shape[0] == rows:
            return tensor
        c, *rest = t.shape
        times = rows // c
        wide = self.b.emit("expand", self.b.emit("reshape", tensor, shape=(c, 1, *rest)), shape=(c, times, *rest))
        return self.b.emit("reshape", self.b.emit("copy", wide, name="rows"), shape=(rows, *rest))

    # --- evaluations --------------------------------------------------------------------------------------------

    def energy(self, sample: int, phase: str = "forward") -> int:
        """Evaluate every energy component at a sample, and combine what they give.

        A sample with an axis more than a chain's has rows: each is a row of the batch, and so is what comes out.
        """
        with self.b.at(phase=phase):
            lead = self._lead(sample)
            if len(lead) > 1:
                sample = self.b.emit("reshape", sample, shape=(math.prod(lead), *self.sample_shape))
            early = [n for n, c in self.file.components.items() if c.runs == "every-step" and n not in self.outside]
            if early:
                # Outside the sampling loop: in training, or the first gradient of a sampler that caches it.
                self.run("every-step", sample)
            self.run("every-evaluation", sample)
            outputs = self.run("every-evaluation", sample, only=("energy", "score"))
            if not outputs:
                raise self.refuse(("components",), "expected at least one component with role energy or score")
            total = combined(self, outputs)
            found = self.b.shape(total)[0]
            if found != math.prod(lead):
                message = f"expected as many rows of a sample as its inputs have, {found // self.chains}, found 1"
                raise self.refuse(("sampler",), message)
            if len(lead) > 1:
                total = self.b.emit("reshape", total, shape=(*lead, *self.b.shape(total)[1:]))
        return total

    def _lead(self, sample: int) -> tuple[int, ...]:
        """The axes of a sample before those of one chain: the chains and, where it has them, the rows of each."""
        shape = self.b.shape(sample)
        cut = len(shape) - len(self.sample_shape)
        return shape[:2] if cut == 2 and shape[2:] == self.sample_shape else shape[:1]

    def scores(self) -> bool:
        """Whether what runs gives the gradient itself, with no energy to differentiate."""
        return not any(c.role == "energy" and self.instances(name, c) for name, c in self.file.components.items())

    def gradient(self, sample: int) -> tuple[int, int]:
        """Energy and its gradient with respect to the sample."""
        since = len(self.b.nodes)
        total = self.energy(sample)
        if self.scores():
            return total, total
        grads = differentiate(self.b, [total], [sample], phase="backward-input", since=since)
        if sample not in grads:
            raise self.refuse(("components",), "no energy depends on the sample")
        return total, grads[sample]

    # --- the sampling program -----------------------------------------------------------------------------------

    def walk(self, nodes: Sequence[Mapping[str, Any]], path: Path, scope: Scope, repeat: int, in_step: bool) -> int:
        """Emit a program; returns the number of steps counted in it."""
        steps = 0
        for index, node in enumerate(nodes):
            at = (*path, index)
            if "loop" in node:
                count = self._int(node["loop"], (*at, "loop"))
                if count == 0:
                    continue
                labelled = node.get("label") == "step"
                if labelled and not in_step and self._again(node, at, scope, count * repeat):
                    steps += count * repeat
                    continue
                if labelled or in_step:
                    if not in_step:
                        self.close("once", repeat)
                        with self.b.at(phase="forward"):
                            self.run("every-step", scope[self.sample])
                    if in_step and count > _MOST_NODES:
                        raise self.refuse((*at, "loop"), f"expected at most {_MOST_NODES}, found {count}")
                    for _ in range(count if in_step else 1):
                        self._visit(at)
                        self.walk(node["do"], (*at, "do"), scope, repeat, True)
                    if not in_step:
                        steps += count * repeat
                        self.close("step", count * repeat)
                        self._body, self._after = node["do"], dict(scope)
                else:
                    self.close("once", repeat)
                    steps += self.walk(node["do"], (*at, "do"), scope, repeat * count, False)
                    self.close("once", repeat * count)
            elif "evaluate" in node:
                self._evaluate(node, at, scope)
            else:
                with self.b.at(phase="update", branch=""):
                    last = self.emit_nodes([node], at, scope, self.values, "sampler", None)
                    if node.get("name") and last is not None:
                        scope[node["name"]] = last
        return steps

    def _again(self, node: Mapping[str, Any], at: Path, scope: Scope, repeat: int) -> bool:
        """Whether a loop labelled step goes on with the steps of an earlier one; they are then counted there."""
        for i, section in enumerate(self.sections):
            if section.label == "step":
                if node["do"] != self._body:
                    raise self.refuse((*at, "do"), "expected the nodes of the first loop labelled step, found others")
                self.sections[i] = section._replace(repeat=section.repeat + repeat)
                scope.update(self._after)
                return True
        return False

    def _evaluate(self, node: Mapping[str, Any], at: Path, scope: Scope) -> None:
        self.b.line = self.document.marks.get(at, (0, 0))[0]
        sample = self._inputs({"inputs": node.get("at", self.sample)}, (*at, "at"), scope, None, 1)[0]
        _, *rows = self._lead(sample)
        if rows and rows != [self.rows]:
            raise self.refuse((*at, "at"), f"expected {self.rows} rows, as the sampler's rows say, found {rows[0]}")
        name = str(node.get("name", node["evaluate"]))
        if node["evaluate"] == "gradient":
            energy, scope[name] = self.gradient(sample)
            scope[str(node.get("energy", "energy"))] = energy
        else:
            scope[name] = self.energy(sample, str(node.get("phase", "forward")))

    def decode(self, sample: int) -> None:
        """Emit the decoders on what the sampler leaves."""
        with self.b.at(phase="once", branch=""):
            self.run("once", sample, only=("decoder",))

    def program(self) -> Program:
        """The whole inference of one launch. Raises SpecError."""
        self.prepare(self.rows)
        nodes, path = sampler_program(self.file)
        start = self.b.tensor((self.chains, *self.sample_shape), "sample", self.sample)
        scope: Scope = {self.sample: start, **{k: v[0] for k, v in self.outside.items() if v}}
        steps = self.walk(nodes, path, scope, 1, False)
        self.decode(scope[self.sample])
        self.close("once", 1)
        shapes = [list(self.b.shape(t)[1:]) for t in (start, scope[self.sample])]
        if shapes[0] != shapes[1]:
            raise self.refuse(path, f"expected {self.sample} to keep the shape {shapes[0]}, found {shapes[1]}")
        wanted = self.workload.setting("steps")
        if steps != wanted:
            raise self.refuse(path, f"expected loops labelled step to run steps = {wanted} times in all, found {steps}")
        return Program(
            self.b.graph((scope[self.sample],)), tuple(self.sections), dict(self.weights), frozenset(self.frozen)
        )


def compose(workload: Workload, chains: int) -> Program:
    """The graph of one inference with `chains` chains on the chain axis. Raises SpecError with located problems."""
    return Composer(workload, chains).program()


def check_workload(workload: Workload) -> list[Problem]:
    """Every problem of a workload's nodes and graphs, in the file's own default or given settings."""
    problems = check_nodes(workload.document, workload.file)
    if problems:
        return problems
    try:
        compose(workload, 1)
    except SpecError as error:
        return list(error.problems)
    return []
