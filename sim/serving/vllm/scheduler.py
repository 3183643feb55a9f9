"""vLLM V1's scheduler, as the named release decides: what ``gpuyard conformance`` proves is what runs.

Pure: no clock, no randomness, no SimPy. ``plan_step`` decides a step, ``update`` takes its tokens in; steps
of which it is known that only decoding happens come as one (``schedule``).

KV levels: a shared block counts once, and so do its tokens; cached blocks that nobody uses count as free.
Host time is part of a step's price; that asynchronous scheduling hides some of it is not modelled here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from sim.errors import InvariantError
from sim.serving.request import Request, Status
from sim.serving.scheduler import NOBODY, Chunk, Step, is_decode
from sim.serving.usage import sum_blocks
from sim.serving.vllm.config import ONE_FULL_GROUP, SchedulerConfig
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import PreemptionWatch, State
from sim.serving.vllm.steady import SteadyDecode, steady_decode
from sim.serving.vllm.user_policy import SchedulingPolicy
from sim.serving.vllm_block_map import VllmBlockMapRecorder

ASYNC = "with async_scheduling"


class Scheduler(State):
    """One engine's scheduler and KV block pool.

    ``steady`` off plans every step request by request: slower, and the reference for the other way.
    ``policy`` goes with ``policy: user`` of the limits. ``are_alone``: no two requests have tokens in common.
    """

    batch: SteadyDecode
    block_map: VllmBlockMapRecorder | None

    def __init__(
        self,
        limits: SchedulerConfig,
        version: str = "0.33.0",
        *,
        steady: bool = True,
        policy: SchedulingPolicy | None = None,
        are_alone: bool = False,
        block_map: VllmBlockMapRecorder | None = None,
    ) -> None:
        super().__init__(limits, version, policy)
        self.are_alone, self.block_map = are_alone, block_map
        if block_map is not None:
            block_map.follow(self.kv, self.running, limits.block_size)
        self._is_order_open = limits.policy != "fcfs" or limits.long_prefill_token_threshold > 0
        self.is_steady = steady and not _why_unsteady(limits)
        self.batch = steady_decode(self, registers=limits.enable_prefix_caching and not are_alone)
        self._follows_flight, self._num_groups = self.kv.follows_flight, self.kv.num_token_groups
        self._made: dict[Request, int] = {}  # by the last step; in steady decode only where not one token
        self._registers_in_update = (
            limits.num_speculative_tokens > 0 and self.profile.registers_drafted_blocks_in_update
        )
        # What the fast path borrows.
        is_lockstep = steady and _why_unsteady(limits) in ("", ASYNC)
        self.is_ranked = limits.policy == "priority"
        has_rule = limits.policy == "user" or limits.long_prefill_token_threshold > 0
        is_plain = limits.groups == ONE_FULL_GROUP
        self.can_lend = is_lockstep and is_plain and not has_rule
        has_drafts = limits.num_speculative_tokens > 0 and not limits.async_scheduling
        is_in_turn = limits.policy == "fcfs" and limits.prefill_schedule_interval <= 1 and not has_rule
        self.can_lend_drafts = steady and are_alone and is_plain and has_drafts and is_in_turn
        self._met: list[Request] = []
        self._loose: list[int] = []  # blocks that decodes of the fast path took, not told apart
        self.pool, self.prefilling, self.max_running = self.kv.pool, self.batch.prefilling, limits.max_running
        self.block_size, self.num_blocks = limits.block_size, self.pool.num_blocks
        self.capacity_tokens, self.watermark = self.num_blocks * self.block_size, self.kv.watermark_blocks
        self.cuts_answers, self.gates_whole_prompt = True, limits.scheduler_reserve_full_isl

    def used_tokens(self) -> int:
        """Tokens' worth of blocks that somebody refers to."""
        return (self.num_blocks - self.pool.num_free) * self.block_size

    def is_open(self) -> bool:
        """A newcomer may run where there is a place, unless the head of the queue blocks it."""
        is_free = len(self.running) < self.limits.max_num_seqs
        return is_free and (not self.waiting or self._is_order_open)

    def refusal(self, request: Request) -> str:
        """(vLLM itself would wait for ever.)"""
        prompt, size, longest = request.num_prompt_tokens, self.block_size, self.limits.max_model_len
        if prompt < 1 or request.max_tokens < 1:
            return "a prompt and an answer have at least one token"
        if prompt >= longest:
            return (
                f"its prompt of {prompt} tokens leaves no room for an answer within max_model_len {longest}"
            )
        need = self.kv.most_blocks(min(prompt + request.max_tokens, longest) - 1)
        if need > self.num_blocks:
            return (
                f"it needs {need} KV blocks of {size} tokens on its own, and the pool has {self.num_blocks}"
            )
        return ""

    def add(self, request: Request) -> None:
        self.enter(request)
        self._register_met()
        self.watch = PreemptionWatch()  # the state is a new one
        if self._is_order_open:
            self.batch.is_stuck = False  # the head of the queue may be another one, or might fit now

    def enter(self, request: Request) -> bool:
        if self.are_alone:
            request.num_common_tokens = 0
        request.end_tokens = min(request.num_prompt_tokens + request.max_tokens, self.limits.max_model_len)
        met = self.kv.open(request)
        self._met += met
        self.eager.update(met)
        is_met = not (self.are_alone or request.registers_late)  # its output, too, is like somebody's
        if is_met and request.end_tokens // self.block_size > request.num_prompt_tokens // self.block_size:
            self.eager.add(request)
        self.queue(request)
        return bool(self.eager)

    def _register_met(self) -> None:
        """Those whose output somebody may look up from now on."""
        for request in self._met:
            self.batch.register_promptly(request)
        self._met.clear()

    def abort(self, request: Request, now_ps: int = 0) -> int:
        """Frees everything at once."""
        if self.block_map is not None:
            self.block_map.set_time(now_ps)
        if request.status is not Status.FINISHED:
            self.watch = PreemptionWatch()
            self.batch.leave(request)
            self.finish(request)
        return request.num_output_tokens

    # a step is planned

    def schedule(self, now_ps: int = 0) -> Step:
        """Where only decoding follows, as many steps as do, not planned one by one."""
        if self.block_map is not None:
            self.block_map.set_time(now_ps)
        jump = self._jump()
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
        plan = self.batch.schedule() if self.is_steady else self._plan_each()
        if plan is None:
            self.batch.dissolve()
            plan = self._plan_each()
        self._count(plan)
        if self._follows_flight:
            self.kv.note_planned(plan)
        return plan

    def _plan_each(self) -> Plan:
        """Plans a step request by request."""
        budget, held = self.limits.max_num_batched_tokens, self.holds_prefill()
        plan = Plan(budget=budget, threshold=self.threshold(), held=held)
        self.schedule_running(plan, list(self.running.values()))
        if not plan.preempted:
            self.schedule_waiting(plan)
        self.note_prefill(plan)
        if plan.preempted and self.limits.policy != "fcfs":
            self.watch.note(plan, self.snapshot)
        return plan

    def _count(self, plan: Plan) -> None:
        """Who decodes, and the prompt chunks; later plans move the requests' counts on.

        The many decodes are counted here, as ``Step.add`` would.
        """
        is_async, drafts, emitting = self.limits.async_scheduling, plan.drafts, []
        num_decode, context = plan.num_uniform, self.batch.num_context_tokens
        for request, tokens in plan.chosen.items():
            cached = request.num_computed_tokens
            request.num_computed_tokens = computed = cached + tokens
            request.is_prefill_chunk = is_partial = computed < request.num_tokens + request.num_placeholders
            if is_partial:
                plan.partial.append(request)
            else:
                emitting.append(request)
                if is_async:
                    request.num_placeholders += 1 + drafts.get(request, 0)
                    request.num_drafts = self.limits.num_speculative_tokens
            if tokens == 1 and is_decode(1, cached):
                num_decode += 1
                context += cached + 1
            else:
                plan.add(request, tokens, cached, samples=not is_partial, drafts=drafts.get(request, 0))
        plan.num_decode += num_decode
        plan.context_tokens += context
        plan.emitting = emitting

    def _num_held_tokens(self, plan: Plan) -> int:
        """Computed tokens of all running requests, this planned step's included; shared ones count once.

        A token has a place in every group, and none where it has left a window.
        """
        listed = self.running.values() if plan.running is None else {*plan.chosen, *self.prefilling.values()}
        held = self.batch.num_context_tokens + sum([request.num_computed_tokens for request in listed])
        beside = self.kv.num_blocks_beside - self.pool.num_extra_owners
        return held * self._num_groups + beside * self.block_size

    def _jump(self) -> Step | None:
        """The steps in which only decoding happens, if nobody arrives or leaves."""
        batch, size = self.batch, self.block_size
        steps = batch.uniform_steps()
        if self.block_map is not None:
            steps -= 1  # a jump that ends nobody: its blocks are noted before any is freed
        if steps <= 0:
            return None
        num_decode, context = batch.num_decoding, batch.num_context_tokens
        held = context - self.pool.num_extra_owners * size
        levels = (held, held, self.used_tokens() + batch.num_growing() * size, 0)
        return Step(num_decode=num_decode, context_tokens=context, levels=levels, num_steps=steps)

    # a step is over

    def update(self, step: Step, accepted: Mapping[Request, int] = NOBODY, now_ps: int = 0) -> list[Request]:
        """Who finished comes in scheduling order; dummy drafts are never right."""
        if self.block_map is not None:
            self.block_map.set_time(now_ps)
        if not isinstance(step, Plan):
            return self._take_jump(step)
        if self._follows_flight:
            self.kv.note_over(step)
        if not self.is_steady:
            self._made = {request: 1 + accepted.get(request, 0) for request in step.emitting}
            return self._update_each(step, accepted)
        self._made = dict.fromkeys(step.partial, 0)
        if step.running is not None:
            return self.batch.update(step)
        finished = self._update_each(step, accepted)
        for request in self.running.values():
            self.batch.join(request)
        return finished

    def _take_jump(self, step: Step) -> list[Request]:
        batch, size = self.batch, self.block_size
        held, _ = sum_blocks(batch.counts, batch.step % size, step.first_ps, step.growth_ps, step.num_steps)
        step.grown_tokens_ps = held * size
        self._made = {}
        finished = batch.advance(step.num_steps)
        if self.block_map is not None:
            self.block_map.note_jump(batch, size, step)
        return finished

    def _update_each(self, plan: Plan, accepted: Mapping[Request, int]) -> list[Request]:
        """Appends tokens up to each request's end; what was computed beyond known ones does not count."""
        finished, is_async = [], self.limits.async_scheduling
        for request in plan.emitting:
            if request.status is Status.FINISHED:
                continue
            num_drafts = plan.drafts.get(request, 0)
            num_accepted = 0 if request in plan.admitted else min(accepted.get(request, 0), num_drafts)
            num_kept = min(1 + num_accepted, request.end_tokens - request.num_tokens)
            request.num_tokens += num_kept
            if request.num_stale_tokens:
                request.num_stale_tokens -= 1
            else:
                request.num_computed_tokens -= 1 + num_drafts - num_kept
                if is_async:
                    request.num_placeholders -= 1 + num_drafts
                if is_async or self._registers_in_update:
                    self.kv.register(request, request.num_computed_tokens - request.num_placeholders)
            if request.num_tokens >= request.end_tokens:
                self.finish(request)
                finished.append(request)
            elif not is_async:
                request.num_drafts = self.limits.num_speculative_tokens
        return finished

    def num_just_made(self, request: Request) -> int:
        """With several steps in flight also for those that were preempted while they were in the step."""
        is_in_step = self.is_steady and request.status in (Status.RUNNING, Status.FINISHED)
        return self._made.get(request, int(is_in_step))

    def why_stepwise(self) -> str:
        if self.limits.groups != ONE_FULL_GROUP:
            return "with windows, chunks or states in the KV cache"
        return _why_unsteady(self.limits) or ("" if self.is_steady else "with pipeline_parallel_size")

    def what_skips(self) -> str:
        if self.limits.groups != ONE_FULL_GROUP:
            return "with full attention in every layer they are skipped"
        return super().what_skips()

    # lent to the fast path

    def lend(self, planned: Step | None) -> list[Chunk] | None:
        """Blocks are only counted from here on, or, if some may be found in the cache, told apart at the end.

        Not while the output of somebody is looked up that makes it; and with asynchronous scheduling not
        while somebody has no part in the planned step, or blocks will lack soon.
        """
        running, chosen, chunks = self.running, dict[Request, int](), list[Chunk]()
        newest, half_done = next(reversed(running), None), list(self.prefilling.values())
        preempted: Iterable[Request] = takewhile(lambda one: one.num_preemptions, self.waiting)
        if self.is_ranked:  # else they are at the head of the queue
            preempted = self.waiting if self.num_preempted_alive else ()
        if self.eager or any(one.num_stale_tokens or self._made.get(one) for one in preempted):
            return None
        caches = self.limits.enable_prefix_caching
        may_hit = not self.are_alone or self.num_preempted_alive > 0
        drawn = None if self.block_map is None or self.block_map.is_truncated else self.block_map
        keeps_tables = drawn is not None or (caches and may_hit)
        preempts = self.limits.policy == "fcfs" and keeps_tables == caches and drawn is None
        if self.limits.async_scheduling and running:
            # Within about two steps:
            is_short = not preempts and 2 * len(running) > self.pool.num_free * self.block_size
            if is_short or not isinstance(planned, Plan) or len(planned.chosen) != len(running):
                return None
            chosen, half_done = planned.chosen, planned.partial
        if any(one.order != newest for one in half_done):
            return None
        for request, tokens in chosen.items():
            cached = request.num_computed_tokens - tokens
            is_decoding = tokens == 1 and request.num_prompt_tokens < request.num_tokens == cached + 1
            if is_decoding and isinstance(planned, Plan) and request not in planned.admitted:
                request.num_computed_tokens = cached
                self.batch.join(request)
            else:
                chunks.append((tokens, cached, not request.is_prefill_chunk, request))
        self.keeps_tables, self.preempts_newest, self.drawn = keeps_tables, preempts, drawn
        self.free = self.pool.num_free
        for request in running.values():
            request.reserved = len(request.blocks)
            if not self.keeps_tables:
                self.pool.release_unhashed(request.blocks)
                request.blocks = []
        self._note_shared()
        for phase in self.batch.members:
            phase.clear()
        return chunks

    def take_back(self, shown: tuple[Any, ...] | None, chunks: Sequence[Chunk]) -> Plan | None:
        """Every running request gets blocks again, as many as it had."""
        batch, plan, prompts = self.batch, None, {chunk[3] for chunk in chunks}
        batch.is_stuck = False
        if self.keeps_tables:
            self._take_loose(self.free)
        if shown is not None:
            plan = Plan(
                budget=0, done_ps=shown[0], num_decode=shown[1], context_tokens=shown[2],
                num_prefill=shown[3], prefill_tokens=shown[4], levels=(*shown[5:8], 0),
                chunks=[chunk for chunk in chunks if not is_decode(*chunk[:2])],
            )  # fmt: skip
        for request in self.running.values():
            computed = request.num_computed_tokens
            request.is_prefill_chunk = request.order in self.prefilling
            if not request.is_prefill_chunk:
                computed += batch.step - request.settled_step
                batch.members[request.phase][request.order] = request
            self._give_blocks(request, computed)
            if not self.keeps_tables:
                num_known = computed - (plan is not None and request not in prompts)
                caches = self.limits.enable_prefix_caching
                request.num_registered_blocks = num_known // self.block_size if caches else 0
        if plan is not None:
            self._resume(plan, prompts)
        self._register_met()
        if self.pool.num_free != self.free or self._loose:
            raise InvariantError(f"{self.free} KV blocks are free by count, {self.pool.num_free} in the pool")
        return plan

    def _resume(self, plan: Plan, prompts: set[Request]) -> None:
        """The planned step's tokens are computed, and not known yet."""
        batch = self.batch
        plan.partial = list(self.prefilling.values())
        plan.emitting = [one for one in self.running.values() if not one.is_prefill_chunk]
        for request in plan.emitting:
            request.num_tokens = request.num_computed_tokens + batch.step - request.settled_step
            request.num_computed_tokens = request.num_tokens
            request.num_placeholders, request.end_step = 1, -1
            if self.keeps_tables and request not in prompts:
                self.kv.register(request, request.num_tokens - 1)
        batch.clear()
        self.prefilling.clear()

    def _give_blocks(self, request: Request, num_computed: int) -> None:
        """The blocks that a request took as it decoded: those of its own, or any."""
        missing = -(-num_computed // self.block_size) - len(request.blocks)
        if not self.keeps_tables:
            request.blocks, request.num_hit_blocks = self.pool.take(missing), 0
        elif missing > 0:
            request.blocks += self._loose[-missing:]
            del self._loose[-missing:]

    def _take_loose(self, free: int) -> None:
        """Blocks that decodes took by count leave the free queue."""
        if taken := self.pool.num_free - free:
            self._loose += self.pool.take(taken)

    def _note_shared(self) -> None:
        self.shared_tokens = self.pool.num_extra_owners * self.block_size if self.keeps_tables else 0

    def admit_lent(self, request: Request, budget: int, free: int) -> tuple[int, int, int] | None:
        self._take_loose(free)  # they may have evicted what this request would find
        num_hits = self.kv.find_hits(request)
        cached = num_hits * self.block_size
        num_tokens = request.num_tokens - cached
        if num_tokens > budget:
            if not self.limits.enable_chunked_prefill:
                return None
            num_tokens = budget
        if self.kv.admit(request, num_hits, num_tokens, spare=bool(self.running)) is None:
            return None
        if self.drawn is not None:
            self.drawn.take(request, num_hits)
        request.reserved = len(request.blocks)
        self._note_shared()
        return num_tokens, cached, self.pool.num_free

    def extend_lent(self, request: Request, num_tokens: int, free: int) -> int:
        self._take_loose(free)
        self.kv.extend(request, num_tokens)
        if self.drawn is not None:
            self.drawn.take(request)
        return self.pool.num_free

    def preempt_lent(self, request: Request, num_tokens: int, num_known: int, free: int, held: int) -> int:
        if self.keeps_tables:
            self._take_loose(free)
            self._settle_lent(request, num_tokens, num_known)
            self.kv.release(request)
            self._note_shared()
            free, held = self.pool.num_free, 0
        self.requeue(request)
        request.end_step = -1
        if num_tokens:
            request.num_tokens = num_tokens  # the one under way will be there before it is looked at again
        return free + held

    def _settle_lent(self, request: Request, num_tokens: int, num_known: int) -> None:
        """A request that decoded (``num_tokens`` > 0) gets its blocks; the full ones can be found."""
        if num_tokens:
            self._give_blocks(request, num_tokens - 1)
            request.num_tokens = num_known
            self.kv.register(request, num_known - 1)

    def release_lent(self, request: Request, num_tokens: int, num_known: int, free: int) -> int:
        self._take_loose(free)
        self._settle_lent(request, num_tokens, num_known)
        self.num_preempted_alive -= request.num_preemptions > 0
        self.kv.close(request)
        self._note_shared()
        request.status = Status.FINISHED
        return self.pool.num_free

    def lend_drafts(self) -> bool:
        """Not while a map is drawn, somebody preempted may find its own blocks, or blocks will lack soon."""
        limits, running, waiting = self.limits, self.running, self.waiting
        has_map = self.block_map is not None and not self.block_map.is_truncated
        if has_map or (self.num_preempted_alive and limits.enable_prefix_caching):
            return False
        in_prefill = [one for one in running.values() if one.is_prefill_chunk]
        if in_prefill and in_prefill != [next(reversed(running.values()))]:
            return False
        num_drafts = limits.num_speculative_tokens
        has_fewer = any(one.num_drafts < num_drafts and not one.is_prefill_chunk for one in running.values())
        is_short = 4 * len(running) * (1 + num_drafts) > self.pool.num_free * self.block_size
        if has_fewer or (is_short and running) or any(one.num_tokens == 1 for one in waiting):
            return False
        for request in running.values():
            request.reserved = len(request.blocks)
            self.pool.release_unhashed(request.blocks)
            request.blocks = []
        return True

    def take_back_drafts(self, request: Request, num_known: int, num_drafts: int) -> None:
        request.blocks, request.num_hit_blocks = self.pool.take(request.reserved), 0
        request.is_prefill_chunk, request.num_drafts = not num_drafts, num_drafts
        if self.limits.enable_prefix_caching:
            computed = request.num_computed_tokens if self._registers_in_update else 0
            full = max(num_known, computed) // self.block_size
            request.num_registered_blocks = max(request.num_registered_blocks, full)


def _why_unsteady(limits: SchedulerConfig) -> str:
    """Why decoding requests do not advance by one known token per step, or nothing."""
    if limits.num_speculative_tokens > 0:
        return "with speculative drafts"
    if limits.prefill_schedule_interval > 1:
        return "with prefill_schedule_interval"
    return ASYNC if limits.async_scheduling else ""
