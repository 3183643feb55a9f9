"""vLLM V1's scheduler: ``schedule()`` decides a step, ``update()`` takes its tokens in.

Pure: no clock, no randomness, no SimPy. The caller runs the model in between, as long as it likes, or
uses ``EngineLoop``, which also models asynchronous scheduling's queue of two steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.errors import InvariantError
from sim.serving.in_flight import InFlight, queue_length
from sim.serving.request import Request, Status
from sim.serving.scheduler import NOTHING_ACCEPTED
from sim.serving.vllm.circling import PreemptionWatch
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.kv import blocks_for
from sim.serving.vllm.phases import schedule_running, schedule_waiting
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State
from sim.serving.vllm.steady import SteadyDecode
from sim.serving.vllm.user_policy import SchedulingPolicy


class Scheduler:
    """One engine's scheduler and KV block pool, as the named vLLM release decides.

    ``steady`` off plans every step request by request: slower, and the reference for the other way.
    ``policy`` goes with ``policy: user`` of the limits.
    """

    def __init__(
        self,
        limits: SchedulerConfig,
        version: str = "0.33.0",
        *,
        steady: bool = True,
        policy: SchedulingPolicy | None = None,
    ) -> None:
        self.state = State(limits, version, policy)
        self.steady = SteadyDecode(self.state) if steady and _is_steady(limits) else None
        self._limits = limits
        self._watch = PreemptionWatch()
        self._registers_in_update = (
            limits.num_speculative_tokens > 0 and self.state.profile.registers_drafted_blocks_in_update
        )

    @property
    def is_circling(self) -> bool:
        """Whether requests preempt one another for ever, unless a request comes or leaves."""
        return self._watch.is_circling

    @property
    def num_unfinished(self) -> int:
        """Requests that run or wait."""
        return len(self.state.running) + len(self.state.waiting)

    def refusal(self, request: Request) -> str:
        """Why this request could never be served, or nothing. (vLLM itself would wait for ever.)"""
        limits, num_blocks = self._limits, self.state.kv.pool.num_blocks
        if request.num_prompt_tokens < 1 or request.max_tokens < 1:
            return "a prompt and an answer have at least one token"
        if request.num_prompt_tokens >= limits.max_model_len:
            return (
                f"its prompt of {request.num_prompt_tokens} tokens leaves no room for an answer "
                f"within max_model_len {limits.max_model_len}"
            )
        last = min(request.num_prompt_tokens + request.max_tokens, limits.max_model_len) - 1
        need = blocks_for(last, limits.block_size)
        if need > num_blocks:
            return (
                f"it needs {need} KV blocks of {limits.block_size} tokens on its own, "
                f"and the pool has {num_blocks}"
            )
        return ""

    def add(self, request: Request) -> bool:
        """Queues a new request; False, and status REFUSED, if it could never be served."""
        if self.refusal(request):
            request.status = Status.REFUSED
            return False
        request.end_tokens = min(request.num_prompt_tokens + request.max_tokens, self._limits.max_model_len)
        state, steady = self.state, self.steady
        for met in state.kv.open(request):
            if steady is None:
                met.registers_late = False
            else:
                steady.register_promptly(met)
        state.waiting.add(request)
        self._watch.reset()
        if steady is not None:
            steady.look_again(new=True)
        return True

    def schedule(self) -> Plan:
        """Decides the next step and counts its tokens as computed."""
        plan = None
        if self.steady is not None:
            plan = self.steady.schedule()
            if plan is None:
                self.steady.dissolve()
        if plan is None:
            plan = self._schedule_each()
        for request, num_tokens in plan.chosen.items():
            self._count_as_computed(plan, request, num_tokens)
        return plan

    def _schedule_each(self) -> Plan:
        """Plans a step request by request."""
        state = self.state
        held = state.interval.holds(state.running.values())
        plan = Plan(self._limits.max_num_batched_tokens, state.threshold(), held=held)
        schedule_running(state, plan)
        if not plan.preempted:
            schedule_waiting(state, plan)
        state.interval.note(plan)
        if plan.preempted and self._limits.policy != "fcfs":
            self._watch.note(state, plan)
        return plan

    def _count_as_computed(self, plan: Plan, request: Request, num_tokens: int) -> None:
        request.num_computed_tokens += num_tokens
        expected = request.num_tokens + request.num_placeholders
        request.is_prefill_chunk = request.num_computed_tokens < expected
        if request.is_prefill_chunk:
            plan.partial.add(request)
        elif self._limits.async_scheduling:
            request.num_placeholders += 1 + plan.drafts.get(request, 0)
            request.num_drafts = self._limits.num_speculative_tokens

    def update(self, plan: Plan, accepted: Mapping[Request, int] = NOTHING_ACCEPTED) -> list[Request]:
        """Takes in the tokens of a step; returns the requests that finished, in scheduling order.

        ``accepted``: how many of a request's drafts were right; dummy drafts never are.
        """
        if plan.is_steady and self.steady is not None:
            return self.steady.update(plan)
        finished = self._update_each(plan, accepted)
        if self.steady is not None:
            self.steady.gather(self.state.running.values())
        return finished

    def _update_each(self, plan: Plan, accepted: Mapping[Request, int]) -> list[Request]:
        finished = []
        for request in plan.emitting():
            if request.status is Status.FINISHED:
                continue
            num_drafts = plan.drafts.get(request, 0)
            num_accepted = min(accepted.get(request, 0), num_drafts) if request not in plan.new else 0
            self._append(request, 1 + num_accepted, num_drafts - num_accepted)
            if request.num_tokens >= request.end_tokens:
                self.state.finish(request)
                finished.append(request)
            elif not self._limits.async_scheduling:
                request.num_drafts = self._limits.num_speculative_tokens
        return finished

    def _append(self, request: Request, num_made: int, num_rejected: int) -> None:
        """Appends tokens up to the request's end; what was computed beyond them does not count."""
        num_kept = min(num_made, request.end_tokens - request.num_tokens)
        request.num_tokens += num_kept
        if request.num_stale_tokens:
            request.num_stale_tokens -= 1
            return
        request.num_computed_tokens -= num_rejected + num_made - num_kept
        if self._limits.async_scheduling:
            request.num_placeholders -= num_rejected + num_made
        if self._limits.async_scheduling or self._registers_in_update:
            self.state.kv.register(request, request.num_computed_tokens - request.num_placeholders)

    def abort(self, request: Request) -> None:
        """The client has left: frees everything at once."""
        if request.status in (Status.FINISHED, Status.REFUSED):
            return
        self._watch.reset()
        if self.steady is not None:
            self.steady.leave(request)
            self.steady.look_again()
        self.state.finish(request)

    def settle(self, request: Request) -> None:
        """Brings the counts of a request that decodes in step up to date, for reading."""
        if self.steady is not None and self.steady.is_decoding(request):
            self.steady.settle(request)

    @property
    def num_decoding(self) -> int:
        """Requests that decode in step (none where steps are planned request by request)."""
        return self.steady.num_decoding if self.steady is not None else 0

    @property
    def num_context_tokens(self) -> int:
        """Sum of those requests' tokens."""
        return self.steady.num_context_tokens if self.steady is not None else 0

    def num_held_tokens(self, plan: Plan) -> int:
        """Tokens of all running requests that are computed, this planned step's included."""
        if not plan.is_steady or self.steady is None:
            return sum(request.num_computed_tokens for request in self.state.running.values())
        listed = {*plan.chosen, *self.steady.chunks()}
        return self.steady.num_context_tokens + sum(request.num_computed_tokens for request in listed)

    def uniform_steps(self) -> int:
        """For how many whole steps, from here on, only decoding happens if nothing arrives or is aborted.

        To be asked between two steps. No admission, preemption or prefill falls into them, and an end only
        into the last, so they have the same requests and one token each, and ``advance`` takes them at
        once. Always 0 with asynchronous scheduling, drafts or ``prefill_schedule_interval`` above 1.
        """
        return self.steady.uniform_steps() if self.steady is not None else 0

    def advance(self, num_steps: int) -> list[Request]:
        """Takes so many uniform steps: the same state as from as many ``schedule()`` and ``update()``.

        Returns the requests that finished. Costs the blocks that are handed out, not the tokens.
        """
        if num_steps > self.uniform_steps():
            raise InvariantError(f"{num_steps} steps at once, {self.uniform_steps()} are uniform")
        if not num_steps or self.steady is None:
            return []
        return self.steady.advance(num_steps)


def _is_steady(limits: SchedulerConfig) -> bool:
    """Whether decoding requests advance by one known token per step."""
    return (
        not limits.async_scheduling
        and limits.num_speculative_tokens == 0
        and limits.prefill_schedule_interval == 1
    )


class EngineLoop:
    """Synchronous: plan, run, take in. Asynchronous: step k + 1 is planned before step k's tokens are
    known."""

    def __init__(
        self, scheduler: Scheduler, *, async_scheduling: bool, pipeline_parallel_size: int = 1
    ) -> None:
        self.scheduler = scheduler
        self._in_flight: InFlight[Plan] = InFlight(
            queue_length(async_scheduling=async_scheduling, pipeline_parallel_size=pipeline_parallel_size)
        )

    @property
    def is_idle(self) -> bool:
        """Nothing to plan and nothing under way."""
        return self._in_flight.is_idle(self.scheduler.num_unfinished)

    def plan(self) -> tuple[Plan | None, Plan | None]:
        """See ``InFlight.plan``."""
        return self._in_flight.plan(self.scheduler.schedule, self.scheduler.num_unfinished)

    def complete(self, plan: Plan, accepted: Mapping[Request, int] = NOTHING_ACCEPTED) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished."""
        finished = self.scheduler.update(plan, accepted)
        self._in_flight.note_finished(bool(finished))
        return finished
