"""What is kept between runs: used while nothing it was made from has changed, and never in the way."""

from pathlib import Path

import pytest

from ebmsim import cache
from ebmsim.cache import remembered
from ebmsim.errors import SpecError
from ebmsim.policy import Policy
from ebmsim.prepared import estimate_named

ROOT = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EBMSIM_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


class Counter:
    """A value made from a file, and how often it was made."""

    def __init__(self, source: Path) -> None:
        self.source, self.made = source, 0

    def __call__(self) -> tuple[str, list[Path]]:
        self.made += 1
        return self.source.read_text(), [self.source]


def test_a_value_is_made_once_until_its_file_changes(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one")
    make = Counter(source)
    assert [remembered(("a",), make) for _ in range(3)] == ["one"] * 3
    assert make.made == 1
    source.write_text("three")
    assert remembered(("a",), make) == "three"
    assert remembered(("b",), make) == "three"
    assert make.made == 3
    source.unlink()
    with pytest.raises(FileNotFoundError):
        remembered(("a",), make)


def test_other_sources_of_the_package_are_another_cache(folder: Path, tmp_path: Path, monkeypatch) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one")
    make = Counter(source)
    remembered(("a",), make)
    monkeypatch.setattr(cache, "_stamp", lambda: "a later version")
    remembered(("a",), make)
    assert make.made == 2


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x05K\x01."])
def test_a_damaged_entry_is_made_again(folder: Path, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "a.txt"
    source.write_text("one")
    make = Counter(source)
    remembered(("a",), make)
    for entry in folder.iterdir():
        entry.write_bytes(content)
    assert remembered(("a",), make) == "one"
    assert make.made == 2
    assert remembered(("a",), make) == "one"
    assert make.made == 2


def test_a_folder_that_others_may_write_to_is_not_used(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    source = tmp_path / "a.txt"
    source.write_text("one")
    make = Counter(source)
    assert [remembered(("a",), make) for _ in range(2)] == ["one", "one"]
    assert make.made == 2 and not list(folder.iterdir())


def test_entries_unused_for_longest_are_deleted(folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cache, "_MOST_ENTRIES", 3)
    source = tmp_path / "a.txt"
    source.write_text("one")
    for i in range(6):
        remembered((i,), Counter(source))
    assert len(list(folder.iterdir())) == 3


def test_remembered_estimates_are_those_of_a_first_run(folder: Path, tmp_path: Path) -> None:
    hardware = tmp_path / "chip.yaml"
    text = (ROOT / "hardware" / "rtx5090.yaml").read_text(encoding="utf-8")
    hardware.write_text(text, encoding="utf-8")
    call = ("ebm_imp", str(hardware), Policy(), "small", {"chains": 3})
    first, second = (estimate_named(*call).to_dict() for _ in range(2))
    assert first == second
    hardware.write_text(text.replace("eager: 1.6 us", "eager: 160 us"), encoding="utf-8")
    assert estimate_named(*call).seconds["t_samp"] > first["seconds"]["t_samp"]


def test_mistakes_are_reported_the_same_way_every_time(folder: Path, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with pytest.raises(SpecError) as raised:
            estimate_named("ebm_inp", "rtx5091", Policy(), "", {}, {})
        texts.append(str(raised.value))
    assert texts[0] == texts[1]
    assert "unknown workload 'ebm_inp'" in texts[0] and "unknown hardware 'rtx5091'" in texts[0]
