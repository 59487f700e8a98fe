"""How a workload is run: the policy, and the software profile it names, as the engine sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ebmsim.errors import Problem, SpecError, suggest

EXECUTIONS = ("eager", "graph", "compiled", "persistent")
FIDELITIES = ("roofline", "analytical", "calibrated")
DTYPES = ("fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
MATHS = ("strict", "torch-default", "fast")
CHAIN_MODES = ("batched", "sequential")

Tiles = tuple[tuple[float, float, float], ...]
"""Output tiles: rows, columns, fraction of peak inside a full tile."""


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


@dataclass(frozen=True)
class Algorithm:
    """Winograd's convolution by its tiles: which convolutions it takes, and what its products and transforms reach.

    output: side of the square of results that one tile gives. fraction: of the direct convolution's tiles that its
    products reach. transforms: share of the shared level's bandwidth that its transforms reach. energy: of products and
    transforms over that of the direct algorithm. time: s beside its products, transforms and launches.
    """

    kernel: int
    stride: int
    output: int
    arithmetic: str
    fraction: float
    transforms: float
    energy: float
    time: float = 0.0

    @property
    def points(self) -> int:
        """Multiplications of a tile for each pair of channels: (output + kernel - 1)²."""
        return (self.output + self.kernel - 1) ** 2

    @property
    def saving(self) -> float:
        """Multiplications of the direct algorithm over its own: (output · kernel)² / points."""
        return float((self.output * self.kernel) ** 2 / self.points)


@dataclass(frozen=True)
class Profile:
    """A software profile: the habits of a software stack, the same on every device it runs on.

    Times in s. What every figure means stands in the grammar of its file (spec/software.py).
    """

    name: str
    title: str
    tiles: Tiles
    convolution_tiles: Tiles
    split_k: tuple[int, ...]
    convolution_split_k: tuple[int, ...]
    inner: float
    last_wave: float
    loop: float
    feed: float
    prologue: float
    split_time: float
    algorithms: Mapping[str, Algorithm]
    knee: float
    kernel_time: float
    kernel_cycles: float
    product_energy: float
    resident: float
    evicted: float
    sharing: float
    host_cost: Mapping[str, float]
    backward: float
    gradient: float
    view: float
    change: float
    recording: float
    element_cycles: Mapping[str, float]
    packing: Mapping[str, float]
    reorder: float
    store: float
    fresh_from: float
    fresh_bandwidth: float
    compiled_cost: float
    fuses: str
    traces: bool
    math: Mapping[str, Mapping[str, str]]
    common_error: float
    kernel_error: Mapping[str, float]
    sources: Mapping[str, str]

    def deviation(self, category: str, dtype: str) -> float:
        """Standard deviation of the log error of one kernel: of its category in that arithmetic, or of its category.

        Categories without an entry have that of `other`.
        """
        error = self.kernel_error
        return error.get(f"{category} {dtype}", error.get(category, error["other"]))


def arithmetic(profile: Profile, peaks: Mapping[str, Any], policy: Policy, category: str) -> str:
    """The dtype in which products of a category are computed; "" when the device has none for it.

    Only fp32 storage leaves a choice (strict products, TF32 convolutions, one bf16 pass on a TPU).
    """
    wanted = profile.math[policy.math].get(category, "fp32") if policy.dtype == "fp32" else policy.dtype
    if wanted in peaks:
        return wanted
    return "fp32" if wanted == "tf32" and "fp32" in peaks else ""
