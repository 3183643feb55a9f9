"""An example of a policy of one's own: the shortest prompt first, but nobody waits for ever.

A policy sees the queue, the running sequences, the KV memory and the limits; it returns a ``StepPlan`` and
touches nothing else. This one only reorders the queue and leaves the rest to ``continuous``: a request moves
forward by ``AGEING_TOKENS`` for each one that came after it, so that a long prompt is overtaken a bounded
number of times. Named in a scenario as ``batching: ./policies/shortest_first.py:decide``.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import KVView, StepPlan
from sim.serving.limits import Limits
from sim.serving.sequence import Sequence

AGEING_TOKENS = 64


def decide(waiting: Seq[Sequence], running: Seq[Sequence], kv: KVView, limits: Limits) -> StepPlan:
    """One step of continuous batching over a queue in order of size and age."""
    newest = max((sequence.id for sequence in waiting), default=0)

    def rank(sequence: Sequence) -> tuple[bool, int, int]:
        is_new = sequence.generated == 0  # a preempted one goes on first
        return is_new, sequence.prompt_tokens - AGEING_TOKENS * (newest - sequence.id), sequence.id

    return continuous(sorted(waiting, key=rank), running, kv, limits)
