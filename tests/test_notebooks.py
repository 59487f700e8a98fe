"""The notebooks run from top to bottom, and their exercises fail with advice when they are not solved."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.py"))


def read(path):
    jupytext = pytest.importorskip("jupytext")
    return jupytext.read(path, fmt="py:percent")


def executed(notebook, folder, *, errors=False):
    """The notebook after a run in a kernel of this very Python, by way of an .ipynb file."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    file = folder / "notebook.ipynb"
    nbformat.write(notebook, file)
    loaded = nbformat.read(file, as_version=4)
    where = {"metadata": {"path": folder}}
    return nbclient.NotebookClient(
        loaded, timeout=120, kernel_name="python3", allow_errors=errors, resources=where
    ).execute()


def is_solution(cell):
    return "solution" in cell.metadata.get("tags", [])


def errors_of(cell):
    return [out for out in cell.get("outputs", []) if out.output_type == "error"]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    # nbclient raises CellExecutionError, with the cell and its traceback, at the first cell that fails.
    executed(read(path), tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_unsolved_exercises_fail_with_advice(path, tmp_path):
    # Without the cells tagged `solution`, every check fails by an assertion with a message, and nothing else fails.
    notebook = read(path)
    solutions = sum(is_solution(cell) for cell in notebook.cells)
    notebook.cells = [cell for cell in notebook.cells if not is_solution(cell)]
    failed = [error for cell in executed(notebook, tmp_path, errors=True).cells for error in errors_of(cell)]
    assert len(failed) == solutions
    for error in failed:
        assert error.ename == "AssertionError", error.evalue
        assert len(error.evalue) > 40, f"a message that teaches, not {error.evalue!r}"
