"""BSP on a ring whose every chunk is timed on every link: no barrier but the chunks themselves.

A rank sends its first chunk when its own bucket is ready, and goes on when it has received its last one:
ranks may leave the ring at different moments. ``ring_sends_ps`` times one bucket; they follow each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.records import Int64
from sim.training.exchange.prices import chunk_transfer_ps
from sim.training.exchange.ring import chunk_of, num_ring_steps, ring_done_ps, ring_sends_ps
from sim.training.records import Outcome, RingSendColumns, WorkerColumns
from sim.training.schedule.job import Job
from sim.training.schedule.synchronous import Block, blocks, step_lengths

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
