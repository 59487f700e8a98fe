"""Pictures of several devices. Functions that draw take and return Axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ebmsim.report.plots import save
from ebmsim.scaled import Scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Devices beyond which an axis names only every second or third number of them.
_NAMED = 12


def plot_scaling(axes: Axes, found: Sequence[Scaled]) -> Axes:
    """Speed-up of inference and training against the number of devices, both logarithmic, with the ideal line."""
    devices = [s.devices for s in found]
    axes.plot(devices, devices, color="0.6", linewidth=1, linestyle="--", label="ideal")
    axes.plot(devices, [s.inference.speedup for s in found], "o-", markersize=4, color="C0", label="inference")
    trained = [(s.devices, s.training.speedup) for s in found if s.training is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), "s-", markersize=4, color="C1", label="training")
    first = found[0]
    facts = first.base.workload
    kind, scope = ("weak", "chains a device") if first.weak else ("strong", "chains")
    axes.set_title(
        f"{facts.name} on {first.base.hardware.name}: {kind} scaling, {facts.setting('chains')} {scope}", fontsize=10
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set(xlabel="devices", ylabel="speed-up over one device")
    named = sorted(set(devices))[:: 1 + len(set(devices)) // _NAMED]
    axes.set_xticks(named, [str(d) for d in named])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=8)
    return axes


def write_scaling(found: Sequence[Scaled], path: Path) -> None:
    """Draw into a picture. Raises SpecError where it cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.8))
    plot_scaling(axes, found)
    save(figure, path)
    plt.close(figure)
