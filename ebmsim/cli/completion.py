"""What a shell completes: names that ship and files of one's own. Every tab waits for it: nothing slow is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from glob import escape, glob

import click
from click.shell_completion import CompletionItem

from ebmsim.errors import SpecError

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
COLLECTING = "ebmsim.collecting"
"""In the meta data of a context: the option whose words go on, "" for none."""


def workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Workloads; devices after `--hw A`, where a command takes several of them."""
    return _named("hardware" if ctx.meta.get(COLLECTING) == "--hw" else "workload", incomplete)


def hardware(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Devices, with their variants."""
    return _named("hardware", incomplete)


def software(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Software profiles."""
    return _named("software", incomplete)


def presets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Presets of the workloads that stand before."""
    # The words before an option without a value are not taken as arguments.
    given = [ctx.params.get("workload"), *(ctx.params.get("workloads") or ()), *ctx.args]
    return _starting(dict.fromkeys(preset for name in given if name for preset in _presets(name)), incomplete)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Files, as the shell completes them."""
    return [CompletionItem(incomplete, type="file")]


def choices(*options: str) -> Completer:
    """Fixed words."""
    return lambda ctx, param, incomplete: _starting(options, incomplete)


def _named(kind: str, incomplete: str) -> list[CompletionItem]:
    """Names that ship and YAML files here; what the shell finds where nothing begins so."""
    from ebmsim.spec.shipped import names

    return _starting([*names(kind), *sorted(glob(f"{escape(incomplete)}*.yaml"))], incomplete) or [
        CompletionItem(incomplete, type="file")
    ]


def _presets(workload: str) -> list[str]:
    """The presets of a workload; none of one that cannot be read, or comes from a pipe."""
    from ebmsim.spec.located import STDIN, load_document
    from ebmsim.spec.shipped import find

    try:
        written = load_document(find("workload", workload)).data.get("presets") if workload != STDIN else None
    except SpecError:
        return []
    return list(written) if isinstance(written, dict) else []


def _starting(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
