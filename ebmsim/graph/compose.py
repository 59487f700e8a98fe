"""From a workload to its graphs: the sampling program walked, with its components inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ebmsim.errors import Problem, SpecError
from ebmsim.graph.emitter import MOST_NODES, Scope
from ebmsim.graph.graph import Program
from ebmsim.graph.instances import Instances
from ebmsim.graph.nodes import Path, check_nodes
from ebmsim.spec.workload import Workload, sampler_program


class Composer(Instances):
    """Emits a workload's nodes for a number of chains (the size of the chain axis)."""

    def __init__(self, workload: Workload, chains: int) -> None:
        super().__init__(workload, chains)
        self._body: Sequence[Mapping[str, Any]] = ()
        self._after: Scope = {}

    def walk(self, nodes: Sequence[Mapping[str, Any]], path: Path, scope: Scope, repeat: int, in_step: bool) -> int:
        """Emit a program; returns the number of steps counted in it."""
        steps = 0
        for index, node in enumerate(nodes):
            at = (*path, index)
            if "loop" in node:
                count = self.whole(node["loop"], (*at, "loop"))
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
                    if in_step and count > MOST_NODES:
                        raise self.refuse((*at, "loop"), f"expected at most {MOST_NODES}, found {count}")
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
            else:
                self._single(node, at, scope)
        return steps

    def _single(self, node: Mapping[str, Any], at: Path, scope: Scope) -> None:
        """Emit an evaluation or a node of the program."""
        if "evaluate" in node:
            self._evaluate(node, at, scope)
            return
        with self.b.at(phase="update", branch=""):
            last = self.emit_nodes([node], at, scope, self.values, "sampler", None)
            if node.get("name") and last is not None:
                scope[node["name"]] = last

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

    def unroll(self, sample: int, count: int) -> tuple[Scope, int]:
        """Emit so many steps of the sampler from a sample; the names after them, and the first of their nodes.

        What the program does before its steps comes first, so that they find its names.
        """
        nodes, path = sampler_program(self.file)
        scope: Scope = {self.sample: sample, **{k: v[0] for k, v in self.outside.items() if v}}
        body, at = self._steps_of(nodes, path, scope)
        first = len(self.b.nodes)
        scope[self.sample] = sample
        for _ in range(count):
            with self.b.at(phase="forward"):
                self.run("every-step", scope[self.sample])
            self.walk(body, at, scope, 1, True)
        return scope, first

    def _steps_of(self, nodes: Sequence[Mapping[str, Any]], path: Path, scope: Scope) -> tuple[Any, Path]:
        """The body of the first loop labelled step and its path; what stands before it is emitted on the way."""
        for index, node in enumerate(nodes):
            at = (*path, index)
            if "loop" not in node:
                self._single(node, at, scope)
            elif self.whole(node["loop"], (*at, "loop")) > 0:
                inside = (*at, "do")
                if node.get("label") == "step":
                    return node["do"], inside
                body, found = self._steps_of(node["do"], inside, scope)
                if found:
                    return body, found
        return [], ()

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
            self.b.graph((scope[self.sample],)),
            tuple(self.sections),
            dict(self.weights),
            frozenset(self.frozen),
            tuple(self.evaluations),
        )


def compose(workload: Workload, chains: int) -> Program:
    """The graph of one inference with `chains` chains on the chain axis. Raises SpecError with located problems."""
    problems = check_nodes(workload.document, workload.file)
    if problems:
        raise SpecError(problems)
    return Composer(workload, chains).program()


def check_workload(workload: Workload) -> list[Problem]:
    """Every problem of a workload's nodes and graphs, in the file's own default or given settings."""
    try:
        compose(workload, 1)
    except SpecError as error:
        return list(error.problems)
    return []
