"""Workers as SimPy processes: every step, message and wait an event. The reference.

At one instant messages arrive first, then released workers go on, then computations end; each in the order of
the workers. The arrays of ``schedule.synchronous`` and the heap of ``schedule.asynchronous`` say the same,
and so do the timelines of ``schedule.timeline``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

import numpy as np
from simpy import Environment, Event, Resource
from simpy.events import NORMAL, EventPriority

from sim.training.records import WorkerStepColumns
from sim.training.schedule.failures import Mishaps
from sim.training.schedule.job import Job
from sim.training.sync import StalenessBarrier

Steps = Generator[Event, object, None]
Row = tuple[int, int, int, int, int, int, int]


@dataclass(slots=True, kw_only=True)
class Trail:
    """What the processes record."""

    rows: list[Row] = field(default_factory=list)  # fields of WorkerStepColumns
    gradients: list[tuple[int, int, int]] = field(default_factory=list)  # (time, worker, version read)
    updates: list[int] = field(default_factory=list)
    wait_ps: dict[int, int] = field(default_factory=dict)

    def columns(self) -> WorkerStepColumns:
        """The rows in order of worker and step."""
        table = np.array(sorted(self.rows), dtype=np.int64).reshape(-1, 7).T
        late = np.flatnonzero(table[6])
        if late.size:  # the update cuts late workers off
            cut = np.array(self.updates)[table[1, late]]
            table[3:6, late] = np.minimum(table[3:6, late], cut)
        return WorkerStepColumns(
            worker=table[0],
            step=table[1],
            release_ps=table[2],
            compute_start_ps=table[3],
            compute_end_ps=table[4],
            done_ps=table[5],
            is_cancelled=table[6],
        )


class Turn(Event):
    """An event that happens by itself after ``delay_ps``, like SimPy's ``Timeout``, with a rank.

    Among the events of one instant it comes after all plain ones, and by rank.
    """

    def __init__(self, env: Environment, delay_ps: int, rank: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, EventPriority(NORMAL + rank), delay_ps)


class ServerNic:
    """Both directions of a parameter server's NIC, as SimPy resources.

    k shards each hold 1/k of the model behind a full-duplex link. A push carries S/k bytes into every shard,
    a pull as many out of it; each direction of each NIC carries one worker's message at a time, in the order
    of asking. Every worker talks to all shards alike, so that all NICs have the same queue: one of them is
    simulated and stands for all. After n workers at once: 2 n S / (k B). Not modelled: the server's
    arithmetic (it hides behind its NIC), and messages cut into pieces that interleave.
    """

    def __init__(self, env: Environment, occupies_ps: int, takes_ps: int) -> None:
        self._env = env
        self._occupies_ps, self._takes_ps = occupies_ps, takes_ps
        self._inbound, self._outbound = Resource(env, 1), Resource(env, 1)

    def push(self) -> Generator[Event, object, None]:
        """A gradient's way into the server, queueing included."""
        return self._carry(self._inbound)

    def pull(self) -> Generator[Event, object, None]:
        """The weights' way back."""
        return self._carry(self._outbound)

    def _carry(self, direction: Resource) -> Generator[Event, object, None]:
        with direction.request() as turn:
            yield turn
            yield self._env.timeout(self._occupies_ps)
        yield self._env.timeout(self._takes_ps - self._occupies_ps)


class Asynchronous:
    """BSP, SSP, ASP (a staleness bound) and K-async (a count) on a parameter server or without exchange."""

    def __init__(self, job: Job, max_gradients: int) -> None:
        self.job, self.clock, self.trail = job, Environment(), Trail()
        self._limit = max_gradients
        self._barrier = StalenessBarrier(job.num_workers, job.staleness_bound)
        self._batch: list[int] = []
        self._version_of = [0] * job.num_workers
        self._go: dict[int, Event] = {}
        exchange = job.exchange
        is_server = exchange.is_server
        self._nic = ServerNic(self.clock, exchange.occupies_ps, exchange.takes_ps) if is_server else None
        self._stop = self.clock.event()

    def run(self) -> Trail:
        """All gradients up to the limit."""
        for worker in range(self.job.num_workers):
            self.clock.process(self._worker(worker))
        self.clock.run(until=self._stop)
        return self.trail

    def _worker(self, worker: int) -> Steps:
        job, clock, n = self.job, self.clock, self.job.num_workers
        pairs = job.times.pairs_of(worker)
        mishaps = job.failures and Mishaps(job.failures, worker, job.seed)
        link = int(job.link_ps[worker])
        local = int(job.optimizer_ps[worker]) + link
        step = 0
        while True:
            yield Turn(clock, 0, 1 + worker)
            release, version = int(clock.now), self._version_of[worker]
            if self._nic is not None:
                yield from self._nic.pull()
            stall, compute = next(pairs)
            begin, work = int(clock.now), stall + compute + local
            end = mishaps.end_of(begin, work) if mishaps else begin + work
            yield Turn(clock, end - begin, 1 + n + worker)
            if self._nic is not None:
                yield from self._nic.push()
            done = int(clock.now)
            self.trail.rows.append((worker, step, release, end - compute - local, end - link, done, 0))
            self._go[worker] = clock.event()
            self._bring(worker, version)
            yield self._go[worker]
            waits = self.trail.wait_ps
            waits[worker] = waits.get(worker, 0) + int(clock.now) - done
            step += 1

    def _bring(self, worker: int, version: int) -> None:
        """Apply a gradient that has arrived, and release the workers that waited for it."""
        trail, job = self.trail, self.job
        trail.gradients.append((int(self.clock.now), worker, version))
        if job.scheme.waits_for_update:
            self._batch.append(worker)
            released = sorted(self._batch) if len(self._batch) == job.num_awaited else []
            if released:
                self._batch = []
                trail.updates.append(int(self.clock.now))
        else:
            trail.updates.append(int(self.clock.now))
            released = self._barrier.complete(worker)
        for one in released:
            self._version_of[one] = len(trail.updates)
            self._go[one].succeed()
        if len(trail.gradients) == self._limit:
            self._stop.succeed()


class Synchronous:
    """Every update waits for a fixed number of workers: BSP by collective or server, K-sync, local SGD."""

    def __init__(self, job: Job, max_steps: int) -> None:
        self.job, self.clock, self.trail = job, Environment(), Trail()
        self._num_steps = max_steps
        self._pairs = [job.times.pairs_of(worker) for worker in range(job.num_workers)]
        self.is_server, self.is_collective = job.exchange.is_server, job.exchange.is_collective
        self.link_ps: list[int] = job.link_ps.tolist()
        self.optimizer_ps: list[int] = job.optimizer_ps.tolist()
        gather = job.exchange.after_update_ps  # behind the slowest worker's optimizer
        self.begin_ps = [max(self.optimizer_ps) + gather] * job.num_workers if gather else self.optimizer_ps
        self.backward_share: list[float] = job.backward_share.tolist()

    def run(self) -> Trail:
        """All steps up to the limit."""
        self.clock.run(until=self.clock.process(self._job()))
        return self.trail

    def _job(self) -> Steps:
        job = self.job
        rounds = range(0, self._num_steps, job.local_steps)
        for index, begin in enumerate(rounds):
            count = min(job.local_steps, self._num_steps - begin)
            update = _Update(self, index, count)
            yield self.clock.process(update.run())
            self.trail.updates.append(int(self.clock.now))

    def next_pair(self, worker: int) -> tuple[int, int]:
        """(stall, compute) of the worker's next step."""
        return next(self._pairs[worker])


class _Update:
    """One update: the workers' processes, and the exchange that brings them together."""

    def __init__(self, whole: Synchronous, index: int, num_local: int) -> None:
        self.job, self.clock, self.trail, self.whole = whole.job, whole.clock, whole.trail, whole
        self.index, self.num_local = index, num_local
        self.release = int(whole.clock.now)
        exchange = self.job.exchange
        self.nic = ServerNic(self.clock, exchange.occupies_ps, exchange.takes_ps)
        buckets = exchange.buckets if exchange.overlap else ()
        self.num_ready = [0] * (len(buckets) + 1)
        self.ready = [self.clock.event() for _ in self.num_ready]
        self.fractions = [fraction for fraction, _ in buckets]
        self.enough = self.clock.event()
        self.num_pushed = 0
        self.is_open = True

    def run(self) -> Steps:
        """From the update before to this one."""
        exchange = self.job.exchange
        for worker in range(self.job.num_workers):
            self.clock.process(self._worker(worker))
        if not self.whole.is_collective:
            yield self.enough
        elif exchange.overlap:
            for event, (_, duration) in zip(self.ready[:-1], exchange.buckets, strict=True):
                yield event
                yield self.clock.timeout(duration)
            yield self.ready[-1]
        else:
            yield self.ready[-1]
            yield self.clock.timeout(sum(duration for _, duration in exchange.buckets))
        self.is_open = False

    def _worker(self, worker: int) -> Steps:
        whole, clock = self.whole, self.clock
        link = whole.link_ps[worker]
        if whole.is_server:
            yield from self.nic.pull()
        elif self.index:
            yield clock.timeout(whole.begin_ps[worker])
        stall = compute = 0
        for step in range(self.num_local):
            one_stall, one = whole.next_pair(worker)
            stall, compute = stall + one_stall, compute + one
            if step:
                yield clock.timeout(whole.optimizer_ps[worker])
        start = int(clock.now) + stall
        if whole.is_collective:
            back = round(compute * whole.backward_share[worker])
            yield clock.timeout(stall + compute - back)
            yield from self._backward(back)
            end = int(clock.now) - link
        else:
            yield Turn(clock, stall + compute + link, 1 + self.job.num_workers + worker)
            end = int(clock.now) - link
            if whole.is_server:
                yield from self.nic.push()
            self._bring(worker)
        self._note(worker, (start, end))

    def _backward(self, back: int) -> Steps:
        gone = 0
        for index, fraction in enumerate([*self.fractions, 1.0]):
            until = round(back * fraction)
            if until > gone:
                yield self.clock.timeout(until - gone)
                gone = until
            self.num_ready[index] += 1
            if self.num_ready[index] == self.job.num_workers:
                self.ready[index].succeed()

    def _bring(self, worker: int) -> None:
        """A gradient has arrived; the update comes with the last one awaited."""
        self.num_pushed += 1
        if self.num_pushed <= self.job.num_awaited:
            self.trail.gradients.append((int(self.clock.now), worker, self.index))
        if self.num_pushed == self.job.num_awaited:
            self.enough.succeed()

    def _note(self, worker: int, computed: tuple[int, int]) -> None:
        is_late = not self.is_open or self.num_pushed > self.job.num_awaited
        row = (worker, self.index, self.release, *computed, int(self.clock.now), int(is_late))
        self.trail.rows.append(row)


def simulate_events(job: Job, max_steps: int) -> Trail:
    """The first ``max_steps`` steps of every worker (asynchronous: as many gradients), event by event."""
    if job.scheme.is_asynchronous:
        return Asynchronous(job, max(1, min(job.num_gradients, max_steps * job.num_workers))).run()
    return Synchronous(job, min(job.num_steps, max_steps)).run()
