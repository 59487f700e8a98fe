"""The README tells the truth: its commands run, its Python runs, and every command it names exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ebmsim.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# What sets up an environment or runs these very tests.
SETS_UP = ("python -m venv", ". .venv/", "pip install", "pytest")


def commands(block):
    """The commands of a bash block, without comments and without those that install."""
    lines = [line.partition(" #")[0] for line in block.splitlines()]
    words = [part.strip() for line in lines for part in line.split("&&")]
    return [part for part in words if part and not part.startswith(SETS_UP)]


BASH = [block for block in (commands(text) for language, text in BLOCKS if language == "bash") if block]
PYTHON = [text for language, text in BLOCKS if language == "python"]
(CHIP,) = (text for language, text in BLOCKS if language == "yaml")
(MODEL,) = (text for language, text in BLOCKS if language == "py")


@pytest.fixture
def somewhere(tmp_path):
    """A folder as a checkout looks from its top, with the files that a user of the README has written."""
    for name in ("hardware", "sweeps", "workload_graphs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "my_chip.yaml").write_text(CHIP, encoding="utf-8")
    (tmp_path / "my_energy.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "my_model.yaml").write_bytes((ROOT / "workload_graphs" / "ebm_cvr.yaml").read_bytes())
    return tmp_path


def test_there_is_something_to_run():
    assert sum(command.startswith("ebmsim ") for block in BASH for command in block) >= 8
    assert PYTHON


@pytest.mark.parametrize("block", BASH, ids=lambda block: block[0])
def test_the_commands_run(block, somewhere):
    # In a shell, as a reader would; `ebmsim` is this very package.
    shell = f"ebmsim() {{ '{sys.executable}' -c 'from ebmsim.cli.main import main; main()' \"$@\"; }}\n"
    for command in block:
        done = subprocess.run(
            ["bash", "-euc", shell + command], cwd=somewhere, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        answers = command.startswith("ebmsim") and " capture " not in command and " report " not in command
        assert done.stdout or not answers, f"{command} printed nothing"


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_the_python_runs(code, somewhere):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=somewhere, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


def test_every_command_named_exists():
    code = "\n".join(text for _, text in BLOCKS) + "\n".join(re.findall(r"`([^`\n]+)`", README))
    named = set(re.findall(r"\bebmsim ([a-z][a-z-]*)", code))
    assert named
    assert named <= set(COMMANDS)


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_output_shown_is_of_this_form(capsys):
    # Figures move with the model and are not compared; the lines and their labels are.
    shown = re.search(r"<!-- output: estimate -->\n```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert shown
    main(["estimate", "ebm_cvr", "--hw", "rtx5090"])
    real = capsys.readouterr().out
    assert labels(shown[1]) == labels(real)


def labels(output):
    """The first word of every line that starts with one; lists of settings go on over lines and are left out."""
    words = {line.split()[0] for line in output.splitlines() if re.match(r" ?[A-Za-z]", line)}
    return {word for word in words if "=" not in word}
