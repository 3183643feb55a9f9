"""Measures the points of a slot, one row after another, until the slot's time is over."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from triton.errors import TritonError

from calibrate.measure import device, rows
from calibrate.measure.cases import prepare
from calibrate.measure.correctness import WrongResultError, check
from calibrate.measure.points import Point
from calibrate.measure.slots import LAST_POINT_SECONDS, Slot
from kernels.launch import LaunchError

# What a library says of a size that it does not run: a row with the reason, and on with the next.
REFUSALS = (LaunchError, WrongResultError, TritonError, RuntimeError, NotImplementedError)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a slot."""

    measured: int
    refused: int
    left: int


class DeviceLostError(Exception):
    """Nothing more can be measured in this process."""


def measure_slot(slot: Slot, folder: Path, deadline_s: float, say: Say) -> Outcome:
    """Every point of the slot that has no row yet; ``deadline_s`` is on the monotonic clock."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in rows.drop_cut_off_lines(folder):
        say(f"{file.name}: its last line was cut off, and is measured again")
    known = rows.known_keys(folder)
    todo = [point for point in slot.points if point.key not in known]
    versions, state = device.versions(), device.State()
    refused = 0
    for index, point in enumerate(todo):
        if time.monotonic() > deadline_s - LAST_POINT_SECONDS:
            return Outcome(measured=index - refused, refused=refused, left=len(todo) - index)
        lost: DeviceLostError | None = None
        try:
            found = measure(point, "cuda")
        except DeviceLostError as error:
            lost, found = error, {"refused": f"the device was lost: {error}"}
        refused += "refused" in found
        context = {**versions, **state.now(), "measured_at": now(), "slot": slot.number}
        rows.append(folder, point.family, rows.row_of(point, {**found, **context}))
        say(line_of(point, found))
        if lost is not None:
            raise lost  # its row stands, so that the next run goes on behind it
    return Outcome(measured=len(todo) - refused, refused=refused, left=0)


def measure(point: Point, where: str) -> dict[str, object]:
    """Error first, then times; a refusal in words in place of them."""
    try:
        case = prepare(point, where)
        found = case.error()
        check(" ".join(point.key), found, case.max_error)
        timing = case.time()
    except REFUSALS as refusal:
        reason = " ".join(str(refusal).split())
        if "CUDA error" in reason:
            raise DeviceLostError(f"{' '.join(point.key)}: {reason[:160]}") from refusal
        return {"refused": f"{type(refusal).__name__}: {reason[:160]}"}
    finally:
        tidy()
    times = {"p50_s": timing.p50_s, "p20_s": timing.p20_s, "p80_s": timing.p80_s}
    error = {} if found is None else {"relative_error": f"{found:.3g}"}
    return {
        **{name: f"{value:.6g}" for name, value in times.items()},
        "num_repeats": timing.num_repeats,
        **error,
    }


def tidy() -> None:
    """Gives the memory of a point back before the next one's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def rehearse(points: Sequence[Point], say: Say) -> int:
    """Small points on the CPU, kernels in the interpreter: is every path sound? Number of refusals."""
    refused = 0
    for point in points:
        found = measure(point, "cpu")
        refused += "refused" in found
        say(line_of(point, found))
    return refused


def line_of(point: Point, found: dict[str, object]) -> str:
    """One line of progress."""
    name = " ".join(point.key)
    if "refused" in found:
        return f"  {name}: {found['refused']}"
    return f"  {name}: {float(str(found['p50_s'])) * 1e6:.1f} us, error {found.get('relative_error', 'n/a')}"


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
