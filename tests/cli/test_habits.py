"""What people are used to: completion, pipes, no colour, data frames, hover texts, files to start from."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import CompletionItem, ShellComplete
from command_line import answer, run

import ebmsim
from ebmsim.cli.main import COMMANDS, cli
from ebmsim.errors import SpecError
from ebmsim.policy import DTYPES, EXECUTIONS
from ebmsim.spec.extends import hardware_document
from ebmsim.spec.hardware import parse_hardware
from ebmsim.spec.library import names
from ebmsim.spec.located import parse_document
from ebmsim.spec.start import changed_device, starting_file

ROOT = Path(__file__).parents[2]
SCHEMAS = sorted((ROOT / "docs" / "schemas").glob("*.json"))
Capture = pytest.CaptureFixture[str]


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let standard input be a text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


# --- completion -------------------------------------------------------------------------------------------------------


def items(line: str) -> list[CompletionItem]:
    """What a shell offers for the last word of a line, which may be empty."""
    *words, last = line.split(" ")
    return ShellComplete(cli, {}, "ebmsim", "_EBMSIM_COMPLETE").get_completions(words, last)


def offered(line: str) -> list[str]:
    found = items(line)
    assert all(item.type == "plain" for item in found)
    return [item.value for item in found]


def test_commands_are_completed_with_their_help() -> None:
    assert offered("") == list(COMMANDS)
    assert [(item.value, item.help) for item in items("estim")] == [("estimate", COMMANDS["estimate"])]
    assert {"--help", "--debug", "--version"} <= set(offered("--"))
    # After what is no command, one may still come to mind.
    assert offered("estimat ") == list(COMMANDS) and offered("estimat x --pre") == []


def test_options_are_completed() -> None:
    assert offered("estimate ebm_cvr --exec") == ["--execution"]
    assert {"--hw", "--preset", "--set", "--json"} <= set(offered("estimate --"))


@pytest.mark.parametrize("command", ["estimate", "explain", "compare", "sensitivity", "scale", "show", "validate"])
def test_workloads_are_completed(command: str) -> None:
    assert offered(f"{command} ") == names("workload")
    assert offered(f"{command} ebm_cv") == ["ebm_cvg", "ebm_cvr"]


@pytest.mark.parametrize("command", ["estimate", "explain", "compare", "sensitivity", "scale", "validate"])
def test_hardware_is_completed_with_its_variants(command: str) -> None:
    assert offered(f"{command} ired --hw ") == names("hardware")
    assert offered(f"{command} ired --hw h100") == ["h100", "h100_pcie"]
    assert offered(f"{command} --hw h100_") == ["h100_pcie"]


def test_hardware_goes_on_where_it_takes_several_words() -> None:
    assert offered("compare ired --hw a100 h100") == ["h100", "h100_pcie"]
    assert offered("compare ired --hw a100 h100 --preset small ebm_cv") == ["ebm_cvg", "ebm_cvr"]
    assert offered("compare ired --hw a100 --preset sm") == ["small"]
    assert offered("scale ebm_cv") == offered("scale --devices 1 2 --weak ebm_cv") == ["ebm_cvg", "ebm_cvr"]


@pytest.mark.parametrize("workload", names("workload"))
def test_presets_follow_the_workload(workload: str) -> None:
    presets = list(ebmsim.load_workload(workload).file.presets)
    assert offered(f"estimate {workload} --preset ") == presets
    assert offered(f"estimate {workload} --hw a100 --preset ") == presets


def test_presets_of_several_workloads_of_files_and_of_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = dict.fromkeys([*offered("show ebm_cvr --preset "), *offered("show ired --preset ")])
    assert offered("compare ebm_cvr ired --preset ") == list(both)
    assert offered("estimate --preset ") == offered("estimate ebm_cv --preset ") == offered("show - --preset ") == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("presets: {one: {}, two: {}}", encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("presets: [", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("presets: [a]", encoding="utf-8")
    assert offered("estimate mine.yaml --preset ") == ["one", "two"]
    assert offered("estimate broken.yaml --preset ") == offered("estimate list.yaml --preset ") == []


def test_policies_are_completed() -> None:
    assert offered("estimate ired --execution ") == list(EXECUTIONS)
    assert offered("estimate ired --dtype ") == list(DTYPES)
    assert offered("estimate ired --fidelity a") == ["analytical"]
    assert offered("estimate ired --math s") == ["strict"]
    assert offered("estimate ired --chain-mode s") == ["sequential"]
    assert offered("estimate ired --software ") == names("software")
    assert offered("scale ired --split c") == ["chains", "components"]
    assert offered("list h") == offered("schema h") == ["hardware"]


def test_files_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("check my", "sweep my", "estimate ./my", "estimate ired --hw my_chip"):
        assert [item.type for item in items(line)] == ["file"], line
    (tmp_path / "h1.yaml").touch()
    (tmp_path / "h1.txt").touch()
    assert offered("estimate ired --hw h1") == ["h100", "h100_pcie", "h1.yaml"]
    assert offered(f"estimate {tmp_path}/h") == [f"{tmp_path}/h1.yaml"]


@pytest.mark.parametrize(
    "line", ["", "estimate ebm_", "compare ired --hw a100 h", "validate ired --preset ", "sweep x"]
)
def test_completing_imports_nothing_slow(line: str) -> None:
    """As the shell asks, in a process of its own."""
    code = (
        "import sys\nfrom ebmsim.cli.main import main\ntry:\n    main([])\nexcept SystemExit as stop:\n"
        "    assert not stop.code\n"
        "print(*[n for n in ('numpy', 'pydantic', 'rich', 'scipy') if n in sys.modules], file=sys.stderr)"
    )
    words = f"ebmsim {line}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_EBMSIM_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert done.stdout or line == "sweep"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_ask(shell: str) -> None:
    asked = {"_EBMSIM_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-m", "ebmsim"], capture_output=True, text=True, env=os.environ | asked)
    assert done.returncode == 0 and f"_EBMSIM_COMPLETE={shell}_complete" in done.stdout


# --- pipes and colours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        ("list hardware", names("hardware")),
        ("list workloads", [n for n in names("workload") if ebmsim.load_workload(n).file.baseline is None]),
        ("list operators", ["conv1d", "linear", "random_normal"]),
    ],
)
def test_a_row_of_a_table_is_one_line_in_a_pipe(line: str, rows: list[str], capsys: Capture) -> None:
    text = answer(capsys, *line.split())
    assert "\x1b" not in text
    cells = [re.split(r" {2,}", row.strip()) for row in text.splitlines()]
    columns = next(len(row) for row in cells if row[0] in ("device", "workload", "operator"))
    found = {row[0]: row for row in cells}
    for name in rows:
        # An operator may have no attributes: that cell is empty.
        assert len(found[name]) in ((columns - 1, columns) if "operators" in line else (columns,)), found[name]


def test_text_is_broken_in_a_pipe_and_tables_are_not(capsys: Capture) -> None:
    lines = answer(capsys, "show", "ebm_cvr").splitlines()
    assert 80 < max(map(len, lines)) <= 120
    title = ebmsim.load_hardware("ebm_aware").title
    assert title in answer(capsys, "list", "hardware")


def test_operators_are_described_in_full(capsys: Capture) -> None:
    """Square brackets are no markup."""
    assert "convolution over [channels, height, width]" in answer(capsys, "list", "operators")


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color(environment: Mapping[str, str], coloured: bool) -> None:
    """On a terminal."""
    code = "from ebmsim.report.table import console\nconsole().print('[red]red[/]')"
    given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code], stdout=theirs, check=True, env=given | {"TERM": "xterm-256color"} | environment
    )
    os.close(theirs)
    assert (b"\x1b[31m" in os.read(ours, 4096)) == coloured
    os.close(ours)


def test_a_reader_that_leaves_is_no_error() -> None:
    shell = f"'{sys.executable}' -m ebmsim list operators | head -1 >/dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stderr == ""


# --- standard input and output ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["workload", "hardware", "sweep"])
def test_check_reads_standard_input(kind: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, starting_file(kind, "mine"))
    assert answer(capsys, "check", "-") == "<stdin>: no problems\n"
    piped(monkeypatch, starting_file(kind, "mine").replace("name: mine", "nam: mine"))
    status, out, err = run(capsys, "check", "-")
    assert (status, out) == (2, "") and re.search(r"^<stdin>:\d+:1: nam: unknown key 'nam'$", err, re.MULTILINE)


def test_estimate_reads_a_workload_or_a_device_from_standard_input(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What came before is not remembered, not even beside a file with the name -."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-").write_text("name: no", encoding="utf-8")
    words = ("estimate", "-", "--hw", "a100", "--preset", "small", "--json")
    found = {}
    for text in (starting_file("workload", "one"), (ROOT / "workload_graphs" / "ired.yaml").read_text("utf-8")):
        piped(monkeypatch, text)
        result = json.loads(answer(capsys, *words))
        found[result["workload"]] = result
    assert list(found) == ["one", "ired"]
    assert found["ired"] == json.loads(
        answer(capsys, *[word.replace("-", "ired") if word == "-" else word for word in words])
    )
    piped(monkeypatch, starting_file("hardware", "two"))
    assert json.loads(answer(capsys, "estimate", "ired", "--hw", "-", "--json"))["hardware"] == "two"


def test_problems_of_standard_input_are_located(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, starting_file("workload", "one").replace("op: silu", "op: sillu"))
    status, out, err = run(capsys, "estimate", "-", "--hw", "a100")
    assert (status, out) == (2, "")
    assert "blocks.layer.nodes[1].op: unknown operator 'sillu'\n    did you mean 'silu'?" in err
    piped(monkeypatch, "")
    assert run(capsys, "check", "-") == (2, "", "<stdin>:1:1: expected a mapping, found an empty file\n")


def test_a_closed_standard_input(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", None)
    assert run(capsys, "check", "-") == (2, "", "-: no such file\n")


def test_capture_writes_to_standard_output(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    factory = "import torch\n\ndef make():\n    return torch.nn.Linear(4, 1), torch.randn(2, 4)\n"
    (tmp_path / "energy.py").write_text(factory, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "capture", "energy.py:make", "-o", "-")
    assert (status, err) == (0, "captured linear, components linear\n")
    assert not (tmp_path / "-").exists()
    piped(monkeypatch, out)
    assert answer(capsys, "check", "-") == "<stdin>: no problems\n"


# --- data frames ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_rows_make_a_data_frame(library: str) -> None:
    """One row per kernel, with columns of one type each, whose seconds are those of the step."""
    frames = pytest.importorskip(library)
    e = ebmsim.estimate(ebmsim.load_workload("ebm_cvr", "small"), ebmsim.load_hardware("a100"))
    rows = e.to_rows()
    frame = frames.DataFrame(rows)
    assert len(frame) == len(rows) and list(frame.columns) == list(rows[0])
    assert float(frame["seconds"].sum()) == pytest.approx(e.seconds["t_samp"])
    assert all(len({type(row[column]) for row in rows} - {type(None)}) == 1 for column in rows[0])
    by = (
        frame.groupby("phase")["seconds"].sum().to_dict()
        if library == "pandas"
        else {phase: part["seconds"].sum() for (phase,), part in frame.group_by("phase")}
    )
    assert by["forward"] == pytest.approx(e.seconds["t_fwd"])


# --- editors ----------------------------------------------------------------------------------------------------------


def properties(schema: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every property in a JSON schema, with its path."""
    children = schema.items() if isinstance(schema, dict) else enumerate(schema) if isinstance(schema, list) else ()
    for key, value in children:
        if key == "properties" and isinstance(value, dict) and "type" not in value:
            yield from ((f"{at}/{name}", given) for name, given in value.items())
        yield from properties(value, f"{at}/{key}")


@pytest.mark.parametrize("file", SCHEMAS, ids=lambda file: file.stem)
def test_every_property_has_a_hover_text(file: Path) -> None:
    found = dict(properties(json.loads(file.read_text(encoding="utf-8"))))
    assert len(found) > 20
    assert [path for path, given in found.items() if not str(given.get("description", "")).strip()] == []


# --- files to start from ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    ["workload mine", "hardware mine", "sweep mine", "hardware mine --like rtx5090", "hardware mine --like h100_pcie"],
)
def test_a_new_file_is_accepted_and_answers(
    line: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, "new", *line.split())
    assert (status, out) == (0, "") and err.startswith("wrote mine.yaml; next: ebmsim ")
    assert answer(capsys, "check", "mine.yaml") == "mine.yaml: no problems\n"
    status, out, _ = run(capsys, *err.rstrip("\n").partition("next: ebmsim ")[2].split())
    assert status == 0 and "mine" in out
    if line.startswith("sweep"):
        status, out, _ = run(capsys, "sweep", "mine.yaml", "-o", "swept")
        assert status == 0
        (table,) = (file for file in Path("swept").glob("*.csv"))
        assert len(table.read_text(encoding="utf-8").splitlines()) > 1
        return
    kind = line.split()[0]
    words = ("mine.yaml", "--hw", "a100") if kind == "workload" else ("ired", "--hw", "mine.yaml")
    assert json.loads(answer(capsys, "estimate", *words, "--json"))[kind] == "mine"


@pytest.mark.parametrize("kind", ["workload", "hardware", "sweep"])
def test_a_new_file_has_a_comment_for_every_section(kind: str) -> None:
    """In the line above it."""
    lines = starting_file(kind, "mine").splitlines()
    assert lines[0].startswith("# ") and all(len(text) <= 105 for text in lines)
    for number, text in enumerate(lines):
        if re.match(r"[a-z]\w*:$", text):
            assert lines[number - 1].startswith("# "), text


@pytest.mark.parametrize("like", ["rtx5090", "tpu_v6e", "ryzen9900x", "h100_pcie", "ebm_aware"])
def test_the_figures_of_a_changed_device_are_those_it_changes(like: str) -> None:
    """With the # taken off every line, the file says what the device says: all figures are there, and are right."""
    text = changed_device("mine", like, Path())
    assert parse_hardware(parse_document(text)).memory == ebmsim.load_hardware(like).memory
    body = text.partition("peaks doubled as well.\n")[2].partition("\n# Where")[0]
    written = parse_document(re.sub("^# ", "", body, flags=re.MULTILINE)).data
    device = hardware_document(like).data
    assert written == {key: device[key] for key in written}
    assert {"units", "clock", "matrix", "vector", "memory", "host", "launch", "power"} <= set(written)


def test_a_changed_file_is_found_from_the_folder_of_the_new_one(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    Path("base.yaml").write_text("name: base\nextends: a100\nvariants: {half: {units: 54}}", encoding="utf-8")
    for like, units in (("base.yaml", 108), ("base.yaml:half", 54), (str(tmp_path / "base.yaml"), 108)):
        status, _, _ = run(
            capsys, "new", "hardware", "deep", "--like", like, "-o", f"sub/deep_{units}_{len(like)}.yaml"
        )
        assert status == 0
        assert ebmsim.load_hardware(f"sub/deep_{units}_{len(like)}.yaml").units == units


def test_new_writes_to_standard_output(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert answer(capsys, "new", "workload", "mine", "-o", "-") == starting_file("workload", "mine")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("workload there", "there.yaml: is there already, and stays as it is\n    -o FILE.yaml\n"),
        ("hardware mine -o no/mine.yaml", "no/mine.yaml: no such folder 'no'\n"),
        ("hardware mine -o mine.txt", "mine.txt: expected a name that ends in .yaml, found 'mine.txt'\n"),
        (
            "sweep My-Sweep",
            "expected a name for the sweep, found 'My-Sweep'\n"
            "    a name has small letters, digits and underscores, and begins with a letter\n",
        ),
        ("hardware mine --like rtx509", "unknown hardware 'rtx509'\n    did you mean 'rtx5090'?\n"),
    ],
)
def test_new_refuses(line: str, message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").write_text("mine", encoding="utf-8")
    assert run(capsys, "new", *line.split()) == (2, "", message)
    assert [file.name for file in tmp_path.iterdir()] == ["there.yaml"]
    assert Path("there.yaml").read_text(encoding="utf-8") == "mine"


def test_new_refuses_a_device_like_another_kind(capsys: Capture) -> None:
    status, out, err = run(capsys, "new", "workload", "mine", "--like", "rtx5090")
    assert (status, out) == (2, "") and "expected --like with hardware" in err
    with pytest.raises(SpecError, match="expected a name for the hardware"):
        changed_device("a b", "rtx5090", Path())
