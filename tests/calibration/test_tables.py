"""Tables of measured kernels: what is read, and what is refused by line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebmsim.calibration.tables import COLUMNS, KINDS, SIZES, kernels, read_table
from ebmsim.errors import SpecError

HEADER = ",".join(COLUMNS)


def table(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "kernels.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def row(kind: str = "linear", latency: str = "12.5", phase: str = "forward", dtype: str = "fp32", **sizes: int) -> str:
    sizes = sizes or {"m": 64, "n": 32, "k": 16}
    return ",".join([kind, phase, dtype, *[str(sizes.get(name, "")) for name in SIZES], latency, "me"])


def sizes_of(kind: str) -> dict[str, int]:
    return dict.fromkeys(KINDS[kind].needs, 3)


def test_a_row_is_read(tmp_path: Path) -> None:
    (found,) = read_table(table(tmp_path, row()))
    assert (found.kind, found.phase, found.dtype, found.source, found.line) == ("linear", "forward", "fp32", "me", 2)
    assert found.seconds == pytest.approx(12.5e-6)
    assert dict(zip(SIZES, found.sizes, strict=True)) == dict.fromkeys(SIZES, 0) | {"m": 64, "n": 32, "k": 16}


@pytest.mark.parametrize(
    ("source", "copies", "execution"),
    [("aiconfigurator", 6, "graph"), ("AIConfigurator, vLLM", 6, "graph"), ("NeuSight", 1, "eager"), ("", 1, "graph")],
)
def test_a_source_says_how_it_measured(source: str, copies: int, execution: str, tmp_path: Path) -> None:
    (found,) = read_table(table(tmp_path, row().replace(",me", f',"{source}"')))
    assert (found.protocol.copies, found.protocol.execution) == (copies, execution)


def test_columns_may_stand_in_any_order_and_others_beside_them(tmp_path: Path) -> None:
    names = [*reversed(COLUMNS), "note"]
    values = dict.fromkeys(names, "") | {"kind": "relu", "phase": "forward", "dtype": "fp16", "m": "2", "n": "8"}
    line = ",".join(str((values | {"latency_us": "3"})[name]) for name in names)
    (found,) = read_table(table(tmp_path, line, header=",".join(names)))
    assert found.kind == "relu" and found.dtype == "fp16"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (row("linaer"), "2:1: kind: unknown kind 'linaer'\n    did you mean 'linear'?"),
        (row(phase="forwards"), "2:1: phase: unknown phase 'forwards'\n    did you mean 'forward'?"),
        (row(dtype="fp23"), "2:1: dtype: unknown dtype 'fp23'"),
        (row(latency=""), "2:1: latency_us: expected a time in us, found ''"),
        (row(latency="fast"), "2:1: latency_us: expected a time in us, found 'fast'"),
        (row(latency="-1"), "2:1: latency_us: expected a time above 0, found -1"),
        (row(latency="0"), "2:1: latency_us: expected a time above 0, found 0"),
        (row(latency="nan"), "2:1: latency_us: expected a time above 0, found nan"),
        (row(latency="inf"), "2:1: latency_us: expected a time above 0, found inf"),
        (row(m=4, n=4), "2:1: k: missing k of a linear"),
        (row(m=4, n=4, k=0), "2:1: k: expected a size from 1 to 2^40, found 0"),
        (row(m=4, n=-4, k=1), "2:1: n: expected a size from 1 to 2^40, found -4"),
        (row(m=4, n=2**41, k=1), f"2:1: n: expected a size from 1 to 2^40, found {2**41}"),
        (row().replace("64", "6.4"), "2:1: m: expected a whole number, found '6.4'"),
    ],
)
def test_bad_rows(line: str, expected: str, tmp_path: Path) -> None:
    path = table(tmp_path, line)
    with pytest.raises(SpecError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}:{expected}")


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = table(tmp_path, row("linaer"), row(), row(latency="nan"))
    with pytest.raises(SpecError) as caught:
        read_table(path)
    assert [problem.line for problem in caught.value.problems] == [2, 4]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, row(), header=HEADER.replace("latency_us", "latency").replace("dtype", "type"))
    with pytest.raises(SpecError) as caught:
        read_table(path)
    assert [problem.message for problem in caught.value.problems] == [
        "missing column 'dtype'",
        "missing column 'latency_us'",
    ]


def test_no_rows(tmp_path: Path) -> None:
    for text in ("", HEADER + "\n"):
        path = tmp_path / "kernels.csv"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SpecError):
            read_table(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "none.csv", "no such file"), (tmp_path, "found a directory")):
        with pytest.raises(SpecError, match=expected):
            read_table(path)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="cannot read the table"):
        read_table(path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_kernels_forward_and_backward(kind: str) -> None:
    sizes = tuple(sizes_of(kind).get(name, 0) for name in SIZES)
    forward, none = kernels(kind, "forward", "fp32", sizes)
    both, first = kernels(kind, "backward", "fp32", sizes)
    assert (len(forward), none, first) == (1, 0, 1)
    # Products go backward in a kernel for each operand; what only hands its gradient on copies it.
    assert len(both) - first >= (2 if kind in ("linear", "matmul", "conv2d") else 1)


def test_products_are_those_of_the_sizes() -> None:
    b, m, n, k = 2, 3, 5, 7
    sizes = tuple({"b": b, "m": m, "n": n, "k": k}.get(name, 0) for name in SIZES)
    found, _ = kernels("matmul", "forward", "bf16", sizes)
    assert found.flops.tolist() == [2 * b * m * n * k]
    back, first = kernels("matmul", "backward", "bf16", sizes)
    assert sorted(back.flops[first:].tolist()) == [2 * b * m * n * k] * 2


def test_between_two_backward_calls_the_forward_touches_its_tensors() -> None:
    # y = 2 x and dx = 2 dy of one size: when dy is read again, dx, x and y have passed, and dy itself.
    m, n = 1000, 256
    sizes = tuple({"m": m, "n": n}.get(name, 0) for name in SIZES)
    both, first = kernels("mulu", "backward", "fp32", sizes)
    mine = both.access_kernel >= first
    assert both.access_bytes[mine].tolist() == [4 * m * n] * 2
    reading = both.distance[mine][0]
    assert 4 * 4 * m * n <= reading <= 4 * 4 * m * n * 2 ** (1 / 8)
