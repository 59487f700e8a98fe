"""What is captured: a module at hand, or one that a function in a file makes."""

from __future__ import annotations

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmsim.errors import Problem, SpecError, suggest
from ebmsim.output import write_output

if TYPE_CHECKING:
    from ebmsim.spec.workload import Workload

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def capture(module: Any, inputs: Any, *, name: str = "", steps: int = 100, chains: int | None = None) -> Workload:
    """A torch module as a workload; the text of its file is that of `document`.

    A call of the module on `inputs`, a tensor or a tuple, gives one energy per chain, of shape [C] or [C, 1]. The first
    input is the sample, its first axis the chains; others are conditioning, with a chain axis where their first axis is
    as long. name: of the workload, after the module's class if not given. steps: K of the sampler and of training.
    chains: C, as in `inputs` if not given. Raises SpecError without torch, and with all that cannot be captured.
    """
    _check(name)
    _need_torch()
    from ebmsim.capture.module import captured

    return captured(module, inputs, name=name, steps=steps, chains=chains)[0]


def capture_file(where: str, output: Path, *, name: str = "", steps: int = 100, chains: int | None = None) -> Workload:
    """What the function FACTORY in FILE.py gives (`where`: FILE.py:FACTORY), captured and written to a file.

    The function takes nothing and gives a module and its example inputs. The file is written whole or not at all; "-"
    is standard output.
    Raises SpecError.
    """
    _check(name)
    file, colon, factory = where.rpartition(":")
    if not colon or not file or not factory:
        raise SpecError([Problem(f"expected FILE.py:FACTORY, found '{where}'")])
    if not Path(file).is_file():
        raise SpecError([Problem("no such file", file=file)])
    _need_torch()
    module, inputs = _made(file, factory)
    from ebmsim.capture.module import captured

    found, text = captured(module, inputs, name=name, steps=steps, chains=chains, file=file)
    write_output(output, text.encode())
    return found


def _check(name: str) -> None:
    if name and not _NAME.fullmatch(name):
        hint = "a name has small letters, digits and underscores, and begins with a letter"
        raise SpecError([Problem(f"expected the name of a workload, found '{name}'", hint=hint)])


def _need_torch() -> None:
    """Raises SpecError where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise SpecError([Problem("capture needs torch: pip install 'ebmsim[torch]'")])


def _made(file: str, factory: str) -> tuple[Any, Any]:
    """Module and inputs. Raises SpecError."""
    with _imported(file) as made:
        function = getattr(made, factory, None)
        if not callable(function):
            known = [n for n, v in vars(made).items() if callable(v) and not n.startswith("_")]
            what = "no function" if function is None else "not a function"
            raise SpecError([Problem(f"{what} '{factory}'", file=file, hint=suggest(factory, known))])
        found = _guarded(file, f"{factory}()", function)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        shown = (
            f"{len(found)} values" if isinstance(found, (tuple, list)) else f"a value of type {type(found).__name__}"
        )
        message = f"expected {factory}() to give a module and its example inputs, found {shown}"
        raise SpecError([Problem(message, file=file)])
    return found[0], found[1]


@contextmanager
def _imported(file: str) -> Iterator[Any]:
    """The file as a module, with its folder on the path of imports. Raises SpecError."""
    path = Path(file).resolve()
    name = f"captured_{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SpecError([Problem("expected a Python file", file=file)])
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        loader = spec.loader
        _guarded(file, "importing it", lambda: loader.exec_module(module))
        yield module
    finally:
        sys.modules.pop(name, None)
        sys.path.remove(str(path.parent))


def _guarded(file: str, what: str, function: Any) -> Any:
    """A call of the user's code. Raises SpecError, at the line of the file that it comes from."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        path = str(Path(file).resolve())
        line = error.lineno or 0 if isinstance(error, SyntaxError) else 0
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename in (path, file):
                line = frame.lineno or 0
        text = " ".join(str(error).split())[:300]
        message = f"{what} raised {type(error).__name__}" + (f": {text}" if text else "")
        raise SpecError([Problem(message, file=file, line=line)]) from None
