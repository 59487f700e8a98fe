"""The command and the public function: what they write, and how they refuse."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import ebmsim
from ebmsim.cli.main import main
from ebmsim.errors import SpecError

MODELS = """
import torch
from torch import nn


class ImageEBM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Choosing(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = 2 * x
        return x.sum(1)


class Strange(ImageEBM):
    def forward(self, x):
        h = self.conv(x).cumsum(1)
        return torch.erf(h).sum((1, 2, 3))


class Hard(nn.Module):
    def forward(self, x):
        return x.view(2, 3).sum(1)


def make():
    return ImageEBM(), torch.randn(8, 3, 6, 6)


def choosing():
    return Choosing(), (torch.randn(2, 3),)


def strange():
    return Strange(), torch.randn(2, 3, 6, 6)


def hard():
    return Hard(), torch.randn(2, 3)


def failing():
    raise ValueError("no weights here")


def alone():
    return ImageEBM()


def twice():
    return nn.Linear(3, 2), torch.randn(4, 3)


def whole_numbers():
    return ImageEBM(), torch.ones(2, 3, 6, 6, dtype=torch.long)


def small():
    return ImageEBM(), torch.randn(2, 5, 6, 6)


number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file of factories, in which commands run."""
    (tmp_path / "m.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status(*words: str) -> int:
    """The exit status of a command."""
    try:
        main(list(words))
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_a_file_is_written_that_has_no_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("capture", "m.py:make", "-o", "w.yaml") == 0
    assert capsys.readouterr().err == "wrote w.yaml: image_ebm, components image_ebm\n"
    assert status("check", "w.yaml") == 0
    workload = ebmsim.load_workload(folder / "w.yaml")
    assert (workload.name, workload.setting("chains"), workload.setting("steps")) == ("image_ebm", 8, 100)
    assert workload.setting("training_steps") == 100
    assert [p.name for p in folder.iterdir() if p.name not in ("m.py", "__pycache__")] == ["w.yaml"]


def test_settings_are_taken(folder: Path) -> None:
    words = ("--name", "mine", "--steps", "7", "--chains", "64")
    assert status("capture", "m.py:make", "-o", "w.yaml", *words) == 0
    workload = ebmsim.load_workload(folder / "w.yaml")
    found = (workload.name, *(workload.setting(s) for s in ("chains", "steps", "training_steps", "training_batch")))
    assert found == ("mine", 64, 7, 7, 64)


REFUSED = {
    "m.py": "expected FILE.py:FACTORY, found 'm.py'",
    "n.py:make": "n.py: no such file",
    "m.py:mak": "m.py: no function 'mak'\n    did you mean 'make'?",
    "m.py:number": "m.py: not a function 'number'",
    "m.py:failing": "m.py:51: failing() raised ValueError: no weights here",
    "m.py:alone": "m.py: expected alone() to give a module and its example inputs, found a value of type ImageEBM",
    "m.py:twice": (
        "m.py: expected one energy per chain, of shape [C] or [C, 1], found a tensor of shape [4, 2] for 4 chains"
    ),
    "m.py:whole_numbers": (
        "m.py: expected the first input to be a sample, a tensor of numbers whose first axis is the chains, "
        "found a tensor of torch.int64"
    ),
    "m.py:choosing": (
        "m.py:18: torch.export: the flow of control depends on values, which differ from call to call\n"
        "    write the choice with torch.where, or make it when the module is built"
    ),
    "m.py:hard": (
        "m.py:31: with 3 chains instead of 2: torch.export: RuntimeError: shape '[2, 3]' is invalid for input of size 9"
    ),
    "m.py:strange": (
        "m.py:25: aten.cumsum: there are no operators for it\n"
        "m.py:26: aten.erf: there are no operators for it\n"
        "2 errors"
    ),
}


@pytest.mark.parametrize("where", REFUSED)
def test_what_is_refused(where: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "w.yaml").write_text("before")
    assert status("capture", where, "-o", "w.yaml") == 2
    found = capsys.readouterr().err
    assert found.startswith(REFUSED[where]) and "Traceback" not in found
    assert (folder / "w.yaml").read_text() == "before"


def test_what_the_module_raises_is_located(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("capture", "m.py:small", "-o", "w.yaml") == 2
    assert capsys.readouterr().err.startswith("m.py:13: torch.export: RuntimeError: Given groups=1")
    assert not (folder / "w.yaml").exists()


def test_a_file_that_cannot_be_imported_is_located(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "m.py").write_text("\nimport nothing_of_this_name\n")
    assert status("capture", "m.py:make", "-o", "w.yaml") == 2
    said = "m.py:2: importing it raised ModuleNotFoundError: No module named 'nothing_of_this_name'\n"
    assert capsys.readouterr().err == said


def test_a_name_and_a_place_that_will_not_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("capture", "m.py:make", "-o", "w.yaml", "--name", "Big-One") == 2
    assert capsys.readouterr().err.startswith("expected the name of a workload, found 'Big-One'\n")
    assert status("capture", "m.py:make", "-o", "none/w.yaml") == 2
    assert capsys.readouterr().err == "none/w.yaml: cannot be written: No such file or directory\n"


def test_without_torch_one_line_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert status("capture", "m.py:make", "-o", "w.yaml") == 2
    assert capsys.readouterr().err == "capture needs torch: pip install 'ebmsim[torch]'\n"


def test_the_function_gives_a_workload() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    workload = ebmsim.capture(net, torch.randn(1, 6), name="small", steps=3, chains=16)
    assert (workload.name, workload.setting("chains"), workload.setting("steps")) == ("small", 16, 3)
    nodes = workload.file.components["small"].nodes
    assert [node["op"] for node in nodes] == ["linear", "tanh", "linear"]
    with pytest.raises(SpecError, match="expected a torch module, found a int"):
        ebmsim.capture(5, torch.randn(1, 6))
