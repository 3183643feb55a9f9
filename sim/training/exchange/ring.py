"""Ring all-reduce chunk by chunk: n - 1 steps of reduce-scatter and n - 1 of all-gather.

Each rank sends one chunk of S/n bytes to its right neighbour per step. ``chunk_of`` says which; on that
schedule ``ring_states`` really adds NumPy chunks, and ``ring_sends_ps`` times every chunk on every link.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sim.arrays import Int64
from sim.scenario.dataclass import dataclass

Chunk = npt.NDArray[np.float64]


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


def ring_states(gradients: Sequence[Chunk]) -> Iterator[list[list[Chunk]]]:
    """By rank and chunk: what is held at the start and after each step; chunks are really sent and added."""
    n = len(gradients)
    held = [list(np.array_split(gradient.copy(), n)) for gradient in gradients]
    yield held
    for step in range(num_ring_steps(n)):
        sent = [held[rank][chunk_of(step, rank, n)].copy() for rank in range(n)]
        for rank, chunk in enumerate(sent):
            index, right = chunk_of(step, rank, n), (rank + 1) % n
            held[right][index] = held[right][index] + chunk if step < n - 1 else chunk
        yield held


def sum_over_ring(gradients: Sequence[Chunk]) -> list[Chunk]:
    """What each rank holds after the ring: the sum."""
    *_, held = ring_states(gradients)
    return [np.concatenate(chunks) for chunks in held]


@dataclass(frozen=True, slots=True, kw_only=True)
class RingFrame:
    """The ring after ``step`` steps. ``summed[rank][chunk]``: the ranks whose gradients are in that sum."""

    step: int
    phase: str  # start, reduce-scatter, all-gather
    sends: tuple[tuple[int, int, int], ...]  # (from, to, chunk) of the step that led here
    summed: tuple[tuple[tuple[int, ...], ...], ...]


def ring_frames(num_ranks: int) -> list[RingFrame]:
    """The start and every step, by sending gradients that say whose they are: a column of ones per rank."""
    n = num_ranks
    marked = []
    for rank in range(n):
        gradient = np.zeros((n, n))
        gradient[:, rank] = 1.0
        marked.append(gradient)
    frames: list[RingFrame] = []
    whose: list[list[tuple[int, ...]]] = [[()] * n for _ in range(n)]
    everywhere = [(rank, chunk) for rank in range(n) for chunk in range(n)]
    for step, held in enumerate(ring_states(marked)):
        sends = tuple((r, (r + 1) % n, chunk_of(step - 1, r, n)) for r in range(n)) if step else ()
        for rank, chunk in [(to, chunk) for _, to, chunk in sends] if step else everywhere:
            whose[rank][chunk] = tuple(np.flatnonzero(held[rank][chunk][0]).tolist())
        phase = "start" if step == 0 else "reduce-scatter" if step < n else "all-gather"
        summed = tuple(map(tuple, whose))
        frames.append(RingFrame(step=step, phase=phase, sends=sends, summed=summed))
    return frames


def ring_sends_ps(
    ready_ps: Int64, latency_ps: int, transfer_ps: int | Int64
) -> Iterator[tuple[Int64, Int64]]:
    """By step: when each rank begins to send its chunk, and when it holds the one that it is sent.

    Rank r's gradient is ready at ``ready_ps[r]``. A chunk takes ``transfer_ps`` on its link, which carries
    one at a time, and arrives ``latency_ps`` later. A rank sends on what it has received and, in the
    reduce-scatter, added to its own.
    """
    holds = ready_ps.astype(np.int64)
    link_free = holds.copy()
    for _ in range(num_ring_steps(ready_ps.size)):
        begin = np.maximum(holds, link_free)
        link_free = np.add(begin, transfer_ps, dtype=np.int64)
        arrived = np.roll(link_free + latency_ps, 1)
        holds = np.maximum(arrived, ready_ps)
        yield begin, holds


def ring_done_ps(ready_ps: Int64, latency_ps: int, transfer_ps: int | Int64) -> Int64:
    """When each rank has the sum and has sent its last chunk on: its stream is free again."""
    done = ready_ps.copy()
    for begin, holds in ring_sends_ps(ready_ps, latency_ps, transfer_ps):
        done = np.maximum(holds, begin + transfer_ps)
    return done
