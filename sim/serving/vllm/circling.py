"""Requests that preempt one another for ever, noticed.

Without ``scheduler_reserve_full_isl``, requests of equal priority and arrival can throw out each other's
half-done prefills in turn, in vLLM too; a victim rule of the user's can do so at any time. No token comes
out, so the scheduler's state comes back: a state that repeats at a preemption, with nothing new in
between, repeats for ever. Under fcfs it cannot happen: the first admitted is never a victim of another.
"""

from __future__ import annotations

from collections.abc import Iterable

from sim.errors import ScenarioError
from sim.serving.request import Request
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State

MANY_IN_VAIN = 50


class PreemptionWatch:
    """Compares states at preempting steps, once some request was preempted often without a token in between.

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

    def note(self, state: State, plan: Plan) -> None:
        """A step that preempted somebody was planned, and its tokens not yet counted."""
        if max(request.num_vain_preemptions for request in plan.preempted) < MANY_IN_VAIN:
            return
        now = _snapshot(state)
        if now == self._kept:
            self.is_circling = True
        self._age += 1
        if self._age == self._keep_for:
            self._kept = now
            self._age, self._keep_for = 0, 2 * self._keep_for


def endless(state: State, plan: Plan) -> ScenarioError:
    """What to say of a run that circles and to which nobody comes any more."""

    def ids(requests: Iterable[Request]) -> str:
        return ", ".join(request.request_id.lstrip("0") or "0" for request in requests)

    return ScenarioError(
        f"requests preempt one another for ever: {ids(plan.preempted)} made room again without having "
        f"made a token, for {ids(state.running.values())}; an engine that decides so never ends",
        path="engine.scheduler_reserve_full_isl",
        given=state.limits.scheduler_reserve_full_isl,
        hint="scheduler_reserve_full_isl: true, policy: fcfs, priorities that differ, or more KV blocks",
    )


def _snapshot(state: State) -> object:
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
        for request in state.running.values()
    ]
    waiting = [(request, request.num_tokens, request.num_stale_tokens) for request in state.waiting]
    return running, waiting, state.interval.phase(), state.kv.pool.free_contents()
