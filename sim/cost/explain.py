"""One step, explained: every operator with its counts, the bound that held, its time and its constants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sim.cost.launch import decode_attention_fraction, launch_s, padded_tokens
from sim.cost.law_times import all_reduce_law
from sim.cost.levels import Chunk, levels_of
from sim.cost.operators import StepCounter, precision_of
from sim.cost.pipeline import sent_bytes, stage_sends_s
from sim.cost.priced import Priced
from sim.cost.roofline import BOUNDS, Operator
from sim.hardware import HardwareProfile
from sim.scenario import EngineOverheads

LINK_CURVE = "link"
NO_OVERHEADS = EngineOverheads()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """What a step holds: decodes of equal context, and at most one prompt chunk."""

    decode: int = 0
    context: int = 0  # KV entries of each decode
    prefill: int = 0
    cached: int = 0  # KV entries before the chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorLine:
    """One kind of kernel in the step, all of its launches together, on one rank."""

    name: str
    launches: int
    flops: float
    sram_bytes: float  # operands written into SRAM and read from it
    l2_bytes: float  # between L2 and the SMs
    hbm_bytes: float
    dram_bytes: float  # host memory: nothing of a serving step lies there
    link_bytes: float
    bound: str
    efficiency: float  # the ideal time of that bound (full peak, full bandwidth) over the priced time
    time_s: float
    share: float
    peak: str  # the type whose FLOP rate bounds it
    law: str  # the operator of the profile's ``kernels``; empty: roofline with efficiency curves
    source: str


def explain_step(scenario: Priced, shape: StepShape) -> list[OperatorLine]:
    """Lines by operator, as the analytic price has them, sends and host time last; they add up to the step.

    Over a pipeline they are those of all stages together: one batch alone, from end to end.
    """
    engine, hardware = scenario.engine, scenario.hardware
    counter = counter_of(scenario)
    launch = hardware.kernel_launch_s if hardware.graph_launch_s is None else hardware.graph_launch_s
    operators = operators_of(counter, shape, engine.overheads)
    slower = decode_attention_fraction(scenario)
    times = [float(one.times_s(hardware, launch, counter.link)[0]) for one in operators]
    times = [
        time / slower if one.name == "attention_decode" else time
        for one, time in zip(operators, times, strict=True)
    ]
    wait_s, host_s = host_times_s(scenario, shape, sum(times))
    sends_s = stage_sends_s(scenario.model, hardware, engine, shape.decode + shape.prefill)
    whole = sum(times) + wait_s + host_s + sum(sends_s)
    chunk = Chunk(queries=shape.prefill, cached=shape.cached)
    lines = [
        _line(one, time, whole, counter=counter, launch_s=launch, chunk=chunk)
        for one, time in zip(operators, times, strict=True)
    ]
    if sends_s:
        sent = sent_bytes(scenario.model, engine, shape.decode + shape.prefill) / engine.tensor_parallel_size
        source = "latency and bandwidth of the links"
        line = _bare_line("pipeline_send", sum(sends_s), whole, bound="link", source=source)
        lines.append(replace(line, launches=len(sends_s), link_bytes=sent * len(sends_s)))
    for name, time_s in (("launch_wait", wait_s), ("engine_overhead", host_s)):
        if time_s:
            source = engine.overheads.source or "engine.overheads"
            lines.append(_bare_line(name, time_s, whole, bound="host", source=source))
    return lines


def counter_of(scenario: Priced) -> StepCounter:
    """The scenario's counts of operators."""
    engine = scenario.engine
    return StepCounter(
        model=scenario.model,
        hardware=scenario.hardware,
        precision=precision_of(scenario.model, engine),
        tensor_parallel_size=engine.tensor_parallel_size,
        is_flash=engine.attention == "flash",
    )


def host_times_s(scenario: Priced, shape: StepShape, kernels_s: float) -> tuple[float, float]:
    """How long the GPU waits for launches, and the host's time that nothing hides."""
    engine, host = scenario.engine, scenario.engine.overheads
    sequences = shape.decode + (1 if shape.prefill else 0)
    host_s = host.step_s + host.per_sequence_s * sequences + host.per_prompt_token_s * shape.prefill
    awaited_s = launch_s(shape.decode + shape.prefill, scenario)
    if engine.async_scheduling:  # the host's work is hidden, or waited for like its launches
        awaited_s, host_s = max(awaited_s, host_s), 0.0
    return max(awaited_s - kernels_s, 0.0), host_s


def operators_of(
    counter: StepCounter, shape: StepShape, overheads: EngineOverheads = NO_OVERHEADS
) -> list[Operator]:
    """The step's operators, padded as its CUDA graph is. The chunk ends its prompt, so it samples."""
    tokens = padded_tokens(np.array([float(shape.decode + shape.prefill)]), overheads)
    sampling = np.array([float(shape.decode + (1 if shape.prefill else 0))])
    found = counter.linear(tokens)
    if shape.decode:
        context = np.array([float(shape.decode * shape.context)])
        found.append(counter.decode_attention(np.array([float(shape.decode)]), context))
    if shape.prefill:
        queries = np.array([float(shape.prefill)])
        found.append(counter.prefill_attention(queries, np.array([float(shape.cached)])))
    return [*found, *counter.head(sampling)]


def _line(
    one: Operator, time_s: float, whole_s: float, *, counter: StepCounter, launch_s: float, chunk: Chunk
) -> OperatorLine:
    hardware = counter.hardware
    bounds = [float(bound[0]) for bound in one.bounds_s(hardware, launch_s, counter.link)]
    bound = BOUNDS[int(np.argmax(bounds))]
    flops, moved = float(one.flops[0]), float(one.hbm_bytes[0])
    sent = float(np.broadcast_to(np.asarray(one.link_bytes, dtype=np.float64), one.flops.shape)[0])
    ideal = {
        "compute": flops / hardware.peak_flops_per_s[one.peak],
        "memory": moved / hardware.hbm_bytes_per_s,
        "link": sent / counter.link.bytes_per_s if counter.link else 0.0,
        "launch": launch_s,
    }[bound]
    levels, law = levels_of(one, counter, chunk), law_used(one, counter)
    return OperatorLine(
        name=one.name,
        launches=one.count,
        flops=flops * one.count,
        sram_bytes=levels.sram_bytes * one.count,
        l2_bytes=levels.l2_bytes * one.count,
        hbm_bytes=moved * one.count,
        dram_bytes=0.0,
        link_bytes=sent * one.count,
        bound=bound,
        efficiency=ideal * one.count / time_s if time_s else 0.0,
        time_s=time_s,
        share=time_s / whole_s if whole_s else 0.0,
        peak=one.peak if flops else "",
        law=law,
        source=_source(law, one, hardware),
    )


def law_used(one: Operator, counter: StepCounter) -> str:
    """The kernel law behind an operator's time; of the two all-reduces the faster one."""
    if one.name == "all_reduce" and one.law_s is not None:
        size = counter.tensor_parallel_size
        sent = float(np.asarray(one.link_bytes, dtype=np.float64).ravel()[0])
        return all_reduce_law(counter.hardware, size, sent * size / (2.0 * (size - 1)))
    return one.law if one.law_s is not None else ""


def _source(law: str, one: Operator, hardware: HardwareProfile) -> str:
    """Where the constants of the price come from, in short."""
    if not law:
        curve = LINK_CURVE if one.link_messages else one.memory_curve
        if curve not in hardware.efficiency:
            return f"roofline, all of the peak assumed ({hardware.name} has no curve {curve})"
        return f"roofline with {hardware.name}'s efficiency curves ({curve})"
    lender = hardware.kernels[law].borrowed_from
    return f"kernel law {law}" + (f", borrowed from {lender}" if lender else "")


def _bare_line(name: str, time_s: float, whole_s: float, *, bound: str, source: str) -> OperatorLine:
    """Time that no kernel of this GPU takes."""
    return OperatorLine(
        name=name,
        launches=0,
        flops=0.0,
        sram_bytes=0.0,
        l2_bytes=0.0,
        hbm_bytes=0.0,
        dram_bytes=0.0,
        link_bytes=0.0,
        bound=bound,
        efficiency=1.0,
        time_s=time_s,
        share=time_s / whole_s,
        peak="",
        law="",
        source=source,
    )
