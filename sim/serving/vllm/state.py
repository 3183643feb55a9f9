"""What vLLM's scheduler remembers between steps, and the changes that several phases make to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from sim.serving.request import Request, Status
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.kv import KVBlocks
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.queue import QUEUES
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy, UserQueue
from sim.serving.vllm.versions import VERSIONS


class PrefillInterval:
    """Counts steps since the last one that carried prefill (data_parallel_size 1).

    Prefill is never held back while the last free look at the waiting queue left something in it: then
    the engine is bound by its limits, and waiting longer gains nothing.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._steps = 0
        self._last_prefill = -interval
        self._bound = False

    def holds(self, running: Iterable[Request]) -> bool:
        """Whether prefill waits in the step that is being planned."""
        if self._interval == 1 or self._bound:
            return False
        if self._steps + 1 - self._last_prefill >= self._interval:
            return False
        return any(not request.is_prefill_chunk for request in running)

    def phase(self) -> tuple[int, bool]:
        """What the next answers depend on."""
        return min(self._steps - self._last_prefill, self._interval), self._bound

    def looked_at_waiting(self, *, left_over: bool) -> None:
        """A waiting phase that was not held back has ended."""
        self._bound = left_over

    def note(self, plan: Plan) -> None:
        """Counts a planned step; call before the requests' progress is written down."""
        if self._interval == 1 or not plan.num_requests:
            return
        self._steps += 1
        if any(_is_prefill(plan, request) for request in plan.chosen):
            self._last_prefill = self._steps


def _is_prefill(plan: Plan, request: Request) -> bool:
    if request in plan.new:
        return plan.new[request] < request.num_tokens - 1
    return request.is_prefill_chunk


class State:
    """Running and waiting requests and their blocks.

    ``running`` is ordered by admission: a resumed request gets a new place at its end.
    """

    def __init__(self, limits: SchedulerConfig, version: str, policy: SchedulingPolicy | None = None) -> None:
        self.limits = limits
        self.profile = VERSIONS[version]
        self.kv = KVBlocks(limits, self.profile)
        self.running: dict[int, Request] = {}
        self._user_policy = policy or SchedulingPolicy()
        self._cache_view = CacheView(self.kv, limits.block_size)
        self.waiting = (
            UserQueue(self._user_policy, self._cache_view)
            if limits.policy == "user"
            else QUEUES[limits.policy]()
        )
        self.interval = PrefillInterval(limits.prefill_schedule_interval)
        self.num_admissions = 0
        self.num_preempted_alive = 0
        """Unfinished requests that were preempted once: they may find blocks of their own in the cache."""

    def unfinished(self) -> Iterator[Request]:
        """Requests that run or wait."""
        return chain(self.running.values(), self.waiting)

    def threshold(self) -> int:
        """Most prompt tokens of one request in the next step; 0: no such limit."""
        limits = self.limits
        threshold = limits.long_prefill_token_threshold
        if threshold == 0:
            return 0
        eligible = len(self.running) + len(self.waiting)
        if eligible <= 1 and self.profile.lone_request_unthrottled:
            return 0
        if limits.long_prefill_token_threshold_adaptive and eligible:
            return max(threshold, limits.max_num_batched_tokens // eligible)
        return threshold

    def admit(self, plan: Plan, request: Request, num_tokens: int, fresh: list[int]) -> None:
        """Moves the head of the waiting queue, which has its blocks, to the end of the running list."""
        hit_tokens = (len(request.blocks) - len(fresh)) * self.limits.block_size
        self.waiting.pop()
        self.num_admissions += 1
        request.order = self.num_admissions
        request.status = Status.RUNNING
        request.num_computed_tokens = hit_tokens
        self.running[request.order] = request
        plan.new[request] = hit_tokens
        plan.choose(request, num_tokens, fresh)

    def preempt(self, plan: Plan, request: Request) -> None:
        """Takes all blocks from a running request; it will compute everything again (no swap)."""
        del self.running[request.order]
        self.kv.release(request)
        plan.drop(request)
        plan.preempted.append(request)
        plan.lost_tokens[request] = request.num_computed_tokens
        request.num_computed_tokens = 0
        request.num_drafts = 0
        request.num_stale_tokens = 1 if request.num_placeholders else 0
        request.num_placeholders = 0
        request.status = Status.PREEMPTED
        self.num_preempted_alive += request.num_preemptions == 0
        request.num_preemptions += 1
        is_in_vain = request.num_tokens == request.num_tokens_at_preemption
        request.num_vain_preemptions = request.num_vain_preemptions + 1 if is_in_vain else 0
        request.num_tokens_at_preemption = request.num_tokens
        self.waiting.put_back(request)

    def finish(self, request: Request) -> None:
        """Frees a request that has made its last token, or whose client has left."""
        if request.status is Status.RUNNING:
            del self.running[request.order]
        else:
            self.waiting.remove(request)
        self.num_preempted_alive -= request.num_preemptions > 0
        self.kv.close(request)
        request.status = Status.FINISHED

    def victim(self) -> Request:
        """Whom to preempt: fcfs the latest admitted; priority the largest (priority, arrival)."""
        if self.limits.policy == "user":
            return self._user_policy.victim(tuple(self.running.values()), self._cache_view)
        if self.limits.policy == "priority":
            return max(self.running.values(), key=lambda request: (request.priority, request.arrival))
        return next(reversed(self.running.values()))
