"""The two phases of a step: the running requests in order of admission, then admissions from the queue."""

from __future__ import annotations

from sim.serving.request import Request, Status
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State


def schedule_waiting(state: State, plan: Plan) -> bool:
    """Admits from the head of the queue until one does not fit; True if one did not. Nobody overtakes it.

    Only a request whose stale token is still under way is passed over, and keeps its place.
    """
    skipped: list[Request] = []
    waiting, running, max_running = state.waiting, state.running, state.limits.max_running
    is_refused = False
    if plan.budget > 0 and len(waiting) and len(running) < max_running:
        waiting.arrange()
    while plan.budget > 0 and len(waiting) and len(running) < max_running:
        request = waiting.head()
        if request.num_stale_tokens:
            skipped.append(waiting.take())
        elif not _admit(state, plan, request):
            is_refused = True
            break
    if not plan.held:
        state.interval.looked_at_waiting(left_over=len(waiting) > 0)
    if skipped:
        waiting.restore(skipped)
    return is_refused


def _admit(state: State, plan: Plan, request: Request) -> bool:
    """Admits the head of the queue if its first chunk may run and its blocks are to be had."""
    num_hits = state.kv.find_hits(request)
    hit_tokens = num_hits * state.limits.block_size
    missing = request.num_tokens - hit_tokens
    if plan.held and missing > 1:
        return False
    num_tokens = plan.threshold if 0 < plan.threshold < missing else missing
    if num_tokens > plan.budget and not state.limits.enable_chunked_prefill:
        return False
    dummies = _dummy_drafts(state, plan, request, hit_tokens)
    if dummies and dummies + 1 > plan.budget:
        return False
    num_tokens = min(num_tokens, plan.budget) + dummies
    fresh = state.kv.admit(request, num_hits, num_tokens, spare=bool(state.running))
    if fresh is None:
        return False
    state.admit(plan, request, num_tokens, fresh)
    if dummies:
        plan.drafts[request] = dummies
    return True


def _dummy_drafts(state: State, plan: Plan, request: Request, hit_tokens: int) -> int:
    """Drafts that pad a one-token admission to the shape of the decodes beside it; all are rejected."""
    num_drafts = state.limits.num_speculative_tokens
    if not num_drafts or not state.profile.pads_single_token_admissions:
        return 0
    if request.num_tokens - hit_tokens != 1 or hit_tokens + num_drafts + 2 > state.limits.max_model_len:
        return 0
    beside = [other for other in plan.chosen if other not in plan.admitted]
    if any(other.is_prefill_chunk for other in beside):
        return 0
    return num_drafts if beside or hit_tokens else 0


def schedule_running(state: State, plan: Plan, asked: list[Request]) -> None:
    """Gives these running requests the tokens that they ask for, preempting others where blocks run out.

    A request that can have no token now is passed over: the order is not strict here. The token of one that
    decodes in step is in the plan already.
    """
    goes_on_after_self = state.limits.policy != "fcfs" and state.profile.self_preemption_continues
    for request in asked:
        if request.status is not Status.RUNNING:
            continue
        is_counted = request.end_step >= 0
        if is_counted:
            state.batch.settle(request)
        num_tokens = 1 if is_counted else min(tokens_wanted(state, plan, request), plan.budget)
        if num_tokens <= 0:
            continue
        fresh = _extend(state, plan, request, num_tokens)
        if fresh is None:
            if not goes_on_after_self:
                return
        elif is_counted:
            plan.give(request, fresh)
        else:
            plan.choose(request, num_tokens, fresh)
            _use_drafts(plan, request, num_tokens)


def tokens_wanted(state: State, plan: Plan, request: Request) -> int:
    """All known and expected tokens that are not computed, within the limits of one request."""
    if plan.held and request.is_prefill_chunk:
        return 0
    if _last_token_in_flight(request):
        return 0
    wanted = request.num_tokens + request.num_drafts + request.num_placeholders - request.num_computed_tokens
    if 0 < plan.threshold < wanted:
        wanted = plan.threshold
    return min(wanted, state.limits.max_model_len - request.num_computed_tokens - 1)


def _last_token_in_flight(request: Request) -> bool:
    """Asynchronous scheduling: the token that ends the request is being made already."""
    placeholders = request.num_placeholders
    if not placeholders:
        return False
    return request.num_computed_tokens + 2 - placeholders >= request.num_prompt_tokens + request.max_tokens


def _extend(state: State, plan: Plan, request: Request, num_tokens: int) -> list[int] | None:
    """Fresh blocks for the request, preempting until there are enough; None if it went itself."""
    while True:
        fresh = state.kv.extend(request, num_tokens)
        if fresh is not None:
            return fresh
        victim = state.victim()
        state.preempt(plan, victim)
        if victim is request:
            return None


def _use_drafts(plan: Plan, request: Request, num_tokens: int) -> None:
    """Drafts that fit take part; the rest of them is forgotten."""
    known = request.num_tokens + request.num_placeholders
    used = request.num_computed_tokens + num_tokens - known
    if request.num_drafts and used > 0:
        plan.drafts[request] = used
    request.num_drafts = 0
