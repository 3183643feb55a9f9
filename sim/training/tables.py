"""A training run's records as tables, for CSV and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sim.arrays import Column, Int64
from sim.training.records import TrainingResult

MAX_ROWS = 1_000_000


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
