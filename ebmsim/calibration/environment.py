"""What a measurement ran on: the processor, its caches and clock, and the software, as the system tells them."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ebmsim.hardware import Features, Hardware, Host, Launch, Level, Matrix, Power, Vector

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}
# Where the system does not tell: a core of recent years.
_TYPICAL = {1: 32 * 2**10, 2: 2**20, 3: 16 * 2**20}
_TYPICAL_CLOCK = 3.0e9
# FLOPs of one core and cycle by what torch compiled for: two fused multiply-adds of a vector.
_FLOPS_PER_CYCLE = {"AVX512": 32.0, "AVX2": 32.0, "DEFAULT": 16.0}
_WATTS_PER_THREAD = 10.0
# Of what the limit leaves beside static power, so that an unknown power does not throttle.
_WATTS_OF_ARITHMETIC = 0.5
# Before the fit, bytes per core and cycle of a level, and of the main memory bytes per second.
_BYTES_PER_CYCLE = (64.0, 32.0, 12.0)
_MAIN_MEMORY = 12e9
_NORMALS = 0.25e9


class Cache(NamedTuple):
    """A level of cache: bytes of one, and how many processors share it."""

    level: int
    capacity: int
    shared_by: int


def caches() -> tuple[Cache, ...]:
    """The data caches of the first processor, innermost first; typical ones where the system does not tell."""
    found = []
    for folder in sorted(_CACHES.glob("index*")) if _CACHES.is_dir() else []:
        try:
            level, kind, size, shared = (
                (folder / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
        except OSError:
            continue
        if kind != "Instruction":
            found.append(Cache(int(level), int(size[:-1]) * _UNITS[size[-1]], _processors(shared)))
    return tuple(sorted(found)) or tuple(Cache(level, size, 1) for level, size in _TYPICAL.items())


def _processors(text: str) -> int:
    """How many processors a list such as `0-3,8` names."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _from_proc(file: str, pattern: str) -> str:
    try:
        found = re.search(pattern, Path(file).read_text(), re.M)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def clock() -> float:
    """The clock in Hz that the system states, or a typical one; what it is under load is not known."""
    stated = _from_proc("/proc/cpuinfo", r"^cpu MHz\s*:\s*([\d.]+)")
    return float(stated) * 1e6 if stated else _TYPICAL_CLOCK


def processor() -> str:
    """The processor's name."""
    return _from_proc("/proc/cpuinfo", r"^model name\s*:\s*(.+)$") or platform.processor() or platform.machine()


def described(device: str) -> dict[str, str]:
    """The environment of a measurement in words, for the record."""
    found = {
        "device": processor() if device == "cpu" else torch.cuda.get_device_name(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    if device == "cpu":
        told = f"{os.cpu_count()} processors at {clock() / 1e9:.2f} GHz as the system states"
        return found | {
            "processors": told,
            "threads": str(torch.get_num_threads()),
            "vectors": torch.backends.cpu.get_cpu_capability(),
        }
    version: Any = torch.backends.cudnn.version  # untyped in torch
    return found | {"cuda": str(torch.version.cuda), "cudnn": str(version())}


def draft(name: str) -> Hardware:
    """This machine's processor before any measurement: sizes as the system tells them, rates to be fitted.

    Power is not known: a number of watts per thread, marked as an estimate.
    """
    threads = torch.get_num_threads()
    hertz = clock()
    peak = threads * hertz * _FLOPS_PER_CYCLE.get(torch.backends.cpu.get_cpu_capability(), 16.0)
    levels = []
    for cache, width in zip(caches(), _BYTES_PER_CYCLE, strict=False):
        count = max(1, min(threads, (os.cpu_count() or 1)) // cache.shared_by)
        levels.append(Level(f"l{cache.level}", cache.capacity * count, threads * hertz * width, 1.0, 0.0))
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 16 * 2**30
    watts = _WATTS_PER_THREAD * threads
    return Hardware(
        name=name,
        title=f"{processor()}, {threads} thread{'s' if threads > 1 else ''}",
        kind="cpu",
        software="torch-cpu",
        validated=True,
        references={},
        units=threads,
        clock=hertz,
        sustained_clock=hertz,
        matrix=Matrix("simd", {"fp32": peak}, {}, (), "weight-stationary", False, 1),
        vector=Vector({"fp32": peak}, peak, _NORMALS),
        memory=(*levels, Level("dram", pages, _MAIN_MEMORY, 1.0, 0.0)),
        host=Host(float("inf"), 0.0, 1.0, False, 0.0),
        launch=Launch(0.0, 0.0, 0.0, 0.0, 1),
        power=Power(watts, watts / 3, {"fp32": _WATTS_OF_ARITHMETIC * (watts - watts / 3) / peak}),
        features=Features(),
        notes=(),
        sources={},
    )
