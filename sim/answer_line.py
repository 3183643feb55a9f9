"""The answer in one line, and the metrics that a decision table shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.intervals import Interval, mean_interval
from sim.kinds import KINDS, metric_of
from sim.units import format_gb, format_s

if TYPE_CHECKING:
    from sim.comparison import Cell, Comparison
    from sim.kinds import Kind

_TIMES = ("p99_ttft_s", "p90_ttft_s", "p50_ttft_s", "mean_ttft_s", "mean_e2e_s")

SERVING_TABLE = (
    "goodput_requests_per_s",
    "goodput_fraction",
    "requests_per_s",
    "output_tokens_per_s",
    "mean_ttft_s",
    "p50_ttft_s",
    "p99_ttft_s",
    "mean_tpot_s",
    "p99_tpot_s",
    "p99_itl_s",
    "p99_e2e_s",
    "mean_queue_s",
    "kv_tokens_fraction",
    "kv_waste_fraction",
    "num_preemptions",
    "recompute_fraction",
    "prefix_hit_fraction",
    "busy_fraction",
    "mean_decode_batch",
    "mean_acceptance_length",
    "cost_per_million_output_tokens",
    "energy_j_per_token",
)


def headline_metric(comparison: Comparison) -> str:
    """The metric that answers, as the kind of the runs has it."""
    return str(_kind(comparison).part("headline")(comparison))


def _kind(comparison: Comparison) -> Kind:
    return KINDS[comparison.summaries[comparison.reference][0].kind]


def serving_headline(comparison: Comparison) -> str:
    """The metric that answers a serving question.

    With an SLO that not every run meets: ``goodput_requests_per_s``. Else, where the queue grows
    in some run, or the load follows the answers (closed loop, all at once): ``requests_per_s``.
    Else a time to the first token: p99, or the highest percentile that no run refuses.
    """
    runs = [summary for found in comparison.summaries.values() for summary in found]
    if any(summary.meets_slo is False for summary in runs):
        return "goodput_requests_per_s"
    saturated = any(summary.verdict.word in ("BACKLOGGED", "OVERLOADED") for summary in runs)
    if saturated or any(_follows_answers(summary.arrivals) for summary in runs):
        return "requests_per_s"
    known = (name for name in _TIMES if all(summary.metrics[name] is not None for summary in runs))
    return next(known, "requests_per_s")


def _follows_answers(arrivals: str) -> bool:
    """Whether the load has no rate of its own; ``arrivals`` as a summary names them, "trace" too."""
    from sim.workload.arrivals import ARRIVAL_PROCESSES

    return arrivals in ARRIVAL_PROCESSES and ARRIVAL_PROCESSES[arrivals].draw is None


def table_metrics(comparison: Comparison) -> tuple[str, ...]:
    """The headline metrics of the decision table: those that some variant has a number other than 0 for."""
    headline = headline_metric(comparison)
    rest = (name for name in _kind(comparison).part("table") if name != headline)
    cells = comparison.cells
    return (headline, *(name for name in rest if any(cells[v][name].mean for v in comparison.variants)))


def answer_line(comparison: Comparison) -> str:
    """One sentence with its interval: the best variant against the reference, by the headline metric."""
    metric = headline_metric(comparison)
    others = comparison.variants[1:]
    if not others:
        return _alone(comparison, comparison.reference, metric)
    best = _best(comparison, others, metric)
    cell, base = comparison.cells[best][metric], comparison.cells[comparison.reference][metric]
    among = f" (best of {len(others)} variants)" if len(others) > 1 else ""
    if cell.mean is None or base.mean is None:
        return f"{best}{among}: no {metric} to compare: {cell.note or base.note}."
    if base.mean == 0 and cell.mean > 0 and "requests_per_s" in comparison.cells[best]:
        done = _relation(comparison.cells[best]["requests_per_s"], "requests_per_s", comparison)
        found = f"{metric} {format_metric(cell.mean, metric)} where {comparison.reference} has none"
        return f"{best}{among}: {found}; {done}{_state(comparison, best)}."
    values = f"{format_metric(cell.mean, metric)} against {format_metric(base.mean, metric)}"
    return f"{best}{among}: {_relation(cell, metric, comparison)}: {values}{_state(comparison, best)}."


def _relation(cell: Cell, metric: str, comparison: Comparison) -> str:
    reference, num_seeds = comparison.reference, len(comparison.seeds)
    interval = cell.ratio or cell.difference
    if interval is None:
        return f"{metric} beside {reference}"
    how = "one seed, no interval" if num_seeds == 1 else f"95 % interval over {num_seeds} seeds"
    if cell.ratio is None:
        return f"{metric} differs by {_signed(interval, metric)} from {reference} ({how})"
    span = (
        ""
        if interval.low is None or interval.high is None
        else f"{interval.low:.3g} to {interval.high:.3g}, "
    )
    if cell.is_significant is False:
        return f"no significant difference in {metric} to {reference} (ratio {span}{how})"
    return f"{interval.estimate:.3g} × the {metric} of {reference} ({span}{how})"


def _signed(interval: Interval, metric: str) -> str:
    sign = "-" if interval.estimate < 0 else "+"
    return f"{sign}{format_metric(abs(interval.estimate), metric)}"


def _state(comparison: Comparison, best: str) -> str:
    words = {name: comparison.verdicts(name) for name in (best, comparison.reference)}
    if set(words.values()) == {"STABLE"}:
        return ""
    return "; " + ", ".join(f"{name} {word}" for name, word in words.items())


def _best(comparison: Comparison, others: Sequence[str], metric: str) -> str:
    """The variant with the best mean; one without a number comes last, among equals the first."""
    sign = -1.0 if metric_of(metric).better == "higher" else 1.0

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
    span = ", one seed"
    if interval.low is not None and interval.high is not None:
        low, high = (format_metric(max(0.0, x), metric) for x in (interval.low, interval.high))
        span = f" ({low} to {high}, 95 % interval over {len(known)} seeds)"
    met = {summary.meets_slo for summary in comparison.summaries[name]} - {None}
    slo = "" if not met else "; meets its SLO" if met == {True} else "; misses its SLO"
    return f"{name}: {metric} {format_metric(cell.mean, metric)}{span}{slo}; {comparison.verdicts(name)}."


def format_metric(value: float | None, name: str, *, with_rate_unit: bool = True) -> str:
    """A metric's value as a reader wants it: "12.3 ms", "7.91 requests/s", "45.2 %", "1,204"."""
    if value is None:
        return "-"
    unit = metric_of(name).unit
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
