"""What the report says, in order; how it looks is ``html_blocks``' and ``markdown``'s matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.answer_line import answer_line
from sim.report.blocks import Block, Bullets, Cell, Code, Report, Section, Tone
from sim.report.decision import class_section, decision_section
from sim.report.figures import Lane, Picture, has_kv, lanes
from sim.report.figures_block_map import block_map_pictures
from sim.report.figures_kv import kv_picture
from sim.report.figures_latency import arrival_picture, cdf_picture
from sim.report.figures_load import load_pictures
from sim.report.figures_steps import operator_picture
from sim.report.preemptions import preemption_section
from sim.report.question import command, question_section
from sim.report.trust import trust_section

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.comparison import Comparison
    from sim.records import RunResult
    from sim.scenario import Scenario

# Printed in every report of serving.
NOT_MODELLED = (
    "The network between client and engine, HTTP, tokenisation and detokenisation, except as the named "
    "engine overheads.",
    "Token content: lengths are given, no request stops early or loops, and sampling costs the same for all.",
    "Draft models (EAGLE, MTP), LoRA adapters, multi-modal inputs, structured output; n-gram drafts are "
    "right at a given rate.",
    "Expert and data parallelism inside one replica; pipelines with asynchronous "
    "scheduling or drafts; disaggregated prefill and decode.",
    "KV offload to host memory or disk, and swapping: a preempted request is recomputed.",
    "Clock changes with power and temperature, other tenants of the GPU, ECC and failures.",
    "Overlap of kernels on different streams; asynchronous scheduling hides all host time that fits behind "
    "the kernels.",
    "Imbalance: all tensor-parallel ranks take the same time; experts receive tokens evenly.",
    "Start-up, but for overheads.cold_start_s: model loading, graph capture, autoscaling.",
)

TONES: dict[str, Tone] = {"STABLE": "good", "OVERLOADED": "bad", "BACKLOGGED": "bad"}


def build_report(answer: Answer[Scenario, RunResult]) -> Report:
    """The whole report of an answered scenario."""
    sections = (
        question_section(answer),
        decision_section(answer),
        class_section(answer),
        Section(title="Why", pictures=report_pictures(answer)),
        preemption_section(answer),
        trust_section(answer),
        Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
        Section(title="Reproduce", blocks=_reproduce(answer)),
    )
    return Report(
        question=answer.file.base.question,
        answer=answer_line(answer.comparison),
        badges=tuple(_badge(answer.comparison, name) for name in answer.comparison.variants),
        sections=[section for section in sections if section is not None],
    )


def _badge(comparison: Comparison, variant: str) -> Cell:
    """The variant's verdict."""
    verdict = comparison.verdicts(variant)
    return Cell(text=f"{variant}: {verdict}", tone=TONES.get(verdict, "plain"))


def report_pictures(answer: Answer[Scenario, RunResult]) -> list[Picture]:
    """All pictures, in the order in which they are read; what has nothing to show is left out."""
    shown = lanes(answer.comparison.variants)
    slo = answer.file.base.slo
    bounds = {"ttft_s": slo.ttft_s, "tpot_s": slo.tpot_s, "e2e_s": slo.e2e_s}
    pictures = [
        *(cdf_picture(answer.results, shown, metric, bound) for metric, bound in bounds.items()),
        arrival_picture(answer.results, shown),
        *load_pictures(answer.results, shown),
        *_kv_pictures(answer, shown),
        operator_picture(answer.results, shown),
    ]
    return [picture for picture in pictures if picture is not None]


def _kv_pictures(answer: Answer[Scenario, RunResult], shown: Sequence[Lane]) -> list[Picture]:
    """The KV budget and the block maps of the variants that have KV memory."""
    holders = [lane for lane in shown if all(has_kv(run) for run in answer.results[lane.name])]
    if not holders:
        return []
    return [kv_picture(answer.results, holders), *block_map_pictures(answer.results, holders)]


def _reproduce(answer: Answer[Scenario, RunResult]) -> tuple[Block, ...]:
    """The command, and the scenario it runs with every default written out."""
    import yaml

    from sim.loading.dump import to_raw

    full = yaml.safe_dump(to_raw(answer.file), sort_keys=False, allow_unicode=True, width=100)
    return (
        Code(text=command(answer.file)),
        Code(text=full, summary="The scenario as it was run, defaults written out"),
    )
