"""The answer on a terminal: plain text within 100 columns, cells between ``|``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from sim.results.answer import AnyAnswer, answer_line, table_metrics
from sim.results.comparison import Cell, Comparison, check_thresholds
from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval

WIDTH = 100
_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"


def render_answer(answer: AnyAnswer, *, tty: bool = False) -> str:
    """Question, answer, decision table, verdicts, thresholds and warnings; colour only where ``tty``."""
    base = answer.file.base
    outcomes = check_thresholds(answer.comparison, base.thresholds)
    parts = [render_comparison(answer.comparison, tty=tty)]
    if outcomes:
        lines = [str(outcome) for outcome in outcomes]
        shown = [
            _paint(line, _RED, tty and not outcome.is_met)
            for outcome, line in zip(outcomes, map(_wrapped, lines), strict=True)
        ]
        parts.append("Thresholds (means over the seeds)\n" + "\n".join(shown) + "\n")
    if notes := run_notes(answer):
        parts.append("Notes\n" + "\n".join(_wrapped(note, "- ") for note in notes) + "\n")
    return "\n".join(parts)


def run_notes(answer: AnyAnswer) -> list[str]:
    """What the runs assumed and read, of their first seeds: once where every variant says the same."""
    who: dict[str, list[str]] = {}
    for name, runs in answer.results.items():
        for note in dict.fromkeys(note for run in runs[:1] for note in run.notes):
            who.setdefault(note, []).append(name)
    every = len(answer.results)
    return [note if len(names) == every else f"{', '.join(names)}: {note}" for note, names in who.items()]


def render_comparison(comparison: Comparison, *, tty: bool = False) -> str:
    """The same without thresholds: all that a comparison alone can say."""
    parts = [
        f"{_wrapped(comparison.question)}\n{_paint(_wrapped(answer_line(comparison)), _BOLD, tty)}\n",
        *decision_tables(comparison),
        _verdicts(comparison),
    ]
    if comparison.warnings:
        lines = [_wrapped(line, "- ") for line in comparison.warning_lines]
        parts.append("Warnings\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def decision_tables(comparison: Comparison) -> list[str]:
    """Headline metrics by variant, with each ratio to the reference, its 95 % interval and * if significant.

    As many variants side by side as fit into the width, the reference in every table.
    """
    metrics = table_metrics(comparison)
    reference, others = comparison.variants[0], list(comparison.variants[1:])
    left = [["metric", *metrics], _value_column(comparison, reference, metrics)]
    tables: list[str] = []
    while others or not tables:
        columns = list(left)
        while others:
            wider = [*columns, *_variant_columns(comparison, others[0], metrics)]
            if _width(wider) > WIDTH and len(columns) > len(left):
                break
            columns = wider
            others.pop(0)
        tables.append(_table(columns))
    return tables


def _value_column(comparison: Comparison, variant: str, metrics: Sequence[str]) -> list[str]:
    cells = comparison.cells[variant]
    return [
        _shortened(variant),
        *(_value(cells[name].mean, comparison.kind.metrics[name]) for name in metrics),
    ]


def _value(mean: float | None, metric: Metric) -> str:
    return format_metric(mean, metric, with_rate_unit=False)


def _variant_columns(comparison: Comparison, variant: str, metrics: Sequence[str]) -> list[list[str]]:
    cells = comparison.cells[variant]
    heading = f"x {_shortened(comparison.reference)} [95 %]"
    return [
        _value_column(comparison, variant, metrics),
        [heading, *(_ratio_cell(cells[name]) for name in metrics)],
    ]


def _ratio_cell(cell: Cell) -> str:
    """ "3.1 [2.95, 3.26] *"; where there is no ratio, whether the difference is significant."""
    mark = " *" if cell.is_significant else ""
    if cell.ratio is None:
        return mark.strip()
    return f"{_factor(cell.ratio)}{mark}"


def _factor(ratio: Interval) -> str:
    if ratio.low is None or ratio.high is None:
        return _three_digits(ratio.estimate)
    return f"{_three_digits(ratio.estimate)} [{_three_digits(ratio.low)}, {_three_digits(ratio.high)}]"


def _three_digits(factor: float) -> str:
    return f"{factor:.0f}" if 100 <= factor < 1e6 else f"{factor:.3g}"


def _shortened(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _table(columns: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append(" | ".join(cells).rstrip())
    rule = "-|-".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) for column in columns) + 3 * (len(columns) - 1)


def _verdicts(comparison: Comparison) -> str:
    """One line per variant: its queue, and whether it meets the SLO."""
    lines = []
    for name in comparison.variants:
        summaries = comparison.summaries[name]
        met = [summary.meets_slo for summary in summaries if summary.meets_slo is not None]
        slo = f"; meets its SLO in {sum(met)} of {len(met)} runs" if met else ""
        lines.append(_wrapped(f"{name}: {comparison.verdicts(name)} ({summaries[0].verdict.reason}){slo}"))
        if len(summaries) == 1:
            lines += [_wrapped(f"  {line}") for line in summaries[0].slo]
    note = ""
    if len(comparison.variants) > 1 and len(comparison.seeds) > 1:
        note = f"* the 95 % interval over {len(comparison.seeds)} seeds, paired by seed, excludes 1\n\n"
    return note + "\n".join(lines) + "\n"


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent="  ", break_on_hyphens=False)


def _paint(text: str, colour: str, wanted: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if wanted else text
