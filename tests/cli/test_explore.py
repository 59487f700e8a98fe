"""The commands that ask what other designs would change: what they print, their JSON, their refusals."""

from __future__ import annotations

import json
import math
import re

import pytest
from command_line import answer, refusal

import ebmsim
from ebmsim.spec.figure import read_figure
from ebmsim.sweep.sensitivity import is_whole

Capture = pytest.CaptureFixture[str]
SMALL = ("irem", "--preset", "small")


# --- sensitivity ------------------------------------------------------------------------------------------------------


def test_json_is_what_python_gives(capsys: Capture) -> None:
    found = json.loads(answer(capsys, "sensitivity", *SMALL, "--hw", "a100", "--of", "t_samp", "--json"))
    value = ebmsim.sensitivity(ebmsim.load_workload("irem", "small"), ebmsim.load_hardware("a100"), of="t_samp")
    assert found == json.loads(json.dumps(value.to_dict()))
    assert {"workload": "irem", "hardware": "a100", "of": "t_samp"}.items() <= found.items()
    assert found["policy"]["fidelity"] == "analytical" and found["settings"]["preset"] == "small"
    first = found["figures"][0]
    assert set(first) == {"figure", "value", "elasticity", "below", "above", "larger", "smaller"}
    assert set(first["larger"]) == {"value", "change"}


def test_the_table_has_what_changes_the_time_best_first(capsys: Capture) -> None:
    text = answer(capsys, "sensitivity", *SMALL, "--hw", "a100")
    rows = json.loads(answer(capsys, "sensitivity", *SMALL, "--hw", "a100", "--json"))["figures"]
    changes = {r["figure"]: [c["change"] for c in (r["larger"], r["smaller"]) if c] for r in rows}
    shown = [r["figure"] for r in rows if max(map(abs, changes[r["figure"]])) >= 1e-4]
    lines = [line.split() for line in text.splitlines() if re.search(r" [+-]\d+\.\d\d %", line)]
    assert [words[0] for words in lines if words[0] in changes] == shown
    smaller = next(r["smaller"] for r in rows if r["figure"] == "host.speed")
    line = next(words for words in lines if words[0] == "host.speed")
    assert f"{100 * smaller['change']:+.2f}" in line
    # Values stand as files write them.
    for words in lines:
        if words[0] in shown and not is_whole(words[0]) and len(words) > 2:
            value = next(r["value"] for r in rows if r["figure"] == words[0])
            text_of = words[1] if words[2][0] in "+-" else f"{words[1]} {words[2]}"
            read = read_figure(words[0], text_of if " " in text_of else float(text_of))
            assert read == pytest.approx(value, rel=6e-3)


def test_advice_in_words(capsys: Capture) -> None:
    text = answer(capsys, "sensitivity", "ebm_cvr", "--hw", "a100", "--set", "hardware.power.limit=100 W")
    line = next(line for line in text.splitlines() if line.startswith("improve next"))
    assert re.match(
        r"improve next  10 % more power\.limit saves \d+\.\d %; power\.static / 1\.1 saves \d+\.\d %; memory", line
    )
    assert re.search(r"^all rates     1 % more of each changes t_inf by -\d\.\d\d %$", text, re.MULTILINE)
    idle = next(line for line in text.splitlines() if line.startswith("does nothing"))
    assert re.search(r"matrix\.peak\.\{[a-z0-9,]+\}, ", idle) and "launch.{" in idle and "power.limit" not in idle


def test_steps_beyond_ten_percent_are_named(capsys: Capture) -> None:
    text = answer(capsys, "sensitivity", "ired", "--hw", "tpu_v6e", "--fidelity", "roofline")
    line = next(line for line in text.splitlines() if line.strip().startswith("matrix.arrays"))
    assert re.search(r"% \(5\) +[+-]\d+\.\d\d % \(3\)", line)


def test_energies_have_their_unit(capsys: Capture) -> None:
    text = answer(capsys, "sensitivity", *SMALL, "--hw", "a100", "--of", "step_joules")
    assert re.match(r"step_joules of irem on a100: [\d.]+ [mµ]?J\n", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--of", "t_inff"), "no time or energy 't_inff' in an estimate\n    did you mean 't_inf'?"),
        (("--preset", "smal"), "smal"),
        (("--hw", "a10"), "unknown hardware 'a10'"),
        (("--fidelity", "rofline"), "did you mean 'roofline'?"),
        (("--fidelity", "calibrated"), "a100 carries no calibration"),
    ],
)
def test_sensitivity_refuses(capsys: Capture, words: tuple[str, ...], message: str) -> None:
    assert message in refusal(capsys, "sensitivity", "irem", "--hw", "a100", *words)


# --- compare --why ----------------------------------------------------------------------------------------------------


def test_comparison_is_what_it_was_without_why(capsys: Capture) -> None:
    words = ("compare", *SMALL, "--hw", "a100", "h100", "tpu_v6e")
    plain, more = answer(capsys, *words), answer(capsys, *words, "--why")
    assert more.startswith(plain)
    objects = json.loads(answer(capsys, *words, "--json"))
    added = json.loads(answer(capsys, *words, "--why", "--json"))
    assert [list(set(b) - set(a)) for a, b in zip(objects, added, strict=True)] == [[], ["speedup"], ["speedup"]]
    for plain_object, object_ in zip(objects, added, strict=True):
        assert plain_object == {key: value for key, value in object_.items() if key != "speedup"}


def test_the_speed_up_is_over_the_first_device(capsys: Capture) -> None:
    words = ("irem", "ebm_imp", "--preset", "small", "--hw", "a100", "h100", "tpu_v6e", "--why", "--of", "t_samp")
    objects = json.loads(answer(capsys, "compare", *words, "--json"))
    for first, *others in (objects[:3], objects[3:]):
        for other in others:
            speedup = other["speedup"]
            assert (speedup["over"], speedup["of"]) == ("a100", "t_samp")
            assert speedup["speedup"] == first["seconds"]["t_samp"] / other["seconds"]["t_samp"]
            logs = [factor["log"] for factor in speedup["factors"]]
            assert sum(logs) == pytest.approx(math.log(speedup["speedup"]), abs=1e-9)
            assert set(speedup["factors"][0]) == {"group", "factor", "least", "most", "log"}


def test_factors_as_a_table(capsys: Capture) -> None:
    text = answer(capsys, "compare", *SMALL, "--hw", "a100", "h100", "--why")
    tail = text[text.index("t_inf of irem") :]
    assert re.match(r"t_inf of irem: [\d.]+ m?s on a100, [\d.]+ m?s on h100\n", tail)
    *shown, whole = (float(found) for found in re.findall(r"^ [a-z ,]+? +(\d+\.\d+)", tail, re.MULTILINE))
    assert math.prod(shown) == pytest.approx(whole, rel=5e-3)
    assert re.search(r"^no change: .*features; software", tail, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--why",), "expected two devices or more with --why"),
        (("--of", "t_samp"), "expected --why with --of"),
        (("h100", "--why", "--of", "t_sampp"), "did you mean 't_samp'?"),
    ],
)
def test_compare_refuses(capsys: Capture, words: tuple[str, ...], message: str) -> None:
    assert message in refusal(capsys, "compare", *SMALL, "--hw", "a100", *words)
