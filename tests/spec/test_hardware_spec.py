"""Hardware files: those we ship, the rules of the grammar, and every refusal word by word."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebmsim.errors import SpecError
from ebmsim.hardware import Hardware, SubArray
from ebmsim.spec.extends import hardware_document
from ebmsim.spec.hardware import parse_hardware
from ebmsim.spec.library import files, names
from ebmsim.spec.located import load_document, parse_document
from ebmsim.spec.schema import hardware_schema

FOLDER = Path(__file__).parents[2] / "hardware"
DEVICES = names("hardware")

MINIMAL = """\
name: toy
title: A toy
kind: gpu
software: ideal
units: 4
clock: 2 GHz
sustained_clock: 1 GHz
matrix:
  organisation: tiles
  peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}
vector: {peak: {fp32: 1 TFLOP/s}, special: 1 Gop/s, random: 2 Gop/s}
memory:
  l2: {capacity: 1 MiB, bandwidth: 1 TB/s}
  dram:
    capacity: 1 GB
    bandwidth: 100 GB/s
host: {speed: 1, asynchronous: true, synchronise: 0 us}
launch: {eager: 2 us, graph: 1 us, persistent: 0 us, replay: 1 us, concurrent_kernels: 8}
power: {limit: 10 W, static: 0 W, energy: {fp32: 1 pJ/FLOP}}
sources:
  units: vendor, datasheet
"""


def device(name: str) -> Hardware:
    return parse_hardware(hardware_document(name))


def parsed(text: str) -> Hardware:
    return parse_hardware(parse_document(text, "f.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parsed(text)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert MINIMAL.count(old) == 1
    return MINIMAL.replace(old, new)


def figures(data: Any, path: str = "") -> Iterator[str]:
    """The paths of all numbers and quantities."""
    if isinstance(data, dict):
        for key, value in data.items():
            if path or key not in ("references", "notes", "sources", "title", "name", "variants"):
                yield from figures(value, f"{path}.{key}".lstrip("."))
    elif not isinstance(data, bool) and re.match("[0-9]", str(data)):
        yield path


@pytest.mark.parametrize("name", DEVICES)
def test_shipped_file(name: str) -> None:
    hardware = device(name)
    assert hardware.name == name
    errors = (Path(__file__).parents[2] / "docs" / "validation" / "gpu_kernels.md").read_text(encoding="utf-8")
    measured = {f"| {hardware.name} |", f"| {hardware.name}_sxm |"}
    assert hardware.validated == any(label in errors for label in measured)
    assert pickle.loads(pickle.dumps(hardware)) == hardware
    bandwidths = [level.bandwidth for level in hardware.memory]
    assert bandwidths == sorted(bandwidths, reverse=True)


@pytest.mark.parametrize("name", DEVICES)
def test_every_figure_has_a_source_and_every_source_a_reference(name: str) -> None:
    document = hardware_document(name)
    hardware = parse_hardware(document)
    assert [path for path in figures(document.data) if path not in hardware.sources] == []
    assert ("estimate", "stated in this file") not in hardware.sources.values()
    for mark, text in hardware.sources.values():
        if mark != "estimate":
            for tag in re.sub(r"\(.*?\)", "", text).split(","):
                assert tag.strip() in hardware.references


@pytest.mark.parametrize("name", files("hardware"))
def test_every_reference_of_a_file_is_cited_there(name: str) -> None:
    data = load_document(FOLDER / f"{name}.yaml").data
    parts = [data, *data.get("variants", {}).values()]
    cited = [text for part in parts for text in (*part.get("sources", {}).values(), *part.get("notes", ()))]
    words = set(re.findall(r"[A-Z0-9-]+", " ".join(cited)))
    assert [tag for tag in data.get("references", {}) if tag not in words] == []


@pytest.mark.parametrize("name", files("hardware"))
def test_a_bandwidth_stands_on_a_line_of_its_own(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if "bandwidth:" in line and re.match(" +bandwidth:", line)]
    assert found
    assert all(re.fullmatch(r" {2,}bandwidth: [0-9.]+ [GT]B/s", line) for line in found)


def test_figures_of_the_gpu() -> None:
    gpu = device("rtx5090")
    assert gpu.units == 170 and gpu.clock == 2.407e9
    # 170 SMs, 128 multiply-adds a clock.
    assert gpu.matrix.peak["fp32"] == pytest.approx(170 * 128 * 2 * gpu.clock, rel=1e-3)
    assert gpu.memory[0].capacity == 170 * 128 * 1024
    assert gpu.memory[-1].bandwidth == 1792e9
    assert gpu.launch.eager == 1.6e-6
    assert gpu.sources["units"] == ("vendor", "GPUMAP")


def test_figures_of_the_cpu() -> None:
    cpu = device("ryzen9900x")
    assert cpu.matrix.peak["fp32"] == pytest.approx(12 * 64 * cpu.clock, rel=1e-3)
    assert [level.capacity / 2**20 for level in cpu.memory[:3]] == [0.5625, 12, 64]
    assert cpu.host.link_bandwidth == math.inf and cpu.host.link_latency == 0
    assert not cpu.host.asynchronous
    assert cpu.matrix.subarrays == () and cpu.matrix.cells == 0


def test_figures_of_the_tpu() -> None:
    tpu = device("tpu_v6e")
    assert tpu.matrix.subarrays == (SubArray(rows=256, columns=256, arrays=4),)
    assert tpu.matrix.peak["bf16"] == pytest.approx(4 * 256 * 256 * 2 * tpu.clock, rel=1e-3)
    assert tpu.matrix.peak["fp32"] == tpu.matrix.peak["bf16"] / 6
    assert tpu.matrix.weights_double_buffered


def test_defaults() -> None:
    toy = parsed(MINIMAL)
    assert toy.memory[0].efficiency == 1 and toy.memory[0].energy == 0
    assert dataclasses.astuple(toy.features) == (False, 1.0, False, False)
    assert toy.references == {} and toy.notes == () and not toy.validated
    assert toy.power.static == 0 and toy.launch.persistent == 0


def test_a_peak_may_have_a_clock_of_its_own() -> None:
    toy = parsed(changed("  organisation: tiles", "  organisation: tiles\n  clocks: {bf16: 1.8 GHz}"))
    assert toy.matrix_clock("bf16") == 1.8e9
    assert toy.matrix_clock("fp32") == toy.clock


def test_unequal_arrays() -> None:
    groups = "[{rows: 16, columns: 8, arrays: 2}, {rows: 4, columns: 4, arrays: 3}]"
    text = changed("organisation: tiles", f"organisation: systolic\n  subarrays: {groups}").replace(
        "  units: vendor, datasheet", "  matrix.subarrays[1].rows: vendor, datasheet"
    )
    toy = parsed(text)
    assert toy.matrix.subarrays == (SubArray(16, 8, 2), SubArray(4, 4, 3))
    assert toy.matrix.cells == 2 * 16 * 8 + 3 * 4 * 4
    assert toy.matrix.peak["fp32"] == 2e12
    assert toy.sources["matrix.subarrays[1].rows"] == ("vendor", "datasheet")


def test_bandwidths_need_not_fall_outwards() -> None:
    assert parsed(changed("100 GB/s", "3 TB/s")).memory[-1].bandwidth == 3e12


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bandwidth: 100 GB/s", "bandwidth: -5 GB/s",
         "16:16: memory.dram.bandwidth: expected a bandwidth such as '1792 GB/s', found '-5 GB/s' "
         "(a negative number)"),
        ("bandwidth: 100 GB/s", "bandwidth: 100 GHz",
         "16:16: memory.dram.bandwidth: expected a bandwidth such as '1792 GB/s', found '100 GHz' "
         "(GHz is hertz, not bytes per second)"),
        ("bandwidth: 100 GB/s", "bandwidth: 100 GB/s\n    bandwith: 1 GB/s",
         "17:5: memory.dram.bandwith: unknown key 'bandwith'\n    did you mean 'bandwidth'?"),
        ("    bandwidth: 100 GB/s\n", "", "15:5: memory.dram: missing key 'bandwidth'"),
        ("bandwidth: 100 GB/s", "bandwidth: 100 GB/s\n    technology: hmb",
         "17:17: memory.dram.technology: expected hbm, gddr, lpddr or none, found 'hmb'\n    did you mean 'hbm'?"),
        ("bandwidth: 1 TB/s", "bandwidth: 1 TB/s, technology: hbm",
         "13:44: memory.l2.technology: 'technology' is of the main memory, the last level"),
        ("capacity: 1 GB\n", "capacity: 1 GB\n    efficiency: 1.2\n",
         "16:17: memory.dram.efficiency: expected a number above 0 and up to 1, found 1.2"),
        ("capacity: 1 GB\n", "capacity: 1 GB\n    efficiency: 0\n",
         "16:17: memory.dram.efficiency: expected a number above 0 and up to 1, found 0"),
        ("capacity: 1 GB\n", "capacity: 1 GB\n    efficiency: .nan\n",
         "16:17: memory.dram.efficiency: expected a number above 0 and up to 1, found nan"),
        ("  dram:", "  Main Memory:",
         "14:3: memory.Main Memory: expected a name of lower case letters, digits and '_', "
         "found 'Main Memory'"),
        ("units: 4", "units: 0", "5:8: units: expected a whole number from 1 to 1e9, found 0"),
        ("units: 4", "units: 2.5", "5:8: units: expected a whole number from 1 to 1e9, found 2.5"),
        ("units: 4", "units: true", "5:8: units: expected a whole number from 1 to 1e9, found true"),
        ("units: 4", "units: [4]", "5:8: units: expected a whole number from 1 to 1e9, found a list"),
        ("\nclock: 2 GHz", "\nclock: .nan",
         "6:8: clock: expected a frequency such as '2.41 GHz', found nan (the unit is missing)"),
        ("\nclock: 2 GHz", "\nclock: nan GHz",
         "6:8: clock: expected a frequency such as '2.41 GHz', found 'nan GHz'"),
        ("sustained_clock: 1 GHz", "sustained_clock: 0 GHz",
         "7:18: sustained_clock: expected a frequency such as '2.41 GHz', found '0 GHz' "
         "(zero is not allowed here)"),
        ("title: A toy\n", "", "1:1: missing key 'title'"),
        ("title: A toy", "title: 5", "2:8: title: expected a text, found 5"),
        ("kind: gpu", "kind: gpus",
         "3:7: kind: expected cpu, gpu, tpu or accelerator, found 'gpus'\n    did you mean 'gpu'?"),
        ("kind: gpu", "kind: [gpu]", "3:7: kind: expected cpu, gpu, tpu or accelerator, found a list"),
        ("organisation: tiles", "organisation: grid",
         "9:17: matrix.organisation: expected tiles, systolic or simd, found 'grid'"),
        ("organisation: tiles", "organisation: systolic\n  arrays: 1\n  rows: 8",
         "9:3: matrix: missing key 'columns' of a systolic organisation"),
        ("organisation: tiles", "organisation: tiles\n  rows: 8",
         "10:3: matrix.rows: 'rows' is of a systolic organisation only"),
        ("organisation: tiles", "organisation: tiles\n  subarrays: [{rows: 8, columns: 8, arrays: 1}]",
         "10:3: matrix.subarrays: 'subarrays' is of a systolic organisation only"),
        ("organisation: tiles",
         "organisation: systolic\n  rows: 8\n  arrays: 1\n  subarrays: [{rows: 8, columns: 8, arrays: 1}]",
         "12:3: matrix.subarrays: 'subarrays' stands in place of arrays, rows and columns\n"
         "    leave out arrays, rows"),
        ("organisation: tiles", "organisation: systolic\n  subarrays: [{rows: 8, columns: 0, arrays: 1}]",
         "10:34: matrix.subarrays[0].columns: expected a whole number from 1 to 1e9, found 0"),
        ("organisation: tiles",
         "organisation: systolic\n  subarrays: [{rows: 8, columns: 8, arrays: 1}, {rows: 8, columns: 8}]",
         "10:49: matrix.subarrays[1]: missing key 'arrays'"),
        ("organisation: tiles", "organisation: systolic\n  subarrays: [{rows: 8, columns: 8, arrays: 1, colums: 8}]",
         "10:48: matrix.subarrays[0].colums: unknown key 'colums'\n    did you mean 'columns'?"),
        ("organisation: tiles", "organisation: systolic\n  subarrays: []",
         "10:14: matrix.subarrays: expected at least one entry, found an empty list"),
        ("organisation: tiles", "organisation: systolic\n  subarrays: {rows: 8, columns: 8, arrays: 1}",
         "10:14: matrix.subarrays: expected a list, found a mapping"),
        ("organisation: tiles", "organisation: systolic\n  subarrays: [8]",
         "10:15: matrix.subarrays[0]: expected a mapping, found 8"),
        ("organisation: tiles",
         f"organisation: systolic\n  subarrays: [{', '.join(9 * ['{rows: 8, columns: 8, arrays: 1}'])}]",
         "10:14: matrix.subarrays: expected at most 8 entries, found 9"),
        ("organisation: tiles", "organisation: tiles\n  clocks: {fp16: 1 GHz}",
         "10:12: matrix.clocks.fp16: no peak for 'fp16'"),
        ("peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}", "peak: {bf61: 2 TFLOP/s}",
         "10:10: matrix.peak.bf61: unknown dtype 'bf61'\n    did you mean 'bf16'?"),
        ("peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}", "peak: {}",
         "10:9: matrix.peak: expected at least one entry, found an empty mapping"),
        ("peak: {fp32: 2 TFLOP/s, bf16: 4 TFLOP/s}", "peak: 2 TFLOP/s",
         "10:9: matrix.peak: expected a mapping, found '2 TFLOP/s'"),
        ("power: {limit: 10 W, static: 0 W, energy: {fp32: 1 pJ/FLOP}}", "power:",
         "19:7: power: expected a mapping, found null"),
        ("speed: 1,", "speed: fast,", "17:15: host.speed: expected a number such as 0.85, found 'fast'"),
        ("asynchronous: true", "asynchronous: yes",
         "17:32: host.asynchronous: expected true or false, found 'yes'"),
        ("host: {speed: 1", "host: {link_bandwidth: 1 GB/s, speed: 1",
         "17:7: host: missing key 'link_latency' of the link"),
        ("sources:", "notes: none\nsources:", "20:8: notes: expected a list, found 'none'"),
        ("units: vendor, datasheet", "memory.dram.bandwith: vendor, datasheet",
         "21:3: sources.memory.dram.bandwith: no figure 'memory.dram.bandwith' in the file\n"
         "    did you mean 'memory.dram.bandwidth'?"),
        ("units: vendor, datasheet", "units: vendors, datasheet",
         "21:10: sources.units: unknown mark 'vendors'\n    did you mean 'vendor'?"),
        ("units: vendor, datasheet", "units: vendor",
         "21:10: sources.units: expected a mark and an origin such as 'vendor, datasheet', found 'vendor'"),
        ("units: vendor, datasheet", "units: 5",
         "21:10: sources.units: expected a mark and an origin such as 'vendor, datasheet', found 5"),
        ("sources:", "calibration: {date: today, environment: {}, coefficients: {}, residual: []}\nsources:",
         "20:63: calibration.residual: unknown key 'residual'\n    did you mean 'residuals'?"),
        ("units: vendor, datasheet", "units: vendor, datasheet\nextend: h100",
         "22:1: extend: unknown key 'extend'\n    did you mean 'extends'?"),
    ],
)  # fmt: skip
def test_refusals(old: str, new: str, expected: str) -> None:
    assert refusal(changed(old, new)) == f"f.yaml:{expected}"


def test_all_problems_at_once() -> None:
    text = changed("units: 4", "units: 0").replace("organisation: tiles", "organisation: systolic")
    text = text.replace("units: vendor,", "unit: vendor,").replace("limit: 10 W", "limit: 10 kg")
    message = refusal(text)
    assert message.endswith("\n6 errors")
    parts = ("units: ", "'arrays'", "'rows'", "'columns'", "power.limit: ", "sources.unit: ")
    assert all(part in message for part in parts)


def test_a_file_without_anything() -> None:
    assert refusal("{}").count("missing key") == 13


def test_schema_describes_every_field() -> None:
    schema = hardware_schema()
    assert schema["$defs"]["Hardware"]["properties"]["clock"]["type"] == "string"
    for part in schema["$defs"].values():
        assert part["additionalProperties"] is False
        assert [name for name, field in part["properties"].items() if not field.get("description")] == []


def test_schema_lets_an_extending_file_leave_out_what_is_required() -> None:
    schema = hardware_schema()
    assert schema["if"] == {"required": ["extends"]}
    assert schema["else"] == {"$ref": "#/$defs/Hardware"} and "clock" in schema["$defs"]["Hardware"]["required"]
    assert schema["then"] == {"$ref": "#/$defs/HardwareChanges", "required": ["name"]}
    seen: set[str] = set()
    waiting = ["HardwareChanges"]
    while waiting:
        name = waiting.pop()
        seen.add(name)
        text = json.dumps(schema["$defs"][name])
        assert '"required"' not in text
        waiting += [n for n in re.findall(r"#/\$defs/(\w+)", text) if n not in seen]
    # The parts of a device and of a calibration, and a variant, which has no name of its own.
    assert len(seen) == 1 + 11 + 1
    assert "name" not in schema["$defs"]["Variant"]["properties"]
