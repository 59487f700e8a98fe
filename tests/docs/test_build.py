"""The pages build without a warning and stand by themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    folder = tmp_path_factory.mktemp("built")
    # The examples run in test_examples.py.
    options = ["-W", "--keep-going", "-q", "-E", "-D", "run_examples=0"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    pages = list(built.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(
            r'<(?:script|img|iframe)[^>]*src="https?:|<link[^>]*rel="stylesheet"[^>]*href="https?:', text
        )


def test_formulas_lead_to_their_function_and_their_test(built: Path) -> None:
    text = (built / "cost_model.html").read_text(encoding="utf-8")
    reference = (built / "_generated" / "api_cost.html").read_text(encoding="utf-8")
    tests = (built / "_generated" / "tests.html").read_text(encoding="utf-8")
    assert 'href="_generated/api_cost.html#ebmsim.cost.traffic.hit"' in text
    assert 'id="ebmsim.cost.traffic.hit"' in reference
    anchors = re.findall(r'href="_generated/tests.html#([^"]+)"', text)
    assert len(anchors) > 50
    assert not [anchor for anchor in anchors if f'id="{anchor}"' not in tests]


def test_formulas_of_docstrings_are_set_apart(built: Path) -> None:
    reference = (built / "_generated" / "api_cost.html").read_text(encoding="utf-8")
    assert re.search(r"<pre>[^<]*<span></span>folds", reference)
