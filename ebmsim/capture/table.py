"""The table of rules: what a call of an ATen target is in operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ebmsim.capture.chains import Refused, Value
from ebmsim.capture.export import Held, Ref
from ebmsim.capture.walk import Call, Walk

Rule = Callable[[Walk, Call], Any]
RULES: dict[str, Rule] = {}
# Targets whose operators hold weights of their own: the arguments that may be such, in the operator's order.
HOLDERS = {
    "linear": ("weight", "bias"),
    "conv1d": ("weight", "bias"),
    "conv2d": ("weight", "bias"),
    "conv_transpose1d": ("weight", "bias"),
    "conv_transpose2d": ("weight", "bias"),
    "layer_norm": ("weight", "bias"),
    "rms_norm": ("weight",),
    "group_norm": ("weight", "bias"),
    "instance_norm": ("weight", "bias"),
    "batch_norm": ("weight", "bias", "running_mean", "running_var"),
    "embedding": ("weight",),
}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Register the rule of targets (names without overload; what is in place has the rule of what is not)."""

    def register(found: Rule) -> Rule:
        for target in targets:
            if target in RULES:
                raise ValueError(f"target '{target}' is registered twice")
            RULES[target] = found
        return found

    return register


def base(target: str) -> str:
    """The target of which this one is in place: relu_ is relu."""
    return target[:-1] if target.endswith("_") and not target.endswith("__") else target


def signature(target: str, args: Any, known: Any) -> tuple[Any, ...]:
    """What tells calls apart that hold tensors: the target and the tensors' own names."""
    held = [known.get(args[a].name) if isinstance(args.get(a), Ref) else None for a in HOLDERS[target]]
    return (target, *[h.key if isinstance(h, Held) else None for h in held])


def find_holders(walk: Walk) -> dict[str, set[tuple[Any, ...]]]:
    """For each held tensor the different calls that read it."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    held = walk.exported.held
    for record in walk.exported.records:
        target = base(record.target)
        own = {id(record.args[a]) for a in HOLDERS.get(target, ()) if isinstance(record.args.get(a), Ref)}
        for item in record.args.values():
            for ref in item if isinstance(item, list) else [item]:
                if isinstance(ref, Ref) and ref.name in held:
                    call = signature(target, record.args, held) if id(ref) in own else (record.name,)
                    found.setdefault(held[ref.name].key, set()).add(call)
    return found


def learned(walk: Walk, call: Call) -> tuple[tuple[str, ...], Value | None, Value | None]:
    """What a call holds: tensors of the operator's own, else its weight and its bias as values.

    The first is empty where it has neither; a weight as a value may go with a bias of the operator's own.
    """
    target = base(call.record.target)
    mine = signature(target, call.args, walk.exported.held)
    given = [call.args.get(a) for a in HOLDERS[target]]
    held = [walk[g] for g in given]

    def alone(item: Any) -> bool:
        return isinstance(item, Held) and walk.holders.get(item.key) == {mine}

    keys = tuple(h.key for h in held if isinstance(h, Held))
    present = [h for h in held if h is not None]
    if present and all(alone(h) for h in present) and (held[0] is None or held[0].role == "weight"):
        for h in present:
            if h.role == "buffer":
                walk.constants[h.key] = h.tensor
        return keys, None, None
    weight = None if held[0] is None else walk.value(given[0])
    if len(held) < 2 or held[1] is None:
        return (), weight, None
    if target in ("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d") and alone(held[1]):
        return (held[1].key,), weight, None
    return (), weight, walk.value(given[1])


def whole(items: Any, what: str, rank: int = 2) -> int:
    """One number from a list with the same along all axes. Raises Refused."""
    numbers = list(items) if isinstance(items, (list, tuple)) else [items] * rank
    if len(set(numbers)) > 1:
        raise Refused(f"has a {what} of {numbers}, which is not the same along all axes")
    return int(numbers[0])
