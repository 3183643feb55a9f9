"""Units against their definitions (SI and IEC 80000-13), and what is no quantity."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.units import (
    UNITS,
    QuantityError,
    format_bytes,
    format_count,
    format_gb,
    format_gib,
    format_quantity,
    format_s,
    parse_exact,
    parse_quantity,
    unit_of_name,
)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("80 GB", "bytes", 80_000_000_000),
        ("64 GiB", "bytes", 64 * 2**30),
        ("1 kB", "bytes", 1000),
        ("1 KiB", "bytes", 1024),
        ("1.5MiB", "bytes", 1_572_864),
        ("2 TiB", "bytes", 2 * 2**40),
        ("0.1 GB", "bytes", 100_000_000),
        ("512 B", "bytes", 512),
        ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("900 GB/s", "bytes_per_s", 9e11),
        ("400 Gbit/s", "bytes_per_s", 5e10),
        ("400 Gbps", "bytes_per_s", 5e10),
        ("1 Mbps", "bytes_per_s", 125_000),
        ("989 TFLOPS", "flops_per_s", 989e12),
        ("1.979 PFLOPS", "flops_per_s", 1.979e15),
        ("989 TFLOP/s", "flops_per_s", 989e12),
        ("1979 TOPS", "flops_per_s", 1979e12),
        ("500 ms", "s", 0.5),
        ("4.2 us", "s", 4.2e-6),
        ("4.2 µs", "s", 4.2e-6),
        ("4.2 \u03bcs", "s", 4.2e-6),
        ("7 ns", "s", 7e-9),
        ("1.5 min", "s", 90),
        ("2 h", "s", 7200),
        ("1e3 ms", "s", 1),
        ("1.98 GHz", "hz", 1.98e9),
        ("0.7 kW", "w", 700),
        ("8 req/s", "per_s", 8),
        ("480 requests/min", "per_s", 8),
        ("90%", "fraction", 0.9),
        ("90 %", "fraction", 0.9),
        ("512 tokens", "tokens", 512),
        ("2.5 USD/h", "usd", 2.5),
        (12, "s", 12),
        (0.25, "fraction", 0.25),
    ],
)
def test_quantities_by_definition(text: object, unit: str, value: float) -> None:
    assert parse_quantity(text, unit) == value


def test_decimal_and_binary_units_are_kept_apart() -> None:
    assert parse_exact("1 GiB", "bytes") - parse_exact("1 GB", "bytes") == 73_741_824


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        ("80 GB", "s", ["a size in bytes, not a time", "ms"]),
        ("500 ms", "bytes", ["a time, not a size in bytes", "GiB"]),
        ("3 TB", "bytes_per_s", ["not a rate in bytes per second", "TB/s"]),
        ("80 Gb", "bytes", ["unknown unit", "did you mean GB", "allowed"]),
        ("80 KB", "bytes", ["kB (1000) or KiB (1024)"]),
        ("5 msec", "s", ["did you mean ms", "min"]),
        ("1e9", "bytes", ["1.0e+9", "1 GB"]),
        ("3.35e12", "bytes_per_s", ["3.35e+12", "3.35 TB/s"]),
        ("512", "tokens", ["512 without quotes"]),
        ("1,000 ms", "s", ["digits are not grouped"]),
        ("1.2.3 ms", "s", ["digits are not grouped"]),
        ("fast", "s", ["does not begin with a number"]),
        ("", "s", ["does not begin with a number"]),
        ("1e999999999 s", "s", ["is not one number"]),
        ("1e500 s", "s", ["too large"]),
        (float("nan"), "s", ["not a finite number"]),
        (float("inf"), "bytes", ["not a finite number"]),
        ("nan s", "s", ["does not begin with a number"]),
        (True, "s", ["expected a time"]),
        (None, "s", ["expected a time"]),
        ([1], "s", ["expected a time"]),
    ],
)
def test_what_is_no_quantity_says_why(value: object, unit: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        parse_quantity(value, unit)
    assert isinstance(caught.value, QuantityError)
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert "allowed:" in text and "try:" in text


@given(st.sampled_from(sorted(UNITS)), st.data(), st.integers(0, 10**9))
def test_every_unit_scales_exactly(unit: str, data: st.DataObject, number: int) -> None:
    name = data.draw(st.sampled_from(sorted(UNITS[unit])))
    assert parse_exact(f"{number} {name}", unit) == number * UNITS[unit][name]


@given(st.text(max_size=30), st.sampled_from(sorted(UNITS)))
def test_any_text_is_a_number_or_a_sentence(text: str, unit: str) -> None:
    try:
        assert math.isfinite(parse_quantity(text, unit))
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hbm_bytes_per_s", "bytes_per_s"),
        ("bytes_per_s", "bytes_per_s"),
        ("peak_flops_per_s", "flops_per_s"),
        ("requests_per_s", "per_s"),
        ("goodput_requests_per_s", "per_s"),
        ("p99_ttft_s", "s"),
        ("think_time_s", "s"),
        ("service_time", "s"),
        ("sram_bytes_per_sm", "bytes"),
        ("l2_bytes", "bytes"),
        ("prompt_tokens", "tokens"),
        ("max_num_batched_tokens", "tokens"),
        ("gpu_memory_utilization", "fraction"),
        ("attainment_fraction", "fraction"),
        ("clock_hz", "hz"),
        ("tdp_w", "w"),
        ("usd_per_hour", "usd"),
        ("cost_per_million_output_tokens", "usd"),
        ("max_num_seqs", None),
        ("cv", None),
        ("turns", None),
    ],
)
def test_the_name_states_the_unit(name: str, unit: str | None) -> None:
    assert unit_of_name(name) == unit


def test_formats() -> None:
    # vllm#22291: 3,072 tokens of Qwen2.5-7B at 56 KiB each.
    assert format_bytes(3072 * 57_344) == "168.0 MiB (0.18 GB)"
    assert format_gib(3072 * 57_344) == "0.16 GiB"
    assert format_gb(3072 * 57_344) == "0.18 GB"
    assert format_bytes(57_344) == "56.0 KiB (57.34 kB)"
    assert format_bytes(12) == "12 B"
    assert format_gb(80e9) == "80.0 GB"
    assert format_gib(80e9) == "74.5 GiB"
    assert [format_s(x) for x in (0, 0.0123, 1.5, 250, 4.2e-6, 7e-9, 9000)] == [
        "0 s", "12.3 ms", "1.50 s", "250 s", "4.20 µs", "7.00 ns", "2.5 h",
    ]  # fmt: skip
    assert [format_count(x) for x in (12_031, 0.1234, 1234.5, 2.0)] == ["12,031", "0.123", "1,234", "2"]
    assert format_quantity(3.35e12, "bytes_per_s") == "3.35 TB/s"
    assert format_quantity(0.5, "s") == "500 ms"


@given(st.floats(1e-12, 1e6))
def test_a_shown_time_reads_back_to_three_digits(seconds: float) -> None:
    shown = format_s(seconds)
    assert math.isclose(parse_quantity(shown, "s"), seconds, rel_tol=6e-3, abs_tol=6e-12), shown
