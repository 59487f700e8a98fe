"""The page of an estimate: its figures are the answer's, it loads nothing, and everybody can read it."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command_line import run

import ebmsim
from ebmsim.cli.main import main
from ebmsim.report import html_tables
from ebmsim.report.html import page
from ebmsim.report.html_drawing import _placed
from ebmsim.report.html_wiring import layers, steps, wiring
from ebmsim.spec.library import names

Capture = pytest.CaptureFixture[str]
ASSETS = Path(ebmsim.__file__).parent / "report" / "assets"
VOID = {"meta", "link", "input", "br"}
# Energies, scores with host work, a decoder, no training; a limit without intervals.
CASES = (
    ("ebm_cvr", "rtx5090", {}),
    ("ccsp", "tpu_v6e", {"fidelity": "roofline"}),
    ("ebm_mbp", "ryzen9900x", {"chain_mode": "sequential"}),
    ("resnet50", "h100", {"execution": "graph", "dtype": "bf16"}),
)
EVERY = pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{w}-{h}" for w, h, _ in CASES])


@dataclass
class Node:
    """An element as the page has it."""

    tag: str
    attributes: dict[str, str]
    parent: Node | None = None
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str = "", **wanted: str) -> list[Node]:
        """Elements below, in order."""
        return [n for n in self.below() if tag in ("", n.tag) and wanted.items() <= n.attributes.items()]

    def below(self) -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.below()


class Reader(HTMLParser):
    """A tree of a page. Every element must be closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.here = self.root = Node("", {})

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        node = Node(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag and self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def parsed(text: str) -> Node:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.here is reader.root
    return reader.root


@cache
def estimate(case: int) -> tuple[ebmsim.Estimate, ebmsim.Workload]:
    workload, device, policy = CASES[case]
    loaded = ebmsim.load_workload(workload, "small")
    return ebmsim.estimate(loaded, ebmsim.load_hardware(device), ebmsim.Policy(**policy)), loaded


@cache
def text_of(case: int) -> str:
    return page(*estimate(case), command="ebmsim report")


@cache
def tree(case: int) -> Node:
    return parsed(text_of(case))


# --- figures ----------------------------------------------------------------------------------------------------------


def leaves(value: Any, path: str = "") -> dict[str, float]:
    """Every number of a JSON object by its path."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return {}
    if isinstance(value, (int, float)):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found: dict[str, float] = {}
    for key, inner in items:
        found |= leaves(inner, f"{path}.{key}".lstrip("."))
    return found


@EVERY
def test_every_number_of_the_answer_is_there_and_no_other(case: int) -> None:
    answer = estimate(case)[0].to_dict()
    parts = ("seconds", "seconds_interval", "memory", "energy", "categories", "bounds", "work", "size", "components")
    expected = leaves({name: answer[name] for name in parts})
    shown = [node for node in tree(case).all("data") if "data-figure" in node.attributes]
    for node in shown:
        assert float(node.attributes["value"]) == expected[node.attributes["data-figure"]]
    assert {node.attributes["data-figure"] for node in shown} == set(expected)


_PREFIX = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "m": -3, "µ": -6, "n": -9, "p": -12}
_SHORT = re.compile(r"([\d.,]+) ?(?:([kMGTmµnp]?)(?:FLOP|s|J|W)|([KMGT]i)?B|(%))?")


@EVERY
def test_texts_say_what_the_exact_values_are(case: int) -> None:
    read = 0
    for node in tree(case).all("data"):
        match = _SHORT.fullmatch(node.text)
        if "data-figure" not in node.attributes or match is None:
            continue
        number, prefix, binary, percent = match.groups()
        scale = (
            0.01 if percent else 1024.0 ** (1 + "KMGT".index(binary[0])) if binary else 10.0 ** _PREFIX[prefix or ""]
        )
        digits = len(number.partition(".")[2])
        assert float(number.replace(",", "")) * scale == pytest.approx(
            float(node.attributes["value"]), rel=1e-9, abs=0.5001 * scale * 10.0**-digits
        )
        read += 1
    assert read > 40


@EVERY
def test_the_page_carries_the_answer_itself(case: int) -> None:
    [block] = tree(case).all("script", id="estimate")
    assert block.attributes["type"] == "application/json"
    assert json.loads(block.text) == json.loads(json.dumps(estimate(case)[0].to_dict()))


def rows_of(root: Node, name: str) -> list[list[Node]]:
    [table] = root.all("table", id=name)
    body = table.all("tbody")[0]
    return [[cell for cell in row.children if isinstance(cell, Node)] for row in body.all("tr")]


@EVERY
def test_kernels_by_time(case: int) -> None:
    e, _ = estimate(case)
    expected = sorted(e.to_rows(), key=lambda row: -row["seconds"])
    rows = rows_of(tree(case), "kernels-table")
    assert [row[0].text for row in rows] == [row["kernel"] for row in expected]
    for cells, kernel in zip(rows, expected, strict=True):
        exact = [float(cell.all("data")[0].attributes["value"]) for cell in cells if cell.all("data")]
        moved = kernel["bytes_read"] + kernel["bytes_written"]
        part = kernel["seconds"] / e.timing.seconds
        rest = [kernel["flops"], moved, kernel["device_seconds"], kernel["host_seconds"]]
        assert exact == [kernel["seconds"], part, *rest]
        assert [c.text for c in cells if not c.all("data")][1:] == [
            kernel[key] for key in ("bound", "phase", "op", "category")
        ]
    [table] = tree(case).all("table", id="kernels-table")
    sorted_by = [cell for cell in table.all("th", scope="col") if "aria-sort" in cell.attributes]
    assert [(cell.text, cell.attributes["aria-sort"]) for cell in sorted_by] == [("time", "descending")]


def test_of_too_many_kernels_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_tables, "_LISTED", 10)
    e, _ = estimate(0)
    found = parsed(f"<div>{page_part(html_tables.kernels(e))}</div>")
    seconds = sorted((row["seconds"] for row in e.to_rows()), reverse=True)
    part = 100 * sum(seconds[:10]) / sum(seconds)
    [caption] = found.all("caption")
    assert f"The 10 longest of {len(seconds)} kernels" in caption.text and f"{part:.1f} % of" in caption.text
    assert len(rows_of(found, "kernels-table")) == 10


def page_part(made: Any) -> str:
    from xml.etree.ElementTree import tostring

    return tostring(made, encoding="unicode", method="html")


@EVERY
def test_parts_of_memory_add_up(case: int) -> None:
    e, _ = estimate(case)
    inference = html_tables.inference_parts(e.lowered)
    assert sum(inference.values()) == pytest.approx(e.memory["inference_bytes"], rel=1e-12)
    training = html_tables.training_parts(e.lowered)
    assert bool(training) == (e.memory["training_bytes"] is not None)
    if training:
        assert sum(training.values()) == pytest.approx(e.memory["training_bytes"], rel=1e-12)
    capacity = e.memory["capacity_bytes"]
    for row in rows_of(tree(case), "memory-inference"):
        held, part = (float(cell.all("data")[0].attributes["value"]) for cell in row[1:])
        assert part == pytest.approx(held / capacity)


# --- sources ----------------------------------------------------------------------------------------------------------


@EVERY
def test_figures_of_the_device_have_their_mark_and_source(case: int) -> None:
    h = estimate(case)[0].hardware
    rows = {row[0].text: row for row in rows_of(tree(case), "figures-table")}
    for path, (mark, text) in h.sources.items():
        if path in rows:
            assert [cell.text for cell in rows[path][3:]] == [mark, text]
    assert {"units", "sustained_clock", "power.limit", f"memory.{h.memory[-1].name}.bandwidth"} <= rows.keys()
    assert {row[3].text for path, row in rows.items() if path not in h.sources} <= {"default"}
    bandwidth = rows[f"memory.{h.memory[-1].name}.bandwidth"][1].all("data")[0]
    assert float(bandwidth.attributes["value"]) == h.memory[-1].bandwidth


@EVERY
def test_what_is_assumed_and_where_it_is_from(case: int) -> None:
    e, w = estimate(case)
    text = tree(case).text
    for said in (*w.file.notes, *e.profile.sources.values(), *e.hardware.notes, w.file.paper.title):
        assert said in text
    assert ("80 % intervals: an error of" in text) == bool(e.seconds_interval)
    assert ("unvalidated" in text) == (not e.hardware.validated)
    parameters = {row[0].text: row[1].text for row in rows_of(tree(case), "settings-table")}
    assert parameters == {name: str(value) for name, value in w.parameters.items()}


@EVERY
def test_elasticities_are_those_of_the_sensitivity(case: int) -> None:
    from ebmsim.sweep.sensitivity import elasticities

    found = {row.figure: row for row in elasticities(estimate(case)[0]).rows}
    shown = {row[0].text: row for row in rows_of(tree(case), "improve-table")}
    assert set(shown) == {name for name, row in found.items() if row.best.change < -1e-3} and shown
    for name, cells in shown.items():
        exact = [float(cell.all("data")[0].attributes["value"]) for cell in cells[1:]]
        row = found[name]
        assert exact == [row.value, row.best.value, row.best.change, row.elasticity]


# --- a page by itself -------------------------------------------------------------------------------------------------


@EVERY
def test_nothing_is_loaded(case: int) -> None:
    text, root = text_of(case), tree(case)
    assert not [node for node in root.below() if {"src", "srcset", "action", "poster"} & node.attributes.keys()]
    for node in root.below():
        for name in ("href", "xlink:href"):
            address = node.attributes.get(name, "#")
            assert address[0] == "#" or address.startswith("data:") or node.tag == "a", address
    [style] = root.all("style")
    assert "@import" not in style.text and "url(" not in style.text
    assert set(re.findall(r"url\(([^)]?)", text)) <= {"#"}
    [policy] = root.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy.attributes["content"].startswith("default-src 'none'") and "http" not in policy.attributes["content"]
    assert len(text.encode()) < 1_500_000


def test_the_same_estimate_makes_the_same_page() -> None:
    assert page(*estimate(3), command="ebmsim report") == text_of(3)


def test_texts_of_files_are_no_markup(tmp_path: Path) -> None:
    evil = "</script></title><script>alert(1)</script><b onload='x'>&amp;"
    file = tmp_path / "evil.yaml"
    source = (Path(ebmsim.load_workload("irem").document.file)).read_text(encoding="utf-8")
    source = re.sub(r"^title: .*$", lambda _: f"title: {json.dumps(evil)}", source, flags=re.M)
    source = re.sub(r"^presets:\n", lambda m: f"{m[0]}  {json.dumps(evil)}: {{chains: 3}}\n", source, flags=re.M)
    file.write_text(source, encoding="utf-8")
    w = ebmsim.load_workload(str(file), evil)
    root = parsed(page(ebmsim.estimate(w, ebmsim.load_hardware("h100")), w, evil))
    assert len(root.all("script")) == 2 and not root.all("b")
    assert evil in root.all("header")[0].text and root.all("code")[-1].text == evil
    assert json.loads(root.all("script")[0].text)["settings"]["preset"] == evil


# --- for everybody ----------------------------------------------------------------------------------------------------


@EVERY
def test_structure(case: int) -> None:
    root = tree(case)
    [html] = root.all("html")
    assert html.attributes["lang"] == "en" and len(root.all("h1")) == len(root.all("main")) == 1
    levels = [int(node.tag[1]) for node in root.below() if re.fullmatch("h[1-6]", node.tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [node.attributes["id"] for node in root.below() if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    named = [node.attributes.get("aria-labelledby", "") for node in root.below()]
    assert {word for value in named for word in value.split()} <= set(ids)
    links = [node.attributes["href"] for node in root.below() if node.attributes.get("href", "").startswith("#")]
    assert {link[1:] for link in links} <= set(ids)
    skip = root.all("body")[0].all("a")[0]
    assert skip.attributes["class"] == "skip" and skip.attributes["href"] == "#answer"


@EVERY
def test_tables_and_pictures_have_words(case: int) -> None:
    root = tree(case)
    assert len(root.all("table")) >= 11 and len(root.all("svg")) == 7
    for table in root.all("table"):
        [head], columns = table.all("thead"), table.all("th", scope="col")
        assert table.all("caption")[0].text and all(cell.text for cell in columns)
        assert all(cell.attributes["scope"] for cell in table.all("th"))
        assert {len(row.all("th")) + len(row.all("td")) for row in table.all("tr")} == {len(head.all("th"))}
        assert table.parent is not None and table.parent.attributes["class"] == "scroll"
    for svg in root.all("svg"):
        title, words = svg.all("title")[0], svg.all("desc")[0]
        assert svg.attributes["role"] == "img" and title.text and words.text
        assert svg.attributes["aria-labelledby"] == f"{title.attributes['id']} {words.attributes['id']}"
    for node in root.all(tabindex="0"):
        assert node.attributes["role"] == "region" and {"aria-label", "aria-labelledby"} & node.attributes.keys()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_in_light_and_dark() -> None:
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 2 and schemes[0].keys() == schemes[1].keys() and schemes[0]["page"] != schemes[1]["page"]
    for colours in schemes:
        for ink in ("ink", "muted", "link"):
            for ground in ("page", "band"):
                bright, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5
    # Every other colour of the page is white paper under pictures.
    rest = re.sub(r":root \{.*?\}", "", style, flags=re.S)
    assert set(re.findall(r"#[0-9a-f]{3,8}\b(?=;)", rest)) == {"#ffffff"}


# --- the drawing ------------------------------------------------------------------------------------------------------


def test_wiring_of_branches() -> None:
    w = wiring(ebmsim.load_workload("ebm_cvr"))
    networks = ("main", "mid", "small")
    expected = {("label", "embedder"), (".energy", ".gradient"), (".gradient", ".sampler")}
    expected |= {(source, name) for source in ("im", "embedder") for name in networks}
    expected |= {(name, ".energy") for name in networks}
    assert set(w.arrows) == expected and (w.sample, w.sampler) == ("im", ".sampler")
    assert w.boxes[".energy"].detail == "the sum" and "im to main, mid, small" in w.words


def test_scores_have_no_gradient_and_a_decoder_comes_last() -> None:
    scores = wiring(ebmsim.load_workload("ccsp"))
    assert ".gradient" not in scores.boxes and ("decoder", ".score") in scores.arrows
    w = wiring(ebmsim.load_workload("ebm_mbp"))
    assert (".sampler", "actions") in w.arrows and layers(w)[-1] == ["actions"]
    # What only the sampler reads leads there; one energy needs no box for a sum.
    assert ("start", ".sampler") in w.arrows
    assert {"energy", ".gradient"} <= set(wiring(ebmsim.load_workload("ebm_imp")).boxes)
    assert ".energy" not in wiring(ebmsim.load_workload("ebm_imp")).boxes


@pytest.mark.parametrize("name", names("workload"))
def test_every_workload_is_drawn_from_left_to_right(name: str) -> None:
    loaded = ebmsim.load_workload(name, "small")
    w = wiring(loaded)
    found = layers(w)
    places = _placed(w, found)
    for arrow in w.arrows:
        path = [places[key] for key in steps(arrow, found)]
        assert all(a.right < b.left for a, b in pairwise(path))
    boxes = [places[key] for layer in found for key in layer]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            beside = a.right <= b.left or b.right <= a.left
            assert beside or a.top >= b.top + b.high or b.top >= a.top + a.high
    of_inference = {c.name for c in ebmsim.estimate(loaded, ebmsim.load_hardware("h100")).lowered.components}
    assert {key for key, box in w.boxes.items() if box.kind == "component"} <= of_inference
    for key, box in w.boxes.items():
        assert places[key].wide >= 6 * len(box.title) and math.isfinite(places[key].top)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_on_the_page_makes_the_same_page(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--preset", "small", "--set", "chains=3", "--set", "hw.memory.dram.bandwidth=1 TB/s", "--dtype", "bf16")
    assert run(capsys, "report", "irem", "--hw", "h100", *words, "-o", "first.html") == (0, "first.html\n", "")
    first = Path("first.html").read_text(encoding="utf-8")
    [command] = parsed(first).all("pre")
    again = shlex.split(command.text)
    assert again[:4] == ["ebmsim", "report", "irem", "--hw"] and "--streams" in again
    assert run(capsys, *again[1:]) == (0, "report.html\n", "")
    assert Path("report.html").read_text(encoding="utf-8") == first


def test_a_page_on_stdout(capsys: Capture) -> None:
    import sys
    from io import BytesIO, TextIOWrapper

    out = BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", TextIOWrapper(out, write_through=True))
        main(("report", "irem", "--hw", "h100", "--preset", "small", "-o", "-"))
        written = out.getvalue()
    assert written.startswith(b"<!doctype html>") and written.endswith(b"</html>\n")


def test_all_that_is_wrong_at_once(capsys: Capture) -> None:
    status, out, err = run(capsys, "report", "irem", "--hw", "h10", "--dtype", "fp33", "-o", "nowhere/page.html")
    assert (status, out) == (2, "") and err.endswith("3 errors\n")
    assert "nowhere/page.html: no such folder 'nowhere'" in err and "unknown hardware 'h10'" in err


def test_what_is_no_page(capsys: Capture, tmp_path: Path) -> None:
    status, _, err = run(capsys, "report", "irem", "--hw", "h100", "-o", str(tmp_path / "page.pdf"))
    assert status == 2 and "expected a page (.html), found 'page.pdf'" in err and not list(tmp_path.iterdir())
