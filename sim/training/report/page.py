"""The report of a training scenario, in the order of every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sim.answer_line import answer_line
from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Prose, Report, Section, text_table
from sim.report.decision import decision_section
from sim.report.figures import Lane, digits, lanes, percent
from sim.training.report.blame import blame
from sim.training.report.figures import split_picture, timeline_pictures
from sim.training.report.learning import learning_section
from sim.training.report.memory import EXPLAINED, memory_pictures
from sim.training.report.ring import link_pictures, ring_picture
from sim.training.report.scaling import scaling_blocks, scaling_pictures
from sim.units import format_gb, format_s
from sim.version import __version__

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.training.records import TrainingResult
    from sim.training.scenario import TrainingScenario

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
    sections = (
        _question(answer),
        decision_section(answer),
        learning_section(answer),
        Section(title="Why", pictures=[one for one in pictures if one is not None]),
        *_scaling(runs, shown),
        *_memory(runs, shown),
        Section(title="Who is to blame", blocks=blame(answer)),
        _trust(answer),
        Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
        Section(title="Reproduce", blocks=_reproduce(answer)),
    )
    return Report(
        question=answer.file.base.question,
        answer=answer_line(answer.comparison),
        badges=tuple(
            Cell(text=f"{name}: {answer.comparison.verdicts(name)}") for name in answer.comparison.variants
        ),
        sections=[one for one in sections if one is not None],
    )


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
    return [Section(title="What the memory holds when", blocks=(Prose(text=EXPLAINED),), pictures=pictures)]


def _question(answer: Answer[TrainingScenario, TrainingResult]) -> Section:
    from sim.report.question import scenario_word

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
    from sim.loading.dump import plain
    from sim.report.question import setting_text

    if len(answer.file.variants) == 1 and not answer.file.variants[0].differences:
        return []
    return [
        (one.name, setting_text(plain(one.differences)) or "the file as it stands")
        for one in answer.file.variants
    ]


def _trust(answer: Answer[TrainingScenario, TrainingResult]) -> Section:
    blocks: list[Block] = []
    warnings = answer.comparison.warnings
    if warnings:
        blocks.append(Bullets(items=tuple(f"{who}: {one}" if who else str(one) for who, one in warnings)))
    notes = dict.fromkeys(
        f"{name}: {note}" for name, runs in answer.results.items() for run in runs[:1] for note in run.notes
    )
    if notes:
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

    from sim.loading.dump import to_raw
    from sim.report.question import scenario_word

    words = ["gpuyard", "run", scenario_word(answer.file.path)]
    for override in answer.file.overrides:
        words += ["--set", override]
    full = yaml.safe_dump(to_raw(answer.file), sort_keys=False, allow_unicode=True, width=100)
    return (
        Code(text=shlex.join(words)),
        Code(text=full, summary="The scenario as it was run, defaults written out"),
    )
