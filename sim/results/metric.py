"""A metric: its name, unit, meaning and which way is better; and its value as a reader wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim.units import format_gb, format_s

Better = Literal["higher", "lower", "neither"]
PERCENTILES = (50, 90, 95, 99)  # of every time that has a distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a summary. Its name is its label, everywhere."""

    name: str
    unit: str
    meaning: str
    better: Better


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """How a sweep over scenarios of a kind is read.

    ``load_keys`` say what is asked for, and so are answered each for itself; every other key is a choice, and
    choices compete. A key stands for those below it, except the ones in ``choice_keys``.
    """

    columns: Sequence[str]  # of a sweep that names none
    goals: Sequence[str]  # what is looked for where no SLO decides: the first that every point has
    against: Sequence[str]  # what cost is set against, unless the SLO limits a time
    load_keys: Sequence[str] = ("seeds",)
    choice_keys: Sequence[str] = ()


def format_metric(value: float | None, metric: Metric, *, with_rate_unit: bool = True) -> str:
    """A metric's value as a reader wants it: "12.3 ms", "7.91 requests/s", "45.2 %", "1,204"."""
    if value is None:
        return "-"
    unit = metric.unit
    if unit == "s":
        return format_s(value)
    if unit == "bytes" and value >= 1e7:
        return format_gb(value)
    if unit == "bytes" and value >= 4096:
        return f"{value / 1024:,.4g} KiB"
    if unit in ("FLOP/s", "bytes/s") and value >= 1e9:
        size, prefix = (value / 1e12, "T") if value >= 1e12 else (value / 1e9, "G")
        shown = f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
        return f"{shown} {prefix}{unit.replace('bytes', 'B')}"
    if unit == "fraction":
        return f"{value * 100:.3g} %"
    whole = abs(value) >= 1000 or (float(value).is_integer() and "/" not in unit)
    shown = f"{value:,.0f}" if whole else f"{value:#.3g}".rstrip(".")
    if unit == "usd":
        return f"${shown}"
    return f"{shown} {unit}" if with_rate_unit and ("/" in unit or unit == "J") else shown
