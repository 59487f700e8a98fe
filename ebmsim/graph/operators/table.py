"""One table per question about an operator: what it is, its shape, its work, its gradient.

A family file fills the tables with short rules. A missing rule is an error that names the operator; there is no
default. Shapes count every axis; axes in attributes are negative, so that a leading chain axis never moves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ebmsim.errors import EbmsimError, suggest

Shape = tuple[int, ...]

CATEGORIES = ("matmul", "convolution", "elementwise", "transformation", "movement", "rng", "view", "host")


class ShapeError(EbmsimError):
    """Shapes or attributes that do not fit an operator; the text says what was expected and found."""


class Attribute(NamedTuple):
    """An attribute a workload file may give. kind: int | number | bool | ints | axis | new axis | axes | choice.

    A new axis is counted in the result, which has one more than the first input.
    """

    kind: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    least: float = 1
    text: str = ""


class Parameter(NamedTuple):
    """A tensor an operator holds: its name, its shape from the input shapes and attributes, learned (weight) or not.

    role: weight | buffer.
    """

    name: str
    shape: Callable[[Sequence[Shape], Mapping[str, Any]], Shape | None]
    role: str = "weight"


class Operator(NamedTuple):
    """What an operator is: category, inputs from the graph (least, most), attributes, learned tensors.

    result: the kind of what it writes (float | index | mask), `same` for that of its first input; a tuple of them where
    its outputs differ. in_place: it writes into its first input, whose memory its output is.
    """

    name: str
    category: str
    least: int
    most: int
    attributes: Mapping[str, Attribute]
    parameters: tuple[Parameter, ...]
    result: str | tuple[str, ...]
    public: bool
    in_place: bool
    text: str


class Work(NamedTuple):
    """What one kernel does, for the shapes at hand.

    flops: arithmetic operations, one multiply-add is two. special: transcendental results. random: random numbers.
    product: (batch, m, n, k) where the work is a matrix product, else None. product_flops: FLOPs of the
    product as torch's counter counts them (differs from 2*b*m*n*k only for strided transposed convolutions).
    chained: the product's first operand is made on the chip by another product, as the scores of fused attention are.
    window: (kernel, stride, height, width written) of a convolution that is one of images, else None.
    read: elements read per input, None for all of each. again: elements read a second time, and elements touched in
    between.
    written: elements written of the first output, None for all.
    """

    flops: int = 0
    special: int = 0
    random: int = 0
    product: tuple[int, int, int, int] | None = None
    product_flops: int = 0
    chained: bool = False
    window: tuple[int, int, int, int] | None = None
    read: tuple[int, ...] | None = None
    again: tuple[int, int] = (0, 0)
    written: int | None = None
    seconds: float = 0.0


ShapeRule = Callable[[Sequence[Shape], Mapping[str, Any]], tuple[Shape, ...]]
WorkRule = Callable[[Sequence[Shape], Sequence[Shape], Mapping[str, Any]], Work]
# Of a builder, a node, the gradients of its outputs in their order (None for those that have none, never the only
# output), and which inputs want one. Builder and Node stand a floor above: they read these tables.
GradientRule = Callable[..., Sequence[int | None]]

OPERATORS: dict[str, Operator] = {}
SHAPE: dict[str, ShapeRule] = {}
WORK: dict[str, WorkRule] = {}
GRADIENT: dict[str, GradientRule] = {}


def operator(
    name: str,
    category: str,
    inputs: int | tuple[int, int] = 1,
    *,
    attributes: Mapping[str, Attribute] | None = None,
    parameters: Sequence[Parameter] = (),
    result: str | tuple[str, ...] = "float",
    public: bool = True,
    in_place: bool = False,
    text: str = "",
) -> None:
    """Register what an operator is. `public`: a workload file may name it. Raises ValueError on a second time."""
    if name in OPERATORS:
        raise ValueError(f"operator '{name}' is registered twice")
    if category not in CATEGORIES:
        raise ValueError(f"operator '{name}': unknown category '{category}'")
    least, most = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    OPERATORS[name] = Operator(
        name, category, least, most, dict(attributes or {}), tuple(parameters), result, public, in_place, text
    )


def _registrar(table: dict[str, Any], question: str, names: tuple[str, ...]) -> Callable[[Any], Any]:
    def register(rule: Any) -> Any:
        for name in names:
            if name not in OPERATORS:
                raise ValueError(f"{question} rule for the unknown operator '{name}'")
            if name in table:
                raise ValueError(f"{question} rule of '{name}' is registered twice")
            table[name] = rule
        return rule

    return register


def shape(*names: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a shape rule: input shapes and attributes to output shapes."""
    return _registrar(SHAPE, "shape", names)


def work(*names: str) -> Callable[[WorkRule], WorkRule]:
    """Register a work rule: input shapes, output shapes and attributes to Work."""
    return _registrar(WORK, "work", names)


def gradient(*names: str) -> Callable[[GradientRule], GradientRule]:
    """Register a gradient rule: emits the operators that give the wanted input gradients."""
    return _registrar(GRADIENT, "gradient", names)


def rule(table: Mapping[str, Any], question: str, op: str, node: str, line: int) -> Any:
    """The rule of an operator. Raises EbmsimError naming operator, node and line when there is none."""
    found = table.get(op)
    if found is None:
        known = OPERATORS.get(op)
        hint = suggest(op, table) if known is None else "" if known.public else known.text
        where = f"node '{node}'" + (f" (line {line})" if line else "")
        raise EbmsimError(f"{where}: operator '{op}' has no {question} rule" + (f"; {hint}" if hint else ""))
    return found


def elements(shape: Shape) -> int:
    """Number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count
