"""Problems, the error that carries them, and name suggestions."""

from __future__ import annotations

import pickle

import pytest

from ebmsim.errors import EbmsimError, Problem, SpecError, nearest, suggest


def test_problem_prints_all_parts() -> None:
    problem = Problem(
        "unknown kernel 'cov'",
        "workload_graphs/x.yaml",
        41,
        7,
        "components.main.nodes[3].kernel",
        "did you mean 'conv'?",
    )
    assert str(problem) == (
        "workload_graphs/x.yaml:41:7: components.main.nodes[3].kernel: unknown kernel 'cov'\n    did you mean 'conv'?"
    )


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("bad"), "bad"),
        (Problem("bad", "a.yaml"), "a.yaml: bad"),
        (Problem("bad", "a.yaml", 3), "a.yaml:3: bad"),
        (Problem("bad", path="a.b"), "a.b: bad"),
        (Problem("bad", line=3, column=4), "3:4: bad"),
        (Problem("bad", "a.yaml", 0, 4), "a.yaml: bad"),
        (Problem("bad", hint="look"), "bad\n    look"),
    ],
)
def test_problem_leaves_out_empty_parts(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_spec_error_sorts_and_counts() -> None:
    error = SpecError(
        iter(
            [
                Problem("three", "b.yaml", 1, 1),
                Problem("two", "a.yaml", 10, 1),
                Problem("one", "a.yaml", 9, 5),
            ]
        )
    )
    assert isinstance(error, EbmsimError)
    assert [problem.message for problem in error.problems] == ["one", "two", "three"]
    assert str(error) == "a.yaml:9:5: one\na.yaml:10:1: two\nb.yaml:1:1: three\n3 errors"


def test_spec_error_with_one_problem_has_no_count() -> None:
    assert str(SpecError([Problem("bad", "a.yaml", 1, 2)])) == "a.yaml:1:2: bad"


def test_spec_error_survives_pickling() -> None:
    error = SpecError([Problem("bad", "a.yaml", 1, 2, hint="look")])
    again = pickle.loads(pickle.dumps(error))
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_nearest_ignores_case_and_orders() -> None:
    assert nearest("KERNAL", ["kernel", "kernels", "memory"]) == ["kernel", "kernels"]
    assert nearest("kernal", ["kernel", "kernels"], count=1) == ["kernel"]
    assert nearest("zzz", ["kernel"]) == []
    assert nearest("x", []) == []


@pytest.mark.parametrize(
    ("name", "known", "what", "text"),
    [
        ("kernal", ["kernel", "memory"], "", "did you mean 'kernel'?"),
        ("kernal", ["kernel", "memory"], "field", "did you mean the field 'kernel'?"),
        ("KERNEL", ["kernel", "kernels"], "", "did you mean 'kernel'?"),
        ("node_a", ["node_b", "node_c"], "", "nearest: node_b, node_c"),
        ("node_a", ["node_b", "node_c"], "node", "nearest node: node_b, node_c"),
        ("zzz", ["a", "b", "c"], "", "one of: a, b, c"),
        ("zzz", ["a", "b", "c"], "mode", "mode is one of: a, b, c"),
        ("zzz", list("abcdefghi"), "", ""),
        ("zzz", [], "", ""),
    ],
)
def test_suggest(name: str, known: list[str], what: str, text: str) -> None:
    assert suggest(name, known, what) == text


def test_very_long_names_are_compared_quickly() -> None:
    assert suggest("a" * 1_000_000, ["b" * 1_000_000] * 3) == "one of: " + "b" * 1_000_000
