"""Pictures of a sweep: a metric against the longest axis, a line per combination of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.cost.memory import memory_plan
from sim.plan.evaluate import Value
from sim.plan.shown import shown
from sim.plan.sweep import Sweep
from sim.report.figures import Lane, Picture, Row, Trace, axis, lanes, layout
from sim.scenario import Scenario

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
