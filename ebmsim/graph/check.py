"""Checking a file: everything wrong with it that can be found without a device."""

from __future__ import annotations

from ebmsim.errors import Problem, SpecError
from ebmsim.graph.compose import check_workload
from ebmsim.graph.taxonomy import derive
from ebmsim.spec.located import load_document
from ebmsim.spec.workload import Workload, parse_workload, settle


def check_file(file: str) -> list[Problem]:
    """Every problem of a workload, hardware or software file; a file with components is a workload."""
    try:
        document = load_document(file)
        if "components" in document.data or "sampler" in document.data:
            parsed = parse_workload(document)
            problems = []
            for preset in ["", *[p for p in parsed.presets if p != "default"]]:
                workload = settle(document, parsed, preset)
                found = check_workload(workload) or (check_tags(workload) if not preset else [])
                problems += [p for p in found if p not in problems]
            return problems
        if "host_cost" in document.data:
            from ebmsim.spec.policy import parse_profile

            parse_profile(document)
        else:
            from ebmsim.spec.hardware import parse_hardware

            parse_hardware(document)
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
