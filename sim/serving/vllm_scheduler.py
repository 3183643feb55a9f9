"""vLLM's scheduler for the engine: what ``gpuyard conformance`` proves is what runs here.

Where ``Scheduler.uniform_steps`` says that only decoding happens, those steps are one jump. KV levels: a
shared block counts once, and so do its tokens; cached blocks that nobody uses count as free. Host time is
part of a step's price; that asynchronous scheduling hides some of it is not modelled here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sim.errors import InvariantError, ScenarioError
from sim.serving.request import Request, Status
from sim.serving.scheduler import Ground, Step, is_decode
from sim.serving.usage import sum_blocks
from sim.serving.vllm.circling import endless
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm_block_map import VllmBlockMapRecorder


class VllmScheduler:
    """One replica's vLLM scheduler and block pool. ``are_alone``: no two requests have tokens in common."""

    is_paged = True

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        are_alone: bool = False,
        one_at_a_time: bool = True,
        block_map: VllmBlockMapRecorder | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.state = scheduler.state
        self.limits = scheduler.state.limits
        self.pool = scheduler.state.kv.pool
        self.block_size = self.limits.block_size
        self.capacity_tokens = self.pool.num_blocks * self.block_size
        self.are_alone, self.one_at_a_time, self.block_map = are_alone, one_at_a_time, block_map
        self._now_ps = 0
        if block_map is not None:
            self.state.kv.on_release = self._on_release
        self._is_order_open = self.limits.policy != "fcfs" or self.limits.long_prefill_token_threshold > 0
        self._made: dict[Request, int] = {}  # tokens made in the last step, where not one each
        self._only: set[Request] = set()  # over pipeline stages: who made tokens in it

    @property
    def is_circling(self) -> bool:
        """See ``Scheduler``."""
        return self.scheduler.is_circling

    @property
    def num_running(self) -> int:
        """Requests that run."""
        return len(self.state.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self.state.waiting)

    @property
    def num_unfinished(self) -> int:
        """Requests that run or wait."""
        return self.scheduler.num_unfinished

    def share_queue(self, queue: deque[Request]) -> None:
        """vLLM has a queue of its own."""
        raise InvariantError("a shared queue with vLLM's scheduler")

    def used_tokens(self) -> int:
        """Tokens' worth of blocks that somebody refers to."""
        return (self.pool.num_blocks - self.pool.num_free) * self.block_size

    def is_open(self) -> bool:
        """A newcomer may run where there is a place, unless the head of the queue blocks it."""
        if len(self.state.running) >= self.limits.max_num_seqs:
            return False
        return not self.state.waiting or self._is_order_open

    def refusal(self, request: Request) -> str:
        """See ``Scheduler``."""
        return self.scheduler.refusal(request)

    def add(self, request: Request) -> None:
        """See ``Scheduler``."""
        request.is_alone = self.are_alone
        self.scheduler.add(request)

    def hold_until_ps(self, now_ps: int) -> int:
        """It never waits."""
        return 0

    # lent to the fast path

    def ground(self) -> Ground | None:
        """See ``Ground``; it is written for fcfs with one step at a time, and requests that share nothing."""
        limits, state, steady = self.limits, self.state, self.scheduler.steady
        if steady is None or self._is_order_open or self.block_map is not None or not self.are_alone:
            return None
        return Ground(
            waiting=state.waiting.requests,
            running=state.running,
            prefilling=steady.prefilling,
            batch=steady,
            block_size=self.block_size,
            num_blocks=self.pool.num_blocks,
            watermark=state.kv.watermark_blocks,
            max_running=limits.max_running,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_model_len=limits.max_model_len,
            enable_chunked_prefill=limits.enable_chunked_prefill,
            takes_whole_prompt=False,
            gates_whole_prompt=limits.scheduler_reserve_full_isl,
            cuts_answers=True,
            is_alone=True,
            enter=self._lend,
            leave=self._take_back,
        )

    def _lend(self, ground: Ground) -> bool:
        """Blocks are only counted from here on: which is whose matters to nobody.

        Not while a request that was preempted may find its own blocks in the prefix cache.
        """
        state, steady = self.state, self.scheduler.steady
        assert steady is not None
        if self.limits.enable_prefix_caching and state.num_preempted_alive:
            return False
        newest = next(reversed(state.running), None)
        if len(steady.prefilling) > 1 or (steady.prefilling and newest not in steady.prefilling):
            return False
        ground.free, ground.num_admissions = self.pool.num_free, state.num_admissions
        for request in state.running.values():
            request.reserved = len(request.blocks)
            self.pool.retire(request.blocks, 0)
            request.blocks = []
        for phase in steady.members:
            phase.clear()
        return True

    def _take_back(self, ground: Ground) -> None:
        """Every running request gets blocks again, as many as it had."""
        state, steady, size = self.state, self.scheduler.steady, self.block_size
        assert steady is not None
        state.num_admissions = ground.num_admissions
        steady.is_stuck = False
        for request in state.running.values():
            computed = request.num_computed_tokens
            request.is_prefill_chunk = request.order in steady.prefilling
            if not request.is_prefill_chunk:
                computed += steady.step - request.settled_step
                steady.members[request.phase][request.order] = request
            request.blocks = self.pool.take(-(-computed // size))
            request.num_hit_blocks = 0
            request.num_registered_blocks = computed // size if self.limits.enable_prefix_caching else 0
        if self.pool.num_free != ground.free:
            raise InvariantError(
                f"{ground.free} KV blocks are free by count, {self.pool.num_free} in the pool"
            )

    # many steps

    def steady_step(self) -> Step | None:
        """See ``Scheduler``."""
        scheduler = self.scheduler
        steps = scheduler.uniform_steps() if self.one_at_a_time else 0
        if self.block_map is not None:
            steps -= 1  # a jump that ends nobody: its blocks are noted before any is freed
        if steps <= 0 or scheduler.steady is None:
            return None
        steady = scheduler.steady
        context = steady.num_context_tokens
        used = self.pool.num_blocks - self.pool.num_free + steady.num_growing()
        held = context - self._shared_tokens()
        return Step(
            num_decode=steady.num_decoding,
            context_tokens=context,
            levels=(held, held, used * self.block_size, 0),
            num_steps=steps,
            is_steady=True,
        )

    def advance(self, step: Step) -> list[Request]:
        """See ``Scheduler``."""
        steady = self.scheduler.steady
        assert steady is not None
        start = steady.step % self.block_size
        held, _ = sum_blocks(steady.counts, start, step.first_ps, step.growth_ps, step.num_steps)
        step.grown_tokens_ps = held * self.block_size
        self._made = {}
        self._now_ps = step.end_ps
        finished = self.scheduler.advance(step.num_steps)
        if self.block_map is not None and not self.block_map.is_truncated:
            running = self.state.running.values()
            for request in running:
                self.scheduler.settle(request)
            self.block_map.note_jump(running, self.block_size, step)
        return finished

    # one step

    def schedule(self, now_ps: int) -> Step:
        """See ``Scheduler``: later plans move the requests' counts on, so the step's shape is kept."""
        self._now_ps = now_ps
        plan = self.scheduler.schedule()
        if self.block_map is not None:
            self.block_map.note(plan, self.block_size, now_ps)
        step = Step(plan=plan, drafts=plan.drafts)
        self._list(step, plan)
        held = self.scheduler.num_held_tokens(plan) - self._shared_tokens()
        step.levels = (held, held, self.used_tokens(), 0)
        step.admitted = list(plan.new.items())
        step.preempted = [(request, plan.lost_tokens[request]) for request in plan.preempted]
        return step

    def _list(self, step: Step, plan: Plan) -> None:
        """Who decodes, and the prompt chunks. The many decodes are counted here, as ``Step.add`` would."""
        partial, drafts = plan.partial, plan.drafts
        num_decode, context = 0, 0
        for request, tokens in plan.chosen.items():
            cached = request.num_computed_tokens - tokens
            if tokens == 1 and is_decode(1, cached):
                num_decode += 1
                context += cached + 1
            else:
                step.add(
                    request, tokens, cached, samples=request not in partial, drafts=drafts.get(request, 0)
                )
        if plan.num_uniform:
            num_decode += plan.num_uniform
            context += self.scheduler.num_context_tokens
        step.num_decode += num_decode
        step.context_tokens += context
        step.emitting = [one for one in plan.chosen if one not in partial] if partial else list(plan.chosen)

    def update(self, step: Step, now_ps: int, accepted: Mapping[Request, int]) -> list[Request]:
        """See ``Scheduler``."""
        plan = step.plan
        assert isinstance(plan, Plan)
        self._now_ps = now_ps
        if not self.one_at_a_time:
            self._only = set(step.emitting)
        self._made = {request: 0 for request in plan.partial}
        self._made.update((request, 1 + count) for request, count in accepted.items())
        return self.scheduler.update(plan, accepted)

    def abort(self, request: Request, now_ps: int) -> int:
        """See ``Scheduler``."""
        self._now_ps = now_ps
        self.scheduler.settle(request)
        made = request.num_output_tokens
        self.scheduler.abort(request)
        return made

    def num_just_made(self, request: Request) -> int:
        """See ``Scheduler``; over stages also for those that were preempted while they were in the step."""
        if not self.one_at_a_time:
            return int(request in self._only)
        return self._made.get(request, 1) if request.status in (Status.RUNNING, Status.FINISHED) else 0

    def why_stepwise(self) -> str:
        """Said by the settings (``vllm_batching.why_stepwise``)."""
        return ""

    def endless(self, step: Step) -> ScenarioError:
        """See ``Scheduler``."""
        assert isinstance(step.plan, Plan)
        return endless(self.state, step.plan)

    def _shared_tokens(self) -> int:
        """What the sum over requests counts more than once."""
        return self.pool.num_extra_owners * self.block_size

    def _on_release(self, request: Request) -> None:
        if self.block_map is not None:
            self.block_map.release(request, self._now_ps)
