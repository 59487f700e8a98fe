"""Numbers with units: a closed grammar from text to SI base values, and back to text.

A quantity is a decimal number, optional blanks and one unit of a fixed table. Prefixes are the
decimal ones (k is 1000) and, for bytes and bytes per second, the binary ones (Ki is 1024).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

from ebmsim.errors import nearest

_LONGEST_TEXT = 80
_LONGEST_SHOWN = 40

_DOWN = {"p": -12, "n": -9, "u": -6, "µ": -6, "μ": -6, "m": -3}
_UP = {"k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}


class _Dimension(NamedTuple):
    article: str  # with its article, as messages name it
    example: str
    unit: str
    words: str  # what the unit is, in words
    down: bool  # whether prefixes below 1 make sense
    up: bool


_DIMENSIONS: dict[str, _Dimension] = {
    "bytes": _Dimension("a size", "'96 MiB'", "B", "bytes", False, True),
    "bandwidth": _Dimension("a bandwidth", "'1792 GB/s'", "B/s", "bytes per second", False, True),
    "flops": _Dimension("a FLOP count", "'2.5 GFLOP'", "FLOP", "FLOPs", False, True),
    "flop_rate": _Dimension("a compute rate", "'104.8 TFLOP/s'", "FLOP/s", "FLOPs per second", False, True),
    "op_rate": _Dimension("an operation rate", "'6.5 Top/s'", "op/s", "operations per second", False, True),
    "frequency": _Dimension("a frequency", "'2.41 GHz'", "Hz", "hertz", False, True),
    "time": _Dimension("a time", "'5 us'", "s", "seconds", True, False),
    "power": _Dimension("a power", "'575 W'", "W", "watts", True, True),
    "energy": _Dimension("an energy", "'3 mJ'", "J", "joules", True, True),
    "energy_per_byte": _Dimension("an energy per byte", "'40 pJ/B'", "J/B", "joules per byte", True, False),
    "energy_per_flop": _Dimension("an energy per FLOP", "'2.1 pJ/FLOP'", "J/FLOP", "joules per FLOP", True, False),
    "number": _Dimension("a number", "0.85", "", "a plain number", False, False),
}


class _Unit(NamedTuple):
    dimension: str
    decimal: int  # power of ten
    binary: int  # power of two


def _table() -> dict[str, _Unit]:
    units: dict[str, _Unit] = {}
    for name, dimension in _DIMENSIONS.items():
        if not dimension.unit:
            continue
        prefixes = {"": 0} | (_DOWN if dimension.down else {}) | (_UP if dimension.up else {})
        for prefix, power in prefixes.items():
            units[prefix + dimension.unit] = _Unit(name, power, 0)
        if name in ("bytes", "bandwidth"):
            for prefix, power in _BINARY.items():
                units[prefix + dimension.unit] = _Unit(name, 0, power)
    return units


_UNITS = _table()
_QUANTITY = re.compile(r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?[ \t]*(.*)", re.DOTALL)


def _shown(value: object) -> str:
    """`value` as the user wrote it in a file, short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")
    if isinstance(value, int) and abs(value) >= 10**_LONGEST_SHOWN:
        return f"an integer of more than {_LONGEST_SHOWN} digits"
    if isinstance(value, (int, float)):
        return format(value)
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def _refusal(value: object, dimension: str, reason: str = "") -> ValueError:
    entry = _DIMENSIONS[dimension]
    text = f"expected {entry.article} such as {entry.example}, found {_shown(value)}"
    return ValueError(f"{text} ({reason})" if reason else text)


def _unit_reason(unit: str, dimension: str) -> str:
    """Why `unit` is not one of `dimension`."""
    entry = _DIMENSIONS[dimension]
    if not unit:
        return "the unit is missing"
    if not entry.unit:
        return "no unit is allowed here"
    known = _UNITS.get(unit)
    if known is not None:
        return f"{unit} is {_DIMENSIONS[known.dimension].words}, not {entry.words}"
    if re.fullmatch(r"[kKMGTPE]?i?(b|bit|bits)(/s|ps)?", unit):
        return "'b' is not a unit: B is bytes"
    close = nearest(unit, (name for name, known in _UNITS.items() if known.dimension == dimension), 1)
    return f"{_shown(unit)} is not a unit" + (f", nearest: {close[0]}" if close else "")


def parse_quantity(text: object, dimension: str, *, zero: bool = False) -> float:
    """The value of `text` in SI base units: B, B/s, FLOP, FLOP/s, op/s, Hz, s, W, J, J/B or J/FLOP.

    `dimension` is one of bytes, bandwidth, flops, flop_rate, op_rate, frequency, time, power, energy,
    energy_per_byte, energy_per_flop, number; a "number" is a plain int or float. Zero is accepted only
    with `zero`. Raises ValueError with a message for the user when `text` is not such a quantity,
    KeyError when `dimension` is not one of these.
    """
    if not _DIMENSIONS[dimension].unit:
        value = _plain_number(text, dimension)
    elif isinstance(text, str):
        value = _with_unit(text, dimension)
    else:
        is_number = isinstance(text, (int, float)) and not isinstance(text, bool)
        raise _refusal(text, dimension, "the unit is missing" if is_number else "")
    if value < 0:
        raise _refusal(text, dimension, "a negative number")
    if value == 0:
        if not zero:
            raise _refusal(text, dimension, "zero is not allowed here")
        return 0.0
    return value


def _plain_number(value: object, dimension: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refusal(value, dimension)
    try:
        number = float(value)
    except OverflowError:
        raise _refusal(value, dimension, "too large") from None
    if not math.isfinite(number):
        raise _refusal(value, dimension, "not a finite number")
    return number


def _with_unit(text: str, dimension: str) -> float:
    match = _QUANTITY.fullmatch(text.strip(" \t")) if len(text) <= _LONGEST_TEXT else None
    if match is None:
        raise _refusal(text, dimension)
    sign, mantissa, exponent, unit = match.groups()
    entry = _UNITS.get(unit)
    if entry is None or entry.dimension != dimension:
        raise _refusal(text, dimension, _unit_reason(unit, dimension))
    # Shifting the exponent in the text rounds once: 2.1 pJ is the float 2.1e-12 itself.
    value = math.ldexp(1.0, entry.binary) * float(f"{sign}{mantissa}e{int(exponent or 0) + entry.decimal}")
    if not math.isfinite(value):
        raise _refusal(text, dimension, "too large")
    if value == 0 and mantissa.strip("0."):
        raise _refusal(text, dimension, "too small")
    return value


def format_quantity(value: float, dimension: str) -> str:
    """`value`, in SI base units, with three significant digits and a fitting prefix.

    Sizes in bytes take binary prefixes ("96.0 MiB"), all else decimal ones ("1.79 TB/s"); times above
    120 s are split ("3 min 20 s", "5 h 12 min", "3.1 days"). The dimensions are those of
    `parse_quantity`; raises KeyError for any other.
    """
    entry = _DIMENSIONS[dimension]
    number = float(value)
    if not math.isfinite(number) or number == 0:
        return f"{abs(number) if number == 0 else number:g} {entry.unit}".rstrip()
    sign = "-" if number < 0 else ""
    number = abs(number)
    if dimension == "number":
        return sign + (f"{number:.0f}" if 100 <= number < 1e15 else f"{number:#.3g}".rstrip("."))
    if dimension == "bytes":
        return sign + _binary(number)
    if dimension == "time" and round(number) > 120:
        return sign + _long_time(number)
    return sign + _decimal(number, entry)


def exact_quantity(value: float, dimension: str) -> str:
    """`value`, in SI base units, with a fitting prefix and all its digits: `parse_quantity` gives the same float.

    The dimensions are those of `parse_quantity` that have a unit; raises KeyError for any other.
    """
    entry = _DIMENSIONS[dimension]
    # Moving the decimal point, or dividing by a power of two, loses nothing.
    short = [format_quantity(value, dimension), _decimal(float(value), entry) if value else ""]
    texts = []
    for unit in {text.partition(" ")[2].replace("µ", "u") for text in short} & _UNITS.keys():
        scaled = Decimal(repr(math.ldexp(float(value), -_UNITS[unit].binary))).scaleb(-_UNITS[unit].decimal)
        texts.append(f"{scaled.normalize():f} {unit}")
    return min(texts, key=lambda text: (len(text), text), default=f"{float(value)!r} {entry.unit}")


def _three_digits(number: float) -> tuple[str, int]:
    """The three leading digits of a positive number, rounded, and its power of ten."""
    mantissa, power = f"{number:.2e}".split("e")
    return mantissa.replace(".", ""), int(power)


def _decimal(number: float, entry: _Dimension) -> str:
    prefixes = {0: ""}
    if entry.up:
        prefixes.update({power: prefix for prefix, power in _UP.items()})
    if entry.down:
        prefixes.update({-12: "p", -9: "n", -6: "µ", -3: "m"})
    digits, power = _three_digits(number)
    base = power // 3 * 3
    if base not in prefixes:
        base = min(max(base, min(prefixes)), max(prefixes))
        scaled = number / 10.0**base
        shown = f"{scaled:.0f}" if 100 <= scaled < 9999.5 else f"{scaled:.3g}"
        return f"{shown} {prefixes[base]}{entry.unit}"
    point = power - base + 1
    shown = digits if point == 3 else f"{digits[:point]}.{digits[point:]}"
    return f"{shown} {prefixes[base]}{entry.unit}"


def _binary(number: float) -> str:
    steps = [("", 0), *_BINARY.items()]
    for prefix, power in steps:
        scaled = math.ldexp(number, -power)
        # 1000 to 1023 keep their fourth digit: "1012 MiB" has no shorter exact form.
        if float(f"{scaled:.0f}") < 1024 or prefix == steps[-1][0]:
            break
    if not prefix and scaled == int(scaled):
        return f"{scaled:.0f} B"
    if not 0.0005 <= scaled < 9999.5:
        return f"{scaled:.3g} {prefix}B"
    _, digits_power = _three_digits(scaled)
    return f"{scaled:.{max(0, 2 - digits_power)}f} {prefix}B"


def _long_time(seconds: float) -> str:
    whole = round(seconds)
    if whole <= 7200:
        return f"{whole // 60} min {whole % 60} s"
    if seconds <= 172800:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60} min"
    days = seconds / 86400
    return f"{days:.1f} days" if days < 1e6 else f"{days:.3g} days"
