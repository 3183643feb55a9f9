"""All runs of a scenario file with their comparison, and the answer in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval, mean_interval
from sim.scenario.file import AnyScenario, ScenarioFile, ScenarioT_co

if TYPE_CHECKING:  # a run by itself needs neither
    from sim.results.comparison import Cell, Comparison
    from sim.results.summary import Summary


class AnyRun(Protocol):
    """What the results of all kinds have in common, beside their own columns."""

    @property
    def scenario(self) -> AnyScenario:
        """What was run."""

    @property
    def variant(self) -> str:
        """Its name among those compared."""

    @property
    def seed(self) -> int:
        """Of the random streams."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the run."""


RunT_co = TypeVar("RunT_co", bound=AnyRun, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[ScenarioT_co, RunT_co]):
    """All runs of a scenario file, their statistics and the comparison to the reference."""

    file: ScenarioFile[ScenarioT_co]
    results: Mapping[str, Sequence[RunT_co]]  # by variant, one per seed
    summaries: Mapping[str, Sequence[Summary]]
    comparison: Comparison


AnyAnswer = Answer[AnyScenario, AnyRun]


def headline_metric(comparison: Comparison) -> str:
    """The metric that answers, as the kind of the runs has it."""
    return comparison.kind.headline(comparison)


def table_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The headline metrics of the decision table: those that some variant has a number other than 0 for."""
    headline = headline_metric(comparison)
    rest = (name for name in comparison.kind.table if name != headline)
    cells = comparison.cells
    return (headline, *(name for name in rest if any(cells[v][name].mean for v in comparison.variants)))


def answer_line(comparison: Comparison) -> str:
    """One sentence with its interval: the best variant against the reference, by the headline metric.

    Among several variants the reference counts: where it is the best, the sentence says so and by how much.
    """
    metric = headline_metric(comparison)
    reference, others = comparison.reference, comparison.variants[1:]
    if not others:
        return _alone(comparison, reference, metric)
    best = _best(comparison, others, metric)
    cell, base = comparison.cells[best][metric], comparison.cells[reference][metric]
    among = f" (best of {len(comparison.variants)})" if len(others) > 1 else ""
    if among and cell.mean is not None and _best(comparison, comparison.variants, metric) == reference:
        value = "" if base.mean is None else f"{metric} {_value(comparison, base.mean, metric)}"
        beside = f"the next, {best}, has {_relation(cell, metric, comparison)}"
        return f"{reference}{among}: {value}; {beside}{_state(comparison, best)}."
    if cell.mean is None or base.mean is None:
        return f"{best}{among}: no {metric} to compare: {cell.note or base.note}."
    if base.mean == 0 and cell.mean > 0 and "requests_per_s" in comparison.cells[best]:
        done = _relation(comparison.cells[best]["requests_per_s"], "requests_per_s", comparison)
        found = f"{metric} {_value(comparison, cell.mean, metric)} where {comparison.reference} has none"
        return f"{best}{among}: {found}; {done}{_state(comparison, best)}."
    values = f"{_value(comparison, cell.mean, metric)} against {_value(comparison, base.mean, metric)}"
    return f"{best}{among}: {_relation(cell, metric, comparison)}: {values}{_state(comparison, best)}."


def _relation(cell: Cell, metric: str, comparison: Comparison) -> str:
    reference, num_seeds = comparison.reference, len(comparison.seeds)
    interval = cell.ratio or cell.difference
    if interval is None:
        return f"{metric} beside {reference}"
    how = "one seed, no interval" if num_seeds == 1 else f"95 % interval over {num_seeds} seeds"
    if not comparison.draws:
        how = "nothing is drawn"
    if cell.ratio is None:
        difference = _signed(interval, comparison.kind.metrics[metric])
        return f"{metric} differs by {difference} from {reference} ({how})"
    span = (
        ""
        if interval.low is None or interval.high is None
        else f"{interval.low:.3g} to {interval.high:.3g}, "
    )
    if cell.is_significant is False:
        return f"no significant difference in {metric} to {reference} (ratio {span}{how})"
    return f"{interval.estimate:.3g} × the {metric} of {reference} ({span}{how})"


def _signed(interval: Interval, metric: Metric) -> str:
    sign = "-" if interval.estimate < 0 else "+"
    return f"{sign}{format_metric(abs(interval.estimate), metric)}"


def _state(comparison: Comparison, best: str) -> str:
    words = {name: comparison.verdicts(name) for name in (best, comparison.reference)}
    if set(words.values()) == {"STABLE"}:
        return ""
    return "; " + ", ".join(f"{name} {word}" for name, word in words.items())


def _best(comparison: Comparison, others: Sequence[str], metric: str) -> str:
    """The variant with the best mean; one without a number comes last, among equals the first."""
    sign = -1.0 if comparison.kind.metrics[metric].better == "higher" else 1.0

    def rank(name: str) -> tuple[bool, float]:
        mean = comparison.cells[name][metric].mean
        return mean is None, sign * (mean or 0.0)

    return min(others, key=rank)


def _alone(comparison: Comparison, name: str, metric: str) -> str:
    cell = comparison.cells[name][metric]
    if cell.mean is None:
        return f"{name}: no {metric}: {cell.note}."
    known = [value for value in cell.values if value is not None]
    interval = mean_interval(known)
    span = ", one seed" if comparison.draws else ""
    if interval.low is not None and interval.high is not None:
        low, high = (_value(comparison, max(0.0, x), metric) for x in (interval.low, interval.high))
        span = f" ({low} to {high}, 95 % interval over {len(known)} seeds)"
    met = {summary.meets_slo for summary in comparison.summaries[name]} - {None}
    slo = "" if not met else "; meets its SLO" if met == {True} else "; misses its SLO"
    return (
        f"{name}: {metric} {_value(comparison, cell.mean, metric)}{span}{slo}; {comparison.verdicts(name)}."
    )


def _value(comparison: Comparison, value: float, metric: str) -> str:
    return format_metric(value, comparison.kind.metrics[metric])
