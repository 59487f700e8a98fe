"""Hardware files that say only what differs: what is taken over, what is not, and where problems stand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import ebmsim
from ebmsim.errors import SpecError
from ebmsim.graph.check import check_file
from ebmsim.hardware import Hardware
from ebmsim.spec.extends import extended, hardware_document
from ebmsim.spec.hardware import parse_hardware
from ebmsim.spec.library import files, names
from ebmsim.spec.located import parse_document

BASE = """\
name: toy
title: A toy
kind: gpu
software: ideal
validated: true
references: {SHEET: data sheet}
units: 4
clock: 2 GHz
sustained_clock: 1 GHz
matrix: {organisation: tiles, peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}}
vector: {peak: {fp32: 1 TFLOP/s}, special: 1 Gop/s, random: 2 Gop/s}
memory:
  l2: {capacity: 1 MiB, bandwidth: 1 TB/s}
  dram: {capacity: 1 GB, bandwidth: 100 GB/s}
host: {speed: 1, asynchronous: true, synchronise: 0 us}
launch: {eager: 2 us, graph: 1 us, persistent: 0 us, replay: 1 us, concurrent_kernels: 8}
power: {limit: 10 W, static: 0 W, energy: {fp32: 1 pJ/FLOP}}
notes: [one, two]
sources:
  units: vendor, SHEET
  memory.l2.capacity: vendor, SHEET
  memory.l2.bandwidth: measured, SHEET
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.yaml").write_text(BASE, encoding="utf-8")
    return tmp_path


def parsed(text: str) -> Hardware:
    return parse_hardware(parse_document(text, "f.yaml"))


def problems(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parsed(text)
    return str(caught.value)


def test_three_lines_make_a_device() -> None:
    """A 5090 with four times the L2: all else is that of the 5090."""
    base, big = (
        ebmsim.load_hardware("rtx5090"),
        parsed("name: big\nextends: rtx5090\nmemory: {l2: {capacity: 384 MiB}}"),
    )
    l2 = dataclasses.replace(base.memory[1], capacity=4 * base.memory[1].capacity)
    assert big == dataclasses.replace(
        base,
        name="big",
        title=f"{base.title}, changed",
        memory=(base.memory[0], l2, base.memory[2]),
        sources={**base.sources, "memory.l2.capacity": ("estimate", "stated in this file")},
    )


@pytest.mark.usefixtures("here")
def test_sources_follow_their_figures() -> None:
    text = "name: f\nextends: toy.yaml\nunits: 8\nmemory: {l2: {capacity: 2 MiB, efficiency: 0.5}}\n"
    device = parsed(text + "sources: {units: 'measured, NEW', power.limit: 'vendor, SHEET'}\nreferences: {NEW: a test}")
    assert device.sources == {
        "units": ("measured", "NEW"),
        "memory.l2.capacity": ("estimate", "stated in this file"),
        "memory.l2.bandwidth": ("measured", "SHEET"),
        "power.limit": ("vendor", "SHEET"),
        "memory.l2.efficiency": ("estimate", "stated in this file"),
    }
    assert device.references == {"SHEET": "data sheet", "NEW": "a test"}


@pytest.mark.usefixtures("here")
def test_a_base_without_sources() -> None:
    Path("bare.yaml").write_text(BASE[: BASE.index("sources:")], encoding="utf-8")
    device = parsed("name: f\nextends: bare.yaml\nunits: 8")
    assert device.sources == {"units": ("estimate", "stated in this file")}


ARRAYS = """\
matrix:
  organisation: systolic
  subarrays: [{rows: 8, columns: 8, arrays: 1}, {rows: 4, columns: 4, arrays: 2}]
  peak: {fp32: 2 TFLOP/s}
"""


@pytest.mark.parametrize("source", ["matrix.subarrays: 'vendor, NEW'", "units: 'vendor, NEW'"])
def test_the_source_of_a_list_is_that_of_its_items(here: Path, source: str) -> None:
    """Those that the base gives its own items go with them; one that the file gives an item stays."""
    of_items = "  matrix.subarrays: vendor, SHEET\n  matrix.subarrays[1].rows: vendor, SHEET\n"
    plain = "matrix: {organisation: tiles, peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}}\n"
    (here / "arrays.yaml").write_text(BASE.replace(plain, ARRAYS) + of_items, encoding="utf-8")
    text = "name: f\nextends: arrays.yaml\nmatrix: {subarrays: [{rows: 9, columns: 8, arrays: 1}]}\n"
    stated = ("vendor", "NEW") if "matrix" in source else ("estimate", "stated in this file")
    found = {k: v for k, v in parsed(f"{text}sources: {{{source}}}").sources.items() if k.startswith("matrix")}
    assert found == {"matrix.subarrays": stated}
    found = parsed(f"{text}sources: {{{source}, 'matrix.subarrays[0].rows': 'measured, NEW'}}").sources
    assert (found["matrix.subarrays"], found["matrix.subarrays[0].rows"]) == (stated, ("measured", "NEW"))


@pytest.mark.usefixtures("here")
def test_lists_and_scalars_replace_and_validated_is_never_inherited() -> None:
    assert parsed("name: f\nextends: toy.yaml").notes == ("one", "two")
    device = parsed("name: f\nextends: toy.yaml\nnotes: [three]\nsoftware: torch-cuda")
    assert device.notes == ("three",) and device.software == "torch-cuda"
    assert ebmsim.load_hardware("toy.yaml").validated and not device.validated
    assert parsed("name: f\nextends: toy.yaml\nvalidated: true").validated


@pytest.mark.usefixtures("here")
def test_a_new_level_stands_before_the_next_one_that_is_known() -> None:
    new = "l3: {capacity: 8 MiB, bandwidth: 0.5 TB/s}"
    inside = parsed(f"name: f\nextends: toy.yaml\nmemory: {{{new}, dram: {{}}}}")
    assert [level.name for level in inside.memory] == ["l2", "l3", "dram"]
    assert inside.memory[-1].bandwidth == 100e9
    last = parsed(f"name: f\nextends: toy.yaml\nmemory: {{{new}}}")
    assert [level.name for level in last.memory] == ["l2", "dram", "l3"]


def test_a_path_is_taken_from_the_folder_of_the_file(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "one.yaml").write_text("name: one\nextends: ../toy.yaml\nunits: 5", encoding="utf-8")
    (here / "two.yml").write_text("name: two\ntitle: Two\nextends: sub/one.yaml\nclock: 3 GHz", encoding="utf-8")
    two = ebmsim.load_hardware("two.yml")
    assert (two.name, two.title, two.units, two.clock) == ("two", "Two", 5, 3e9)
    assert ebmsim.load_hardware(here / "sub" / "one.yaml").title == "A toy, changed"


def test_chains_of_up_to_eight(here: Path) -> None:
    (here / "d0.yaml").write_text(BASE, encoding="utf-8")
    for n in range(1, 10):
        text = f"name: d{n}\nextends: d{n - 1}.yaml\nlaunch: {{concurrent_kernels: {n}}}"
        (here / f"d{n}.yaml").write_text(text, encoding="utf-8")
    eight = ebmsim.load_hardware("d8.yaml")
    assert eight.launch.concurrent_kernels == 8 and eight.title == "A toy" + 8 * ", changed"
    expected = "d1.yaml:2:10: extends: a chain of more than 8 files that extend others"
    assert [str(problem) for problem in check_file("d9.yaml")] == [expected]


def test_a_problem_stands_in_the_file_that_wrote_the_value(here: Path) -> None:
    (here / "low.yaml").write_text(BASE.replace("limit: 10 W", "limit: 10 kg"), encoding="utf-8")
    (here / "mid.yaml").write_text("name: mid\nextends: low.yaml\nunit: 4\nunits: 0", encoding="utf-8")
    assert problems("name: f\nextends: mid.yaml\nclock: 1 s\nmemory: {l2: {capacity: 2 MiB}, l9: 5}") == (
        "f.yaml:3:8: clock: expected a frequency such as '2.41 GHz', found '1 s' (s is seconds, not hertz)\n"
        "f.yaml:4:37: memory.l9: expected a mapping, found 5\n"
        "low.yaml:17:16: power.limit: expected a power such as '575 W', found '10 kg' ('kg' is not a unit)\n"
        "mid.yaml:3:1: unit: unknown key 'unit'\n    did you mean 'units'?\n"
        "mid.yaml:4:8: units: expected a whole number from 1 to 1e9, found 0\n"
        "5 errors"
    )


def test_an_unreadable_base_is_reported_in_its_own_file(here: Path) -> None:
    (here / "broken.yaml").write_text("name: [", encoding="utf-8")
    assert problems("name: f\nextends: broken.yaml").startswith("broken.yaml:2:1: not valid YAML")
    (here / "folder.yaml").mkdir()
    expected = "f.yaml:2:10: extends: expected a file, found a directory: folder.yaml"
    assert problems("name: f\nextends: folder.yaml") == expected


def test_a_figure_set_on_top_of_an_extended_file(here: Path) -> None:
    (here / "f.yaml").write_text("name: f\nextends: toy.yaml\nunits: 8", encoding="utf-8")
    assert ebmsim.load_hardware("f.yaml", {"memory.dram.bandwidth": "5 GB/s"}).memory[-1].bandwidth == 5e9


def test_a_document_that_extends_nothing_stays_as_it_is() -> None:
    document = parse_document(BASE)
    assert extended(document) is document


def test_variants_are_devices_of_their_own(here: Path) -> None:
    text = (
        BASE
        + "variants:\n  slow: {clock: 1 GHz}\n  wide: {title: Wide toy, units: 8, sources: {units: 'vendor, SHEET'}}\n"
    )
    (here / "toys.yaml").write_text(text, encoding="utf-8")
    whole, slow, wide = (ebmsim.load_hardware(f"toys.yaml{name}") for name in ("", ":slow", ":wide"))
    assert (whole.name, whole.clock, whole.validated) == ("toy", 2e9, True)
    assert (slow.name, slow.title, slow.clock, slow.validated) == ("slow", "A toy, changed", 1e9, False)
    assert slow.sources["clock"] == ("estimate", "stated in this file")
    assert (wide.title, wide.units, wide.sources["units"]) == ("Wide toy", 8, ("vendor", "SHEET"))
    assert check_file("toys.yaml") == []
    assert parsed("name: f\nextends: toys.yaml:wide\nclock: 3 GHz").units == 8
    with pytest.raises(SpecError) as caught:
        ebmsim.load_hardware("toys.yaml:wider")
    assert str(caught.value) == "toys.yaml: unknown variant 'wider'\n    did you mean 'wide'?"
    with pytest.raises(SpecError) as caught:
        ebmsim.load_hardware("toy.yaml:wide")
    assert str(caught.value) == "toy.yaml: unknown variant 'wide'\n    it has no variants"


def test_variants_are_not_inherited(here: Path) -> None:
    (here / "toys.yaml").write_text(BASE + "variants: {slow: {clock: 1 GHz}}", encoding="utf-8")
    (here / "f.yaml").write_text("name: f\nextends: toys.yaml", encoding="utf-8")
    assert "variants" not in hardware_document("f.yaml").data


def test_shipped_variants_resolve_by_name() -> None:
    assert set(files("hardware")) < set(names("hardware"))
    pcie, sxm = ebmsim.load_hardware("h100_pcie"), ebmsim.load_hardware("h100")
    assert (pcie.name, pcie.units, pcie.launch) == ("h100_pcie", 114, sxm.launch)
    assert pcie.memory[-1].capacity == sxm.memory[-1].capacity
    with pytest.raises(SpecError, match="unknown hardware 'h100_pci'\n    did you mean 'h100_pcie'"):
        ebmsim.load_hardware("h100_pci")


def test_a_shipped_file_may_extend_another() -> None:
    a100, small = ebmsim.load_hardware("a100"), ebmsim.load_hardware("a100_40gb_pcie")
    assert small.matrix == a100.matrix and small.memory[:2] == a100.memory[:2]
    assert (small.memory[2].capacity, small.memory[2].bandwidth, small.power.limit) == (40e9, 1555e9, 250)
