"""Single values: text, switches and numbers, each strictly of its kind and in its unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from sim.scenario.place import Place
from sim.units import QuantityError, allowed_units, format_count, number_hint, parse_exact

# Beyond these a value is a slip. Time ends where int64 picoseconds do (106 days), with room to add.
LIMITS = {
    "s": 4e6,
    "tokens": 1e9,
    "per_s": 1e9,
    "bytes": 1e18,
    "bytes_per_s": 1e18,
    "flops_per_s": 1e21,
    "hz": 1e12,
    "w": 1e9,
    "usd": 1e12,
    "fraction": 1e6,
}
MAX_PLAIN = 1e15
MAX_TEXT = 4000


def read_bool(value: object, place: Place) -> bool:
    """true or false, nothing that only counts as one."""
    if not isinstance(value, bool):
        raise place.error(
            "expected true or false", given=value, allowed="true, false", hint=_switch_hint(value)
        )
    return value


def _switch_hint(value: object) -> str:
    truthy = str(value).casefold() in ("1", "1.0", "y", "yes", "on", "true")
    falsy = str(value).casefold() in ("0", "0.0", "n", "no", "off", "false", "none")
    return "true" if truthy else "false" if falsy else "true or false, without quotes"


def read_str(value: object, place: Place) -> str:
    """Text. What YAML reads as something else is explained, not converted."""
    if isinstance(value, bool):
        raise place.error(
            f"expected text; YAML reads the word as the boolean {str(value).lower()} "
            "(yes, no, on, off are booleans)",
            given=value,
            allowed="text",
            hint="put the word into quotes",
        )
    if not isinstance(value, str):
        kind = "a number" if isinstance(value, (int, float)) else "not text"
        hint = f'"{value}" in quotes' if isinstance(value, (int, float)) else "one line of text"
        raise place.error(f"expected text; this is {kind}", given=value, allowed="text", hint=hint)
    if len(value) > MAX_TEXT:
        raise place.error(f"text of {len(value):,} characters", given=value, allowed=f"at most {MAX_TEXT:,}")
    if any(ord(character) < 32 and character not in "\n\t" for character in value):
        raise place.error("a control character in the text", given=value, allowed="printable text")
    return value


def read_int(value: object, place: Place) -> int:
    """A whole number; 8.0 is one, true and "8" are not. Sizes may carry a unit."""
    exact = _read_number(value, place, "a whole number")
    if exact.denominator != 1:
        raise place.error(
            "expected a whole number",
            given=value,
            allowed="a whole number",
            hint=f"{math.floor(exact)} or {math.ceil(exact)}",
        )
    return int(exact)


def read_float(value: object, place: Place) -> float:
    """A finite number in the unit of its place; text carries its own unit."""
    return float(_read_number(value, place, "a number"))


def _read_number(value: object, place: Place, wanted: str) -> Fraction:
    if isinstance(value, bool):
        raise place.error(
            f"expected {wanted}; YAML reads true, yes, on (false, no, off) as a boolean",
            given=value,
            allowed=_allowed_number(place, wanted),
            hint="1" if value else "0",
        )
    if isinstance(value, str) and place.unit is None:
        raise _text_for_number(value, place, wanted)
    if not isinstance(value, (int, float, str)):
        raise place.error(f"expected {wanted}", given=value, allowed=_allowed_number(place, wanted))
    if isinstance(value, float) and not math.isfinite(value):
        raise place.error(
            "not a finite number",
            given=value,
            allowed=_allowed_number(place, wanted),
            hint="leave the key out where there is no limit",
        )
    try:
        exact = parse_exact(value, place.unit or "tokens")
    except QuantityError as error:
        raise place.error(error.problem, given=value, allowed=error.allowed, hint=error.hint) from None
    limit = LIMITS.get(place.unit or "", MAX_PLAIN)
    if abs(exact) > limit:
        raise place.error(
            "too large", given=value, allowed=f"at most {_written(limit)}{_unit_word(place.unit)}"
        )
    return exact


def _text_for_number(value: str, place: Place, wanted: str) -> Exception:
    return place.error(
        f"expected {wanted}; this is text",
        given=value,
        allowed=f"{wanted} without unit or quotes",
        hint=number_hint(value, None),
    )


def _allowed_number(place: Place, wanted: str) -> str:
    return wanted if place.unit is None else allowed_units(place.unit)


SCALARS: Mapping[Any, Callable[[object, Place], Any]] = {
    bool: read_bool,
    str: read_str,
    int: read_int,
    float: read_float,
}


def check_bounds(value: Any, bounds: Mapping[str, Any], place: Place, given: object) -> Any:
    """``value`` itself, when it (or each item of it) lies within ``bounds``."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            check_bounds(item, bounds, place.item(index), item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and not _is_within(value, bounds):
        raise place.error("out of bounds", given=given, allowed=bounds_text(bounds, place.unit))
    return value


def _is_within(number: float, bounds: Mapping[str, Any]) -> bool:
    low, above = bounds.get("ge", -math.inf), bounds.get("gt", -math.inf)
    high, below = bounds.get("le", math.inf), bounds.get("lt", math.inf)
    return bool(low <= number <= high and above < number < below)


def bounds_text(bounds: Mapping[str, Any], unit: str | None) -> str:
    """The bounds in words: "at least 1 and at most 100 million"."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{words[name]} {_written(bounds[name])}" for name in words if name in bounds]
    return " and ".join(parts) + _unit_word(unit)


def _written(limit: float) -> str:
    if limit >= 1e15:
        return f"{limit:.0e}"
    if limit >= 1e6 and limit % 1e6 == 0:
        return f"{format_count(limit / 1e6)} million"
    return format_count(limit)


def _unit_word(unit: str | None) -> str:
    return (
        "" if unit in (None, "fraction", "tokens") else f" {unit.replace('_per_', '/').replace('per_', '1/')}"
    )
