"""Quantities with units: literal values, refusals word by word, and the round trip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebmsim.units import format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("1792 GB/s", "bandwidth", 1_792_000_000_000.0),
        ("1.792 TB/s", "bandwidth", 1.792e12),
        ("1 GiB/s", "bandwidth", 1_073_741_824.0),
        ("96MiB", "bytes", 96 * 1024.0 * 1024.0),
        ("1 KiB", "bytes", 1024.0),
        ("1 TiB", "bytes", 1_099_511_627_776.0),
        ("1 PiB", "bytes", 1_125_899_906_842_624.0),
        ("1 kB", "bytes", 1000.0),
        ("1EB", "bytes", 1e18),
        ("512 B", "bytes", 512.0),
        ("3 FLOP", "flops", 3.0),
        ("2.5 GFLOP", "flops", 2_500_000_000.0),
        ("104.8 TFLOP/s", "flop_rate", 104.8e12),
        ("1 PFLOP/s", "flop_rate", 1e15),
        ("6.5 Top/s", "op_rate", 6.5e12),
        ("2.41 GHz", "frequency", 2.41e9),
        ("5 us", "time", 5e-6),
        ("5 µs", "time", 5e-6),
        ("5 \u03bcs", "time", 5e-6),
        ("1 ps", "time", 1e-12),
        ("7 ns", "time", 7e-9),
        ("2 ms", "time", 2e-3),
        ("1.5e3 s", "time", 1500.0),
        (".5 s", "time", 0.5),
        ("+1. s", "time", 1.0),
        ("575 W", "power", 575.0),
        ("3 mJ", "energy", 3e-3),
        ("2 MJ", "energy", 2e6),
        ("40 pJ/B", "energy_per_byte", 4e-11),
        ("2.1 pJ/FLOP", "energy_per_flop", 2.1e-12),
        (0.85, "number", 0.85),
        (3, "number", 3.0),
        (np.float64(2.5), "number", 2.5),
    ],
)
def test_parses(text: object, dimension: str, value: float) -> None:
    assert parse_quantity(text, dimension) == value


BANDWIDTH = "expected a bandwidth such as '1792 GB/s', found "


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("1792 GB", "bandwidth", BANDWIDTH + "'1792 GB' (GB is bytes, not bytes per second)"),
        ("-5 GB/s", "bandwidth", BANDWIDTH + "'-5 GB/s' (a negative number)"),
        ("5 Gb/s", "bandwidth", BANDWIDTH + "'5 Gb/s' ('b' is not a unit: B is bytes)"),
        ("5 Gbps", "bandwidth", BANDWIDTH + "'5 Gbps' ('b' is not a unit: B is bytes)"),
        ("5 KB/s", "bandwidth", BANDWIDTH + "'5 KB/s' ('KB/s' is not a unit, nearest: kB/s)"),
        ("5 mB/s", "bandwidth", BANDWIDTH + "'5 mB/s' ('mB/s' is not a unit, nearest: MB/s)"),
        ("5 @", "bandwidth", BANDWIDTH + "'5 @' ('@' is not a unit)"),
        ("5", "bandwidth", BANDWIDTH + "'5' (the unit is missing)"),
        (5, "bandwidth", BANDWIDTH + "5 (the unit is missing)"),
        (True, "bandwidth", BANDWIDTH + "true"),
        (None, "bandwidth", BANDWIDTH + "null"),
        ([1], "bandwidth", BANDWIDTH + "a list"),
        ({}, "bandwidth", BANDWIDTH + "a mapping"),
        ("", "bandwidth", BANDWIDTH + "''"),
        ("fast", "bandwidth", BANDWIDTH + "'fast'"),
        ("nan GB/s", "bandwidth", BANDWIDTH + "'nan GB/s'"),
        ("inf GB/s", "bandwidth", BANDWIDTH + "'inf GB/s'"),
        ("1e400 GB/s", "bandwidth", BANDWIDTH + "'1e400 GB/s' (too large)"),
        ("1e-400 B/s", "bandwidth", BANDWIDTH + "'1e-400 B/s' (too small)"),
        ("0 GB/s", "bandwidth", BANDWIDTH + "'0 GB/s' (zero is not allowed here)"),
        ("1_000 GB/s", "bandwidth", BANDWIDTH + "'1_000 GB/s' ('_000 GB/s' is not a unit, nearest: GB/s)"),
        ("\u0661 GB/s", "bandwidth", BANDWIDTH + "'\u0661 GB/s'"),
        ("1" * 99, "bandwidth", BANDWIDTH + "'" + "1" * 40 + "...'"),
        ("1 GiFLOP", "flops", "expected a FLOP count such as '2.5 GFLOP', found '1 GiFLOP' "
         "('GiFLOP' is not a unit, nearest: GFLOP)"),
        ("1 TFLOPS", "flop_rate", "expected a compute rate such as '104.8 TFLOP/s', found '1 TFLOPS' "
         "('TFLOPS' is not a unit, nearest: TFLOP/s)"),
        ("96 MB/s", "bytes", "expected a size such as '96 MiB', found '96 MB/s' "
         "(MB/s is bytes per second, not bytes)"),
        ("6 TFLOP/s", "op_rate", "expected an operation rate such as '6.5 Top/s', found '6 TFLOP/s' "
         "(TFLOP/s is FLOPs per second, not operations per second)"),
        ("2 s", "frequency", "expected a frequency such as '2.41 GHz', found '2 s' "
         "(s is seconds, not hertz)"),
        ("2 h", "time", "expected a time such as '5 us', found '2 h' ('h' is not a unit)"),
        ("2 J", "power", "expected a power such as '575 W', found '2 J' (J is joules, not watts)"),
        ("2 W", "energy", "expected an energy such as '3 mJ', found '2 W' (W is watts, not joules)"),
        ("2 pJ", "energy_per_byte", "expected an energy per byte such as '40 pJ/B', found '2 pJ' "
         "(pJ is joules, not joules per byte)"),
        ("2 pJ/B", "energy_per_flop", "expected an energy per FLOP such as '2.1 pJ/FLOP', found '2 pJ/B' "
         "(pJ/B is joules per byte, not joules per FLOP)"),
        ("0.5", "number", "expected a number such as 0.85, found '0.5'"),
        (False, "number", "expected a number such as 0.85, found false"),
        (math.nan, "number", "expected a number such as 0.85, found nan (not a finite number)"),
        (-math.inf, "number", "expected a number such as 0.85, found -inf (not a finite number)"),
        (-1, "number", "expected a number such as 0.85, found -1 (a negative number)"),
        (0, "number", "expected a number such as 0.85, found 0 (zero is not allowed here)"),
        (10**400, "number", "expected a number such as 0.85, found an integer of more than 40 digits "
         "(too large)"),
    ],
)  # fmt: skip
def test_refuses(text: object, dimension: str, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        parse_quantity(text, dimension)
    assert str(caught.value) == message


def test_zero_on_request() -> None:
    assert parse_quantity("0 us", "time", zero=True) == 0.0
    assert math.copysign(1.0, parse_quantity("-0 us", "time", zero=True)) == 1.0
    assert parse_quantity(0, "number", zero=True) == 0.0
    with pytest.raises(ValueError, match="the unit is missing"):
        parse_quantity("0", "time", zero=True)


def test_unknown_dimension_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        parse_quantity("1 m", "length")
    with pytest.raises(KeyError):
        format_quantity(1.0, "length")


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (96 * 2**20, "bytes", "96.0 MiB"),
        (1.5 * 2**20, "bytes", "1.50 MiB"),
        (512, "bytes", "512 B"),
        (1012 * 2**20, "bytes", "1012 MiB"),
        (2**20 - 1, "bytes", "1.00 MiB"),
        (0, "bytes", "0 B"),
        (1.792e12, "bandwidth", "1.79 TB/s"),
        (999.6e9, "bandwidth", "1.00 TB/s"),
        (104.8e12, "flop_rate", "105 TFLOP/s"),
        (6.5e12, "op_rate", "6.50 Top/s"),
        (2.41e9, "frequency", "2.41 GHz"),
        (12.3e-6, "time", "12.3 µs"),
        (1.234e-3, "time", "1.23 ms"),
        (12.3, "time", "12.3 s"),
        (119.6, "time", "120 s"),
        (200, "time", "3 min 20 s"),
        (7199.6, "time", "120 min 0 s"),
        (18720, "time", "5 h 12 min"),
        (3.1 * 86400, "time", "3.1 days"),
        (0, "time", "0 s"),
        (np.float32(0.5), "time", "500 ms"),
        (np.float64(-0.0015), "time", "-1.50 ms"),
        (4e-11, "energy_per_byte", "40.0 pJ/B"),
        (575, "power", "575 W"),
        (5e21, "flops", "5000 EFLOP"),
        (1e25, "flops", "1e+07 EFLOP"),
        (math.inf, "time", "inf s"),
        (0.85, "number", "0.850"),
        (1234, "number", "1234"),
        (12.34, "number", "12.3"),
        (0, "number", "0"),
    ],
)
def test_formats(value: float, dimension: str, text: str) -> None:
    assert format_quantity(value, dimension) == text


UP_TO_TWO_MINUTES = st.floats(1e-12, 120.0)
WITH_UNIT = ["bandwidth", "flops", "flop_rate", "op_rate", "frequency", "power", "energy", "bytes"]
PER_UNIT = ["energy_per_byte", "energy_per_flop", "time"]


@given(st.one_of(
    st.tuples(st.sampled_from(WITH_UNIT), st.floats(1.0, 9e20)),
    st.tuples(st.sampled_from(PER_UNIT), UP_TO_TWO_MINUTES),
))  # fmt: skip
def test_round_trip_keeps_three_digits(case: tuple[str, float]) -> None:
    dimension, value = case
    text = format_quantity(value, dimension)
    assert parse_quantity(text, dimension) == pytest.approx(value, rel=0.00501)
    assert format_quantity(parse_quantity(text, dimension), dimension) == text


@given(st.integers(1, 10**12), st.sampled_from([("k", 10**3), ("M", 10**6), ("T", 10**12), ("Ki", 2**10)]))
def test_prefix_is_a_literal_power(number: int, prefix: tuple[str, int]) -> None:
    assert parse_quantity(f"{number} {prefix[0]}B", "bytes") == pytest.approx(number * prefix[1], rel=1e-15)


@given(st.text())
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    for dimension in ("bandwidth", "time", "number"):
        try:
            assert parse_quantity(text, dimension) > 0
        except ValueError as error:
            assert str(error).startswith("expected a ")
