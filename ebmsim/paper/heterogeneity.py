"""Figs. 5 and 6 and the stream experiment beside what is computed: rooflines, operator categories, concurrency."""

from __future__ import annotations

from ebmsim.estimation import Estimate
from ebmsim.paper.figures import of, statement
from ebmsim.paper.ledger import ADMISSIBLE, DEFAULT, GPU, PROFILED, Alternative
from ebmsim.paper.reasons import note, reason
from ebmsim.paper.rows import Row, Section, Tolerance
from ebmsim.paper.runs import run, spread
from ebmsim.paper.tables import CLIP, intensities

# Components the paper calls compute-bound, and those it calls memory-bound: workload, settings, component.
COMPUTE_BOUND = (("ebm_cvr", DEFAULT, "main"), ("ebm_cvr", DEFAULT, "mid"), ("ebm_cvr", DEFAULT, "small"))
MEMORY_BOUND = (("ebm_cvr", CLIP, "clip"), ("ccsp", DEFAULT, "constraint"), ("ccsp", DEFAULT, "image"))
# The task of IRED whose graph concatenates features in every evaluation.
GRAPH_TASK = Alternative(preset="connectivity")
# Workload, settings, category, published share in percent.
SHARES = (
    ("ebm_eqm", DEFAULT, "matmul", (72.9, 72.9)),
    ("ired", GRAPH_TASK, "matmul", (33.7, 33.7)),
    ("ired", GRAPH_TASK, "transformation", (32.8, 32.8)),
    ("ebm_cmp", DEFAULT, "convolution", (50.0, 69.0)),
    ("ebm_imp", DEFAULT, "convolution", (50.0, 69.0)),
    ("ebm_cvr", DEFAULT, "convolution", (50.0, 69.0)),
    ("ebm_cvr", DEFAULT, "elementwise", (45.3, 45.3)),
    ("ccsp", DEFAULT, "movement", (30.0, 30.0)),
    ("ebm_imp", DEFAULT, "movement", (30.0, 30.0)),
)
SPEED_UPS = (("ired", 1.28), ("ebm_cmp", 1.47), ("ebm_cvr", 1.21), ("ccsp", 1.32))


def ridge() -> float:
    """FLOPs per byte at which the GPU's fp32 peak meets its memory bandwidth."""
    hardware = run("ired").hardware
    return float(hardware.matrix.peak["fp32"] / hardware.memory[-1].bandwidth)


def position(workload: str, change: Alternative, component: str) -> tuple[float, float]:
    """Arithmetic intensity of a component's products, and FLOP/s of its forward pass, on the GPU."""
    e = run(workload, GPU, change)
    found = next(c for c in e.components if c["name"] == component)
    seconds = float(found["t_fwd"] or 0.0)
    work = found["flops_fwd"] * found["instances"] * e.lowered.chains
    return intensities(e, found)["products"], work / seconds if seconds else 0.0


def fig5() -> Section:
    """Where the components stand on the roofline of the GPU."""
    rows = []
    edge = ridge()
    for bound, components in (("compute", COMPUTE_BOUND), ("memory", MEMORY_BOUND)):
        for workload, change, component in components:
            ours, _ = position(workload, change, component)
            name = f"{workload} {component}"
            text = f"{bound}-bound"
            holds = (ours >= edge) == (bound == "compute")
            unit = f"FLOPs/B of products; the ridge is at {edge:.1f}"
            rows.append(statement("fig5", name, "Sec. V-C", text, (ours, ours, ours), unit, holds))
    found = [position(*where)[0] for where in COMPUTE_BOUND]
    span = max(found) - min(found)
    tolerance = Tolerance(points=10.0)
    rows.append(
        Row(
            "ebm_cvr: span of its networks' intensities",
            "Sec. V-C",
            "across 60 FLOPs/B",
            span,
            span,
            span,
            "FLOPs/B",
            (60.0, 60.0),
            tolerance=tolerance,
            reason=reason("fig5", "span"),
        )
    )
    return Section("fig5", "Fig. 5: roofline positions", tolerance, note("fig5"), tuple(rows))


def fig6() -> Section:
    """Shares of operator categories in the device-busy time of a step."""
    rows = []
    tolerance = Tolerance(points=10.0)
    for workload, change, category, published in SHARES:

        def share(e: Estimate, category: str = category) -> float:
            return 100.0 * e.categories[category]

        if change is DEFAULT:
            ours, low, high = spread(workload, share)
        else:
            ours = low = high = share(run(workload, GPU, change))
        text = f"{published[0]:g} %" if published[0] == published[1] else f"{published[0]:g} to {published[1]:g} %"
        name = f"{workload} {category}" + (f" ({change})" if change is not DEFAULT else "")
        rows.append(
            Row(
                name,
                "Sec. V-C",
                text,
                ours,
                low,
                high,
                "%",
                published,
                tolerance=tolerance,
                reason=reason("fig6", name),
            )
        )
    return Section("fig6", "Fig. 6: operator categories", tolerance, note("fig6"), tuple(rows))


def gain(workload: str, change: Alternative = DEFAULT, sharing: float | None = None) -> float:
    """T_samp in one stream over T_samp with as many streams as there are branches, on the GPU."""
    many = Alternative(change.preset, change.settings, {**change.policy, "streams": 64})
    return of(run(workload, GPU, change), "t_samp") / of(run(workload, GPU, many, sharing), "t_samp")


def streams() -> Section:
    """Each energy model in a stream of its own, on one GPU."""
    rows = []
    tolerance = Tolerance(factor=1.1)
    for workload, printed in SPEED_UPS:
        changes = [
            Alternative(change.preset, change.settings, {**change.policy, "execution": execution})
            for change in (DEFAULT, *ADMISSIBLE[workload])
            for execution in ("eager", "graph")
        ]
        found = [gain(workload, change, sharing) for change in changes for sharing in (None, 0.0, 1.0)]
        rows.append(
            Row(
                workload,
                "Sec. VI, Takeaway 3",
                f"{printed:g}×",
                gain(workload),
                min(found),
                max(found),
                "×",
                (printed, printed),
                tolerance=tolerance,
                reason=reason("streams", workload),
            )
        )
    two = Alternative(settings={"batches": 2})
    found = [gain("ired", two, sharing) for sharing in (None, 0.0, 1.0)]
    name = "ired, two batches side by side"
    rows.append(Row(name, "Sec. VI, Takeaway 3", "", found[0], min(found), max(found), "×"))
    return Section("streams", "Streams: each energy model in one of its own", tolerance, note("streams"), tuple(rows))


def drawn() -> dict[str, dict[str, float]]:
    """Shares of categories per workload, for the picture: in the paper's five categories and rng."""
    return {w: dict(run(w, GPU, GRAPH_TASK if w == "ired" else DEFAULT).categories) for w in PROFILED}
