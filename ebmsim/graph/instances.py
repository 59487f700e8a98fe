"""Instances of components, wired and emitted, and what they give: an energy or score, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ebmsim.errors import suggest
from ebmsim.graph.combine import combination, combined, energies
from ebmsim.graph.differentiate import differentiate
from ebmsim.graph.emitter import Emitter, Scope
from ebmsim.graph.graph import Evaluation
from ebmsim.spec.workload import Component, Workload


class Instances(Emitter):
    """Emits components: what runs once, and evaluations at a sample."""

    def __init__(self, workload: Workload, chains: int) -> None:
        super().__init__(workload, chains)
        # What an instance computed before the sampling loop.
        self.kept: dict[tuple[str, int], Scope] = {}
        self.evaluations: list[Evaluation] = []

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
                shape = tuple(self.whole(s, ("inputs", name, "shape")) for s in spec.shape)
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
        first = len(self.b.nodes)
        grads = differentiate(self.b, [total], [sample], phase="backward-input", since=since)
        if sample not in grads:
            raise self.refuse(("components",), "no energy depends on the sample")
        self.evaluations.append(Evaluation(total, sample, grads[sample], since, first, len(self.b.nodes)))
        return total, grads[sample]
