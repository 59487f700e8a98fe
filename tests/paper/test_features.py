"""What features of an EBM-aware accelerator buy: docs/ebm_aware.md says what is computed now."""

from pathlib import Path

import pytest

from ebmsim.paper.features import FEATURES, SETTINGS, Setting, arrays, features_alone

PAGE = Path(__file__).parents[2] / "docs" / "ebm_aware.md"
ROWS = {
    title.strip(): {
        line.split("|")[1].strip(): line.split("|")[2:-1] for line in body.splitlines() if line.startswith("| ")
    }
    for title, _, body in (part.partition("\n") for part in PAGE.read_text(encoding="utf-8").split("\n## "))
}


@pytest.mark.parametrize("workload", ["ired", "ccsp"])
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.title)
def test_the_page_is_current(workload: str, setting: Setting) -> None:
    """If not, `python -m ebmsim.paper.features > docs/ebm_aware.md` writes it anew; read it again then."""
    written = [float(cell) for cell in ROWS[setting.title][workload]]
    assert written == [pytest.approx(v, abs=0.006) for v in features_alone(workload, setting).values()]


@pytest.mark.parametrize("workload", ["ired", "ebm_cvr", "ccsp"])
def test_no_feature_makes_a_step_slower(workload: str) -> None:
    found = features_alone(workload, SETTINGS[1])
    assert all(found[name] >= 1 - 1e-12 for name in FEATURES)
    assert found["all"] >= max(found[name] for name in FEATURES) - 1e-12
    assert found["no transposed access"] <= 1 + 1e-12


def test_streams_only_help_and_features_add_to_them() -> None:
    found = arrays("ccsp", SETTINGS[0])
    assert 1 <= found["GPU"] <= found["tensor cores"]
