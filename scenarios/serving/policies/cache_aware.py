"""Two policies of the user's over vLLM's scheduler: longest cached prefix first, and the cheapest victim.

``CacheAware`` admits the request whose prompt the prefix cache holds most of, before those blocks are evicted
(SGLang's longest-prefix-match order, 2312.07104). With each second in the queue a request gains
``AGEING_TOKENS_PER_S``, so that one without any hit is overtaken for a bounded time only. ``CheapestVictim``
keeps vLLM's order and preempts whoever has the fewest tokens to compute again.

Named in a scenario as ``policy: ./policies/cache_aware.py:CacheAware``.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.serving.request import Request
from sim.serving.vllm import CacheView, SchedulingPolicy

AGEING_TOKENS_PER_S = 500
PS_PER_S = 10**12  # the simulator's clock


class CacheAware(SchedulingPolicy):
    """Longest cached prefix first, with ageing; preempted requests in front, as in vLLM."""

    def order(self, waiting: Sequence[Request], cache: CacheView) -> list[Request]:
        newest = max(request.arrival for request in waiting)

        def rank(request: Request) -> tuple[bool, float]:
            waited_s = (newest - request.arrival) / PS_PER_S
            gained = cache.cached_tokens(request) + AGEING_TOKENS_PER_S * waited_s
            return request.num_preemptions == 0, -gained

        return sorted(waiting, key=rank)


class CheapestVictim(SchedulingPolicy):
    """The running request with the fewest computed tokens goes; of equal ones the latest admitted."""

    def victim(self, running: Sequence[Request], cache: CacheView) -> Request:
        return min(reversed(running), key=lambda request: request.num_computed_tokens)
