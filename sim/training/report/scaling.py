"""Scaling curves: rate, efficiency and exposed exchange against the number of workers, a line per variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from sim.report.blocks import Block, Prose
from sim.report.figures import Lane, Picture, Row, Trace, axis, layout, percent
from sim.training.records import ScalingPoint, TrainingResult
from sim.training.scenario import max_seq_len, tokens_per_step
from sim.training.schedule.scaling import efficient_workers

Results = Mapping[str, Sequence[TrainingResult]]

EXPLAINED = (
    "Weak scaling: every worker keeps its micro-batches, so the global batch grows with the workers. "
    "Efficiency is the rate per worker over that of the fewest workers that can run; exposed exchange is the "
    "share of a worker's step in which nothing hides it, queueing included. What the larger global batch is "
    "worth to learning is not in it. Means over the seeds."
)


def scaling_blocks(results: Results) -> list[Block]:
    """What is shown, and which jobs could not run."""
    blocks: list[Block] = [Prose(text=EXPLAINED)]
    for name, runs in results.items():
        refused = [one for one in runs[0].scaling if one.refused]
        if refused:
            sizes = ", ".join(str(one.num_workers) for one in refused)
            blocks.append(Prose(text=f"{name} cannot run with {sizes} workers: {refused[0].refused}."))
    return blocks


def scaling_pictures(results: Results, lanes: Sequence[Lane]) -> list[Picture]:
    """Three pictures; none where no variant has a curve."""
    shown = [lane for lane in lanes if results[lane.name][0].scaling]
    if not shown:
        return []
    tokens = {lane.name: _tokens(results[lane.name][0]) for lane in shown}
    unit = "tokens/s" if all(tokens.values()) else "gradients/s"

    def rate(lane: Lane, point: ScalingPoint) -> float:
        return point.gradients_per_s * (tokens[lane.name] if unit == "tokens/s" else 1)

    return [
        _picture(results, shown, ("scaling-rate", "Rate", unit), rate),
        _picture(results, shown, ("scaling-efficiency", "Efficiency", ""), lambda _, one: one.efficiency),
        _picture(
            results,
            shown,
            ("scaling-exposed", "Exposed exchange", "share of a step"),
            lambda _, one: one.exposed_comm_fraction,
        ),
    ]


def _tokens(run: TrainingResult) -> int:
    """Tokens of a gradient; 0 where nobody says."""
    scenario = run.scenario
    is_known = scenario.model is not None or scenario.training.max_seq_len is not None
    return tokens_per_step(scenario) if is_known and max_seq_len(scenario) else 0


def _picture(
    results: Results,
    shown: Sequence[Lane],
    words: tuple[str, str, str],
    value: Callable[[Lane, ScalingPoint], float],
) -> Picture:
    key, title, unit = words
    is_rate = key == "scaling-rate"
    curves = {lane.name: _curve(results[lane.name], lane, value) for lane in shown}
    sizes = sorted({size for curve in curves.values() for size in curve})
    scale = {"type": "log"} if is_rate else {"rangemode": "tozero", "tickformat": ".0%"}
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": lane.label,
            "x": list(curves[lane.name]),
            "y": list(curves[lane.name].values()),
            "line": {"color": lane.color, "dash": lane.dash, "width": 2},
            "marker": {"color": lane.color, "size": 7},
        }
        for lane in shown
    ]
    rows: list[Row] = [(size, *(curves[lane.name].get(size) for lane in shown)) for size in sizes]
    return Picture(
        key=key,
        title=f"{title} against the number of workers",
        reading=_reading(results, shown, curves, is_rate),
        traces=traces,
        layout=layout(axis("workers", type="log", tickvals=sizes), axis(unit or "of the fewest", **scale)),
        header=("workers", *(f"{lane.name} {unit}".strip() for lane in shown)),
        rows=rows,
        height_px=420,
        group="scaling",
    )


def _curve(
    runs: Sequence[TrainingResult], lane: Lane, value: Callable[[Lane, ScalingPoint], float]
) -> dict[int, float]:
    """Number of workers -> mean over the seeds, of the jobs that can run."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for point in run.scaling:
            if not point.refused:
                found.setdefault(point.num_workers, []).append(value(lane, point))
    return {size: fmean(values) for size, values in found.items()}


def _reading(
    results: Results, shown: Sequence[Lane], curves: Mapping[str, Mapping[int, float]], is_rate: bool
) -> str:
    if not is_rate:
        ends = [(lane.name, *list(curves[lane.name].items())[-1]) for lane in shown]
        return "; ".join(f"{name}: {percent(last)} with {size:,} workers" for name, size, last in ends) + "."
    said = []
    for lane in shown:
        run = results[lane.name][0]
        bound = run.scenario.scaling.min_efficiency if run.scenario.scaling else 1.0
        most = efficient_workers(run.scaling, bound)
        said.append(f"{lane.name}: at {percent(bound)} efficiency or more up to {most or 0:,} workers")
    return "; ".join(said) + "."
