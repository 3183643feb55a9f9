"""Static batching: a batch is formed, padded, and runs to its longest member before the next one.

KV memory of a member stays taken until the batch ends (the scheduler keeps it). Over paged KV a member whose
block cannot be had is preempted and joins the next batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.serving.batching.continuous import add_decodes
from sim.serving.batching.plan import KVView, Limits, StepPlan
from sim.serving.request import Request


def static(waiting: Sequence[Request], running: Sequence[Request], kv: KVView, limits: Limits) -> StepPlan:
    """The batch's next step, or a new batch from the head of the queue."""
    plan = StepPlan()
    if running:
        add_decodes(plan, running, kv)
        return plan
    for head in waiting:
        if len(plan.prefill) == limits.max_num_seqs or not kv.can_admit(head, is_first=not plan.prefill):
            break
        kv.admit(head)
        plan.prefill.append((head, head.num_tokens))
    return plan
