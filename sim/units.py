"""Quantities with their unit: read from scenarios and profiles, printed in reports.

Code holds base units only (s, bytes, bytes/s, FLOP/s, Hz, W, fractions). GB = 10^9 bytes and
GiB = 2^30 bytes are different units and stay so; bits appear only in link rates and are divided
by 8. Numbers are read as exact fractions, so ``0.1 GB`` is 100,000,000 bytes, not one less.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from sim.errors import closest

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_BYTES = {f"{prefix}B": Fraction(factor) for prefix, factor in (_DECIMAL | _BINARY).items()}
_BITS = {f"{prefix}bit/s": Fraction(_DECIMAL[prefix], 8) for prefix in "kMGT"} | {
    f"{prefix}bps": Fraction(_DECIMAL[prefix], 8) for prefix in "kMGT"
}
_OPERATIONS = {
    f"{prefix}{word}": Fraction(_DECIMAL[prefix])
    for prefix in ("", "G", "T", "P")
    for word in ("FLOPS", "FLOP/s", "OPS", "OP/s")
}
_SECONDS = {
    "s": Fraction(1),
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
    "min": Fraction(60),
    "h": Fraction(3600),
}
_RATES = {
    f"{what}/{per}": Fraction(1) / _SECONDS[per]
    for what in ("req", "requests", "tokens", "")
    for per in ("s", "min", "h")
}

UNITS: dict[str, dict[str, Fraction]] = {
    "s": _SECONDS,
    "bytes": {**_BYTES, "bytes": Fraction(1)},
    "bytes_per_s": {f"{name}/s": factor for name, factor in _BYTES.items()} | _BITS,
    "flops_per_s": _OPERATIONS,
    "hz": {f"{prefix}Hz": Fraction(_DECIMAL[prefix]) for prefix in ("", "k", "M", "G")},
    "w": {"W": Fraction(1), "kW": Fraction(1000)},
    "usd": {"USD": Fraction(1), "USD/h": Fraction(1)},
    "tokens": {"tokens": Fraction(1), "token": Fraction(1)},
    "per_s": _RATES,
    "fraction": {"%": Fraction(1, 100)},
}

_QUANTITY_WORDS = {
    "s": "a time",
    "bytes": "a size in bytes",
    "bytes_per_s": "a rate in bytes per second",
    "flops_per_s": "a rate of operations per second",
    "hz": "a frequency",
    "w": "a power",
    "usd": "a price",
    "tokens": "a number of tokens",
    "per_s": "a rate per second",
    "fraction": "a fraction",
}
_EXAMPLES = {
    "s": "'500 ms'",
    "bytes": "'80 GB' or '64 GiB'",
    "bytes_per_s": "'3.35 TB/s' or '400 Gbit/s'",
    "flops_per_s": "'989 TFLOPS'",
    "hz": "'1.98 GHz'",
    "w": "'700 W'",
    "usd": "'2.5 USD'",
    "tokens": "512",
    "per_s": "'8 req/s'",
    "fraction": "0.9 or '90%'",
}

# Words of vLLM's, and some of ours, whose names carry no suffix.
_UNIT_OF_WORD = {
    "gpu_memory_utilization": "fraction",
    "watermark": "fraction",
    "service_time": "s",
    "tolerance": "fraction",
    "precision": "fraction",
}
_UNIT_OF_SUFFIX = {
    "bytes_per_s": "bytes_per_s",
    "flops_per_s": "flops_per_s",
    "bytes_per_sm": "bytes",
    "per_s": "per_s",
    "usd_per_hour": "usd",
    "bytes": "bytes",
    "fraction": "fraction",
    "error": "fraction",
    "bias": "fraction",
    "tokens": "tokens",
    "hz": "hz",
    "w": "w",
    "s": "s",
}

_NUMBER = re.compile(r"[+-]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]{1,3})?")
_MAX_DIGITS = 60


class QuantityError(ValueError):
    """A value that is not the quantity asked for: the problem, what is allowed, what to try."""

    def __init__(self, problem: str, *, allowed: str = "", hint: str = "") -> None:
        self.problem, self.allowed, self.hint = problem, allowed, hint
        parts = [problem, f"allowed: {allowed}" if allowed else "", f"try: {hint}" if hint else ""]
        super().__init__("; ".join(part for part in parts if part))


def unit_of_name(name: str) -> str | None:
    """The unit that a key's name states (``l2_bytes``: ``bytes``), or None for a plain number."""
    if name in _UNIT_OF_WORD:
        return _UNIT_OF_WORD[name]
    if name.startswith("cost_per_"):
        return "usd"
    for suffix, unit in _UNIT_OF_SUFFIX.items():
        if name == suffix or name.endswith("_" + suffix):
            return unit
    return None


def parse_quantity(value: object, unit: str) -> float:
    """``value`` in the base unit of ``unit``. A bare number is already in it; a string names its own."""
    exact = parse_exact(value, unit)
    try:
        number = float(exact)
    except OverflowError:
        raise QuantityError("too large a number", allowed=allowed_units(unit), hint=example(unit)) from None
    return number


def parse_exact(value: object, unit: str) -> Fraction:
    """The same as an exact fraction: for sizes that must come out as whole bytes."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise QuantityError(
            f"expected {_QUANTITY_WORDS[unit]}", allowed=allowed_units(unit), hint=example(unit)
        )
    if isinstance(value, str):
        return _parse_text(value, unit)
    if not math.isfinite(value):
        raise QuantityError("not a finite number", allowed=allowed_units(unit), hint=example(unit))
    return Fraction(value)


def _parse_text(text: str, unit: str) -> Fraction:
    number, name = _split(text.strip(), unit)
    if not name:
        raise QuantityError(
            f"text needs a unit to be {_QUANTITY_WORDS[unit]}",
            allowed=allowed_units(unit),
            hint=number_hint(text, unit),
        )
    factor = UNITS[unit].get(name.replace("\u03bc", "\u00b5"))
    if factor is None:
        raise _unknown_unit(name, unit)
    return number * factor


def _split(text: str, unit: str) -> tuple[Fraction, str]:
    """(3.35, "TB/s") of "3.35 TB/s"."""
    match = _NUMBER.match(text)
    if match is None or len(match[0]) > _MAX_DIGITS:
        raise QuantityError(
            f"does not begin with a number that can be read as {_QUANTITY_WORDS[unit]}",
            allowed=allowed_units(unit),
            hint=example(unit),
        )
    rest = text[match.end() :]
    if rest[:1] in (",", ".", "'", "_") or rest[:1].isdigit():
        raise QuantityError(
            f"{text[: match.end() + 4]!r} is not one number: digits are not grouped",
            allowed=allowed_units(unit),
            hint=example(unit),
        )
    return Fraction(match[0].replace("_", "")), rest.strip()


def _unknown_unit(name: str, unit: str) -> QuantityError:
    others = [other for other, names in UNITS.items() if name in names]
    if others:
        problem = f"{name} is {_QUANTITY_WORDS[others[0]]}, not {_QUANTITY_WORDS[unit]}"
    elif name in ("KB", "KB/s"):
        tail = name[2:]
        problem = f"unknown unit {name}; did you mean kB{tail} (1000) or KiB{tail} (1024)?"
    else:
        near = closest(name, UNITS[unit])
        problem = f"unknown unit {name[:40]!r}" + (f"; did you mean {near}?" if near else "")
    return QuantityError(problem, allowed=allowed_units(unit), hint=example(unit))


def allowed_units(unit: str) -> str:
    """What may be written for a quantity: "a number in s, or with a unit: s, ms, ..."."""
    base = {
        "bytes_per_s": "bytes/s",
        "flops_per_s": "FLOP/s",
        "hz": "Hz",
        "w": "W",
        "usd": "USD",
        "per_s": "1/s",
    }
    names = ", ".join(UNITS[unit])
    if unit == "fraction":
        return "a number (1 is the whole), or with %"
    return f"a number in {base.get(unit, unit)}, or a string with a unit: {names}"


def example(unit: str | None) -> str:
    """How a value of this unit may be written."""
    return _EXAMPLES[unit] if unit else "512"


LARGEST_COUNT = 1e15  # a larger count is a slip
LARGEST_BARE_S = {"ttft_s": 60.0, "tpot_s": 10.0, "itl_s": 10.0, "e2e_s": 3600.0}
"""By the end of a time's name: a larger number without a unit is most likely milliseconds."""


def number_hint(text: str, unit: str | None) -> str:
    """What to write for a number that arrived as a string: PyYAML reads ``1e9`` as text."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return example(unit)
    mantissa, mark, exponent = match[0].replace("E", "e").partition("e")
    if not mark:
        return f"{match[0]} without quotes" + (
            f", or {example(unit)}" if unit not in (None, "tokens") else ""
        )
    if unit in (None, "tokens") and float(match[0]) > LARGEST_COUNT:
        return example(unit)
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    sign = exponent if exponent[0] in "+-" else f"+{exponent}"
    written = f"{mantissa}e{sign}"
    shown = _shown_exactly(text, unit)
    return f"{written} (YAML reads a float only with a point and a signed exponent)" + (
        f" or {shown!r}" if shown else ""
    )


def _shown_exactly(text: str, unit: str | None) -> str:
    """ "1 GB" for "1e9" bytes; nothing where no unit makes it short."""
    if unit is None:
        return ""
    value = Fraction(text.strip().replace("_", ""))
    decimal = [(name, factor) for name, factor in UNITS[unit].items() if "i" not in name and factor >= 1]
    for name, factor in sorted(decimal, key=lambda pair: -pair[1]):
        if factor <= abs(value):
            return f"{float(value / factor):g} {name}"
    return ""


def format_gb(num_bytes: float) -> str:
    """Decimal gigabytes: "80.0 GB"."""
    return f"{num_bytes / 1e9:.1f} GB" if abs(num_bytes) >= 1e9 else f"{num_bytes / 1e9:.2f} GB"


def format_gib(num_bytes: float) -> str:
    """Binary gigabytes: "74.5 GiB"."""
    return f"{num_bytes / 2**30:.1f} GiB" if abs(num_bytes) >= 2**30 else f"{num_bytes / 2**30:.2f} GiB"


def format_bytes(num_bytes: float) -> str:
    """Both kinds of unit, so that neither is mistaken for the other: "168.0 MiB (0.18 GB)"."""
    size = abs(num_bytes)
    if size < 1024:
        return f"{num_bytes:.0f} B"
    binary = next(name for name in ("Ti", "Gi", "Mi", "Ki") if size >= _BINARY[name])
    decimal = next(
        name for name in ("T", "G", "M", "k") if size >= _DECIMAL[name] / (10 if name == "G" else 1)
    )
    return f"{num_bytes / _BINARY[binary]:.1f} {binary}B ({num_bytes / _DECIMAL[decimal]:.2f} {decimal}B)"


def format_s(seconds: float) -> str:
    """Three significant digits in the unit that reads best: "12.3 ms"."""
    size = abs(seconds)
    if size == 0 or not math.isfinite(seconds):
        return f"{seconds:g} s"
    if size >= 7200:
        return f"{seconds / 3600:.3g} h"
    scales = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
    name, factor = next((scale for scale in scales if size >= scale[1] * 0.9995), ("ns", 1e-9))
    return f"{_three_digits(seconds / factor)} {name}"


def _three_digits(number: float) -> str:
    size = abs(number)
    if size >= 99.95:
        return f"{number:.0f}"
    return f"{number:.1f}" if size >= 9.995 else f"{number:.2f}"


def format_count(number: float) -> str:
    """A count with grouped digits ("12,031"); a fraction keeps three significant digits."""
    if float(number).is_integer():
        return f"{int(number):,}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def format_quantity(value: float, unit: str | None) -> str:
    """``value`` with its unit, as a scenario or an error shows it."""
    if unit == "s":
        return format_s(value)
    if unit == "bytes":
        return format_bytes(value)
    if unit in ("bytes_per_s", "flops_per_s", "hz"):
        names = {"bytes_per_s": "B/s", "flops_per_s": "FLOPS", "hz": "Hz"}
        prefix = next((p for p in ("P", "T", "G", "M", "k") if abs(value) >= _DECIMAL[p]), "")
        return f"{value / _DECIMAL[prefix]:.4g} {prefix}{names[unit]}"
    return format_count(value)
