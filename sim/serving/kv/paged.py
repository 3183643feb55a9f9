"""Paged KV: blocks of ``block_size`` tokens on demand (vLLM, 2309.06180).

The free list is a stack: a block freed last is given out first. Physical ids are kept only where a
block map is asked for (``blocks`` given); no decision depends on them.
"""

from __future__ import annotations

from sim.serving.recorder import BlockMapRecorder
from sim.serving.sequence import Sequence


class PagedKV:
    """A pool of blocks. used + free = total after every call; it refuses before it changes anything."""

    is_paged = True

    def __init__(
        self, total: int, block_size: int, watermark: int = 0, block_map: BlockMapRecorder | None = None
    ) -> None:
        self.total = total
        self.free = total
        self.block_size = block_size
        self.capacity_tokens = total * block_size
        self.watermark = watermark
        self.block_map = block_map
        self._stack = list(range(total - 1, -1, -1)) if block_map is not None else []

    def can_ever_fit(self, sequence: Sequence) -> bool:
        """Whether the whole request (its last token is never written) fits an empty pool."""
        return sequence.prompt_tokens + sequence.output_tokens - 1 <= self.capacity_tokens

    def can_admit(self, sequence: Sequence, *, is_first: bool) -> bool:
        """Whether the tokens to prefill fit now, above the watermark unless nothing runs."""
        need = -(-(sequence.prompt_tokens + sequence.generated) // self.block_size)
        return need + (0 if is_first else self.watermark) <= self.free

    def admit(self, sequence: Sequence, now_ps: int) -> None:
        """Gives it the blocks of its prompt (and of what it had generated before a preemption)."""
        need = -(-(sequence.prompt_tokens + sequence.generated) // self.block_size)
        if self.block_map is None:
            self.free -= need
            sequence.reserved = need
            return
        sequence.reserved = 0
        sequence.blocks = []
        self.grow(sequence, need, now_ps)

    def grow(self, sequence: Sequence, num_blocks: int, now_ps: int) -> None:
        """Gives it more blocks; the caller has checked ``free``."""
        self.free -= num_blocks
        sequence.reserved += num_blocks
        if self.block_map is not None and sequence.blocks is not None:
            for _ in range(num_blocks):
                block = self._stack.pop()
                sequence.blocks.append(block)
                self.block_map.take(block * self.block_size, self.block_size, sequence.id, now_ps)

    def release(self, sequence: Sequence, now_ps: int) -> None:
        """Takes all its blocks back, the last one first."""
        self.free += sequence.reserved
        sequence.reserved = 0
        if self.block_map is not None and sequence.blocks is not None:
            while sequence.blocks:
                block = sequence.blocks.pop()
                self._stack.append(block)
                self.block_map.give(block * self.block_size, now_ps)

    def give_out_tokens(self) -> int:
        """Tokens' worth of memory in use."""
        return (self.total - self.free) * self.block_size
