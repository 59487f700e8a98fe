"""Pictures of a time against a number: of devices, of chains, or of whatever a parameter counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.report.colours import BLUE, GREY, LINES, VERMILION
from ebmsim.report.plots import settings_of, write
from ebmsim.scaled import Scaled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.estimation import Estimate

# Numbers beyond which an axis names only every second or third of them.
_NAMED = 12


def plot_scaling(axes: Axes, found: Sequence[Scaled]) -> Axes:
    """Speed-up of inference and training against the number of devices, both logarithmic, with the ideal line."""
    devices = [s.devices for s in found]
    axes.plot(devices, devices, color=GREY, linestyle="--", label="ideal")
    axes.plot(devices, [s.inference.speedup for s in found], "o-", color=BLUE, label="inference")
    trained = [(s.devices, s.training.speedup) for s in found if s.training is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), "s-", color=VERMILION, label="training")
    first = found[0]
    facts = first.base.workload
    kind, scope = ("weak", "chains a device") if first.weak else ("strong", "chains")
    axes.set_title(f"{facts.name} on {first.base.hardware.name}: {kind} scaling, {facts.setting('chains')} {scope}")
    axes.set(xlabel="devices", ylabel="speed-up over one device")
    _logarithmic(axes, devices)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend()
    return axes


def write_scaling(found: Sequence[Scaled], path: Path) -> None:
    """Draw into a picture. Raises SpecError where it cannot be written."""
    write(path, lambda axes: plot_scaling(axes, found), (6.4, 4.8))


def plot_times(
    axes: Axes, estimates: Sequence[Estimate], parameter: str, times: Sequence[str] = ("t_samp", "t_inf")
) -> Axes:
    """Times of estimates that differ in one parameter, both axes logarithmic; dashed where it is chains, one chain's.

    The estimates are computed by the caller, one for every value of the parameter (`chains`, `steps`, ...). times: by
    name, as in `Estimate.seconds`; those that an estimate has not are left out. Raises SpecError for an unknown
    parameter or time.
    """
    first = estimates[0]
    known, of = first.workload.parameters, f"of {first.workload.name}"
    problems = (
        [] if parameter in known else [Problem(f"no parameter '{parameter}' {of}", hint=suggest(parameter, known))]
    )
    unknown = [name for name in times if name not in first.seconds]
    problems += [Problem(f"no time '{name}' in an estimate", hint=suggest(name, first.seconds)) for name in unknown]
    if problems:
        raise SpecError(problems)
    ordered = sorted(estimates, key=lambda e: e.workload.parameters[parameter])
    values = [e.workload.parameters[parameter] for e in ordered]
    for name, colour in zip(times, LINES, strict=False):
        there = [(x, e, t) for x, e in zip(values, ordered, strict=True) if (t := e.seconds[name])]
        style: dict[str, Any] = {"marker": "o", "color": colour}
        x, y = [x for x, _, _ in there], [t for _, _, t in there]
        axes.plot(x, y, linestyle="-", label=name, **style)
        if parameter == "chains":
            # A sequential step is already one of a single chain.
            each = [t / (e.lowered.chains if name.startswith("t_samp") else x) for x, e, t in there]
            axes.plot(x, each, linestyle="--", fillstyle="none", label=f"{name}, of a chain", **style)
    axes.set_title(f"{first.workload.name} on {first.hardware.name}\n{settings_of(first, counts=False)}", loc="left")
    axes.set(xlabel=parameter, ylabel="s")
    _logarithmic(axes, values)
    axes.set_yscale("log")
    axes.legend()
    return axes


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """An axis of numbers, each named where there are few."""
    axes.set_xscale("log", base=2)
    named = sorted(set(values))[:: 1 + len(set(values)) // _NAMED]
    axes.set_xticks(named, [str(value) for value in named])
    axes.minorticks_off()
    axes.grid(True, which="major")
