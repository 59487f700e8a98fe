"""Tables of a page: each figure as the answer's JSON object has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from ebmsim.report.html_elements import Content, answered, element, interval, quantity, table, terms
from ebmsim.units import format_quantity

if TYPE_CHECKING:
    from ebmsim.estimation import Estimate
    from ebmsim.lowered import Lowered

Answer = Mapping[str, Any]

# Kernels that a page lists at most, and those it shows at first.
_LISTED, _FIRST = 1000, 25
_PHASES = {"forward": "t_fwd", "backward-input": "t_bwd_in", "rng": "t_rng", "accept": "t_accept"}
_NAMED = {
    "t_fwd": "forward",
    "t_bwd_in": "backward to the input",
    "t_rng": "random numbers",
    "t_update": "update",
    "t_accept": "accept",
}
_TIMES = {
    "t_samp_first": ("first step", "empty queue, nothing in any cache"),
    "t_once": ("once", "before and after the steps of an inference"),
    "t_inf_eq6": ("T_inf, Eq. 6", "of the paper: chains one after another, K steps each"),
    "t_train_sampling": ("sampling", "the part of T_train in sampling steps"),
    "t_bwd_w_positive": ("backward, positive", "weight gradients on data, one iteration"),
    "t_bwd_w_negative": ("backward, negative", "weight gradients on samples, one iteration"),
    "t_train_eq7": ("T_train, Eq. 7", "of the paper"),
}
_WORK = {
    "flops_fwd": ("FLOPs, forward", "flops"),
    "flops_fwd_matmul_conv": ("of them in products and convolutions", "flops"),
    "flops_bwd_in": ("FLOPs, backward to the input", "flops"),
    "flops_bwd_in_matmul_conv": ("of them in products and convolutions", "flops"),
    "flops_bwd_w": ("FLOPs, backward to the weights, one pass", "flops"),
    "flops_bwd_w_matmul_conv": ("of them in products and convolutions", "flops"),
    "flops_accept": ("FLOPs, accept", "flops"),
    "bytes_fwd": ("bytes of operators, forward", "bytes"),
    "bytes_bwd_in": ("bytes of operators, backward to the input", "bytes"),
    "kernels": ("kernels launched", "count"),
}
_SIZE = {
    "parameters": ("parameters, each weight once", "count"),
    "allocated_parameters": ("parameters with those never used", "count"),
    "parameter_bytes": ("bytes of parameters", "bytes"),
}


def answers(e: Estimate, answer: Answer) -> Element:
    """T_samp, T_inf and T_train with their intervals."""
    w = e.workload
    together = f"{e.lowered.chains} chain{'s' if e.lowered.chains > 1 else ''} at once"
    texts = {
        "t_samp": f"one steady sampling step, {together}",
        "t_inf": f"an inference: {w.setting('steps')} steps of {w.setting('chains')} chains",
        "t_train": f"training: {w.setting('iterations'):,} iterations of {w.setting('training_steps')} steps",
    }
    rows = [
        (
            name.replace("t_", "T_"),
            answered(answer, f"seconds.{name}", "time"),
            interval(answer, name),
            text if answer["seconds"][name] is not None else "no training",
        )
        for name, text in texts.items()
    ]
    return table("answer-table", "T_samp, T_inf and T_train", ("figure", "time", "80 % interval", "what it is"), rows)


def in_short(e: Estimate, answer: Answer) -> Element:
    """What binds, memory, energy and the taxonomy class."""
    t = answer["taxonomy"]
    m = answer["memory"]

    def held(name: str, fits: str, what: str) -> list[Content]:
        if m[name] is None:
            return ["no training"]
        word = " fits" if m[fits] else element("strong", " does not fit")
        return [what, answered(answer, f"memory.{name}", "bytes"), word]

    bound: list[Content] = []
    for name in answer["bounds"]:
        bound += ["; " if bound else "", f"{name} ", answered(answer, f"bounds.{name}", "share")]
    known = (
        "kernels of this device were measured and compared"
        if answer["validated"]
        else "nothing was measured on this device"
    )
    return terms(
        ("bound by", bound),
        (
            "memory",
            [
                *held("inference_bytes", "fits", "inference "),
                "; ",
                *held("training_bytes", "training_fits", "training "),
                "; of ",
                answered(answer, "memory.capacity_bytes", "bytes"),
            ],
        ),
        (
            "energy",
            [
                answered(answer, "energy.step_joules", "energy"),
                " a step, ",
                answered(answer, "energy.inference_joules", "energy"),
                " an inference, ",
                answered(answer, "energy.mean_power_watts", "power"),
                f" on average of {format_quantity(e.hardware.power.limit, 'power')}",
            ],
        ),
        ("taxonomy", [f"{t['compositionality']}, {t['dependency']}"]),
        ("device", ["validated: " if answer["validated"] else "unvalidated: ", known]),
    )


def phases(e: Estimate, answer: Answer) -> Element:
    """Phases of a steady step, which add up to T_samp."""
    work: dict[str, Counter[str]] = {key: Counter() for key in _NAMED}
    for row in e.to_rows():
        mine = work[_PHASES.get(row["phase"], "t_update")]
        mine.update(flops=row["flops"], bytes=row["bytes_read"] + row["bytes_written"], kernels=1)
    step = e.timing.seconds or 1.0
    rows = [
        (
            name,
            answered(answer, f"seconds.{key}", "time"),
            quantity(float(answer["seconds"][key]) / step, "share"),
            interval(answer, key),
            quantity(float(work[key]["flops"]), "flops"),
            quantity(float(work[key]["bytes"]), "bytes"),
            quantity(work[key]["kernels"], "count"),
        )
        for key, name in _NAMED.items()
    ]
    columns = ("phase", "time", "share", "80 % interval", "FLOPs", "bytes", "kernels")
    return table("phases", "Phases of a steady step", columns, rows)


def times(answer: Answer) -> Element:
    """Times beside those of the answer and of the phases."""
    rows = [
        (name, answered(answer, f"seconds.{key}", "time"), interval(answer, key), text)
        for key, (name, text) in _TIMES.items()
        if answer["seconds"][key] is not None
    ]
    return table(
        "times",
        "First step, and parts of inference and training",
        ("figure", "time", "80 % interval", "what it is"),
        rows,
    )


def shares(answer: Answer, key: str, title: str, column: str) -> Element:
    """Shares by category or by bound, the largest first."""
    ordered = sorted(answer[key].items(), key=lambda item: -item[1])
    rows = [(name, answered(answer, f"{key}.{name}", "share")) for name, _ in ordered]
    return table(f"{key}-table", title, (column, "share"), rows)


def components(answer: Answer) -> Element:
    """The components with what they cost."""
    columns = {
        "instances": "count",
        "parameters": "count",
        "parameter_bytes": "bytes",
        "flops_fwd": "flops",
        "intensity": "number",
        "t_fwd": "time",
        "t_bwd_in": "time",
    }
    rows = [
        (
            c["name"],
            *[answered(answer, f"components.{i}.{key}", dimension) for key, dimension in columns.items()],
            c["weights"] if c["instances"] > 1 else "",
            c["bound"] or "once",
        )
        for i, c in enumerate(answer["components"])
    ]
    names = ("component", "instances", "parameters", "bytes", "FLOPs a chain", "FLOPs/B", "forward", "backward")
    caption = "Components: parameters and FLOPs of one instance, times of all of them in a step"
    return table("components-table", caption, (*names, "weights", "bound by"), rows)


def work(answer: Answer) -> Element:
    """Operations, bytes and parameters."""
    found = [("work", key, of) for key, of in _WORK.items()] + [("size", key, of) for key, of in _SIZE.items()]
    rows = [(name, answered(answer, f"{place}.{key}", dimension)) for place, key, (name, dimension) in found]
    return table("work", "Work of a steady step, and size of the model", ("of what", "amount"), rows)


def kernels(e: Estimate) -> Element:
    """The kernels that take longest; the caption says what is left out."""
    step = e.timing.seconds or 1.0
    found = sorted(e.to_rows(), key=lambda row: -row["seconds"])
    rows = [
        (
            row["kernel"],
            quantity(row["seconds"], "time"),
            quantity(row["seconds"] / step, "share"),
            row["bound"],
            row["phase"],
            row["op"],
            row["category"],
            quantity(row["flops"], "flops"),
            quantity(row["bytes_read"] + row["bytes_written"], "bytes"),
            quantity(row["device_seconds"], "time"),
            quantity(row["host_seconds"], "time"),
        )
        for row in found[:_LISTED]
    ]
    caption = f"{len(found)} kernels of a steady step, the longest first"
    if len(found) > _LISTED:
        part = sum(row["seconds"] for row in found[:_LISTED]) / step
        caption = f"The {_LISTED} longest of {len(found)} kernels of a steady step, {100 * part:.1f} % of its time"
    what = ("kernel", "time", "of step", "bound by", "phase", "operator", "category")
    names = (*what, "FLOPs", "bytes", "on the device", "on the host")
    return table("kernels-table", caption, names, rows, descending="time", top=_FIRST)


def memory(lowered: Lowered, answer: Answer) -> list[Element]:
    """What inference and training hold, against the capacity of the main memory."""
    capacity = answer["memory"]["capacity_bytes"]
    found = []
    for name, parts in (("inference", inference_parts(lowered)), ("training", training_parts(lowered))):
        if not parts:
            continue
        key = f"memory.{name}_bytes"
        rows = [*((part, quantity(held, "bytes"), quantity(held / capacity, "share")) for part, held in parts.items())]
        whole = answer["memory"][f"{name}_bytes"]
        rows.append(("together, at most", answered(answer, key, "bytes"), quantity(whole / capacity, "share")))
        caption = f"Memory held in {name}, of {format_quantity(capacity, 'bytes')}"
        found.append(table(f"memory-{name}", caption, ("part", "held", "of capacity"), rows))
    return found


def inference_parts(lowered: Lowered) -> dict[str, float]:
    """Bytes held in an inference; they add up to `inference_bytes`."""
    size, each = lowered.size, lowered.rows.element_bytes
    elements = {"weights": size.parameters, "weights never used": size.unused}
    elements["buffers, sample and inputs"] = size.held
    live = max(pass_.table.live_bytes for pass_ in (lowered.step, *lowered.once))
    return _parts(elements, each) | {"activations, at most": float(live)}


def training_parts(lowered: Lowered) -> dict[str, float]:
    """Bytes held in training; they add up to `training_bytes`. None where nothing is trained."""
    if lowered.iteration is None or lowered.training_step is None:
        return {}
    size, each = lowered.training_size, lowered.rows.element_bytes
    elements = {
        "weights": size.parameters,
        "weights of training alone": size.training,
        "weights never used": size.unused,
        "buffers, samples and inputs": size.held,
        "moments of the optimiser": 2 * size.trained,
        "running average of the weights": size.trained if lowered.training.average else 0,
    }
    sampling = lowered.training_step.table.live_bytes if lowered.training.steps else 0.0
    live = max(lowered.iteration.table.live_bytes, sampling)
    return _parts(elements, each) | {"activations and gradients, at most": float(live)}


def _parts(elements: Mapping[str, float], each: float) -> dict[str, float]:
    return {name: float(count * each) for name, count in elements.items() if count}
