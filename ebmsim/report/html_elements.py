"""Elements of a page: a tree, so that every text is escaped and every element closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from xml.etree.ElementTree import Element, tostring

from ebmsim.report.sensitivity import quantity as figure_of_device
from ebmsim.report.table import share
from ebmsim.units import format_quantity

Content: TypeAlias = Element | str | None
"""What an element holds; None is nothing."""


def element(tag: str, *children: Content, **attributes: Any) -> Element:
    """An element. Attributes: `class_` is class, `aria_label` aria-label; True has no value, None is left out."""
    given = {k.rstrip("_").replace("_", "-"): v for k, v in attributes.items() if v is not None and v is not False}
    made = Element(tag, {name: "" if value is True else str(value) for name, value in given.items()})
    append(made, *children)
    return made


def append(parent: Element, *children: Content) -> None:
    """Add elements and texts behind what an element already holds."""
    for child in children:
        if child is None:
            continue
        if not isinstance(child, str):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + child
        else:
            parent.text = (parent.text or "") + child


def written(root: Element) -> str:
    """A page as HTML text."""
    return f"<!doctype html>\n{tostring(root, encoding='unicode', method='html')}\n"


def section(name: str, title: str, *children: Content) -> Element:
    """A part of the page with its heading; `name` is what links lead to."""
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def quantity(value: float | None, dimension: str, figure: str = "") -> Content:
    """A number with its unit, and beside it the exact value in SI units; a dash for None.

    dimension: of `units`, or share, count, or "device <path>" for a figure of a device. figure: its path in the
    answer's JSON object.
    """
    if value is None:
        return "–"
    if dimension == "share":
        text = share(value)
    elif dimension == "count":
        text = f"{value:,.0f}"
    elif dimension.startswith("device "):
        text = figure_of_device(dimension.partition(" ")[2], value)
    else:
        text = format_quantity(value, dimension)
    return element("data", text, value=repr(value), data_figure=figure or None)


def answered(answer: Mapping[str, Any], path: str, dimension: str) -> Content:
    """A figure of the answer's JSON object by its path, such as "seconds.t_samp" or "components.0.t_fwd"."""
    value: Any = answer
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    return quantity(value, dimension, path)


def interval(answer: Mapping[str, Any], name: str) -> Content:
    """The 80 % interval of a time; a dash where there is none."""
    if name not in answer["seconds_interval"]:
        return "–"
    ends = [answered(answer, f"seconds_interval.{name}.{i}", "time") for i in (0, 1)]
    return element("span", ends[0], " to ", ends[1], class_="interval")


def table(
    name: str,
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[Content]],
    descending: str = "",
    top: int = 0,
) -> Element:
    """A table in a box of its own that scrolls; the first cell of a row is its heading.

    Columns of numbers stand on the right. descending: the column that rows are sorted by. With `top` the page can
    filter and sort rows, and shows so many at first.
    """
    body = [[cell if cell is not None else "" for cell in row] for row in rows]
    numbers = [any(_is_number(row[i]) for row in body) for i in range(len(columns))]
    head = [
        element(
            "th",
            column,
            scope="col",
            class_="number" if number else None,
            aria_sort="descending" if descending and column == descending else None,
        )
        for column, number in zip(columns, numbers, strict=True)
    ]
    filled = [
        element("tr", element("th", row[0], scope="row"), *[element("td", cell) for cell in row[1:]]) for row in body
    ]
    whole = element(
        "table",
        element("caption", element("span", caption, id=f"{name}-caption")),
        element("thead", element("tr", *head)),
        element("tbody", *filled),
        id=name,
        class_="sortable" if descending else None,
        data_top=top or None,
    )
    return element("div", whole, class_="scroll", role="region", tabindex=0, aria_labelledby=f"{name}-caption")


def _is_number(cell: Content) -> bool:
    return isinstance(cell, Element) and cell.tag == "data"


def terms(*pairs: tuple[str, Sequence[Content]]) -> Element:
    """Names with what they stand for."""
    return element("dl", *[element("div", element("dt", name), element("dd", *what)) for name, what in pairs])


def bullets(items: Iterable[Content]) -> Element:
    """A list."""
    return element("ul", *[element("li", item) for item in items])
