"""Published dies beside the predicted ones: `python -m ebmsim.cost.dies > docs/validation/area.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import geometric_mean
from typing import NamedTuple

from ebmsim.cost.area import area, cost
from ebmsim.cost.area_model import AreaModel
from ebmsim.spec.library import load_hardware

_MM2 = 1e-6  # m²


class Die(NamedTuple):
    """A die as it was published. `used` is what the device has of it, in words; at_most: no more is known."""

    device: str
    model: AreaModel
    mm2: float
    used: str
    source: str
    at_most: bool = False


_AT7, _AT5 = AreaModel(7), AreaModel(5)
_NVIDIA = "NVIDIA, whitepaper"
DIES = (
    Die("v100", AreaModel(16), 815, "80 of 84 SMs", _NVIDIA),
    Die("t4", AreaModel(16), 545, "40 of 48 SMs", _NVIDIA),
    Die("a100", _AT7, 826, "108 of 128 SMs, 5 of 6 HBM links", _NVIDIA),
    Die("tpu_v4", _AT7, 600, "all", "Jouppi et al., ISCA 2023", at_most=True),
    Die("l4", _AT5, 294.5, "58 of 60 SMs", _NVIDIA),
    Die("rtx4090", _AT5, 608.5, "128 of 144 SMs, 72 of 96 MiB", _NVIDIA),
    Die("l40s", _AT5, 608.5, "142 of 144 SMs", _NVIDIA),
    Die("rtx5090", _AT5, 750, "170 of 192 SMs, 96 of 128 MiB", _NVIDIA),
    Die("rtx_pro_6000", _AT5, 750, "188 of 192 SMs", _NVIDIA),
    Die("h100", _AT5, 814, "132 of 144 SMs, 50 of 60 MiB, 5 of 6 HBM links", _NVIDIA),
    Die("h200", _AT5, 814, "132 of 144 SMs, 50 of 60 MiB", _NVIDIA),
    Die(
        "b200",
        AreaModel(5, dies=2),
        1600,
        "148 SMs, of how many is not published",
        "two dies; estimate, Silicon Analysts",
    ),
)

# Dollars of die, memory, package: analysts' estimates (Silicon Analysts, February 2026, after Epoch AI and TrendForce).
BILLS = {"h100": (300, 1350, 750), "b200": (None, 2900, 1100)}

_HEAD = """# Published dies against the area model

Written by `python -m ebmsim.cost.dies > docs/validation/area.md`. Areas are mm². The coefficients come from other
chips (TU106 and TU116, TPU v1, Zen 3's cache, Navi 21) and from tables of processes; they were not moved to fit these
rows. Two are not quite independent: HBM links and the transistors that tie a unit to the others are LLMCompass's, read
off photos of A100 and MI210. TU104 (T4) is of the same family as TU106.

A device is counted with the units it has, its die holds more (column "in use").

| device | node | matrix | vector | SRAM | interface | overhead | predicted | published | ratio | in use | source |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|---|"""

_COST = """
## Cost

Dollars, with the predicted areas. Published ones are estimates of analysts, of 2026; the maker's are not known.

| device | die | memory | package | total | die, published | memory | package |
|---|--:|--:|--:|--:|--:|--:|--:|"""

_LIMITS = """
What is missing makes most areas too small: links to other devices (NVLink 3 takes about 32 mm² of GA100 by LLMCompass),
spare units, video, graphics and ray tracing, TPU v4's SparseCores, and logic looser than the densest cells (GA100 has
66 million transistors per mm², 0.68 of the density counted with). GDDR links are counted at GDDR6's 20 Gb/s, so those
of the RTX 5090 and the RTX PRO 6000 (GDDR7, 28 Gb/s) are too many; HBM links at HBM3's 6.4 Gb/s, so those of V100, A100
and TPU v4 are too few.

The model is for GPUs and accelerators. Not compared: CPUs (refused), Orin and M4 Max (most of the die is not the GPU,
and their processes are not in the table), TPUs after v4 (no die size is published)."""


def _summary(ratios: Sequence[float]) -> str:
    worst = max(max(ratio, 1 / ratio) for ratio in ratios)
    near = sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)
    return (
        f"\nPredicted over published: {min(ratios):.2f} to {max(ratios):.2f}, geometric mean "
        f"{geometric_mean(ratios):.2f}. The worst is off\nby a factor of {worst:.1f}, "
        f"{near} of {len(ratios)} are within 1.5. TPU v4 is not in these."
    )


def report() -> Iterator[str]:
    """The lines of docs/validation/area.md."""
    yield _HEAD
    ratios = []
    for die in DIES:
        found = area(load_hardware(die.device), die.model)
        ratio = found.total_mm2 / die.mm2
        ratios += [] if die.at_most else [ratio]
        parts = (found.matrix, found.vector, found.sram, found.interface, found.overhead, found.total)
        numbers = " | ".join(f"{part / _MM2:.0f}" for part in parts)
        most, least = ("at most ", "at least ") if die.at_most else ("", "")
        row = f"| {die.device} | {die.model.node} | {numbers} | {most}{die.mm2:g} | {least}{ratio:.2f} "
        yield row + f"| {die.used} | {die.source} |"
    yield _summary(ratios)
    yield _LIMITS
    yield _COST
    for die in DIES:
        found_cost = cost(load_hardware(die.device), die.model)
        values = (found_cost.die, found_cost.memory, found_cost.package, found_cost.total)
        published = ("" if value is None else f"{value}" for value in BILLS.get(die.device, (None,) * 3))
        yield f"| {die.device} | {' | '.join(f'{value:.0f}' for value in values)} | {' | '.join(published)} |"


if __name__ == "__main__":
    print("\n".join(report()))
