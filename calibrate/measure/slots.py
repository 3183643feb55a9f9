"""The plan cut into slots of at most ten minutes, with the seconds that each is expected to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibrate.measure.points import Point, kernel_counts
from sim.hardware import HardwareProfile
from sim.model.config import load_model
from sim.model.counts import num_parameters

EXPECTED_SECONDS = 360  # planned work of a slot: the rest is for starting, compiling and being wrong
LAST_POINT_SECONDS = 20  # no new point begins when less is left
TIMING_SECONDS = 0.1  # repeats of a point that are aimed at
MIN_REPEATS, MAX_REPEATS = 10, 100
OVERHEAD_S = {"step": 4.0, "attention": 0.5, "decode": 0.5, "host_link": 0.2}  # data, check, capture
HOST_COPY_BYTES_PER_S = {"pinned": 40e9, "pageable": 5e9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Consecutive points of the plan."""

    number: int
    points: tuple[Point, ...]
    expected_s: float


def cut(points: Sequence[Point], hardware: HardwareProfile) -> list[Slot]:
    """Fills one slot after another."""
    slots: list[Slot] = []
    held: list[Point] = []
    held_s = 0.0
    for point in points:
        seconds = expected_s(point, hardware)
        if held and held_s + seconds > EXPECTED_SECONDS:
            slots.append(Slot(number=len(slots) + 1, points=tuple(held), expected_s=held_s))
            held, held_s = [], 0.0
        held.append(point)
        held_s += seconds
    if held:
        slots.append(Slot(number=len(slots) + 1, points=tuple(held), expected_s=held_s))
    return slots


def expected_s(point: Point, hardware: HardwareProfile) -> float:
    """Seconds that a point takes: inputs and check, then its repeats with a cold L2 each."""
    once = ideal_s(point, hardware) * 2 + 100e-6
    repeats = min(MAX_REPEATS, max(MIN_REPEATS, TIMING_SECONDS / once))
    return OVERHEAD_S.get(point.family, 0.3) + repeats * once


def ideal_s(point: Point, hardware: HardwareProfile) -> float:
    """The roofline's time of one call."""
    size = dict(point.size)
    if point.family == "step":
        model = load_model("llama-3.1-8b")
        kv_bytes = 131_072.0 * size["B"] * size["context"]
        return (2.0 * num_parameters(model) + kv_bytes) / hardware.hbm_bytes_per_s
    if point.family == "launch":
        return size["num_launches"] * 10e-6
    flops, moved = kernel_counts(point)
    if point.family == "host_link":
        return moved / HOST_COPY_BYTES_PER_S[point.provider]
    peak = hardware.peak_flops_per_s["bfloat16"]
    return max(flops / peak, moved / hardware.hbm_bytes_per_s)
