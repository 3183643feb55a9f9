"""A price explains itself: operators, bytes by level, which bound held, and the source of each constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np

from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import EngineOverheads
from sim.hardware.laws.attention import loaded_by_prefill
from sim.hardware.laws.device import Constants, Device, Floats
from sim.hardware.laws.gemm import loaded_by_experts, loaded_bytes
from sim.hardware.laws.registry import LAWS, OPERATORS
from sim.model.matrices import Matrix, layer_matrices
from sim.price.figures import (
    AskedLaw,
    Used,
    curve_standing,
    figure_lines,
    together,
    used_by_operators,
    weak_figures,
)
from sim.price.kernel_set import engine_kernels
from sim.price.law_times import (
    all_reduce_law,
    as_arrays,
    device_of,
    experts_sizes,
    gemm_sizes,
    law_device,
)
from sim.price.operators import StepCounter
from sim.price.overheads import decode_attention_fraction, launch_s, padded_tokens
from sim.price.pipeline import sent_bytes, stage_sends_s
from sim.price.priced import Priced, precision_of
from sim.price.roofline import BOUNDS, Operator, fractions
from sim.price.step import not_priced
from sim.scenario.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """The prompt chunk of a step."""

    queries: int
    cached: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """Bytes of one launch."""

    sram_bytes: float
    l2_bytes: float


def levels_of(one: Operator, counter: StepCounter, chunk: Chunk) -> Levels:
    """Bytes at SRAM and L2; L2 passes on at least what HBM brings."""
    moved = float(one.hbm_bytes[0])
    loaded = _loaded(one, counter, chunk)
    if loaded is None:
        return Levels(sram_bytes=0.0, l2_bytes=moved)
    operands, written = loaded
    return Levels(sram_bytes=2.0 * operands, l2_bytes=max(operands + written, moved))


def _loaded(one: Operator, counter: StepCounter, chunk: Chunk) -> tuple[float, float] | None:
    """Operands loaded into SRAM, results written back; None for operators without tiles."""
    width = float(counter.precision.activation_bytes)
    every = layer_matrices(counter.model, counter.tensor_parallel_size)
    # Kinds of layers may have matrices of one name and other sizes: those of as many layers are meant.
    matrices = {m.name: m for m in every} | {m.name: m for m in every if m.layers == one.count}
    if one.name == "attention_decode" or (one.name == "attention_prefill" and counter.model.mla):
        return float(one.hbm_bytes[0]), 0.0
    if one.name == "attention_prefill":
        sizes = as_arrays({**_chunk_sizes(chunk), **counter.head_sizes})
        constants = constants_of("attention_prefill", one.law, counter)
        results = chunk.queries * counter.head_sizes["heads"] * counter.head_sizes["head_dim"] * width
        return float(loaded_by_prefill(sizes, constants)[0]), results
    if one.name == "moe_experts":
        up, down = matrices["moe_gate_up"], matrices["moe_down"]
        pairs = one.flops / (2.0 * (up.n * up.k + down.n * down.k))
        sizes = as_arrays(experts_sizes((up, down), pairs / up.experts_per_token, counter.widths_of(up)))
        constants = constants_of("experts_bfloat16", one.law, counter)
        operands = loaded_by_experts(sizes, constants, _device(one, counter))
        return float(operands[0]), float(pairs[0]) * (up.n + down.n) * width
    if one.name in matrices:
        matrix = matrices[one.name]
        sizes = _product_sizes(one, matrix, counter)
        constants = constants_of("gemm_bfloat16", one.law, counter)
        results = float(one.flops[0]) / (2.0 * matrix.k) * width
        return float(loaded_bytes(sizes, constants, _device(one, counter))[0]), results
    return None


def _chunk_sizes(chunk: Chunk) -> dict[str, Floats | float]:
    return {"sequences": np.ones(1), "queries": float(chunk.queries), "cached": float(chunk.cached)}


def _product_sizes(one: Operator, matrix: Matrix, counter: StepCounter) -> dict[str, Floats]:
    """Rows from the FLOPs; experts without a law of their own as one group each."""
    rows = one.flops / (2.0 * matrix.n * matrix.k)
    groups = counter.experts_read(matrix, rows / matrix.experts_per_token)
    return as_arrays({**gemm_sizes(matrix, rows / groups, counter.widths_of(matrix)), "groups": groups})


def constants_of(operator: str, law: str, counter: StepCounter) -> Constants:
    """The law's constants on this device; where it has none, those that a fit would start from."""
    if law:
        return counter.hardware.kernels[law].constants
    return {name: one.start for name, one in LAWS[OPERATORS[operator][0]].constants.items()}


def _device(one: Operator, counter: StepCounter) -> Device:
    return law_device(counter.hardware, one.law) if one.law else device_of(counter.hardware, one.peak)


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
        kernels=engine_kernels(engine),
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
        found += counter.prefill_attention(queries, np.array([float(shape.cached)]))
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
        weak = "; ".join(figure_lines(tuple(curve_standing(hardware, curve))))
        return f"roofline with {hardware.name}'s efficiency curves ({weak or curve})"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantLine:
    """One number that the price used; ``used_by`` names the operators, or the host."""

    used_by: str
    name: str
    value: float
    unit: str
    source: str


def constants_of_step(
    scenario: Priced, shape: StepShape, lines: Sequence[OperatorLine]
) -> list[ConstantLine]:
    """Peaks, then the constants of each law or curve, then of the engine: all that the time came from."""
    counter = counter_of(scenario)
    operators = {one.name: one for one in operators_of(counter, shape, scenario.engine.overheads)}
    found = [*_peaks(scenario.hardware, lines)]
    for law in dict.fromkeys(line.law for line in lines if line.law):
        found += _law_constants(scenario.hardware, law, [line.name for line in lines if line.law == law])
    for line in lines:
        if not line.law and line.name in operators:
            found += _curve_values(operators[line.name], counter)
    return [*found, *_host_constants(scenario)]


def step_warnings(scenario: Priced, shape: StepShape) -> tuple[str, ...]:
    """What of this step's figures is borrowed, assumed, or asked for outside of what its laws were fitted to.

    A factor of two is let pass.
    """
    figures = weak_figures(scenario.hardware, _used(scenario, shape))
    of_device = (f"{scenario.hardware.name}: {line}" for line in figure_lines(figures))
    said = (*scenario.model.notes, *not_priced(scenario))
    return (*(f"{scenario.model.name}: {note}" for note in said), *of_device)


def _used(scenario: Priced, shape: StepShape) -> Used:
    counter = counter_of(scenario)
    tokens, sampling = shape.decode + shape.prefill, shape.decode + (1 if shape.prefill else 0)
    asked: list[tuple[str, dict[str, float]]] = []
    for matrix in layer_matrices(counter.model, counter.tensor_parallel_size):
        sizes = {"n": float(matrix.n), "k": float(matrix.k)}
        rows = sampling if matrix.name == "lm_head" else tokens
        if matrix.num_experts == 1:
            asked.append((counter.gemm_law(matrix), {"m": float(rows), **sizes}))
        elif matrix.name == "moe_down":
            wide = {"tokens": float(tokens), "hidden": sizes["n"], "inner": sizes["k"]}
            asked.append((counter.experts_law(matrix), wide))
    heads = {name: size for name, size in counter.head_sizes.items() if name != "kv_bytes"}
    if shape.decode:
        sizes = {"sequences": float(shape.decode), "context": float(shape.context), **heads}
        asked.append((counter.attention_law("attention_decode"), sizes))
    if shape.prefill:
        sizes = {"queries": float(shape.prefill), "cached": float(shape.cached), **heads}
        asked.append((counter.attention_law("attention_prefill"), sizes))
    if counter.tensor_parallel_size > 1:
        asked.append(("all_reduce_nccl", {"gpus": float(counter.tensor_parallel_size)}))
    laws = tuple(AskedLaw(law=law, sizes=sizes) for law, sizes in asked if law)
    return together([Used(laws=laws), used_by_operators(operators_of(counter, shape))])


def _peaks(hardware: HardwareProfile, lines: Sequence[OperatorLine]) -> Iterator[ConstantLine]:
    users = {
        peak: [x.name for x in lines if x.peak == peak] for peak in sorted({x.peak for x in lines} - {""})
    }
    for peak, names in users.items():
        name = f"peak_flops_per_s.{peak}"
        value = hardware.peak_flops_per_s[peak]
        yield _of_profile(hardware, name, value, "FLOP/s", ", ".join(names))
    everybody = "all operators"
    yield _of_profile(hardware, "hbm_bytes_per_s", hardware.hbm_bytes_per_s, "B/s", everybody)
    yield _of_profile(hardware, "sm_count", float(hardware.sm_count), "", everybody)
    if hardware.l2_bytes is not None:
        yield _of_profile(hardware, "l2_bytes", float(hardware.l2_bytes), "B", everybody)
    launch = "kernel_launch_s" if hardware.graph_launch_s is None else "graph_launch_s"
    yield _of_profile(hardware, launch, getattr(hardware, launch), "s", "operators without a law")
    senders = [line.name for line in lines if line.link_bytes]
    if senders and hardware.intra_node is not None:
        rate = hardware.intra_node.bytes_per_s
        yield _of_profile(hardware, "intra_node", rate, "B/s", ", ".join(senders))


def _of_profile(hardware: HardwareProfile, name: str, value: float, unit: str, used_by: str) -> ConstantLine:
    source = hardware.sources.get(name, f"profile {hardware.name}, no source given")
    return ConstantLine(used_by=used_by, name=name, value=value, unit=unit, source=source)


def _law_constants(hardware: HardwareProfile, law: str, users: Sequence[str]) -> Iterator[ConstantLine]:
    fit = hardware.kernels[law]
    source = f"fitted to {fit.fitted_on}; median error {fit.median_error_fraction:.0%}, p90 "
    source += f"{fit.p90_error_fraction:.0%}"
    if fit.borrowed_from:
        source = f"borrowed from {fit.borrowed_from}: {source}"
    for name, value in fit.constants.items():
        unit = LAWS[fit.law].constants[name].unit
        yield ConstantLine(
            used_by=", ".join(users), name=f"{law}.{name}", value=value, unit=unit, source=source
        )


def _curve_values(one: Operator, counter: StepCounter) -> Iterator[ConstantLine]:
    """The fraction of the peak that each curve gives at this operator's size."""
    hardware = counter.hardware
    link_bytes = np.asarray(one.link_bytes, dtype=np.float64).ravel()
    asked = ((one.compute_curve, one.flops), (one.memory_curve, one.hbm_bytes), (LINK_CURVE, link_bytes))
    for curve, sizes in asked:
        if float(sizes[0]) and curve in hardware.efficiency:
            value = float(fractions(hardware, curve, sizes)[0])
            name = f"efficiency.{curve}"
            yield _of_profile(hardware, name, value, "of peak", one.name)


def _host_constants(scenario: Priced) -> Iterator[ConstantLine]:
    overheads = scenario.engine.overheads
    source = overheads.source or "the scenario's engine.overheads"
    for field in fields(overheads):
        value = getattr(overheads, field.name)
        if field.name.endswith(("_s", "_fraction")) and value != field.default:
            unit = "s" if field.name.endswith("_s") else ""
            yield ConstantLine(used_by="host", name=field.name, value=value, unit=unit, source=source)
