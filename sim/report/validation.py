"""The board of measured cases as one HTML file: misses first, a parity plot per group, every value."""

from __future__ import annotations

from collections.abc import Sequence

from sim.report.blocks import Block, Cell, Code, Prose, Report, Section, Table
from sim.report.figures import Picture, Row, Trace, axis, lanes, layout, plain
from sim.report.html_blocks import report_html
from sim.report.page import page
from sim.trust.board import Board, Score
from sim.trust.board_text import CALIBRATED, UNSEEN, score_cells, value_cells, worst_first
from sim.trust.cases import Scored
from sim.version import __version__

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
    blocks.append(_values_table(rows))
    return Section(title=f"{group.name}: {_kind(group)}", blocks=blocks, pictures=[parity(group, rows)])


def _values_table(rows: Sequence[Scored]) -> Table:
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
