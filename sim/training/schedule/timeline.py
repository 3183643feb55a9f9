"""The first steps of every worker, moment by moment, from the arrays and the heap that find the schedule.

The same rows as those of the events in ``sim.training.worker``, at a small part of their time. Chunks of a
ring and ZeRO-3 are shown as if their exchange came at the end. Where two things happen in one instant, and
only the order of the events says whether the second is still seen, the events are asked.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim.arrays import Bools, Int64
from sim.training.records import WorkerStepColumns
from sim.training.schedule.asynchronous import log_of
from sim.training.schedule.job import Job
from sim.training.schedule.synchronous import Block, blocks, lengths_by_buckets, offsets


def first_steps(job: Job, num_steps: int) -> WorkerStepColumns | None:
    """Of ``num_steps`` steps, asynchronously of as many gradients; None: only the events can tell.

    A job's first steps do not depend on how far it goes.
    """
    if job.scheme.is_asynchronous:
        # Without a queue at the server two gradients may arrive at once, and the part end between them.
        may_tie = job.exchange.is_server and not job.exchange.occupies_ps
        return None if may_tie else _asynchronous(job, num_steps)
    return _synchronous(replace(job, num_steps=min(job.num_steps, num_steps)))


def _asynchronous(job: Job, num_steps: int) -> WorkerStepColumns:
    n = job.num_workers
    size = max(1, min(job.num_gradients, num_steps * n))
    log = log_of(replace(job, num_steps=num_steps + 1))  # its last update may need more gradients than these
    order = np.argsort(log.worker[:size], kind="stable")
    worker, read = log.worker[:size][order], log.version_read[:size][order]
    count = np.bincount(worker, minlength=n)
    step = np.arange(size) - np.repeat(np.cumsum(count) - count, count)
    drawn = [job.times.of_worker(one)(int(count[one]))[0] for one in range(n)]
    computed = log.computed_ps[:size][order]
    local = (job.optimizer_ps + job.link_ps)[worker]
    return WorkerStepColumns(
        worker=worker,
        step=step,
        release_ps=log.released_ps(read),
        compute_start_ps=computed - np.concatenate(drawn) - local,
        compute_end_ps=computed - job.link_ps[worker],
        done_ps=log.time_ps[:size][order],
        is_cancelled=np.zeros(size, dtype=np.int64),
    )


def _synchronous(job: Job) -> WorkerStepColumns | None:
    (block,) = blocks(job)
    if job.exchange.pattern == "single_process":  # shown as workers that update by themselves
        own = block.offset + (job.optimizer_ps - offsets(job))[:, None]
        own[:, 0] = block.offset[:, 0]
        block = replace(block, offset=own)
    length = lengths_by_buckets(job, block).length
    updates = np.cumsum(length)
    release = np.broadcast_to(updates - length, block.compute.shape)
    done, is_late = _done(job, block)
    done = release + done
    if np.any(is_late & (done == updates[-1])):
        return None
    end = release + block.work_end
    cut = np.where(is_late, updates, updates[-1])
    is_seen = ~is_late | (done < updates[-1])
    columns = (
        *np.indices(done.shape),
        release,
        np.minimum(end - block.compute, cut),
        np.minimum(end, cut),
        np.minimum(done, cut),
        is_late.astype(np.int64),
    )
    worker, step, release, start, end, done, late = (column[is_seen] for column in columns)
    return WorkerStepColumns(
        worker=worker,
        step=step,
        release_ps=release,
        compute_start_ps=start,
        compute_end_ps=end,
        done_ps=done,
        is_cancelled=late,
    )


def _done(job: Job, block: Block) -> tuple[Int64, Bools]:
    """When a worker is done, since the update before: computed, or pushed in its turn; who comes late."""
    ends = block.arrival
    if job.exchange.is_collective:
        return block.work_end, np.zeros(ends.shape, dtype=np.bool_)
    occupies = job.exchange.occupies_ps
    order = np.argsort(ends, axis=0, kind="stable")
    before = occupies * np.arange(len(ends))[:, None]
    first = np.take_along_axis(ends, order, axis=0)
    served = np.maximum.accumulate(first - before, axis=0) + before + job.exchange.takes_ps
    done = np.empty_like(ends)
    np.put_along_axis(done, order, served, axis=0)
    is_late = np.empty(ends.shape, dtype=np.bool_)
    np.put_along_axis(is_late, order, np.arange(len(ends))[:, None] >= job.num_awaited, axis=0)
    return done, is_late
