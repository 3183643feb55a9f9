"""What an unquoted YAML scalar means: as YAML 1.1 reads it, its traps refused."""

from __future__ import annotations

import re
from collections.abc import Callable

_NULL = {"", "~", "null", "Null", "NULL"}
_TRUE = {word for base in ("true", "yes", "on") for word in (base, base.title(), base.upper())}
_FALSE = {word for base in ("false", "no", "off") for word in (base, base.title(), base.upper())}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_OTHER_BASE = re.compile(r"[-+]?0(?:[0-9_]+|b[01_]+|x[0-9a-fA-F_]+|o[0-7_]+)")
MAX_DIGITS = 300


class YamlTrap(ValueError):
    """Text that YAML reads as something that nobody means: the problem, what is allowed, what to try."""

    def __init__(self, problem: str, *, allowed: str, hint: str = "") -> None:
        self.problem, self.allowed, self.hint = problem, allowed, hint
        super().__init__(problem)


def read_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar. ``no``, ``off``, ``yes``, ``on`` are booleans; dates are text."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if text[0] not in "+-.0123456789":
        return text
    for pattern, read in _NUMBERS:
        if pattern.fullmatch(text):
            return read(text)
    return text


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise YamlTrap(f"a number of {len(text)} digits", allowed=f"at most {MAX_DIGITS} digits")
    return int(text.replace("_", ""))


def _float(text: str) -> float:
    return float(text.replace("_", ""))


def _not_finite(text: str) -> float:
    return float(text.replace(".", "", 1))


def _sexagesimal(text: str) -> float:
    raise YamlTrap(
        f"{text} is a number to the base 60 in YAML ({_base_60(text):g})",
        allowed="decimal numbers and quantities with a unit",
        hint=f"'90 s' or '1.5 min' for a time, or \"{text}\" for text",
    )


def _other_base(text: str) -> float:
    raise YamlTrap(
        f"{text} is a number to another base in YAML (a leading 0 means octal)",
        allowed="decimal numbers without leading zeros",
        hint=f'"{text}" in quotes for text',
    )


def _base_60(text: str) -> float:
    value = 0.0
    for digits in text.lstrip("+-").replace("_", "").split(":")[:8]:
        value = value * 60 + float(digits[:20])
    return -value if text.startswith("-") else value


_NUMBERS: tuple[tuple[re.Pattern[str], Callable[[str], int | float]], ...] = (
    (_INT, _int),
    (_FLOAT, _float),
    (_NOT_FINITE, _not_finite),
    (_SEXAGESIMAL, _sexagesimal),
    (_OTHER_BASE, _other_base),
)
