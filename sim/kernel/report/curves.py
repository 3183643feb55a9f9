"""What-if curves around an attention scenario: against the length, and against the size of SRAM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sim.errors import ScenarioError
from sim.kernel.algorithms import ALGORITHMS
from sim.kernel.report.pictures import Runs, first_runs
from sim.kernel.run import KernelResult, run_kernel
from sim.kernel.scenario import KernelScenario
from sim.report.figures import Lane, Picture, Row, Trace, axis, digits, layout

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
SRAM_KIB = (48, 96, 192, 384, 1024)


def curve_pictures(runs: Runs, lanes: Sequence[Lane], reference: str) -> list[Picture]:
    """Where variants are attention algorithms on one shape: their speed-up over the reference by length."""
    shown = [
        (lane, run) for lane, run in first_runs(runs, lanes) if run.scenario.kernel.attention is not None
    ]
    algorithms = {_algorithm(run) for _, run in shown}
    lengths = {run.scenario.kernel.attention.seqlen for _, run in shown if run.scenario.kernel.attention}
    pictures = []
    is_one_device = all(run.scenario.hardware == shown[0][1].scenario.hardware for _, run in shown)
    if is_one_device and len(algorithms) > 1 and len(lengths) == 1 and lengths != {1}:
        picture = _speedup(shown, reference)
        pictures += [picture] if picture else []
    followers = [(lane, run) for lane, run in shown if ALGORITHMS[_algorithm(run)].tiles_follow_sram]
    if followers:
        pictures.append(_sram(*followers[0]))
    return pictures


def _algorithm(run: KernelResult) -> str:
    attention = run.scenario.kernel.attention
    return attention.algorithm if attention else ""


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
            traces.append(_line(lane, LENGTHS, ratios))
    best = max((row for row in rows if row[3] is not None), key=lambda row: float(row[3] or 0), default=None)
    if best is None or not traces:
        return None
    gone = [str(length) for length, time_s in zip(LENGTHS, base, strict=True) if time_s is None]
    missing = f" {reference} does not fit the memory at {', '.join(gone)} tokens." if gone else ""
    return Picture(
        key="speedup_by_length",
        title=f"Speed-up over {reference} by sequence length, tokens in all kept",
        reading=f"At most {digits(float(best[3] or 0))} × ({best[0]} at {best[1]} tokens).{missing}",
        traces=traces,
        layout=layout(
            axis("tokens per sequence", type="log", tickvals=list(LENGTHS), tickformat="d"),
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
            axis("SRAM per SM, KiB", type="log", tickvals=list(SRAM_KIB)), axis("time, s", rangemode="tozero")
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
