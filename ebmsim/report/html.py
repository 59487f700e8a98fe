"""An estimate as one page: answer, drawings, tables and sources, with nothing loaded from elsewhere."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from ebmsim.errors import Problem, SpecError
from ebmsim.output import check_output
from ebmsim.report import html_origins as origins
from ebmsim.report import html_pictures as pictures
from ebmsim.report import html_tables as tables
from ebmsim.report.html_drawing import drawn
from ebmsim.report.html_elements import element, section, written

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate
    from ebmsim.spec.workload import Workload

_FORMATS = (".html", ".htm")
# The page may run and load what it holds itself, and nothing else.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def check_page(path: Path) -> None:
    """Raise SpecError where a page cannot be written: another format, or what `check_output` says; "-" is stdout."""
    if str(path) != "-" and path.suffix.lower() not in _FORMATS:
        raise SpecError([Problem(f"expected a page (.html), found '{path.name}'", str(path))])
    check_output(path)


def page(e: Estimate, w: Workload, command: str = "") -> str:
    """The page of an estimate and the workload it was made of, settled with the same parameters.

    command: the words that make the page again. The same input gives the same text.
    """
    parts = _sections(e, w, command)
    title = f"{e.workload.name} on {e.hardware.name}"
    answer = json.dumps(e.to_dict(), allow_nan=False).replace("<", "\\u003c")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: ebmsim"),
        element("link", rel="icon", href="data:,"),
        element("style", _asset("report.css")),
    )
    links = [element("li", element("a", _heading(part), href=f"#{part.get('id')}")) for part in parts]
    body = element(
        "body",
        element("a", "Skip to the answer", href="#answer", class_="skip"),
        element("header", element("h1", title), element("p", f"{w.file.title}. {e.hardware.title}.")),
        element("nav", element("ul", *links), aria_label="Parts of the page"),
        element("main", *parts),
        element("footer", element("p", f"Made by ebmsim {e.to_dict()['version']}; device {_known(e)}.")),
        element("script", answer, type="application/json", id="estimate"),
        element("script", _asset("report.js")),
    )
    return written(element("html", head, body, lang="en"))


def _sections(e: Estimate, w: Workload, command: str) -> list[Element]:
    from ebmsim.sweep.sensitivity import elasticities

    answer = e.to_dict()
    found = elasticities(e)
    again = [element("p", "The same page again:"), element("pre", element("code", command))] if command else []
    return [
        section("answer", "Answer", tables.answers(e, answer), tables.in_short(e, answer)),
        section(
            "time",
            "Where the time goes",
            element("div", *pictures.breakdowns(e), class_="beside"),
            tables.phases(e, answer),
            tables.times(answer),
            element(
                "div",
                tables.shares(answer, "categories", "The device's busy time by category", "category"),
                tables.shares(answer, "bounds", "A step's time by what binds it", "bound"),
                class_="beside",
            ),
        ),
        section(
            "components",
            "Components",
            element("div", drawn(w), class_="picture drawing", role="region", tabindex=0, aria_label="Wiring"),
            tables.components(answer),
            tables.work(answer),
        ),
        section("roofline-part", "Roofline", pictures.roofline(e)),
        section("kernels", "Kernels", tables.kernels(e)),
        section("memory", "Memory", element("div", *tables.memory(e.lowered, answer), class_="beside")),
        section("improve", "What to improve next", pictures.improvements(found), origins.improvements(found)),
        section("figures", "Figures of the device", *origins.device_figures(e, found)),
        section("workload", "The workload's source", *origins.workload_origin(w)),
        section("assumptions", "Assumptions", *origins.assumptions(e)),
        section("settings", "Settings", origins.policy(e), origins.settings(w), *again),
    ]


def _heading(part: Element) -> str:
    return part[0].text or ""


def _known(e: Estimate) -> str:
    return "validated against measured kernels" if e.hardware.validated else "unvalidated"


@cache
def _asset(name: str) -> str:
    return files("ebmsim.report").joinpath("assets", name).read_text(encoding="utf-8")
