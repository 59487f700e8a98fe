"""The taxonomy drawing of a page: boxes in layers from left to right, and the way back of the sampling loop."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element

from ebmsim.report.html_elements import element
from ebmsim.report.html_wiring import Wiring, layers, steps, wiring
from ebmsim.spec.workload import Workload

# In px: boxes and the distances between them, a place that an arrow passes, widths of a letter in title and detail.
_HEIGHT, _ROW, _COLUMN, _PASSED, _EDGE = 44.0, 20.0, 52.0, 12.0, 8.0
_TITLE, _DETAIL = 7.9, 6.7
# Below the boxes, the arrow back to the sample.
_BACK = 30.0


class _Place(NamedTuple):
    left: float
    top: float
    wide: float
    high: float

    @property
    def middle(self) -> float:
        return self.top + self.high / 2

    @property
    def right(self) -> float:
        return self.left + self.wide


def drawn(w: Workload) -> Element:
    """Components, what they read, and the loop, as inline SVG in the colours of the page."""
    wired = wiring(w)
    found = layers(wired)
    places = _placed(wired, found)
    wide = max(place.right for place in places.values()) + _EDGE
    low = max(place.top + place.high for place in places.values())
    high = low + _BACK + _EDGE
    lines = [_arrow(*[places[key] for key in steps(arrow, found)]) for arrow in wired.arrows]
    return element(
        "svg",
        element("title", f"Wiring of {w.name}", id="wiring-name"),
        element("desc", f"Arrows lead from {wired.words}.", id="wiring-words"),
        element("defs", element("marker", element("path", d="M0 0L8 4L0 8z"), **_HEAD)),
        *lines,
        _back(places[wired.sampler], places[wired.sample], low + _BACK),
        *[_box(places[key], *box) for key, box in wired.boxes.items()],
        viewBox=f"0 0 {wide:g} {high:g}",
        width=f"{wide:g}",
        height=f"{high:g}",
        role="img",
        aria_labelledby="wiring-name wiring-words",
        class_="wiring",
    )


_HEAD = {
    "id": "wiring-head",
    "viewBox": "0 0 8 8",
    "refX": "8",
    "refY": "4",
    "markerWidth": "8",
    "markerHeight": "8",
    "orient": "auto",
}


def _placed(wired: Wiring, found: list[list[str]]) -> dict[str, _Place]:
    """Layers side by side, each in the middle of the height of the tallest."""
    heights = [[_HEIGHT if key in wired.boxes else _PASSED for key in layer] for layer in found]
    tall = [sum(layer) + _ROW * (len(layer) - 1) for layer in heights]
    places: dict[str, _Place] = {}
    left = _EDGE
    for layer, high, total in zip(found, heights, tall, strict=True):
        boxes = [wired.boxes[key] for key in layer if key in wired.boxes]
        wide = 20 + max((max(_TITLE * len(b.title), _DETAIL * len(b.detail)) for b in boxes), default=0.0)
        top = _EDGE + (max(tall) - total) / 2
        for key, size in zip(layer, high, strict=True):
            places[key] = _Place(left, top, wide, size)
            top += size + _ROW
        left += wide + _COLUMN
    return places


def _arrow(*places: _Place) -> Element:
    """From the right of a box to the left of another, straight through the places between."""
    d = f"M{places[0].right:.1f} {places[0].middle:.1f}"
    for a, b in pairwise(places):
        half = (a.right + b.left) / 2
        d += f"C{half:.1f} {a.middle:.1f} {half:.1f} {b.middle:.1f} {b.left:.1f} {b.middle:.1f}"
        d += f"H{b.right:.1f}" if b is not places[-1] else ""
    return element("path", d=d, class_="arrow", marker_end="url(#wiring-head)")


def _back(sampler: _Place, sample: _Place, low: float) -> Element:
    """Below all boxes, from the sampler to the sample."""
    start, end = (place.left + place.wide / 2 for place in (sampler, sample))
    d = f"M{start:.1f} {sampler.top + sampler.high:.1f}V{low:.1f}H{end:.1f}V{sample.top + sample.high:.1f}"
    return element("path", d=d, class_="arrow", marker_end="url(#wiring-head)")


def _box(place: _Place, title: str, detail: str, kind: str) -> Element:
    middle = place.left + place.wide / 2
    return element(
        "g",
        element(
            "rect",
            x=f"{place.left:.1f}",
            y=f"{place.top:.1f}",
            width=f"{place.wide:.1f}",
            height=f"{place.high:.1f}",
            rx="0" if kind == "component" else "10",
        ),
        element("text", title, x=f"{middle:.1f}", y=f"{place.middle - 3:.1f}", class_="name"),
        element("text", detail, x=f"{middle:.1f}", y=f"{place.middle + 14:.1f}"),
        class_=kind,
    )
