"""Shortest prompt first, but nobody waits for ever: a user's policy, on either of the two seams.

A request moves forward by ``AGEING_TOKENS`` for each one that came after it, so that a long prompt is
overtaken a bounded number of times; preempted requests go on first.

``ShortestFirst`` reorders the queue of vLLM's own scheduler, prefix cache and all
(``policy: ./policies/shortest_first.py:ShortestFirst``). ``decide`` plans whole steps over the generic KV
memory, where it could change anything (``batching: ./policies/shortest_first.py:decide``); it reorders the
queue and leaves the rest to ``continuous``. Neither remembers anything or touches anything else.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import KVView, Limits, StepPlan
from sim.serving.request import Request
from sim.serving.vllm import CacheView, SchedulingPolicy

AGEING_TOKENS = 64


class ShortestFirst(SchedulingPolicy):
    """vLLM's scheduler with the queue in order of size and age; ids are numbers in order of arrival."""

    def order(self, waiting: Seq[Request], cache: CacheView) -> list[Request]:
        def rank(request: Request) -> tuple[bool, int]:
            return request.num_preemptions == 0, request.num_tokens + AGEING_TOKENS * int(request.request_id)

        return sorted(waiting, key=rank)


def decide(waiting: Seq[Request], running: Seq[Request], kv: KVView, limits: Limits) -> StepPlan:
    """One step of continuous batching over such a queue."""

    def rank(request: Request) -> tuple[bool, int]:
        return request.generated == 0, request.prompt_tokens + AGEING_TOKENS * request.id

    return continuous(sorted(waiting, key=rank), running, kv, limits)
