"""Paged KV: blocks of ``block_size`` tokens on demand (vLLM, 2309.06180).

The free list is a stack: a block freed last is given out first. Physical ids are kept only while a
block map is drawn (``block_map`` given, and not full), and for a real engine (``keeps_ids``); no decision
depends on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from sim.errors import InvariantError
from sim.serving.kv.allocator import KVSettings
from sim.serving.request import Request
from sim.serving.usage import Levels

if TYPE_CHECKING:
    from sim.serving.recorder import BlockMapRecorder


class PagedKV:
    """A pool of blocks. used + free = total after every call; it refuses before it changes anything."""

    keys: ClassVar[frozenset[str]] = frozenset()
    is_paged = True

    def __init__(
        self,
        total: int,
        block_size: int,
        watermark: int = 0,
        block_map: BlockMapRecorder | None = None,
        *,
        keeps_ids: bool = False,
    ) -> None:
        self.total = total
        self.free = total
        self.block_size = self.growth_period = block_size
        self.capacity_tokens = total * block_size
        self.watermark = watermark
        self.block_map = block_map
        self._keeps_ids = keeps_ids
        self._stack = list(range(total - 1, -1, -1)) if self._has_ids() else []

    @classmethod
    def of(cls, settings: KVSettings) -> PagedKV:
        """From a scenario's settings."""
        watermark = int(settings.watermark * settings.num_blocks)
        return cls(settings.num_blocks, settings.block_size, watermark, settings.block_map)

    def can_ever_fit(self, request: Request) -> bool:
        """Whether the whole request (its last token is never written) fits an empty pool."""
        return request.end_tokens - 1 <= self.capacity_tokens

    def can_admit(self, request: Request, *, is_first: bool) -> bool:
        """Whether the tokens to prefill fit now, above the watermark unless nothing runs."""
        need = -(-request.num_tokens // self.block_size)
        return need + (0 if is_first else self.watermark) <= self.free

    def admit(self, request: Request, now_ps: int) -> None:
        """Gives it the blocks of its prompt (and of what it had generated before a preemption)."""
        request.reserved = 0
        request.blocks = []
        self.grow(request, -(-request.num_tokens // self.block_size), now_ps)

    def growth(self, request: Request) -> int:
        """A block, if those that it has are full."""
        return 1 if request.num_computed_tokens + 1 > request.reserved * self.block_size else 0

    def grow(self, request: Request, num_units: int, now_ps: int) -> None:
        """Gives it more blocks; the caller has checked ``free``."""
        self.free -= num_units
        request.reserved += num_units
        if self._has_ids():
            for _ in range(num_units):
                block = self._stack.pop()
                request.blocks.append(block)
                if self.block_map is not None:
                    self.block_map.take(block * self.block_size, self.block_size, request.id, now_ps)

    def settle(self, request: Request) -> None:
        """Counts its blocks anew: those that its computed tokens fill."""
        request.reserved = -(-request.num_computed_tokens // self.block_size)

    def release(self, request: Request, now_ps: int) -> None:
        """Takes all its blocks back, the last one first."""
        self.free += request.reserved
        if self.free > self.total:
            raise InvariantError(f"KV blocks given back twice: {request!r}, {self.free} free of {self.total}")
        request.reserved = 0
        if self._has_ids():
            while request.blocks:
                block = request.blocks.pop()
                self._stack.append(block)
                if self.block_map is not None:
                    self.block_map.give(block * self.block_size, now_ps)

    def _has_ids(self) -> bool:
        return self._keeps_ids or (self.block_map is not None and not self.block_map.is_truncated)

    def used_tokens(self) -> int:
        """Tokens' worth of blocks in use."""
        return (self.total - self.free) * self.block_size

    def levels(self, held_tokens: int, unfilled_tokens: int, is_blocked: bool) -> Levels:
        """*Reserved* is what admitted prompts have yet to fill, *internal* the empty rest of last blocks."""
        return held_tokens, held_tokens + unfilled_tokens, self.used_tokens(), 0
