"""The settings ledger is what the default presets are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ebmsim
from ebmsim.paper.ledger import ADMISSIBLE

LEDGER = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (chains.*) \|$", LEDGER, re.MULTILINE))
INSTEAD = dict(re.findall(r"^\| `(\w+)` \| (`.*) \|$", LEDGER, re.MULTILINE))


def test_the_six_profiled_workloads_stand_in_it() -> None:
    assert set(ROWS) == {"ebm_imp", "ebm_eqm", "ired", "ebm_cmp", "ebm_cvr", "ccsp"}
    assert all(f"\n## {name}\n" in LEDGER for name in ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_default_preset(name: str) -> None:
    given = dict(word.split("=") for word in ROWS[name].replace("|", " ").split())
    have = ebmsim.load_workload(name).parameters
    assert {"chains", "steps"} <= set(given)
    assert {key: str(have[key]) for key in given} == given
    assert ebmsim.load_workload(name, "default").parameters == have


@pytest.mark.parametrize("name", ROWS)
def test_admissible_settings(name: str) -> None:
    """What the comparison with the paper ranges over is what the ledger says, and every one can be had."""
    assert re.findall(r"`([^`]+)`", INSTEAD[name]) == [str(change) for change in ADMISSIBLE[name]]
    for change in ADMISSIBLE[name]:
        ebmsim.load_workload(name, change.preset, change.settings)
        ebmsim.Policy(**change.policy)
