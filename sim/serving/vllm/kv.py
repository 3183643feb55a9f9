"""What a request holds in the KV cache: allocation, registration and release of its blocks.

``KVCache`` is what the scheduler asks; ``KVBlocks`` answers for one full-attention KV group without a
drafting model (lookahead slots are zero, the hit length is a multiple of ``block_size``, hashes have the
granularity of a block), ``sim.serving.vllm.groups`` for several groups and for windows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sim.serving.request import Request
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.pool import BlockPool
from sim.serving.vllm.prefix_tree import PrefixTree
from sim.serving.vllm.versions import VersionProfile


def blocks_for(num_tokens: int, block_size: int) -> int:
    """Blocks that hold ``num_tokens`` tokens."""
    return -(-num_tokens // block_size)


class FreeBlocks(Protocol):
    """The free queue of a block pool, as the scheduler sees it."""

    num_blocks: int
    num_free: int
    num_evictions: int
    num_extra_owners: int

    def take(self, count: int) -> list[int]:
        """That many blocks from the front of the free queue."""
        ...

    def release_unhashed(self, blocks: list[int]) -> None:
        """Gives blocks back that hold nothing which could be looked up."""
        ...

    def free_order(self) -> list[int]:
        """The free blocks, the next to be taken first."""
        ...

    def free_contents(self) -> Sequence[object]:
        """What they hold, in the same order."""
        ...


class KVCache(ABC):
    """What the scheduler asks about the KV cache of its requests."""

    pool: FreeBlocks
    watermark_blocks: int
    on_release: Callable[[Request], None] | None = None
    """Told before a request gives its blocks back, where somebody keeps a map of them."""
    on_release_some: Callable[[Request, Iterable[tuple[int, bool]], bool], None] | None = None
    """The same with several groups: which blocks, whether they stay cached, whether it gives up all."""
    num_token_groups = 1
    """Groups in which a token has a place."""
    num_blocks_beside = 0
    """Blocks of states, less the empty places in the tables of the others."""
    follows_flight = False
    """Wants to know of steps that are planned and not over (``note_planned``, ``note_over``)."""

    @abstractmethod
    def open(self, request: Request) -> list[Request]:
        """Makes a new request known; returns the unfinished ones whose output it may repeat."""

    @abstractmethod
    def find_hits(self, request: Request) -> int:
        """Blocks that already hold the start of this request; at least one token is left to compute."""

    @abstractmethod
    def extend(self, request: Request, num_new_tokens: int) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` more of a running request; None if too few are free."""

    @abstractmethod
    def admit(self, request: Request, num_hits: int, num_new_tokens: int, *, spare: bool) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` after an admission's hits; None if too few are free."""

    @abstractmethod
    def register(self, request: Request, num_tokens: int) -> None:
        """Makes full blocks among the first ``num_tokens`` findable, as far as tokens are known."""

    @abstractmethod
    def release(self, request: Request) -> None:
        """Frees the request's blocks; those with a hash stay findable until they are taken again."""

    @abstractmethod
    def close(self, request: Request) -> None:
        """Releases a request that has ended."""

    @abstractmethod
    def most_blocks(self, num_tokens: int) -> int:
        """Blocks that a request of so many tokens needs at most, if it has the pool to itself."""

    def note_planned(self, plan: Plan) -> None:
        """A step is under way."""
        raise NotImplementedError

    def note_over(self, plan: Plan) -> None:
        """A step is over."""
        raise NotImplementedError


class KVBlocks(KVCache):
    """The block tables of all requests, over one pool."""

    pool: BlockPool

    def __init__(self, limits: SchedulerConfig, profile: VersionProfile) -> None:
        self.pool = BlockPool(limits.num_gpu_blocks, unhashed_to_front=profile.unhashed_blocks_to_front)
        self.tree = PrefixTree(limits.block_size)
        self._caching = limits.enable_prefix_caching
        self._block_size = limits.block_size
        self._max_model_len = limits.max_model_len
        self._reserve_full_isl = limits.scheduler_reserve_full_isl
        self.watermark_blocks = int(limits.watermark * limits.num_gpu_blocks)

    def open(self, request: Request) -> list[Request]:
        """Makes a new request known; returns the unfinished ones whose output it may repeat."""
        wanted = min(request.end_tokens, request.num_common_tokens) // self._block_size
        if not (self._caching and wanted):  # what it alone has gets a node when it is preempted
            return []
        self.tree.enter(request, wanted)
        met = self.tree.met
        if met:
            self.tree.met = []
        return met

    def find_hits(self, request: Request) -> int:
        """Blocks that already hold the start of this request; at least one token is left to compute."""
        num_hits = 0
        for node, count in request.path:
            present = len(node.blocks)
            if present < count:
                num_hits += present
                break
            num_hits += count
        return min(num_hits, (request.num_tokens - 1) // self._block_size)

    def extend(self, request: Request, num_new_tokens: int) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` more of a running request; None if too few are free."""
        total = min(request.num_computed_tokens + num_new_tokens, self._max_model_len)
        need = blocks_for(total, self._block_size) - len(request.blocks)
        if need > self.pool.num_free:
            return None
        fresh = self.pool.take(need) if need > 0 else []
        request.blocks.extend(fresh)
        self.register(request, request.num_computed_tokens + num_new_tokens)
        return fresh

    def admit(self, request: Request, num_hits: int, num_new_tokens: int, *, spare: bool) -> list[int] | None:
        """Fresh blocks for ``num_new_tokens`` after an admission's hits; None if too few are free.

        ``scheduler_reserve_full_isl`` asks that all known tokens would fit now, though only this
        chunk's blocks are taken. ``spare``: the watermark's blocks must stay free.
        """
        need = self._need(request, num_hits, num_new_tokens, spare=spare)
        if need is None:
            return None
        pool, computed = self.pool, num_hits * self._block_size
        fresh: list[int]
        if num_hits:
            hits = pool.share(request.path, num_hits)
            fresh = pool.take(need)
            request.blocks = hits + fresh
        else:
            fresh = pool.take(need)
            request.blocks = fresh.copy()
        request.num_registered_blocks = request.num_hit_blocks = num_hits
        self.register(request, computed + num_new_tokens)
        return fresh

    def _need(self, request: Request, num_hits: int, num_new_tokens: int, *, spare: bool) -> int | None:
        """Fresh blocks that an admission takes now; None if it cannot be."""
        size, longest, available = self._block_size, self._max_model_len, self.pool.num_free
        if spare:
            available -= self.watermark_blocks
        if num_hits:
            available -= self.pool.num_free_among(request.path, num_hits)
        total = num_hits * size + num_new_tokens
        need = gate = -(-(total if total < longest else longest) // size) - num_hits
        if self._reserve_full_isl and total < request.num_tokens:
            gate = -(-min(request.num_tokens, longest) // size) - num_hits
        if need > available or gate > available:
            return None
        return need if need > 0 else 0

    def most_blocks(self, num_tokens: int) -> int:
        """(Those that it has blocks for: its last token is never written.)"""
        return blocks_for(num_tokens, self._block_size)

    def register(self, request: Request, num_tokens: int) -> None:
        """Makes the full blocks among the first ``num_tokens`` findable, as far as tokens are known.

        Those that no other request has can be found by itself only, after a preemption: till then it is
        enough to count them.
        """
        if not self._caching:
            return
        done = request.num_registered_blocks
        full = min(num_tokens, request.num_tokens) // self._block_size
        if full > done:
            common = request.num_common_blocks
            if done < common:
                self.pool.register(request.path, request.blocks, done, full if full < common else common)
            request.num_registered_blocks = full

    def release(self, request: Request) -> None:
        """Frees the request's blocks; those with a hash stay findable until they are taken again."""
        if self.on_release is not None:
            self.on_release(request)
        self._release(request)

    def _release(self, request: Request) -> None:
        num_registered = request.num_registered_blocks
        first = max(request.num_hit_blocks, request.num_common_blocks)
        if num_registered > first:
            self.tree.remember(request)
            self.pool.register(request.path, request.blocks, first, num_registered)
        self.pool.release(request.blocks, request.path, num_registered)
        request.blocks = []
        request.num_registered_blocks = request.num_hit_blocks = 0

    def close(self, request: Request) -> None:
        """Releases a request that has ended."""
        if self.on_release is not None:
            self.on_release(request)
        if request.num_preemptions:
            self._release(request)
        else:  # what it alone has can never be looked up
            self.pool.release(request.blocks, request.path, request.num_registered_blocks)
            request.blocks = []
        if self._caching:
            self.tree.leave(request)
