"""The command line: exit statuses, what goes to stdout and stderr, messages, and the contract of --json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from command_line import answer, refusal

import ebmsim
from ebmsim.cli.main import COMMANDS, main
from ebmsim.estimation import estimate_lowered, settled
from ebmsim.graph.kernels import CATEGORIES
from ebmsim.lowered import Lowered
from ebmsim.lowering import fused, lower_workload
from ebmsim.paper.ledger import PROFILED
from ebmsim.policy import CHAIN_MODES, EXECUTIONS
from ebmsim.spec.library import load_profile, names

ROOT = Path(__file__).parents[2]
ALL = names("workload")
DEVICES = ("rtx5090", "ryzen9900x", "tpu_v6e")
SHIPPED = [
    *sorted(ROOT.glob("workload_graphs/*.yaml")),
    *sorted(ROOT.glob("hardware/*.yaml")),
    *sorted(ROOT.glob("hardware/software/*.yaml")),
]
SMALL = ("ebm_imp", "--hw", "rtx5090", "--preset", "small")

# Every key that section "public contract" promises.
KEYS = {
    "taxonomy": "compositionality dependency derived_dependency paper",
    "policy": "execution fidelity dtype math software streams chain_mode",
    "settings": "preset chains steps training_steps training_batch iterations parameters",
    "seconds": "t_fwd t_bwd_in t_rng t_update t_accept t_samp t_samp_first t_once t_inf t_inf_eq6 t_train t_train_eq7 "
    "t_bwd_w_positive t_bwd_w_negative",
    "seconds_interval": "t_samp",
    "work": "flops_fwd flops_bwd_in flops_bwd_w bytes_fwd bytes_bwd_in kernels flops_fwd_matmul_conv "
    "flops_bwd_in_matmul_conv flops_bwd_w_matmul_conv",
    "size": "parameters allocated_parameters parameter_bytes",
    "memory": "inference_bytes training_bytes capacity_bytes fits",
    "energy": "step_joules inference_joules mean_power_watts",
}
COMPONENT_KEYS = "name instances weights parameters parameter_bytes flops_fwd intensity t_fwd t_bwd_in bound"

Capture = pytest.CaptureFixture[str]


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield value


def test_help_names_every_command(capsys: Capture) -> None:
    for words in (["--help"], ["-h"]):
        text = answer(capsys, *words)
        assert all(f"\n  {name} " in text for name in COMMANDS)
    for name in COMMANDS:
        assert answer(capsys, name, "--help").startswith(f"Usage: ebmsim {name} ")


def test_version(capsys: Capture) -> None:
    assert answer(capsys, "--version") == f"ebmsim, version {version('ebmsim')}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("estimat ebm_imp", "Error: no command 'estimat'; did you mean 'estimate'?"),
        ("estimate ebm_ip --hw rtx5090", "unknown workload 'ebm_ip'\n    did you mean 'ebm_imp'?"),
        ("estimate ebm_imp --hw rtx509", "unknown hardware 'rtx509'\n    did you mean 'rtx5090'?"),
        (
            "estimate ebm_ip --hw rtx509 --dtype fp31",
            "expected dtype to be one of fp64, fp32, tf32, bf16, fp16, fp8, int8, fp4, int4, found 'fp31'\n"
            "    nearest: fp16, fp32\nunknown workload 'ebm_ip'\n    did you mean 'ebm_imp'?\n"
            "unknown hardware 'rtx509'\n    did you mean 'rtx5090'?\n3 errors",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --preset smal",
            "unknown preset 'smal' of ebm_imp\n    did you mean 'small'?",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --execution egar --math fats",
            "expected execution to be one of eager, graph, compiled, persistent, found 'egar'\n"
            "    did you mean 'eager'?\n"
            "expected math to be one of strict, torch-default, fast, found 'fats'\n    did you mean 'fast'?\n2 errors",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --streams 0",
            "expected streams to be a whole number from 1 to 1024, found 0",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --software torch-cud",
            "unknown software 'torch-cud'\n    nearest: torch-cuda, torch-cpu",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --preset small --dtype int4",
            "rtx5090 has no peak for int4 products\n    it has fp64, fp32, tf32, bf16, fp16, fp8, fp4, int8",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --set chains",
            "expected path=value, found 'chains'\n    for example --set chains=8",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --set chain=3",
            "unknown parameter 'chain' of ebm_imp\n    did you mean 'chains'?",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --set chains=0 --set steps=1.5",
            "expected chains to be at least 1, found 0\nexpected steps to be a whole number, found 1.5\n2 errors",
        ),
        (
            "estimate ebm_imp --hw rtx5090 --set hardware.memory.drm.bandwidth=3",
            "unknown figure 'memory.drm.bandwidth' of rtx5090\n    write it as memory.dram.bandwidth",
        ),
        ("explain ebm_imp nothing --hw rtx5090 --preset small", "no kernel 'nothing' in a step of ebm_imp"),
        ("check nothing.yaml", "nothing.yaml: no such file"),
        (
            "validate --measurements nothing.csv --hw t5",
            "unknown hardware 't5'\n    there are: a100, a100_40gb_pcie, ",
        ),
        ("validate --measurements nothing.csv --hw t4", "nothing.csv: no such file"),
        (
            "validate --measurements nothing.csv --hw t4 -o out.gif",
            "out.gif: expected a picture (.png, .pdf, .svg), found 'out.gif'",
        ),
        (
            "validate --measurements nothing.csv --hw t4 -o nowhere/out.png",
            "nowhere/out.png: no such folder 'nowhere'",
        ),
    ],
)
def test_refusal(line: str, expected: str, capsys: Capture) -> None:
    assert refusal(capsys, *line.split()).startswith(expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("estimate ebm_imp", "Missing option '--hw'"),
        ("validate --measurements a.csv --hw t4 --max-median nan", "expected a fraction, found nan"),
        ("validate --measurements a.csv --hw t4 --max-median -1", "'--max-median'"),
        ("estimate", "Missing argument 'WORKLOAD'"),
        ("estimate ebm_imp --hw rtx5090 --stream 2", "--streams"),
        ("estimate ebm_imp --hw rtx5090 --streams two", "'two' is not a valid integer"),
        ("list operator", "'operators'"),
        ("schema x", "'hardware'"),
    ],
)
def test_usage_error(line: str, expected: str, capsys: Capture) -> None:
    assert expected in refusal(capsys, *line.split())


def test_problems_of_both_inputs_at_once(tmp_path: Path, capsys: Capture) -> None:
    bad = ROOT / "tests" / "bad"
    text = refusal(capsys, "estimate", f"{bad}/zero_chains.yaml", "--hw", f"{bad}/hardware_units_zero.yaml")
    assert "parameters.chains: expected chains to be at least 1" in text
    assert "units: expected a whole number from 1 to 1e9" in text
    assert text.endswith("\n2 errors")


def test_set_changes_the_hardware_and_the_workload(capsys: Capture) -> None:
    def seconds(*extra: str) -> Any:
        return json.loads(answer(capsys, "estimate", *SMALL, "--fidelity", "roofline", "--json", *extra))

    plain = seconds()
    slower = seconds("--set", "hardware.memory.dram.bandwidth=1 GB/s", "--set", "chains=8")
    assert slower["settings"]["chains"] == 8 == 2 * plain["settings"]["chains"]
    assert slower["seconds"]["t_samp_first"] > plain["seconds"]["t_samp_first"]
    text = refusal(capsys, "estimate", *SMALL, "--set", "hardware.memory.dram.bandwidth=1 GHz")
    assert "memory.dram.bandwidth: expected a bandwidth such as '1792 GB/s', found '1 GHz'" in text


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ebmsim.SpecError):
        main(["estimate", "ebm_im", "--hw", "rtx5090", "--debug"])


def test_json_is_one_object(capsys: Capture) -> None:
    text = answer(capsys, "estimate", *SMALL, "--json")
    assert json.loads(text)["workload"] == "ebm_imp" and text.startswith("{") and text.endswith("}\n")
    both = json.loads(answer(capsys, "compare", "ebm_imp", "--hw", "rtx5090", "tpu_v6e", "--preset", "small", "--json"))
    assert [e["hardware"] for e in both] == ["rtx5090", "tpu_v6e"]


@cache
def loaded(kind: str, name: str) -> Any:
    return ebmsim.load_workload(name, "small") if kind == "workload" else ebmsim.load_hardware(name)


@cache
def lowered(workload: str, software: str, chain_mode: str, fusion: bool) -> Lowered:
    policy = ebmsim.Policy(execution="persistent" if fusion else "eager", software=software, chain_mode=chain_mode)
    return lower_workload(loaded("workload", workload), policy, load_profile(software))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workload", PROFILED)
def test_estimate_is_its_parts(workload: str, device: str) -> None:
    given = loaded("workload", workload), loaded("hardware", device)
    policy = settled(ebmsim.Policy(), given[1])
    profile = load_profile(policy.software)
    parts = estimate_lowered(
        lowered(workload, policy.software, "batched", fused(profile, policy)), given[1], policy, profile
    )
    assert ebmsim.estimate(*given).to_dict() == parts.to_dict()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("workload", PROFILED)
def test_contract(workload: str, device: str) -> None:
    for fidelity, execution, mode in product(("roofline", "analytical"), EXECUTIONS, CHAIN_MODES):
        hardware = loaded("hardware", device)
        policy = settled(ebmsim.Policy(execution=execution, fidelity=fidelity, chain_mode=mode), hardware)
        profile = load_profile(policy.software)
        # What `ebmsim.estimate` does, with the graphs made once for all that share them.
        found = estimate_lowered(
            lowered(workload, policy.software, mode, fused(profile, policy)), hardware, policy, profile
        )
        data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert data["schema"] == 1 and data["version"] == version("ebmsim") and data["validated"] is False
        assert (data["workload"], data["hardware"]) == (workload, device)
        for section, keys in KEYS.items():
            assert set(keys.split()) <= data[section].keys(), section
        assert data["taxonomy"]["paper"].keys() >= {"compositionality", "dependency"}
        assert data["components"] and all(set(COMPONENT_KEYS.split()) <= c.keys() for c in data["components"])
        assert all(math.isfinite(x) and x >= 0 for x in numbers({k: v for k, v in data.items() if k != "settings"}))
        given = data["policy"]
        assert (given["fidelity"], given["execution"], given["chain_mode"]) == (fidelity, execution, mode)
        assert all(k in ("compute", "dispatch", "sync") or k.startswith("memory:") for k in data["bounds"])
        assert set(data["categories"]) <= set(CATEGORIES)
        assert all(sum(data[k].values()) == pytest.approx(1) for k in ("bounds", "categories"))
        s = data["seconds"]
        parts = sum(s[k] for k in ("t_fwd", "t_bwd_in", "t_rng", "t_update", "t_accept"))
        assert parts == pytest.approx(s["t_samp"], rel=1e-9) and 0 < s["t_samp"] <= s["t_inf"]
        low, high = data["seconds_interval"]["t_samp"]
        assert low <= s["t_samp"] <= high


def test_list(capsys: Capture) -> None:
    for what, listed in (("workloads", ALL), ("hardware", DEVICES), ("operators", ("linear", "conv2d", "relu"))):
        text = answer(capsys, "list", what)
        assert all(name in text for name in listed)


def test_list_of_workloads_is_table_ii(capsys: Capture) -> None:
    """Its rows in its order, each with what the paper prints, then the conventional models."""
    text = answer(capsys, "list", "workloads")
    first, last = text.split("conventional model")
    works = [word for word in first.split() if word in ("EBM-IMP", "EBM-EqM", "EBT", "RRR", "ADE", "COMET", "CCSP")]
    assert works == ["EBM-IMP", "EBM-EqM", "EBT", "RRR", "ADE", "COMET", "CCSP"]
    assert "MALA, HMC" in first and "[36]" in first and "homo-ds" in first
    assert "stylegan2" in last and "stylegan2" not in first and "stand-in" in last


@pytest.mark.parametrize("workload", ALL)
def test_show(workload: str, capsys: Capture) -> None:
    assert workload in answer(capsys, "show", workload, "--preset", "small")
    assert answer(capsys, "show", workload, "--format", "mermaid").startswith(("graph", "flowchart"))
    assert answer(capsys, "show", workload, "--format", "dot").startswith("digraph")


def test_explain(capsys: Capture) -> None:
    assert "conv2d" in answer(capsys, "explain", *SMALL)
    found = ebmsim.estimate(loaded("workload", "ebm_imp"), loaded("hardware", "rtx5090"))
    name = found.lowered.step.table.names[0]
    assert name in answer(capsys, "explain", "ebm_imp", name, *SMALL[1:])


def test_compare(capsys: Capture) -> None:
    text = answer(capsys, "compare", "ebm_imp", "--hw", "rtx5090", "ryzen9900x", "--preset", "small")
    assert "rtx5090" in text and "ryzen9900x" in text


def test_shipped_files_have_no_problems(capsys: Capture) -> None:
    lines = answer(capsys, "check", *map(str, SHIPPED)).splitlines()
    assert lines == [f"{file}: no problems" for file in SHIPPED]


@pytest.mark.parametrize(
    ("kind", "folder"),
    [
        ("workload", "workload_graphs"),
        ("hardware", "hardware"),
        ("software", "hardware/software"),
        ("sweep", "sweeps"),
    ],
)
def test_schema_in_docs_is_current_and_named_by_every_file(kind: str, folder: str, capsys: Capture) -> None:
    text = answer(capsys, "schema", kind)
    assert json.loads(text)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    path = ROOT / "docs" / "schemas" / f"{kind}.json"
    assert path.read_text(encoding="utf-8") == text, f"ebmsim schema {kind} > docs/schemas/{kind}.json"
    files = sorted((ROOT / folder).glob("*.yaml"))
    assert files
    for file in files:
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        up = "../" * len(Path(folder).parts)
        assert first == f"# yaml-language-server: $schema={up}docs/schemas/{kind}.json", file.name
