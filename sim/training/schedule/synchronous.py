"""Schedules with a barrier, as arrays, and BSP on a ring whose every chunk is timed on every link.

Chunk by chunk there is no barrier but the chunks themselves: a rank sends its first chunk when its own
bucket is ready, and goes on when it has received its last one, so ranks may leave the ring at different
moments. ``ring_sends_ps`` times one bucket; they follow each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sim.arrays import Int64
from sim.scenario.dataclass import dataclass
from sim.training.exchange.prices import chunk_transfer_ps
from sim.training.exchange.ring import chunk_of, num_ring_steps, ring_done_ps, ring_sends_ps
from sim.training.exchange.sharded import sharded_step_ps
from sim.training.records import GradientColumns, Outcome, RingSendColumns, WorkerColumns
from sim.training.schedule.job import Job
from sim.training.schedule.times import Float64

BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some steps (rounds of local SGD) of all workers, relative to the update before each."""

    compute: Int64  # (workers, steps)
    stall: Int64 | None
    offset: Int64  # (workers, steps or 1): from the update before until the worker begins
    link: Int64 | None = None  # (workers, 1): added by a worker's own slow link, on its way to the server

    @property
    def work_end(self) -> Int64:
        """When each worker has computed."""
        work = self.compute if self.stall is None else self.compute + self.stall
        ends: Int64 = self.offset + work
        return ends

    @property
    def arrival(self) -> Int64:
        """When each worker's gradient asks for its turn at the server."""
        ends = self.work_end
        return ends if self.link is None else ends + self.link

    def alike(self) -> Block:
        """Every worker takes the mean compute time of the step, and nobody waits for data."""
        mean = np.rint(self.compute.mean(axis=0)).astype(np.int64)
        return replace(self, compute=np.broadcast_to(mean, self.compute.shape), stall=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Per step: its length, when the last awaited worker had computed, and (K-sync) who counted."""

    length: Int64
    computed: Int64
    is_used: Int64 | None = None  # (workers, steps): 1 where the update has the worker's gradient


def step_lengths(job: Job, block: Block) -> Lengths:
    """The steps' lengths under the job's exchange."""
    exchange = job.exchange
    if exchange.pattern == "single_process":
        return _single_process(job, block)
    if exchange.sharded is not None:
        top = block.work_end.max(axis=0)
        slowest = block.compute.max(axis=0)
        extra = sharded_step_ps(exchange.sharded, slowest) - slowest
        return Lengths(length=top + np.maximum(extra, 0), computed=top)
    return lengths_by_buckets(job, block)


def lengths_by_buckets(job: Job, block: Block) -> Lengths:
    """The steps' lengths where all exchange is in the buckets, or at a server."""
    return _collective(job, block) if job.exchange.is_collective else _first_ones(job, block)


def _collective(job: Job, block: Block) -> Lengths:
    """The DDP recursion on one communication stream, every bucket ready when the last worker's is."""
    exchange = job.exchange
    ends = block.work_end
    top = ends.max(axis=0)
    if not exchange.overlap:
        return Lengths(length=top + sum(duration for _, duration in exchange.buckets), computed=top)
    compute, ends, share = _leading_workers(job, block, ends)
    back = np.rint(compute * share).astype(np.int64)
    begin = ends - back
    done = np.zeros_like(top)
    for fraction, duration in exchange.buckets:
        ready = top if fraction == 1.0 else (begin + np.rint(back * fraction).astype(np.int64)).max(axis=0)
        done = np.maximum(done, ready) + duration
    return Lengths(length=np.maximum(done, top), computed=top)


def _leading_workers(job: Job, block: Block, ends: Int64) -> tuple[Int64, Int64, Float64]:
    """(compute, end, backward share) of the workers that can hold a bucket back.

    Where workers differ in nothing but their compute time, the slowest is last with every bucket.
    """
    share = job.backward_share[: len(ends), None]
    alike = (
        block.stall is None and np.ptp(job.backward_share) == 0 and np.ptp(block.offset, axis=0).max() == 0
    )
    if not alike:
        return block.compute, ends, share
    return block.compute.max(axis=0, keepdims=True), ends.max(axis=0, keepdims=True), share[:1]


def _single_process(job: Job, block: Block) -> Lengths:
    """torch.nn.DataParallel: one thread per GPU launches its forward pass, one at a time under the lock."""
    exchange, ends = job.exchange, block.work_end
    back = np.rint(block.compute * job.backward_share[: len(ends), None]).astype(np.int64)
    turns = exchange.host_ps * (1 + np.arange(len(ends)))[:, None]
    forward = (turns + ends - back).max(axis=0)
    computed = forward + back.max(axis=0)
    reduced = exchange.buckets[0][1]
    length = computed + exchange.replicate_ps + 2 * exchange.gather_ps + reduced
    return Lengths(length=length, computed=ends.max(axis=0))


def _first_ones(job: Job, block: Block) -> Lengths:
    """No exchange or a parameter server: the update comes with the last awaited push, served in turn."""
    exchange, awaited = job.exchange, job.num_awaited
    ends = block.arrival
    if awaited == len(ends):
        top = ends.max(axis=0)
        if exchange.occupies_ps == 0:
            return Lengths(length=top + exchange.takes_ps, computed=top)
        behind = exchange.occupies_ps * np.arange(awaited - 1, -1, -1)[:, None]
        return Lengths(length=(np.sort(ends, axis=0) + behind).max(axis=0) + exchange.takes_ps, computed=top)
    order = np.argsort(ends, axis=0, kind="stable")[:awaited]
    first = np.take_along_axis(ends, order, axis=0)
    behind = exchange.occupies_ps * np.arange(awaited - 1, -1, -1)[:, None]
    length = (first + behind).max(axis=0) + exchange.takes_ps
    used = np.zeros_like(ends)
    np.put_along_axis(used, order, 1, axis=0)
    return Lengths(length=length, computed=first[-1], is_used=used)


def offsets(job: Job) -> Int64:
    """From an update until each worker begins its next step: its optimizer, or its turn to pull."""
    exchange = job.exchange
    if exchange.is_server:
        return exchange.occupies_ps * np.arange(job.num_workers) + exchange.takes_ps
    if exchange.after_update_ps:
        return np.full(job.num_workers, job.optimizer_ps.max() + exchange.after_update_ps)
    if exchange.pattern == "single_process":
        return np.full(job.num_workers, job.optimizer_ps[0])
    return job.optimizer_ps


def blocks(job: Job) -> Iterator[Block]:
    """The run's steps in blocks that are small enough for memory."""
    n = job.num_workers
    takes = [job.times.of_worker(worker) for worker in range(n)]
    rounds = max(1, BLOCK_ENTRIES // n // job.local_steps)
    begin_at = _first_offsets(job)
    for begin in range(0, job.num_steps, rounds * job.local_steps):
        count = min(rounds * job.local_steps, job.num_steps - begin)
        compute = np.empty((n, count), dtype=np.int64)
        stall = np.empty_like(compute) if job.times.has_stalls else None
        for worker, take in enumerate(takes):
            compute[worker], waits = take(count)
            if stall is not None:
                stall[worker] = waits
        offset = np.broadcast_to(offsets(job)[:, None], (n, -(-count // job.local_steps)))
        if begin == 0:
            offset = offset.copy()
            offset[:, 0] = begin_at
        link = job.link_ps[:, None] if job.exchange.link_ps else None
        yield _rounds(job, Block(compute=compute, stall=stall, offset=offset, link=link))


def _first_offsets(job: Job) -> Int64:
    """The first step has nothing to update; from a parameter server the weights are pulled all the same."""
    is_server = job.exchange.is_server
    return offsets(job) if is_server else np.zeros(job.num_workers, dtype=np.int64)


def _rounds(job: Job, block: Block) -> Block:
    """Local SGD: ``local_steps`` steps and their updates count as one, exchanged at its end."""
    if job.local_steps == 1:
        return block
    starts = np.arange(0, block.compute.shape[1], job.local_steps)
    sizes = np.diff([*starts, block.compute.shape[1]])
    compute = np.add.reduceat(block.compute, starts, axis=1)
    stall = None if block.stall is None else np.add.reduceat(block.stall, starts, axis=1)
    # Every step but the last has its update inside the round; the last one's comes with the average.
    inside = job.optimizer_ps[:, None] * (sizes - 1)
    return replace(block, compute=compute, stall=stall, offset=block.offset + inside)


def run_synchronous(job: Job) -> Outcome:
    """The whole run."""
    parts = [_Part.of(job, block) for block in blocks(job)]
    length = np.concatenate([part.lengths.length for part in parts])
    update_ps = np.cumsum(length)
    last = int(update_ps[-1]) + int(offsets(job).max()) * (not job.exchange.is_server)
    ideal = sum(part.ideal_ps for part in parts)
    extra = np.sum([part.extra_ps for part in parts], axis=0)
    return Outcome(
        update_ps=update_ps,
        gradients=_gradients(job, parts),
        workers=_workers(job, parts),
        slowest=np.concatenate([part.slowest for part in parts]),
        end_ps=last,
        ideal_ps=ideal,
        no_stall_ps=sum(part.no_stall_ps for part in parts),
        slowdown_by_worker=tuple((1 + extra / max(1, ideal)).tolist()),
        num_cancelled=sum(part.num_cancelled for part in parts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What is kept of a block."""

    lengths: Lengths
    slowest: Int64
    num_steps: int
    compute_ps: Int64
    data_stall_ps: Int64
    wait_ps: Int64
    offset_ps: Int64
    lost_ps: Int64
    ideal_ps: int
    no_stall_ps: int
    extra_ps: Int64  # per worker: what it alone adds to the ideal

    @property
    def num_cancelled(self) -> int:
        """Steps that an update did not wait for."""
        used = self.lengths.is_used
        return 0 if used is None else int(used.size - used.sum())

    @staticmethod
    def of(job: Job, block: Block) -> _Part:
        """The block, run and summed up."""
        lengths = step_lengths(job, block)
        ends = block.arrival
        n = job.num_workers
        stall = np.zeros(n, dtype=np.int64) if block.stall is None else block.stall.sum(axis=1)
        compute, lost = block.compute.sum(axis=1), np.zeros(n, dtype=np.int64)
        wait = np.maximum(lengths.computed - ends, 0).sum(axis=1)
        if lengths.is_used is not None:
            compute, lost, wait = _of_cancelled(block, lengths)
        alike = block.alike()
        ideal = step_lengths(job, alike).length
        bare = lengths.length
        if block.stall is not None:
            bare = step_lengths(job, replace(block, stall=None)).length
        return _Part(
            lengths=lengths,
            slowest=(ends if lengths.is_used is None else ends * lengths.is_used).argmax(axis=0),
            num_steps=block.compute.shape[1],
            compute_ps=compute,
            data_stall_ps=stall,
            wait_ps=wait,
            offset_ps=block.offset.sum(axis=1),
            lost_ps=lost,
            ideal_ps=int(ideal.sum()),
            no_stall_ps=int(bare.sum()),
            extra_ps=np.maximum(ends - alike.arrival, 0).sum(axis=1),
        )


def _of_cancelled(block: Block, lengths: Lengths) -> tuple[Int64, Int64, Int64]:
    """(compute, lost, wait) where an update cuts off late workers."""
    assert lengths.is_used is not None
    begun = block.work_end - block.compute
    done = np.clip(lengths.length - begun, 0, block.compute)
    wait = np.maximum(lengths.computed - block.arrival, 0) * lengths.is_used
    return (
        (block.compute * lengths.is_used).sum(axis=1),
        (done * (1 - lengths.is_used)).sum(axis=1),
        wait.sum(axis=1),
    )


def _workers(job: Job, parts: list[_Part]) -> WorkerColumns:
    """Sums; what is left of the whole time is exchange that nothing hides."""
    n = job.num_workers
    total = sum(int(part.lengths.length.sum()) for part in parts)
    used = [part.lengths.is_used for part in parts]
    steps = np.full(n, job.num_steps)
    if used[0] is not None:
        steps = np.sum([one.sum(axis=1) for one in used if one is not None], axis=0)
    compute = np.sum([part.compute_ps for part in parts], axis=0)
    stall = np.sum([part.data_stall_ps for part in parts], axis=0)
    wait = np.sum([part.wait_ps for part in parts], axis=0)
    lost = np.sum([part.lost_ps for part in parts], axis=0)
    is_server = job.exchange.is_server
    per_update = np.zeros(n, dtype=np.int64) if is_server else job.optimizer_ps
    updating = per_update * (job.num_steps - 1)
    return WorkerColumns(
        num_steps=steps,
        compute_ps=compute,
        data_stall_ps=stall,
        wait_ps=wait,
        exchange_ps=np.maximum(total - compute - stall - wait - updating - lost, 0),
        optimizer_ps=updating,
        lost_ps=lost,
    )


def _gradients(job: Job, parts: list[_Part]) -> GradientColumns | None:
    """K-sync's: which workers each update has. None where it has all of them."""
    if parts[0].lengths.is_used is None:
        return None
    used = np.concatenate(
        [part.lengths.is_used for part in parts if part.lengths.is_used is not None], axis=1
    )
    update, worker = np.nonzero(used.T)
    return GradientColumns(
        update=update.astype(np.int64), worker=worker.astype(np.int64), version_read=update.astype(np.int64)
    )


# Of the first step every chunk on every link is kept, if there are no more than these.
MAX_SENDS = 20_000


def run_chunks(job: Job) -> Outcome:
    """The whole run, step by step."""
    n = job.num_workers
    done = np.zeros(n, dtype=np.int64)
    sums = {name: np.zeros(n, dtype=np.int64) for name in ("compute", "stall", "wait", "extra")}
    update_ps: list[int] = []
    slowest: list[int] = []
    sends: RingSendColumns | None = None
    ideal = 0
    for block in blocks(job):
        for step in range(block.compute.shape[1]):
            compute = block.compute[:, step]
            stall = np.zeros(n, dtype=np.int64) if block.stall is None else block.stall[:, step]
            begin = done + (job.optimizer_ps if update_ps else 0)
            end = begin + stall + compute
            if not update_ps and num_ring_steps(n) * n * len(job.exchange.chunks) <= MAX_SENDS:
                sends = _sends(job, end, compute)
            done = _exchanged(job, end, compute)
            update_ps.append(int(done.max()))
            slowest.append(int(end.argmax()))
            sums["compute"] += compute
            sums["stall"] += stall
            sums["wait"] += end.max() - end
            mean = round(float(compute.mean()))
            sums["extra"] += np.maximum(stall + compute - mean, 0)
        ideal += _ideal_ps(job, block)
    outcome = _outcome(job, np.array(update_ps, dtype=np.int64), np.array(slowest), (done, sums, ideal))
    return replace(outcome, ring_sends=sends)


def _exchanged(job: Job, end: Int64, compute: Int64) -> Int64:
    """When each rank has all sums."""
    done = np.zeros_like(end)
    for bucket, (latency, transfer) in enumerate(job.exchange.chunks):
        on_link = chunk_transfer_ps(job.exchange, transfer, job.num_workers)
        done = ring_done_ps(np.maximum(_ready_ps(job, bucket, end, compute), done), latency, on_link)
    return np.maximum(done, end)


def _ready_ps(job: Job, bucket: int, end: Int64, compute: Int64) -> Int64:
    """When each rank's own part of the bucket is there."""
    if not job.exchange.overlap:
        return end
    back: Int64 = np.rint(compute * job.backward_share).astype(np.int64)
    ready: Int64 = end - back + np.rint(back * job.exchange.buckets[bucket][0]).astype(np.int64)
    return ready


def _sends(job: Job, end: Int64, compute: Int64) -> RingSendColumns:
    """Every chunk on every link in a step whose ranks are done computing at ``end``."""
    n, done = job.num_workers, np.zeros_like(end)
    ranks = np.arange(n)
    rows: list[Int64] = []
    for bucket, (latency, transfer) in enumerate(job.exchange.chunks):
        ready = np.maximum(_ready_ps(job, bucket, end, compute), done)
        on_link = chunk_transfer_ps(job.exchange, transfer, n)
        for step, (begin, holds) in enumerate(ring_sends_ps(ready, latency, on_link)):
            chunk = [chunk_of(step, rank, n) for rank in range(n)]
            rows.append(
                np.array([np.full(n, bucket), np.full(n, step), ranks, chunk, begin, begin + on_link])
            )
            done = np.maximum(holds, begin + on_link)
    columns = np.concatenate(rows, axis=1)
    names = ("bucket", "step", "rank", "chunk", "begin_ps", "end_ps")
    return RingSendColumns(**dict(zip(names, columns, strict=True)))


def _ideal_ps(job: Job, block: Block) -> int:
    return int(step_lengths(job, block.alike()).length.sum())


def _outcome(
    job: Job, update_ps: Int64, slowest: Int64, found: tuple[Int64, dict[str, Int64], int]
) -> Outcome:
    done, sums, ideal = found
    updating = job.optimizer_ps * (job.num_steps - 1)
    rest = done - sums["compute"] - sums["stall"] - sums["wait"] - updating
    return Outcome(
        update_ps=update_ps,
        gradients=None,
        workers=WorkerColumns(
            num_steps=np.full(job.num_workers, job.num_steps),
            compute_ps=sums["compute"],
            data_stall_ps=sums["stall"],
            wait_ps=sums["wait"],
            exchange_ps=np.maximum(rest, 0),
            optimizer_ps=updating,
            lost_ps=np.zeros(job.num_workers, dtype=np.int64),
        ),
        slowest=slowest,
        end_ps=int((done + job.optimizer_ps).max()),
        ideal_ps=ideal,
        no_stall_ps=int(update_ps[-1]) - int(sums["stall"].max()),
        slowdown_by_worker=tuple((1 + sums["extra"] / max(1, ideal)).tolist()),
    )
