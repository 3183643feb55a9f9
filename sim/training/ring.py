"""Ring all-reduce chunk by chunk: n - 1 steps of reduce-scatter and n - 1 of all-gather.

Each rank sends one chunk of S/n bytes to its right neighbour per step. ``chunk_of`` says which; on that
schedule ``sum_over_ring`` really adds NumPy chunks, and ``ring_done_ps`` times every chunk on every link.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.records import Int64


def num_ring_steps(num_ranks: int) -> int:
    """2 (n - 1)."""
    return 2 * (num_ranks - 1)


def chunk_of(step: int, rank: int, num_ranks: int) -> int:
    """The chunk that ``rank`` sends in ``step`` (0 .. 2(n-1) - 1).

    Reduce-scatter: its own first, then what it has just received and added to. All-gather: from the
    chunk whose sum it holds, then what it has just received.
    """
    if step < num_ranks - 1:
        return (rank - step) % num_ranks
    return (rank + 1 - (step - (num_ranks - 1))) % num_ranks


def sum_over_ring(gradients: Sequence[npt.NDArray[np.float64]]) -> list[npt.NDArray[np.float64]]:
    """What each rank holds after the ring: the sum, chunks really sent and added one by one."""
    n = len(gradients)
    held = [list(np.array_split(gradient.copy(), n)) for gradient in gradients]
    for step in range(num_ring_steps(n)):
        sent = [held[rank][chunk_of(step, rank, n)].copy() for rank in range(n)]
        for rank, chunk in enumerate(sent):
            index, right = chunk_of(step, rank, n), (rank + 1) % n
            held[right][index] = held[right][index] + chunk if step < n - 1 else chunk
    return [np.concatenate(chunks) for chunks in held]


def ring_done_ps(ready_ps: Int64, latency_ps: int, transfer_ps: int) -> Int64:
    """When each rank has the sum, if rank r's gradient is ready at ``ready_ps[r]``.

    A chunk takes ``transfer_ps`` on its link, which carries one at a time, and arrives ``latency_ps`` later.
    A rank sends on what it has received and, in the reduce-scatter, added to its own.
    """
    n = ready_ps.size
    if n == 1:
        return ready_ps.copy()
    holds = ready_ps.astype(np.int64)
    link_free = holds.copy()
    for _ in range(num_ring_steps(n)):
        begin = np.maximum(holds, link_free)
        link_free = begin + transfer_ps
        arrived = np.roll(link_free + latency_ps, 1)
        holds = np.maximum(arrived, ready_ps)
    return holds
