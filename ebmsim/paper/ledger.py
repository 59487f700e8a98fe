"""The settings that stand for what the paper profiled, and those that could stand in their place (docs/settings.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

PROFILED = ("ebm_imp", "ebm_eqm", "ired", "ebm_cmp", "ebm_cvr", "ccsp")
GPU, CPU, TPU = "rtx5090", "ryzen9900x", "tpu_v6e"
DEVICES = (CPU, GPU, TPU)


@dataclass(frozen=True)
class Alternative:
    """One admissible change of the ledger's settings: a preset, parameters, or a field of the policy."""

    preset: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    policy: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __str__(self) -> str:
        """As the ledger writes it."""
        words = [self.preset] if self.preset else []
        words += [f"{key}={value}" for key, value in self.settings.items()]
        return " ".join(words + [f"--{key} {value}" for key, value in self.policy.items()])


def _preset(name: str) -> Alternative:
    return Alternative(preset=name)


def _set(**settings: Any) -> Alternative:
    return Alternative(settings=settings)


def _with(**policy: Any) -> Alternative:
    return Alternative(policy=policy)


DEFAULT = Alternative()
# The policy of a workload where it is not the default one.
POLICY: Mapping[str, Mapping[str, Any]] = {"ebm_eqm": {"math": "fast"}}
# One at a time; combinations are left out.
ADMISSIBLE: Mapping[str, tuple[Alternative, ...]] = {
    "ebm_imp": (
        _preset("conditional"),
        _set(chains=64),
        _set(chains=512),
        _set(spectral_norm=True),
        _with(math="strict"),
    ),
    "ebm_eqm": (
        _set(form="mean"),
        _set(form="l2"),
        _set(chains=32),
        _preset("unguided"),
        _with(math="torch-default"),
        _with(math="strict"),
    ),
    "ired": (_preset("inverse"), _preset("low_rank"), _set(chains=256)),
    "ebm_cmp": (
        _set(attributes=1),
        _set(attributes=2),
        _set(attributes=4),
        _preset("multiscale"),
        _set(chains=16),
        _preset("repository"),
        _preset("disjunction"),
        _with(math="strict"),
    ),
    "ebm_cvr": (
        _set(f=32),
        _set(f=128),
        _set(relations=2),
        _set(relations=3),
        _set(chains=25),
        _set(condition="clip", clip_cached=False),
        _set(steps=300),
        _with(math="strict"),
    ),
    "ccsp": (
        _preset("qualitative"),
        _preset("energy"),
        _preset("mala"),
        _preset("hmc"),
        _preset("ula"),
        _preset("ula10"),
        _set(chains=1),
        _set(n=2),
        _set(n=6),
    ),
}
