"""Continuous batching: requests join and leave at every step (Orca, OSDI '22).

``decode_first`` gives every running sequence its token, then fills the step with prompts (Sarathi, vLLM V1);
``prefill_first`` runs prompts alone whenever one can be admitted (Orca's and old vLLM's order). First come,
first served: nobody passes the head of the queue. When blocks run out, the latest admitted sequence is
preempted and will be recomputed; nothing is admitted in such a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from sim.serving.batching.plan import KVView, Limits, StepPlan
from sim.serving.request import Request


def continuous(
    waiting: Sequence[Request], running: Sequence[Request], kv: KVView, limits: Limits
) -> StepPlan:
    """One step, as the module's text says."""
    plan = StepPlan()
    if limits.is_prefill_first:
        add_prompts(plan, waiting, running, kv, limits)
        if not plan.prefill:
            add_decodes(plan, running, kv)
    else:
        add_decodes(plan, running, kv)
        if not plan.preempted:
            add_prompts(plan, waiting, running, kv, limits)
    return plan


def add_decodes(plan: StepPlan, running: Sequence[Request], kv: KVView) -> None:
    """Every decoding request that finds memory for its token, in order of admission."""
    if kv.extend_all():
        if kv.is_counted:
            plan.decode_all = plan.stands = True
        else:
            plan.decode = [one for one in running if one.is_decoding]
        return
    left = list(running)
    for request in [one for one in running if one.is_decoding]:
        while request in left and not kv.can_extend(request):
            victim = left.pop()
            kv.release(victim)
            plan.preempted.append(victim)
        if request in left:
            kv.extend(request)
            plan.decode.append(request)


def add_prompts(
    plan: StepPlan, waiting: Sequence[Request], running: Sequence[Request], kv: KVView, limits: Limits
) -> None:
    """Half-done prompts, then the queue from its head, while the token budget and memory last."""
    # Prompts are worked on in order of admission: those that are not done are the newest.
    prompts = list(takewhile(lambda one: not one.is_decoding, reversed(running)))
    num_decodes = len(running) - len(prompts) if plan.decode_all else len(plan.decode)
    budget = limits.max_num_batched_tokens - num_decodes
    for request in reversed(prompts):
        tokens = min(request.target - request.num_computed_tokens, budget)
        if tokens > 0:
            plan.prefill.append((request, tokens))
            budget -= tokens
    seats = limits.max_num_seqs - len(running)
    for head in waiting:
        if seats == 0 or budget <= 0 or not kv.can_admit(head, is_first=seats == limits.max_num_seqs):
            break
        if head.num_tokens > budget and not limits.enable_chunked_prefill:
            break
        kv.admit(head)
        tokens = min(head.num_tokens, budget)
        plan.prefill.append((head, tokens))
        budget -= tokens
        seats -= 1
