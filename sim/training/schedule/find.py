"""Which simulation finds a job's schedule, and the limits of its clock."""

from __future__ import annotations

import numpy as np

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.training.records import FailureColumns, Outcome, no_failures
from sim.training.schedule.asynchronous import run_asynchronous
from sim.training.schedule.failures import failure_columns
from sim.training.schedule.job import Job
from sim.training.schedule.synchronous import run_chunks, run_synchronous
from sim.training.schedule.times import MAX_RUN_S


def bounded_schedule(job: Job) -> tuple[Outcome, FailureColumns]:
    """``schedule``, as long as its moments are picoseconds of 64 bits."""
    try:
        outcome, failures = schedule(job)
    except OverflowError:
        raise _too_long(job) from None
    if outcome.end_ps > MAX_RUN_S * PS_PER_S or np.any(np.diff(outcome.update_ps, prepend=0) < 0):
        raise _too_long(job)
    return outcome, failures


def _too_long(job: Job) -> ScenarioError:
    return ScenarioError(
        f"{job.num_steps:,} steps of {job.num_workers:,} workers last longer than a run can",
        path="training.num_steps",
        given=job.num_steps,
        allowed=f"a run of at most {MAX_RUN_S:,.0f} s",
        hint="fewer steps; their mean does not change",
    )


def schedule(job: Job) -> tuple[Outcome, FailureColumns]:
    """When every update happens, and an asynchronous job's failures."""
    failures = no_failures()
    if job.exchange.chunks:
        return run_chunks(job), failures
    if not job.scheme.is_asynchronous:
        return run_synchronous(job), failures
    outcome, log = run_asynchronous(job)
    rows = [row for one in log.mishaps for row in one.rows if row[0] <= outcome.end_ps]
    return outcome, failure_columns(rows) if rows else failures
