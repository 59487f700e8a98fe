"""Every operator a workload file may name has a torch realisation, which computes what the operator means."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from ebmsim.calibration.realise import REALISED
from ebmsim.graph.graph import Builder
from ebmsim.graph.nodes import public_operators

_SPEC = importlib.util.spec_from_file_location("truths", Path(__file__).parents[1] / "graph" / "conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
truths = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(truths)

RANDOM = ("random_normal", "random_uniform", "random_integers", "categorical")
PUBLIC = [o.name for o in public_operators()]
CASES = [case for case in truths.CASES if case.op in PUBLIC]


def test_every_operator_has_one() -> None:
    assert set(REALISED) == set(PUBLIC)
    assert {case.op for case in CASES} == set(PUBLIC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_it_computes_what_the_definition_says(case: Any) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        b = Builder()
        inputs, outputs = case.emit(b)
        values = truths.random_values(b)
        if case.positive or case.op == "batch_norm":
            values = {t: v.abs() + 0.5 if v.is_floating_point() else v for t, v in values.items()}
        (node,) = b.nodes
        given = [values[t].clone() for t in inputs]
        found = REALISED[node.op](given, dict(node.attributes))
        shapes = [b.shape(t) for t in outputs]
        truth = truths.REALISED[node.op]([values[t] for t in inputs], dict(node.attributes))
        for ours, theirs, shape in zip(found, truth, shapes, strict=True):
            if ours is None or node.op in ("synchronise", "host"):
                continue  # read by gradient rules alone, which autograd replaces
            assert tuple(ours.shape) == shape
            if node.op not in RANDOM:
                torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-9, atol=1e-10)
    finally:
        torch.set_default_dtype(torch.float32)
