"""Second phase of a step: admissions from the waiting queue."""

from __future__ import annotations

from sim.serving.request import Request
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
            skipped.append(waiting.pop())
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
    beside = [other for other in plan.chosen if other not in plan.new]
    if any(other.is_prefill_chunk for other in beside):
        return 0
    return num_drafts if beside or hit_tokens else 0
