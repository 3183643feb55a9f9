"""A value of a sweep's row as a person reads it."""

from __future__ import annotations

from sim.plan.evaluate import Value
from sim.report.figures import digits, percent
from sim.units import format_s

MEETS = {True: "yes", False: "no", None: "-"}


def shown(name: str, value: Value) -> str:
    """A cell as a person reads it; the CSV keeps full precision."""
    if value is None:
        return "-" if name in ("meets_slo", "usd_per_hour") else "refused"
    if isinstance(value, bool):
        return MEETS[value]
    if isinstance(value, str):
        return value
    if name.endswith("_fraction"):
        return percent(value)
    if name.endswith("_s") and not name.endswith("_per_s"):
        return format_s(value)
    return digits(value)
