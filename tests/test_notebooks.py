"""The notebooks run; an exercise not done fails with advice, a wrong answer with the advice it needs.

Each notebook is run once as it is, and once as students get it. In that second run every exercise is tried with
nothing, with every answer of notebooks/mistakes.yaml, and at last with its solution.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
MISTAKES = yaml.safe_load((ROOT / "tests" / "notebooks" / "mistakes.yaml").read_text(encoding="utf-8"))
NEED_TORCH = {"08_capture"}


@pytest.fixture(scope="module")
def maker():
    """notebooks/make_student.py."""
    pytest.importorskip("jupytext")
    spec = importlib.util.spec_from_file_location("make_student", ROOT / "notebooks" / "make_student.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path):
    if path.stem in NEED_TORCH:
        pytest.importorskip("torch")
    return pytest.importorskip("jupytext").read(path, fmt="py:percent").cells


def executed(cells, folder, *, errors=False):
    """The cells after a run in a kernel of this very Python."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": folder}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=errors, resources=where)
    return client.execute().cells


def error_of(*cells):
    """Kind and text of the first error in some cells."""
    found = [out for cell in cells for out in cell.get("outputs", []) if out.output_type == "error"]
    return (found[0].ename, found[0].evalue) if found else ("", "")


def code(source):
    return pytest.importorskip("nbformat").v4.new_code_cell(source)


def answers_of(source):
    return re.findall(r"^answer_\d+|(?<=^def )answer_\d+", source, re.MULTILINE)


def test_the_notebooks_are_those_with_mistakes(maker):
    assert [path.stem for path in maker.notebooks()] == list(MISTAKES)
    assert maker.notebooks() == NOTEBOOKS


@each_notebook
def test_a_notebook_runs(path, tmp_path):
    # nbclient raises CellExecutionError, with the cell and its traceback, at the first cell that fails.
    executed(cells_of(path), tmp_path)


@each_notebook
def test_mistakes_get_the_advice_they_need(path, tmp_path, maker):
    cells = cells_of(path)
    mistakes = MISTAKES[path.stem]
    trials, plan = [], []
    for index, cell in enumerate(cells):
        if not maker.has_tag(cell, "solution"):
            if not (maker.has_tag(cell, "check") or maker.has_tag(cell, "hidden")):
                trials.append(cell)
            continue
        (name,) = set(answers_of(cell.source))
        tests = [test.source for test in maker.tests_of(cells, index)]
        # The solution goes first, so that a mistake may build on what it leaves.
        for what in [{"code": cell.source}, {"code": maker.stub(cell.source), "says": ""}, *mistakes[name]]:
            plan.append((name, what, len(trials), 1 + len(tests)))
            trials += [code(what["code"]), *map(code, tests)]
        plan.append((name, {"code": cell.source}, len(trials), 1 + len(tests)))
        trials += [code(cell.source), *map(code, tests)]
    assert {name for name, *_ in plan} == set(mistakes)

    done = executed(trials, tmp_path, errors=True)
    tried = set()
    for name, what, start, count in plan:
        tried |= set(range(start, start + count))
        kind, text = error_of(*done[start : start + count])
        where = f"{name}, {what['code']!r}: {kind} {text!r}"
        if "says" not in what:
            assert not kind, where
            continue
        assert kind == "AssertionError", where
        assert what["says"] in text, where
        assert len(text) > 40, f"a message that teaches: {where}"
        assert not re.search(r"\d{3}|\d\.\d", text), f"a message that gives a number away: {where}"
    for place, cell in enumerate(done):
        assert place in tried or not error_of(cell)[0], cell.source


def test_calibration_goes_on_without_torch(tmp_path):
    (path,) = [path for path in NOTEBOOKS if "calibrate" in path.stem]
    blocked = code("import sys\nsys.modules['torch'] = None")
    done = executed([blocked, *cells_of(path)], tmp_path)
    assert "no torch here" in str(done)


def test_capture_says_what_it_needs(tmp_path):
    (path,) = [path for path in NOTEBOOKS if "capture" in path.stem]
    first = next(cell for cell in cells_of(path) if cell.cell_type == "code")
    blocked = code("import importlib.util\nimportlib.util.find_spec = lambda name: None")
    kind, text = error_of(*executed([blocked, first], tmp_path, errors=True))
    assert kind == "AssertionError"
    assert "pip install 'ebmsim[torch]'" in text


def test_a_stub_keeps_names_and_signatures(maker):
    solution = (
        "import math\n\nhalf = 0.5\nanswer_1 = half * 2\n\n\ndef answer_2(a, b=1):\n    return math.hypot(a, b)\n"
    )
    assert maker.stub(solution) == ("answer_1 = ...  # your answer\n\n\ndef answer_2(a, b=1):\n    ...  # your answer")
    with pytest.raises(ValueError, match="without an answer"):
        maker.stub("half = 0.5")


def test_a_solution_needs_a_check(maker):
    cell = code("answer_1 = 1")
    cell.metadata["tags"] = ["solution"]
    with pytest.raises(ValueError, match="without a check"):
        maker.tests_of([cell, code("print(answer_1)")], 0)


@each_notebook
def test_students_get_no_solutions_and_no_hidden_tests(path, maker):
    text = "\n".join(cell.source for cell in maker.version(path, "student").cells)
    for cell in cells_of(path):
        kept = maker.has_tag(cell, "check") or cell.metadata.get("tags", []) == []
        assert (cell.source in text) == kept, cell.source
        if maker.has_tag(cell, "solution"):
            assert maker.stub(cell.source) in text
    assert maker.version(path, "student") == maker.version(path, "student")


@each_notebook
def test_an_assignment_has_every_solution_and_test(path, maker):
    cells = cells_of(path)
    questions = sum(maker.has_tag(cell, "solution") for cell in cells)
    tests = questions + sum(maker.has_tag(cell, "hidden") for cell in cells)
    otter, nbgrader = ([cell.source for cell in maker.version(path, form).cells] for form in ("otter", "nbgrader"))
    assert sum(source.startswith("# BEGIN QUESTION") for source in otter) == questions
    assert sum("# BEGIN TEST CONFIG" in source for source in otter) == tests
    for cell in cells:
        assert any(cell.source in source for source in nbgrader), cell.source
        if not (maker.has_tag(cell, "check") or maker.has_tag(cell, "hidden")):
            assert any(cell.source in source for source in otter), cell.source


@each_notebook
def test_graded_cells_of_nbgrader_have_names_of_their_own(path, maker):
    graded = [
        cell.metadata["nbgrader"] for cell in maker.version(path, "nbgrader").cells if "nbgrader" in cell.metadata
    ]
    names = [entry["grade_id"] for entry in graded]
    assert len(set(names)) == len(names)
    for entry in graded:
        # A graded cell is locked and has points; a solution is neither.
        assert entry["grade"] == entry["locked"] == ("points" in entry) == (not entry["solution"])


def test_a_test_of_otter_takes_the_names_of_the_notebook(maker):
    source = (
        "import math\nhalf = 0.5\ndef scaled(x):\n    return x * factor\nassert scaled(half) == sum([answer_1]), 'no'"
    )
    text = maker._test_function(source, "test_q1")
    assert text.startswith("def test_q1(answer_1, factor):")
    space = {}
    exec(text, space)  # noqa: S102
    space["test_q1"](answer_1=1.0, factor=2)
    with pytest.raises(AssertionError, match="no"):
        space["test_q1"](answer_1=1.0, factor=3)


@each_notebook
def test_checks_print_nothing(path, maker):
    # What a check prints would come before its advice, and is lost where a grader runs it.
    for cell in cells_of(path):
        if maker.has_tag(cell, "check") or maker.has_tag(cell, "hidden"):
            assert "print(" not in cell.source


def test_the_command_writes_notebooks(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("jupytext")
    command = [sys.executable, ROOT / "notebooks" / "make_student.py", NOTEBOOKS[0], "-o", tmp_path / "class"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (written,) = (tmp_path / "class").iterdir()
    assert done.stdout.split() == [str(written)]
    notebook = nbformat.read(written, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            ast.parse(cell.source)
