"""The report of a kernel scenario, in the order of every report.

What the kernel simulation leaves out: one list, printed in every report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.answer_line import answer_line
from sim.kernel.gpu import Efficiency
from sim.kernel.metrics import operation
from sim.kernel.operations import operation_of
from sim.kernel.report.curves import curve_pictures
from sim.kernel.report.pictures import (
    Runs,
    first_runs,
    gantt_pictures,
    launches_picture,
    roofline_picture,
    sram_picture,
    traffic_picture,
)
from sim.kernel.run import KernelResult
from sim.report.blocks import Block, Bullets, Cell, Code, Facts, Prose, Report, Section, text_table
from sim.report.decision import decision_section
from sim.report.figures import Lane, Picture, digits, lanes
from sim.report.published import published_sections
from sim.units import format_count, format_gb, format_quantity
from sim.version import __version__

if TYPE_CHECKING:
    from sim.answer import Answer
    from sim.kernel.scenario import KernelScenario


NOT_MODELLED = (
    "Instruction issue, bank conflicts, register spills: the fitted efficiencies hold them.",
    "Thread-block clusters, distributed shared memory, persistent kernels' hidden prologues.",
    "Which lines L2 keeps: shared tiles pass once if they fit, else once per group that runs together.",
    "Clock changes with power and temperature, ECC, other work on the device.",
    "DRAM pages, refresh, reads turning to writes: streaming reaches one measured share of the peak.",
    "Host time between launches beyond a fixed gap; concurrent streams, except host copies in chunks.",
    "Numerical error of low-precision types; the random numbers of dropout inside flash kernels.",
    "Of a training step: the exchange of gradients, data loading, recomputation of activations.",
)


def build_kernel_report(answer: Answer[KernelScenario, KernelResult]) -> Report:
    """Question, decision table, pictures, efficiencies and their errors, limits, how to reproduce."""
    shown = lanes(answer.comparison.variants)
    runs: Runs = answer.results
    return Report(
        question=answer.file.base.question,
        answer=answer_line(answer.comparison),
        badges=tuple(
            Cell(text=f"{name}: {answer.comparison.verdicts(name)}") for name in answer.comparison.variants
        ),
        sections=(
            _question(answer, first_runs(runs, shown)),
            decision_section(answer),
            *published_sections(answer),
            Section(title="Why", pictures=_pictures(runs, shown, answer.comparison.reference)),
            _trust(first_runs(runs, shown)),
            Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
            Section(title="Reproduce", blocks=_reproduce(answer)),
        ),
    )


def _pictures(runs: Runs, shown: list[Lane], reference: str) -> list[Picture]:
    pictures = [
        launches_picture(runs, shown),
        traffic_picture(runs, shown),
        roofline_picture(runs, shown),
        *curve_pictures(runs, shown, reference),
        sram_picture(runs, shown),
        *gantt_pictures(runs, shown),
    ]
    return [picture for picture in pictures if picture is not None]


def _question(answer: Answer[KernelScenario, KernelResult], runs: list[tuple[Lane, KernelResult]]) -> Section:
    from sim.report.question import scenario_word, setting_text

    rows = [("Scenario", scenario_word(answer.file.path))]
    for profile in {run.scenario.hardware.name: run.scenario.hardware for _, run in runs}.values():
        speed = format_quantity(profile.hbm_bytes_per_s, "bytes_per_s")
        rows.append(
            (
                "Hardware",
                f"{profile.name}: {profile.sm_count} SMs, HBM {format_gb(profile.hbm_bytes)} at {speed}",
            )
        )
    for lane, run in runs:
        longest = max(run.plan.launches, key=lambda one: one.num_blocks, default=None)
        tiles = f"; {format_count(longest.num_blocks)} blocks of {longest.name}" if longest else ""
        rows.append((f"Variant {lane.name}", operation(run) + tiles))
    changed = {
        one.name: setting_text(dict(one.differences)) for one in answer.file.variants if one.differences
    }
    rows += [(f"{name} differs in", text) for name, text in changed.items()]
    rows.append(("Made by", f"gpuyard {__version__}"))
    return Section(title="The question as understood", blocks=(Facts(rows=tuple(rows)),))


def _trust(runs: list[tuple[Lane, KernelResult]]) -> Section:
    """The fitted efficiencies in use, with what they were fitted to."""
    rows: list[tuple[str, ...]] = []
    for lane, run in runs:
        name, one, has_softmax = operation_of(run.scenario.kernel).efficiency(
            run.scenario.kernel, run.scenario.hardware
        )
        rows.append((lane.name, name, _efficiency_text(name, one, has_softmax), one.source))
    blocks: tuple[Block, ...] = (
        Prose(text="Waves, tails, traffic and overlap are simulated; these few efficiencies were fitted."),
        text_table(("variant", "kernels", "efficiency", "source"), rows),
    )
    notes = dict.fromkeys(f"{lane.name}: {note}" for lane, run in runs for note in run.notes)
    if notes:
        blocks += (Bullets(items=tuple(notes)),)
    return Section(title="How far to trust this", blocks=blocks)


def _efficiency_text(name: str, one: Efficiency, has_softmax: bool) -> str:
    parts = [] if name == "stream" else [f"{digits(one.tensor_fraction)} of peak"]
    if has_softmax:
        parts.append(f"{digits(one.exposed_fraction)} of softmax exposed")
    if one.memory_fraction < 1.0 or name == "stream":
        parts.append(f"{digits(one.memory_fraction)} of what streaming kernels reach")
    return ", ".join(parts)


def _reproduce(answer: Answer[KernelScenario, KernelResult]) -> tuple[Block, ...]:
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
