"""A sweep for a reader: the terminal's table, JSON, and a report that is a page or Markdown."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sim.hardware import HardwareProfile
from sim.kinds.registry import kind_of
from sim.plan.answer import (
    HELD,
    UNSETTLED,
    Pick,
    by_cost,
    can_run,
    decisive,
    has_slo,
    kept_word,
    limit_of,
    missed_word,
    picks,
    reasons_of,
)
from sim.plan.evaluate import Row, Value, warnings_of
from sim.plan.sweep import Sweep, shared_words, sweep_warnings
from sim.plan.sweep_pictures import how_to_read, sweep_pictures
from sim.plan.sweep_words import (
    answer_parts,
    answer_words,
    axis_notes,
    choice_words,
    closest_words,
    cost_words,
    load_words,
    plain_name,
    point_words,
    short_key,
    short_value,
    verdict_words,
)
from sim.report.blocks import (
    Block,
    Bullets,
    Cell,
    Code,
    Facts,
    Figure,
    Prose,
    Report,
    Section,
    Table,
    setting_text,
    text_table,
    what_decides_first,
)
from sim.report.html import render_html
from sim.report.markdown import render_markdown
from sim.report.terminal import WIDTH, drawn_columns, fitted
from sim.results.metric import format_metric
from sim.results.wording import ratio_words
from sim.scenario.file import CANNOT_RUN
from sim.serving.report.content import sourced
from sim.version import __version__

if TYPE_CHECKING:
    from sim.report.blocks import Tone

ROWS_SHOWN = 500  # on the page, folded
ROWS_OPEN = 40  # and in the Markdown, which is to be pasted


def shown(sweep: Sweep, name: str, row: Row) -> str:
    """A metric of a point as a person reads it; the CSV keeps full precision."""
    value, metric = row.get(name), kind_of(sweep.points[0].scenario).metrics[name]
    if value is None or isinstance(value, str):
        is_thin = can_run(row) and metric.unit == "s" and name.startswith("p")
        return value or ("refused" if is_thin else "-")
    return format_metric(float(value), metric, with_rate_unit=False)


# --- the terminal -------------------------------------------------------------------------------


def render_table(sweep: Sweep, metrics: Sequence[str], *, are_asked: bool = False) -> str:
    """Every point, load by load and in each the cheapest first, within the width of a terminal.

    The winner of a load is marked with **, others that meet the SLO with *. Of the kind's own columns as many
    are shown as have room; those that were asked for go on below. Why points cannot run stands under it.
    """
    order, marks, reasons = by_cost(sweep), _marks(sweep), reasons_of(sweep)
    fixed = list(_fixed_columns(sweep, order, marks, reasons))
    rest = [[plain_name(name), *(shown(sweep, name, sweep.rows[i]) for i in order)] for name in metrics]
    rest = [column for column in rest if len(set(column[1:])) > 1 or are_asked]
    tables = list(fitted(fixed, rest)) if are_asked else list(fitted(fixed, rest))[:1]
    more = "" if are_asked else _left_out(rest, tables[0][1])
    lines = ["\n\n".join(drawn_columns(columns) for columns, _ in tables), *([more] if more else [])]
    return "\n".join([*lines, *_reason_lines(sweep, reasons)])


def _fixed_columns(
    sweep: Sweep, order: Sequence[int], marks: Mapping[int, str], reasons: Mapping[str, list[int]]
) -> Iterator[list[str]]:
    """Mark, setting, cost, and how closely the SLO is met."""
    points, rows = sweep.points, sweep.rows
    yield ["", *(marks.get(i, "") for i in order)]
    for key in sweep.keys:
        yield [short_key(key), *(short_value(points[i].swept[key]) for i in order)]
    if sweep.has_variants:
        yield ["variant", *(points[i].variant for i in order)]
    yield ["GPUs", *(f"{rows[i]['num_gpus']}" for i in order)]
    if any(row["usd_per_hour"] is not None for row in rows):
        yield ["$ an hour", *(_price(rows[i]) for i in order)]
    if has_slo(sweep):
        yield ["of the SLO's limit", *(_share(rows[i]) for i in order)]
    if any(row.get("meets_thresholds") is False for row in rows):
        yield ["thresholds", *(kept_word(rows[i]) for i in order)]
    if len({row["verdict"] for row in rows}) > 1:
        numbers = {i: n for n, found in enumerate(reasons.values(), 1) for i in found}
        yield ["verdict", *(_verdict(rows[i], numbers.get(i)) for i in order)]


def _share(row: Row) -> str:
    ratio = row.get("slo_ratio")
    return "-" if ratio is None else ratio_words(float(ratio)).removesuffix(" of")


def _verdict(row: Row, number: int | None) -> str:
    return f"{verdict_words(row)}{f' [{number}]' if number else ''}"


def _left_out(rest: Sequence[Sequence[str]], num_shown: int) -> str:
    names = [column[0] for column in rest[num_shown:]]
    return _wrapped(f"also in sweep.csv: {', '.join(names)}") if names else ""


def _marks(sweep: Sweep) -> dict[int, str]:
    """``**`` of each load's winner, ``*`` of the others that meet the SLO."""
    marks = {i: "*" for i, row in enumerate(sweep.rows) if row["meets_slo"] is True}
    return marks | {pick.winner: "**" for pick in picks(sweep) if pick.winner is not None}


def _reason_lines(sweep: Sweep, reasons: Mapping[str, list[int]]) -> list[str]:
    lines = []
    for number, (reason, indices) in enumerate(reasons.items(), 1):
        lines.append(_wrapped(f"[{number}] {shared_words(sweep, indices)} cannot run: {reason}"))
    return ["", *lines] if lines else []


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def render_answer(sweep: Sweep) -> str:
    """The answer, and what the axes could do where there is none."""
    return "\n".join(map(_wrapped, [answer_words(sweep), *axis_notes(sweep)]))


# --- JSON ---------------------------------------------------------------------------------------


def render_json(sweep: Sweep) -> str:
    """The answer for every load, and every metric of every point."""
    content = {
        "question": sweep.question,
        "command": sweep.command,
        "gpuyard": __version__,
        "over": list(sweep.keys),
        "answer": answer_words(sweep),
        "answers": [_pick_dict(sweep, pick) for pick in picks(sweep)],
        "axes": axis_notes(sweep),
        "warnings": sweep_warnings(sweep),
        "points": [
            {
                "swept": dict(point.swept),
                "variant": point.variant,
                "seeds": list(point.scenario.seeds),
                **row,
                "warnings": [{"kind": kind, "text": text} for kind, text in warnings_of(row)],
                "notes": str(row.get("notes") or "").splitlines(),
            }
            for point, row in zip(sweep.points, sweep.rows, strict=True)
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _pick_dict(sweep: Sweep, pick: Pick) -> dict[str, Any]:
    """A load's answer; points are indices into ``points``."""
    return {
        "load": dict(pick.load),
        "winner": pick.winner,
        "cheapest_in": pick.measure,
        "is_settled": None if pick.winner is None else sweep.rows[pick.winner]["verdict"] in HELD,
        "cheapest_settled": pick.settled,
        "best_on_measured_figures": pick.measured,
        "nearest": pick.nearest,
        "pareto_front": list(pick.front),
    }


# --- the report ---------------------------------------------------------------------------------


def render_page(sweep: Sweep, metrics: Sequence[str]) -> str:
    """One self-contained HTML file."""
    return render_html(sweep_report(sweep, metrics))


def render_twin(sweep: Sweep, metrics: Sequence[str]) -> str:
    """What decides, as Markdown."""
    return render_markdown(sweep_report(sweep, metrics), "sweep.html", "sweep.json")


def sweep_report(sweep: Sweep, metrics: Sequence[str]) -> Report:
    """Open: the answer, load by load, which axis helps, one picture, every point by cost, the warnings."""
    notes, warnings = axis_notes(sweep), sweep_warnings(sweep)
    pictures = sweep_pictures(sweep, metrics)
    told: Block = Bullets(items=tuple(warnings)) if warnings else Prose(text="No warning was raised.")
    helps = Section(title="Which axis helps", blocks=(Bullets(items=tuple(notes)),)) if notes else None
    why = Section(title="Why", blocks=how_to_read(sweep), pictures=pictures, only_on_page=True)
    first = what_decides_first((_load_section(sweep, metrics), helps), (why,), [one.key for one in pictures])
    then = (
        Section(title=_points_title(sweep), blocks=_point_tables(sweep, metrics)),
        Section(title="Warnings", blocks=(told,)),
    )
    folded = (
        Section(title="What was held fixed", blocks=(Facts(rows=tuple(_held_fixed(sweep))),)),
        Section(title="How far to trust this", blocks=_trust(sweep)),
        _limits(sweep),
        Section(title="Reproduce", blocks=(Code(text=sweep.command), Prose(text=f"gpuyard {__version__}"))),
    )
    said, basis = answer_parts(sweep)
    return Report(
        question=sweep.question,
        answer=said,
        basis=basis,
        badges=tuple(_badges(sweep)),
        figures=tuple(_figures(sweep)),
        sections=[*first, *what_decides_first(then, folded, ())],
    )


def _badges(sweep: Sweep) -> Iterator[Cell]:
    """How many points of each kind there are."""
    rows = sweep.rows
    meeting = sum(row["meets_slo"] is True for row in rows)
    counted: tuple[tuple[int, str, Tone], ...] = (
        (len(rows), "points", "plain"),
        (meeting, "meet the SLO", "good"),
        (sum(row["meets_slo"] is False for row in rows), "miss it", "bad"),
        (sum(row["verdict"] == "UNTESTED" for row in rows), "too short to tell", "plain"),
        (sum(not can_run(row) for row in rows), "cannot run", "bad"),
    )
    for count, what, tone in counted:
        if count:
            yield Cell(text=f"{count} {what}", tone=tone)


def _figures(sweep: Sweep) -> Iterator[Figure]:
    """Of one load's winner: what it costs, and what the SLO limits; several loads have a table."""
    found = picks(sweep)
    if len(found) != 1 or found[0].winner is None or not has_slo(sweep):
        return
    index = found[0].winner
    row, metrics = sweep.rows[index], kind_of(sweep.points[index].scenario).metrics
    if row["usd_per_hour"] is not None:
        yield Figure(value=f"${_price(row)}", label="an hour", key="usd_per_hour")
    closest = row.get("slo_closest")
    scenario = sweep.points[index].scenario
    names = dict.fromkeys([str(closest), *kind_of(scenario).slo_limits(scenario)])
    for name in [name for name in names if row.get(name) is not None][:2]:
        limit = limit_of(sweep, index, name)
        beside = f"at most {format_metric(limit, metrics[name])}" if limit is not None else ""
        told = closest_words(sweep, index) if name == closest else ""
        beside += (
            f"; {told}" if " worst " in told else ""
        )  # the figure is a mean, the SLO holds for each seed
        yield Figure(value=shown(sweep, name, row), label=plain_name(name), key=name, beside=beside)


def _load_section(sweep: Sweep, metrics: Sequence[str]) -> Section | None:
    """The winner of every load, or what comes nearest; nothing where one load was asked for."""
    found = picks(sweep)
    if len(found) < 2:
        return None
    names, is_slo = _told(sweep, metrics)[:IN_TABLE], has_slo(sweep)
    header = [
        "asked",
        "choice",
        "$ an hour",
        *(["of the SLO's limit"] if is_slo else []),
        *_headed(names),
    ]
    rows, told = [], _telling_loads(sweep, found)
    for pick in told:
        best = pick.winner if pick.winner is not None else pick.nearest
        cells = [Cell(text=load_words(pick.load))]
        if best is None:
            cells += [Cell(text="none", tone="bad"), *[Cell(text="–")] * (len(header) - 2)]
        else:
            row = sweep.rows[best]
            cells += [_choice_cell(sweep, pick, best), Cell(text=_price(row))]
            cells += [_limit_cell(sweep, best)] if is_slo else []
            cells += [Cell(text=shown(sweep, name, row)) for name in names]
        rows.append(tuple(cells))
    left = len(found) - len(told)
    notes = (f"Where the answer changes; {left} more loads are in sweep.csv.",) if left else ()
    table = Table(header=tuple(header), rows=tuple(rows), notes=notes)
    return Section(title="Load by load", blocks=(table,))


def _telling_loads(sweep: Sweep, found: Sequence[Pick]) -> list[Pick]:
    """All loads, or of many those beside which the choice is another one."""
    if len(found) <= ROWS_OPEN:
        return list(found)
    words = [choice_words(sweep, pick.winner) if pick.winner is not None else "" for pick in found]
    last = len(found) - 1
    kept = [
        pick
        for at, pick in enumerate(found)
        if at in (0, last) or words[at] != words[at - 1] or words[at] != words[at + 1]
    ]
    return kept[:ROWS_OPEN]


def _choice_cell(sweep: Sweep, pick: Pick, best: int) -> Cell:
    """What wins, and what its run left open; or that nothing does."""
    word = choice_words(sweep, best)
    if pick.winner is None:
        return Cell(text="none", small=f"nearest: {word}", tone="bad")
    if sweep.rows[best]["verdict"] not in UNSETTLED:
        return Cell(text=word)
    sure = f"; surely {choice_words(sweep, pick.settled)}" if pick.settled is not None else ""
    return Cell(text=word, small=f"{verdict_words(sweep.rows[best])}{sure}")


def _headed(names: Sequence[str]) -> list[str]:
    """Plain names, and below each, small, its key in files and for ``--metric``."""
    return [f"{plain_name(name)}\n{name}" for name in names]


def _told(sweep: Sweep, metrics: Sequence[str]) -> list[str]:
    """The metrics that some point has."""
    return [name for name in metrics if any(row.get(name) is not None for row in sweep.rows)]


def _price(row: Row) -> str:
    return (
        cost_words(row).removesuffix(" an hour").removeprefix("$") if row["usd_per_hour"] is not None else "–"
    )


def _limit_cell(sweep: Sweep, index: int) -> Cell:
    row = sweep.rows[index]
    if row.get("slo_ratio") is None:
        return Cell(text="–")
    tone: Tone = "good" if row["meets_slo"] is True else "bad" if row["meets_slo"] is False else "plain"
    return Cell(text=_share(row), small=closest_words(sweep, index).partition(" (")[0], tone=tone)


IN_TABLE = 3  # metrics beside the fixed columns: as many as a page is wide


def _points_title(sweep: Sweep) -> str:
    which = "Every point" if sum(map(can_run, sweep.rows)) <= ROWS_OPEN else "The points that decide"
    return f"{which}, the cheapest first"


def _point_tables(sweep: Sweep, metrics: Sequence[str]) -> list[Block]:
    """Those that ran, with their numbers, then those that cannot, with their reasons.

    Of many points the decisive ones stand open, so that the Markdown can be pasted; a page folds the others.
    """
    names = _told(sweep, metrics)
    ran = [i for i in by_cost(sweep) if sweep.rows[i]["verdict"] != CANNOT_RUN]
    open_ones = decisive(sweep, ROWS_OPEN)
    left = len(ran) - len(open_ones)
    more = (f"The {len(open_ones)} points that decide; {left:,} more are in sweep.csv.",) if left else ()
    blocks: list[Block] = [_numbers(sweep, open_ones, names[:IN_TABLE], more)]
    if more:
        left = len(ran) - ROWS_SHOWN
        beyond = (f"{left:,} more are in sweep.csv.",) if left > 0 else ()
        every = _numbers(sweep, ran[:ROWS_SHOWN], names[:IN_TABLE], beyond)
        blocks.append(replace(every, summary="Every point"))
    if names[IN_TABLE:]:
        rest = [
            [point_words(sweep, i), *(shown(sweep, name, sweep.rows[i]) for name in names[IN_TABLE:])]
            for i in ran[:ROWS_SHOWN]
        ]
        blocks.append(
            Table(
                header=("point", *_headed(names[IN_TABLE:])),
                rows=tuple(tuple(Cell(text=text) for text in row) for row in rest),
                summary="More numbers of each point",
            )
        )
    if reasons := reasons_of(sweep):
        told = [(shared_words(sweep, found), *_why_not(sweep.rows[found[0]])) for found in reasons.values()]
        blocks += [Prose(text="These cannot run:"), text_table(("points", "why", "try"), told)]
    return blocks


def _why_not(row: Row) -> tuple[str, str]:
    return str(row["cannot_run"]), str(row.get("remedy") or "")


def _numbers(sweep: Sweep, ran: Sequence[int], names: Sequence[str], more: Sequence[str]) -> Table:
    """A row per point; without an SLO no columns about it."""
    marks, on_front = _marks(sweep), {i for pick in picks(sweep) for i in pick.front}
    is_slo = has_slo(sweep)
    header = ["point", "meets the SLO" if is_slo else "verdict", "GPUs", "$ an hour"]
    header += [*(["of the SLO's limit"] if is_slo else []), *_headed(names)]
    rows = []
    for i in ran:
        row, standing = sweep.rows[i], _standing(marks.get(i, ""), i in on_front, is_slo)
        cells = [Cell(text=point_words(sweep, i))]
        cells += [_meets_cell(row) if is_slo else Cell(text=verdict_words(row), small=missed_word(row))]
        cells += [Cell(text=str(row["num_gpus"])), Cell(text=_price(row), small=standing)]
        cells += [_limit_cell(sweep, i)] if is_slo else []
        rows.append((*cells, *(Cell(text=shown(sweep, name, row)) for name in names)))
    return Table(header=tuple(header), rows=tuple(rows), notes=tuple(more))


def _standing(mark: str, is_on_front: bool, is_slo: bool) -> str:
    best = ("cheapest" if is_slo else "best") if mark == "**" else ""
    return ", ".join(word for word in (best, "front" if is_on_front else "") if word)


def _meets_cell(row: Row) -> Cell:
    """Yes or no, or open where too few requests carry a percentile; below it the verdict on the queue."""
    met = row["meets_slo"]
    tone: Tone = "good" if met is True else "bad" if met is False else "plain"
    word = "open" if met is None else "yes" if met else "no"
    return Cell(text=word, tone=tone, small=_beside(row))


def _beside(row: Row) -> str:
    """What else decides: a queue that does not hold, a threshold of the file that is missed."""
    verdict = "" if row["verdict"] in ("STABLE", "ALL_AT_ONCE") else verdict_words(row)
    return ", ".join(word for word in (verdict, missed_word(row)) if word)


def _held_fixed(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """What the file says of every point, section by section, and the device and model where all share one."""
    by_section: dict[str, dict[str, Value]] = {}
    for path, value in sweep.settings.items():
        section, _, rest = path.partition(".")
        by_section.setdefault(section, {})[rest] = value
    for section, settings in by_section.items():
        yield section, setting_text(settings) if "" not in settings else setting_text({"": settings[""]})[2:]
    yield "swept", ", ".join(sweep.keys)


def _trust(sweep: Sweep) -> list[Block]:
    """What the runs assumed and read, and where each device's numbers come from."""
    blocks: list[Block] = []
    by_note: dict[str, list[int]] = {}
    for index, row in enumerate(sweep.rows):
        for note in str(row.get("notes") or "").splitlines():
            by_note.setdefault(note, []).append(index)
    whole = sum(row["verdict"] != CANNOT_RUN for row in sweep.rows)
    notes = [
        note if len(found) == whole else f"{len(found)} of {whole} points: {note}"
        for note, found in by_note.items()
    ]
    if notes:
        blocks += [Prose(text="What the runs assumed and read:"), Bullets(items=tuple(notes))]
    profiles = {one.scenario.hardware.name: one.scenario.hardware for one in sweep.points}
    for profile in profiles.values():
        if isinstance(profile, HardwareProfile):
            what = f"Where the numbers of {profile.name} come from"
            blocks.append(text_table(("number", "kind", "value", "source"), list(sourced(profile)), what))
    return blocks


def _limits(sweep: Sweep) -> Section | None:
    limits = kind_of(sweep.points[0].scenario).not_modelled
    if not limits:
        return None
    return Section(title="What is not modelled", blocks=(Bullets(items=tuple(limits)),))
