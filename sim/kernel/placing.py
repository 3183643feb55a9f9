"""Which free SM gets the next thread block."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from sim.kernel.work import BlockKind, Launch


class Grid:
    """The blocks that have not started, in launch order."""

    def __init__(self, launch: Launch) -> None:
        self._runs = [(kind, count) for kind, count in launch.grid if count > 0]
        self._run = 0
        self._taken = 0
        self.left = launch.num_blocks

    def take_all(self, count: int) -> BlockKind | None:
        """The kind of the next ``count`` blocks, taken, if they are identical; else None."""
        if self.left < count:
            return None
        kind, whole = self._runs[self._run]
        if whole - self._taken < count:
            return None
        self.take(count)
        return kind

    def take(self, most: int) -> tuple[BlockKind, int]:
        """Up to ``most`` identical blocks from the front."""
        kind, count = self._runs[self._run]
        taken = min(most, count - self._taken)
        self._taken += taken
        self.left -= taken
        if self._taken == count:
            self._run, self._taken = self._run + 1, 0
        return kind, taken


def place(
    grid: Grid, residents: list[int], blocks_per_sm: int, sms: Sequence[int]
) -> Iterator[tuple[BlockKind, list[int]]]:
    """The blocks that start now on ``sms``, run by run: fewest residents first, then lowest number.

    ``residents`` is brought up to date.
    """
    heap = [(residents[sm], sm) for sm in sms if residents[sm] < blocks_per_sm]
    heapq.heapify(heap)
    free = sum(blocks_per_sm - held for held, _ in heap)
    while free and grid.left:
        kind, count = grid.take(free)
        free -= count
        chosen = []
        for _ in range(count):
            held, sm = heap[0]
            residents[sm] = held + 1
            if held + 1 < blocks_per_sm:
                heapq.heapreplace(heap, (held + 1, sm))
            else:
                heapq.heappop(heap)
            chosen.append(sm)
        yield kind, chosen
