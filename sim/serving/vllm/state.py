"""What vLLM's scheduler remembers between steps, and how it plans a step request by request."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import attrgetter

from sim.errors import ScenarioError
from sim.serving.request import Request, Status
from sim.serving.scheduler import Scheduler, Step
from sim.serving.vllm.config import ONE_FULL_GROUP, SchedulerConfig
from sim.serving.vllm.groups import GroupedKVBlocks
from sim.serving.vllm.kv import KVBlocks, KVCache
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.user_policy import CacheView, SchedulingPolicy
from sim.serving.vllm.versions import VERSIONS, recorded_release

MANY_IN_VAIN = 50
by_rank = attrgetter("rank")
progress = attrgetter(
    "num_tokens", "num_computed_tokens", "num_drafts", "num_placeholders", "num_stale_tokens",
    "num_registered_blocks",
)  # fmt: skip


class PreemptionWatch:
    """Requests that preempt one another for ever, noticed.

    Without ``scheduler_reserve_full_isl``, requests of equal priority and arrival can throw out each other's
    half-done prefills in turn, in vLLM too; a victim rule of the user's can do so at any time. No token comes
    out, so the scheduler's state comes back: a state that repeats at a preemption, with nothing new in
    between, repeats for ever. Under fcfs it cannot happen: the first admitted is never a victim of another.
    Brent's way to find a cycle: one state is kept, and replaced after 1, 2, 4, ... further ones.
    """

    def __init__(self) -> None:
        self.is_circling, self._num_seen = False, 0
        self._kept: object = None

    def note(self, plan: Plan, snapshot: Callable[[], object]) -> None:
        """A step that preempted somebody was planned, and its tokens not yet counted."""
        if max(request.num_vain_preemptions for request in plan.preempted) < MANY_IN_VAIN:
            return
        state = snapshot()
        self.is_circling |= state == self._kept
        self._num_seen += 1
        if self._num_seen & (self._num_seen + 1) == 0:
            self._kept = state


class State(Scheduler):
    """Running and waiting requests and their blocks.

    ``running`` is ordered by admission: a resumed request gets a new place at its end.
    """

    limits: SchedulerConfig
    is_steady = False  # requests decode in step, counted in ``batch``

    def __init__(self, limits: SchedulerConfig, version: str, policy: SchedulingPolicy | None = None) -> None:
        self.limits, self.profile, self._user_policy = limits, VERSIONS[recorded_release(version)], policy
        self.kv: KVCache = (
            KVBlocks(limits, self.profile)
            if limits.groups == ONE_FULL_GROUP
            else GroupedKVBlocks(limits, self.profile)
        )
        self._cache_view = CacheView(self.kv, limits.block_size)
        self.running: dict[int, Request] = {}
        self.waiting: deque[Request] = deque()
        self.watch = PreemptionWatch()
        self.num_admissions = 0
        self.num_preempted_alive = 0
        """Unfinished requests that were preempted once: they may find blocks of their own in the cache."""
        self.eager: set[Request] = set()
        """Unfinished requests whose output somebody may look up before they end."""
        self._since_prefill = limits.prefill_schedule_interval  # steps
        self._is_bound = False
        """The last look at the waiting queue that prefill was free to follow left something in it."""

    def unfinished(self) -> Iterator[Request]:
        """Requests that run or wait."""
        return chain(self.running.values(), self.waiting)

    def threshold(self) -> int:
        """Most prompt tokens of one request in the next step; 0: no such limit."""
        limits, threshold = self.limits, self.limits.long_prefill_token_threshold
        eligible = len(self.running) + len(self.waiting)
        if threshold == 0 or (eligible <= 1 and self.profile.lone_request_unthrottled):
            return 0
        if limits.long_prefill_token_threshold_adaptive and eligible:
            return max(threshold, limits.max_num_batched_tokens // eligible)
        return threshold

    def queue(self, request: Request) -> None:
        """A new request goes to the end and a preempted one to the front, or each where its priority says."""
        if self.limits.policy == "priority":
            request.rank = (request.priority, request.arrival, request.request_id)
            insort(self.waiting, request, key=by_rank)
        elif request.status is Status.PREEMPTED:
            self.waiting.appendleft(request)
        else:
            self.waiting.append(request)

    def preempt(self, plan: Plan, request: Request) -> None:
        """Takes all blocks from a running request; it will compute everything again (no swap)."""
        plan.budget += request.end_step >= 0  # its token was counted
        self.batch.leave(request)
        del self.running[request.order]
        self.kv.release(request)
        plan.drop(request)
        plan.preempted[request] = request.num_computed_tokens
        self.requeue(request)

    def requeue(self, request: Request) -> None:
        """A preempted request waits again."""
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
        self.queue(request)

    def finish(self, request: Request) -> None:
        """Frees a request that has made its last token, or whose client has left."""
        if request.status is Status.RUNNING:
            del self.running[request.order]
        else:
            self.waiting.remove(request)
        self.num_preempted_alive -= request.num_preemptions > 0
        self.kv.close(request)
        self.eager.discard(request)
        request.status = Status.FINISHED

    def victim(self) -> Request:
        """Whom to preempt: fcfs the latest admitted; priority the largest (priority, arrival)."""
        if self._user_policy:
            return self._user_policy.victim(tuple(self.running.values()), self._cache_view)
        if self.limits.policy == "priority":
            return max(self.running.values(), key=lambda request: (request.priority, request.arrival))
        return next(reversed(self.running.values()))

    def snapshot(self) -> object:
        """All that the next decisions depend on; which physical block holds a content is not part of it."""
        requests = [(request, len(request.blocks), progress(request)) for request in self.unfinished()]
        since_prefill = min(self._since_prefill, self.limits.prefill_schedule_interval)
        return requests, len(self.running), since_prefill, self._is_bound, self.kv.pool.free_contents()

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

    def holds_prefill(self) -> bool:
        """Whether prefill waits in the next step: one in so many may carry it (data_parallel_size 1).

        It is never held back while the last free look at the waiting queue left something in it: then the
        engine is bound by its limits, and waiting longer gains nothing.
        """
        if self._is_bound or self._since_prefill + 1 >= self.limits.prefill_schedule_interval:
            return False
        return any(not request.is_prefill_chunk for request in self.running.values())

    def note_prefill(self, plan: Plan) -> None:
        """Counts a planned step, if it schedules anything, before its tokens are counted as computed."""
        if plan.chosen and self.limits.prefill_schedule_interval > 1:
            has_prefill = any(
                plan.admitted[request] < request.num_tokens - 1
                if request in plan.admitted
                else request.is_prefill_chunk
                for request in plan.chosen
            )
            self._since_prefill = 0 if has_prefill else self._since_prefill + 1

    # the two phases of a step: the running requests in order of admission, then the queue from its head

    def schedule_waiting(self, plan: Plan) -> bool:
        """Admits from the head of the queue until one does not fit; True if one did not. Nobody overtakes it.

        Only a request whose stale token is still under way is passed over, and keeps its place.
        """
        waiting, running, max_running = self.waiting, self.running, self.limits.max_running
        order, num_passed, is_refused = waiting, 0, False
        if self._user_policy and plan.budget > 0 and waiting and len(running) < max_running:
            order = deque(self._user_policy.order(tuple(waiting), self._cache_view))
        while plan.budget > 0 and len(order) > num_passed and len(running) < max_running:
            request = order[num_passed]
            if request.num_stale_tokens:
                num_passed += 1
            elif self._admit(plan, request):
                del order[num_passed]
                if order is not waiting:
                    waiting.remove(request)
            else:
                is_refused = True
                break
        if not plan.held:
            self._is_bound = len(waiting) > num_passed
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
                plan.taken[request] = fresh
            else:
                plan.choose(request, num_tokens, fresh)
                if request.num_drafts:  # those that fit take part; the rest of them is forgotten
                    known = request.num_tokens + request.num_placeholders
                    if request.num_computed_tokens + num_tokens > known:
                        plan.drafts[request] = request.num_computed_tokens + num_tokens - known
                    request.num_drafts = 0

    def tokens_wanted(self, plan: Plan, request: Request) -> int:
        """All known and expected tokens that are not computed, within the limits of one request."""
        if plan.held and request.is_prefill_chunk:
            return 0
        in_flight, computed = request.num_placeholders, request.num_computed_tokens
        if in_flight and computed + 2 - in_flight >= request.num_prompt_tokens + request.max_tokens:
            return 0  # the token that ends it is being made already
        wanted = request.num_tokens + request.num_drafts + in_flight - computed
        if 0 < plan.threshold < wanted:
            wanted = plan.threshold
        return min(wanted, self.limits.max_model_len - computed - 1)

    def _extend(self, plan: Plan, request: Request, num_tokens: int) -> list[int] | None:
        """Fresh blocks for the request, preempting until there are enough; None if it went itself."""
        while (fresh := self.kv.extend(request, num_tokens)) is None:
            victim = self.victim()
            self.preempt(plan, victim)
            if victim is request:
                return None
        return fresh
