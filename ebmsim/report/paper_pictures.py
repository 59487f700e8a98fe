"""Figs. 3 to 7 of the paper, in its arrangement, from what is computed here. Every function takes and returns Axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError
from ebmsim.paper.figures import SAMPLED, first_step, of
from ebmsim.paper.heterogeneity import COMPUTE_BOUND, MEMORY_BOUND, drawn, position, ridge
from ebmsim.paper.ledger import DEFAULT, DEVICES, PROFILED
from ebmsim.paper.runs import run
from ebmsim.report.colours import BLACK, CATEGORIES, LINES, PHASES, on
from ebmsim.report.plots import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELS = dict(zip(PROFILED, ("IMP", "EqM", "IRED", "CMP", "CVR", "CCSP"), strict=True))
CHIPS = dict(zip(DEVICES, ("CPU", "GPU", "TPU"), strict=True))
_PHASES = {"forward": "t_fwd", "backward": "t_bwd_in", "noise": "t_rng", "update": "t_update", "accept": "t_accept"}
_ROOFLINE = (
    ("ebm_imp", DEFAULT, "energy"),
    ("ebm_eqm", DEFAULT, "energy"),
    ("ired", DEFAULT, "mlp"),
    ("ebm_cmp", DEFAULT, "main"),
    *COMPUTE_BOUND,
    *MEMORY_BOUND,
)
_STEPS = 50
# Names of the parts of Fig. 4 as all pictures colour them.
_LONG = {"backward": "backward to the input", "noise": "random numbers"}


def times(axes: Axes, key: str, unit: str, scale: float) -> Axes:
    """Fig. 3: one bar per workload and device, logarithmic. key: t_samp or t_inf."""
    width = 0.8 / len(DEVICES)
    for number, device in enumerate(DEVICES):
        values = [scale * of(run(w, device), key) for w in PROFILED]
        places = [i + (number - 1) * width for i in range(len(PROFILED))]
        bars = axes.bar(places, values, width, label=CHIPS[device])
        axes.bar_label(bars, [f"{v:.2g}" if v < 10 else f"{v:.0f}" for v in values], fontsize="x-small", padding=1)
    axes.set_yscale("log")
    axes.set_xticks(range(len(PROFILED)), [LABELS[w] for w in PROFILED])
    axes.set_ylabel(unit)
    axes.margins(y=0.12)
    axes.legend()
    return axes


def stacked(axes: Axes, bars: Sequence[str], parts: Mapping[str, Sequence[float]], ylabel: str) -> Axes:
    """Bars of shares in percent, one colour per part; parts below 0.05 % everywhere are left out."""
    bottom = [0.0] * len(bars)
    for (name, values), plain in zip(parts.items(), LINES, strict=False):
        if max(values) < 0.05:
            continue
        colour = {**PHASES, **CATEGORIES}.get(_LONG.get(name, name), plain)
        drawn_bars = axes.bar(bars, values, 0.75, bottom=bottom, label=name, color=colour)
        axes.bar_label(
            drawn_bars,
            [f"{v:.0f}" if v >= 6 else "" for v in values],
            label_type="center",
            color=on(colour),
            fontsize="x-small",
        )
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_ylim(0, 100)
    axes.set_ylabel(ylabel)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return axes


def inference_phases(axes: Axes) -> Axes:
    """Fig. 4(a): phases of a step per workload on each device."""
    runs = [(w, d, run(w, d)) for w in PROFILED for d in DEVICES]
    parts = {name: [100 * of(e, key) / of(e, "t_samp") for _, _, e in runs] for name, key in _PHASES.items()}
    return stacked(axes, [f"{LABELS[w]}\n{CHIPS[d]}" for w, d, _ in runs], parts, "% of a step")


def training_phases(axes: Axes) -> Axes:
    """Fig. 4(b): sampling, weight gradients and the rest of training on the GPU, where training samples."""
    parts: dict[str, list[float]] = {"sampling": [], "weight gradients (5)": [], "rest of an iteration (6)": []}
    for workload in SAMPLED:
        e = run(workload)
        total = of(e, "t_train") / e.workload.setting("iterations")
        sampling = of(e, "t_train_sampling") / e.workload.setting("iterations")
        gradients = of(e, "t_bwd_w_positive") + of(e, "t_bwd_w_negative")
        for name, value in zip(parts, (sampling, gradients, total - sampling - gradients), strict=True):
            parts[name].append(100 * value / total)
    return stacked(axes, [LABELS[w] for w in SAMPLED], parts, "% of a training run")


def roofline(axes: Axes) -> Axes:
    """Fig. 5: components on the roofline of the GPU; intensity of products, attained FLOP/s of the forward pass."""
    hardware = run("ired").hardware
    peak, bandwidth = hardware.matrix.peak["fp32"], hardware.memory[-1].bandwidth
    low, high = 10.0, 500.0
    axes.plot([low, ridge(), high], [bandwidth * low / 1e12, peak / 1e12, peak / 1e12], color=BLACK, linewidth=1)
    colours = dict(zip(PROFILED, LINES, strict=False))
    seen: dict[str, int] = {}
    for workload, change, component in _ROOFLINE:
        intensity, attained = position(workload, change, component)
        outside = not attained
        if outside:  # run once, outside the steps: drawn on the roof, hollow, as two are in one place
            attained = min(peak, bandwidth * intensity)
        name = LABELS[workload] if component in ("energy", "mlp") else f"{LABELS[workload]} {component}"
        seen[workload] = seen.get(workload, -1) + 1
        marker = "osD^"[seen[workload]]
        face = "none" if outside else colours[workload]
        axes.scatter(
            intensity,
            attained / 1e12,
            edgecolors=colours[workload],
            facecolors=face,
            marker=marker,
            s=60 if outside else 28,
            zorder=3,
            label=name,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(low, high),
        ylim=(10, 1.6 * peak / 1e12),
        xlabel="FLOPs/B of products",
        ylabel="TFLOP/s",
    )
    axes.annotate(f"{bandwidth / 1e9:.0f} GB/s", (11, 17 * bandwidth / 1e12), fontsize="small")
    axes.annotate(f"{peak / 1e12:.0f} TFLOP/s, fp32", (200, 1.05 * peak / 1e12), fontsize="small")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return axes


def categories(axes: Axes) -> Axes:
    """Fig. 6: shares of operator categories in device-busy time."""
    found = drawn()
    names = ("matmul", "convolution", "elementwise", "transformation", "movement", "rng")
    parts = {name: [100 * found[w].get(name, 0.0) for w in PROFILED] for name in names}
    return stacked(axes, [LABELS[w] for w in PROFILED], parts, "% of device-busy time")


def steps(axes: Axes) -> Axes:
    """Fig. 7: share of each of the first 50 steps, what an inference does once counted to the first."""
    for workload in PROFILED:
        e = run(workload)
        each = [first_step(e), *[of(e, "t_samp")] * (_STEPS - 1)]
        axes.plot(range(1, _STEPS + 1), [100 * t / sum(each) for t in each], label=LABELS[workload])
    axes.set(xlabel="sampling step", ylabel=f"% of {_STEPS} steps", ylim=(0, None))
    axes.legend(ncols=2)
    return axes


def _fig3(grid: Any) -> None:
    times(grid[0, 0], "t_samp", "one step, ms", 1e3)
    times(grid[0, 1], "t_inf", "an inference, s", 1.0)


def _fig4(grid: Any) -> None:
    inference_phases(grid[0, 0])
    training_phases(grid[0, 1])


# Name -> size in inches, panels side by side, their widths, what draws them.
_PICTURES: Mapping[str, tuple[tuple[float, float], Sequence[float], Callable[[Any], Any]]] = {
    "fig3": ((11.0, 3.4), (1, 1), _fig3),
    "fig4": ((13.0, 3.4), (3, 1), _fig4),
    "fig5": ((7.0, 4.0), (1,), roofline),
    "fig6": ((6.4, 3.4), (1,), categories),
    "fig7": ((5.4, 3.4), (1,), steps),
}


def write_pictures(names: Sequence[str], folder: Path) -> list[Path]:
    """Write the figures among `names` as PNG into a folder, made if need be. Raises SpecError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError([Problem(f"cannot make the folder: {error.strerror or error}", str(folder))]) from None
    written = []
    for name in names:
        if name in _PICTURES:
            size, widths, draw = _PICTURES[name]
            written.append(folder / f"{name}.png")
            title = f"{name.replace('fig', 'Fig. ')} at the ledger's settings, predicted"
            write(written[-1], draw, size, widths=widths, title=title)
    return written
