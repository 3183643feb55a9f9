"""Asynchronous schemes with one heap entry per worker: SSP, ASP and K-async on a server or without exchange.

A server's NIC serves in the order of asking, so that a push's end is known when it begins: the end of a
worker's computation is the only event. Equal to ``worker``'s processes bit for bit: ties go by worker.
ASP without exchange decides nothing at all: its updates are the workers' own sums, merged.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from sim.arrays import Int64
from sim.scenario.dataclass import dataclass
from sim.training.records import GradientColumns, Outcome, Steady, WorkerColumns
from sim.training.schedule.failures import Mishaps
from sim.training.schedule.job import Job
from sim.training.sync import UNBOUNDED, StalenessBarrier


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The applied gradients in order, and how long workers were held back."""

    time_ps: Int64  # when the server had it
    worker: Int64
    version_read: Int64
    computed_ps: Int64  # when the worker had computed it
    gradients_per_update: int = 1
    mishaps: tuple[Mishaps, ...] = ()
    rounds: tuple[int, int] | None = None
    """The first and the last time that the slowest worker let others go on: gradients so far."""

    @property
    def update_ps(self) -> Int64:
        """When each update was there."""
        return self.time_ps[self.gradients_per_update - 1 :: self.gradients_per_update]

    def released_ps(self, version_read: Int64) -> Int64:
        """When workers that read these versions had been let go: with the update that made it."""
        return np.where(version_read > 0, self.update_ps[np.maximum(version_read, 1) - 1], 0)

    def wait_ps(self, num_workers: int, num_gradients: int) -> Int64:
        """By worker: how long it was held back before those steps of its that are among these gradients."""
        worker, done = self.worker[:num_gradients], self.time_ps[:num_gradients]
        order = np.argsort(worker, kind="stable")
        released = self.released_ps(self.version_read[:num_gradients])[order]
        before = np.roll(done[order], 1)
        before[np.flatnonzero(np.diff(worker[order], prepend=-1))] = 0
        waits = np.zeros(num_workers, dtype=np.int64)
        np.add.at(waits, worker[order], released - before)
        return waits


def run_asynchronous(job: Job) -> tuple[Outcome, Log]:
    """The whole run: ``num_gradients`` gradients, by whichever worker brings them."""
    log = log_of(job)
    return outcome_of(job, log), log


def log_of(job: Job) -> Log:
    """Every gradient of the run."""
    is_free = job.staleness_bound >= UNBOUNDED and job.failures is None
    if job.scheme.waits_for_update:
        return _k_async(job)
    if is_free and job.exchange.pattern == "free":
        return _merged(job)
    return _unbounded(job) if is_free else _bounded(job)


class _Starts:
    """Workers that begin a step: they pull the weights in turn, and compute."""

    def __init__(self, job: Job) -> None:
        self.occupies_ps, self.takes_ps = job.exchange.occupies_ps, job.exchange.takes_ps
        self.works = [job.times.steps_of(worker).__next__ for worker in range(job.num_workers)]
        self.local_ps: list[int] = (job.optimizer_ps + job.link_ps).tolist()
        self._outbound_free = 0
        self.mishaps: tuple[Mishaps, ...] = ()
        if job.failures is not None:
            self.mishaps = tuple(Mishaps(job.failures, worker, job.seed) for worker in range(job.num_workers))

    def computed_at(self, worker: int, now_ps: int) -> int:
        """When a worker that is released now has computed: data loader, computation, its own update."""
        turn = self._outbound_free if self._outbound_free > now_ps else now_ps
        self._outbound_free = turn + self.occupies_ps
        begin, work = turn + self.takes_ps, self.works[worker]() + self.local_ps[worker]
        return self.mishaps[worker].end_of(begin, work) if self.mishaps else begin + work


def _bounded(job: Job) -> Log:
    """A staleness bound. A heap entry is time x workers + worker: earliest first, then by worker."""
    n, starts = job.num_workers, _Starts(job)
    computed_at, occupies = starts.computed_at, starts.occupies_ps
    carried = starts.takes_ps - occupies
    complete = StalenessBarrier(n, job.staleness_bound).complete
    columns = _Columns()
    add_time, add_worker = columns.times.append, columns.workers.append
    add_version, add_computed = columns.versions.append, columns.computed.append
    version_of = [0] * n
    inbound = 0
    is_held, first, last = False, 0, 0
    heap = [computed_at(worker, 0) * n + worker for worker in range(n)]
    heapify(heap)
    for version in range(1, job.num_gradients + 1):
        time, worker = divmod(heap[0], n)
        inbound = (inbound if inbound > time else time) + occupies
        done = inbound + carried
        add_time(done)
        add_worker(worker)
        add_version(version_of[worker])
        add_computed(time)
        released = complete(worker)
        if len(released) == 1 and released[0] == worker:
            version_of[worker] = version
            heapreplace(heap, computed_at(worker, done) * n + worker)
            continue
        heappop(heap)
        if not released:
            is_held = True
        elif is_held:
            last = version
            first = first or last
        for one in released:
            version_of[one] = version
            heappush(heap, computed_at(one, done) * n + one)
    return columns.log(starts, rounds=(first, last) if first else None)


def _unbounded(job: Job) -> Log:
    """``_bounded`` without a bound: nobody is held back, and the version read is one's own last update."""
    n, starts = job.num_workers, _Starts(job)
    works, local, occupies, takes = starts.works, starts.local_ps, starts.occupies_ps, starts.takes_ps
    carried = takes - occupies
    columns = _Columns()
    add_time, add_worker, add_computed = (
        columns.times.append, columns.workers.append, columns.computed.append,
    )  # fmt: skip
    heap = [starts.computed_at(worker, 0) * n + worker for worker in range(n)]
    heapify(heap)
    inbound, outbound = 0, n * occupies
    for _ in range(job.num_gradients):
        time, worker = divmod(heap[0], n)
        inbound = (inbound if inbound > time else time) + occupies
        done = inbound + carried
        add_time(done)
        add_worker(worker)
        add_computed(time)
        turn = outbound if outbound > done else done
        outbound = turn + occupies
        heapreplace(heap, (turn + takes + works[worker]() + local[worker]) * n + worker)
    worker_of = np.frombuffer(columns.workers, dtype=np.int64)
    order = np.argsort(worker_of, kind="stable")
    previous = np.roll(order, 1) + 1
    previous[np.flatnonzero(np.diff(worker_of[order], prepend=-1))] = 0
    read = np.empty_like(previous)
    read[order] = previous
    return replace(columns.log(starts), version_read=read)


def _k_async(job: Job) -> Log:
    """An update per ``num_awaited`` gradients; who brought one waits for it and goes on with new weights."""
    n, awaited, starts = job.num_workers, job.num_awaited, _Starts(job)
    carried = starts.takes_ps - starts.occupies_ps
    columns = _Columns()
    times, workers = columns.times, columns.workers
    version_of = [0] * n
    inbound = 0
    heap = [starts.computed_at(worker, 0) * n + worker for worker in range(n)]
    heapify(heap)
    for version in range(1, job.num_gradients // awaited + 1):
        for _ in range(awaited):
            time, worker = divmod(heappop(heap), n)
            inbound = max(inbound, time) + starts.occupies_ps
            times.append(inbound + carried)
            workers.append(worker)
            columns.versions.append(version_of[worker])
            columns.computed.append(time)
        for one in sorted(workers[-awaited:]):
            version_of[one] = version
            heappush(heap, starts.computed_at(one, times[-1]) * n + one)
    return columns.log(starts, awaited)


class _Columns:
    """A log while it grows."""

    def __init__(self) -> None:
        self.times, self.workers = array("q"), array("q")
        self.versions, self.computed = array("q"), array("q")

    def log(
        self, starts: _Starts, gradients_per_update: int = 1, rounds: tuple[int, int] | None = None
    ) -> Log:
        """The columns, with the failures of the workers that made them."""
        time_ps, worker, version_read, computed_ps = (
            np.array(one, dtype=np.int64) for one in (self.times, self.workers, self.versions, self.computed)
        )
        return Log(
            time_ps=time_ps,
            worker=worker,
            version_read=version_read,
            computed_ps=computed_ps,
            gradients_per_update=gradients_per_update,
            mishaps=starts.mishaps,
            rounds=rounds,
        )


def _merged(job: Job) -> Log:
    """Nobody waits for anybody: every worker's own cumulative sum, merged by time and worker."""
    ends = _own_sums(job)
    sizes = np.array([one.size for one in ends])
    time = np.concatenate(ends)
    order = np.argsort(time, kind="stable")[: job.num_gradients]
    rank = np.full(time.size, -1, dtype=np.int64)
    rank[order] = np.arange(order.size)
    # A worker reads the weights right after its own last update: the version is that update's number.
    read = np.roll(rank, 1) + 1
    read[np.cumsum(sizes) - sizes] = 0
    worker = np.repeat(np.arange(job.num_workers), sizes)
    return Log(
        time_ps=time[order],
        worker=worker[order],
        version_read=read[order],
        computed_ps=time[order],
    )


def _own_sums(job: Job) -> list[Int64]:
    """When each worker finishes each step, drawn until all of the run's gradients are among them."""
    takes = [job.times.of_worker(worker) for worker in range(job.num_workers)]
    ends: list[Int64] = [np.zeros(0, dtype=np.int64) for _ in takes]
    short = list(range(job.num_workers))
    count = job.num_steps
    while True:
        for worker in short:
            compute, stall = takes[worker](count)
            last = int(ends[worker][-1]) if ends[worker].size else 0
            more = last + np.cumsum(compute + stall + int(job.optimizer_ps[worker]))
            ends[worker] = np.concatenate([ends[worker], more])
        covered = min(int(one[-1]) for one in ends)
        known = sum(int(np.searchsorted(one, covered, side="right")) for one in ends)
        if known >= job.num_gradients:
            return ends
        # An estimate of when the run ends; workers whose drawn steps end before that draw more.
        horizon = covered * job.num_gradients / max(known, 1) * 1.01
        short = [worker for worker, one in enumerate(ends) if one[-1] <= horizon]
        count = max(16, job.num_steps // 16)


def outcome_of(job: Job, log: Log) -> Outcome:
    """The run's schedule and where the workers' time went."""
    k = log.gradients_per_update
    index = np.arange(log.time_ps.size, dtype=np.int64)
    workers = _workers(job, log, (0, log.time_ps.size))
    steps = np.maximum(workers.num_steps, 1)
    step_ps = (workers.compute_ps + workers.data_stall_ps) / steps
    mean_ps = workers.compute_ps.sum(dtype=np.float64) / max(1, int(workers.num_steps.sum()))
    cycle_ps = mean_ps + float(job.optimizer_ps.mean()) + 2 * job.exchange.takes_ps
    end_ps = int(log.time_ps[-1]) if log.time_ps.size else 0
    return Outcome(
        update_ps=log.update_ps,
        gradients=GradientColumns(update=index // k, worker=log.worker, version_read=log.version_read),
        workers=workers,
        slowest=None,
        end_ps=end_ps,
        ideal_ps=round(cycle_ps * job.num_steps),
        no_stall_ps=end_ps - round(float(workers.data_stall_ps.mean())),
        slowdown_by_worker=tuple((step_ps / max(mean_ps, 1.0)).tolist()),
        steady=_steady(job, log),
    )


FEWEST_ROUNDS = 10  # of all workers: below, a run under a bound is too short to leave its start-up out


def _steady(job: Job, log: Log) -> Steady | None:
    """The run without its start-up, where enough of it is left."""
    if log.rounds is None:
        return None
    begin, end = log.rounds
    if end - begin < FEWEST_ROUNDS * job.num_workers:
        return None
    return Steady(
        begin=begin,
        end=end,
        begin_ps=int(log.time_ps[begin - 1]),
        end_ps=int(log.time_ps[end - 1]),
        workers=_workers(job, log, (begin, end)),
    )


def _workers(job: Job, log: Log, span: tuple[int, int]) -> WorkerColumns:
    """Sums over the steps that ended among these gradients, drawn once more; the rest is exchange."""
    n = job.num_workers
    begin, end = span
    before = np.bincount(log.worker[:begin], minlength=n)
    until_end = np.bincount(log.worker[:end], minlength=n)
    compute, stall = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for worker in range(n):
        computes, stalls = job.times.of_worker(worker)(int(until_end[worker]))
        compute[worker] = computes[before[worker] :].sum()
        stall[worker] = np.sum(np.broadcast_to(stalls, computes.shape)[before[worker] :])
    since, until = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    since[log.worker[:begin]] = log.time_ps[:begin]  # the last entry of each worker stays
    until[log.worker[:end]] = log.time_ps[:end]
    lost = np.zeros(n, dtype=np.int64)
    for one in log.mishaps:
        inside = (row for row in one.rows if since[one.worker] <= row[0] < until[one.worker])
        lost[one.worker] = sum(row[2] + row[3] for row in inside)
    num_steps = until_end - before
    waits = log.wait_ps(n, end) - log.wait_ps(n, begin)
    updating = job.optimizer_ps * num_steps
    return WorkerColumns(
        num_steps=num_steps,
        compute_ps=compute,
        data_stall_ps=stall,
        wait_ps=waits,
        exchange_ps=np.maximum(until - since - compute - stall - updating - lost - waits, 0),
        optimizer_ps=updating,
        lost_ps=lost,
    )
