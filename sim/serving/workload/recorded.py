"""Requests played from a recorded trace: order, time unit, repetition, and the blocks that prompts share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sim.arrays import PS_PER_S, Float64, Int64
from sim.errors import ScenarioError
from sim.serving.records import RequestTable
from sim.serving.scenario import Trace, Workload
from sim.serving.workload.arrivals import MAX_ROWS, MAX_SPAN_PS, arrival_times
from sim.serving.workload.drawn import closed_loop_think, timeout_column, warmup_columns
from sim.serving.workload.trace_formats import load_raw
from sim.serving.workload.trace_rows import ARRIVAL, RawTrace, checked_lengths, served_rows

PS_PER_UNIT = {"s": PS_PER_S, "ms": 1_000_000_000, "us": 1_000_000, "ns": 1_000}

READ, PLAYED = "Read from ", "Played of it: "  # how the notes on a trace begin


SLOWEST_PER_S, FASTEST_PER_S = 0.02, 1000.0


_ENOUGH_TO_JUDGE = 16
SHORTEST_SPAN_S, LONGEST_SPAN_S = 1.0, 366 * 86_400.0
_ENOUGH_FOR_A_SPAN = 4  # two or three requests may come within a second


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
    unit, why = _unit_of(raw, times, time_unit)
    first, last = times.min(), times.max()
    span_s = float(last - first) * PS_PER_UNIT[unit] / PS_PER_S
    _refuse_absurd_span(raw, times, unit, span_s)
    offsets = times - first
    if offsets.dtype != np.int64:
        return np.rint(offsets * PS_PER_UNIT[unit]).astype(np.int64), (_as_read(raw, unit, why, span_s),)
    return offsets * PS_PER_UNIT[unit], (_as_read(raw, unit, why, span_s),)


def _as_read(raw: RawTrace, unit: str, why: str, span_s: float) -> str:
    """What was understood of the file's times: who reads it sees a wrong unit."""
    assert raw.times is not None
    count = len(raw.times)
    rate = f", {(count - 1) / span_s:.3g} requests/s" if span_s > 0 else ", all at once"
    return f"{READ}{raw.file.name}: {count:,} requests over {span_s:,.6g} s{rate}; {why.format(unit)}."


def _refuse_absurd_span(raw: RawTrace, times: Float64 | Int64, unit: str, span_s: float) -> None:
    """A trace of less than a second, or of more than a year, was read in the wrong unit."""
    if span_s <= SHORTEST_SPAN_S:
        if len(times) < _ENOUGH_FOR_A_SPAN or span_s == 0:
            return
    elif span_s * PS_PER_S < MAX_SPAN_PS:
        return
    problem = "is over in less than a second: are these seconds, taken for milliseconds?"
    if span_s > SHORTEST_SPAN_S:
        problem = "is too long for a clock of picoseconds: cut it, or are its times in another unit?"
    if span_s > LONGEST_SPAN_S:
        problem = "is too long, more than a year: are these milliseconds, taken for seconds?"
    likely = [
        f"time_unit: {other} ({_span_s(times, other):,.4g} s)"
        for other in PS_PER_UNIT
        if other != unit and SHORTEST_SPAN_S < _span_s(times, other) < MAX_SPAN_PS / PS_PER_S
    ]
    at_once = "workload.arrivals: {process: all_at_once} if all were sent at once"
    raise raw.error(
        f"the trace {problem}",
        int(np.argmax(times)),
        ARRIVAL,
        given=f"{len(times):,} requests in {span_s:.4g} s, the times taken as {unit}",
        allowed=f"more than {SHORTEST_SPAN_S:g} s, less than {MAX_SPAN_PS / PS_PER_S:.3g} s",
        hint=" or ".join([*likely[:2], *([at_once] if span_s <= SHORTEST_SPAN_S else [])]),
    )


def _span_s(times: Float64 | Int64, unit: str) -> float:
    """Seconds from the first to the last, were ``unit`` the unit."""
    return float(times.max() - times.min()) * PS_PER_UNIT[unit] / PS_PER_S


def _unit_of(raw: RawTrace, times: Float64 | Int64, time_unit: str) -> tuple[str, str]:
    """The unit of the times, and how it is known, with ``{}`` where the unit stands."""
    if raw.is_dated:
        if time_unit != "auto":
            raise ScenarioError(
                "the trace has dates, which need no unit",
                path="workload.trace.time_unit",
                given=time_unit,
                allowed="auto",
            )
        return "ns", "its times are dates"
    if time_unit != "auto":
        return time_unit, "its times are in {}, as time_unit says"
    unit, why = raw.unit, "its times are in {}, as the file says"
    if unit is None:
        unit = _guess(raw, times)
        why = f"{raw.names[ARRIVAL]} was taken as {{}}, and workload.trace.time_unit states it"
    _refuse_absurd_rate(raw, times, unit)
    return unit, why


def _guess(raw: RawTrace, times: Float64 | Int64) -> str:
    size = float(times.max())
    for unit, least in (("ns", 1e18), ("us", 1e15), ("ms", 1e12), ("s", 1e9)):
        if least <= size < 1e19 and float(times.min()) >= least / 10:
            return unit
    per_s = _rate(times, "s")
    if per_s is None or (per_s >= 1 and raw.is_unit_guessed):
        return "s"
    is_whole = times.dtype == np.int64
    if not raw.is_unit_guessed or (per_s >= 0.1 and is_whole):
        raise raw.file.error(
            "the unit of the times cannot be told",
            f"column {raw.names[ARRIVAL]}",
            given=f"{per_s:.3g} requests/s if they are seconds, {per_s * 1000:.3g} if ms",
            hint="workload.trace.time_unit: s, or ms",
        )
    return "ms" if is_whole else "s"


def _rate(times: Float64 | Int64, unit: str) -> float | None:
    """Mean arrivals per second, were ``unit`` the unit; None where all come at once."""
    span_s = _span_s(times, unit)
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


def read_trace(workload: Workload, seed: int, base_dir: Path) -> RequestTable:
    """The requests of ``workload.trace``. The first one kept arrives at 0.

    The order of what happens: sorted by time, ``skip_requests`` left out, times scaled, the whole
    played ``repeat`` times (each time new prompts, the length of the trace and one mean gap later), cut to
    ``num_requests`` and ``duration_s``. ``arrivals`` replaces the file's times, or gives those it has not.
    """
    trace = workload.trace
    assert trace is not None
    _refuse_drawn_lengths(workload)
    raw = load_raw(trace, base_dir)
    prompts, outputs = checked_lengths(raw)
    served, notes = served_rows(raw, prompts, outputs)
    order, times, time_notes = _in_order(raw, workload, served)
    if trace.skip_requests >= len(order):
        raise ScenarioError(
            "nothing is left of the trace",
            path="workload.trace.skip_requests",
            given=trace.skip_requests,
            allowed=f"less than its {len(order):,} requests",
        )
    order = order[trace.skip_requests :]
    total = _num_rows(workload, trace, len(order))
    if times is None:
        timing, more = _drawn_times(workload, seed, base_dir, total)
    else:
        timing, more = _played_times(workload, times[trace.skip_requests :], total)
    num_rows = len(timing["arrival_ps"])
    more = (*more, *_part_note(num_rows, len(order), timing["arrival_ps"]))
    rows = np.resize(order, num_rows)  # repeats the order as often as needed
    return RequestTable(
        prompt_tokens=prompts[rows],
        output_tokens=outputs[rows],
        timeout_ps=timeout_column(workload.timeout_s, len(rows)),
        notes=(*time_notes, *notes, *more),
        **timing,
        **_block_segments(raw, prompts, rows, len(order), trace.hash_block_tokens),
        **warmup_columns(workload),
    )


def _refuse_drawn_lengths(workload: Workload) -> None:
    for name in ("prompt_tokens", "output_tokens", "shared_prefix", "sessions", "classes"):
        if getattr(workload, name):
            raise ScenarioError(
                "a trace has its own requests",
                path=f"workload.{name}",
                hint=f"leave out {name}, or the trace",
            )


def _in_order(
    raw: RawTrace, workload: Workload, served: Int64
) -> tuple[Int64, Int64 | None, tuple[str, ...]]:
    """The served rows by time (stable), their times from the first on, and notes; no times if drawn."""
    assert workload.trace is not None
    if raw.times is None or workload.arrivals is not None:
        if workload.arrivals is None:
            raise raw.file.error(
                "the trace has no arrival times",
                given=", ".join(raw.names.values()),
                hint="give workload.arrivals, e.g. {process: poisson, requests_per_s: 8}, or name the "
                "column: workload.trace.columns: {arrival: NAME}",
            )
        unused = "" if raw.times is None else " in place of its own times"
        return served, None, (f"Lengths from {raw.file.name}, arrivals drawn{unused}.",)
    kept = replace(raw, times=raw.times[served], where=lambda row: raw.where(int(served[row])))
    times, notes = times_ps(kept, workload.trace.time_unit)
    late = int(np.count_nonzero(np.diff(times) < 0))
    if late == 0:
        return served, times, notes
    order = np.argsort(times, kind="stable")
    return (
        served[order],
        times[order],
        (*notes, f"Sorted by time: {late:,} of the rows came earlier than the row above."),
    )


def _num_rows(workload: Workload, trace: Trace, num_kept: int) -> int:
    total = num_kept * trace.repeat
    if workload.num_requests is not None:
        total = min(total, workload.num_requests)
    if total > MAX_ROWS:
        raise ScenarioError(
            "too many requests",
            path="workload.trace.repeat",
            given=trace.repeat,
            allowed=f"at most {MAX_ROWS:,} requests in all",
            hint="num_requests, or fewer repeats",
        )
    return total


def _drawn_times(
    workload: Workload, seed: int, base_dir: Path, total: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    assert workload.arrivals is not None
    times = arrival_times(workload.arrivals, total, workload.duration_s, seed)
    timing = {
        "arrival_ps": times,
        "think_ps": closed_loop_think(workload.arrivals, times, seed, base_dir),
        "closed_loop": workload.arrivals.is_closed_loop,
    }
    return timing, _shortfall(workload, len(times))


def _played_times(workload: Workload, times: Int64, total: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The trace's own times, scaled, repeated, cut."""
    trace = workload.trace
    assert trace is not None
    once = times - times[0]
    if trace.time_scale != 1.0:
        _refuse_long_span(float(once[-1]) * trace.time_scale)
        once = np.rint(once * trace.time_scale).astype(np.int64)
    rounds = -(-total // len(once))
    mean_gap = round(int(once[-1]) / (len(once) - 1)) if len(once) > 1 else 0
    period = int(once[-1]) + mean_gap
    _refuse_long_span(float(period) * rounds)
    played = (np.arange(rounds, dtype=np.int64)[:, None] * period + once).reshape(-1)[:total]
    if workload.duration_s is not None:
        played = played[: np.searchsorted(played, round(min(workload.duration_s, 9e6) * PS_PER_S))]
    return {"arrival_ps": played}, _shortfall(workload, len(played))


def _refuse_long_span(span_ps: float) -> None:
    if span_ps >= MAX_SPAN_PS:
        raise ScenarioError(
            "the scaled and repeated trace is too long for a clock of picoseconds",
            path="workload.trace",
            given=f"{span_ps / PS_PER_S:.4g} s",
            allowed=f"{MAX_SPAN_PS / PS_PER_S:.3g} s",
            hint="a smaller time_scale or repeat, or num_requests",
        )


def _shortfall(workload: Workload, num_rows: int) -> tuple[str, ...]:
    if workload.num_requests is None or num_rows >= workload.num_requests:
        return ()
    return (f"The trace gives {num_rows:,} of the {workload.num_requests:,} requests asked for.",)


def _part_note(num_played: int, num_there: int, arrival_ps: Int64) -> tuple[str, ...]:
    """That only a part was played: what holds for it need not hold for the busiest hour of the whole."""
    if num_played >= num_there:
        return ()
    span_s = max(0, int(arrival_ps[-1])) / PS_PER_S if num_played else 0.0
    played = f"{PLAYED}the first {num_played:,} of {num_there:,} requests, over {span_s:,.6g} s"
    return (f"{played}; the rest may come faster or be longer.",)


def _block_segments(
    raw: RawTrace, prompts: Int64, rows: Int64, num_kept: int, block_tokens: int
) -> dict[str, Any]:
    """Token identity from hash ids: block k of a prompt is (its hash id's stream, 0, tokens of the block).

    Equal ids mean equal blocks; the last id stands for all that is left of the prompt. Each repetition of the
    trace has streams of its own, so that the share of shared tokens stays what it was.
    """
    if raw.hash_ids is None:
        return {}
    counts = np.fromiter(map(len, raw.hash_ids), dtype=np.int64, count=len(raw.hash_ids))
    if raw.hash_block_tokens is None:
        block_tokens = raw.layout_block_tokens or block_tokens
        _check_counts(raw, counts, block_tokens)
    else:
        block_tokens = raw.hash_block_tokens
    flat = np.fromiter(chain.from_iterable(_at_least_one(raw.hash_ids)), dtype=np.int64)
    names, streams = np.unique(flat, return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(np.maximum(counts, 1))])
    of_row = np.maximum(counts, 1)[rows]
    offsets = np.concatenate([[0], np.cumsum(of_row)])
    owner = np.repeat(np.arange(len(rows)), of_row)
    place = np.arange(int(offsets[-1])) - offsets[owner]
    stream = streams[starts[rows[owner]] + place] + (owner // num_kept) * len(names)
    left = prompts[rows[owner]] - place * block_tokens
    length = np.where(place == of_row[owner] - 1, left, block_tokens)
    rounds = -(-len(rows) // num_kept)
    return {
        "segment_offsets": offsets,
        "segment_stream": stream,
        "segment_start": np.zeros(len(stream), dtype=np.int64),
        "segment_length": length,
        "output_stream": rounds * len(names) + np.arange(len(rows), dtype=np.int64),
    }


def _at_least_one(hash_ids: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """A made-up id for a prompt of 0 tokens, which is played as one token of its own."""
    return [ids or [-1 - row] for row, ids in enumerate(hash_ids)]


def _check_counts(raw: RawTrace, counts: Int64, block_tokens: int) -> None:
    expected = np.ceil(raw.prompt_tokens / block_tokens).astype(np.int64)
    bad = np.flatnonzero(counts != expected)
    if bad.size:
        row = int(bad[0])
        raise raw.file.error(
            f"{counts[row]:,} hash ids for {raw.prompt_tokens[row]:,.0f} tokens",
            f"{raw.where(row)}: key hash_ids",
            allowed=f"{expected[row]:,} ids of {block_tokens} tokens, the last block maybe partial",
            hint="workload.trace.hash_block_tokens, if the trace's blocks have another size",
        )
