"""What vLLM's scheduler remembers between steps, and how it plans a step request by request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import attrgetter

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
progress = attrgetter(
    "num_tokens", "num_computed_tokens", "num_drafts", "num_placeholders", "num_stale_tokens",
    "num_registered_blocks",
)  # fmt: skip


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
        requests = [(request, len(request.blocks), progress(request)) for request in self.unfinished()]
        return requests, len(self.running), self.interval.phase(), self.kv.pool.free_contents()

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

    # the two phases of a step: the running requests in order of admission, then the queue from its head

    def schedule_waiting(self, plan: Plan) -> bool:
        """Admits from the head of the queue until one does not fit; True if one did not. Nobody overtakes it.

        Only a request whose stale token is still under way is passed over, and keeps its place.
        """
        skipped: list[Request] = []
        waiting, running, max_running = self.waiting, self.running, self.limits.max_running
        is_refused = False
        if plan.budget > 0 and len(waiting) and len(running) < max_running:
            waiting.arrange()
        while plan.budget > 0 and len(waiting) and len(running) < max_running:
            request = waiting.head()
            if request.num_stale_tokens:
                skipped.append(waiting.take())
            elif not self._admit(plan, request):
                is_refused = True
                break
        if not plan.held:
            self.interval.looked_at_waiting(left_over=len(waiting) > 0)
        if skipped:
            waiting.restore(skipped)
        return is_refused

    def _admit(self, plan: Plan, request: Request) -> bool:
        """Admits the head of the queue if its first chunk may run and its blocks are to be had."""
        num_hits = self.kv.find_hits(request)
        hit_tokens = num_hits * self.limits.block_size
        missing = request.num_tokens - hit_tokens
        if plan.held and missing > 1:
            return False
        num_tokens = plan.threshold if 0 < plan.threshold < missing else missing
        if num_tokens > plan.budget and not self.limits.enable_chunked_prefill:
            return False
        dummies = self._dummy_drafts(plan, request, hit_tokens)
        if dummies and dummies + 1 > plan.budget:
            return False
        num_tokens = min(num_tokens, plan.budget) + dummies
        fresh = self.kv.admit(request, num_hits, num_tokens, spare=bool(self.running))
        if fresh is None:
            return False
        self.waiting.take()
        self.num_admissions += 1
        request.order = self.num_admissions
        request.status = Status.RUNNING
        request.num_computed_tokens = plan.admitted[request] = hit_tokens
        self.running[request.order] = request
        plan.choose(request, num_tokens, fresh)
        if dummies:
            plan.drafts[request] = dummies
        return True

    def _dummy_drafts(self, plan: Plan, request: Request, hit_tokens: int) -> int:
        """Drafts that pad a one-token admission to the shape of the decodes beside it; all are rejected."""
        num_drafts = self.limits.num_speculative_tokens
        if not num_drafts or not self.profile.pads_single_token_admissions:
            return 0
        if request.num_tokens - hit_tokens != 1 or hit_tokens + num_drafts + 2 > self.limits.max_model_len:
            return 0
        beside = [other for other in plan.chosen if other not in plan.admitted]
        if any(other.is_prefill_chunk for other in beside):
            return 0
        return num_drafts if beside or hit_tokens else 0

    def schedule_running(self, plan: Plan, asked: list[Request]) -> None:
        """Gives these running requests the tokens that they want, preempting others where blocks run out.

        A request that can have no token now is passed over: the order is not strict here. The token of one
        that decodes in step is in the plan already.
        """
        goes_on_after_self = self.limits.policy != "fcfs" and self.profile.self_preemption_continues
        for request in asked:
            if request.status is not Status.RUNNING:
                continue
            is_counted = request.end_step >= 0
            if is_counted:
                self.batch.settle(request)
            num_tokens = 1 if is_counted else min(self.tokens_wanted(plan, request), plan.budget)
            if num_tokens <= 0:
                continue
            fresh = self._extend(plan, request, num_tokens)
            if fresh is None:
                if not goes_on_after_self:
                    return
            elif is_counted:
                plan.give(request, fresh)
            else:
                plan.choose(request, num_tokens, fresh)
                _use_drafts(plan, request, num_tokens)

    def tokens_wanted(self, plan: Plan, request: Request) -> int:
        """All known and expected tokens that are not computed, within the limits of one request."""
        if plan.held and request.is_prefill_chunk:
            return 0
        if _last_token_in_flight(request):
            return 0
        wanted = request.num_tokens + request.num_drafts + request.num_placeholders
        wanted -= request.num_computed_tokens
        if 0 < plan.threshold < wanted:
            wanted = plan.threshold
        return min(wanted, self.limits.max_model_len - request.num_computed_tokens - 1)

    def _extend(self, plan: Plan, request: Request, num_tokens: int) -> list[int] | None:
        """Fresh blocks for the request, preempting until there are enough; None if it went itself."""
        while True:
            fresh = self.kv.extend(request, num_tokens)
            if fresh is not None:
                return fresh
            victim = self.victim()
            self.preempt(plan, victim)
            if victim is request:
                return None


def _last_token_in_flight(request: Request) -> bool:
    """Asynchronous scheduling: the token that ends the request is being made already."""
    placeholders = request.num_placeholders
    if not placeholders:
        return False
    return request.num_computed_tokens + 2 - placeholders >= request.num_prompt_tokens + request.max_tokens


def _use_drafts(plan: Plan, request: Request, num_tokens: int) -> None:
    """Drafts that fit take part; the rest of them is forgotten."""
    known = request.num_tokens + request.num_placeholders
    used = request.num_computed_tokens + num_tokens - known
    if request.num_drafts and used > 0:
        plan.drafts[request] = used
    request.num_drafts = 0
