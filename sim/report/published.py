"""What others published about the question, beside what came out: a file's ``measured:`` values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.report.blocks import Cell, Prose, Section, Table
from sim.report.figures import digits
from sim.results.metric import Metric, format_metric

if TYPE_CHECKING:
    from sim.results.answer import AnyAnswer
    from sim.scenario.file import Measured


def published_sections(answer: AnyAnswer) -> tuple[Section, ...]:
    """One section where the file states published values; what was changed has none, and that is said."""
    values = [value for point in answer.file.measured if not point.overrides for value in point.values]
    if not values:
        return ()
    if answer.comparison.changes:
        changed = ", ".join(answer.comparison.changes)
        told = Prose(text=f"The file's published values are of its own setting, not of {changed}: left out.")
        return (Section(title="Published, and what came out", blocks=(told,)),)
    rows = tuple(_row(answer, value) for value in values)
    table = Table(header=("claim", "published", "simulated", "verdict", "source"), rows=rows, is_text=True)
    said = Prose(text="Nothing was fitted to these unless a line says so; what misses stays here.")
    missed = sum(row[3].tone == "bad" for row in rows)
    return (
        Section(title=f"Published, and what came out: {missed} of {len(rows)} missed", blocks=(said, table)),
    )


def _row(answer: AnyAnswer, value: Measured) -> tuple[Cell, ...]:
    variant = value.variant or answer.file.reference
    name = f"{variant} over {value.over}" if value.over else variant
    found, metric = _predicted(answer, value.metric, variant), answer.comparison.kind.metrics[value.metric]
    if value.over:
        base = _predicted(answer, value.metric, value.over)
        found = found / base if found is not None and base else None
    good = found is not None and _holds(value, found)
    return (
        Cell(text=value.group, small=f"{value.metric}: {name}"),
        Cell(text=_published(value, metric)),
        Cell(text="none" if found is None else _shown(value, found, metric)),
        Cell(text=_verdict(value, found), tone="good" if good else "bad"),
        Cell(text=value.source + (" (seen by a fit)" if value.seen_by_fit else "")),
    )


def _predicted(answer: AnyAnswer, metric: str, variant: str) -> float | None:
    """The mean over seeds."""
    found = [summary.metrics.get(metric) for summary in answer.summaries[variant]]
    known = [one for one in found if one is not None]
    return sum(known) / len(known) if known else None


def _shown(value: Measured, number: float, metric: Metric) -> str:
    return f"{digits(number)} ×" if value.over else format_metric(number, metric)


def _published(value: Measured, metric: Metric) -> str:
    """The figure, or the band where one was published."""
    low, high = value.at_least, value.at_most
    if low is None and high is None:
        return _shown(value, value.value, metric)
    ends = [_shown(value, end, metric) for end in (low, high) if end is not None]
    return " to ".join(ends) if len(ends) == 2 else ("at least " if high is None else "at most ") + ends[0]


def _holds(value: Measured, found: float) -> bool:
    """Inside the band, or within the tolerance (10 % where none is stated)."""
    if value.at_least is not None or value.at_most is not None:
        return (value.at_least or 0.0) <= found <= (value.at_most or float("inf"))
    return abs(found / value.value - 1.0) <= (value.tolerance or 0.10)


def _verdict(value: Measured, found: float | None) -> str:
    if found is None:
        return "no number: it did not run"
    if value.at_least is not None or value.at_most is not None:
        return "inside" if _holds(value, found) else "missed: outside"
    off = found / value.value - 1.0
    word = "" if _holds(value, found) else "missed: "
    return f"{word}{'+' if off >= 0 else '−'}{abs(off):.0%}"
