"""The report of a training scenario, with its scaling curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sim.elementary import log
from sim.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Prose,
    Report,
    Section,
    text_table,
    what_decides_first,
)
from sim.report.decision import decision_section, report_with, warning_section
from sim.report.figures import (
    DASHES,
    Lane,
    Picture,
    Row,
    Trace,
    axis,
    bars_layout,
    digits,
    lanes,
    layout,
    percent,
    plain,
    stacked_bars,
)
from sim.report.terminal import run_notes
from sim.training.records import ScalingPoint, TrainingResult
from sim.training.report.learning import learning_section
from sim.training.report.memory import EXPLAINED, memory_pictures
from sim.training.report.ring import link_pictures, ring_picture
from sim.training.report.time import blame, is_stopped, lost_ps, split_picture, timeline_pictures
from sim.training.scenario import max_seq_len, tokens_per_step
from sim.training.schedule.failures import checkpoint_interval_s
from sim.training.schedule.scaling import efficient_workers
from sim.units import format_gb, format_s
from sim.version import __version__

if TYPE_CHECKING:
    from sim.results.answer import Answer
    from sim.training.scenario import TrainingScenario


Results = Mapping[str, Sequence[TrainingResult]]


SCALING_EXPLAINED = (
    "Weak scaling: every worker keeps its micro-batches, so the global batch grows with the workers. "
    "Efficiency is the rate per worker over that of the fewest workers that can run; exposed exchange is the "
    "share of a worker's step in which nothing hides it, queueing included. What the larger global batch is "
    "worth to learning is not in it. Means over the seeds."
)


def scaling_blocks(results: Results) -> list[Block]:
    """What is shown, and which jobs could not run."""
    blocks: list[Block] = [Prose(text=SCALING_EXPLAINED)]
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
    """Tokens of a gradient; 0 where they are not known."""
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


if TYPE_CHECKING:
    Runs = Mapping[str, Sequence[TrainingResult]]


NOT_MODELLED = (
    "The network beyond its links: switches, congestion, other jobs.",
    "Servers' arithmetic and memory (it hides behind their NICs), and gradients cut into interleaved pieces.",
    "Gradients copied into and out of buckets, parameters without a gradient, dynamic graphs.",
    "A worker's variation inside one step: its factor stretches all its layers alike.",
    "Convergence of the scenario's own model: nobody can simulate it; see what a run says about staleness.",
)


def build_report(answer: Answer[TrainingScenario, TrainingResult]) -> Report:
    """Question, decision table, where the time goes, who is to blame, limits, how to reproduce."""
    runs = answer.results
    shown = lanes(answer.comparison.variants)
    pictures = [
        lost_picture(runs, shown),
        split_picture(runs, shown),
        *timeline_pictures(runs, shown),
        ring_picture(runs, shown),
        *link_pictures(runs, shown),
    ]
    sections = what_decides_first(
        (decision_section(answer), warning_section(answer.comparison)),
        (
            _question(answer),
            learning_section(answer),
            Section(title="Why", pictures=[one for one in pictures if one is not None]),
            *_scaling(runs, shown),
            *_memory(runs, shown),
            Section(title="Who is to blame", blocks=blame(answer), only_on_page=True),
            _trust(answer),
            Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
            Section(title="Reproduce", blocks=_reproduce(answer)),
        ),
        ("loss-seconds", "scaling-rate", *(("lost-time",) if decides_by_loss(runs) else ()), "step-split"),
    )
    return report_with(answer, sections)


LOST_INKS = {"checkpoints": "v4", "work done again": "v1", "restarts": "v7"}
FEWEST_INTERVALS = 3
LEAST_LOSS = 0.01  # of the time


def _shares_of_time(runs: Sequence[TrainingResult]) -> dict[str, float]:
    """The parts of a job's time, useful and lost, mean over the seeds."""
    found: dict[str, float] = {"useful": 1.0, **dict.fromkeys(LOST_INKS, 0.0)}
    for run in runs:
        workers = 1 if is_stopped(run) else len(run.outcome.slowdown_by_worker)
        whole = float(run.outcome.update_ps[-1]) * workers * len(runs) or 1.0
        for part, lost in lost_ps(run).items():
            found[part] += lost / whole
            found["useful"] -= lost / whole
    return found


def decides_by_loss(results: Mapping[str, Sequence[TrainingResult]]) -> bool:
    """Whether variants differ in what failures and checkpoints take: then a picture must show that."""
    useful = [_shares_of_time(runs)["useful"] for runs in results.values()]
    return max(useful) - min(useful) >= LEAST_LOSS


def lost_picture(results: Mapping[str, Sequence[TrainingResult]], lanes: Sequence[Lane]) -> Picture | None:
    """The job's time, useful and lost: against the time between checkpoints where three were tried."""
    if all(runs[0].scenario.failures is None for runs in results.values()):
        return None
    shares = {lane.name: _shares_of_time(results[lane.name]) for lane in lanes}
    best = max(shares, key=lambda name: shares[name]["useful"])
    intervals = {lane.name: _interval_s(results[lane.name][0]) for lane in lanes}
    tried = {name: interval for name, interval in intervals.items() if interval is not None}
    is_line = len(tried) == len(lanes) and len(set(tried.values())) >= FEWEST_INTERVALS
    traces, drawn = _by_interval(shares, tried, best) if is_line else _loss_bars(shares, lanes)
    at = f", with {format_s(tried[best])} between checkpoints" if best in tried else ""
    rest = "; ".join(f"{name}: {percent(1 - parts['useful'])} lost" for name, parts in shares.items())
    return Picture(
        key="lost-time",
        title="The job's time: useful, and lost to failures and checkpoints",
        reading=f"{best} has the most useful time, {percent(shares[best]['useful'])}{at}. {rest}.",
        traces=traces,
        layout=drawn,
        header=("variant", "s between checkpoints", *shares[best]),
        rows=[(name, intervals[name], *parts.values()) for name, parts in shares.items()],
        height_px=400 if is_line else 170 + 52 * len(lanes),
    )


def _interval_s(run: TrainingResult) -> float | None:
    failures = run.scenario.failures
    if failures is None or not is_stopped(run):
        return None
    return checkpoint_interval_s(failures, run.scenario.training.num_workers)


def _by_interval(
    shares: Mapping[str, Mapping[str, float]], intervals: Mapping[str, float], best: str
) -> tuple[list[Trace], dict[str, Any]]:
    """A line per part against the interval, and a dotted one where the useful time is largest."""
    order = sorted(intervals, key=lambda name: intervals[name])
    xs = [intervals[name] for name in order]
    inks = {"useful": "v0", **LOST_INKS}
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": part,
            "x": xs,
            "y": [shares[name][part] for name in order],
            "text": [plain(name) for name in order],
            "hovertemplate": f"%{{text}}: %{{y:.1%}} {part}<extra></extra>",
            "line": {"color": f"@{ink}", "dash": DASHES[index], "width": 3 if part == "useful" else 2},
            "marker": {"color": f"@{ink}", "size": 8},
        }
        for index, (part, ink) in enumerate(inks.items())
        if any(shares[name][part] for name in order)
    ]
    at = log(intervals[best]) / log(10)  # where a note stands on a logarithmic axis
    mark = {
        "type": "line",
        "xref": "x",
        "yref": "paper",
        "x0": intervals[best],
        "x1": intervals[best],
        "y0": 0,
        "y1": 1,
    }
    dotted = {**mark, "line": {"color": "@limit", "width": 1.5, "dash": "dot"}}
    said = {
        "x": at,
        "y": 0.5,
        "yref": "paper",
        "xanchor": "left",
        "showarrow": False,
        "text": f" most useful: {plain(best)}",
        "font": {"color": "@limit", "size": 12},
    }
    ticks = {"tickvals": xs, "ticktext": [format_s(value) for value in xs]}
    across = axis("between checkpoints", type="log", **ticks)
    up = axis("share of the job's time", rangemode="tozero", tickformat=".0%")
    return traces, layout(across, up, shapes=[dotted], annotations=[said])


def _loss_bars(
    shares: Mapping[str, Mapping[str, float]], lanes: Sequence[Lane]
) -> tuple[list[Trace], dict[str, Any]]:
    inks = {"useful": "v0", **LOST_INKS}
    parts = {part: (ink, [shares[lane.name][part] for lane in lanes]) for part, ink in inks.items()}
    drawn = bars_layout(axis("share of the job's time", tickformat=".0%"))
    return stacked_bars(parts, [lane.label for lane in lanes], ""), drawn


def _scaling(runs: Runs, shown: Sequence[Lane]) -> list[Section]:
    """The job with other numbers of workers, where the scenario asks."""
    pictures = scaling_pictures(runs, shown)
    if not pictures:
        return []
    return [Section(title="How far it scales", blocks=scaling_blocks(runs), pictures=pictures)]


def _memory(runs: Runs, shown: Sequence[Lane]) -> list[Section]:
    """What a GPU holds through a step, where there is a model."""
    pictures = memory_pictures(runs, shown)
    if not pictures:
        return []
    told = (Prose(text=EXPLAINED),)
    return [Section(title="What the memory holds when", blocks=told, pictures=pictures, only_on_page=True)]


def _question(answer: Answer[TrainingScenario, TrainingResult]) -> Section:
    from sim.scenario.file import scenario_word

    base = answer.file.base
    job, sync, exchange = base.training, base.sync, base.exchange
    model = base.model.name if base.model else "none: times are given"
    rows = [
        ("Scenario", scenario_word(answer.file.path)),
        ("Model", f"{model}, {job.precision}, {job.optimizer}" if base.model else model),
        ("Hardware", f"{job.num_workers} workers x {_gpus(base)} {base.hardware.name}"),
        ("Step", _step(base)),
        ("Synchronisation", sync.scheme),
        ("Exchange", exchange.algorithm),
        *((f"Variant {name}", text) for name, text in _variants(answer)),
        ("Seeds", ", ".join(map(str, base.seeds)) + "; the same step times in every variant"),
        ("Made by", f"gpuyard {__version__}"),
    ]
    return Section(title="The question as understood", blocks=(Facts(rows=tuple(rows)),))


def _gpus(base: TrainingScenario) -> int:
    return int(base.training.tensor_parallel_size * base.training.pipeline_parallel_size)


def _step(base: TrainingScenario) -> str:
    job = base.training
    given = base.compute.compute_s
    told = f"{format_s(given)} of computing, given" if given is not None else "priced from the profile"
    batch = f"micro-batches of {job.micro_batch_size} x {job.gradient_accumulation_steps}"
    return f"{batch}, {told}; variation: {base.variation.distribution}; {job.num_steps:,} steps a worker"


def _variants(answer: Answer[TrainingScenario, TrainingResult]) -> list[tuple[str, str]]:
    from sim.report.blocks import setting_text
    from sim.scenario.file import plain

    if len(answer.file.variants) == 1 and not answer.file.variants[0].differences:
        return []
    return [
        (one.name, setting_text(plain(one.differences)) or "the file as it stands")
        for one in answer.file.variants
    ]


def _trust(answer: Answer[TrainingScenario, TrainingResult]) -> Section:
    blocks: list[Block] = []
    if notes := run_notes(answer):
        blocks.append(Bullets(items=tuple(notes)))
    seen: dict[str, list[str]] = {}
    for name, runs in answer.results.items():
        memory = runs[0].explain.get("memory")
        if memory:
            seen.setdefault(repr(memory["lines"]), []).append(name)
    for name, runs in answer.results.items():
        memory = runs[0].explain.get("memory")
        if memory and seen.pop(repr(memory["lines"]), None):
            lines = [(one["label"], format_gb(one["bytes"]), one["formula"]) for one in memory["lines"]]
            share = percent(memory["peak_memory_bytes"] / memory["hbm_bytes"])
            blocks.append(Prose(text=f"{name}: memory of the fullest GPU, {share} of what it has."))
            blocks.append(text_table(("", "size", "formula"), lines, f"Memory of {name}"))
    blocks.append(Prose(text=_exchange_text(answer)))
    return Section(title="How far to trust this", blocks=blocks)


def _exchange_text(answer: Answer[TrainingScenario, TrainingResult]) -> str:
    parts = []
    for name, runs in answer.results.items():
        found = runs[0].explain["exchange"]
        size = f"{digits(found['gradient_bytes'] / 2**20)} MiB in {found['num_buckets'] or 1} messages"
        parts.append(f"{name}: {found['algorithm']}, {size}, {format_s(found['comm_s'])} of the links a step")
    return "Exchange of one worker's step. " + "; ".join(parts) + "."


def _reproduce(answer: Answer[TrainingScenario, TrainingResult]) -> tuple[Block, ...]:
    import shlex

    import yaml

    from sim.scenario.file import scenario_word, to_raw

    words = ["gpuyard", "run", scenario_word(answer.file.path)]
    for override in answer.file.overrides:
        words += ["--set", override]
    full = yaml.safe_dump(to_raw(answer.file), sort_keys=False, allow_unicode=True, width=100)
    return (
        Code(text=shlex.join(words)),
        Code(text=full, summary="The scenario as it was run, defaults written out"),
    )
