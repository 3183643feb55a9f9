"""The run as a Chrome trace, for ui.perfetto.dev: a track per request and a track per replica.

Chrome's JSON format: ``ts`` and ``dur`` in microseconds, ``X`` a slice, ``i`` an instant, ``C`` a counter,
``M`` a name. Not shown: when a preempted request is scheduled again (the records hold only the eviction).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.serving.records import ABORTED, REFUSED, STATUS_NAMES, UNFINISHED, RequestColumns, RunResult

PS_PER_US = 1_000_000
REQUESTS_PID = 1
FIRST_REPLICA_PID = 10
MAX_REQUESTS = 1000
MAX_SEGMENTS = 40_000

Event = dict[str, Any]


def trace_events(
    result: RunResult, max_requests: int = MAX_REQUESTS, max_segments: int = MAX_SEGMENTS
) -> dict[str, Any]:
    """The trace of one run: its first requests, and what the replicas did until those ended."""
    requests = min(max_requests, result.requests.arrival_ps.size)
    ends = result.segments.end_ps
    run_end = max(int(ends.max(initial=0)), int(result.requests.finish_ps.max(initial=0)))
    horizon = _horizon(result.requests, requests, run_end)
    kept = np.flatnonzero(result.segments.start_ps <= horizon)[:max_segments]
    note = _note(result, requests, kept.size)
    events = [
        *_names(result, requests),
        *_request_events(result, requests, run_end),
        *_preemption_events(result, requests),
        *_segment_events(result, kept, ends),
        *_idle_counters(result, kept, ends),
    ]
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "question": result.scenario.question,
            "variant": result.variant,
            "seed": result.seed,
            "note": note,
        },
    }


def write_trace(result: RunResult, path: str | Path, max_requests: int = MAX_REQUESTS) -> None:
    """Write the trace as JSON; open it in ui.perfetto.dev or chrome://tracing."""
    write_events(trace_events(result, max_requests), path)


def write_events(trace: Mapping[str, Any], path: str | Path) -> None:
    """Write a trace of any kind of run as JSON."""
    text = json.dumps(trace, separators=(",", ":"), allow_nan=False)
    Path(path).write_text(text, encoding="utf-8")


def _us(time_ps: int | np.int64) -> float:
    """Picoseconds as the microseconds that the format wants."""
    return int(time_ps) / PS_PER_US


def _horizon(requests: RequestColumns, count: int, run_end: int) -> int:
    """When the last kept request ended; the run's end where one never did, or all are kept."""
    if count == requests.arrival_ps.size or not count:
        return run_end
    ended = requests.finish_ps[:count]
    return run_end if (ended < 0).any() else int(ended.max())


def _note(result: RunResult, requests: int, segments: int) -> str:
    """What was left out, in words."""
    missing = result.requests.arrival_ps.size - requests
    gone = result.segments.start_ps.size - segments
    if not missing and not gone:
        return "complete"
    return (
        f"truncated: the first {requests:,} of {result.requests.arrival_ps.size:,} requests "
        f"and {segments:,} of {result.segments.start_ps.size:,} engine segments"
    )


def _names(result: RunResult, requests: int) -> Iterator[Event]:
    """Track names and their order."""
    replicas = [int(r) for r in np.unique(result.segments.replica)]
    for replica in replicas:
        pid = FIRST_REPLICA_PID + replica
        gpus = result.scenario.engine.gpus_per_replica
        size = f" ({gpus} GPUs)" if gpus > 1 else ""
        yield _meta("process_name", pid, 0, f"replica {replica}: {result.scenario.hardware.name}{size}")
        yield _meta("thread_name", pid, 1, "engine steps")
    yield _meta("process_name", REQUESTS_PID, 0, f"requests of {result.variant}, seed {result.seed}")
    for i in range(requests):
        kind = result.class_names[result.requests.class_id[i]] if result.class_names else ""
        label = f"request {i} {kind}".rstrip()
        yield _meta("thread_name", REQUESTS_PID, i + 1, label)
        yield {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": REQUESTS_PID,
            "tid": i + 1,
            "args": {"sort_index": i},
        }


def _meta(what: str, pid: int, tid: int, name: str) -> Event:
    """A name of a process or a thread."""
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}


def _request_events(result: RunResult, count: int, run_end: int) -> Iterator[Event]:
    """Queue, prefill and decode of each request, as far as it came."""
    rows = result.requests
    for i in range(count):
        arrival, status = int(rows.arrival_ps[i]), int(rows.status[i])
        if arrival < 0:
            continue  # a turn that was never asked: its session did not come this far
        end = run_end if status == UNFINISHED else int(rows.finish_ps[i])
        marks = [arrival, int(rows.first_scheduled_ps[i]), int(rows.first_token_ps[i]), end]
        described = {
            "prompt_tokens": int(rows.prompt_tokens[i]),
            "output_tokens": int(rows.output_tokens[i]),
            "generated_tokens": int(rows.generated_tokens[i]),
            "cached_tokens": int(rows.cached_tokens[i]),
            "num_preemptions": int(rows.num_preemptions[i]),
            "replica": int(rows.replica[i]),
            "status": STATUS_NAMES[status],
        }
        for name, start, stop in _phases(marks):
            yield _slice(name, REQUESTS_PID, i + 1, (start, stop), described)
        if status in (REFUSED, ABORTED):
            yield _instant(STATUS_NAMES[status], REQUESTS_PID, i + 1, end, {})


def _phases(marks: list[int]) -> Iterator[tuple[str, int, int]]:
    """(name, start, end) of each phase that began; the last one that began lasts to the end."""
    end = marks[3]
    for place, name in enumerate(("queue", "prefill", "decode")):
        start = marks[place]
        if start < 0:
            return
        stop = marks[place + 1] if marks[place + 1] >= 0 else end
        if stop > start:
            yield name, start, stop


def _preemption_events(result: RunResult, count: int) -> Iterator[Event]:
    """An instant on the victim's track."""
    ledger = result.preemptions
    for i in np.flatnonzero(ledger.request < count):
        lost = {"recompute_tokens": int(ledger.recompute_tokens[i]), "replica": int(ledger.replica[i])}
        yield _instant("preempted", REQUESTS_PID, int(ledger.request[i]) + 1, int(ledger.time_ps[i]), lost)


def _segment_events(
    result: RunResult, kept: npt.NDArray[np.intp], ends: npt.NDArray[np.int64]
) -> Iterator[Event]:
    """What each replica ran, and its levels at the start of it."""
    rows = result.segments
    for i in kept:
        pid = FIRST_REPLICA_PID + int(rows.replica[i])
        start = int(rows.start_ps[i])
        described = {
            "num_decode": int(rows.num_decode[i]),
            "decode_context_tokens": int(rows.decode_context_tokens[i]),
            "num_prefill": int(rows.num_prefill[i]),
            "prefill_tokens": int(rows.prefill_tokens[i]),
            "first_step_ms": int(rows.first_step_ps[i]) / 1e9,
        }
        yield _slice(_segment_name(result, int(i)), pid, 1, (start, int(ends[i])), described)
        kv_used = rows.kv_tokens[i] + rows.kv_reserved[i] + rows.kv_internal[i]
        levels = {
            "running": int(rows.num_running[i]),
            "waiting": int(rows.num_waiting[i]),
            "KV tokens allocated": int(kv_used),
        }
        yield from (_counter(name, pid, start, value) for name, value in levels.items())


def _segment_name(result: RunResult, i: int) -> str:
    """What a segment did, short enough for a slice."""
    rows = result.segments
    prefill, decode, steps = int(rows.num_prefill[i]), int(rows.num_decode[i]), int(rows.num_steps[i])
    parts = []
    if prefill:
        parts.append(f"prefill {int(rows.prefill_tokens[i])} tokens")
    if decode:
        parts.append(f"decode ×{steps}, {decode} seqs")
    return " + ".join(parts) or f"steps ×{steps}"


def _idle_counters(
    result: RunResult, kept: npt.NDArray[np.intp], ends: npt.NDArray[np.int64]
) -> Iterator[Event]:
    """Running falls to zero where a replica has nothing to do until its next segment."""
    for replica in np.unique(result.segments.replica[kept]):
        mine = kept[result.segments.replica[kept] == replica]
        starts = result.segments.start_ps[mine]
        idle = np.append(ends[mine][:-1] < starts[1:], True)
        for time_ps in ends[mine][idle]:
            yield _counter("running", FIRST_REPLICA_PID + int(replica), int(time_ps), 0)


def _slice(name: str, pid: int, tid: int, span: tuple[int, int], described: dict[str, Any]) -> Event:
    """A complete event."""
    start, end = span
    return {
        "ph": "X",
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": _us(start),
        "dur": _us(end - start),
        "args": described,
    }


def _instant(name: str, pid: int, tid: int, time_ps: int, described: dict[str, Any]) -> Event:
    """A mark on one track."""
    return {"ph": "i", "s": "t", "name": name, "pid": pid, "tid": tid, "ts": _us(time_ps), "args": described}


def _counter(name: str, pid: int, time_ps: int, value: int) -> Event:
    """A level from now on."""
    return {"ph": "C", "name": name, "pid": pid, "ts": _us(time_ps), "args": {"value": value}}
