"""Checking a file: everything wrong with it that can be found without a device."""

from __future__ import annotations

from ebmsim.errors import Problem, SpecError
from ebmsim.graph.compose import check_workload
from ebmsim.graph.nodes import check_nodes
from ebmsim.graph.taxonomy import derive
from ebmsim.graph.training import how_trained
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, check_rules, parse_workload, readable, settle


def check_file(file: str) -> list[Problem]:
    """Every problem of a workload, hardware or software file; a file with components is a workload."""
    try:
        document = load_document(file)
        if "components" in document.data or "sampler" in document.data:
            problems: list[Problem] = []
            try:
                parsed = parse_workload(document)
            except SpecError as error:
                partial = readable(document)
                more = [*error.problems, *check_rules(document, partial), *check_nodes(document, partial)]
                return list(dict.fromkeys(more))
            for preset in ["", *[p for p in parsed.presets if p != "default"]]:
                try:
                    workload = settle(document, parsed, preset)
                    found = check_workload(workload)
                    if not found:
                        how_trained(workload)
                        found = check_tags(workload) if not preset else []
                except SpecError as error:
                    found = list(error.problems)
                problems += [p for p in found if p not in problems]
            return problems
        if "host_cost" in document.data:
            from ebmsim.spec.software import parse_profile

            parse_profile(document)
        else:
            from ebmsim.spec.hardware import HardwareSpec, check_hardware

            if not document.data.keys() & HardwareSpec.model_fields.keys() - {"name", "title", "notes"}:
                hint = "a workload has components and a sampler, a device units and memory, a profile host_cost"
                return [document.problem((), "neither a workload, nor hardware, nor a software profile", hint)]
            return check_hardware(document)
    except SpecError as error:
        return list(error.problems)
    return []


def check_tags(workload: Workload) -> list[Problem]:
    """Declared taxonomy tags that differ from the derived ones without a reason."""
    declared, derived = workload.file.taxonomy, derive(workload)
    problems = []
    for name in ("compositionality", "dependency"):
        said, is_ = getattr(declared, name), getattr(derived, name)
        if said != is_ and not declared.reason:
            problems.append(
                workload.document.problem(
                    ("taxonomy", name), f"expected {is_}, as derived from the components, or a reason; found {said}"
                )
            )
    return problems
