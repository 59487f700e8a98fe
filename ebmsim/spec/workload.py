"""The grammar of a workload file, and a workload with its parameters settled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.spec.expression import ExpressionError, evaluate, free_names
from ebmsim.spec.located import Document
from ebmsim.spec.problems import located
from ebmsim.spec.samplers import PRESET_SETTINGS, PRESETS

Value = int | float | bool | str
Expr = int | float | bool | str
Term = Literal["contrastive", "denoising", "kl", "unrolled"]

COMPOSITIONALITY = ("mono", "homo-ds", "homo-dw", "hetero")
DEPENDENCY = ("sequential", "fully-parallel", "mixed-parallel")
_STAND_IN = {"op": "copy"}
SETTINGS = ("chains", "steps", "training_steps", "training_batch", "iterations")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Paper(_Model):
    """Where the workload comes from."""

    title: str = Field(description="title of the paper")
    reference: str = Field("", description="number in the reference list of the characterisation paper")
    year: int = Field(description="year of publication")
    arxiv: str = Field("", description="arXiv number")
    code: str = Field("", description="repository and commit the facts were read in")


class PublishedTags(_Model):
    """The tags as the characterisation paper prints them, and the rest of its row of Table II."""

    compositionality: Literal["mono", "homo", "homo-ds", "homo-dw", "hetero"] = Field(description="as printed")
    dependency: Literal["sequential", "fully-parallel", "mixed-parallel"] = Field(description="as printed")
    work: str = Field("", description="name in Table II")
    year: int | None = Field(None, description="year in Table II, where it is not that of the publication")
    models: str = Field("", description="models in Table II")
    sampler: str = Field("", description="MCMC method in Table II")
    tasks: str = Field("", description="tasks in Table II")


class Baseline(_Model):
    """What a conventional model stands beside: the energy-based one whose latency is compared with its own."""

    of: str = Field(description="workload it is compared with")
    task: str = Field(description="task in Table I")
    documented: bool = Field(description="whether the comparison's own model is documented; else it is a stand-in")
    text: str = Field(description="which model this is, and why it stands here")


class Taxonomy(_Model):
    """Declared tags; a difference from what is derived from the graph needs a reason."""

    compositionality: Literal["mono", "homo-ds", "homo-dw", "hetero"] = Field(
        description="one network; several of one architecture with their own or with shared weights; of several"
    )
    dependency: Literal["sequential", "fully-parallel", "mixed-parallel"] = Field(
        description="whether every two networks depend on each other, no two do, or some"
    )
    paper: PublishedTags | None = Field(None, description="the row of Table II of the characterisation paper")
    reason: str = Field("", description="why a declared tag differs from the derived one")


class Parameter(_Model):
    """A parameter of the workload: default, meaning, and what it may be."""

    default: Expr = Field(description="its value where neither preset nor option gives another")
    text: str = Field("", description="what it means")
    choices: list[Expr] = Field(default_factory=list, description="the values it may take")
    least: float | None = Field(None, description="smallest value it may take")


class Input(_Model):
    """A tensor given from outside: conditioning, labels, time steps."""

    shape: list[Expr] = Field(default_factory=list, description="shape, without the chain axis")
    chain_axis: bool = Field(True, description="whether every chain has its own")
    row_axis: bool = Field(False, description="whether every row of a chain has its own (rows of the sampler)")
    kind: Literal["float", "index"] = Field("float", description="numbers, or indices of rows and classes")
    when: Expr = Field(True, description="condition under which it is there")


class Block(_Model):
    """A sequence of nodes with arguments, to be used by name."""

    arguments: dict[str, Expr | None] = Field(default_factory=dict, description="names, with defaults or null")
    inputs: list[str] = Field(default_factory=lambda: ["x"], description="names of its input tensors")
    nodes: list[dict[str, Any]] = Field(description="its operators, and blocks within it")
    output: str = Field("", description="the node it yields; the last one if not given")


class Component(_Model):
    """A network of the workload: a forward graph, how often it stands, and when it runs."""

    role: Literal["energy", "score", "encoder", "decoder"] = Field(
        description="energy is differentiated, score is not; a decoder runs once, on the sample that the sampler leaves"
    )
    inputs: dict[str, str] = Field(description="its names for the sample, inputs and outputs of components")
    nodes: list[dict[str, Any]] = Field(description="its forward graph: operators and blocks, in order")
    output: str = Field("", description="the node it yields; the last one if not given")
    instances: Expr = Field(1, description="number of instances")
    weights: Literal["shared", "distinct"] = Field("shared", description="whether instances have weights of their own")
    launch: Literal["looped", "batched"] = Field("looped", description="instances one after another, or as rows")
    rows: Expr = Field(1, description="rows per chain (guidance, particles, candidates)")
    runs: Literal["every-evaluation", "every-step", "once", "training"] = Field(
        "every-evaluation", description="when: with every evaluation, once a step, once per inference, in training only"
    )
    trained: bool = Field(True, description="whether training updates its weights")
    unused_parameters: Expr = Field(0, description="parameters allocated but not used")
    when: Expr = Field(True, description="condition under which it is there")
    text: str = Field("", description="what it is")


class Sampler(_Model):
    """The sampling program: nodes, evaluations and counted loops; the loop labelled `step` runs K times in all."""

    sample: dict[str, list[Expr]] = Field(description="name and shape of the sample, without the chain axis")
    preset: Literal["langevin", "mala", "hmc", "gradient-descent", "annealed-langevin"] | None = Field(
        None, description="a sampler by name, in place of a program"
    )
    rows: Expr = Field(1, description="rows of a chain that a program may evaluate at once (guidance, particles)")
    settings: dict[str, Expr] = Field(default_factory=dict, description="constants of the preset")
    program: list[dict[str, Any]] | None = Field(None, description="nodes, evaluations and loops, in order")
    text: str = Field("", description="what it does")


class Combination(_Model):
    """How the outputs of the components become one; without it, or where `when` does not hold, they are added up."""

    nodes: list[dict[str, Any]] = Field(
        description="they read outputs by component, its instances on the first axis, or each by itself"
    )
    output: str = Field("", description="the node it yields; the last one if not given")
    when: Expr = Field(True, description="condition under which it combines")
    text: str = Field("", description="what it computes")


class Unrolled(_Model):
    """Training through the sampler: a loss on the sample after steps that are differentiated with it."""

    steps: Expr = Field(1, description="steps, the last of the K_t, that the gradient goes back through")
    times: Expr = Field(1, description="how often in an iteration: a loss after every step takes K_t times one step")
    loss: list[dict[str, Any]] = Field(
        default_factory=list, description="nodes that read the sample and inputs; squares of what the data lack if none"
    )


class Training(_Model):
    """What a training iteration does besides sampling K_t steps."""

    optimiser: Literal["adam"] = Field("adam", description="how weights are updated")
    average: Expr = Field(False, description="a running average of the weights is updated")
    clip: Expr = Field(False, description="the gradient's norm is computed and clipped")
    terms: list[Term] = Field(description="terms of the loss")
    when: dict[Term, Expr] = Field(default_factory=dict, description="conditions of terms")
    parameters: dict[str, Expr] = Field(default_factory=dict, description="values that parameters have in training")
    host_seconds: Expr = Field(0, description="time of an iteration in which the host works and the device waits")
    negatives: Literal["sampler", "data"] = Field("sampler", description="where negative samples come from")
    unrolled: Unrolled = Field(Unrolled.model_validate({}), description="what the term unrolled goes back through")
    buffer: Expr = Field(0, description="samples in a replay buffer on the host, one byte per element")
    text: str = Field("", description="what it is")


class WorkloadFile(_Model):
    """A workload file."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="short name, as on the command line")
    title: str = Field(description="full name")
    paper: Paper = Field(description="where the workload comes from")
    taxonomy: Taxonomy = Field(description="its class, checked against the graph")
    parameters: dict[str, Parameter | Expr] = Field(
        description="names for numbers and choices, used in expressions; chains is C, steps is K"
    )
    presets: dict[str, dict[str, Expr]] = Field(
        default_factory=dict, description="values of several parameters, by name"
    )
    inputs: dict[str, Input] = Field(default_factory=dict, description="tensors given from outside")
    blocks: dict[str, Block] = Field(default_factory=dict, description="sequences of nodes, to be used by name")
    components: dict[str, Component] = Field(description="the networks")
    combine: Combination | None = Field(None, description="how their outputs become one energy; a sum if left out")
    baseline: Baseline | None = Field(None, description="for a conventional model, with what it is compared")
    sampler: Sampler = Field(description="the sample, and how it moves")
    training: Training | None = Field(None, description="what a training iteration does; left out, there is no T_train")
    notes: list[str] = Field(default_factory=list, description="which facts are reconstructed, and what to beware of")


@dataclass(frozen=True)
class Workload:
    """A workload with its parameters settled: the *what* of an estimate.

    parameters: every parameter's value. settings: chains C, steps K, training_steps K_t, training_batch, iterations N
    (0 where training has none).
    """

    document: Document = field(repr=False, compare=False)
    file: WorkloadFile = field(repr=False)
    preset: str
    parameters: Mapping[str, Value]

    @property
    def name(self) -> str:
        """The name of the workload."""
        return self.file.name

    def setting(self, name: str) -> int:
        """A setting by name: chains, steps, training_steps, training_batch or iterations; 0 when absent."""
        return int(self.parameters.get(name, 0))

    def with_parameters(self, **values: Value) -> Workload:
        """The same workload with other values. Raises SpecError for an unknown name or a value that is refused."""
        merged = dict(self.parameters) | values
        problems = _check_values(self.document, self.file, merged, {})
        if problems:
            raise SpecError(problems)
        return replace(self, parameters=merged)

    def in_training(self) -> Workload:
        """The workload as it is trained: with the values its training gives parameters. Raises SpecError."""
        given = self.file.training.parameters if self.file.training else {}
        if not given:
            return self
        values = dict(self.parameters)
        places: dict[str, tuple[str, ...]] = {name: ("training", "parameters", name) for name in given}
        problems = []
        for name, value in given.items():
            try:
                values[name] = value if is_choice(self.file.parameters[name], value) else evaluate(value, values)
            except ExpressionError as error:
                problems.append(self.document.problem(places[name], str(error), error.hint))
        problems += _check_values(self.document, self.file, values, places)
        if problems:
            raise SpecError(problems)
        return replace(self, parameters=values)


def is_choice(parameter: Parameter | Expr | None, value: Expr) -> bool:
    """Whether a value is one of a parameter's choices, and stands for itself."""
    return isinstance(parameter, Parameter) and value in parameter.choices


def parse_workload(document: Document) -> WorkloadFile:
    """The grammar applied to a loaded file. Raises SpecError with every problem."""
    try:
        file = WorkloadFile.model_validate(document.data)
    except ValidationError as error:
        raise SpecError(located(document, error, WorkloadFile)) from None
    problems = list(check_rules(document, file))
    if problems:
        raise SpecError(problems)
    return file


def readable(document: Document) -> WorkloadFile:
    """What can be read of a file that the grammar refuses, to look for more problems in it. Raises nothing."""
    data = document.data
    parts: dict[str, Any] = {}
    for key, model in (("inputs", Input), ("blocks", Block), ("components", Component)):
        section = data.get(key)
        parts[key] = {n: _readable(model, v) for n, v in section.items()} if isinstance(section, dict) else {}
    for key in ("parameters", "presets"):
        section = data.get(key)
        parts[key] = section if isinstance(section, dict) else {}
    parts["presets"] = {name: preset for name, preset in parts["presets"].items() if isinstance(preset, dict)}
    parts["sampler"] = _readable(Sampler, data.get("sampler"))
    for key, single in (("combine", Combination), ("training", Training)):
        if key in data:
            parts[key] = _readable(single, data[key])
    return WorkloadFile.model_construct(**parts)


def _readable(model: type[BaseModel], value: Any) -> Any:
    """The fields of a model that are good; what stands in for the others raises no problem of its own."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        bad = {item["loc"][0] for item in error.errors() if item["loc"]}
    given = value if isinstance(value, dict) else {}
    good: dict[str, Any] = {"role": "encoder", "inputs": {}, "sample": {}, "nodes": [_STAND_IN]}
    good = {key: value for key, value in good.items() if key in model.model_fields}
    good |= {key: item for key, item in given.items() if key in model.model_fields and key not in bad}
    if "nodes" in bad and isinstance(given.get("nodes"), list):
        good["nodes"] = [node if isinstance(node, dict) else _STAND_IN for node in given["nodes"]]
    if "inputs" in bad and model is Block:
        good["inputs"] = ["x"]
    return model.model_construct(**good)


def check_rules(document: Document, file: WorkloadFile) -> Iterator[Problem]:
    """What the grammar cannot say: rules between the sections of a file."""
    sampler = file.sampler
    written = document.data.get("sampler")
    given: Mapping[str, Any] = written if isinstance(written, dict) else {}
    if "sampler" in document.data and ("preset" in given) == ("program" in given):
        yield document.problem(("sampler",), "expected either a preset or a program")
    if len(sampler.sample) > 1 or given.get("sample") == {}:
        yield document.problem(("sampler", "sample"), f"expected one sample, found {len(sampler.sample)}")
    known = PRESET_SETTINGS[sampler.preset] if sampler.preset else ()
    for name in sampler.settings:
        if name not in known and (sampler.preset or "preset" not in given):
            of = f"sampler {sampler.preset}" if sampler.preset else "a sampler with a program"
            path = ("sampler", "settings", name)
            yield document.problem(path, f"unknown setting '{name}' of {of}", suggest(name, known), True)
    for name in ("chains", "steps"):
        if name not in file.parameters and "parameters" in document.data:
            yield document.problem(("parameters",), f"missing parameter '{name}'")
    for name, preset in file.presets.items():
        for key in preset:
            if key not in file.parameters:
                path = ("presets", name, key)
                yield document.problem(path, f"unknown parameter '{key}'", suggest(key, file.parameters), True)
    for key in file.training.parameters if file.training else ():
        if key not in file.parameters:
            path = ("training", "parameters", key)
            yield document.problem(path, f"unknown parameter '{key}'", suggest(key, file.parameters), True)


def settle(document: Document, file: WorkloadFile, preset: str = "", overrides: Mapping[str, Any] = {}) -> Workload:
    """Give every parameter its value: default, then preset, then override. Raises SpecError."""
    if preset and preset not in file.presets:
        hint = suggest(preset, file.presets)
        raise SpecError([Problem(f"unknown preset '{preset}' of {file.name}", hint=hint)])
    given: dict[str, Any] = {}
    for name, declared in file.parameters.items():
        given[name] = declared.default if isinstance(declared, Parameter) else declared
    given |= file.presets.get(preset or "default", {})
    given |= {name: value for name, value in overrides.items() if name in file.parameters}
    problems = [
        Problem(f"unknown parameter '{name}' of {file.name}", hint=suggest(name, file.parameters))
        for name in overrides
        if name not in file.parameters
    ]
    values: dict[str, Value] = {}
    places: dict[str, tuple[str, ...]] = {name: ("parameters", name) for name in file.parameters}
    places |= {name: ("presets", preset or "default", name) for name in file.presets.get(preset or "default", {})}
    places |= dict.fromkeys(overrides, ())
    for name, value in given.items():
        parameter = file.parameters.get(name)
        try:
            values[name] = value if is_choice(parameter, value) else evaluate(value, values)
        except ExpressionError as error:
            message, hint = str(error), error.hint
            waiting = _mentioned(value) & (given.keys() - values.keys())
            names = list(given)
            later = [other for other in waiting if names.index(other) >= names.index(name)]
            if waiting and not later:
                continue  # it only follows from a parameter that has no value itself
            if later:
                message, hint = f"{name} needs {later[0]}, which has no value yet", "a parameter may use earlier ones"
            elif message.startswith("unknown name"):
                hint = suggest(message.split("'")[1], given)
            problems.append(_placed(document, places[name], f"{name}: {message}", message, hint))
    problems += _check_values(document, file, values, places)
    if problems:
        raise SpecError(problems)
    return Workload(document, file, preset or "default", values)


def _mentioned(value: Value) -> frozenset[str]:
    try:
        return free_names(value)
    except ExpressionError:
        return frozenset()


def _placed(document: Document, path: tuple[str, ...], alone: str, message: str, hint: str = "") -> Problem:
    """A problem at its place in the file, or in words that stand `alone` when the value came from elsewhere."""
    return document.problem(path, message, hint) if path else Problem(alone, hint=hint)


def _check_values(
    document: Document, file: WorkloadFile, values: Mapping[str, Value], places: Mapping[str, tuple[str, ...]]
) -> list[Problem]:
    problems = []
    for name, value in values.items():
        parameter = file.parameters.get(name)
        message = ""
        if parameter is None:
            hint = suggest(name, file.parameters)
            problems.append(Problem(f"unknown parameter '{name}' of {file.name}", hint=hint))
        elif isinstance(parameter, Parameter) and parameter.choices and value not in parameter.choices:
            message = f"expected {name} to be one of {', '.join(map(str, parameter.choices))}, found {value!r}"
        elif name in SETTINGS or not isinstance(value, (bool, str)):
            least = parameter.least if isinstance(parameter, Parameter) and parameter.least is not None else None
            if isinstance(value, (bool, str)) or not math.isfinite(value):
                message = f"expected {name} to be a number, found {value!r}"
            elif name in SETTINGS and value != int(value):
                message = f"expected {name} to be a whole number, found {value!r}"
            else:
                bound = least if least is not None else 1 if name in ("chains", "steps", "training_batch") else 0
                if float(value) < bound:
                    message = f"expected {name} to be at least {bound:g}, found {value!r}"
        if message:
            problems.append(_placed(document, places.get(name, ()), message, message))
    return problems


def sampler_program(file: WorkloadFile) -> tuple[list[dict[str, Any]], tuple[str | int, ...]]:
    """The sampler's program and its path in the file (the preset's own program where one is named)."""
    if file.sampler.program is not None:
        return file.sampler.program, ("sampler", "program")
    return PRESETS[str(file.sampler.preset)](file.sampler), ("sampler", "preset")
