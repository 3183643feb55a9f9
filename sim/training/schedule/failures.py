"""Workers that die: what a synchronous job loses to its last checkpoint, what an asynchronous one does not.

A collective job stands or falls as a whole: a failure of any worker undoes all steps since the last
checkpoint and costs a restart. Workers of a parameter server lose only the step that they were in.
Failures come at random (exponential, ``mtbf_s`` per worker), restarts and checkpoints included.
Not modelled: failures of servers and links, checkpoints written in the background.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.dataclass import dataclass
from sim.training.records import FailureColumns
from sim.training.scenario import Failures

MAX_FAILURES = 1_000_000


def young_daly_s(checkpoint_s: float, mtbf_s: float) -> float:
    """sqrt(2 delta M): the interval that balances checkpoints against lost work (Young 1974, Daly 2006)."""
    return sqrt(2 * checkpoint_s * mtbf_s)


def checkpoint_interval_s(failures: Failures, num_workers: int) -> float:
    """Training time between two checkpoints: as given, or Young's for the whole job's failures."""
    if failures.interval_s is not None:
        return failures.interval_s
    return young_daly_s(failures.checkpoint_s, failures.mtbf_s / num_workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """A synchronous job's updates on the wall clock, and what failed."""

    update_ps: Int64  # when each update was made for good
    failures: FailureColumns
    num_checkpoints: int
    checkpoint_ps: int


def with_failures(update_ps: Int64, failures: Failures, num_workers: int, seed: int) -> Restarted:
    """The schedule of a synchronous job that is interrupted; ``update_ps`` is the one without failures.

    A step that is done again takes as long as before. A checkpoint is written after the first update at
    which an interval of training has passed since the last one.
    """
    rng = stream(seed, "failures")
    mean_ps = failures.mtbf_s / num_workers * PS_PER_S
    interval_ps = max(1, round(checkpoint_interval_s(failures, num_workers) * PS_PER_S))
    stands_ps, restart_ps = round(failures.checkpoint_s * PS_PER_S), round(failures.restart_s * PS_PER_S)
    saved = _checkpoints(update_ps, interval_ps)
    wall = update_ps.astype(np.int64)
    rows: list[tuple[int, int, int, int]] = []
    num_checkpoints = 0
    now = done = 0  # the wall clock, and updates that a checkpoint holds
    next_failure = round(rng.standard_exponential() * mean_ps)
    while done < update_ps.size:
        end = int(saved[num_checkpoints]) if num_checkpoints < saved.size else update_ps.size
        base = int(update_ps[done - 1]) if done else 0
        writes = stands_ps if end < update_ps.size else 0
        needs = int(update_ps[end - 1]) - base + writes
        if next_failure >= now + needs:
            wall[done:end] = update_ps[done:end] - base + now
            now, done = now + needs, end
            num_checkpoints += writes > 0 or end < update_ps.size
            continue
        rows.append((next_failure, int(rng.integers(num_workers)), next_failure - now, restart_ps))
        now = next_failure + restart_ps
        next_failure = now + round(rng.standard_exponential() * mean_ps)
        if len(rows) >= MAX_FAILURES:
            raise _never_gets_on(failures, f"{done:,} of {update_ps.size:,} updates are saved")
    table = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Restarted(
        update_ps=wall,
        failures=FailureColumns(time_ps=table[0], worker=table[1], lost_ps=table[2], restart_ps=table[3]),
        num_checkpoints=num_checkpoints,
        checkpoint_ps=num_checkpoints * stands_ps,
    )


def _checkpoints(update_ps: Int64, interval_ps: int) -> Int64:
    """Updates (their number) after which a checkpoint is written, by training time."""
    found: list[int] = []
    last = 0
    while True:
        index = int(np.searchsorted(update_ps, last + interval_ps))
        if index >= update_ps.size - 1:
            return np.array(found, dtype=np.int64)
        found.append(index + 1)
        last = int(update_ps[index])


class Mishaps:
    """The failures of one independent worker: each loses the step in progress and takes a restart."""

    def __init__(self, failures: Failures, worker: int, seed: int) -> None:
        self._rng = stream(seed, f"failures of worker {worker}")
        self._failures = failures
        self._mean_ps = failures.mtbf_s * PS_PER_S
        self._restart_ps = round(failures.restart_s * PS_PER_S)
        self._next = round(self._rng.standard_exponential() * self._mean_ps)
        self.worker = worker
        self.rows: list[tuple[int, int, int, int]] = []

    def end_of(self, begin_ps: int, work_ps: int) -> int:
        """When work of ``work_ps`` that begins at ``begin_ps`` is done, however often it fails before."""
        while self._next < begin_ps + work_ps:
            failed = max(self._next, begin_ps)
            self.rows.append((failed, self.worker, failed - begin_ps, self._restart_ps))
            begin_ps = failed + self._restart_ps
            self._next = begin_ps + round(self._rng.standard_exponential() * self._mean_ps)
            if len(self.rows) >= MAX_FAILURES:
                raise _never_gets_on(self._failures, f"worker {self.worker} is in one and the same step")
        return begin_ps + work_ps


def _never_gets_on(failures: Failures, where: str) -> ScenarioError:
    return ScenarioError(
        f"the job does not get on: after {MAX_FAILURES:,} failures {where}",
        path="failures.mtbf_s",
        given=failures.mtbf_s,
        allowed="a time in which steps between two checkpoints can be done",
        hint="a larger mtbf_s, or a shorter interval_s",
    )


def failure_columns(rows: list[tuple[int, int, int, int]]) -> FailureColumns:
    """(time, worker, lost, restart) rows in order of time."""
    table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 4).T
    return FailureColumns(time_ps=table[0], worker=table[1], lost_ps=table[2], restart_ps=table[3])
