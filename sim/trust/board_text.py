"""A board on the terminal, as JSON and as CSV rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from sim.plan.shown import shown
from sim.trust.board import Board, Score
from sim.trust.cases import Scored
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
    """The groups as a Markdown table, for a README."""
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


def value_cells(row: Scored) -> tuple[str, str, str, str, str]:
    """A value as a person reads it; a ratio of two variants has no unit."""
    measured = row.measured
    name = f"{row.case}: {row.label}" if row.label else row.case
    over = f" / {measured.over}" if measured.over else ""
    metric = f"{measured.metric}{over}"
    unit_of = "ratio" if measured.over else measured.metric
    predicted = "none" if row.predicted is None else shown(unit_of, row.predicted)
    mark = " (calibrated)" if measured.seen_by_fit else ""
    outside = " outside its band" if row.is_outside_band else ""
    return f"{name}{mark}", metric, shown(unit_of, measured.value), predicted, _signed(row.error) + outside


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
