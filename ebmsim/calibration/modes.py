"""A sampling step executed as a whole: compiled by torch.compile, or recorded as a CUDA graph and replayed.

Its phases cannot be told apart any more.
"""

from __future__ import annotations

import os
import shutil
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ebmsim.calibration.actions import Values
from ebmsim.calibration.execute import Runs, Step, defaults, now
from ebmsim.errors import EbmsimError
from ebmsim.policy import Policy
from ebmsim.spec.workload import Workload

EXECUTIONS = ("eager", "compiled", "graph")
# Runs of a step before it is recorded, in which libraries choose and set up what they use.
_WARM_UPS = 3
# Steps run one after another between two looks at the clock: on a GPU the host runs ahead, as in a long run.
_TURNS = {"cpu": 1, "cuda": 10}


def step_of(workload: Workload, device: str, policy: Policy) -> Runs:
    """A workload's step as a policy executes it. Raises what Step raises, EbmsimError where torch cannot compile it."""
    if policy.execution == "compiled":
        return Compiled(workload, device, policy.dtype)
    step = Step(workload, device, policy.dtype, streams=policy.streams)
    return Replayed(step) if policy.execution == "graph" else step


class Compiled:
    """A step compiled as one function of all it reads: forwards, gradients, noise and update together.

    Arguments and errors are those of Step; EbmsimError in one line where torch.compile fails. Compiling takes seconds
    to minutes.
    """

    def __init__(self, workload: Workload, device: str = "cpu", dtype: str = "fp32", seed: int = 0) -> None:
        step = Step(workload, device, dtype, seed, keep=True)
        self.host_seconds = step.host_seconds
        self.device, self.dtype, self.values = device, step.dtype, step.values
        self.results = results(step)
        compiler: Any = torch.compile
        try:
            with defaults(self.dtype), warnings.catch_warnings():
                # Of what torch itself still uses.
                warnings.simplefilter("ignore", DeprecationWarning)
                self.function = compiler(self._traced(step), fullgraph=True, dynamic=False)
                self.function(self.values)
        except RuntimeError as error:
            said = (str(getattr(error, "inner_exception", error)).strip() or type(error).__name__).splitlines()[0]
            raise EbmsimError(f"torch.compile cannot compile a step of {workload.name}: {said}") from error

    def _traced(self, step: Step) -> Any:
        """What torch runs in a step, gradients included, as operators of one function."""
        from torch.fx.experimental.proxy_tensor import make_fx

        def whole(values: Values) -> list[Tensor]:
            after = step.act(values)
            return [after[t].detach() for t in self.results]

        return make_fx(whole)(self.values)

    def act(self) -> dict[int, Tensor]:
        """Run one step, untimed. Returns what nothing in it reads, by tensor number: the next sample among it."""
        with defaults(self.dtype):
            return dict(zip(self.results, self.function(self.values), strict=True))

    def run(self) -> dict[str, float]:
        """Seconds of one step in a row of them, as `step`."""
        turns = _TURNS[self.device]
        with defaults(self.dtype):
            start = now(self.device)
            for _ in range(turns):
                self.function(self.values)
            return {"step": (now(self.device) - start) / turns}


class Replayed:
    """A step recorded once as a CUDA graph, all streams in it, and replayed. Needs CUDA."""

    def __init__(self, step: Step) -> None:
        cuda: Any = torch.cuda  # without types
        self.device, self.host_seconds = step.device, step.host_seconds
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            for _ in range(_WARM_UPS):
                step.act(step.values)
        cuda.current_stream().wait_stream(aside)
        self.graph = cuda.CUDAGraph()
        with cuda.graph(self.graph):
            # What it writes lives as long as the graph.
            self.kept = step.act(step.values)

    def run(self) -> dict[str, float]:
        """Seconds of one step in a row of them, as `step`."""
        turns = _TURNS[self.device]
        start = now(self.device)
        for _ in range(turns):
            self.graph.replay()
        return {"step": (now(self.device) - start) / turns}


def results(step: Step) -> tuple[int, ...]:
    """What a step is run for: tensors that outlive it, or that nothing in it reads.

    They outlive it where the next step or what follows the loop reads them. The next step reads what has a name that is
    there before the first one: the last of that name, the sample's among them, and of energies and gradients.
    """
    program, inside = step.program, [unit.node for unit in step.units]
    nodes, tensors = program.graph.nodes, program.graph.tensors
    first, last = min(inside), max(inside)
    names = {nodes[i].name for i in range(first)} | {f"sampler.{t.name}" for t in tensors if t.role == "sample"}
    latest = {nodes[i].name: nodes[i].outputs for i in inside if nodes[i].name.startswith("sampler.")}
    outlive = {t for name in names & latest.keys() for t in latest[name]}
    outlive |= {t for node in nodes[last + 1 :] for t in node.inputs} | set(program.graph.results)
    evaluations = program.evaluations
    if evaluations and evaluations[0].since < first <= evaluations[-1].since:
        outlive |= {evaluations[-1].energy, evaluations[-1].gradient}
    read = {t for unit in step.units for t in unit.reads}
    after = step.act(step.values)
    made = dict.fromkeys(t for unit in step.units for t in unit.writes if t in outlive or t not in read)
    return tuple(t for t in made if isinstance(after[t], Tensor))


def missing_compiler(device: str) -> str:
    """What torch.compile lacks on this machine, "" where it lacks nothing that can be seen."""
    if device == "cuda":
        return "" if find_spec("triton") else "torch.compile needs the package triton"
    compiler = os.environ.get("CXX", "g++")
    return "" if shutil.which(compiler) else f"torch.compile needs a C++ compiler, and there is no {compiler}"
