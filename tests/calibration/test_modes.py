"""Steps that run as one piece: what a compiled one computes, and what it needs."""

from __future__ import annotations

import shutil

import pytest
import torch

from ebmsim.calibration.execute import Step, run_measured
from ebmsim.calibration.modes import Compiled, missing_compiler, results, step_of
from ebmsim.errors import EbmsimError
from ebmsim.policy import Policy
from ebmsim.spec.library import load_workload

compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@compiler
@pytest.mark.parametrize(("name", "last"), [("ired", "sampler.y"), ("ebm_cl", "sampler.class")])
def test_a_compiled_step_computes_what_an_eager_one_does(name: str, last: str) -> None:
    """Neither draws a random number. One takes two gradients; the other takes none."""
    workload = load_workload(name, "small")
    compiled = Compiled(workload, dtype="fp64", seed=3)
    eager = Step(workload, dtype="fp64", seed=3, keep=True)
    theirs, mine = eager.act(compiled.values), compiled.act()
    assert tuple(mine) == results(eager)
    assert last in [node.name for node in eager.program.graph.nodes if node.outputs[0] in mine]
    for t, value in mine.items():
        torch.testing.assert_close(value, theirs[t].detach(), rtol=1e-9, atol=1e-9)
    found = run_measured(compiled)
    assert set(found) == {"t_samp"} and found["t_samp"] > 0


@compiler
def test_what_the_compiler_says_in_one_line() -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(EbmsimError, match=r"^torch\.compile cannot compile a step of irem: .*\S$") as caught,
    ):
        step_of(load_workload("irem", "small"), "cpu", Policy(execution="compiled"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "carried"), [("ade", ["p", "x"]), ("rrr", ["x", "g", "e"]), ("ebm_igm", ["m", "v"])])
def test_what_the_next_step_reads_is_a_result(name: str, carried: list[str]) -> None:
    """Momentum, moments, and a corrected sampler's gradient and energy, which steps read themselves once written."""
    step = Step(load_workload(name, "small"), keep=True)
    found = results(step)
    written = [node.name for node in step.program.graph.nodes for t in node.outputs if t in found]
    assert {f"sampler.{short}" for short in carried} <= set(written)


def test_a_step_that_is_eager_tells_its_phases_apart() -> None:
    found = run_measured(step_of(load_workload("irem", "small"), "cpu", Policy()))
    assert found["t_samp"] == pytest.approx(sum(found.values()) - found["t_samp"])


def test_a_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert missing_compiler("cpu") == "torch.compile needs a C++ compiler, and there is no no-such-compiler"
