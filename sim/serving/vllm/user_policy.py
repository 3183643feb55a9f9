"""A waiting order and a preemption-victim rule of the user's, over the rest of vLLM's scheduler.

Budget, admission gate, allocation, prefix cache and freeing order stay vLLM's; only these two choices
change. As it stands, ``SchedulingPolicy`` is vLLM's fcfs, so that a policy overrides what it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim.serving.request import Request
from sim.serving.vllm.kv import KVCache


class CacheView:
    """What a policy may ask about the KV blocks; asking changes nothing."""

    def __init__(self, kv: KVCache, block_size: int) -> None:
        self._kv, self.block_size = kv, block_size

    @property
    def num_free_blocks(self) -> int:
        """Blocks that nobody owns, those with cached content among them."""
        return self._kv.pool.num_free

    def cached_tokens(self, request: Request) -> int:
        """Tokens at the request's start that the prefix cache holds now: what its admission would hit."""
        return self._kv.find_hits(request) * self.block_size


class SchedulingPolicy:
    """Who is admitted next, and who goes when blocks run out.

    An answer depends on what is given and on nothing else; requests are the scheduler's own and must not
    be changed. A policy is asked whenever a step could admit somebody, or needs a victim; steps in which
    neither can happen may be skipped.
    """

    def order(self, waiting: Sequence[Request], cache: CacheView) -> Iterable[Request]:
        """The waiting requests, the next to be admitted first; nobody passes a head that does not fit.

        Given in vLLM's order: preempted ones in front, then by arrival.
        """
        return waiting

    def victim(self, running: Sequence[Request], cache: CacheView) -> Request:
        """The running request that loses its blocks; ``running`` is in order of admission."""
        return running[-1]
