"""Sweep files: what they mean in SI units, and what is refused, all at once and at its place."""

from __future__ import annotations

import pytest

from ebmsim.design import Sweep
from ebmsim.errors import SpecError
from ebmsim.spec.array_expression import evaluate_arrays
from ebmsim.spec.expression import ExpressionError, evaluate
from ebmsim.spec.located import parse_document
from ebmsim.spec.sweep import parse_sweep

HEAD = "name: s\nworkload: ebm_imp\nhardware: a100\n"


def parsed(text: str) -> Sweep:
    return parse_sweep(parse_document(HEAD + text, "s.yaml"))


def refused(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parsed(text)
    return str(caught.value)


def test_values_are_read_as_hardware_files_write_them() -> None:
    sweep = parsed(
        "axes:\n"
        "  l2: {field: hardware.memory.l2.capacity, values: [40 MiB, 80 MiB]}\n"
        "  bandwidth: {field: hardware.memory.dram.bandwidth, from: 1 TB/s, to: 4 TB/s, points: 3, scale: log}\n"
        "  units: {field: hardware.units, from: 2, to: 4, points: 9}\n"
        "  x: {from: 0, to: 1, points: 3}\n"
    )
    l2, bandwidth, units, x = sweep.axes
    assert l2.values == (40 * 2**20, 80 * 2**20)
    assert bandwidth.values == pytest.approx((1e12, 2e12, 4e12))
    assert units.values == (2, 3, 4)  # whole numbers, each once
    assert x.values == (0, 0.5, 1)
    assert all(axis.numeric for axis in sweep.axes)
    assert sweep.outputs == ("t_samp", "t_inf", "step_joules", "mean_power_watts")


def test_axes_of_names_are_not_numbers() -> None:
    sweep = parsed(
        "axes:\n"
        "  dtype: {field: policy.dtype, values: [fp32, bf16]}\n"
        "  device: {field: hardware, values: [a100, ./mine.yaml]}\n"
        "  chains: {field: workload.chains, values: [1, 8]}\n"
        "  loop: {field: hardware.features.resident_loop, values: [true, false]}\n"
    )
    assert not any(axis.numeric for axis in sweep.axes)
    assert sweep.axes[1].values[1].endswith("/mine.yaml")
    assert sweep.axes[1].values[1].startswith("/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axes: {}", "s.yaml:4:7: axes: "),
        (
            "axes: {a: {field: hardware.units, values: []}}",
            "axes.a.values: expected at least one value, found an empty",
        ),
        ("axes: {a: {field: hardware.units, values: [0]}}", "axes.a.values[0]: expected a whole number from 1 to 1e9"),
        ("axes: {a: {field: hardware.memory.l2.capacity, values: [-1 MiB]}}", "axes.a.values[0]: "),
        ("axes: {a: {field: hardware.memory.l2.capacity, values: [1 GB/s]}}", "axes.a.values[0]: "),
        ("axes: {a: {field: hardware.memory.l2.capacity, values: [.nan]}}", "axes.a.values[0]: "),
        ("axes: {a: {field: hardware.units, values: [2, 2]}}", "expected different values, found one twice"),
        ("axes: {a: {field: hardware.units, from: 4, to: 2, points: 3}}", "expected 'from' below 'to', found 4 and 2"),
        ("axes: {a: {field: hardware.units, from: 4, points: 3}}", "missing key 'to' of a range"),
        ("axes: {a: {field: hardware.units, from: 4, to: 8}}", "missing key 'points' of a range"),
        ("axes: {a: {field: hardware.units, values: [4], to: 8}}", "expected values or a range, found both"),
        ("axes: {a: {from: 0, to: 8, points: 3, scale: log}}", "expected a number above 0 on a log scale, found 0"),
        (
            "axes: {a: {field: hardwear.units, values: [4]}}",
            "unknown field 'hardwear.units'\n    did you mean 'hardware'?",
        ),
        ("axes: {a: {field: hardware.unit, values: [4]}}", "no figure 'unit' of hardware files"),
        ("axes: {a: {field: policy.dtyp, values: [4]}}", "no setting 'dtyp' of a policy\n    did you mean 'dtype'?"),
        ("axes: {a: {field: policy.dtype, from: fp32, to: bf16, points: 2}}", "takes a list of values, not a range"),
        ("axes: {a: {field: workload, values: [3]}}", "expected a name, found 3"),
        ("axes: {a: {values: [1]}}\nderived: {a: 2 * 3}", "derived.a: 'a' is an axis already"),
        ("axes: {a: {values: [1]}}\nderived: {b: 2 * c}", "unknown name 'c' in '2 * c'"),
        ("axes: {a: {values: [1]}}\nderived: {b: __import__('os')}", "derived.b: "),
        ("axes: {a: {values: [1]}}\nconstraints: [t_smap < 1]", "unknown name 't_smap'"),
        ("axes: {a: {values: [1]}}\nconstraints: ['a <']", "expected an arithmetic expression, found 'a <'"),
        ("axes: {a: {values: [1]}}\nderived: {b: {expression: a, field: units}}", "no figure 'units'"),
        ("axes: {a: {values: [1]}}\nkeep: {pareto: [b]}", "unknown figure 'b'"),
        ("axes: {a: {values: [1]}}\nkeep: {top: 3}", "unknown figure ''"),
        ("axes: {a: {values: [1]}}\nkeep: {top: 3, by: a, pareto: [a]}", "expected either 'pareto' or 'top' with 'by'"),
        ("axes: {a: {values: [1]}}\npolicy: {dtype: fp31}", "expected dtype to be one of"),
        ("axes: {a: {values: [1]}}\npolicy: {dytpe: fp32}", "unknown key 'dytpe'\n    did you mean 'dtype'?"),
        ("axes: {a: {values: [1]}}\nsampling: {method: sobol, points: 0}", "sampling.points"),
        ("axes: {a: {values: [1]}}\nchunks: 3", "unknown key 'chunks'\n    did you mean 'chunk'?"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    assert message in refused(text)


def test_all_problems_at_once() -> None:
    text = refused(
        "axes:\n  a: {field: hardware.units, values: [0]}\n  b: {from: 2, to: 1, points: 2}\nderived: {c: d}\n"
    )
    assert text.count("s.yaml:") == 3
    assert text.endswith("3 errors")


def test_arrays_are_their_numbers() -> None:
    import numpy as np

    texts = ["a * 2 if a > 1 else min(a, 0.5)", "not (1 < a <= 2) and b != 'x'", "pick(a, 5, 7, 9)", "-a ** 2 % 3"]
    values = np.array([0.0, 1.0, 2.0])
    for text in texts:
        alone = [evaluate(text, {"a": v, "b": "y"}) for v in values.tolist()]
        assert evaluate_arrays(text, {"a": values, "b": "y"}) == pytest.approx(alone), text


def test_a_division_by_zero_is_no_number_at_its_point_only() -> None:
    import numpy as np

    found = evaluate_arrays("1 / a", {"a": np.array([0.0, 2.0])})
    assert found[1] == 0.5
    assert not np.isfinite(found[0])
    with pytest.raises(ExpressionError, match="unknown name 'b'"):
        evaluate_arrays("1 / b", {"a": 1})
