"""The board in the terminal and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sim.report.blocks import Block, Cell, Code, Prose, Report, Section, Table
from sim.report.figures import Picture, Row, Trace, axis, digits, lanes, layout, percent, plain
from sim.report.html import page, report_html
from sim.trust.board import Board, Score
from sim.trust.cases import Scored
from sim.units import format_s
from sim.version import __version__

WORST_SHOWN = 12


CALIBRATED, UNSEEN = "calibrated on", "not seen by a fit"


HEADER = ("values", "median", "p90", "bias", "rank")


def render_board(board: Board, *, all_values: bool = False, only_groups: bool = False) -> str:
    """The answer, the groups (misses first), the cases, and the worst values (or all of them)."""
    parts = [f"{board.title}: {board.answer}", groups_table(board.groups)]
    if not only_groups:
        parts.append(_scores_table("by case", [(one, one.name) for one in board.cases]))
        parts.append(_values_table(board.rows, None if all_values else WORST_SHOWN))
    return "\n\n".join(parts)


def groups_table(groups: Sequence[Score]) -> str:
    """A line per group, and below it what it misses and what others reach."""
    lines = _scores_table("by group", [(one, _group_name(one)) for one in groups]).splitlines()
    shown_lines = lines[:1]
    for group, line in zip(groups, lines[1:], strict=True):
        shown_lines.append(line)
        shown_lines += [f"    MISSED: {miss}" for miss in group.misses]
        shown_lines += [
            f"    {rival}: median error {_percent(error)}" for rival, error in group.rivals.items()
        ]
    return "\n".join(shown_lines)


def groups_markdown(groups: Sequence[Score]) -> str:
    """The groups as a Markdown table, for docs/validation.md."""
    names = ("group", "a fit has", *HEADER)
    lines = [names, ("---", "---", *("---:" for _ in HEADER))]
    for group in groups:
        missed = " **missed**" if group.misses else ""
        lines.append(
            (group.name + missed, "seen it" if group.seen_by_fit else "not seen it", *score_cells(group))
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _group_name(score: Score) -> str:
    return f"{score.name} ({CALIBRATED if score.seen_by_fit else UNSEEN})"


def score_cells(score: Score) -> tuple[str, ...]:
    """The numbers of a score, as a person reads them."""
    rank = "-" if score.rank_correlation is None else f"{score.rank_correlation:.2f}"
    errors = (_percent(score.median_error), _percent(score.p90_error), _signed(score.bias))
    return (str(score.values), *errors, rank)


def _scores_table(title: str, scores: Sequence[tuple[Score, str]]) -> str:
    return _aligned([(title, *HEADER), *((name, *score_cells(score)) for score, name in scores)])


def _values_table(rows: Sequence[Scored], most: int | None) -> str:
    worst = worst_first(rows)[:most]
    title = "every value, the worst first" if len(worst) == len(rows) else f"the {len(worst)} worst values"
    cells = [(title, "metric", "measured", "predicted", "error")]
    return _aligned([*cells, *(value_cells(row) for row in worst)])


def worst_first(rows: Sequence[Scored]) -> list[Scored]:
    """What has no prediction, then by the size of the error."""
    return sorted(rows, key=lambda row: float("-inf") if row.error is None else -abs(row.error))


def _number(name: str, value: float) -> str:
    """A value in the unit of its name."""
    if name.endswith("_fraction"):
        return percent(value)
    return format_s(value) if name.endswith("_s") and not name.endswith("_per_s") else digits(value)


def value_cells(row: Scored) -> tuple[str, str, str, str, str]:
    """A value as a person reads it; a ratio of two variants has no unit."""
    measured = row.measured
    name = f"{row.case}: {row.label}" if row.label else row.case
    over = f" / {measured.over}" if measured.over else ""
    metric = f"{measured.metric}{over}"
    unit_of = "ratio" if measured.over else measured.metric
    predicted = "none" if row.predicted is None else _number(unit_of, row.predicted)
    mark = " (calibrated)" if measured.seen_by_fit else ""
    outside = " outside its band" if row.is_outside_band else ""
    return f"{name}{mark}", metric, _number(unit_of, measured.value), predicted, _signed(row.error) + outside


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, names to the left and numbers to the right."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f} %"


def board_json(board: Board) -> str:
    """Every value and every score."""
    content = {
        "gpuyard": __version__,
        "command": board.command,
        "title": board.title,
        "missed": board.is_missed,
        "groups": [asdict(score) for score in board.groups],
        "cases": [asdict(score) for score in board.cases],
        "values": value_rows(board.rows),
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def value_rows(rows: Sequence[Scored]) -> list[dict[str, object]]:
    """A flat row per value, for CSV and JSON."""
    return [
        {
            "case": row.case,
            "point": row.label,
            "group": row.measured.group,
            "metric": row.measured.metric,
            "variant": row.measured.variant,
            "over": row.measured.over,
            "measured": row.measured.value,
            "predicted": row.predicted,
            "error": row.error,
            "tolerance": row.measured.tolerance,
            "at_least": row.measured.at_least,
            "at_most": row.measured.at_most,
            "seen_by_fit": row.measured.seen_by_fit,
            "source": row.measured.source,
        }
        for row in rows
    ]


SCORES = ("median error", "p90", "bias", "rank", "a fit has", "values")


READ = (
    "An error is predicted / measured - 1. Median and p90 are of its size, bias is its signed mean, rank is "
    "Spearman's correlation. A group that a fit has seen is calibrated; only the others are validated."
)


def render_board_page(board: Board) -> str:
    """The whole file."""
    report = board_report(board)
    pictures = [picture for section in report.sections for picture in section.pictures]
    return page(title=board.title, body=report_html(report), pictures=pictures)


def board_report(board: Board) -> Report:
    """Groups, then a section per group with what it misses, its parity plot and its values."""
    missed = [group for group in board.groups if group.misses]
    badges = (
        Cell(text=f"{len(missed)} missed", tone="bad" if missed else "plain"),
        Cell(text=f"{len(board.groups) - len(missed)} hold", tone="good"),
    )
    first = [_misses(missed)] if missed else []
    return Report(
        question=board.title,
        answer=board.answer,
        badges=badges,
        sections=[
            *first,
            Section(title="Groups", blocks=[_groups_table(board.groups), Prose(text=READ)]),
            *(_group_section(board, group) for group in board.groups),
            Section(title="By case", blocks=[_cases_table(board.cases)]),
            Section(title="Again", blocks=[Code(text=board.command), Prose(text=f"gpuyard {__version__}")]),
        ],
    )


def _misses(missed: Sequence[Score]) -> Section:
    rows = tuple(
        (Cell(text=group.name), Cell(text="; ".join(group.misses), tone="bad"), Cell(text=_fit(group)))
        for group in missed
    )
    table = Table(header=("group", "misses", "a fit has"), rows=rows, is_text=True)
    return Section(title="Misses", blocks=[table])


def _fit(score: Score) -> str:
    return "seen it" if score.seen_by_fit else "not seen it"


def _kind(score: Score) -> str:
    return CALIBRATED if score.seen_by_fit else UNSEEN


def _groups_table(groups: Sequence[Score]) -> Table:
    return Table(
        header=("group", *SCORES, "measured ±", "others"),
        rows=tuple(
            (
                Cell(text=group.name),
                *_score_row(group),
                Cell(text="-" if group.tolerance is None else f"{100 * group.tolerance:.2g} %"),
                Cell(text="; ".join(f"{name} {100 * error:.1f} %" for name, error in group.rivals.items())),
            )
            for group in groups
        ),
    )


def _score_row(score: Score) -> tuple[Cell, ...]:
    """In the order of ``SCORES``: on a phone the first ones are seen."""
    values, median, *rest = score_cells(score)
    verdict = Cell(text=median, small="missed", tone="bad") if score.misses else Cell(text=median)
    return (verdict, *(Cell(text=text) for text in rest), Cell(text=_fit(score)), Cell(text=values))


def _cases_table(cases: Sequence[Score]) -> Table:
    return Table(
        header=("case and metric", *SCORES),
        rows=tuple((Cell(text=one.name), *_score_row(one)) for one in cases),
    )


def _group_section(board: Board, group: Score) -> Section:
    rows = [
        row
        for row in board.rows
        if row.measured.group == group.name and row.measured.seen_by_fit == group.seen_by_fit
    ]
    about = board.bounds[group.name].about
    blocks: list[Block] = [Prose(text=f"Missed: {miss}.") for miss in group.misses]
    if about:
        blocks.append(Prose(text=about))
    sources = sorted({row.measured.source for row in rows})
    blocks.append(Prose(text=f"Source: {'; '.join(sources)}."))
    blocks.append(_values_block(rows))
    return Section(title=f"{group.name}: {_kind(group)}", blocks=blocks, pictures=[parity(group, rows)])


def _values_block(rows: Sequence[Scored]) -> Table:
    return Table(
        header=("value, the worst first", "metric", "measured", "predicted", "error"),
        rows=tuple(tuple(Cell(text=text) for text in value_cells(row)) for row in worst_first(rows)),
        summary=f"All {len(rows)} values, the worst first",
    )


def parity(group: Score, rows: Sequence[Scored]) -> Picture:
    """Predicted against measured on logarithmic axes, a mark per value; on the line they are equal."""
    known = [row for row in rows if row.predicted is not None and row.predicted > 0]
    by_case: dict[str, list[Scored]] = {}
    for row in known:
        by_case.setdefault(row.case, []).append(row)
    traces = [
        _marks(by_case[lane.name], lane.label, lane.color, index)
        for index, lane in enumerate(lanes(list(by_case)))
    ]
    ends = [value for row in known for value in (row.measured.value, row.predicted or row.measured.value)]
    low, high = (min(ends) / 1.3, max(ends) * 1.3) if ends else (1.0, 10.0)
    unit = sorted({row.measured.metric for row in rows})
    picture_rows: list[Row] = [
        (*value_cells(row)[:2], row.measured.value, row.predicted, row.error) for row in rows
    ]
    return Picture(
        key=f"parity_{_slug(group)}",
        title="Predicted against measured",
        reading=_reading(group, known),
        traces=[*_lines(low, high), *traces],
        layout=layout(
            axis(f"measured {', '.join(unit)}", type="log"),
            axis("predicted", type="log"),
            showlegend=len(traces) > 1,
        ),
        header=("value", "metric", "measured", "predicted", "error"),
        rows=picture_rows,
        height_px=420,
    )


def _slug(group: Score) -> str:
    name = "".join(letter if letter.isalnum() else "_" for letter in group.name)
    return f"{name}_{'seen' if group.seen_by_fit else 'unseen'}"


def _marks(rows: Sequence[Scored], name: str, color: str, index: int) -> Trace:
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "x")
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [row.measured.value for row in rows],
        "y": [row.predicted for row in rows],
        "text": [plain(row.label or row.case) for row in rows],
        "hovertemplate": "%{text}<br>measured %{x:.4g}, predicted %{y:.4g}<extra></extra>",
        "marker": {"color": color, "symbol": symbols[index % len(symbols)], "size": 8, "opacity": 0.8},
    }


def _lines(low: float, high: float) -> list[Trace]:
    """Equality, and a fifth more and less."""
    shown: tuple[tuple[float, str, str], ...] = (
        (1.0, "solid", "equal"),
        (1.2, "dot", "± 20 %"),
        (1 / 1.2, "dot", ""),
    )
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [low, high],
            "y": [low * factor, high * factor],
            "line": {"color": "@muted", "dash": dash, "width": 1},
            "hoverinfo": "skip",
            "showlegend": bool(name),
        }
        for factor, dash, name in shown
    ]


def _reading(group: Score, known: Sequence[Scored]) -> str:
    """The median, the direction, and the worst value, in a sentence."""
    if not known or group.median_error is None or group.bias is None:
        return "No value of this group has a prediction."
    worst = worst_first(known)[0]
    where = worst.label or worst.case
    direction = "above" if group.bias > 0 else "below"
    return (
        f"The median error of {len(known)} values is {100 * group.median_error:.1f} %; on average they are "
        f"{100 * abs(group.bias):.1f} % {direction} what was measured. The worst: {where}, "
        f"{100 * (worst.error or 0):+.1f} %."
    )
