"""The report of a kernel scenario, with what-if curves against the length and the size of SRAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sim.errors import ScenarioError
from sim.kernel.algorithms import ALGORITHMS
from sim.kernel.gpu import Efficiency
from sim.kernel.metrics import operation
from sim.kernel.operations import operation_of
from sim.kernel.report.pictures import (
    Runs,
    first_runs,
    gantt_pictures,
    launches_picture,
    roofline_picture,
    sram_picture,
    traffic_picture,
)
from sim.kernel.run import KernelResult, run_kernel
from sim.kernel.scenario import KernelScenario
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
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, lanes, layout, seconds_axis
from sim.report.published import published_sections
from sim.report.terminal import run_notes
from sim.units import format_count, format_gb, format_quantity
from sim.version import __version__

if TYPE_CHECKING:
    from sim.results.answer import Answer


LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)


SRAM_KIB = (48, 96, 192, 384, 1024)


def curve_pictures(runs: Runs, lanes: Sequence[Lane], reference: str) -> list[Picture]:
    """Where variants are attention algorithms on one shape: their speed-up over the reference by length."""
    shown = [
        (lane, run) for lane, run in first_runs(runs, lanes) if run.scenario.kernel.attention is not None
    ]
    shape = next((_shape(run) for lane, run in shown if lane.name == reference), None)
    shown = [(lane, run) for lane, run in shown if _shape(run) == shape]
    algorithms = {_algorithm(run) for _, run in shown}
    pictures = []
    is_one_device = all(run.scenario.hardware == shown[0][1].scenario.hardware for _, run in shown)
    if is_one_device and len(algorithms) > 1 and shape is not None and shape[1] != 1:
        picture = _speedup(shown, reference)
        pictures += [picture] if picture else []
    followers = [(lane, run) for lane, run in shown if ALGORITHMS[_algorithm(run)].tiles_follow_sram]
    if followers:
        pictures.append(_sram(*followers[0]))
    return pictures


def _algorithm(run: KernelResult) -> str:
    attention = run.scenario.kernel.attention
    return attention.algorithm if attention else ""


def _shape(run: KernelResult) -> tuple[int, int] | None:
    """(sequences, their length): variants of the reference's are drawn against the length."""
    attention = run.scenario.kernel.attention
    return (attention.batch, attention.seqlen) if attention else None


def at_length(scenario: KernelScenario, length: int) -> KernelScenario:
    """The same number of tokens at another length."""
    attention = scenario.kernel.attention
    assert attention is not None
    tokens = attention.batch * attention.seqlen
    changed = replace(attention, seqlen=length, seqlen_kv=None, batch=max(1, tokens // length))
    return replace(scenario, kernel=replace(scenario.kernel, attention=changed, trace=False))


def with_sram(scenario: KernelScenario, kibibytes: int) -> KernelScenario:
    """The same device with another SRAM per SM, all of it for one block, and registers that grow with it."""
    size = kibibytes * 1024
    changed = replace(
        scenario.hardware,
        sram_bytes_per_sm=size,
        max_sram_bytes_per_block=size,
        register_file_bytes_per_sm=max(scenario.hardware.register_file_bytes_per_sm or 0, 2 * size),
    )
    return replace(scenario, hardware=changed, kernel=replace(scenario.kernel, trace=False))


def _time_s(scenario: KernelScenario) -> float | None:
    """None where it does not fit."""
    try:
        run = run_kernel(scenario)
    except ScenarioError:
        return None
    return run.time_ps * 1e-12 or None


def _speedup(shown: Sequence[tuple[Lane, KernelResult]], reference: str) -> Picture | None:
    times = {
        lane.name: [_time_s(at_length(run.scenario, length)) for length in LENGTHS] for lane, run in shown
    }
    base = times[reference]
    rows: list[Row] = []
    traces: list[Trace] = []
    for lane, _ in shown:
        ratios = [
            one / other if one and other else None for one, other in zip(base, times[lane.name], strict=True)
        ]
        rows += [
            (lane.name, length, time_s, ratio)
            for length, time_s, ratio in zip(LENGTHS, times[lane.name], ratios, strict=True)
        ]
        if lane.name != reference:
            known = [(x, y) for x, y in zip(LENGTHS, ratios, strict=True) if y is not None]
            traces.append(_line(lane, [x for x, _ in known], [y for _, y in known]))
    best = max((row for row in rows if row[3] is not None), key=lambda row: float(row[3] or 0), default=None)
    if best is None or not traces:
        return None
    gone = [str(length) for length, time_s in zip(LENGTHS, base, strict=True) if time_s is None]
    reached = sorted({x for trace in traces for x in trace["x"]})
    missing = f" {reference} does not fit the memory at {', '.join(gone)} tokens." if gone else ""
    return Picture(
        key="speedup_by_length",
        title=f"Speed-up over {reference} by sequence length, tokens in all kept",
        reading=f"At most {digits(float(best[3] or 0))} × ({best[0]} at {best[1]} tokens).{missing}",
        traces=traces,
        layout=layout(
            axis("tokens per sequence", type="log", tickvals=reached, tickformat="d"),
            axis("speed-up, ×", rangemode="tozero"),
        ),
        header=("variant", "seqlen", "time_s", "speedup"),
        rows=rows,
    )


def _sram(lane: Lane, run: KernelResult) -> Picture:
    times = [_time_s(with_sram(run.scenario, size)) for size in SRAM_KIB]
    moved = [_bytes(with_sram(run.scenario, size)) for size in SRAM_KIB]
    known = [(size, time_s) for size, time_s in zip(SRAM_KIB, times, strict=True) if time_s]
    first, last = known[0], known[-1]
    return Picture(
        key="time_by_sram",
        title=f"What if an SM had another SRAM: {lane.label}",
        reading=(
            f"From {first[0]} KiB to {last[0]} KiB per SM the time falls "
            f"{digits(first[1] / last[1])} ×: larger tiles, fewer passes over Q and O."
        ),
        traces=[_line(lane, SRAM_KIB, times)],
        layout=layout(
            axis("SRAM per SM, KiB", type="log", tickvals=list(SRAM_KIB)),
            seconds_axis("time", max(time_s for _, time_s in known)),
        ),
        header=("sram_kib", "time_s", "hbm_bytes"),
        rows=list(zip(SRAM_KIB, times, moved, strict=True)),
    )


def _bytes(scenario: KernelScenario) -> int | None:
    try:
        launches = run_kernel(scenario).plan.launches
    except ScenarioError:
        return None
    return sum(sum(one.reads.values()) + sum(one.writes.values()) for one in launches)


def _line(lane: Lane, xs: Sequence[float], ys: Sequence[float | None]) -> Trace:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": lane.label,
        "x": list(xs),
        "y": list(ys),
        "line": {"color": lane.color, "dash": lane.dash},
    }


NOT_MODELLED = (
    "Instruction issue, bank conflicts, warps' reads of SRAM: fitted efficiencies hold them, for their tile.",
    "Register spills: a tile that would spill is refused (not FlashAttention 1's sums of dK and dV).",
    "Thread-block clusters, distributed shared memory, persistent kernels' hidden prologues.",
    "Which lines L2 keeps: shared tiles pass once if they fit, else once per group that runs together. HBM "
    "traffic (hbm_after_l2_bytes) is what HBM moves; loads and stores before L2 (hbm_bytes) are what kernels "
    "ask for, also what L2 serves.",
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
    return report_with(
        answer,
        what_decides_first(
            (decision_section(answer), warning_section(answer.comparison)),
            (
                _question(answer, first_runs(runs, shown)),
                *published_sections(answer),
                Section(title="Why", pictures=_pictures(runs, shown, answer.comparison.reference)),
                _trust(answer, first_runs(runs, shown)),
                Section(title="What is not modelled", blocks=(Bullets(items=NOT_MODELLED),)),
                Section(title="Reproduce", blocks=_reproduce(answer)),
            ),
            ("launches", "hbm_traffic"),
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
    from sim.report.blocks import setting_text
    from sim.scenario.file import scenario_word

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


def _trust(answer: Answer[KernelScenario, KernelResult], runs: list[tuple[Lane, KernelResult]]) -> Section:
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
    if notes := run_notes(answer):
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

    from sim.scenario.file import scenario_word, to_raw

    words = ["gpuyard", "run", scenario_word(answer.file.path)]
    for override in answer.file.overrides:
        words += ["--set", override]
    full = yaml.safe_dump(to_raw(answer.file), sort_keys=False, allow_unicode=True, width=100)
    return (
        Code(text=shlex.join(words)),
        Code(text=full, summary="The scenario as it was run, defaults written out"),
    )
