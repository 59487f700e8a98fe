"""The grammar of software profiles."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from ebmsim import policy as engine
from ebmsim.errors import SpecError
from ebmsim.spec.located import Document, Path, load_document
from ebmsim.spec.problems import located
from ebmsim.units import parse_quantity


def _time(value: object) -> float:
    return parse_quantity(value, "time", zero=True)


def _bandwidth(value: object) -> float:
    return parse_quantity(value, "bandwidth")


def _size(value: object) -> float:
    return parse_quantity(value, "bytes")


Size = Annotated[float, BeforeValidator(_size), WithJsonSchema({"type": "string", "examples": ["32 B"]})]
Bandwidth = Annotated[float, BeforeValidator(_bandwidth), WithJsonSchema({"type": "string", "examples": ["8 GB/s"]})]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[float, BeforeValidator(_time), WithJsonSchema({"type": "string", "examples": ["5 us"]})]
Fraction = Annotated[float, Field(gt=0, le=1)]
Tiles = list[tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)], Fraction]]


Place = TypeVar("Place")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AlgorithmSpec(_Model):
    """Winograd's convolution by its tiles: which convolutions it takes, and what its products and transforms reach."""

    kernel: int = Field(ge=1, description="the only kernel size it takes")
    stride: int = Field(1, ge=1, description="the only stride it takes")
    output: int = Field(ge=1, description="side of the square of results that one tile gives")
    arithmetic: str = Field(description="the only arithmetic it is used in")
    fraction: Fraction = Field(description="of the direct convolution's tiles that its products reach")
    transforms: Fraction = Field(description="share of the shared level's bandwidth that its transforms reach")
    energy: Fraction = Field(description="energy of products and transforms over that of the direct algorithm")
    time: Time = Field(0.0, description="time of such a convolution beside its products, transforms and launches")


class ProfileSpec(_Model):
    """A software profile: the habits of a software stack, the same on every device it runs on."""

    name: str = Field(description="short name, as on the command line")
    title: str = Field(description="full name")
    tiles: Tiles = Field(description="output tiles of matrix products: rows, columns, fraction of peak inside a tile")
    convolution_tiles: Tiles = Field(description="the same of convolutions")
    split_k: list[int] = Field(description="numbers of parts the inner axis may be split into")
    convolution_split_k: list[int] = Field(
        default_factory=list, description="the same of convolutions; as of products if not given"
    )
    inner: Size = Field(description="the inner axis is padded to a multiple of so many bytes of an operand")
    last_wave: float = Field(ge=0, le=1, description="share of tiles for which a last wave that is not full is whole")
    loop: float = Field(ge=0, description="cycles that one element of the inner axis takes at least")
    feed: float = Field(gt=0, description="bytes of operands a unit takes in per cycle")
    prologue: float = Field(ge=0, description="cycles of a tile before and after its inner axis")
    split_time: Time = Field(description="time to add up the parts of a split inner axis, beside their bytes")
    algorithms: dict[str, AlgorithmSpec] = Field(default_factory=dict, description="beside direct convolution")
    knee: float = Field(ge=1, description="exponent of the mean of compute and memory time of a product kernel")
    kernel_time: Time = Field(description="fixed time of a kernel on the device, beside the gap between launches")
    kernel_cycles: float = Field(ge=0, description="fixed cycles of a kernel on the device, beside that time")
    product_energy: float = Field(ge=1, description="energy of fp32 products, operands included, over their FLOPs'")
    resident: float = Field(gt=0, description="share of a level's capacity up to which data surely stay")
    evicted: float = Field(gt=0, description="share of a level's capacity from which data surely left")
    sharing: float = Field(
        ge=0, le=1, description="part of what a kernel leaves idle inside its units that kernels of other streams use"
    )
    host_cost: dict[str, Time] = Field(description="host time to issue one operator, by category")
    backward: float = Field(ge=0, description="factor on the host cost of an operator issued by autograd")
    gradient: Time = Field(0.0, description="host time of one call of autograd, beside its operators'")
    view: Time = Field(0.0, description="host time of an operator that only makes a view, where kinds are told apart")
    change: Factor = Field(
        0.0,
        description="share of its host cost that a kernel takes more with every doubling of the kernels since the last "
        "one of its kind, where kinds are told apart",
    )
    recording: Time = Field(
        0.0, description="host time more of an operator or view that autograd records, where kinds are told apart"
    )
    element_cycles: dict[str, Factor] = Field(
        default_factory=dict,
        description="cycles of a unit that an element touched takes at least, by operator or category",
    )
    packing: dict[Literal["matmul", "convolution"], Factor] = Field(
        default_factory=dict,
        description="cycles of a unit per byte of a product's second operand, to bring it into the order of the kernel",
    )
    store: float = Field(
        math.inf, gt=0, description="bytes per cycle at which a unit writes the results of a tile, after its inner axis"
    )
    reorder: Factor = Field(
        0.0, description="how often a convolution's images cross the shared level beside, to be brought into its order"
    )
    fresh_from: Size = Field(0.0, description="results of so many bytes take memory anew from the system")
    fresh_bandwidth: Bandwidth = Field(math.inf, description="bytes per second at which the system gives that memory")
    compiled_cost: Time = Field(description="host time to issue one fused kernel of compiled code")
    fuses: Literal["compiled", "always", "never"] = Field(description="in which executions operators are fused")
    traces: bool = Field(False, description="whether eager execution traces each step and starts it as one executable")
    math: dict[str, dict[str, str]] = Field(description="arithmetic of fp32 products by math setting and category")
    common_error: float = Field(ge=0, description="standard deviation of the log error common to a whole model")
    kernel_error: dict[str, Annotated[float, Field(ge=0)]] = Field(
        description="standard deviation of the log error of one kernel, by category, or category and arithmetic "
        "(`matmul fp32`); `other` for the rest"
    )
    sources: dict[str, str] = Field(description="where the figures come from")


def parse_profile(document: Document) -> engine.Profile:
    """A software profile from a loaded file. Raises SpecError with every problem."""
    return _profile(document, document.data)


def parse_coefficients(document: Document, at: Path, software: str) -> dict[str, Any]:
    """The figures of a software profile that are written at a place of another file, in place of the profile's own.

    Raises SpecError with every problem, located in that file.
    """
    from ebmsim.spec.library import find

    data: Any = document.data
    for key in at:
        data = data[key]
    part = Document(
        document.file, data, _inside(document.marks, at), _inside(document.keys, at), _inside(document.files, at)
    )
    profile = _profile(part, {**load_document(find("software", software)).data, **data})
    return {name: getattr(profile, name) for name in data}


def _inside(places: Mapping[Path, Place], at: Path) -> dict[Path, Place]:
    """The entries under a path, by what follows it."""
    return {path[len(at) :]: place for path, place in places.items() if path[: len(at)] == at}


def _profile(document: Document, data: Any) -> engine.Profile:
    """The profile that data describe, problems placed in a document. Raises SpecError."""
    try:
        spec = ProfileSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(located(document, error, ProfileSpec)) from None
    if "other" not in spec.kernel_error:
        raise SpecError([document.problem(("kernel_error",), "missing key 'other'")])
    figures: dict[str, Any] = dict(spec)
    figures["tiles"], figures["convolution_tiles"] = tuple(spec.tiles), tuple(spec.convolution_tiles)
    figures["split_k"] = tuple(spec.split_k)
    figures["convolution_split_k"] = tuple(spec.convolution_split_k) or figures["split_k"]
    figures["algorithms"] = {name: engine.Algorithm(**dict(given)) for name, given in spec.algorithms.items()}
    return engine.Profile(**figures)
