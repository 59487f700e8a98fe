"""Which coefficients a machine's fit looks for, and about where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ebmsim.calibration.coefficients import Prior
from ebmsim.hardware import Hardware
from ebmsim.policy import Profile

# glibc takes blocks of this size and more from the system anew each time.
_FRESH = 31 * 2.0**20
# Products of one row or column read the other operand as it lies: kernels for vectors.
_VECTOR_TILES = ((1.0, 64.0, 0.9), (64.0, 1.0, 0.9))


def prepared_profile(profile: Profile, hardware: Hardware) -> Profile:
    """The profile that a fit starts from. On a CPU a backward kernel has a host cost of its own, not a factor's."""
    if hardware.kind != "cpu":
        return profile
    return replace(
        profile,
        backward=1.0,
        split_k=(1,),
        fresh_from=_FRESH,
        tiles=(*profile.tiles, *_VECTOR_TILES),
        kernel_time=0.0,
    )


def shared_coefficients(hardware: Hardware) -> Mapping[str, Prior]:
    """The coefficients that all kernels share, by path, and what is expected of them before a measurement."""
    levels = {f"memory.{x.name}.bandwidth": Prior(x.bandwidth, 0.2) for x in hardware.memory[1:]}
    peaks = {f"matrix.peak.{d}": Prior(p, 0.3) for d, p in hardware.matrix.peak.items() if d == "fp32"}
    found = {
        **peaks,
        **levels,
        "vector.random": Prior(hardware.vector.random, 0.5),
        "gradient": Prior(30e-6, 0.5),
        "knee": Prior(2.0, 0.3, 1.0),
    }
    if hardware.kind == "cpu":
        return found | {
            "view": Prior(4e-6, 0.5),
            "change": Prior(0.1, 0.5),
            "recording": Prior(1.5e-6, 0.5),
            "tiles.base": Prior(1.0, 0.2),
            "tiles.edge": Prior(0.1, 1.0),
            "convolution_tiles.base": Prior(1.0, 0.2),
            "convolution_tiles.edge": Prior(0.1, 1.0),
            "prologue": Prior(100.0, 1.0),
            "packing.matmul": Prior(0.1, 1.0),
            "packing.convolution": Prior(0.3, 1.0),
            "reorder": Prior(2.0, 1.0),
            "fresh_bandwidth": Prior(2e9, 0.5),
            "resident": Prior(0.4, 0.5),
            "evicted": Prior(0.6, 0.5),
        }
    host = {f"host_cost.{c}": Prior(5e-6, 0.5) for c in ("matmul", "convolution", "elementwise", "transformation")}
    return found | host | {"kernel_time": Prior(2e-6, 0.5)}
