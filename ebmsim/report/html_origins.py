"""Where the figures of a page come from: device, workload, software profile, settings, and what was assumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from ebmsim.report.html_elements import Content, bullets, element, quantity, table, terms
from ebmsim.spec.workload import Parameter
from ebmsim.sweep.figures import figures_of

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate
    from ebmsim.hardware import Hardware
    from ebmsim.spec.workload import Workload
    from ebmsim.sweep.sensitivity import Elasticity, Sensitivity

_FIDELITY = {
    "roofline": "roofline: a lower bound: least arithmetic, least traffic, perfect overlap, no fixed costs",
    "analytical": "analytical: tiling, occupancy, caches, launches and synchronisation, from the figures of the device "
    "and the coefficients of the software profile",
    "calibrated": "calibrated: as analytical, with coefficients fitted to measurements of this device",
}
# Changes of T_inf below this are not worth a row, and elasticities below that no digits.
_WORTH, _SEEN = 1e-3, 5e-4


def device_figures(e: Estimate, found: Sensitivity) -> list[Element]:
    """Figures of the device with mark, source, and what they do to T_inf; defaults only where they do something."""
    h = e.hardware
    effects = {row.figure: row.elasticity for row in found.rows if not row.does_nothing}
    listed = [path for path in (*effects, *h.sources) if path in _figures(h)]
    rows: list[Sequence[Content]] = []
    marks: Counter[str] = Counter()
    for path in sorted(dict.fromkeys(listed), key=lambda path: -abs(effects.get(path, 0.0))):
        mark, text = h.sources.get(path, ("default", "not in the file"))
        marks[mark] += 1
        effect = _effect(effects[path]) if path in effects else None
        rows.append((path, _value(path, _figures(h)[path]), effect, mark, text))
    counts = ", ".join(f"{count} {mark}" for mark, count in marks.most_common())
    caption = f"Figures of the device ({counts}); elasticity: % of T_inf for 1 % more of a figure"
    made = [table("figures-table", caption, ("figure", "value", "elasticity of T_inf", "mark", "source"), rows)]
    known = [(name, [text]) for name, text in h.references.items()]
    return [*made, element("h3", "Sources named there"), terms(*known)] if known else made


def _figures(h: Hardware) -> dict[str, Any]:
    """Figures by path, also those that no sweep replaces."""
    link = {} if h.link is None else {f"link.{name}": value for name, value in asdict(h.link).items()}
    return {"clock": h.clock} | figures_of(h) | link


def _value(path: str, value: Any) -> Content:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return quantity(value, f"device {path}") if isinstance(value, (int, float)) else str(value)


def _effect(elasticity: float) -> Element:
    text = f"{elasticity:+.3f}" if abs(elasticity) >= _SEEN else "≈ 0"
    return element("data", text, value=repr(elasticity))


def workload_origin(w: Workload) -> list[Element]:
    """The paper behind a workload, and which of its facts are reconstructed."""
    paper, tags = w.file.paper, w.file.taxonomy
    where: list[Content] = [f"{paper.title} ({paper.year})"]
    if paper.arxiv:
        where += [", arXiv ", element("a", paper.arxiv, href=f"https://arxiv.org/abs/{paper.arxiv}")]
    pairs: list[tuple[str, Sequence[Content]]] = [("paper", where)]
    if paper.code:
        pairs.append(("code", [paper.code]))
    if tags.paper is not None:
        printed = [tags.paper.compositionality, tags.paper.dependency, tags.paper.work, tags.paper.models]
        pairs.append(("in the characterisation paper", [", ".join(filter(None, printed))]))
    if tags.reason:
        pairs.append(("tags", [tags.reason]))
    notes = [element("p", "Reconstructed, and to beware of:"), bullets(w.file.notes)] if w.file.notes else []
    return [terms(*pairs), *notes]


def assumptions(e: Estimate) -> list[Element]:
    """What the fidelity is, what stands behind the intervals, the profile's sources, the device's notes."""
    p = e.profile
    errors = ", ".join(f"{name} {100 * error:.1f} %" for name, error in p.kernel_error.items())
    spread = (
        f"80 % intervals: an error of {100 * p.common_error:.1f} % common to all kernels, and one of each kernel "
        f"({errors}), as standard deviations of logarithms"
        if e.seconds_interval
        else "no interval: a limit by definition is no prediction"
    )
    items: list[Content] = [_FIDELITY[e.policy.fidelity], spread]
    calibration = e.hardware.calibration
    if calibration is not None and e.policy.fidelity == "calibrated":
        items.append(
            f"measured {calibration.date}: {', '.join(f'{k} {v}' for k, v in calibration.environment.items())}"
        )
    items.append("what every formula assumes and leaves out is in docs/assumptions.md of ebmsim")
    found = [bullets(items)]
    found.append(element("h3", f"Software profile {p.name}"))
    found.append(element("p", p.title))
    found.append(terms(*[(name, [text]) for name, text in p.sources.items()]))
    if e.hardware.notes:
        found += [element("h3", f"Notes on {e.hardware.name}"), bullets(e.hardware.notes)]
    return found


def improvements(found: Sensitivity) -> Element:
    """The changes by a tenth of a figure that take most off T_inf."""
    helping = [row for row in found.rows if row.best.change < -_WORTH]
    if not helping:
        return element("p", "No figure of the device alone, changed by a tenth, shortens T_inf.")
    rows = [
        (
            row.figure,
            _value(row.figure, row.value),
            _value(row.figure, row.best.value),
            _change(row),
            _effect(row.elasticity),
        )
        for row in helping
    ]
    caption = "Changes of one figure by a tenth that shorten T_inf, the best first"
    return table("improve-table", caption, ("figure", "now", "then", "change of T_inf", "elasticity"), rows)


def _change(row: Elasticity) -> Element:
    return element("data", f"{100 * row.best.change:+.2f} %", value=repr(row.best.change))


def settings(w: Workload) -> Element:
    """Every parameter, and what it means."""
    rows = []
    for name, value in w.parameters.items():
        declared = w.file.parameters[name]
        rows.append((name, str(value), declared.text if isinstance(declared, Parameter) else ""))
    return table("settings-table", f"Parameters, preset {w.preset}", ("parameter", "value", "meaning"), rows)


def policy(e: Estimate) -> Element:
    """How it runs."""
    return terms(*[(name.replace("_", " "), [str(value)]) for name, value in asdict(e.policy).items()])
