"""The constants behind an explained step, each with its source; and where the step leaves their range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from sim.cost.explain import LINK_CURVE, OperatorLine, StepShape, counter_of, operators_of
from sim.cost.law_times import outside
from sim.cost.laws.registry import LAWS
from sim.cost.operators import StepCounter
from sim.cost.priced import Priced
from sim.cost.roofline import Operator, fractions
from sim.hardware import HardwareProfile
from sim.model import layer_matrices


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
    """Sizes of this step outside of what its laws were fitted to (a factor of two is let pass)."""
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
    texts = (outside(scenario.hardware, law, sizes) for law, sizes in asked if law)
    return tuple(dict.fromkeys(f"outside of what was measured: {text}" for text in texts if text))


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
