"""A sweep as a table, as files and as pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from sim.kinds.registry import kind_of
from sim.plan.evaluate import Value, shown, warnings_of
from sim.plan.sweep import Sweep, cheapest_meeting, table
from sim.price.memory import memory_plan
from sim.report.figures import Lane, Picture, Row, Trace, axis, lanes, layout
from sim.report.html import page, pictures_html, table_html
from sim.results.comparison import one_seed
from sim.serving.scenario import Scenario
from sim.version import __version__

MAX_LINES = 8  # as many as there are colours; a finer grid is read in the table


MAX_PICTURES = 4


BLOCKS = "engine.num_gpu_blocks_override"


WIDE = 10.0


def sweep_pictures(sweep: Sweep, metrics: Sequence[str]) -> list[Picture]:
    """One picture per metric that has values and varies, in the order of ``metrics``."""
    along = x_key(sweep)
    lines = _lines(sweep, along)
    pictures: list[Picture] = []
    for metric in metrics:
        values = {row[metric] for row in sweep.rows} - {None}
        if len(values) > 1 and len(pictures) < MAX_PICTURES:
            pictures.append(_picture(sweep, along, metric, lines))
    return pictures


def x_key(sweep: Sweep) -> str:
    """The swept key with the most values; numbers before words, the first among equals."""

    def reach(key: str) -> tuple[bool, int]:
        values = {point.swept[key] for point in sweep.points}
        return all(_number(value) is not None for value in values), len(values)

    return max(sweep.keys, key=reach)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _lines(sweep: Sweep, along: str) -> dict[str, list[int]]:
    """Points by the values of the other keys (and the variant), as indices into the grid."""
    several = len({point.variant for point in sweep.points}) > 1
    lines: dict[str, list[int]] = {}
    for index, point in enumerate(sweep.points):
        parts = [f"{key} {value}" for key, value in point.swept.items() if key != along]
        name = ", ".join([*parts, *([point.variant] if several else [])]) or "all points"
        lines.setdefault(name, []).append(index)
    return dict(list(lines.items())[:MAX_LINES])


def _picture(sweep: Sweep, along: str, metric: str, lines: dict[str, list[int]]) -> Picture:
    label, places = _places(sweep, along)
    rows: list[Row] = [
        (name, places[i], _plain(sweep.rows[i][metric]), str(sweep.rows[i]["meets_slo"]))
        for name, indices in lines.items()
        for i in indices
    ]
    return Picture(
        key=f"sweep_{metric}",
        title=metric,
        reading=_reading(sweep, metric),
        traces=[
            _trace(sweep, places, metric, lane, indices)
            for lane, indices in zip(lanes(list(lines)), lines.values(), strict=True)
        ],
        layout=layout(_x_axis(label, places), axis(metric, rangemode="tozero"), showlegend=len(lines) > 1),
        header=("line", label, metric, "meets_slo"),
        rows=rows,
        height_px=420,
        group="sweep",
    )


def _places(sweep: Sweep, along: str) -> tuple[str, list[float | str]]:
    """The x axis's name and every point's place on it; a number of blocks is shown as the memory it takes."""
    if along == BLOCKS:
        scenarios = [point.scenario for point in sweep.points]
        return "KV memory of a replica (GB)", [_kv_gb(one) for one in scenarios if isinstance(one, Scenario)]
    texts = [point.swept[along] for point in sweep.points]
    numbers = [_number(text) for text in texts]
    return along, [text if number is None else number for text, number in zip(texts, numbers, strict=True)]


def _kv_gb(scenario: Scenario) -> float:
    plan = memory_plan(scenario.model, scenario.hardware, scenario.engine)
    return plan.kv_budget_bytes * scenario.engine.gpus_per_replica / 1e9


def _x_axis(label: str, places: Sequence[float | str]) -> dict[str, Any]:
    """Words apart, numbers by size; memory over more than a decade on a logarithmic scale."""
    numbers = [place for place in places if not isinstance(place, str)]
    if len(numbers) < len(places):
        return axis(label, type="category")
    if label.endswith("(GB)") and max(numbers) > WIDE * min(numbers):
        return axis(label, type="log", dtick="D2")
    return axis(label)


def _trace(
    sweep: Sweep, places: Sequence[float | str], metric: str, lane: Lane, indices: Sequence[int]
) -> Trace:
    symbols = ["circle-open" if sweep.rows[index]["meets_slo"] is False else "circle" for index in indices]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": lane.label,
        "x": [places[index] for index in indices],
        "y": [_plain(sweep.rows[index][metric]) for index in indices],
        "line": {"color": lane.color, "dash": lane.dash, "width": 2},
        "marker": {"color": lane.color, "symbol": symbols, "size": 9, "line": {"width": 2}},
    }


def _reading(sweep: Sweep, metric: str) -> str:
    """The lowest and the highest point."""
    known = [
        (float(row[metric] or 0), point)
        for point, row in zip(sweep.points, sweep.rows, strict=True)
        if row[metric] is not None
    ]
    ends = (
        ("Lowest", min(known, key=lambda pair: pair[0])),
        ("highest", max(known, key=lambda pair: pair[0])),
    )
    several = len({point.variant for point in sweep.points}) > 1
    return (
        "; ".join(
            f"{word}: {shown(metric, value)} at "
            + ", ".join(f"{key} = {text}" for key, text in point.swept.items())
            + (f" ({point.variant})" if several else "")
            for word, (value, point) in ends
        )
        + "."
    )


def _plain(value: Value) -> float | str | None:
    return value if value is None or isinstance(value, str) else float(value)


def render_table(sweep: Sweep, metrics: Sequence[str]) -> str:
    """Aligned columns; a point that meets its SLO is marked with *, the cheapest of them with **.

    A column that says the same in every row is left out here; the CSV has it.
    """
    rows = table(sweep, metrics)
    cheapest = cheapest_meeting(sweep.rows)
    names = [name for name in rows[0] if name in sweep.keys or len({row[name] for row in rows}) > 1]
    lines = [["", *(_short(name, names) for name in names)]]
    for index, row in enumerate(rows):
        mark = "**" if index == cheapest else "*" if row["meets_slo"] is True else ""
        lines.append([mark, *(shown(name, row[name]) for name in names)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _short(name: str, names: Sequence[str]) -> str:
    """The last word of a key path, or as many as keep it apart from the other columns."""
    words = name.split(".")
    for count in range(1, len(words)):
        short = ".".join(words[-count:])
        if not any(other != name and other.endswith(short) for other in names):
            return short
    return name


def render_answer(sweep: Sweep) -> str:
    """One line: how many points meet the SLO, and the cheapest of them."""
    if all(row["meets_slo"] is None for row in sweep.rows):
        return "The scenario states no SLO, so no point is marked."
    num_meeting = sum(row["meets_slo"] is True for row in sweep.rows)
    cheapest, host = cheapest_meeting(sweep.rows), _host_time(sweep)
    if cheapest is None:
        return f"None of {len(sweep.rows)} points meets the SLO.{host}"
    row = sweep.rows[cheapest]
    price = row["usd_per_hour"]
    cost = f"{row['num_gpus']} GPU" + ("s" if row["num_gpus"] != 1 else "")
    cost += f", {float(price):.2f} USD/h" if price is not None else ", price unknown"
    said = f"{num_meeting} of {len(sweep.rows)} points meet the SLO; the cheapest: "
    return f"{said}{_setting(sweep, cheapest)} ({cost}).{host}"


def _host_time(sweep: Sweep) -> str:
    """Said with the answer, because it decides how many GPUs are enough: no point has any host time."""
    engines = [one.scenario.engine for one in sweep.points if isinstance(one.scenario, Scenario)]
    if not engines or not all(one.overheads.are_zero and one.service_time is None for one in engines):
        return ""
    return (
        " Without host time: engine.overheads are 0, and a real engine's scheduler, launches and server take "
        "some of every step (engine.profile, gpuyard list engines)."
    )


def sweep_warnings(sweep: Sweep) -> list[str]:
    """What the points' files and runs are warned of: one line a kind, with how many points it concerns."""
    files = dict.fromkeys(str(caution) for point in sweep.points for caution in point.warnings)
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for index, row in enumerate(sweep.rows):
        for kind, text in warnings_of(row):
            by_kind.setdefault(kind, []).append((index, text))
    lines = [*files, *(_warning_line(sweep, found) for found in by_kind.values())]
    scenario = sweep.points[0].scenario
    if len(scenario.seeds) == 1 and any(kind_of(one.scenario).draws(one.scenario) for one in sweep.points):
        lines.append(str(one_seed()))
    return lines


def _warning_line(sweep: Sweep, found: Sequence[tuple[int, str]]) -> str:
    """A warning of one kind; where points word it by their own numbers, in the words of the first."""
    points = dict.fromkeys(index for index, _ in found)
    texts = list(dict.fromkeys(text for _, text in found))
    whole = len(sweep.points)
    who = "every point" if len(points) == whole else f"{len(points)} of {whole} points"
    first = _setting(sweep, found[0][0])
    if len(points) == 1:
        who = first
    elif len(texts) > 1:
        who += f", first at {first}"
    return f"{who}: {texts[0]}"


def _setting(sweep: Sweep, index: int) -> str:
    """Which point: what was set, and the variant where there are several."""
    point = sweep.points[index]
    several = len({one.variant for one in sweep.points}) > 1
    said = ", ".join(f"{key} = {value}" for key, value in point.swept.items())
    return f"{said} ({point.variant})" if several else said


def render_json(sweep: Sweep) -> str:
    """Every metric of every point."""
    cheapest = cheapest_meeting(sweep.rows)
    content = {
        "question": sweep.question,
        "command": sweep.command,
        "gpuyard": __version__,
        "over": list(sweep.keys),
        "warnings": sweep_warnings(sweep),
        "points": [
            {
                "swept": dict(point.swept),
                "variant": point.variant,
                "seeds": list(point.scenario.seeds),
                **row,
                "warnings": [{"kind": kind, "text": text} for kind, text in warnings_of(row)],
            }
            for point, row in zip(sweep.points, sweep.rows, strict=True)
        ],
        "cheapest_meeting_slo": cheapest,
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _warnings_html(sweep: Sweep) -> str:
    warnings = sweep_warnings(sweep)
    if not warnings:
        return "<h2>How far to trust this</h2><p>No warning was raised.</p>"
    items = "".join(f"<li>{html.escape(one)}</li>" for one in warnings)
    return f"<h2>How far to trust this</h2><ul>{items}</ul>"


def render_page(sweep: Sweep, metrics: Sequence[str]) -> str:
    """One self-contained HTML file: the answer, a picture per metric, the table, the command."""
    rows = table(sweep, metrics)
    cells = [[shown(name, value) for name, value in row.items()] for row in rows]
    pictures = sweep_pictures(sweep, metrics)
    seeds = len(sweep.points[0].scenario.seeds)
    body = "\n".join(
        [
            f"<h1>{html.escape(sweep.question)}</h1>",
            f'<section class="answer"><p>{html.escape(render_answer(sweep))}</p></section>',
            f"<p>Means over {seeds} {'seeds' if seeds > 1 else 'seed'}. Full marks meet the SLO with every "
            "seed, hollow ones do not; a gap is a percentile that too few requests could carry.</p>",
            pictures_html(pictures),
            _warnings_html(sweep),
            f"<h2>Every point</h2>{table_html(tuple(rows[0]), cells)}",
            f"<h2>Again</h2><pre>{html.escape(sweep.command)}</pre>"
            f'<p class="notes">gpuyard {__version__}</p>',
        ]
    )
    return page(title=f"Sweep: {sweep.question}", body=body, pictures=pictures)
