"""What is slow to import is imported only where it is needed."""

import subprocess
import sys

import pytest

SLOW = ("matplotlib", "scipy", "networkx", "torch", "pandas", "dask")


def imported_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Which of the modules a fresh interpreter has loaded after running the code."""
    text = f"import sys\n{code}\nprint(*[n for n in {names!r} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return done.stderr.split()


@pytest.mark.parametrize("extra", ["", "--json"])
def test_estimate_imports_nothing_slow(extra: str) -> None:
    words = ["estimate", "ebm_imp", "--hw", "rtx5090", "--preset", "small", *extra.split()]
    assert imported_after(f"from ebmsim.cli.main import main\nmain({words!r})", SLOW) == []


def test_the_package_alone_imports_neither_numpy_nor_pydantic() -> None:
    assert imported_after("import ebmsim", (*SLOW, "numpy", "pydantic", "yaml", "click")) == []


def test_help_imports_neither_numpy_nor_pydantic() -> None:
    code = "from ebmsim.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    assert imported_after(code, (*SLOW, "numpy", "pydantic", "yaml")) == []
