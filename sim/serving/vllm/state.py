"""What vLLM's scheduler remembers between steps, and the changes that several phases make to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from sim.errors import ScenarioError
from sim.serving.request import Request, Status
from sim.serving.scheduler import Scheduler, Step
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.kv import KVBlocks
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.queue import QUEUES, WaitingQueue
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy, UserQueue
from sim.serving.vllm.versions import VERSIONS

MANY_IN_VAIN = 50


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
    if request in plan.admitted:
        return plan.admitted[request] < request.num_tokens - 1
    return request.is_prefill_chunk


class PreemptionWatch:
    """Requests that preempt one another for ever, noticed.

    Without ``scheduler_reserve_full_isl``, requests of equal priority and arrival can throw out each other's
    half-done prefills in turn, in vLLM too; a victim rule of the user's can do so at any time. No token comes
    out, so the scheduler's state comes back: a state that repeats at a preemption, with nothing new in
    between, repeats for ever. Under fcfs it cannot happen: the first admitted is never a victim of another.
    Brent's way to find a cycle: one state is kept, and replaced after 1, 2, 4, ... further ones.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """A request came or left: the state is a new one."""
        self.is_circling = False
        self._kept: object = None
        self._age = 0
        self._keep_for = 1

    def note(self, plan: Plan, snapshot: Callable[[], object]) -> None:
        """A step that preempted somebody was planned, and its tokens not yet counted."""
        if max(request.num_vain_preemptions for request in plan.preempted) < MANY_IN_VAIN:
            return
        state = snapshot()
        if state == self._kept:
            self.is_circling = True
        self._age += 1
        if self._age == self._keep_for:
            self._kept = state
            self._age, self._keep_for = 0, 2 * self._keep_for


class State(Scheduler):
    """Running and waiting requests and their blocks.

    ``running`` is ordered by admission: a resumed request gets a new place at its end.
    """

    limits: SchedulerConfig
    waiting: WaitingQueue
    is_steady = False  # requests decode in step, counted in ``batch``

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
        self.watch = PreemptionWatch()
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
        self.waiting.take()
        self.num_admissions += 1
        request.order = self.num_admissions
        request.status = Status.RUNNING
        request.num_computed_tokens = hit_tokens
        self.running[request.order] = request
        plan.admitted[request] = hit_tokens
        plan.choose(request, num_tokens, fresh)

    def preempt(self, plan: Plan, request: Request) -> None:
        """Takes all blocks from a running request; it will compute everything again (no swap)."""
        if self.is_steady:
            plan.budget += request.end_step >= 0
            self.batch.leave(request)
        del self.running[request.order]
        self.kv.release(request)
        plan.drop(request)
        plan.preempted[request] = request.num_computed_tokens
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

    def snapshot(self) -> object:
        """All that the next decisions depend on; which physical block holds a content is not part of it."""
        running = [
            (
                request,
                request.num_tokens,
                request.num_computed_tokens,
                request.num_drafts,
                request.num_placeholders,
                request.num_stale_tokens,
                request.num_registered_blocks,
                len(request.blocks),
            )
            for request in self.running.values()
        ]
        waiting = [(request, request.num_tokens, request.num_stale_tokens) for request in self.waiting]
        return running, waiting, self.interval.phase(), self.kv.pool.free_contents()

    def endless(self, step: Step) -> ScenarioError | None:
        if not self.watch.is_circling:
            return None

        def ids(requests: Iterable[Request]) -> str:
            return ", ".join(request.request_id.lstrip("0") or "0" for request in requests)

        return ScenarioError(
            f"requests preempt one another for ever: {ids(step.preempted)} made room again without having "
            f"made a token, for {ids(self.running.values())}; an engine that decides so never ends",
            path="engine.scheduler_reserve_full_isl",
            given=self.limits.scheduler_reserve_full_isl,
            hint="scheduler_reserve_full_isl: true, policy: fcfs, priorities that differ, or more KV blocks",
        )
