"""The pictures of a sweep: cost against what matters, and each metric along its longest axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import cos, log10, radians, sin
from typing import Any

from sim.kinds.registry import kind_of
from sim.plan.answer import (
    Pick,
    can_run,
    front_metric,
    has_slo,
    is_load,
    judged_metrics,
    measure_of,
    number_in,
    picks,
)
from sim.plan.evaluate import Row as PointRow
from sim.plan.sweep import Sweep
from sim.plan.sweep_words import choice_words, load_words, plain_name, point_words, short_key
from sim.price.memory import memory_plan
from sim.report.blocks import Block, Prose
from sim.report.figures import Lane, Picture, Row, Trace, axis, lanes, layout, log_ticks, plain
from sim.results.metric import Metric, format_metric
from sim.serving.scenario import Scenario

MAX_LINES = 8  # as many as there are colours; a finer grid is read in the table
MAX_PICTURES = 4
SIDE_BY_SIDE = 4  # lines: a longer legend needs the whole width
MAX_TICKS = 12
NAME_TILT = 35  # degrees
NAME_PX = 16  # names of points closer together than this would lie over one another
PLOT_PX = (500, 300)  # how large a picture is, about
BLOCKS = "engine.num_gpu_blocks_override"
WIDE = 10.0
_MEASURES = {"usd_per_hour": "$ an hour", "num_gpus": "GPUs"}


def sweep_pictures(sweep: Sweep, metrics: Sequence[str]) -> list[Picture]:
    """Cost against what matters, then each metric that has values and varies: those of the SLO first."""
    found = _front_picture(sweep)
    pictures = [found] if found else []
    along = x_key(sweep)
    lines = _lines(sweep, along)
    for metric in dict.fromkeys([*_limits(sweep), *metrics]):
        values = {row.get(metric) for row in sweep.rows} - {None}
        if len(values) > 1 and len(pictures) < MAX_PICTURES + bool(found):
            pictures.append(_picture(sweep, along, metric, lines))
    return pictures


@lru_cache(maxsize=2)
def _limits(sweep: Sweep) -> dict[str, float]:
    """The limited times and their limits, where all points have the same: as stated, then as found."""
    stated = [kind_of(one.scenario).slo_limits(one.scenario) for one in sweep.points]
    if any(one != stated[0] for one in stated):
        return {}
    of_time = {name.partition("_")[2]: limit for name, limit in stated[0].items()}
    found = {name: of_time.get(name.partition("_")[2]) for name in judged_metrics(sweep)}
    return dict(stated[0]) | {name: limit for name, limit in found.items() if limit is not None}


def _metric(sweep: Sweep, name: str) -> Metric:
    return kind_of(sweep.points[0].scenario).metrics[name]


# --- cost against what matters ------------------------------------------------------------------


def _front_picture(sweep: Sweep) -> Picture | None:
    """A cloud per load with its Pareto front as a line; nothing where all points cost the same."""
    name = front_metric(sweep)
    shown = [i for i, row in enumerate(sweep.rows) if can_run(row) and row.get(name) is not None]
    cost = measure_of([sweep.rows[i] for i in shown])
    if len({sweep.rows[i][cost] for i in shown}) < 2:
        return None
    found = picks(sweep)[:MAX_LINES]
    traces: list[Trace] = []
    rows: list[Row] = []
    for lane, pick in zip(
        lanes([load_words(pick.load) or "all points" for pick in found]), found, strict=True
    ):
        inside = [i for i in pick.indices if i in shown]
        traces.append(_cloud(sweep, lane, inside, (cost, name)))
        ends = sorted(pick.front, key=lambda i: _value(sweep.rows[i], cost) or 0.0)
        traces.append(_front_line(sweep, lane, ends, (cost, name)))
        rows += [
            (
                lane.name,
                point_words(sweep, i),
                _value(sweep.rows[i], cost),
                _value(sweep.rows[i], name),
                str(i in pick.front),
            )
            for i in inside
        ]
    values = [float(row[3]) for row in rows if isinstance(row[3], float)]
    marks = _slo_line(sweep, name)
    axis_y = _y_axis(_metric(sweep, name), values, _limits(sweep).get(name))
    return Picture(
        key="sweep_front",
        title=f"{plain_name(name)} against cost",
        reading=_front_reading(sweep, name) + _slo_words(sweep, name),
        traces=traces,
        layout=layout(
            axis(_MEASURES[cost], rangemode="tozero"),
            axis_y,
            showlegend=len(found) > 1,
            annotations=_names(sweep, found, (cost, name), is_log=axis_y.get("type") == "log"),
            **({"shapes": marks} if marks else {}),
        ),
        header=("load", "point", cost, name, "on the front"),
        rows=rows,
        height_px=420,
    )


def _cloud(sweep: Sweep, lane: Lane, indices: Sequence[int], axes: tuple[str, str]) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": lane.label,
        "x": [_value(sweep.rows[i], axes[0]) for i in indices],
        "y": [_value(sweep.rows[i], axes[1]) for i in indices],
        "text": [plain(choice_words(sweep, i)) for i in indices],
        "hovertemplate": "%{text}: %{x:.4g}, %{y:.4g}<extra>" + lane.label + "</extra>",
        "marker": {
            "color": lane.color,
            "symbol": _symbols(sweep, indices),
            "size": 9,
            "line": {"width": 2, "color": lane.color},
        },
        "legendgroup": lane.name,
    }


def _front_line(sweep: Sweep, lane: Lane, indices: Sequence[int], axes: tuple[str, str]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [_value(sweep.rows[i], axes[0]) for i in indices],
        "y": [_value(sweep.rows[i], axes[1]) for i in indices],
        "line": {"color": lane.color, "dash": lane.dash, "width": 2, "shape": "hv"},
        "legendgroup": lane.name,
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _names(
    sweep: Sweep, found: Sequence[Pick], axes: tuple[str, str], *, is_log: bool
) -> list[dict[str, Any]]:
    """What was chosen, beside the winners, then beside the ends of each front where there is room."""
    at = {
        i: (_at(sweep, i, axes[0]), log10(_at(sweep, i, axes[1])) if is_log else _at(sweep, i, axes[1]))
        for pick in found
        for i in pick.indices
        if _value(sweep.rows[i], axes[1]) is not None
    }
    winners = [pick.winner for pick in found if pick.winner is not None]
    fronts = [sorted(pick.front, key=lambda i: at[i]) for pick in found if pick.front]
    kept: list[int] = []
    ends = [i for points in fronts for i in (points[0], points[-1])]
    for i in dict.fromkeys([*(one for one in winners if one in at), *ends]):
        if all(_px_between(at[i], at[other], list(at.values())) >= NAME_PX for other in kept):
            kept.append(i)
    return [
        {
            "text": plain(choice_words(sweep, i)),
            "x": at[i][0],
            "y": at[i][1],
            "textangle": -NAME_TILT,
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 12},
        }
        for i in sorted(kept)
    ]


def _px_between(
    one: tuple[float, float], other: tuple[float, float], every: Sequence[tuple[float, float]]
) -> float:
    """How far apart two tilted names are that begin at these points, in a picture of ``every`` point."""
    tall = max(y for _, y in every) - min(y for _, y in every) or 1.0
    across = (other[0] - one[0]) / (max(x for x, _ in every) or 1.0) * PLOT_PX[0]
    down = (one[1] - other[1]) / tall * PLOT_PX[1]
    return abs(across * sin(radians(NAME_TILT)) + down * cos(radians(NAME_TILT)))


def _at(sweep: Sweep, index: int, name: str) -> float:
    return _value(sweep.rows[index], name) or 0.0


def _front_reading(sweep: Sweep, name: str) -> str:
    """The ends of each load's front."""
    said = []
    for pick in picks(sweep)[:MAX_LINES]:
        if not pick.front:
            continue
        ends = sorted(pick.front, key=lambda i: _value(sweep.rows[i], pick.measure) or 0.0)
        parts = [
            f"{_said(sweep, name, i)} with {choice_words(sweep, i)}"
            for i in dict.fromkeys((ends[0], ends[-1]))
        ]
        said.append(f"{load_words(pick.load)}: ".removeprefix(": ") + " to ".join(parts))
    left = len(picks(sweep)) - MAX_LINES
    more = f" The table has {left} more load{'s' * (left != 1)}." if left > 0 else ""
    return f"The line is the Pareto front, from the cheapest: {'; '.join(said)}.{more}"


def _said(sweep: Sweep, name: str, index: int) -> str:
    return format_metric(_value(sweep.rows[index], name), _metric(sweep, name))


# --- along an axis ------------------------------------------------------------------------------


def x_key(sweep: Sweep) -> str:
    """The swept key with the most values; numbers before words, the first among equals."""

    def reach(key: str) -> tuple[bool, int]:
        values = {point.swept[key] for point in sweep.points}
        return all(number_in(value) is not None for value in values), len(values)

    return max(sweep.keys, key=reach)


def _lines(sweep: Sweep, along: str) -> dict[str, list[int]]:
    """Points by the values of the other keys (and the variant), as indices into the grid, along x."""
    varied = {key for key in sweep.keys if len({point.swept[key] for point in sweep.points}) > 1}
    lines: dict[str, list[int]] = {}
    for index, point in enumerate(sweep.points):
        parts = [
            _line_word(sweep, key, value)
            for key, value in point.swept.items()
            if key != along and key in varied
        ]
        name = ", ".join([*parts, *([point.variant] if sweep.has_variants else [])]) or "all points"
        lines.setdefault(name, []).append(index)

    def place(index: int) -> float:
        return number_in(sweep.points[index].swept[along]) or 0.0

    return {name: sorted(indices, key=place) for name, indices in lines.items()}


def _line_word(sweep: Sweep, key: str, value: str) -> str:
    if is_load(key, kind_of(sweep.points[0].scenario)):
        return load_words(((key, value),))
    return value if number_in(value) is None else f"{short_key(key)} {value}"


def _picture(sweep: Sweep, along: str, metric: str, every: Mapping[str, Sequence[int]]) -> Picture:
    label, places = _places(sweep, along)
    drawn = {
        name: [i for i in line if _value(sweep.rows[i], metric) is not None] for name, line in every.items()
    }
    drawn = {name: list(every[name]) for name, line in drawn.items() if line}
    lines = dict(list(drawn.items())[:MAX_LINES])
    rows: list[Row] = [
        (name, places[i], _value(sweep.rows[i], metric), str(sweep.rows[i]["meets_slo"]))
        for name, indices in lines.items()
        for i in indices
    ]
    values = [float(row[2]) for row in rows if isinstance(row[2], (int, float))]
    marks, left = _slo_line(sweep, metric), len(drawn) - len(lines)
    more = f" The table has {left} more line{'s' * (left != 1)}." if left else ""
    return Picture(
        key=f"sweep_{metric}",
        title=f"{plain_name(metric)} by {short_key(along)}",
        reading=_reading(sweep, metric) + _slo_words(sweep, metric) + more,
        traces=[
            _trace(sweep, places, metric, lane, indices)
            for lane, indices in zip(lanes(list(lines)), lines.values(), strict=True)
        ],
        layout=layout(
            _x_axis(label, places),
            _y_axis(_metric(sweep, metric), values, _limits(sweep).get(metric)),
            showlegend=len(lines) > 1,
            **({"shapes": marks} if marks else {}),
        ),
        header=("line", label, metric, "meets_slo"),
        rows=rows,
        height_px=420,
        group="sweep" if len(lines) <= SIDE_BY_SIDE else "",
    )


def _places(sweep: Sweep, along: str) -> tuple[str, list[float | str]]:
    """The x axis's name and every point's place on it; a number of blocks is shown as the memory it takes."""
    if along == BLOCKS:
        scenarios = [point.scenario for point in sweep.points]
        return "KV memory of a replica (GB)", [_kv_gb(one) for one in scenarios if isinstance(one, Scenario)]
    texts = [point.swept[along] for point in sweep.points]
    numbers = [number_in(text) for text in texts]
    return along, [text if number is None else number for text, number in zip(texts, numbers, strict=True)]


def _kv_gb(scenario: Scenario) -> float:
    plan = memory_plan(scenario.model, scenario.hardware, scenario.engine)
    return plan.kv_budget_bytes * scenario.engine.gpus_per_replica / 1e9


def _x_axis(label: str, places: Sequence[float | str]) -> dict[str, Any]:
    """Words apart, numbers by size: over more than a decade logarithmic, with a tick at each of a few."""
    numbers = sorted({place for place in places if not isinstance(place, str)})
    if not numbers or len(numbers) < len(set(places)):
        return axis(label, type="category")
    ticks: dict[str, Any] = (
        {"tickvals": numbers} if len(numbers) <= MAX_TICKS and not label.endswith("(GB)") else {}
    )
    if numbers[0] > 0 and numbers[-1] > WIDE * numbers[0]:
        return axis(label, type="log", **(ticks or {"dtick": "D2"}))
    return axis(label, **ticks)


def _y_axis(metric: Metric, values: Sequence[float], limit: float | None) -> dict[str, Any]:
    """From 0; times over more than a decade and a half logarithmic, the SLO's limit always inside."""
    ends = [*values, *([limit] if limit is not None else [])]
    title = plain_name(metric.name)
    if metric.unit == "s" and min(ends) > 0 and max(ends) > 3 * WIDE * min(ends):
        return axis(title, **log_ticks(min(ends), max(ends)))
    unit = {"usd": "$", "fraction": ""}.get(metric.unit, metric.unit)
    more = {"tickformat": ".0%"} if metric.unit == "fraction" else {}
    return axis(f"{title} ({unit})" if unit and unit not in title else title, rangemode="tozero", **more)


def _slo_line(sweep: Sweep, metric: str) -> list[dict[str, Any]]:
    """The limit, across the plot."""
    limit = _limits(sweep).get(metric)
    if limit is None:
        return []
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    return [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit, "line": line}]


def _slo_words(sweep: Sweep, metric: str) -> str:
    limit = _limits(sweep).get(metric)
    if limit is None:
        return ""
    return f" The dotted line is the SLO, at most {format_metric(limit, _metric(sweep, metric))}."


def _trace(
    sweep: Sweep, places: Sequence[float | str], metric: str, lane: Lane, indices: Sequence[int]
) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": lane.label,
        "x": [places[index] for index in indices],
        "y": [_value(sweep.rows[index], metric) for index in indices],
        "line": {"color": lane.color, "dash": lane.dash, "width": 2},
        "marker": {
            "color": lane.color,
            "symbol": _symbols(sweep, indices),
            "size": 9,
            "line": {"width": 2, "color": lane.color},
        },
    }


def _symbols(sweep: Sweep, indices: Sequence[int]) -> list[str]:
    return ["circle-open" if sweep.rows[index]["meets_slo"] is False else "circle" for index in indices]


def _reading(sweep: Sweep, metric: str) -> str:
    """The lowest and the highest point."""
    known = [(value, i) for i, row in enumerate(sweep.rows) if (value := _value(row, metric)) is not None]
    ends = (("Lowest", min(known)), ("highest", max(known)))
    said = (
        f"{word}: {format_metric(value, _metric(sweep, metric))} ({point_words(sweep, i)})"
        for word, (value, i) in ends
    )
    return "; ".join(said) + "."


def _value(row: PointRow, name: str) -> float | None:
    value = row.get(name)
    return None if value is None or isinstance(value, str) else float(value)


def how_to_read(sweep: Sweep) -> tuple[Block, ...]:
    """What the numbers are means of, and what marks and gaps mean."""
    seeds = len(sweep.points[0].scenario.seeds)
    draws = any(kind_of(one.scenario).draws(one.scenario) for one in sweep.points)
    means = (
        [f"Means over {seeds} seeds; the worst one is held against the SLO's limit."]
        if seeds > 1
        else ["One seed."]
        if draws
        else []
    )
    if has_slo(sweep):
        means.append("Full marks meet the SLO with every seed, hollow ones do not.")
    means.append("A gap is a point that cannot run, or a percentile that too few requests could carry.")
    return (Prose(text=" ".join(means)),)
