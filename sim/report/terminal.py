"""The answer on a terminal: plain text within 100 columns, tables as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any

from sim.report.decision import difference_line
from sim.results.answer import (
    AnyAnswer,
    answer_line,
    best_variant,
    deciding_metrics,
    deciding_numbers,
    headline_metric,
    table_metrics,
)
from sim.results.comparison import Cell, Comparison, check_thresholds
from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval
from sim.results.wording import says_nothing
from sim.scenario.file import CANNOT_RUN

WIDTH = 100
LEAST_HEADER_WIDTH, HEADER_WIDTH = 8, 12
_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"
_LEAST_COMPACT = 3  # with so many variants they are the rows of one table
_COMPACT_METRICS = 4
_LEAST_FACTOR = 0.001  # smaller ones are easier to read as a division, 1/8,450
_CANNOT_RUN = "cannot run"
_LONGEST_UNBROKEN = 40  # characters of a variant's name; longer ones go on in the next line


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
        parts.append(f"{thresholds_title(answer.comparison)}\n" + "\n".join(shown) + "\n")
    if notes := run_notes(answer):
        parts.append("Notes\n" + "\n".join(_wrapped(note, "- ") for note in notes) + "\n")
    return "\n".join(parts)


def thresholds_title(comparison: Comparison) -> str:
    """What the bounds are of; after a change they may no longer fit the question."""
    is_old = comparison.changes and not comparison.are_thresholds_given
    changed = "; written for the file as it stands, not for what was changed" if is_old else ""
    return f"Thresholds (means over the seeds{changed})"


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
        f"{_wrapped(comparison.asked)}\n{_paint(_wrapped(answer_line(comparison)), _BOLD, tty)}\n",
        _numbers(comparison),
        compact_table(comparison)
        if len(comparison.all_variants) >= _LEAST_COMPACT
        else metric_table(comparison),
        _verdicts(comparison),
    ]
    if comparison.warnings:
        lines = [_wrapped(line, "- ") for line in comparison.warning_lines]
        parts.append("Warnings\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _numbers(comparison: Comparison) -> str:
    """The numbers that decide, one under the other."""
    numbers = deciding_numbers(comparison)
    widths = [max(len(one.value) for one in numbers), max(len(one.label) for one in numbers)]
    lines = []
    for one in numbers:
        beside = f"({one.beside})" if one.beside else ""
        lines.append(f"  {one.value:>{widths[0]}}  {one.label:<{widths[1]}}  {beside}".rstrip())
    return "\n".join(lines) + "\n"


def metric_table(comparison: Comparison) -> str:
    """One or two variants: a row per headline metric, with its ratio, 95 % interval and * if significant."""
    reference, others = comparison.reference, comparison.variants[1:]
    table = Grid()
    table.add_column("metric", overflow="fold", min_width=8)
    table.add_column("key", no_wrap=True)
    table.add_column(reference, justify="right", overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
        table.add_column(_ratio_head(comparison), justify="right", overflow="fold")
    for name in comparison.refused:
        table.add_column(name, justify="right", overflow="fold")
    for name in table_metrics(comparison):
        metric = comparison.kind.metrics[name]
        cells = [_value(comparison.cells[reference][name].mean, metric)]
        for other in others:
            cell = comparison.cells[other][name]
            cells += [_value(cell.mean, metric), _ratio_cell(cell)]
        cells += [_CANNOT_RUN for _ in comparison.refused]
        table.add_row(metric.label, name, *cells)
    return table.drawn()


def compact_table(comparison: Comparison) -> str:
    """Three and more variants: a row each, with the metrics that decide; the report has all others."""
    headline = headline_metric(comparison)
    metrics = deciding_metrics(comparison, best_variant(comparison))[:_COMPACT_METRICS]
    table = Grid()
    is_short = max(map(len, comparison.all_variants)) <= _LONGEST_UNBROKEN
    table.add_column("variant", overflow="fold", no_wrap=is_short)
    for name in metrics:
        table.add_column(comparison.kind.metrics[name].label, justify="right", overflow="fold")
        if name == headline:
            table.add_column(_ratio_head(comparison), justify="right", overflow="fold")
    for variant in comparison.variants:
        row = [variant]
        for name in metrics:
            cell = comparison.cells[variant][name]
            row.append(_value(cell.mean, comparison.kind.metrics[name]))
            row += [_ratio_cell(cell)] if name == headline else []
        table.add_row(*row)
    for variant in comparison.refused:
        table.add_row(variant, _CANNOT_RUN)
    keys = f"({', '.join(metrics)}; report.html and summary.json have every metric)"
    return f"{table.drawn()}{_wrapped(keys)}\n"


class Grid:
    """Columns and rows of text, as Markdown that pastes into a document or a spreadsheet.

    Rich draws what has to be folded or has letters of another width; other tables, which are most, are drawn
    here in the same characters, because importing rich takes a twentieth of a short run.
    """

    def __init__(self) -> None:
        self._columns: list[dict[str, Any]] = []
        self._rows: list[tuple[str, ...]] = []

    def add_column(self, header: str, **options: Any) -> None:
        """``options`` are rich's: justify, overflow, min_width, no_wrap."""
        self._columns.append({"header": header, **options})

    def add_row(self, *cells: str) -> None:
        """Cells that are missing are empty."""
        self._rows.append(cells)

    def drawn(self) -> str:
        """The lines, none wider than the terminal."""
        found = self._as_it_is()
        return self._by_rich() if found is None else found

    def _as_it_is(self) -> str | None:
        """The table where all of it fits and every letter is one column wide; else None."""
        heads = [column["header"].split("\n") for column in self._columns]
        empty = [""] * len(heads)
        rows = [[*row, *empty[len(row) :]] for row in self._rows]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(heads)
        if not heads or not all(map(_is_plain, (cell for row in (*heads, *rows) for cell in row))):
            return None
        widths = [
            max(column.get("min_width", 0), *map(len, (*head, *cells)))
            for column, head, cells in zip(self._columns, heads, columns, strict=True)
        ]
        if sum(width + 3 for width in widths) + 1 > WIDTH:
            return None
        height = max(map(len, heads))
        above = zip(*([""] * (height - len(head)) + head for head in heads), strict=True)
        is_right = [column.get("justify") == "right" for column in self._columns]

        def line(cells: Sequence[str]) -> str:
            padded = (
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(cells, widths, is_right, strict=True)
            )
            return f"| {' | '.join(padded)} |"

        under = "|".join("-" * (width + 2) for width in widths)
        lines = ["", *map(line, above), f"|{under}|", *map(line, rows), ""]
        return "\n".join(lines) + "\n"

    def _by_rich(self) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(box=box.MARKDOWN)
        for column in self._columns:
            table.add_column(**column)
        for row in self._rows:
            table.add_row(*row)
        text = StringIO()
        Console(file=text, width=WIDTH, color_system=None, legacy_windows=False, markup=False).print(table)
        return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines()) + "\n"


def _is_plain(text: str) -> bool:
    """One line of letters that are one column wide, and nothing that rich would read as an emoji's name."""
    is_narrow = text.isprintable() and all(ord(one) < 0x300 or one in "–−≥≤" for one in text)
    return is_narrow and text.count(":") < 2 and text == text.strip()


def fitted(fixed: Sequence[list[str]], rest: Sequence[list[str]]) -> Iterator[tuple[list[list[str]], int]]:
    """(columns, how many of ``rest`` are in it) of tables that fit; the fixed columns are in each."""
    left = list(rest)
    while left or not len(rest):
        columns, taken = list(fixed), 0
        while left and (not taken or _width([*columns, left[0]]) <= WIDTH):
            columns.append(left.pop(0))
            taken += 1
        yield columns, taken
        if not rest:
            return


def _head(column: Sequence[str]) -> list[str]:
    """The name of a column, in lines about as wide as its cells."""
    cells = max(map(len, column[1:]), default=0)
    width = min(max(cells, LEAST_HEADER_WIDTH), HEADER_WIDTH)
    return textwrap.wrap(column[0], width, break_long_words=False, break_on_hyphens=False) or [""]


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Of the table that ``drawn_columns`` draws: a line and two spaces to each column, and the last line."""
    widths = (max(len(line) for line in (*_head(column), *column[1:])) for column in columns)
    return sum(width + 3 for width in widths) + 1


def drawn_columns(columns: Sequence[Sequence[str]]) -> str:
    table = Grid()
    for column in columns:
        table.add_column("\n".join(_head(column)), justify="right", overflow="fold")
    for cells in zip(*(column[1:] for column in columns), strict=True):
        table.add_row(*cells)
    return table.drawn().rstrip("\n")


def _value(mean: float | None, metric: Metric) -> str:
    return format_metric(mean, metric, with_rate_unit=False)


def _ratio_head(comparison: Comparison) -> str:
    """One seed has no interval to announce."""
    return f"x {comparison.reference}{' [95 %]' if len(comparison.seeds) > 1 else ''}"


def _ratio_cell(cell: Cell) -> str:
    """ "3.1 [2.95, 3.26] *"; where there is no ratio, whether the difference is significant."""
    mark = " *" if cell.is_significant else ""
    if cell.ratio is None:
        return mark.strip()
    return f"{_factor(cell.ratio)}{mark}"


def _factor(ratio: Interval) -> str:
    if ratio.low is None or ratio.high is None or ratio.low == ratio.high:
        return _three_digits(ratio.estimate)
    if says_nothing(ratio):
        return "unknown, few seeds"
    return f"{_three_digits(ratio.estimate)} [{_three_digits(ratio.low)}, {_three_digits(ratio.high)}]"


def _three_digits(factor: float) -> str:
    if 0 < factor < _LEAST_FACTOR:
        return f"1/{1 / factor:,.0f}"
    return f"{factor:.0f}" if 100 <= factor < 1e6 else f"{factor:.3g}"


def _verdicts(comparison: Comparison) -> str:
    """One line per variant: its queue, and whether it meets the SLO; one for all that differ in neither."""
    lines = [_wrapped(line) for line in (difference_line(comparison),) if line]
    for name in comparison.variants:
        summaries = comparison.summaries[name]
        met = [summary.meets_slo for summary in summaries if summary.meets_slo is not None]
        slo = f"; {_slo_kept(met)}" if met else ""
        lines.append(_wrapped(f"{name} {comparison.said(name)}: {summaries[0].verdict.reason}{slo}"))
        if summaries[0].window:
            lines.append(_wrapped(f"  measured: {summaries[0].window}"))
        of_worst = "" if len(summaries) == 1 else " (worst seed)"
        lines += [_wrapped(f"  {worst}{of_worst}") for worst, _ in comparison.slo_found(name)]
    lines += [
        _wrapped(f"{name} cannot run ({CANNOT_RUN}): {why}") for name, why in comparison.refused.items()
    ]
    note = ""
    if len(comparison.variants) > 1 and len(comparison.seeds) > 1:
        note = f"* the 95 % interval over {len(comparison.seeds)} seeds, paired by seed, excludes 1\n\n"
    return note + "\n".join(lines) + "\n"


def _slo_kept(met: Sequence[bool]) -> str:
    """By each seed; of one alone it is not counted."""
    if len(met) == 1:
        return "meets its SLO" if met[0] else "misses its SLO"
    return f"meets its SLO in {sum(met)} of {len(met)} runs"


def _wrapped(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent="  ", break_on_hyphens=False)


def _paint(text: str, colour: str, wanted: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if wanted else text
