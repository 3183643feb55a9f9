"""A training run as a Chrome trace, for ui.perfetto.dev: a track per worker."""

from __future__ import annotations

from typing import Any

from sim.training.records import TrainingResult

PS_PER_US = 1_000_000
WORKERS_PID = 1
Event = dict[str, Any]


def trace_events(result: TrainingResult) -> dict[str, Any]:
    """The first worker-steps: waiting, computing and exchanging, and the failures."""
    rows = result.timeline
    names: list[Event] = [
        {"ph": "M", "name": "process_name", "pid": WORKERS_PID, "args": {"name": "workers"}},
        *(
            {
                "ph": "M",
                "name": "thread_name",
                "pid": WORKERS_PID,
                "tid": worker,
                "args": {"name": f"worker {worker}"},
            }
            for worker in range(int(rows.worker.max(initial=-1)) + 1)
        ),
    ]
    events: list[Event] = []
    for row in range(rows.worker.size):
        moments = [
            int(column[row])
            for column in (rows.release_ps, rows.compute_start_ps, rows.compute_end_ps, rows.done_ps)
        ]
        what = ("pull or data loader", "cancelled" if rows.is_cancelled[row] else "compute", "exchange")
        for name, begin, end in zip(what, moments, moments[1:], strict=False):
            if end > begin:
                events.append(_slice(name, int(rows.worker[row]), (begin, end), int(rows.step[row])))
    last = max((int(moment) for moment in rows.done_ps), default=0)
    for time, worker in zip(result.failures.time_ps.tolist(), result.failures.worker.tolist(), strict=True):
        if time <= last:
            events.append(
                {
                    "ph": "i",
                    "s": "t",
                    "name": "failure",
                    "pid": WORKERS_PID,
                    "tid": worker,
                    "ts": time / PS_PER_US,
                }
            )
    return {
        "traceEvents": [*names, *events],
        "displayTimeUnit": "ms",
        "otherData": {
            "question": result.scenario.question,
            "variant": result.variant,
            "seed": result.seed,
            "note": f"the first {rows.worker.size} worker-steps",
        },
    }


def _slice(name: str, worker: int, span: tuple[int, int], step: int) -> Event:
    begin, end = span
    return {
        "ph": "X",
        "name": name,
        "pid": WORKERS_PID,
        "tid": worker,
        "ts": begin / PS_PER_US,
        "dur": (end - begin) / PS_PER_US,
        "args": {"step": step},
    }
