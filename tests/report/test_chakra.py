"""Chakra traces: what a decoder that only knows the public schema finds in them is the step of the estimate."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import networkx
import pytest
from command_line import refusal
from hypothesis import given
from hypothesis import strategies as st

import ebmsim
from ebmsim.cli.main import main
from ebmsim.estimation import Estimate
from ebmsim.lowering import fused
from ebmsim.placement import Turn, step_turn
from ebmsim.policy import Policy
from ebmsim.report.chakra import chakra_trace, varint
from ebmsim.spec.library import names

# Fields by number, as in schema/protobuf/et_def.proto of MLCommons Chakra at 1.0.0. A number in brackets: repeated.
NODE = {1: "id", 2: "name", 3: "type", 4: "ctrl_deps", 5: "data_deps", 6: "start_time_micros", 7: "duration_micros"}
NODE |= {8: "inputs", 9: "outputs", 10: "attr"}
INFO = {1: "values", 2: "shapes", 3: "types"}
METADATA = {1: "version", 2: "attr"}
# Values of an attribute: their name and how they are read.
VALUES = {3: "double_val", 9: "int64_val", 13: "uint64_val", 27: "bool_val", 29: "string_val"}
COMP_NODE = 4


def number(data: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends: groups of seven bits, the last without the high bit."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value += (byte % 128) << shift
        shift += 7
        if byte < 128:
            return value, at


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and raw values of a message."""
    at = 0
    while at < len(data):
        key, at = number(data, at)
        if key % 8 == 0:
            value, at = number(data, at)
        elif key % 8 == 1:
            value, at = data[at : at + 8], at + 8
        else:
            assert key % 8 == 2
            length, at = number(data, at)
            value, at = data[at : at + length], at + length
            assert len(value) == length
        yield key // 8, value


def packed(data: bytes) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = number(data, at)
        found.append(value)
    return found


def attribute(data: bytes) -> tuple[str, str, Any]:
    """Name, kind and value."""
    (one, name), (field, raw) = fields(data)
    assert one == 1
    kind = VALUES[field]
    value = {"double_val": lambda: struct.unpack("<d", raw)[0], "string_val": lambda: raw.decode()}.get(
        kind, lambda: raw
    )()
    return name.decode(), kind, bool(value) if kind == "bool_val" else value


def message(data: bytes, known: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"attr": {}, "kinds": {}, "ctrl_deps": [], "data_deps": []}
    for field, raw in fields(data):
        name = known[field]
        if name == "attr":
            key, kind, value = attribute(raw)
            assert key not in found["attr"]
            found["attr"][key], found["kinds"][key] = value, kind
        elif name.endswith("_deps"):
            found[name] = packed(raw)
        elif name in ("inputs", "outputs"):
            found[name] = {k: json.loads(v) for k, v in message(raw, INFO).items() if isinstance(v, str)}
        else:
            found[name] = raw.decode() if isinstance(raw, bytes) else raw
    return found


def decoded(trace: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metadata and the nodes of a trace: messages, each after its length."""
    parts, at = [], 0
    while at < len(trace):
        length, at = number(trace, at)
        parts.append(trace[at : at + length])
        at += length
    assert at == len(trace)
    return message(parts[0], METADATA), [message(part, NODE) for part in parts[1:]]


CASES = {
    "gpu": ("ired", "rtx5090", "", {}),
    "fused": ("ebm_imp", "tpu_v6e", "small", {"dtype": "bf16"}),
    "branches": ("comet", "rtx5090", "small", {"streams": 2}),
    "in place": ("ebm_ebp", "h100", "small", {}),
    "host": ("ccsp", "rtx5090", "small", {}),
}
every = pytest.mark.parametrize("name", CASES)


@cache
def case(name: str) -> tuple[Estimate, Turn, dict[str, Any], list[dict[str, Any]]]:
    workload, hardware, preset, policy = CASES[name]
    loaded = ebmsim.load_workload(workload, preset)
    e = ebmsim.estimate(loaded, ebmsim.load_hardware(hardware), Policy(**policy))
    turn = step_turn(loaded, e.lowered.chains, e.policy.dtype, fused(e.profile, e.policy))
    return e, turn, *decoded(chakra_trace(turn, e.timing.table, {"workload": workload, "scope": "×"}, e.timing))


def test_numbers_and_texts_of_the_protobuf_documentation() -> None:
    # https://protobuf.dev/programming-guides/encoding: 150, and a message whose field 2 is "testing".
    assert varint(150) == b"\x96\x01" and number(b"\x96\x01", 0) == (150, 2)
    assert list(fields(b"\x12\x07testing")) == [(2, b"testing")]
    assert list(fields(b"\x08\x96\x01")) == [(1, 150)]
    assert packed(b"\x03\x8e\x02\x9e\xa7\x05") == [3, 270, 86942]


@given(st.integers(0, 2**64 - 1))
def test_a_number_comes_back(value: int) -> None:
    assert number(varint(value) + b"\x00", 0) == (value, len(varint(value)))


@every
def test_nodes_are_the_kernels_of_the_step(name: str) -> None:
    e, turn, metadata, nodes = case(name)
    table = e.timing.table
    assert metadata["version"] == "1.0.0" and metadata["attr"] == {"workload": CASES[name][0], "scope": "×"}
    assert [node["id"] for node in nodes] == list(range(len(table)))
    assert tuple(node["name"] for node in nodes) == table.names
    assert {node["type"] for node in nodes} == {COMP_NODE}
    assert sum(node["attr"]["num_ops"] for node in nodes) == pytest.approx(table.flops.sum(), abs=len(nodes))
    moved = [node["attr"]["tensor_size"] for node in nodes]
    assert moved == pytest.approx(table.read + table.written, abs=0.5)
    assert [node["attr"]["is_cpu_op"] for node in nodes] == [op in ("host", "synchronise") for op in table.ops]
    # The kinds in which Chakra's feeder asks for them.
    kinds = {"is_cpu_op": "bool_val", "num_ops": "int64_val", "tensor_size": "uint64_val"}
    assert all(kinds.items() <= node["kinds"].items() for node in nodes)
    assert [node.op for node in turn.kernels] == [node["attr"]["op"] for node in nodes]


@every
def test_times_are_those_of_the_device(name: str) -> None:
    e, _, _, nodes = case(name)
    seconds = e.timing.priced.device[e.timing.pass_.order] * e.timing.stretched
    assert [node["attr"]["duration_ns"] for node in nodes] == pytest.approx(seconds * 1e9)
    for node, s in zip(nodes, seconds.tolist(), strict=True):
        assert node["duration_micros"] == pytest.approx(s * 1e6, abs=0.5 if s > 1e-6 else 1)
        assert (node["duration_micros"] > 0) == (s > 0)
    assert [node["attr"]["host_ns"] for node in nodes] == pytest.approx(e.timing.host * e.timing.stretched * 1e9)
    assert max(node["start_time_micros"] for node in nodes) <= e.timing.seconds * 1e6 + 1


@every
def test_tensors_have_the_sizes_that_kernels_move(name: str) -> None:
    _, _, _, nodes = case(name)
    storages: dict[int, int] = {}
    for node in nodes:
        for side in ("inputs", "outputs"):
            info = node[side]
            assert len(info["values"]) == len(info["shapes"]) == len(info["types"])
            for (_, storage, _, elements, size, _), shape in zip(info["values"], info["shapes"], strict=True):
                product = 1
                for axis in shape:
                    product *= axis
                assert elements == product and size in (1, 2, 4, 8)
                storages.setdefault(storage, size)
                assert storages[storage] == size
        # Written bytes are those of the outputs, but for operators that write a part of one.
        whole = sum(elements * size for _, _, _, elements, size, _ in node["outputs"]["values"])
        assert node["attr"]["bytes_written"] <= whole


@every
def test_all_that_touches_the_same_memory_is_in_order(name: str) -> None:
    """Of two kernels of which one writes what the other reads or writes, the later waits for the earlier."""
    _, _, _, nodes = case(name)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(nodes)))
    graph.add_edges_from((j, node["id"]) for node in nodes for j in node["data_deps"])
    assert all(j < i for j, i in graph.edges)
    after = [networkx.descendants(graph, i) for i in range(len(nodes))]
    reads, writes = ([{value[1] for value in node[side]["values"]} for node in nodes] for side in ("inputs", "outputs"))
    for i in range(len(nodes)):
        for j in range(i):
            if writes[j] & (reads[i] | writes[i]) or reads[j] & writes[i]:
                assert i in after[j], (nodes[j]["name"], nodes[i]["name"])
    # And for none without a reason.
    for i, j in ((i, j) for j, i in graph.edges):
        assert writes[j] & reads[i] or reads[j] & writes[i]
    # Waiting for readers is marked.
    for node in nodes:
        assert set(node["ctrl_deps"]) <= set(node["data_deps"])
        assert all(reads[j] & writes[node["id"]] for j in node["ctrl_deps"])
    if name == "in place":
        assert any(node["ctrl_deps"] for node in nodes)


@pytest.mark.parametrize("workload", names("workload"))
def test_branches_wait_for_one_another_as_the_cost_model_has_it(workload: str) -> None:
    loaded = ebmsim.load_workload(workload, "small")
    e = ebmsim.estimate(loaded, ebmsim.load_hardware("rtx5090"))
    turn = step_turn(loaded, e.lowered.chains, "fp32", False)
    _, nodes = decoded(chakra_trace(turn, e.timing.table, {}))
    branch = e.timing.table.branches
    across = {
        (node["id"], j)
        for node in nodes
        for j in {*node["data_deps"]} - {*node["ctrl_deps"]}
        if branch[j] != branch[node["id"]]
    }
    assert across == set(map(tuple, e.timing.table.awaited.tolist()))
    assert all("duration_micros" not in node and "duration_ns" not in node["attr"] for node in nodes)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_with_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.et"
    words = ("--preset", "small", "--set", "chains=3", "--hw", "rtx5090")
    main(["export", "ired", "--format", "chakra", *words, "-o", str(path)])
    assert capsys.readouterr() == (f"{path}\n", "")
    assert list(tmp_path.iterdir()) == [path]
    metadata, nodes = decoded(path.read_bytes())
    loaded = ebmsim.load_workload("ired", "small", {"chains": 3})
    e = ebmsim.estimate(loaded, ebmsim.load_hardware("rtx5090"))
    assert sum(node["attr"]["duration_ns"] for node in nodes) == pytest.approx(e.timing.device.sum() * 1e9)
    assert metadata["attr"]["hardware"] == "rtx5090" and metadata["attr"]["set.chains"] == "3"
    assert metadata["attr"]["workload"] == "ired" and metadata["attr"]["scope"] == "one steady sampling step"


@pytest.mark.parametrize("execution", ["eager", "compiled"])
def test_the_command_without_a_device(execution: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    main(["export", "ired", "--preset", "small", "--execution", execution, "-o", "-"])
    metadata, nodes = decoded(capsysbinary.readouterr().out)
    how = Policy(execution=execution, software="ideal")
    e = ebmsim.estimate(ebmsim.load_workload("ired", "small"), ebmsim.load_hardware("rtx5090"), how)
    assert tuple(node["name"] for node in nodes) == e.timing.table.names
    assert "hardware" not in metadata["attr"] and "duration_micros" not in nodes[0]


def test_bad_input_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "no" / "step.et"
    found = refusal(capsys, "export", "ebm_ip", "--dtype", "fp31", "-o", str(path))
    assert found.splitlines() == [
        "expected dtype to be one of fp64, fp32, tf32, bf16, fp16, fp8, int8, fp4, int4, found 'fp31'",
        "    nearest: fp16, fp32",
        "unknown workload 'ebm_ip'",
        "    did you mean 'ebm_imp'?",
        f"{path}: no such folder '{path.parent}'",
        "3 errors",
    ]
    assert "unknown hardware 'rtx509'" in refusal(capsys, "export", "ired", "--hw", "rtx509", "-o", "step.et")
    assert "Invalid value for '--format'" in refusal(capsys, "export", "ired", "--format", "chakr", "-o", "step.et")
    assert not list(tmp_path.iterdir())
