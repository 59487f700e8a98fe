"""The grammar of hardware files: from a located document to `ebmsim.hardware.Hardware`.

The models give the structure and the JSON schema; every value is read by a function of ours, so that
all messages have one form. Rules between keys look at the plain data, so that they report their
problems together with those of the structure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, NoReturn, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from ebmsim import hardware as engine
from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.spec.extends import extended, is_figure, variant
from ebmsim.spec.located import Document, format_path
from ebmsim.units import _shown as shown
from ebmsim.units import parse_quantity

DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "fp4", "int8", "int4")
MARKS = ("vendor", "measured", "estimate")
_ORGANISATIONS = ("tiles", "systolic", "simd")
_DATAFLOWS = ("weight-stationary", "output-stationary", "input-stationary")
_SYSTOLIC_SIZES = ("arrays", "rows", "columns")
_SYSTOLIC_ONLY = (*_SYSTOLIC_SIZES, "subarrays", "dataflow", "weights_double_buffered")
_MOST_SUBARRAYS = 8
_LARGEST_COUNT = 10**9
_Reader = Callable[[Any], Any]


class _RefusalError(ValueError):
    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def _refuse(expected: str, value: object, hint: str = "") -> NoReturn:
    raise _RefusalError(f"expected {expected}, found {shown(value)}", hint)


class _Read:
    """Annotation of a field: the function that reads its value, and its JSON schema."""

    def __init__(self, read: _Reader, **schema: Any) -> None:
        self.read = read
        self.schema = schema

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        return dict(self.schema)


def _quantity(dimension: str, example: str, zero: bool = False) -> _Read:
    return _Read(partial(parse_quantity, dimension=dimension, zero=zero), type="string", examples=[example])


def _choice(*options: str) -> _Read:
    def read(value: Any) -> Any:
        if value not in options:
            hint = suggest(value, options) if isinstance(value, str) else ""
            _refuse(f"{', '.join(options[:-1])} or {options[-1]}", value, hint if "did you" in hint else "")
        return value

    return _Read(read, type="string", enum=list(options))


def _text(value: Any) -> Any:
    if not isinstance(value, str) or not value.strip():
        _refuse("a text", value)
    return value


def _flag(value: Any) -> Any:
    if not isinstance(value, bool):
        _refuse("true or false", value)
    return value


def _count(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST_COUNT:
        _refuse("a whole number from 1 to 1e9", value)
    return value


def _fraction(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= 1:
        _refuse("a number above 0 and up to 1", value)
    return float(value)


def _dtype(value: Any) -> Any:
    if value not in DTYPES:
        raise _RefusalError(f"unknown dtype {shown(value)}", suggest(value, DTYPES))
    return value


def _level_name(value: Any) -> Any:
    if not re.fullmatch("[a-z][a-z0-9_]*", value):
        _refuse("a name of lower case letters, digits and '_'", value)
    return value


def _source(value: Any) -> tuple[str, str]:
    expected = "a mark and an origin such as 'vendor, datasheet'"
    if not isinstance(value, str):
        _refuse(expected, value)
    mark, _, text = (part.strip() for part in value.partition(","))
    if mark not in MARKS:
        raise _RefusalError(f"unknown mark {shown(mark)}", suggest(mark, MARKS))
    if not text:
        _refuse(expected, value)
    return mark, text


Text = Annotated[Any, _Read(_text, type="string", minLength=1)]
Flag = Annotated[Any, _Read(_flag, type="boolean")]
Count = Annotated[Any, _Read(_count, type="integer", minimum=1, maximum=_LARGEST_COUNT)]
Fraction = Annotated[Any, _Read(_fraction, type="number", exclusiveMinimum=0, maximum=1)]
Share = Annotated[Any, _Read(partial(parse_quantity, dimension="number", zero=True), type="number", minimum=0)]
Factor = Annotated[Any, _Read(partial(parse_quantity, dimension="number"), type="number", exclusiveMinimum=0)]
Frequency = Annotated[Any, _quantity("frequency", "2.41 GHz")]
FlopRate = Annotated[Any, _quantity("flop_rate", "104.8 TFLOP/s")]
OpRate = Annotated[Any, _quantity("op_rate", "6.5 Top/s")]
Size = Annotated[Any, _quantity("bytes", "96 MiB")]
Bandwidth = Annotated[Any, _quantity("bandwidth", "1792 GB/s")]
Time = Annotated[Any, _quantity("time", "1.6 us", zero=True)]
Watts = Annotated[Any, _quantity("power", "575 W")]
StaticWatts = Annotated[Any, _quantity("power", "60 W", zero=True)]
ByteEnergy = Annotated[Any, _quantity("energy_per_byte", "40 pJ/B", zero=True)]
FlopEnergy = Annotated[Any, _quantity("energy_per_flop", "2.1 pJ/FLOP", zero=True)]
Dtype = Annotated[Any, _Read(_dtype, type="string", enum=list(DTYPES))]
LevelName = Annotated[Any, _Read(_level_name, type="string", pattern="^[a-z][a-z0-9_]*$")]
Source = Annotated[
    Any, _Read(_source, type="string", pattern=rf"^({'|'.join(MARKS)}),", examples=["vendor, datasheet"])
]
Peaks = Annotated[dict[Dtype, FlopRate], Field(min_length=1)]


class _Model(BaseModel):
    # Only the model of the whole file is ever used to validate, which builds the others.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class SubArraySpec(_Model):
    """Equal systolic arrays among unequal ones."""

    rows: Count = Field(description="rows of one of them")
    columns: Count = Field(description="columns of one of them")
    arrays: Count = Field(description="how many of them the device has")


class MatrixSpec(_Model):
    """The engine of matrix products."""

    organisation: Annotated[Any, _choice(*_ORGANISATIONS)] = Field(
        description="tiles: output tiles over units (GPU); systolic: arrays; simd: vector units (CPU)"
    )
    peak: Peaks = Field(description="dense peak by dtype at `clock`; dtypes missing here are not supported")
    clocks: dict[Dtype, Frequency] = Field({}, description="clock of the peaks quoted at another one")
    arrays: Count = Field(0, description="systolic arrays of the device")
    rows: Count = Field(0, description="rows of a systolic array")
    columns: Count = Field(0, description="columns of a systolic array")
    subarrays: list[SubArraySpec] = Field(
        [],
        min_length=1,
        max_length=_MOST_SUBARRAYS,
        description="unequal arrays, in place of `arrays`, `rows` and `columns`; a peak is that of all together",
    )
    dataflow: Annotated[Any, _choice(*_DATAFLOWS)] = Field(
        "weight-stationary", description="what stays in a systolic array; a product may be transposed"
    )
    weights_double_buffered: Flag = Field(
        False, description="the next weights are loaded (or results drained) while a systolic array works"
    )
    multicast: Count = Field(1, description="units that share one fetch of a product's operand (thread-block clusters)")


class VectorSpec(_Model):
    """Arithmetic outside matrix products."""

    peak: Peaks = Field(description="peak by dtype at `clock`")
    special: OpRate = Field(description="exp, log, sin, rsqrt results per second at `clock`")
    random: OpRate = Field(description="normal random numbers per second")


class LevelSpec(_Model):
    """A level of memory; all figures are totals of the device."""

    capacity: Size = Field(description="total size")
    bandwidth: Bandwidth = Field(description="total bandwidth")
    efficiency: Fraction = Field(1.0, description="achieved fraction of the bandwidth on streams")
    energy: ByteEnergy = Field("0 pJ/B", validate_default=True, description="energy of moving one byte")
    technology: Annotated[Any, _choice(*engine.TECHNOLOGIES)] = Field(
        "", description="of the main memory, which area and cost need; none: there is no memory beside the chip"
    )


class HostSpec(_Model):
    """What feeds the device."""

    link_bandwidth: Bandwidth = Field(
        default_factory=lambda: math.inf, description="host to device, one direction; left out on a CPU"
    )
    link_latency: Time = Field("0 us", validate_default=True, description="latency of that link")
    speed: Factor = Field(description="host cost of an operator relative to the reference host of the software profile")
    asynchronous: Flag = Field(description="the device runs behind the host (false on a CPU)")
    synchronise: Time = Field(description="one device-to-host synchronisation")


class LinkSpec(_Model):
    """From a device to others of its kind (NVLink, PCIe, ICI)."""

    bandwidth: Bandwidth = Field(description="device to device, one direction, all links of the device together")
    latency: Time = Field(description="latency of one message")
    efficiency: Fraction = Field(1.0, description="achieved fraction of the bandwidth in collective operations")


class LaunchSpec(_Model):
    """The gap on the device between two kernels, by execution."""

    eager: Time = Field(description="kernels launched one by one")
    graph: Time = Field(description="kernels inside one captured graph or executable")
    persistent: Time = Field(description="steps inside one persistent kernel or compiled loop")
    replay: Time = Field(description="host cost of starting one captured graph or executable")
    concurrent_kernels: Count = Field(description="most kernels that run at the same time")


class PowerSpec(_Model):
    """Power and energy."""

    limit: Watts = Field(description="most power the device may draw")
    static: StaticWatts = Field(description="power drawn whatever it does")
    energy: dict[Dtype, FlopEnergy] = Field(description="energy per FLOP by dtype")


class FeaturesSpec(_Model):
    """Hardware made for Energy-Based Models."""

    stationary_weights: Flag = Field(
        False, description="weights that fit stay on chip across forward, backward and steps"
    )
    transposed_weights: Fraction = Field(
        1.0, description="relative rate of products with transposed weights (1 is free)"
    )
    rng_overlapped: Flag = Field(False, description="random numbers are drawn beside the network")
    resident_loop: Flag = Field(False, description="no dispatch inside the sampling loop")


class ResidualSpec(_Model):
    """What a fit leaves of one category of kernels: errors of small steps that were held out of it."""

    category: Text = Field(description="category of kernels")
    size: Text = Field(description="band of measured time of a kernel")
    steps: Count = Field(description="number of figures of steps")
    median: Share = Field(description="median of |predicted / measured - 1|")
    p90: Share = Field(description="its 90th percentile")


class CalibrationSpec(_Model):
    """Coefficients fitted to measurements of this very device."""

    date: Text = Field(description="when it was measured, year-month-day")
    environment: dict[Text, Text] = Field(description="what was measured on: processor, clock, threads, versions")
    coefficients: dict[Text, Any] = Field(description="figures of the software profile in place of its own")
    residuals: list[ResidualSpec] = Field([], description="what the fit leaves")


class HardwareSpec(_Model):
    """A device, with the source of every figure."""

    name: Text = Field(description="short name, as on the command line")
    title: Text = Field(description="full name")
    kind: Annotated[Any, _choice("cpu", "gpu", "tpu", "accelerator")] = Field(description="kind of device")
    software: Annotated[Any, _choice("torch-cuda", "torch-cpu", "xla-tpu", "ideal")] = Field(
        description="default software profile"
    )
    extends: Text = Field("", description="name or path of the device this file changes; the rest is taken from there")
    validated: Flag = Field(False, description="true only where kernels measured on this very device were compared")
    references: dict[Text, Text] = Field({}, description="what the tags in `sources` stand for")
    units: Count = Field(description="streaming multiprocessors, cores or TensorCores")
    clock: Frequency = Field(description="the clock the peaks are quoted at")
    sustained_clock: Frequency = Field(description="the clock under load")
    matrix: MatrixSpec = Field(description="the engine of matrix products")
    vector: VectorSpec = Field(description="arithmetic outside products")
    memory: Annotated[dict[LevelName, LevelSpec], Field(min_length=1)] = Field(
        description="levels of memory, innermost first; the last one is the main memory"
    )
    host: HostSpec = Field(description="what feeds the device")
    link: LinkSpec | None = Field(None, description="to other devices of its kind; without it a device runs alone")
    launch: LaunchSpec = Field(description="gaps between kernels")
    power: PowerSpec = Field(description="power and energy")
    features: FeaturesSpec = Field(
        default_factory=lambda: FeaturesSpec.model_validate({}), description="hardware made for EBMs"
    )
    calibration: CalibrationSpec | None = Field(None, description="coefficients fitted to this very device")
    notes: list[Text] = Field([], description="conflicts between sources, traps")
    sources: dict[str, Source] = Field({}, description="mark and origin of each figure by its path")
    variants: dict[LevelName, dict[str, Any]] = Field(
        {},
        description="devices that differ a little, by name; each holds what differs, as a file that extends this one",
    )


# Models inside a mapping or a list.
_INNER = {"memory": LevelSpec, "subarrays": SubArraySpec, "residuals": ResidualSpec}


def parse_hardware(document: Document) -> engine.Hardware:
    """The device that a hardware file describes. Raises SpecError with all problems."""
    document = extended(document)
    problems = list(_rules(document))
    try:
        spec = HardwareSpec.model_validate(document.data)
    except ValidationError as error:
        problems += [_located(document, item) for item in error.errors(include_url=False)]
    else:
        power = spec.power
        if power.static >= power.limit:
            message = f"expected static power below the limit of {power.limit:g} W, found {power.static:g} W"
            static = ("power", "static")
            problems.append(document.problem(("power", "limit") if static in document.files else static, message))
        try:
            calibration = _calibration(document, spec)
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    figures = {name: value for name, value in spec if name not in ("extends", "variants")}
    for name, target in (
        ("vector", engine.Vector),
        ("host", engine.Host),
        ("launch", engine.Launch),
        ("power", engine.Power),
        ("features", engine.Features),
    ):
        figures[name] = target(**dict(figures[name]))
    figures["matrix"] = _matrix(spec.matrix)
    figures["memory"] = tuple(engine.Level(name, **dict(level)) for name, level in spec.memory.items())
    figures["notes"] = tuple(spec.notes)
    figures["calibration"] = calibration
    figures["link"] = engine.Link(**dict(spec.link)) if spec.link else None
    return engine.Hardware(**figures)


def _matrix(spec: MatrixSpec) -> engine.Matrix:
    """The engine of products; arrays that are all equal are one group."""
    figures = dict(spec)
    plain = {key: figures.pop(key) for key in _SYSTOLIC_SIZES}
    groups = [dict(group) for group in spec.subarrays] or ([plain] if spec.organisation == "systolic" else [])
    figures["subarrays"] = tuple(engine.SubArray(**group) for group in groups)
    return engine.Matrix(**figures)


def _calibration(document: Document, spec: HardwareSpec) -> engine.Calibration | None:
    """The calibration of a file, its coefficients read by the grammar of software profiles. Raises SpecError."""
    given = spec.calibration
    if given is None:
        return None
    from ebmsim.spec.software import parse_coefficients

    coefficients = parse_coefficients(document, ("calibration", "coefficients"), spec.software)
    residuals = tuple(dict(r) for r in given.residuals)
    return engine.Calibration(spec.software, given.date, given.environment, coefficients, residuals)


def check_hardware(document: Document) -> list[Problem]:
    """Every problem of a hardware file and of its variants. Raises nothing."""
    try:
        complete = extended(document)
    except SpecError as error:
        return list(error.problems)
    found: list[Problem] = []
    for name in ("", *_mapping(complete.data, "variants")):
        try:
            parse_hardware(variant(complete, name) if name else complete)
        except SpecError as error:
            found += error.problems
    return list(dict.fromkeys(found))


def _located(document: Document, error: Any) -> Problem:
    """The problem that an error of pydantic stands for."""
    path = error["loc"]
    kind = error["type"]
    if kind == "missing":
        return document.problem(path[:-1], f"missing key '{path[-1]}'")
    if kind == "extra_forbidden":
        hint = suggest(path[-1], _fields_at(path[:-1]))
        return document.problem(path, f"unknown key '{path[-1]}'", hint, at_key=True)
    if kind == "value_error":
        reason = error["ctx"]["error"]
        return document.problem(path, str(reason), getattr(reason, "hint", ""), path[-1:] == ("[key]",))
    if kind == "too_short":
        empty = "list" if isinstance(error["input"], list) else "mapping"
        return document.problem(path, f"expected at least one entry, found an empty {empty}")
    if kind == "too_long":
        most, count = error["ctx"]["max_length"], len(error["input"])
        return document.problem(path, f"expected at most {most} entries, found {count}")
    wanted = "a list" if kind == "list_type" else "a mapping"
    return document.problem(path, f"expected {wanted}, found {shown(error['input'])}")


def _fields_at(path: tuple[Any, ...]) -> list[str]:
    """The keys allowed in the mapping at `path`."""
    model: Any = HardwareSpec
    if path:
        given = HardwareSpec.model_fields[path[0]].annotation
        # Of a section that may be missing, the model is the first of the two.
        outer = next(iter(get_args(given)), given)
        model = next((_INNER[key] for key in reversed(path) if key in _INNER), outer)
    return list(model.model_fields)


def _rules(document: Document) -> Iterator[Problem]:
    """Problems between keys, in data of which nothing is checked yet."""
    data = document.data
    matrix = _mapping(data, "matrix")
    systolic = matrix.get("organisation") == "systolic"
    plain = [key for key in _SYSTOLIC_SIZES if key in matrix]
    if systolic and "subarrays" in matrix:
        if plain:
            message = f"'subarrays' stands in place of {', '.join(_SYSTOLIC_SIZES[:-1])} and {_SYSTOLIC_SIZES[-1]}"
            yield document.problem(("matrix", "subarrays"), message, f"leave out {', '.join(plain)}", at_key=True)
    elif systolic:
        for key in _SYSTOLIC_SIZES:
            if key not in plain:
                yield document.problem(("matrix",), f"missing key '{key}' of a systolic organisation")
    elif matrix.get("organisation") in _ORGANISATIONS:
        for key in _SYSTOLIC_ONLY:
            if key in matrix:
                yield document.problem(("matrix", key), f"'{key}' is of a systolic organisation only", at_key=True)
    peaks = _mapping(matrix, "peak")
    for dtype in _mapping(matrix, "clocks"):
        if dtype in DTYPES and dtype not in peaks:
            yield document.problem(("matrix", "clocks", dtype), f"no peak for '{dtype}'", at_key=True)
    host = _mapping(data, "host")
    if ("link_latency" in host) != ("link_bandwidth" in host):
        key = "link_latency" if "link_bandwidth" in host else "link_bandwidth"
        yield document.problem(("host",), f"missing key '{key}' of the link")
    memory = _mapping(data, "memory")
    for name in list(memory)[:-1]:
        if "technology" in _mapping(memory, name):
            message = "'technology' is of the main memory, the last level"
            yield document.problem(("memory", name, "technology"), message, at_key=True)
    known = dict.fromkeys(format_path(path) for path in document.marks if is_figure(document.data, path))
    for path in _mapping(data, "sources"):
        if path not in known:
            hint = suggest(path, known)
            yield document.problem(("sources", path), f"no figure '{path}' in the file", hint, at_key=True)


def _mapping(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
