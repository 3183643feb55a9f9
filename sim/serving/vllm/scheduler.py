"""vLLM V1's scheduler, as the named release decides: what ``gpuyard conformance`` proves is what runs.

Pure: no clock, no randomness, no SimPy. ``plan_step`` decides a step, ``update`` takes its tokens in; with
``skips``, steps of which it is known that only decoding happens come as one (``schedule``).

KV levels: a shared block counts once, and so do its tokens; cached blocks that nobody uses count as free.
Host time is part of a step's price; that asynchronous scheduling hides some of it is not modelled here.
"""

from __future__ import annotations

from collections.abc import Mapping

from sim.errors import InvariantError
from sim.serving.request import Request, Status
from sim.serving.scheduler import NOBODY, Step, is_decode
from sim.serving.usage import sum_blocks
from sim.serving.vllm.config import SchedulerConfig
from sim.serving.vllm.kv import blocks_for
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State
from sim.serving.vllm.steady import SteadyDecode
from sim.serving.vllm.user_policy import SchedulingPolicy
from sim.serving.vllm_block_map import VllmBlockMapRecorder


class Scheduler(State):
    """One engine's scheduler and KV block pool.

    ``steady`` off plans every step request by request: slower, and the reference for the other way.
    ``policy`` goes with ``policy: user`` of the limits. ``are_alone``: no two requests have tokens in common.
    """

    block_map: VllmBlockMapRecorder | None

    def __init__(
        self,
        limits: SchedulerConfig,
        version: str = "0.33.0",
        *,
        steady: bool = True,
        skips: bool = False,
        policy: SchedulingPolicy | None = None,
        are_alone: bool = False,
        block_map: VllmBlockMapRecorder | None = None,
    ) -> None:
        super().__init__(limits, version, policy)
        self._now_ps = 0
        self.pool, self.watermark, self.max_running = (
            self.kv.pool,
            self.kv.watermark_blocks,
            limits.max_running,
        )
        self.block_size, self.num_blocks = limits.block_size, self.pool.num_blocks
        self.capacity_tokens = self.num_blocks * self.block_size
        self.steady: SteadyDecode | None = None
        self.are_alone, self.skips, self.block_map = are_alone, skips, block_map
        if block_map is not None:
            self.kv.on_release = lambda request: block_map.release(request, self._now_ps)
        self._is_order_open = limits.policy != "fcfs" or limits.long_prefill_token_threshold > 0
        if steady and not _why_unsteady(limits):
            self.batch = self.steady = SteadyDecode(self)
            self.is_steady = True
            self.prefilling = self.steady.prefilling
            self.can_lend = are_alone and block_map is None and not self._is_order_open
        self.cuts_answers, self.gates_whole_prompt = True, limits.scheduler_reserve_full_isl
        self._made: dict[Request, int] = {}  # by the last step; in steady decode only where not one token
        self._registers_in_update = (
            limits.num_speculative_tokens > 0 and self.profile.registers_drafted_blocks_in_update
        )

    def used_tokens(self) -> int:
        """Tokens' worth of blocks that somebody refers to."""
        return (self.num_blocks - self.pool.num_free) * self.block_size

    def is_open(self) -> bool:
        """A newcomer may run where there is a place, unless the head of the queue blocks it."""
        if len(self.running) >= self.limits.max_num_seqs:
            return False
        return not self.waiting or self._is_order_open

    def refusal(self, request: Request) -> str:
        """(vLLM itself would wait for ever.)"""
        limits = self.limits
        if request.num_prompt_tokens < 1 or request.max_tokens < 1:
            return "a prompt and an answer have at least one token"
        if request.num_prompt_tokens >= limits.max_model_len:
            return (
                f"its prompt of {request.num_prompt_tokens} tokens leaves no room for an answer "
                f"within max_model_len {limits.max_model_len}"
            )
        last = min(request.num_prompt_tokens + request.max_tokens, limits.max_model_len) - 1
        need = blocks_for(last, limits.block_size)
        if need > self.num_blocks:
            return (
                f"it needs {need} KV blocks of {limits.block_size} tokens on its own, "
                f"and the pool has {self.num_blocks}"
            )
        return ""

    def add(self, request: Request) -> None:
        request.is_alone = self.are_alone
        request.end_tokens = min(request.num_prompt_tokens + request.max_tokens, self.limits.max_model_len)
        steady = self.steady
        for met in self.kv.open(request):
            if steady is None:
                met.registers_late = False
            else:
                steady.register_promptly(met)
        self.waiting.add(request)
        self.watch.reset()
        if steady is not None:
            steady.look_again()

    def abort(self, request: Request, now_ps: int = 0) -> int:
        """Frees everything at once."""
        self._now_ps = now_ps
        if request.status not in (Status.FINISHED, Status.REFUSED):
            self.watch.reset()
            if self.is_steady:
                self.batch.leave(request)
            self.finish(request)
        return request.num_output_tokens

    def settle(self, request: Request) -> None:
        """Brings the counts of a request that decodes in step up to date, for reading."""
        if request.end_step >= 0:
            self.batch.settle(request)

    # a step is planned

    def schedule(self, now_ps: int = 0) -> Step:
        """Where only decoding follows, as many steps as do, not planned one by one."""
        self._now_ps = now_ps
        jump = self._jump() if self.skips else None
        if jump is not None:
            return jump
        plan = self.plan_step()
        if self.block_map is not None:
            self.block_map.note(plan, self.block_size, now_ps)
        held = self._num_held_tokens(plan)
        plan.levels = (held, held, self.used_tokens(), 0)
        return plan

    def plan_step(self) -> Plan:
        """Decides the next step and counts its tokens as computed."""
        plan = None
        if self.steady is not None:
            plan = self.steady.schedule()
            if plan is None:
                self.steady.dissolve()
        if plan is None:
            plan = self._plan_each()
        self._count(plan)
        return plan

    def _plan_each(self) -> Plan:
        """Plans a step request by request."""
        held = self.interval.holds(self.running.values())
        plan = Plan(budget=self.limits.max_num_batched_tokens, threshold=self.threshold(), held=held)
        self.schedule_running(plan, list(self.running.values()))
        if not plan.preempted:
            self.schedule_waiting(plan)
        self.interval.note(plan)
        if plan.preempted and self.limits.policy != "fcfs":
            self.watch.note(plan, self.snapshot)
        return plan

    def _count(self, plan: Plan) -> None:
        """Who decodes, and the prompt chunks; later plans move the requests' counts on.

        The many decodes are counted here, as ``Step.add`` would.
        """
        partial, drafts = plan.partial, plan.drafts
        num_decode, context = plan.num_uniform, self.batch.num_context_tokens if plan.num_uniform else 0
        for request, tokens in plan.chosen.items():
            cached = request.num_computed_tokens
            self._count_as_computed(plan, request, tokens)
            if tokens == 1 and is_decode(1, cached):
                num_decode += 1
                context += cached + 1
            else:
                samples = request not in partial
                plan.add(request, tokens, cached, samples=samples, drafts=drafts.get(request, 0))
        plan.num_decode += num_decode
        plan.context_tokens += context
        plan.emitting = [one for one in plan.chosen if one not in partial] if partial else list(plan.chosen)

    def _count_as_computed(self, plan: Plan, request: Request, num_tokens: int) -> None:
        request.num_computed_tokens += num_tokens
        expected = request.num_tokens + request.num_placeholders
        request.is_prefill_chunk = request.num_computed_tokens < expected
        if request.is_prefill_chunk:
            plan.partial.add(request)
        elif self.limits.async_scheduling:
            request.num_placeholders += 1 + plan.drafts.get(request, 0)
            request.num_drafts = self.limits.num_speculative_tokens

    def _num_held_tokens(self, plan: Plan) -> int:
        """Computed tokens of all running requests, this planned step's included; shared ones count once."""
        shared = self.pool.num_extra_owners * self.block_size
        if not plan.is_steady:
            return sum([request.num_computed_tokens for request in self.running.values()]) - shared
        listed = {*plan.chosen, *self.prefilling.values()}
        held = self.batch.num_context_tokens - shared
        return held + sum([request.num_computed_tokens for request in listed])

    def _jump(self) -> Step | None:
        """The steps in which only decoding happens, if nobody arrives or leaves."""
        steady = self.steady
        steps = steady.uniform_steps() if steady is not None else 0
        if self.block_map is not None:
            steps -= 1  # a jump that ends nobody: its blocks are noted before any is freed
        if steady is None or steps <= 0:
            return None
        context = steady.num_context_tokens
        held = context - self.pool.num_extra_owners * self.block_size
        used = self.used_tokens() + steady.num_growing() * self.block_size
        levels = (held, held, used, 0)
        num_decode = steady.num_decoding
        return Step(num_decode=num_decode, context_tokens=context, levels=levels, num_steps=steps)

    # a step is over

    def update(self, step: Step, accepted: Mapping[Request, int] = NOBODY, now_ps: int = 0) -> list[Request]:
        """Who finished comes in scheduling order; dummy drafts are never right."""
        self._now_ps = now_ps
        if not isinstance(step, Plan):
            return self._take_jump(step)
        if self.steady is None:
            self._made = {request: 1 + accepted.get(request, 0) for request in step.emitting}
            return self._update_each(step, accepted)
        self._made = dict.fromkeys(step.partial, 0)
        if step.is_steady:
            return self.steady.update(step)
        finished = self._update_each(step, accepted)
        for request in self.running.values():
            self.steady.join(request)
        return finished

    def _take_jump(self, step: Step) -> list[Request]:
        steady, size = self.steady, self.block_size
        assert steady is not None
        held, _ = sum_blocks(steady.counts, steady.step % size, step.first_ps, step.growth_ps, step.num_steps)
        step.grown_tokens_ps = held * size
        self._made = {}
        finished = steady.advance(step.num_steps)
        if self.block_map is not None and not self.block_map.is_truncated:
            for request in self.running.values():
                self.settle(request)
            self.block_map.note_jump(self.running.values(), size, step)
        return finished

    def _update_each(self, plan: Plan, accepted: Mapping[Request, int]) -> list[Request]:
        finished = []
        for request in plan.emitting:
            if request.status is Status.FINISHED:
                continue
            num_drafts = plan.drafts.get(request, 0)
            num_accepted = min(accepted.get(request, 0), num_drafts) if request not in plan.admitted else 0
            self._append(request, 1 + num_accepted, num_drafts - num_accepted)
            if request.num_tokens >= request.end_tokens:
                self.finish(request)
                finished.append(request)
            elif not self.limits.async_scheduling:
                request.num_drafts = self.limits.num_speculative_tokens
        return finished

    def _append(self, request: Request, num_made: int, num_rejected: int) -> None:
        """Appends tokens up to the request's end; what was computed beyond them does not count."""
        num_kept = min(num_made, request.end_tokens - request.num_tokens)
        request.num_tokens += num_kept
        if request.num_stale_tokens:
            request.num_stale_tokens -= 1
            return
        request.num_computed_tokens -= num_rejected + num_made - num_kept
        if self.limits.async_scheduling:
            request.num_placeholders -= num_rejected + num_made
        if self.limits.async_scheduling or self._registers_in_update:
            self.kv.register(request, request.num_computed_tokens - request.num_placeholders)

    def num_just_made(self, request: Request) -> int:
        """With several steps in flight also for those that were preempted while they were in the step."""
        if self.steady is None:
            return self._made.get(request, 0)
        return self._made.get(request, 1) if request.status in (Status.RUNNING, Status.FINISHED) else 0

    def why_stepwise(self) -> str:
        return _why_unsteady(self.limits) or ("" if self.skips else "with pipeline_parallel_size")

    # lent to the fast path

    def lend(self) -> bool:
        """Blocks are only counted from here on: which is whose matters to nobody.

        Not while a request that was preempted may find its own blocks in the prefix cache.
        """
        steady = self.steady
        assert steady is not None
        if self.limits.enable_prefix_caching and self.num_preempted_alive:
            return False
        newest = next(reversed(self.running), None)
        if len(self.prefilling) > 1 or (self.prefilling and newest not in self.prefilling):
            return False
        self.free = self.pool.num_free
        for request in self.running.values():
            request.reserved = len(request.blocks)
            self.pool.retire(request.blocks, 0)
            request.blocks = []
        for phase in steady.members:
            phase.clear()
        return True

    def take_back(self) -> None:
        """Every running request gets blocks again, as many as it had."""
        steady, size = self.steady, self.block_size
        assert steady is not None
        steady.is_stuck = False
        for request in self.running.values():
            computed = request.num_computed_tokens
            request.is_prefill_chunk = request.order in self.prefilling
            if not request.is_prefill_chunk:
                computed += steady.step - request.settled_step
                steady.members[request.phase][request.order] = request
            request.blocks = self.pool.take(-(-computed // size))
            request.num_hit_blocks = 0
            request.num_registered_blocks = computed // size if self.limits.enable_prefix_caching else 0
        if self.pool.num_free != self.free:
            raise InvariantError(f"{self.free} KV blocks are free by count, {self.pool.num_free} in the pool")


def _why_unsteady(limits: SchedulerConfig) -> str:
    """Why decoding requests do not advance by one known token per step, or nothing."""
    if limits.async_scheduling:
        return "with async_scheduling"
    if limits.num_speculative_tokens > 0:
        return "with speculative drafts"
    return "with prefill_schedule_interval" if limits.prefill_schedule_interval > 1 else ""
