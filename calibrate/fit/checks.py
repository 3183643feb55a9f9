"""What the measured kernels reach, beside what is asked of them: our Triton kernels against libraries', the
paged decode against the copy's bandwidth, and whole decode steps against the price by the fitted profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from calibrate.fit.constants import LARGE_COPY_BYTES
from calibrate.fit.rows import MeasuredRow, Measurements
from calibrate.fit.timings import LIBRARIES, graph_start_s, kernel_s
from calibrate.measure.points import size_text
from sim.arrays import PS_PER_S
from sim.hardware import HardwareProfile
from sim.model.config import load_model
from sim.price.step import CompiledPrice
from sim.serving.scenario import EngineConfig, Scenario, Trace, Workload

STEP_MODEL = "llama-3.1-8b"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One figure: ``reached`` is a fraction; it should be at least ``least``, or at most ``most``."""

    name: str
    size: str
    reached: float
    least: float | None = None
    most: float | None = None

    @property
    def is_met(self) -> bool:
        """Within what is asked."""
        above = self.least is None or self.reached >= self.least
        return above and (self.most is None or self.reached <= self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepParity:
    """A decode step as measured (as a CUDA graph) and as priced, seconds."""

    num_seqs: int
    context_tokens: int
    measured_s: float
    priced_s: float


def kernel_checks(measured: Measurements, hardware: HardwareProfile) -> Iterator[Check]:
    """Our kernels against the fastest library on the same inputs; decoding against copying."""
    start_s = graph_start_s(measured)
    squares = [row for row in ours(measured, "matmul", "bfloat16") if min(row.size.values()) >= 4096]
    for row in squares:
        if len(set(row.size.values())) == 1:
            yield from against_library(measured, row, 0.70, start_s)
    for row in ours(measured, "flash_attention", "bfloat16"):
        size = row.size
        is_full = size["T"] == size["S"] >= 4096 and size["B"] * size["T"] >= 16_384
        if is_full and size["is_causal"] and size["D"] == 128:
            yield from against_library(measured, row, 0.60, start_s)
    copies = [row for row in measured.of("copy") if row.hbm_bytes >= LARGE_COPY_BYTES]
    for row in ours(measured, "paged_decode_attention", "bfloat16"):
        if copies and (row.size["B"], row.size["context"]) == (64, 4096):
            copied = max(one.hbm_bytes / kernel_s(one, start_s) for one in copies)
            reached = row.hbm_bytes / kernel_s(row, start_s) / copied
            yield Check(
                name="paged decode over the copy's bandwidth", size=text(row), reached=reached, least=0.75
            )
    yield from rooflines(measured, hardware, start_s)


def ours(measured: Measurements, kernel: str, dtype: str) -> list[MeasuredRow]:
    """Rows of our Triton kernel."""
    return measured.of(kernel, dtype=dtype, providers=("triton",))


def text(row: MeasuredRow) -> str:
    """The row's size."""
    return size_text(row.size)


def against_library(
    measured: Measurements, row: MeasuredRow, least: float, start_s: float
) -> Iterator[Check]:
    """The fastest library's time over ours; nothing where no library ran this size."""
    others = [
        one
        for one in measured.of(row.point.kernel, dtype=row.point.dtype, providers=LIBRARIES)
        if one.point.size == row.point.size
    ]
    if others:
        best = min(kernel_s(one, start_s) for one in others)
        name = f"{row.point.kernel} over the fastest library's rate"
        yield Check(name=name, size=text(row), reached=best / kernel_s(row, start_s), least=least)


def rooflines(measured: Measurements, hardware: HardwareProfile, start_s: float) -> Iterator[Check]:
    """The largest size of every kernel with FLOPs or bytes: its fraction of the roofline."""
    for kernel in ("copy", "triad", "rms_norm", "matmul", "int4_matmul", "flash_attention",
                   "flash_attention_backward", "paged_decode_attention"):  # fmt: skip
        rows = ours(measured, kernel, "bfloat16")
        if rows and "bfloat16" in hardware.peak_flops_per_s:
            peak = hardware.peak_flops_per_s["bfloat16"]
            ideal = [max(row.flops / peak, row.hbm_bytes / hardware.hbm_bytes_per_s) for row in rows]
            best = int(np.argmax(ideal))
            reached = ideal[best] / kernel_s(rows[best], start_s)
            yield Check(name=f"{kernel} over the roofline", size=text(rows[best]), reached=reached)


def step_parity(measured: Measurements, hardware: HardwareProfile) -> list[StepParity]:
    """Every decode step that ran as a CUDA graph, priced without any host time."""
    rows = measured.of("llama_decode_step", providers=("graph",))
    if not rows or "bfloat16" not in hardware.peak_flops_per_s:
        return []
    price = CompiledPrice(step_scenario(hardware))
    return [
        StepParity(
            num_seqs=row.size["B"], context_tokens=row.size["context"], measured_s=row.p50_s,
            priced_s=price.step_ps(row.size["B"], row.size["B"] * row.size["context"], []) / PS_PER_S,
        )
        for row in rows
    ]  # fmt: skip


def step_scenario(hardware: HardwareProfile) -> Scenario:
    """The engine that the measured step belongs to; its workload is never drawn."""
    return Scenario(
        schema_version=1, question="?", kind="serving", hardware=hardware, model=load_model(STEP_MODEL),
        workload=Workload(trace=Trace(path="none.csv")), engine=EngineConfig(batching="continuous"),
    )  # fmt: skip


def step_checks(steps: list[StepParity]) -> Iterator[Check]:
    """Median and worst error of the decode steps' prices."""
    if steps:
        errors = [abs(one.priced_s / one.measured_s - 1.0) for one in steps]
        size = f"{len(steps)} steps of {STEP_MODEL}"
        yield Check(name="decode step, median error", size=size, reached=float(np.median(errors)), most=0.08)
        yield Check(name="decode step, worst error", size=size, reached=max(errors), most=0.15)
