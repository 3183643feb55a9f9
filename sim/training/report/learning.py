"""What a schedule does to convergence: hardware efficiency, statistical efficiency, their product, apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import Float64
from sim.report.blocks import Block, Prose, Section, text_table
from sim.report.figures import (
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    digits,
    lanes,
    layout,
    round_ticks,
    seconds,
    seconds_axis,
)
from sim.training.learning.problems import largest_stable_rate
from sim.training.learning.sgd import MAX_POINTS, LearningCurve, problem_of
from sim.training.metrics import NOT_ABOUT_LARGE_MODELS
from sim.training.records import TrainingResult
from sim.training.sync import SYNC

if TYPE_CHECKING:
    from sim.results.answer import Answer
    from sim.results.comparison import Cell, Comparison
    from sim.training.learning.sgd import LearningConfig
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario


HEADER = (
    "variant",
    "learning rate",
    "mean staleness",
    "updates a second",
    "updates to target",
    "time to target",
    "gradients to target",
    "final loss",
)


def learning_section(answer: Answer[TrainingScenario, TrainingResult]) -> Section | None:
    """The efficiencies as a table and a picture, the loss curves; None where no run learns."""
    results = answer.results
    runs: Runs = {name: found for name, found in results.items() if found[0].learning is not None}
    if not runs:
        return None
    shown = [lane for lane in lanes(answer.comparison.variants) if lane.name in runs]
    pictures = [*loss_pictures(runs, shown), efficiency_picture(runs, shown)]
    rows = [
        _row(answer.comparison, name, learning)
        for name, found in runs.items()
        if (learning := found[0].scenario.learning) is not None
    ]
    return Section(
        title="What the schedule does to convergence",
        blocks=(
            Prose(text=_what(runs)),
            text_table(HEADER, rows),
            *_stability(answer.comparison, runs),
            Prose(text=NOT_ABOUT_LARGE_MODELS),
        ),
        pictures=[one for one in pictures if one is not None],
    )


def _what(runs: Runs) -> str:
    learnings = [found[0].scenario.learning for found in runs.values()]
    problems = {_problem(one) for one in learnings if one is not None}
    targets = {one.target_loss for one in learnings if one is not None and one.target_loss is not None}
    is_local = any(SYNC[found[0].scenario.sync.scheme].averages_weights for found in runs.values())
    local = " Local SGD: a worker's step is an update, and the loss is looked at after each average."
    goal = f" to a loss of {' or '.join(f'{one:g}' for one in sorted(targets))}" if targets else ""
    return (
        f"Real SGD{goal}, every gradient computed on the weights that its worker had read, applied when the "
        f"simulated update came: {'; '.join(sorted(problems))}. The k-th mini-batch of a worker is the same "
        "in every variant. Updates to target / updates a second until then = time to target: what the "
        f"hardware does and what the statistics ask for stay apart. The loss is looked at {MAX_POINTS} times "
        f"a run, and update by update where it has just passed the target.{local if is_local else ''} "
        "Means over the seeds."
    )


def _problem(learning: LearningConfig) -> str:
    problem = problem_of(learning)
    start = digits(problem.loss(problem.start()))
    return f"{learning.problem} from a loss of {start}, {learning.batch_size} examples a gradient"


def _row(comparison: Comparison, name: str, learning: LearningConfig) -> tuple[str, ...]:
    cells = comparison.cells[name]
    updates, time_s = cells["updates_to_target"].mean, cells["time_to_target_s"].mean
    missing = _missing(cells["time_to_target_s"], learning)
    aware = " / staleness" if learning.staleness_aware else ""
    return (
        name,
        f"{learning.learning_rate:g}{aware}",
        _number(cells, "staleness_steps"),
        # The ratio of the means, so that the three columns multiply.
        digits(updates / time_s) if updates and time_s else _number(cells, "updates_per_s"),
        digits(updates, 4) if updates else missing,
        seconds(time_s) if time_s else missing,
        _number(cells, "gradients_to_target") if time_s else missing,
        _number(cells, "final_loss"),
    )


def _stability(comparison: Comparison, runs: Runs) -> list[Block]:
    """For the quadratic: each variant's rate against the exact bound of a fixed delay."""
    rows = []
    for name, found in runs.items():
        learning, staleness = found[0].scenario.learning, comparison.cells[name]["staleness_steps"].mean
        steepest = None if learning is None else problem_of(learning).largest_curvature
        if learning is None or staleness is None or steepest is None:
            continue
        delay = round(staleness)
        bound = digits(largest_stable_rate(delay))
        rows.append((name, digits(learning.learning_rate * steepest), str(delay), bound))
    if not rows:
        return []
    told = (
        "Of the quadratic it is known exactly: with every gradient τ updates late it converges for "
        "η·h < 2·sin(π / (2(2τ + 1))), h its largest curvature. Beside it the rate given; τ is the mean "
        "staleness, rounded. Staleness that varies has no such bound; a staleness-aware rate divides η."
    )
    return [Prose(text=told), text_table(("variant", "η·h", "τ", "bound of η·h"), rows)]


def _number(cells: Mapping[str, Cell], name: str) -> str:
    mean = cells[name].mean
    return "–" if mean is None else digits(mean)


def _missing(cell: Cell, learning: LearningConfig) -> str:
    if learning.target_loss is None:
        return "no target"
    reached: Sequence[float] = [value for value in cell.values if value is not None]
    return f"reached by {len(reached)} of {len(cell.values)} seeds"


# Loss against simulated time and against updates, and time to target as a product of two efficiencies.

Runs = Mapping[str, Sequence[TrainingResult]]
NUM_POINTS = 160
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
SKETCHED = 6


def loss_pictures(runs: Runs, lanes: Sequence[Lane]) -> list[Picture]:
    """The same curves against seconds and against updates, the mean over the seeds."""
    return [_losses(runs, lanes, "times_s"), _losses(runs, lanes, "updates")]


def _losses(runs: Runs, lanes: Sequence[Lane], against: str) -> Picture:
    curves = {lane.name: mean_curve(_curves(runs[lane.name]), against) for lane in lanes}
    is_time = against == "times_s"
    unit = "seconds" if is_time else "updates"
    ends = [float(x[-1]) for x, _ in curves.values()]
    # Asynchronous schemes make many more updates: side by side only on a logarithmic axis.
    is_log = not is_time and max(ends) > 4 * min(ends)
    starts = [float(x[x > 0][0]) for x, _ in curves.values() if (x > 0).any()]
    across = axis("updates", **(round_ticks(min(starts), max(ends)) if is_log else {"rangemode": "tozero"}))
    if is_time:
        across = seconds_axis("simulated time", max(ends))
    rows: list[Row] = [
        (name, float(x), float(y)) for name, found in curves.items() for x, y in zip(*found, strict=True)
    ]
    return Picture(
        key=f"loss-{unit}",
        title=f"Loss against {'time' if is_time else 'updates'}",
        reading=_reading(runs, lanes, is_time=is_time),
        traces=[_trace(lane, *curves[lane.name], unit=unit) for lane in lanes],
        layout=layout(across, _loss_axis(curves)) | _targets(runs),
        header=("variant", "time_s" if is_time else "updates", "loss"),
        rows=rows,
        sketch=_sketch(curves, "s" if is_time else "updates"),
        height_px=380,
        group="loss",
    )


def _curves(runs: Sequence[TrainingResult]) -> list[LearningCurve]:
    return [run.learning.curve for run in runs if run.learning is not None]


def mean_curve(curves: Sequence[LearningCurve], against: str) -> tuple[Float64, Float64]:
    """The seeds' curves on common abscissae, as far as the shortest goes, averaged.

    The abscissae are half evenly spread, half by powers, so that the first updates show on either axis.
    """
    last = min(float(getattr(curve, against)[-1]) for curve in curves)
    first = (
        max(float(getattr(curve, against)[1]) for curve in curves if len(curve.updates) > 1) if last else 0
    )
    if not last:
        return np.zeros(1), np.array([float(np.mean([curve.losses[0] for curve in curves]))])
    even = np.linspace(0, last, NUM_POINTS // 2)
    grown = np.geomspace(min(first, last), last, NUM_POINTS // 2)
    x = np.unique(np.concatenate([even, grown]))
    losses = [np.interp(x, getattr(curve, against), curve.losses) for curve in curves]
    return x, np.mean(losses, axis=0)


def _trace(lane: Lane, x: Float64, y: Float64, *, unit: str) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": lane.label,
        "x": [float(f"{value:.6g}") for value in x],
        "y": [float(f"{value:.5g}") for value in y],
        "line": {"color": lane.color, "dash": lane.dash, "width": 2.5},
        "hovertemplate": f"%{{y:.4g}} after %{{x:.4g}} {unit}<extra>{lane.label}</extra>",
    }


def _loss_axis(curves: Mapping[str, tuple[Float64, Float64]]) -> dict[str, object]:
    """Logarithmic where the loss falls far; what diverges leaves the picture at twice the start."""
    low = min(float(y.min()) for _, y in curves.values())
    start = max(float(y[0]) for _, y in curves.values())
    top = min(2 * start, 1.05 * max(float(y.max()) for _, y in curves.values()))
    if low > 0 and start > 5 * low:
        shown = [float(np.log10(0.9 * low)), float(np.log10(1.05 * top))]
        return axis("loss", **round_ticks(0.9 * low, 1.05 * top), range=shown)
    return axis("loss", range=[max(0.0, low - 0.1 * (top - low)), top])


def _targets(runs: Runs) -> dict[str, object]:
    """A dotted line at each target."""
    learnings = [found[0].scenario.learning for found in runs.values()]
    targets = {one.target_loss for one in learnings if one is not None and one.target_loss is not None}
    line = {"color": "@limit", "width": 1.5, "dash": "dot"}
    whole = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "line": line}
    return {"shapes": [whole | {"y0": target, "y1": target} for target in sorted(targets)]}


def _reading(runs: Runs, lanes: Sequence[Lane], *, is_time: bool) -> str:
    parts = []
    for lane in lanes:
        found = [run.learning for run in runs[lane.name] if run.learning is not None]
        times = [one.time_to_target_s for one in found if one.time_to_target_s is not None]
        updates = [one.updates_to_target for one in found if one.updates_to_target is not None]
        if len(times) == len(found):
            mean = seconds(float(np.mean(times))) if is_time else f"{digits(float(np.mean(updates)))} updates"
            parts.append(f"{lane.name} reaches the target after {mean}")
        else:
            parts.append(f"{lane.name} ends at {digits(float(np.mean([c.curve.losses[-1] for c in found])))}")
    dotted = " The dotted line is the target." if any(_targets(runs).values()) else ""
    return f"Mean over the seeds: {'; '.join(parts)}.{dotted}"


def _sketch(curves: Mapping[str, tuple[Float64, Float64]], unit: str) -> str:
    """The loss of each variant at a few points of its own run."""
    width = max(map(len, curves))
    lines = []
    for name, (x, y) in curves.items():
        at = np.linspace(0, len(x) - 1, min(SKETCHED, len(x))).astype(int)
        told = "  ".join(f"{digits(float(y[i]))} at {digits(float(x[i]))}" for i in at)
        lines.append(f"{name:{width}}  {told} {unit}")
    return "\n".join(lines)


def efficiency_picture(runs: Runs, lanes: Sequence[Lane]) -> Picture | None:
    """A point per variant: seconds per update by updates to target, lines of equal time between them."""
    points: dict[str, tuple[float, float]] = {}
    for lane in lanes:
        found = [run.learning for run in runs[lane.name] if run.learning is not None]
        times = [one.time_to_target_s for one in found if one.time_to_target_s]
        updates = [one.updates_to_target for one in found if one.updates_to_target]
        if found and len(times) == len(updates) == len(found):
            points[lane.name] = (sum(times) / sum(updates), sum(updates) / len(updates))
    if len(points) < 2:
        return None
    chosen = [lane for lane in lanes if lane.name in points]
    named = ", ".join(f"{name} {seconds(x)} x {digits(y)}" for name, (x, y) in points.items())
    return Picture(
        key="efficiency",
        title="Time to target = seconds per update x updates to target",
        reading=f"{named}. Every grey line is one time to target; towards the lower left it is shorter.",
        traces=[*_equal_times(list(points.values())), *(_point(lane, points[lane.name]) for lane in chosen)],
        layout=layout(
            axis("s per update (hardware efficiency)", **_log_range([x for x, _ in points.values()])),
            axis("updates to target (statistical efficiency)", **_log_range([y for _, y in points.values()])),
        ),
        header=("variant", "seconds_per_update", "updates_to_target", "time_to_target_s"),
        rows=[(name, x, y, x * y) for name, (x, y) in points.items()],
        sketch="\n".join(
            f"{name:20} {seconds(x):>9} x {digits(y):>7} = {seconds(x * y):>8}"
            for name, (x, y) in points.items()
        ),
        height_px=400,
    )


def _point(lane: Lane, point: tuple[float, float]) -> Trace:
    x, y = point
    return {
        "type": "scatter",
        "mode": "markers",
        "name": lane.label,
        "x": [x],
        "y": [y],
        "marker": {"color": lane.color, "size": 13, "symbol": SYMBOLS[lane.index % len(SYMBOLS)]},
        "hovertemplate": f"{seconds(x)} x {digits(y)} = {seconds(x * y)}<extra>{lane.label}</extra>",
    }


def _log_range(values: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis with a margin of a factor of two."""
    low, high = min(values) / 2, max(values) * 2
    return round_ticks(low, high) | {"range": [float(np.log10(low)), float(np.log10(high))]}


def _equal_times(points: Sequence[tuple[float, float]]) -> list[Trace]:
    """Lines on which seconds per update x updates is the same, each twice the last, with its time."""
    products = [x * y for x, y in points]
    low, high = min(x for x, _ in points) / 2, max(x for x, _ in points) * 2
    bottom, top = min(y for _, y in points) / 2, max(y for _, y in points) * 2
    least = 2.0 ** np.floor(np.log2(min(products) / 2))
    traces: list[Trace] = []
    while least <= 2 * max(products):
        left, right = max(low, least / top), min(high, least / bottom)
        if left < right:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines+text",
                    "x": [left, right],
                    "y": [least / left, least / right],
                    "text": ["", seconds(least)],
                    "textposition": "top left",
                    "textfont": {"color": "@muted", "size": 11},
                    "line": {"color": "@grid", "width": 1},
                    "hoverinfo": "skip",
                    "showlegend": False,
                }
            )
        least *= 2
    return traces
