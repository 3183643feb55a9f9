"""One step, explained: every operator with its counts, the bound that held, its time and its constants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.cost.launch import decode_attention_fraction, launch_s, padded_tokens
from sim.cost.operators import StepCounter, precision_of
from sim.cost.roofline import BOUNDS, Operator
from sim.scenario import EngineOverheads, Scenario

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
    hbm_bytes: float
    link_bytes: float
    bound: str
    efficiency: float  # the ideal time of that bound (full peak, full bandwidth) over the priced time
    time_s: float
    share: float
    source: str


def explain_step(scenario: Scenario, shape: StepShape) -> list[OperatorLine]:
    """Lines by operator, as the analytic price has them, and host time last; times add up to the step."""
    engine, hardware = scenario.engine, scenario.hardware
    counter = StepCounter(
        model=scenario.model,
        hardware=hardware,
        precision=precision_of(scenario.model, engine),
        tensor_parallel_size=engine.tensor_parallel_size,
        is_flash=engine.attention == "flash",
    )
    launch = hardware.kernel_launch_s if hardware.graph_launch_s is None else hardware.graph_launch_s
    operators = operators_of(counter, shape, engine.overheads)
    times = [float(one.times_s(hardware, launch, counter.link)[0]) for one in operators]
    slower = decode_attention_fraction(scenario)
    times = [
        time / slower if one.name == "attention_decode" else time
        for one, time in zip(operators, times, strict=True)
    ]
    sequences = shape.decode + (1 if shape.prefill else 0)
    host = engine.overheads
    host_s = host.step_s + host.per_sequence_s * sequences + host.per_prompt_token_s * shape.prefill
    awaited_s = launch_s(shape.decode + shape.prefill, scenario)
    if engine.async_scheduling:  # the host's work is hidden, or waited for like its launches
        awaited_s, host_s = max(awaited_s, host_s), 0.0
    wait_s = max(awaited_s - sum(times), 0.0)
    whole = sum(times) + wait_s + host_s
    lines = [_line(one, time, whole, counter, launch) for one, time in zip(operators, times, strict=True)]
    for name, time_s in (("launch_wait", wait_s), ("engine_overhead", host_s)):
        if time_s:
            lines.append(_host_line(name, time_s, whole, host.source))
    return lines


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
    one: Operator, time_s: float, whole_s: float, counter: StepCounter, launch_s: float
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
    return OperatorLine(
        name=one.name,
        launches=one.count,
        flops=flops * one.count,
        hbm_bytes=moved * one.count,
        link_bytes=sent * one.count,
        bound=bound,
        efficiency=ideal * one.count / time_s if time_s else 0.0,
        time_s=time_s,
        share=time_s / whole_s if whole_s else 0.0,
        source=_source(one, counter),
    )


def _source(one: Operator, counter: StepCounter) -> str:
    """Where the constants of the price come from."""
    if one.law_s is None:
        return f"roofline with {counter.hardware.name}'s efficiency curves ({one.memory_curve})"
    kernels = counter.hardware.kernels
    lender = kernels[one.law].borrowed_from if one.law in kernels else ""
    return f"kernel law {one.law}" + (f", borrowed from {lender}" if lender else "")


def _host_line(name: str, host_s: float, whole_s: float, source: str) -> OperatorLine:
    return OperatorLine(
        name=name,
        launches=0,
        flops=0.0,
        hbm_bytes=0.0,
        link_bytes=0.0,
        bound="host",
        efficiency=1.0,
        time_s=host_s,
        share=host_s / whole_s,
        source=source or "engine.overheads",
    )
