"""The operators in torch, as the graph's own tests have them: a workload's graph can be executed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[int, Any]]:
    """Every tensor of a graph, executed in torch, from the values of those that no node writes."""
    path = Path(__file__).parents[1] / "graph" / "conftest.py"
    spec = importlib.util.spec_from_file_location("operators_in_torch", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def execute(graph: Any, values: Any) -> dict[int, Any]:
        # Random numbers in a graph are drawn in torch's default dtype, the values given are double.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            found: dict[int, Any] = module.execute(graph, values)
            return found
        finally:
            torch.set_default_dtype(before)

    return execute
