"""First phase of a step: the running requests, in order of admission."""

from __future__ import annotations

from sim.serving.request import Request, Status
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State


def schedule_running(state: State, plan: Plan) -> None:
    """Gives each running request the tokens that it asks for, preempting others where blocks run out.

    A request that can have no token now is passed over: the order is not strict here.
    """
    goes_on_after_self = state.limits.policy != "fcfs" and state.profile.self_preemption_continues
    for request in list(state.running.values()):
        if plan.budget <= 0:
            return
        if request.status is not Status.RUNNING:
            continue
        num_tokens = _tokens_wanted(state, plan, request)
        if num_tokens <= 0:
            continue
        fresh = _extend(state, plan, request, num_tokens)
        if fresh is not None:
            plan.choose(request, num_tokens, fresh)
            _use_drafts(plan, request, num_tokens)
        elif not goes_on_after_self:
            return


def _tokens_wanted(state: State, plan: Plan, request: Request) -> int:
    """All known and expected tokens that are not computed, within the step's limits."""
    if plan.held and request.is_prefill_chunk:
        return 0
    if _last_token_in_flight(request):
        return 0
    wanted = request.num_tokens + request.num_drafts + request.num_placeholders - request.num_computed_tokens
    if 0 < plan.threshold < wanted:
        wanted = plan.threshold
    return min(wanted, plan.budget, state.limits.max_model_len - request.num_computed_tokens - 1)


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
