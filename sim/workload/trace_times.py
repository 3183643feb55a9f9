"""Arrival times of a trace: their unit, and seconds that were taken for milliseconds caught.

Dates need no unit, and a stated ``time_unit`` is never second-guessed. Otherwise formats that fix the unit
(Mooncake: ms; vLLM: s) and names that end in a unit are believed; other numbers are taken as seconds, or
as ms where they are whole and would be less than one request in ten seconds as seconds. Whole numbers
between that and one request a second could be either, and are refused. Times since 1970 (above 1e9 s)
tell their unit by size. Whatever was found is refused where it means fewer than 0.02 or more than 1,000
requests a second over at least 16 requests.
"""

from __future__ import annotations

import numpy as np

from sim.arrays import PS_PER_S, Float64, Int64
from sim.errors import ScenarioError
from sim.workload.arrivals import MAX_SPAN_PS
from sim.workload.trace_rows import ARRIVAL, RawTrace

PS_PER_UNIT = {"s": PS_PER_S, "ms": 1_000_000_000, "us": 1_000_000, "ns": 1_000}

SLOWEST_PER_S, FASTEST_PER_S = 0.02, 1000.0
_ENOUGH_TO_JUDGE = 16


def times_ps(raw: RawTrace, time_unit: str) -> tuple[Int64, tuple[str, ...]]:
    """Times in ps from the earliest one on, in the order of the file, and notes on what was assumed."""
    times = raw.times
    assert times is not None
    bad = np.flatnonzero(~(np.isfinite(times) & (times >= 0)))
    if bad.size:
        raise raw.error(
            "not a time", int(bad[0]), ARRIVAL, given=float(times[bad[0]]), allowed="numbers of 0 or more"
        )
    if np.all(times == np.floor(times)) and times.max() < 2**53:
        times = times.astype(np.int64)
    unit, note = _unit_of(raw, times, time_unit)
    first, last = times.min(), times.max()
    if float(last - first) * PS_PER_UNIT[unit] >= MAX_SPAN_PS:
        raise raw.error(
            "the trace is too long for a clock of picoseconds",
            int(np.argmax(times)),
            ARRIVAL,
            given=f"{float(last - first):.6g} {unit} after the first",
            allowed=f"{MAX_SPAN_PS / PS_PER_S:.3g} s",
            hint="is time_unit right?",
        )
    offsets = times - first
    if offsets.dtype == np.int64:
        return offsets * PS_PER_UNIT[unit], note
    return np.rint(offsets * PS_PER_UNIT[unit]).astype(np.int64), note


def _unit_of(raw: RawTrace, times: Float64 | Int64, time_unit: str) -> tuple[str, tuple[str, ...]]:
    if raw.is_dated:
        if time_unit != "auto":
            raise ScenarioError(
                "the trace has dates, which need no unit",
                path="workload.trace.time_unit",
                given=time_unit,
                allowed="auto",
            )
        return "ns", ()
    if time_unit != "auto":
        return time_unit, ()
    unit, note = raw.unit, ""
    if unit is None:
        unit = _guess(raw, times)
        note = f"{raw.names[ARRIVAL]} was taken as {unit}; workload.trace.time_unit states it."
    _refuse_absurd_rate(raw, times, unit)
    return unit, (note,) if note else ()


def _guess(raw: RawTrace, times: Float64 | Int64) -> str:
    size = float(times.max())
    for unit, least in (("ns", 1e18), ("us", 1e15), ("ms", 1e12), ("s", 1e9)):
        if least <= size < 1e19 and float(times.min()) >= least / 10:
            return unit
    per_s = _rate(times, "s")
    if per_s is None or per_s >= 1:
        return "s"
    is_whole = times.dtype == np.int64
    if per_s >= 0.1 and is_whole:
        raise raw.file.error(
            "the unit of the times cannot be told",
            f"column {raw.names[ARRIVAL]}",
            given=f"{per_s:.3g} requests/s if they are seconds, {per_s * 1000:.3g} if ms",
            hint="workload.trace.time_unit: s, or ms",
        )
    return "ms" if is_whole else "s"


def _rate(times: Float64 | Int64, unit: str) -> float | None:
    """Mean arrivals per second, were ``unit`` the unit; None where all come at once."""
    span_s = float(times.max() - times.min()) * PS_PER_UNIT[unit] / PS_PER_S
    return (len(times) - 1) / span_s if span_s > 0 else None


def _refuse_absurd_rate(raw: RawTrace, times: Float64 | Int64, unit: str) -> None:
    per_s = _rate(times, unit)
    if len(times) < _ENOUGH_TO_JUDGE or per_s is None or SLOWEST_PER_S <= per_s <= FASTEST_PER_S:
        return
    likely = [
        f"time_unit: {other} ({rate:.3g} requests/s)"
        for other in PS_PER_UNIT
        if other != unit and (rate := _rate(times, other)) and SLOWEST_PER_S <= rate <= FASTEST_PER_S
    ]
    raise raw.file.error(
        "seconds taken for milliseconds, or the reverse? The request rate is beyond belief",
        f"column {raw.names[ARRIVAL]}",
        given=f"{per_s:.3g} requests/s, the times taken as {unit}",
        allowed=f"{SLOWEST_PER_S:g} to {FASTEST_PER_S:,.0f} requests/s, "
        "unless workload.trace.time_unit is stated",
        hint=" or ".join([*likely[:2], f"time_unit: {unit} if it is meant so"]),
    )
