"""Continuous batching: requests join and leave at every step (Orca, OSDI '22).

``decode_first`` gives every running sequence its token, then fills the step with prompts (Sarathi, vLLM V1);
``prefill_first`` runs prompts alone whenever one can be admitted (Orca's and old vLLM's order). First come,
first served: nobody passes the head of the queue. When blocks run out, the latest admitted sequence is
preempted and will be recomputed; nothing is admitted in such a step.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from sim.serving.batching.plan import KVView, StepPlan
from sim.serving.limits import Limits
from sim.serving.sequence import Sequence


def continuous(waiting: Seq[Sequence], running: Seq[Sequence], kv: KVView, limits: Limits) -> StepPlan:
    """The generic policy; see the module's text."""
    plan = StepPlan()
    if limits.is_prefill_first:
        add_prompts(plan, waiting, running, kv, limits)
        if not plan.prefill:
            add_decodes(plan, running, kv)
        return plan
    add_decodes(plan, running, kv)
    if not plan.preempted:
        add_prompts(plan, waiting, running, kv, limits)
    return plan


def add_decodes(plan: StepPlan, running: Seq[Sequence], kv: KVView) -> None:
    """Every decoding sequence that finds memory for its token, in order of admission."""
    left = list(running)
    decoding = [
        sequence for sequence in running if sequence.generated and sequence.computed >= sequence.target
    ]
    for sequence in decoding:
        while sequence in left and not kv.can_extend(sequence):
            victim = left.pop()
            kv.release(victim)
            plan.preempted.append(victim)
        if sequence in left:
            kv.extend(sequence)
            plan.decode.append(sequence)


def add_prompts(
    plan: StepPlan, waiting: Seq[Sequence], running: Seq[Sequence], kv: KVView, limits: Limits
) -> None:
    """The half-done prompt, then the queue from its head, while the token budget and memory last."""
    budget = limits.max_num_batched_tokens - len(plan.decode)
    for sequence in running:
        left = sequence.target - sequence.computed
        if left > 0 and budget > 0:
            plan.prefill.append((sequence, min(left, budget)))
            budget -= min(left, budget)
    seats = limits.max_num_seqs - len(running)
    for head in waiting:
        if seats == 0 or budget == 0 or not kv.can_admit(head, is_first=seats == limits.max_num_seqs):
            break
        size = head.prompt_tokens + head.generated
        if size > budget and not limits.enable_chunked_prefill:
            break
        kv.admit(head)
        plan.prefill.append((head, min(size, budget)))
        budget -= min(size, budget)
        seats -= 1
