"""Versions of the notebooks for a class: for students without the answers, or as an assignment of Otter or nbgrader.

    python notebooks/make_student.py -o FOLDER [--for student|otter|nbgrader] [NOTEBOOK.py ...]

In a notebook, tags of cells say what they are: `solution` is the answer to an exercise, `check` the cell after it that
tests it, `hidden` tests for the teacher alone. An answer is a name, or a function, that begins with `answer`.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import symtable
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_raw_cell

HERE = Path(__file__).resolve().parent
STUB = "...  # your answer"
Cells = Iterator[Any]


def notebooks() -> list[Path]:
    """The notebooks that ship: their names begin with a number."""
    return sorted(HERE.glob("[0-9]*.py"))


def has_tag(cell: Any, tag: str) -> bool:
    """Whether a cell has a tag."""
    return tag in cell.metadata.get("tags", [])


def stub(solution: str) -> str:
    """What a student gets in the place of a solution: its answers, with nothing in them.

    Raises ValueError where the solution has no answer.
    """
    found = []
    for node in ast.parse(solution).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("answer"):
            found.append(f"def {node.name}({ast.unparse(node.args)}):\n    {STUB}")
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            found += [f"{name} = {STUB}"] if name.startswith("answer") else []
    if not found:
        raise ValueError(f"a solution without an answer:\n{solution}")
    return "\n\n\n".join(found)


def student(cells: list[Any]) -> Cells:
    """Cells without solutions and without hidden tests."""
    for cell in cells:
        if has_tag(cell, "solution"):
            yield new_code_cell(stub(cell.source))
        elif not has_tag(cell, "hidden"):
            yield _plain(cell)


def otter(cells: list[Any]) -> Cells:
    """The notebook that `otter assign` takes: a question for each solution, with its check and its hidden tests."""
    yield new_raw_cell("# ASSIGNMENT CONFIG\nexport_cell: false\ntests:\n  ok_format: false\n")
    question = 0
    for index, cell in enumerate(cells):
        if has_tag(cell, "solution"):
            question += 1
            yield from _question(cell, tests_of(cells, index), f"q{question}")
        elif not _tests(cell):
            yield _plain(cell)


def _question(solution: Any, tests: list[Any], name: str) -> Cells:
    yield new_raw_cell(f"# BEGIN QUESTION\nname: {name}\npoints: {len(tests)}\n")
    yield new_raw_cell("# BEGIN SOLUTION")
    prompt = f'""" # BEGIN PROMPT\n{stub(solution.source)}\n""" # END PROMPT\n'
    yield new_code_cell(f"{prompt}# BEGIN SOLUTION NO PROMPT\n{solution.source}\n# END SOLUTION")
    yield new_raw_cell("# END SOLUTION")
    yield new_raw_cell("# BEGIN TESTS")
    before = ""
    for number, test in enumerate(tests, 1):
        # A test knows nothing of another one, so what the check defines goes along with hidden tests.
        before += test.source + "\n"
        config = f'""" # BEGIN TEST CONFIG\nhidden: {str(has_tag(test, "hidden")).lower()}\n""" # END TEST CONFIG\n'
        yield new_code_cell(config + _test_function(before, f"test_{name}_{number}"))
    yield new_raw_cell("# END TESTS")
    yield new_raw_cell("# END QUESTION")


def _test_function(source: str, name: str) -> str:
    """Code as a function of the names that it takes from the notebook; Otter passes those by name."""
    function = ast.parse(f"def {name}(): pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    function.body = ast.parse(source).body
    alone = symtable.symtable(ast.unparse(function), name, "exec").get_children()[0]
    taken = sorted(_globals_of(alone) - set(dir(builtins)))
    function.args.args = [ast.arg(argument) for argument in taken]
    return ast.unparse(function)


def _globals_of(table: symtable.SymbolTable) -> set[str]:
    """Names that a function, or one within it, takes from outside."""
    found = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    return found.union(*(_globals_of(child) for child in table.get_children()))


def nbgrader(cells: list[Any]) -> Cells:
    """The notebook that `nbgrader generate_assignment` takes: solutions, and a graded cell for each of their tests."""
    question = 0
    for index, cell in enumerate(cells):
        if has_tag(cell, "solution"):
            question += 1
            text = f"{stub(cell.source)}\n### BEGIN SOLUTION\n{cell.source}\n### END SOLUTION"
            yield _graded(text, f"answer_{question}", solution=True)
            for number, test in enumerate(tests_of(cells, index), 1):
                hidden = f"### BEGIN HIDDEN TESTS\n{test.source}\n### END HIDDEN TESTS"
                text = hidden if has_tag(test, "hidden") else test.source
                yield _graded(text, f"test_{question}_{number}", grade=True, locked=True, points=1)
        elif not _tests(cell):
            yield _plain(cell)


def _graded(source: str, name: str, **roles: Any) -> Any:
    cell = new_code_cell(source)
    plain = {"grade": False, "locked": False, "solution": False, "task": False}
    cell.metadata["nbgrader"] = {"grade_id": name, "schema_version": 3, **plain, **roles}
    return cell


def tests_of(cells: list[Any], index: int) -> list[Any]:
    """The cells that test the solution at an index: a check, and maybe hidden ones.

    Raises ValueError where the solution has no check.
    """
    found = []
    for cell in cells[index + 1 :]:
        if not _tests(cell):
            break
        found.append(cell)
    if not found or not has_tag(found[0], "check"):
        raise ValueError(f"a solution without a check after it:\n{cells[index].source}")
    return found


def _tests(cell: Any) -> bool:
    return has_tag(cell, "check") or has_tag(cell, "hidden")


def _plain(cell: Any) -> Any:
    """A cell without its tags, which say nothing to a student."""
    return new_markdown_cell(cell.source) if cell.cell_type == "markdown" else new_code_cell(cell.source)


FORMS: dict[str, Callable[[list[Any]], Cells]] = {"student": student, "otter": otter, "nbgrader": nbgrader}


def version(path: Path, form: str) -> Any:
    """A notebook in one of the forms; the same file gives the same notebook."""
    notebook = jupytext.read(path, fmt="py:percent")
    cells = list(FORMS[form](notebook.cells))
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def main(arguments: list[str] | None = None) -> None:
    """Write the versions of some notebooks, all if none is named, into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK.py", help="all if none is named")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--for", dest="form", choices=FORMS, default="student")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    for path in given.notebooks or notebooks():
        target = given.output / f"{path.stem}.ipynb"
        nbformat.write(version(path, given.form), target)
        print(target)


if __name__ == "__main__":
    main()
