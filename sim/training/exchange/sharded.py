"""ZeRO-3 (FSDP): weights are gathered part by part before they are used, gradients reduce-scattered after.

One communication stream carries, in FSDP's order, the all-gather of the next part while one computes
(``backward_prefetch=BACKWARD_PRE``, at most two parts gathered at a time) and then the reduce-scatter of the
last one: 3 Psi bytes past every GPU per micro-batch (arXiv 1910.02054, section 7.2.2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.price.collective import Fabric, nccl_cost
from sim.scenario.dataclass import dataclass
from sim.training.step.time import WorkerStep

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedTimes:
    """Parts in forward order, as shares of the step's compute time, and their exchange.

    ``rest_share``: compute of the step outside of these micro-batches (pipeline bubble).
    """

    forward_shares: tuple[float, ...]
    backward_shares: tuple[float, ...]
    gather_ps: tuple[int, ...]
    scatter_ps: tuple[int, ...]
    num_micro_batches: int
    rest_share: float

    @property
    def comm_ps(self) -> int:
        """The stream's time in one step."""
        return self.num_micro_batches * (2 * sum(self.gather_ps) + sum(self.scatter_ps))


def sharded_times(
    worker: WorkerStep, num_micro_batches: int, num_workers: int, fabric: Fabric
) -> ShardedTimes:
    """The parts of ``worker`` over ``num_workers`` shards; weights travel in as many bytes as gradients."""
    total = worker.compute_s or 1.0
    once = sum(worker.forward_s) + sum(worker.backward_s)

    def price(kind: str, num_bytes: int) -> int:
        cost = nccl_cost(
            "all_gather" if kind == "gather" else "reduce_scatter", num_bytes, num_workers, fabric
        )
        return round(cost.total_s * PS_PER_S)

    return ShardedTimes(
        forward_shares=tuple(one / total for one in worker.forward_s),
        backward_shares=tuple(one / total for one in worker.backward_s),
        gather_ps=tuple(price("gather", size) for size in worker.gradient_bytes),
        scatter_ps=tuple(price("scatter", size) for size in worker.gradient_bytes),
        num_micro_batches=num_micro_batches,
        rest_share=max(0.0, 1 - num_micro_batches * once / total),
    )


def sharded_step_ps(times: ShardedTimes, compute_ps: Int64) -> Int64:
    """Compute and exchange of steps whose computation takes ``compute_ps`` on the slowest worker.

    Every part's exchange waits for all workers. A worker's factor stretches all its parts alike, so that the
    slowest in one is the slowest in all, and the step is the slowest worker's.
    """
    compute = compute_ps.astype(np.float64)
    done = _pass(times.forward_shares, times.gather_ps, None, compute)
    backward = _pass(times.backward_shares[::-1], times.gather_ps[::-1], times.scatter_ps[::-1], compute)
    step = times.num_micro_batches * (done + backward) + times.rest_share * compute
    return np.rint(step).astype(np.int64)


def _pass(
    shares: tuple[float, ...],
    gather_ps: tuple[int, ...],
    scatter_ps: tuple[int, ...] | None,
    compute: Float64,
) -> Float64:
    """When one pass is over: computing, and with ``scatter_ps`` the last reduce-scatter."""
    stream = np.zeros_like(compute)  # the communication stream is free
    free = np.zeros_like(compute)  # the computation has caught up
    started = np.zeros_like(compute)  # the part before began: its successor may be gathered
    waiting: int | None = None
    for index, share in enumerate(shares):
        gathered = np.maximum(stream, started) + gather_ps[index]
        stream = gathered
        if waiting is not None and scatter_ps is not None:
            # the part before is done by the time that its reduce-scatter begins
            stream = np.maximum(stream, free) + scatter_ps[waiting]
        started = np.maximum(free, gathered)
        free = started + share * compute
        waiting = index
    if scatter_ps is None or waiting is None:
        return free
    return np.maximum(stream, free) + scatter_ps[waiting]
