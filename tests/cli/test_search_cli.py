"""The command that searches: what it prints and writes, its exit status, its refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_line
import pytest

import ebmsim
from ebmsim.cli import search as command
from ebmsim.sweep import search as engine
from ebmsim.units import format_quantity

Capture = pytest.CaptureFixture[str]
TEXT = """
name: quick
workload: irem
preset: small
hardware: rtx5090
axes:
  units: {field: hardware.units, from: 20, to: 340, scale: log}
  l2: {field: hardware.memory.l2.capacity, from: 8 MiB, to: 512 MiB, scale: log}
  execution: {field: policy.execution, values: [graph, persistent]}
derived:
  bandwidth: {expression: units * 10.5e9, field: hardware.memory.dram.bandwidth}
constraints: [t_inf < 1 and units >= 30, mean_power_watts > 10]
outputs: [t_inf, mean_power_watts, fits, area_mm2, cost_dollars]
minimize: cost_dollars
"""
QUICK = ("--trials", "25", "--seed", "4")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(TEXT, encoding="utf-8")
    return Path("quick.yaml")


def run(capsys: Capture, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout without spaces at the ends of lines, and stderr of a command line."""
    status, out, err = command_line.run(capsys, *words)
    return status, re.sub(" +$", "", out, flags=re.MULTILINE), err


def change(file: Path, *pair: str) -> str:
    assert pair[0] in TEXT
    file.write_text(TEXT.replace(*pair), encoding="utf-8")
    return str(file)


def test_json_is_what_python_gives(file: Path, capsys: Capture) -> None:
    status, out, err = run(capsys, "search", str(file), *QUICK, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(ebmsim.search(file, 25, 4).to_dict()))
    found = json.loads(out)
    assert {"search": "quick", "minimize": ["cost_dollars"], "trials": 25, "seed": 4, "stopped": False}.items() <= (
        found.items()
    )
    assert [c["condition"] for c in found["best"]["constraints"]] == [
        "t_inf < 1",
        "units >= 30",
        "mean_power_watts > 10",
    ]


def test_the_table_has_values_in_units_and_slacks(file: Path, capsys: Capture) -> None:
    status, out, _ = run(capsys, "search", str(file), *QUICK)
    best = ebmsim.search(file, 25, 4).best
    assert status == 0 and best is not None
    assert re.match(
        r"quick: the least cost_dollars of 25 trials \(seed 4\); \d+ of 25 designs meet all constraints\n", out
    )
    size = re.escape(format_quantity(best.axes["l2"], "bytes"))
    assert re.search(rf"^ l2 +{size}   8\.00 MiB to 512 MiB$", out, re.MULTILINE)
    assert re.search(rf"^ units +{best.axes['units']}   20 to 340$", out, re.MULTILINE)
    assert re.search(r"^ execution +(graph|persistent)   graph, persistent$", out, re.MULTILINE)
    assert re.search(r"^ bandwidth +\d[\d.]* GB/s$", out, re.MULTILINE)
    assert re.search(r"^ fits +yes$", out, re.MULTILINE)
    assert re.search(rf"^ cost_dollars +{best.value('cost_dollars'):.4g} dollars$", out, re.MULTILINE)
    slack = 100 * (best.axes["units"] - 30) / best.axes["units"]
    assert re.search(rf"^ units >= 30 +yes +30 +{best.axes['units']} +{slack:.1f} %$", out, re.MULTILINE)


def test_the_design_is_written_and_estimates_to_the_same(file: Path, capsys: Capture) -> None:
    status, out, err = run(capsys, "search", str(file), *QUICK, "-o", "best.yaml", "--json")
    assert (status, err) == (0, "wrote best.yaml\n")
    best = json.loads(out)["best"]
    assert run(capsys, "check", "best.yaml")[:2] == (0, "best.yaml: no problems\n")
    words = ("irem", "--hw", "best.yaml", "--preset", "small", "--execution", best["axes"]["execution"], "--json")
    again = json.loads(run(capsys, "estimate", *words)[1])
    assert again["seconds"]["t_inf"] == pytest.approx(best["figures"]["t_inf"], rel=1e-12)
    assert sorted(path.name for path in Path().iterdir()) == ["best.yaml", "quick.yaml"]


def test_values_at_an_end_are_pointed_out(file: Path, capsys: Capture) -> None:
    path = change(file, "constraints: [t_inf < 1 and units >= 30, mean_power_watts > 10]", "title: without")
    out = run(capsys, "search", path, "--trials", "60")[1]
    assert "at the end of their range, beyond which a better one may lie: units, l2\n" in out


def test_a_front_is_a_table(file: Path, capsys: Capture) -> None:
    path = change(file, "minimize: cost_dollars", "minimize: [cost_dollars, t_inf]")
    out = run(capsys, "search", path, *QUICK)[1]
    front = ebmsim.search(path, 25, 4).front
    assert f"{len(front)} designs of which none beats another" in out and len(front) > 2
    for design in front:
        cost, units = design.value("cost_dollars"), design.axes["units"]
        assert re.search(rf"^ {cost:.4g} dollars +[\d.]+ [mµ]?s +{units} ", out, re.MULTILINE)


def test_nothing_found_is_a_failed_check(file: Path, capsys: Capture) -> None:
    path = change(file, "t_inf < 1 and units >= 30", "t_inf < 1e-9, units >= 30")
    status, out, err = run(capsys, "search", path, *QUICK, "-o", "best.yaml")
    assert status == 1 and not Path("best.yaml").exists()
    assert err == (
        "quick: no design meets all constraints; what fails most is 't_inf < 1e-09', in 25 of 25; "
        "best.yaml is not written\n"
    )
    assert "0 of 25 designs meet all constraints" in out
    assert "This design misses constraints: it is the nearest one that was tried." in out
    assert re.search(r"^ t_inf < 1e-09 +no +\S+ +1e-09 +-100\.0 %$", out, re.MULTILINE)
    status, out, _ = run(capsys, "search", path, *QUICK, "--json")
    found = json.loads(out)
    assert (status, found["best"], found["missed"]["t_inf < 1e-09"]) == (1, None, 25)


def test_an_interrupt_prints_and_writes_the_best_so_far(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = engine.proposed

    def stopped(*given: Any) -> Iterator[Any]:
        for number, values in enumerate(whole(*given)):
            if number == 15:
                raise KeyboardInterrupt
            yield values

    monkeypatch.setattr(engine, "proposed", stopped)
    status, out, err = run(capsys, "search", str(file), *QUICK, "-o", "best.yaml", "--json")
    assert status == 130
    assert err == "wrote best.yaml\nstopped after 15 trials; the answer is of these\n"
    found = json.loads(out)
    assert found["stopped"] and found["trials"] == 15 and found["best"] is not None
    assert run(capsys, "check", "best.yaml")[0] == 0


def test_progress_is_told_on_stderr(file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_PAUSE", 0.0)
    status, out, err = run(capsys, "search", str(file), *QUICK, "--json")
    lines = err.splitlines()
    assert status == 0 and json.loads(out)["trials"] == len(lines) == 25
    assert re.fullmatch(r"25 of 25 trials, best cost_dollars \d+(\.\d)? dollars", lines[-1])


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (("--trials", "0"), ["0 is not in the range"]),
        (("--seed", "-1"), ["-1 is not in the range"]),
        (("-o", "nowhere/best.yaml"), ["no such folder 'nowhere'", "a search needs none, but the key 'minimize'"]),
        (
            ("-o", "best.json"),
            ["expected a name that ends in .yaml, found 'best.json'", "a search needs none, but the key 'minimize'"],
        ),
    ],
)
def test_refusals(words: tuple[str, ...], messages: list[str], file: Path, capsys: Capture) -> None:
    status, out, err = run(capsys, "search", change(file, "minimize: cost_dollars", ""), *words)
    assert (status, out) == (2, "") and "Traceback" not in err
    assert all(message in err for message in messages)
