"""The decision table: every headline metric of every variant, with its ratio to the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.elementary import log
from sim.report.blocks import Block, Bullets, Cell, Figure, Prose, Report, Section, Table, Tone
from sim.report.figures import digits
from sim.results.answer import (
    answer_basis,
    answer_itself,
    best_variant,
    deciding_metrics,
    deciding_numbers,
    headline_metric,
    table_metrics,
)
from sim.results.comparison import Cell as Compared
from sim.results.comparison import check_thresholds
from sim.results.metric import Metric, format_metric
from sim.results.statistics import Interval
from sim.results.summary import telling
from sim.results.wording import says_nothing
from sim.scenario.file import CANNOT_RUN

if TYPE_CHECKING:
    from sim.results.answer import AnyAnswer
    from sim.results.comparison import Comparison
    from sim.scenario.fields import Threshold
    from sim.scenario.file import Refusal

# Shown even where refused: a missing p99 must be seen to be missing.
WANTED = (
    "requests_per_s",
    "goodput_requests_per_s",
    "goodput_fraction",
    "p50_ttft_s",
    "p99_ttft_s",
    "p99_tpot_s",
    "p99_e2e_s",
    "kv_tokens_fraction",
    "num_preemptions",
    "cost_per_million_output_tokens",
)
CLASS_METRICS = ("num_offered", "goodput_fraction", "p50_ttft_s", "p99_ttft_s", "p99_tpot_s", "p99_e2e_s")


LEAST_COMPACT = 3
"""With so many variants they are the rows of one compact table; every metric folds away under it."""
_COMPACT_METRICS = 5
_LEAST_THAT_MATTERS = 1.01
_NO_NUMBER = ("–", "refused")
TONES: dict[str, Tone] = {
    "STABLE": "good",
    "OVERLOADED": "bad",
    "BACKLOGGED": "bad",
    "ABANDONED": "bad",
    CANNOT_RUN: "bad",
}


def report_with(answer: AnyAnswer, sections: Sequence[Section]) -> Report:
    """The report of an answer of whatever kind: question, sentence, large numbers, verdicts, its sections."""
    comparison = answer.comparison
    said = difference_line(comparison)
    words = {} if said else {name: _badge_word(comparison, name) for name in comparison.variants}
    badges = _badges({**words, **dict.fromkeys(comparison.refused, ("cannot run", CANNOT_RUN))})
    return Report(
        question=comparison.asked,
        answer=answer_itself(comparison),
        basis=answer_basis(comparison),
        badges=(*((Cell(text=said),) if said else ()), *badges),
        figures=tuple(
            Figure(value=one.value, label=one.label, key=one.metric, beside=one.beside)
            for one in deciding_numbers(comparison)
        ),
        sections=sections,
    )


def _badge_word(comparison: Comparison, name: str) -> tuple[str, str]:
    return comparison.short(name), comparison.verdicts(name)


def _badges(words: Mapping[str, tuple[str, str]]) -> list[Cell]:
    """A badge per variant; of more than two, one per verdict with whom it is of, or of how many."""
    whose: dict[tuple[str, str], list[str]] = {}
    for name, word in words.items():
        whose.setdefault(word, []).append(name)
    if len(words) < LEAST_COMPACT:
        told = list(words.items())
    else:
        most = _NAMES_OF_A_BADGE
        told = [
            (", ".join(names) if len(names) <= most else f"{len(names)} of {len(words)}", word)
            for word, names in whose.items()
        ]
    return [
        Cell(text=f"{who}: {short} ({word})", tone=TONES.get(word, "plain")) for who, (short, word) in told
    ]


_NAMES_OF_A_BADGE = 3


def decision_section(answer: AnyAnswer) -> Section:
    """The table, then the thresholds."""
    comparison = answer.comparison
    blocks: list[Block] = []
    if len(comparison.all_variants) >= LEAST_COMPACT:
        blocks += [compact_table(comparison), decision_table(comparison, summary="Every metric")]
    else:
        blocks.append(decision_table(comparison))
    extra = (_slo_table(comparison), _threshold_table(answer))
    return Section(title="Decision table", blocks=[*blocks, *(table for table in extra if table)])


def compact_table(comparison: Comparison) -> Table:
    """A row per variant, with the metrics that decide and, where they differ, verdict and SLO."""
    footnotes: dict[str, int] = {}
    names = deciding_metrics(comparison, best_variant(comparison))[:_COMPACT_METRICS]
    metrics = [comparison.kind.metrics[name] for name in names]
    variants = comparison.variants
    columns = [
        [_metric_cell(_judged(comparison, one, metric.name), metric, footnotes) for one in variants]
        for metric in metrics
    ]
    for column in columns[1:]:  # ratios of the headline only: the folded table has all of them
        column[:] = [cell if cell.text in _NO_NUMBER else replace(cell, small="") for cell in column]
    header = [f"{metric.label}\n{metric.name}" for metric in metrics]
    for row in (_verdict_row(comparison), *_slo_rows(comparison)):
        if len({cell.text for cell in row[1:]}) > 1:
            header.append(row[0].text)
            columns.append(list(row[1:]))
    rows = [
        (Cell(text=_column(comparison, variant)), *(column[index] for column in columns))
        for index, variant in enumerate(comparison.variants)
    ]
    rows += [
        (Cell(text=name), _refused(why, footnotes), *(Cell(text="–") for _ in columns[1:]))
        for name, why in comparison.refused.items()
    ]
    return Table(header=("variant", *header), rows=tuple(rows), notes=tuple(_notes(comparison, footnotes)))


def decision_table(comparison: Comparison, *, summary: str = "") -> Table:
    """A row per metric, a column per variant; ratios with their 95 % interval below the value."""
    names = decision_metrics(comparison)
    footnotes: dict[str, int] = {}
    rows = [_verdict_row(comparison), *_slo_rows(comparison)]
    rows += [_metric_row(comparison, name, footnotes) for name in names]
    refused = [_refused(why, footnotes) for why in comparison.refused.values()]
    for index, row in enumerate(rows):
        rows[index] = (*row, *(Cell(text="–") if index else cell for cell in refused))
    return Table(
        header=("", *(_column(comparison, name) for name in comparison.all_variants)),
        rows=tuple(rows),
        notes=tuple(_notes(comparison, footnotes)),
        summary=summary,
    )


def decision_metrics(comparison: Comparison) -> list[str]:
    """The headline first, then ``WANTED``, then the table's other metrics that are not 0 everywhere."""
    cells = comparison.cells.values()
    # No row for goodput without an SLO or preemptions that never happened; one for a refused percentile.
    wanted = [
        name
        for name in WANTED
        if any(name in cell and (cell[name].mean or "samples" in cell[name].note) for cell in cells)
    ]
    return list(dict.fromkeys([headline_metric(comparison), *wanted, *table_metrics(comparison)]))


def _column(comparison: Comparison, variant: str) -> str:
    return (
        f"{variant} (reference)"
        if variant == comparison.reference and len(comparison.all_variants) > 1
        else variant
    )


def _verdict_row(comparison: Comparison) -> tuple[Cell, ...]:
    words = {name: comparison.verdicts(name) for name in comparison.variants}
    kind = comparison.summaries[comparison.reference][0].kind
    head = "queue" if kind == "serving" else "what holds it back"
    cells = [
        Cell(text=comparison.short(name), small=word, tone=TONES.get(word, "plain"))
        for name, word in words.items()
    ]
    return (Cell(text=head), *cells)


def _slo_rows(comparison: Comparison) -> list[tuple[Cell, ...]]:
    """Whether the SLO is met, by how many of the seeds; no row without an SLO."""
    met = [[run.meets_slo for run in comparison.summaries[name]] for name in comparison.variants]
    if all(hit is None for hits in met for hit in hits):
        return []
    cells = []
    for hits in met:
        yes = sum(hit is True for hit in hits)
        text = "✓" if yes == len(hits) else "✗" if yes == 0 else f"✗ {yes} of {len(hits)} seeds"
        cells.append(Cell(text=text, tone="good" if yes == len(hits) else "bad"))
    return [(Cell(text="meets its SLO"), *cells)]


def _metric_row(comparison: Comparison, name: str, footnotes: dict[str, int]) -> tuple[Cell, ...]:
    metric = comparison.kind.metrics[name]
    cells = [
        _metric_cell(_judged(comparison, variant, name), metric, footnotes) for variant in comparison.variants
    ]
    return (Cell(text=metric.label, small=name), *cells)


def _judged(comparison: Comparison, variant: str, name: str) -> Compared:
    """Better or worse only where a variant is asked for what the reference is."""
    cell = comparison.cells[variant][name]
    return replace(cell, is_better=None) if comparison.is_other(variant) else cell


def _metric_cell(cell: Compared, metric: Metric, footnotes: dict[str, int]) -> Cell:
    if cell.mean is None:
        return _missing(cell.note, footnotes)
    tone: Tone = "plain"
    if cell.is_better is not None and _matters(cell):
        tone = "good" if cell.is_better else "bad"
    return Cell(text=format_metric(cell.mean, metric), small=_ratio(cell, metric), tone=tone)


def _matters(cell: Compared) -> bool:
    """Whether the difference is large enough to decide by; a certain one of half a percent is not."""
    ratio = cell.ratio
    return ratio is None or not 1 / _LEAST_THAT_MATTERS < ratio.estimate < _LEAST_THAT_MATTERS


def _ratio(cell: Compared, metric: Metric) -> str:
    """``2.31 × (2.20 to 2.42) better``; a difference where a ratio has no meaning."""
    word = ""
    if cell.is_significant is False:
        word = ", not significant"
    elif cell.is_better is not None:
        word = ", better" if cell.is_better else ", worse"
    if cell.ratio is not None:
        return _times(cell.ratio) + word
    if cell.difference is None or cell.difference.estimate == 0:
        return ""
    sign = "+" if cell.difference.estimate > 0 else "−"
    return f"{sign}{format_metric(abs(cell.difference.estimate), metric)}{word}"


def _times(ratio: Interval) -> str:
    """``2.31 × (2.20 to 2.42)``; small ratios as a division, which is easier to read than 0.0001 ×."""
    if says_nothing(ratio):
        return "ratio unknown with so few seeds"
    is_small = ratio.estimate < 0.1

    def shown(value: float) -> str:
        return digits(1 / value if is_small else value)

    sign = "÷ " if is_small else ""
    span = ""
    if ratio.low is not None and ratio.high is not None:
        low, high = (ratio.high, ratio.low) if is_small else (ratio.low, ratio.high)
        span = f" ({shown(low)} to {shown(high)})"
    return f"{sign}{shown(ratio.estimate)}{'' if is_small else ' ×'}{span}"


def _notes(comparison: Comparison, footnotes: dict[str, int]) -> list[str]:
    seeds = len(comparison.seeds)
    means = f"Means over {seeds} seeds." if seeds > 1 else "One seed." if comparison.draws else ""
    ratios = f"With each: the ratio to {comparison.reference}"
    if len(comparison.variants) == 1:
        first = [means] if seeds > 1 else []
    elif seeds > 1:
        rule = "better or worse only where the interval excludes 1"
        if any(comparison.is_other(name) for name in comparison.variants):
            rule += (
                f" and a variant is asked for what {comparison.reference} is, under the same circumstances"
            )
        first = [f"{means} {ratios} with its 95 % interval, paired by seed; {rule}."]
    else:
        why = "without an interval" if comparison.draws else "exact: nothing is drawn"
        first = [f"{means} {ratios}, {why}.".lstrip()]
    return [*first, *_windows_note(comparison), *_footnotes(footnotes)]


def _windows_note(comparison: Comparison) -> list[str]:
    """Why a goodput may stand above the requests per second, where one does."""
    names = ("goodput_requests_per_s", "requests_per_s")
    for cells in comparison.cells.values():
        good, served = (cells[name].mean if name in cells else None for name in names)
        if good is not None and served is not None and good > served:
            return ["Goodput counts who arrived in the window, requests per second who finished in it."]
    return []


def _slo_table(comparison: Comparison) -> Table | None:
    """What the SLO asks and what was found, in digits that show the side; the worst seed of each variant."""
    rows = []
    for name in comparison.variants:
        num_seeds = len(comparison.summaries[name])
        of = f" of {name}" if len(comparison.variants) > 1 else ""
        for worst, met in comparison.slo_found(name):
            found, limit = telling(worst.value, worst.limit, is_time=worst.is_most)
            missed = "✗ missed" if num_seeds == 1 else f"✗ {met} of {num_seeds} seeds"
            word = "✓ met" if met == num_seeds else missed
            rows.append(
                (
                    Cell(text=f"{worst.metric if worst.is_most else worst.of}{of}"),
                    Cell(text=f"{'at most' if worst.is_most else 'at least'} {limit}"),
                    Cell(text=found, small="" if num_seeds == 1 else "in the worst seed"),
                    Cell(text=word, tone="good" if met == num_seeds else "bad"),
                    Cell(text="yes" if worst.decides else "no"),
                )
            )
    if not rows:
        return None
    return Table(header=("SLO", "asked", "found", "", "decides"), rows=tuple(rows))


def _threshold_table(answer: AnyAnswer) -> Table | None:
    thresholds = answer.file.base.thresholds
    if not thresholds:
        return None
    rows = []
    outcomes = check_thresholds(answer.comparison, thresholds)
    for threshold, outcome in zip(thresholds, outcomes, strict=True):
        mark = Cell(text="✓ met" if outcome.is_met else "✗ missed", tone="good" if outcome.is_met else "bad")
        metric = answer.comparison.kind.metrics[outcome.metric]
        value = "–" if outcome.value is None else format_metric(outcome.value, metric)
        found = Cell(text=value, small=outcome.reason if outcome.value is None else "")
        rows.append(
            (
                Cell(text=f"{outcome.variant}: {outcome.metric}"),
                Cell(text=_bound(threshold, metric)),
                found,
                mark,
            )
        )
    changed = ("Written for the file as it stands, not for what was changed.",)
    comparison = answer.comparison
    notes = changed if comparison.changes and not comparison.are_thresholds_given else ()
    return Table(header=("Threshold", "bound", "found", ""), rows=tuple(rows), notes=notes)


def _bound(threshold: Threshold, metric: Metric) -> str:
    """The bound in the metric's unit: "at most 500 ms"."""
    limits = (("at least", threshold.min), ("at most", threshold.max))
    given = [f"{word} {format_metric(limit, metric)}" for word, limit in limits if limit is not None]
    return ", ".join(given)


def warning_section(comparison: Comparison) -> Section:
    """What the runs and their comparison are warned of, in the report of every kind beside what decides."""
    block: Block = Prose(text="No warning was raised.")
    if comparison.warnings:
        block = Bullets(items=comparison.warning_lines)
    return Section(title="Warnings", blocks=(block,))


def class_section(answer: AnyAnswer) -> Section | None:
    """Each class of a mixture by itself; None for a single class."""
    comparison = answer.comparison
    names = [name for name in comparison.summaries[comparison.reference][0].by_class if name]
    if len(names) < 2:
        return None
    footnotes: dict[str, int] = {}
    rows = [
        (
            Cell(text=f"{name}, {variant}"),
            *(_class_cell(comparison, (variant, name, metric), footnotes) for metric in CLASS_METRICS),
        )
        for name in names
        for variant in comparison.variants
    ]
    table = Table(
        header=("class, variant", *CLASS_METRICS),
        rows=tuple(rows),
        notes=("Means over the seeds.", *_footnotes(footnotes)),
    )
    return Section(title="By class", blocks=(table,))


def _class_cell(comparison: Comparison, place: tuple[str, str, str], footnotes: dict[str, int]) -> Cell:
    variant, name, metric = place
    parts = [summary.by_class[name] for summary in comparison.summaries[variant] if name in summary.by_class]
    values = [part.metrics.get(metric) for part in parts]
    known = [value for value in values if value is not None]
    if known and len(known) == len(values):
        return Cell(text=format_metric(sum(known) / len(known), comparison.kind.metrics[metric]))
    reason = next((part.refused[metric] for part in parts if metric in part.refused), "")
    return _missing(reason, footnotes) if reason else Cell(text="–")


def _refused(why: Refusal, footnotes: dict[str, int]) -> Cell:
    """In the place of a variant's verdict, or of its first number."""
    return replace(_missing(str(why), footnotes), text="cannot run", tone="bad")


def _missing(reason: str, footnotes: dict[str, int]) -> Cell:
    """No number, with the number of the note that says why."""
    number = footnotes.setdefault(reason or "no number", len(footnotes) + 1)
    return Cell(text=_NO_NUMBER["samples" in reason], small=f"note {number}")


def _footnotes(footnotes: dict[str, int]) -> list[str]:
    return [f"Note {number}: {reason}." for reason, number in footnotes.items()]


def difference_line(comparison: Comparison) -> str:
    """What variants differ in beside the headline, where one verdict for all says nothing of it.

    Metrics that differ as the headline does (a step's time beside tokens per second) add nothing.
    """
    words = {name: comparison.verdicts(name) for name in comparison.variants}
    if len(words) < 2 or len(set(words.values())) > 1 or next(iter(words.values())) == "STABLE":
        return ""
    first = comparison.reference
    alone = f"all alike: {comparison.short(first)} ({words[first]})"
    alike = [name for name in comparison.variants[1:] if not comparison.is_other(name)]
    found = [
        (abs(log(cell.ratio.estimate)), name, variant)
        for variant in alike
        for name in table_metrics(comparison)
        if (cell := comparison.cells[variant][name]).ratio is not None and cell.mean
        if not _follows_headline(comparison, variant, name)
    ]
    if not found or max(found)[0] < log(1.01):
        return alone
    _, name, variant = max(found)
    mean, base = (comparison.cells[which][name].mean for which in (variant, comparison.reference))
    metric = comparison.kind.metrics[name]
    shown = (
        f"{format_metric(mean, metric)} in {variant}, {format_metric(base, metric)} in {comparison.reference}"
    )
    return f"{alone}; they differ most in {metric.label} ({name}): {shown}"


def _follows_headline(comparison: Comparison, variant: str, name: str) -> bool:
    cells = comparison.cells[variant]
    ratio, headline = cells[name].ratio, cells[headline_metric(comparison)].ratio
    if ratio is None or headline is None:
        return False
    return abs(abs(log(ratio.estimate)) - abs(log(headline.estimate))) < 0.005
