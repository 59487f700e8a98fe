"""How a workload is run: the policy, and the software profile it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.spec.located import Document
from ebmsim.spec.problems import located
from ebmsim.units import parse_quantity

EXECUTIONS = ("eager", "graph", "compiled", "persistent")
FIDELITIES = ("roofline", "analytical", "calibrated")
DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
MATHS = ("strict", "torch-default", "fast")
CHAIN_MODES = ("batched", "sequential")


@dataclass(frozen=True)
class Policy:
    """The *how* of an estimate. fidelity "" and software "" mean the hardware's own default.

    dtype: storage. math: arithmetic of products. streams: branches that may run side by side.
    """

    execution: str = "eager"
    fidelity: str = ""
    dtype: str = "fp32"
    math: str = "torch-default"
    software: str = ""
    streams: int = 1
    chain_mode: str = "batched"

    def __post_init__(self) -> None:
        problems = []
        for name, allowed in (
            ("execution", EXECUTIONS),
            ("fidelity", ("", *FIDELITIES)),
            ("dtype", DTYPES),
            ("math", MATHS),
            ("chain_mode", CHAIN_MODES),
        ):
            value = getattr(self, name)
            if value not in allowed:
                known = [a for a in allowed if a]
                message = f"expected {name} to be one of {', '.join(known)}, found {value!r}"
                problems.append(Problem(message, hint=suggest(str(value), known)))
        if type(self.streams) is not int or not 1 <= self.streams <= 1024:
            problems.append(Problem(f"expected streams to be a whole number from 1 to 1024, found {self.streams!r}"))
        if problems:
            raise SpecError(problems)


def _time(value: object) -> float:
    return parse_quantity(value, "time", zero=True)


Time = Annotated[float, BeforeValidator(_time), WithJsonSchema({"type": "string", "examples": ["5 us"]})]
Fraction = Annotated[float, Field(gt=0, le=1)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Algorithm(_Model):
    """Winograd's convolution by its tiles: which convolutions it takes, and what its products and transforms reach."""

    kernel: int = Field(description="the only kernel size it takes")
    stride: int = Field(1, description="the only stride it takes")
    output: int = Field(ge=1, description="side of the square of results that one tile gives")
    arithmetic: str = Field(description="the only arithmetic it is used in")
    fraction: Fraction = Field(description="of the direct convolution's tiles that its products reach")
    transforms: Fraction = Field(description="share of the shared level's bandwidth that its transforms reach")

    @property
    def points(self) -> int:
        """Multiplications of a tile for each pair of channels: (output + kernel - 1)²."""
        return (self.output + self.kernel - 1) ** 2

    @property
    def saving(self) -> float:
        """Multiplications of the direct algorithm over its own: (output · kernel)² / points."""
        return float((self.output * self.kernel) ** 2 / self.points)


Tiles = list[Annotated[list[float], Field(min_length=3, max_length=3)]]


class Profile(_Model):
    """A software profile: the habits of a software stack, the same on every device it runs on."""

    name: str
    title: str
    tiles: Tiles = Field(description="output tiles of matrix products: rows, columns, fraction of peak inside a tile")
    convolution_tiles: Tiles = Field(description="the same of convolutions")
    split_k: list[int] = Field(description="numbers of parts the inner axis may be split into")
    inner: int = Field(ge=1, description="the inner axis is padded to a multiple of this")
    last_wave: float = Field(ge=0, le=1, description="share of tiles for which a last wave that is not full is whole")
    loop: float = Field(ge=0, description="cycles that one element of the inner axis takes at least")
    feed: float = Field(gt=0, description="bytes of operands a unit takes in per cycle")
    prologue: float = Field(ge=0, description="cycles of a tile before and after its inner axis")
    split_time: Time = Field(description="time to add up the parts of a split inner axis, beside their bytes")
    algorithms: dict[str, Algorithm] = Field(default_factory=dict, description="beside direct convolution")
    knee: float = Field(ge=1, description="exponent of the mean of compute and memory time of a product kernel")
    kernel_time: Time = Field(description="fixed time of a kernel on the device, beside the gap between launches")
    kernel_cycles: float = Field(ge=0, description="fixed cycles of a kernel on the device, beside that time")
    product_energy: float = Field(ge=1, description="energy of fp32 products, operands included, over their FLOPs'")
    resident: float = Field(gt=0, description="share of a level's capacity up to which data surely stay")
    evicted: float = Field(gt=0, description="share of a level's capacity from which data surely left")
    host_cost: dict[str, Time] = Field(description="host time to issue one operator, by category")
    backward: float = Field(ge=0, description="factor on the host cost of an operator issued by autograd")
    compiled_cost: Time = Field(description="host time to issue one fused kernel of compiled code")
    fuses: Literal["compiled", "always", "never"] = Field(description="in which executions operators are fused")
    traces: bool = Field(False, description="whether eager execution traces each step and starts it as one executable")
    math: dict[str, dict[str, str]] = Field(description="arithmetic of fp32 products by math setting and category")
    common_error: float = Field(ge=0, description="standard deviation of the log error common to a whole model")
    kernel_error: float = Field(ge=0, description="standard deviation of the log error of one kernel")
    sources: dict[str, str] = Field(description="where the figures come from")


def parse_profile(document: Document) -> Profile:
    """A software profile from a loaded file. Raises SpecError with every problem."""
    try:
        return Profile.model_validate(document.data)
    except ValidationError as error:
        raise SpecError(located(document, error, Profile)) from None


def arithmetic(profile: Profile, peaks: Mapping[str, Any], policy: Policy, category: str) -> str:
    """The dtype in which products of a category are computed; "" when the device has none for it.

    Only fp32 storage leaves a choice (strict products, TF32 convolutions, one bf16 pass on a TPU).
    """
    wanted = profile.math[policy.math].get(category, "fp32") if policy.dtype == "fp32" else policy.dtype
    if wanted in peaks:
        return wanted
    return "fp32" if wanted == "tf32" and "fp32" in peaks else ""
