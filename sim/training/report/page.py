"""The report of a training scenario, with its scaling curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

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
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, lanes, layout, percent
from sim.report.terminal import run_notes
from sim.training.records import ScalingPoint, TrainingResult
from sim.training.report.learning import learning_section
from sim.training.report.memory import EXPLAINED, memory_pictures
from sim.training.report.ring import link_pictures, ring_picture
from sim.training.report.time import blame, split_picture, timeline_pictures
from sim.training.scenario import max_seq_len, tokens_per_step
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
        ("loss-seconds", "scaling-rate", "step-split"),
    )
    return report_with(answer, sections)


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
