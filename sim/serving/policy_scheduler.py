"""Batching policies as schedulers: a pure function decides, this keeps the requests and their KV memory.

Where the policy says how long its decision stands (``StepPlan.stands``) those steps are one jump. The
shipped policies read no counts of decoding requests unless memory runs short (``is_counted``). Otherwise
every request's counts are brought up to date before the policy is asked, and with ``skips`` off every step
is planned by itself: the reference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from sim.errors import InvariantError, ScenarioError
from sim.serving.batching.continuous import continuous
from sim.serving.batching.plan import KVView, Limits, Policy, StepPlan
from sim.serving.decoding import DecodeBatch
from sim.serving.kv.allocator import KVAllocator
from sim.serving.kv.paged import PagedKV
from sim.serving.request import Request, Status
from sim.serving.scheduler import NOBODY, Scheduler, Step
from sim.serving.usage import sum_blocks


class PolicyScheduler(Scheduler):
    """One replica's queue, running requests and KV memory, under a batching policy.

    ``runs_to_longest`` (static batching): a batch is padded, and memory comes back when its longest member
    is done. ``is_users``: the policy was named by path, and what it breaks is for its author to put right.
    """

    takes_whole_prompt = gates_whole_prompt = True
    limits: Limits

    def __init__(
        self,
        policy: Policy,
        kv: KVAllocator,
        limits: Limits,
        *,
        name: str,
        skips: bool = True,
        is_counted: bool = False,
        runs_to_longest: bool = False,
        is_users: bool = False,
        first_order: int = 0,
    ) -> None:
        self.policy, self.kv, self.limits, self.name = policy, kv, limits, name
        self.skips, self.is_counted = skips, is_counted
        self.runs_to_longest, self.is_users = runs_to_longest, is_users
        self.capacity_tokens, self.is_paged, self.block_map = kv.capacity_tokens, kv.is_paged, kv.block_map
        self.waiting: deque[Request] = deque()
        self.running, self.prefilling = {}, {}
        self.batch = DecodeBatch(kv.growth_period or 0, lists_members=kv.block_map is not None)
        self.num_admissions = first_order
        self.kept: list[Request] = []  # static batching: done, but their memory is not free yet
        self._batch_size = self._longest_context = 0  # of the static batch at its start, padded
        self._work: list[tuple[Request, int]] = []  # prompt tokens of the step under way
        self._made: set[Request] = set()
        self._decodes = self._is_closed = False
        self._num_steps = 0
        self._stands = is_counted  # whether the policy has ever said that its decision stands
        if policy is continuous and is_counted and isinstance(kv, PagedKV):
            self.can_lend = kv.block_map is None and not limits.is_prefill_first
            self.block_size, self.num_blocks, self.watermark = kv.block_size, kv.total, kv.watermark
            self.max_running = limits.max_num_seqs

    @property
    def num_unfinished(self) -> int:
        return len(self.running) + len(self.waiting) + len(self.kept)

    def share_queue(self, queue: deque[Request]) -> None:
        self.waiting = queue

    def used_tokens(self) -> int:
        return self.kv.used_tokens()

    def is_open(self) -> bool:
        """The policy has said it."""
        return not self._is_closed

    def refusal(self, request: Request) -> str:
        if request.end_tokens > self.limits.max_model_len:
            return f"prompt + answer longer than max_model_len {self.limits.max_model_len}"
        if not self.kv.can_ever_fit(request):
            return f"needs more KV memory than the whole pool of {self.capacity_tokens} tokens"
        return ""

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def hold_until_ps(self, now_ps: int) -> int:
        """Static batching waits for a fuller batch: until it is full, or the oldest waited enough."""
        limits = self.limits
        if not limits.static_wait_ps or self.running or not self.waiting:
            return 0
        until = self.waiting[0].arrival + limits.static_wait_ps
        return until if len(self.waiting) < limits.max_num_seqs and until > now_ps else 0

    def why_stepwise(self) -> str:
        if not self.limits.uses_kv_cache:
            return "without a KV cache"
        has_stood = self._stands or not self._num_steps
        return "" if has_stood else "with a policy that does not say for how long its decisions stand"

    def lend(self) -> bool:
        self.free = self.kv.free
        return True

    def take_back(self) -> None:
        self.kv.free = self.free
        self._check_free()

    def _check_free(self) -> None:
        if self.kv.free < 0:
            raise InvariantError(
                f"{-self.kv.free} KV units more in use than there are, {len(self.running)} run"
            )

    # a step is planned

    def schedule(self, now_ps: int = 0) -> Step:
        step = Step()
        self._work, self._decodes = [], False
        if self.kept and not self.running:
            return step  # the last members were aborted: ``update`` ends the batch
        if not self.is_counted:
            self._settle(self.running.values())
        running = tuple(self.running.values())
        view = KVView(
            self.kv,
            now_ps,
            running,
            batch=self.batch if self.is_counted else None,
            settle=lambda: self._settle(running),
        )
        plan = self.policy(
            self.waiting if self.is_counted else tuple(self.waiting), running, view, self.limits
        )
        self._num_steps += 1
        stands = plan.stands or (self.is_counted and plan.decode_all)
        self._stands = self._stands or stands
        self._preempt(plan, step)
        self._add_prompts(plan, step)
        self._add_decodes(plan, step)
        self._check(plan)
        step.levels = self.kv.levels(*self._held_tokens(), view.is_blocked)
        self._is_closed = plan.is_closed or (self.is_counted and self._is_full())
        if stands and step.num_requests and not self._work and self.skips:
            batch = self.batch  # until somebody ends or memory runs short; that of the first step is taken
            free = self.kv.free + batch.num_growing()
            step.num_steps = batch.steps_to_shortage(batch.steps_to_first_end(), free)
        if self._batch_size:
            self._pad(step)
        if not self.limits.uses_kv_cache:
            self._recompute(step)
        return step

    def _is_full(self) -> bool:
        """The shipped policies are first come, first served: nobody passes the head of the queue."""
        is_full = len(self.running) >= self.limits.max_num_seqs
        return is_full or bool(self.waiting) or self.runs_to_longest

    def _settle(self, requests: Iterable[Request]) -> None:
        """Brings the counts of those that decode in step up to date."""
        for request in requests:
            if request.end_step >= 0:
                self.batch.settle(request)
                self.kv.settle(request)

    def _preempt(self, plan: StepPlan, step: Step) -> None:
        preempted = {}
        for victim in plan.preempted:
            del self.running[victim.order]
            self.batch.leave(victim)
            self.prefilling.pop(victim.order, None)
            preempted[victim] = victim.num_computed_tokens
            victim.order, victim.num_computed_tokens, victim.target = -1, 0, 0
            victim.status = Status.PREEMPTED
            victim.num_preemptions += 1
            self.waiting.appendleft(victim)
        step.preempted = preempted

    def _add_prompts(self, plan: StepPlan, step: Step) -> None:
        admitted, emitting = {}, []
        for request, queries in plan.prefill:
            if request.order < 0:
                self._admit(request)
                admitted[request] = 0
            computed = request.num_computed_tokens
            samples = computed + queries == request.target
            step.add(request, queries, computed, samples=samples)
            if samples:
                emitting.append(request)
            self._work.append((request, queries))
        step.admitted, step.emitting = admitted, emitting
        if self.runs_to_longest and plan.prefill:
            self._batch_size = len(plan.prefill)
            self._longest_context = max(queries for _, queries in plan.prefill) + 1

    def _admit(self, request: Request) -> None:
        if self.waiting and self.waiting[0] is request:
            self.waiting.popleft()
        else:
            self.waiting.remove(request)
        self.num_admissions += 1
        request.order = self.num_admissions
        request.status = Status.RUNNING
        request.num_computed_tokens = 0
        request.target = request.num_tokens
        self.running[request.order] = self.prefilling[request.order] = request

    def _add_decodes(self, plan: StepPlan, step: Step) -> None:
        """The whole batch where the policy counts on that; else those that the plan names."""
        batch = self.batch
        if self.is_counted:
            self._decodes = batch.num_decoding > 0 and (plan.decode_all or bool(plan.decode))
        else:
            chosen = dict.fromkeys(plan.decoding(list(self.running.values())))
            if not all(one.is_decoding for one in chosen):
                raise self._broken("a request decodes that does not run, or whose prompt is not computed")
            for request in self.running.values():
                if request.end_step >= 0 and request not in chosen:
                    batch.leave(request)
            for request in chosen:
                if request.end_step < 0:
                    batch.join(request)
            self._decodes = bool(chosen)
        if self._decodes:
            step.num_decode += batch.num_decoding
            step.context_tokens += batch.num_context_tokens

    def _check(self, plan: StepPlan) -> None:
        """Rejects a plan that breaks a limit or does nothing."""
        limits, num_decodes = self.limits, self.batch.num_decoding if self._decodes else 0
        tokens = num_decodes + sum(queries for _, queries in self._work)
        if len(self.running) > limits.max_num_seqs:
            raise self._broken(f"{len(self.running)} sequences run, max_num_seqs is {limits.max_num_seqs}")
        if tokens > limits.max_num_batched_tokens and not self.runs_to_longest:
            most = limits.max_num_batched_tokens
            raise self._broken(f"{tokens} tokens in a step, max_num_batched_tokens is {most}")
        if tokens == 0 and (self.running or not plan.preempted):
            raise self._broken("an empty step while requests wait")
        if self.kv.free < 0 or self.kv.used_tokens() > self.kv.capacity_tokens:
            raise self._broken(f"{self.kv.used_tokens()} of {self.kv.capacity_tokens} KV tokens are in use")

    def _broken(self, problem: str) -> ScenarioError | InvariantError:
        said = f"the batching policy {self.name} broke a law in step {self._num_steps}: {problem}"
        if not self.is_users:
            running, waiting = list(self.running.values())[:5], list(self.waiting)[:5]
            return InvariantError(f"{said}; running {running}, waiting {waiting}")
        return ScenarioError(
            said,
            path="engine.batching",
            hint="admit and extend through kv, and stay within limits",
        )

    def _held_tokens(self) -> tuple[int, int]:
        """(tokens that hold KV in this step, tokens of admitted prompts that do not yet)."""
        batch, half_done = self.batch, self.prefilling.values()
        unfilled = sum([one.target - one.num_computed_tokens for one in half_done])
        if self.is_counted:
            held = sum([one.num_computed_tokens for one in half_done])
            held += batch.num_context_tokens - batch.num_decoding
        else:
            held = sum([one.num_computed_tokens for one in self.running.values()])
        held += sum([one.num_computed_tokens for one in self.kept])
        return held + (batch.num_decoding if self._decodes else 0), unfilled

    def _pad(self, step: Step) -> None:
        """A static batch computes as many sequences, and as long ones, as it began with."""
        if step.chunks:
            longest = max(chunk[0] for chunk in step.chunks)
            step.chunks = [(longest, 0, True, chunk[3]) for chunk in step.chunks]
        if self._decodes:
            step.num_padded = self._batch_size - step.num_decode
            step.context_tokens = self._batch_size * self._longest_context

    def _recompute(self, step: Step) -> None:
        """Without a KV cache every decode is a whole prompt again."""
        step.num_decode = step.context_tokens = 0
        decoding = [one for one in self.running.values() if one.end_step >= 0]
        step.chunks = [*step.chunks, *((one.num_tokens, 0, True, one) for one in decoding)]

    # a step is over

    def update(self, step: Step, accepted: Mapping[Request, int] = NOBODY, now_ps: int = 0) -> list[Request]:
        finished: list[Request] = []
        if self._decodes:
            if step.num_steps > 1:
                self._grow_in_jump(step)
            self._longest_context += step.num_steps
            finished = self.batch.take_steps(step.num_steps)
            for request in finished:
                self.kv.settle(request)
        self._made = set(finished)
        for request, queries in self._work:
            request.num_computed_tokens += queries
            if request.num_computed_tokens == request.target:
                self._first_token(request, finished)
        return self._end(finished, now_ps)

    def _grow_in_jump(self, step: Step) -> None:
        """Memory taken in the steps of a jump after its first."""
        batch, kv = self.batch, self.kv
        if not kv.growth_period:
            return
        if batch.members is not None:
            for number in range(1, step.num_steps):
                for request in batch.members[(batch.step + number) % batch.period].values():
                    kv.grow(request, 1, step.start_of(number))
        start = batch.step % batch.period
        held, used = sum_blocks(batch.counts, start, step.first_ps, step.growth_ps, step.num_steps)
        step.grown_tokens_ps = held * kv.growth_period
        if batch.members is None:
            kv.free -= used
        self._check_free()

    def _first_token(self, request: Request, finished: list[Request]) -> None:
        """Its prompt is computed: the first token, or the next one after a preemption."""
        del self.prefilling[request.order]
        self._made.add(request)
        request.num_tokens += 1
        if request.num_tokens >= request.end_tokens:
            finished.append(request)
        elif self.is_counted:
            self.batch.join(request)

    def _end(self, finished: list[Request], now_ps: int) -> list[Request]:
        """Memory of the finished comes back; in a static batch that of all, at its end."""
        for request in finished:
            del self.running[request.order]
            request.status = Status.FINISHED
            self._let_go(request, now_ps)
        if not self._batch_size:
            return finished
        if self.limits.returns_at_end:
            finished = []
        if not self.running:
            self._batch_size = self._longest_context = 0
            for request in self.kept:
                self.kv.release(request, now_ps)
            if self.limits.returns_at_end:
                finished = [one for one in self.kept if not one.is_ended]
            self.kept = []
        return finished

    def _let_go(self, request: Request, now_ps: int) -> None:
        """Frees one that no longer runs; memory of a static batch's member is taken until the batch ends."""
        request.order = -1
        if self._batch_size:
            self.kept.append(request)
        else:
            self.kv.release(request, now_ps)

    def abort(self, request: Request, now_ps: int = 0) -> int:
        """A static batch is computed on for a member that left."""
        if request.order >= 0:
            if request.end_step >= 0:
                self.batch.leave(request)
                self.kv.settle(request)
            self.prefilling.pop(request.order, None)
            del self.running[request.order]
            self._let_go(request, now_ps)
        elif request not in self.kept:
            self.waiting.remove(request)
        return request.num_output_tokens

    def num_just_made(self, request: Request) -> int:
        return int(request in self._made or (self._decodes and request.end_step >= 0))
