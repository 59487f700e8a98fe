"""Pictures inside a page: matplotlib's SVG without what a page has no use for."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, fromstring

from ebmsim.report.html_elements import element

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ebmsim.estimation import Estimate
    from ebmsim.sweep.sensitivity import Sensitivity

# Dots per inch of what is no lines and letters.
_FINE = 200
_SMALL = (4.3, 1.35)
_NUMBER = re.compile(r"-?\d+\.\d+")
_FONT = ["DejaVu Sans"]


def roofline(e: Estimate) -> Element:
    """Every kernel and component under the ceilings of the device; kernels, often thousands, as one image."""
    from ebmsim.report.plots_roofline import plot_roofline

    def draw(axes: Axes) -> None:
        plot_roofline(axes, e)
        for points in axes.collections:
            points.set_rasterized(not str(points.get_gid()).startswith("component "))

    words = "Kernels and components by FLOPs a byte and FLOP/s; the tables of components and kernels have the times."
    return picture("roofline", f"Roofline of {e.workload.name} on {e.hardware.name}", words, draw, (9.0, 5.2))


def breakdowns(e: Estimate) -> list[Element]:
    """T_samp by phase, category and bound, and T_inf, as bars."""
    from ebmsim.report.plots_breakdown import BY, parts, parts_of_inference, plot_breakdown, plot_inference

    inference = _shares(parts_of_inference(e))
    return [
        *[
            picture(f"by-{by}", f"T_samp by {by}", _shares(parts(e, by)), _bar(plot_breakdown, e, by), _SMALL)
            for by in BY
        ],
        picture("inference", "T_inf", inference, _bar(plot_inference, e), _SMALL),
    ]


def _bar(draw: Callable[..., Any], e: Estimate, *by: str) -> Callable[[Axes], Any]:
    return lambda axes: draw(axes, [e], *by, names=[""])


def _shares(parts: dict[str, float]) -> str:
    whole = sum(parts.values()) or 1.0
    named = sorted(((name, value / whole) for name, value in parts.items()), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * part:.0f} %" for name, part in named if part >= 5e-3)


def improvements(found: Sensitivity) -> Element:
    """Elasticities as bars."""
    from ebmsim.report.plots_sensitivity import plot_sensitivity

    rows = sum(abs(row.elasticity) >= 5e-3 for row in found.rows)
    words = "Percent of T_inf for one percent more of each figure of the device; the table has the numbers."
    size = (8.0, 1.2 + 0.24 * min(max(rows, 2), 20))
    return picture(
        "elasticities", f"Elasticities of {found.of}", words, lambda axes: plot_sensitivity(axes, found), size
    )


def picture(name: str, title: str, words: str, draw: Callable[[Any], Any], size: tuple[float, float]) -> Element:
    """A figure of `size` inches, the same for the same input. Letters are text, placed as in matplotlib's own font."""
    import matplotlib
    from matplotlib.figure import Figure

    from ebmsim.report.plots import style

    text = io.StringIO()
    svg_only: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": _FONT}
    with style(), matplotlib.rc_context(svg_only):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw(axes)
        figure.savefig(text, format="svg", dpi=_FINE, metadata={"Date": None}, facecolor="none")
    svg = _plain(fromstring(text.getvalue()), name)
    for key in ("version", "xmlns"):
        svg.attrib.pop(key, None)
    svg.attrib |= {"role": "img", "aria-labelledby": f"{name}-name {name}-words"}
    svg.insert(0, element("title", title, id=f"{name}-name"))
    svg.insert(1, element("desc", words, id=f"{name}-words"))
    return element("div", svg, class_="picture", role="region", tabindex=0, aria_label=title)


def _plain(svg: Element, name: str) -> Element:
    """Without metadata, styles for all the page, blanks and needless digits; ids that no other picture has."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    used = {word for e in svg.iter() for value in e.attrib.values() for word in re.findall(r"#([\w-]+)", value)}
    for e in svg.iter():
        e.tag = e.tag.rpartition("}")[2]
        e.text, e.tail = (text.strip() if text and text.strip() else None for text in (e.text, e.tail))
        attributes = {key.rpartition("}")[2]: value for key, value in e.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        e.attrib.clear()
        e.attrib.update({key: _attribute(key, value, name) for key, value in attributes.items()})
    return svg


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href" and value.startswith("data:"):
        return "".join(value.split())
    if key in ("href", "clip-path"):
        return value.replace("#", f"#{name}-")
    if key in ("d", "x", "y", "transform", "width", "height", "style"):
        value = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), value)
    return " ".join(value.split())
