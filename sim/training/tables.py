"""A training run's records as tables, for CSV and Parquet, and as a Chrome trace, for ui.perfetto.dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sim.arrays import Column, Int64
from sim.training.records import TrainingResult

MAX_ROWS = 1_000_000
PS_PER_US = 1_000_000
WORKERS_PID = 1
Event = dict[str, Any]


def worker_columns(result: TrainingResult) -> list[Column]:
    """One row per worker: where its time went."""
    workers = result.outcome.workers
    times = ("compute", "data_stall", "wait", "exchange", "optimizer", "lost")
    return [
        _count("worker", np.arange(workers.num_steps.size)),
        _count("num_steps", workers.num_steps),
        *(_time(f"{name}_s", getattr(workers, f"{name}_ps")) for name in times),
        Column(name="slowdown", kind="count", values=np.array(result.outcome.slowdown_by_worker)),
    ]


def update_columns(result: TrainingResult) -> list[Column]:
    """One row per update (the first million)."""
    outcome = result.outcome
    kept = outcome.update_ps[:MAX_ROWS]
    columns = [_count("update", np.arange(kept.size)), _time("time_s", kept)]
    if outcome.slowest is not None:
        columns.append(_count("slowest_worker", outcome.slowest[:MAX_ROWS]))
    return columns


def gradient_columns(result: TrainingResult) -> list[Column]:
    """One row per applied gradient (the first million); none where every update has all workers' own."""
    gradients = result.outcome.gradients
    none = np.zeros(0, dtype=np.int64)
    return [
        _count("update", none if gradients is None else gradients.update[:MAX_ROWS]),
        _count("worker", none if gradients is None else gradients.worker[:MAX_ROWS]),
        _count("staleness_steps", none if gradients is None else gradients.staleness[:MAX_ROWS]),
    ]


def timeline_columns(result: TrainingResult) -> list[Column]:
    """The first worker-steps, moment by moment."""
    rows = result.timeline
    moments = ("release", "compute_start", "compute_end", "done")
    return [
        _count("worker", rows.worker),
        _count("step", rows.step),
        *(_time(f"{name}_s", getattr(rows, f"{name}_ps")) for name in moments),
        Column(name="is_cancelled", kind="flag", values=rows.is_cancelled.astype(bool)),
    ]


def failure_columns(result: TrainingResult) -> list[Column]:
    """One row per failure."""
    ledger = result.failures
    return [
        _time("time_s", ledger.time_ps),
        _count("worker", ledger.worker),
        _time("lost_s", ledger.lost_ps),
        _time("restart_s", ledger.restart_ps),
    ]


def scaling_columns(result: TrainingResult) -> list[Column]:
    """One row per number of workers that can run; none where no scaling curve is asked for."""
    runs = [one for one in result.scaling if not one.refused]
    names = ("gradients_per_s", "step_s", "exposed_comm_s", "stall_s", "efficiency")
    return [
        _count("num_workers", np.array([one.num_workers for one in runs], dtype=np.int64)),
        *(
            Column(
                name=name, kind="count", values=np.array([getattr(one, name) for one in runs], dtype=float)
            )
            for name in names
        ),
    ]


RECORD_TABLES: Mapping[str, Callable[[TrainingResult], list[Column]]] = {
    "workers": worker_columns,
    "updates": update_columns,
    "gradients": gradient_columns,
    "timeline": timeline_columns,
    "failures": failure_columns,
    "scaling": scaling_columns,
}


def _time(name: str, values: Int64) -> Column:
    return Column(name=name, kind="time", values=values)


def _count(name: str, values: Int64) -> Column:
    return Column(name=name, kind="count", values=values)


def trace_events(result: TrainingResult) -> dict[str, Any]:
    """The first worker-steps, a track per worker: waiting, computing, exchanging, and the failures."""
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
