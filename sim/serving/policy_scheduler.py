"""Batching policies as schedulers: a pure function decides, this keeps the requests and their KV memory.

Where the policy says how long its decision stands (``StepPlan.stands``) those steps are one jump. The
shipped policies read no counts of decoding requests unless memory runs short (``is_counted``). Otherwise
every request's counts are brought up to date before the policy is asked, and with ``skips`` off every step
is planned by itself: the reference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from sim.arrays import to_ps
from sim.errors import InvariantError, ScenarioError
from sim.scenario.dataclass import dataclass
from sim.serving.batching.continuous import continuous
from sim.serving.batching.entry import GENERIC_KEYS, Batching, Replica
from sim.serving.batching.plan import KVView, Limits, Policy, StepPlan, limits_of
from sim.serving.decoding import DecodeBatch
from sim.serving.kv import KV_ALLOCATORS
from sim.serving.kv.allocator import KVAllocator, KVSettings
from sim.serving.kv.paged import PagedKV
from sim.serving.request import Request, Status
from sim.serving.scenario import max_model_len
from sim.serving.scheduler import NOBODY, Chunk, Scheduler, Step
from sim.serving.usage import sum_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyBatching(Batching):
    """The entry of a policy."""

    policy: Policy
    keys: frozenset[str] = GENERIC_KEYS
    shares_queue: bool = True
    reads_no_decodes: bool = False
    """It looks at decoding requests only when short of memory, and is first come, first served."""
    is_users: bool = False
    """Named by path: what it breaks is for its author to put right."""

    def make(self, replica: Replica) -> PolicyScheduler:
        return PolicyScheduler(self, replica)


def kv_of(replica: Replica) -> KVAllocator:
    """The KV memory of one replica."""
    from sim.serving.recorder import BlockMapRecorder

    engine = replica.scenario.engine
    settings = KVSettings(
        num_blocks=replica.num_blocks,
        block_size=engine.block_size,
        watermark=engine.watermark,
        reservation=engine.kv_reservation,
        max_model_len=max_model_len(replica.scenario),
        block_map=BlockMapRecorder(replica.index) if replica.keeps_block_map else None,
    )
    return KV_ALLOCATORS[engine.kv_allocator].of(settings)


class PolicyScheduler(Scheduler):
    """One replica's queue, running requests and KV memory, under a batching policy."""

    takes_whole_prompt = gates_whole_prompt = True
    limits: Limits

    def __init__(self, entry: PolicyBatching, replica: Replica) -> None:
        engine, kv = replica.scenario.engine, kv_of(replica)
        self.entry, self.engine, self.kv, self.limits = entry, engine, kv, limits_of(replica.scenario)
        self.skips = engine.stepping == "skip" and engine.use_kv_cache and kv.growth_period is not None
        self.is_counted = self.skips and entry.reads_no_decodes
        self.capacity_tokens, self.is_paged, self.block_map = kv.capacity_tokens, kv.is_paged, kv.block_map
        self.waiting: deque[Request] = deque()
        self.running, self.prefilling = {}, {}
        has_map = self.block_map is not None
        self.batch = DecodeBatch(kv.growth_period or 0, lists_members=has_map, settle_memory=kv.settle)
        self.num_admissions = replica.index << 40
        self.kept: list[Request] = []  # of a padded batch: done, but their memory is not free yet
        self._batch_size = 0  # of the padded batch at its start
        self._longest_prompt = 0  # in it; minus the decode steps before it
        self._plan = StepPlan()  # of the step under way
        self._decodes = self._is_closed = self._has_stood = False
        self._made: set[Request] = set()
        self._num_steps = 0
        if entry.policy is continuous and self.is_counted and isinstance(kv, PagedKV):
            self.can_lend = not self.limits.is_prefill_first
            self.block_size, self.num_blocks, self.watermark = kv.block_size, kv.total, kv.watermark
            self.max_running = self.limits.max_num_seqs

    @property
    def num_unfinished(self) -> int:
        return len(self.running) + len(self.waiting) + len(self.kept)

    def share_queue(self, queue: deque[Request]) -> None:
        self.waiting = queue

    def used_tokens(self) -> int:
        return self.kv.used_tokens()

    def is_open(self) -> bool:
        return not self._is_closed

    def refusal(self, request: Request) -> str:
        if request.end_tokens > self.limits.max_model_len:
            return f"prompt + answer longer than max_model_len {self.limits.max_model_len}"
        if not self.kv.can_ever_fit(request):
            return f"needs more KV memory than the whole pool of {self.capacity_tokens} tokens"
        return ""

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def enter(self, request: Request) -> bool:
        self.waiting.append(request)
        return False

    def hold_until_ps(self, now_ps: int) -> int:
        """Static batching waits for a fuller batch: until it is full, or the oldest waited enough."""
        wait_s = self.engine.static_batch_wait_s
        if not wait_s or self.running or not 0 < len(self.waiting) < self.limits.max_num_seqs:
            return 0
        until = self.waiting[0].arrival + to_ps(wait_s)
        return until if until > now_ps else 0

    def why_stepwise(self) -> str:
        if not self.engine.use_kv_cache:
            return "without a KV cache"
        if self.is_counted or self._has_stood or not self._num_steps:
            return ""
        return "with a policy that does not say for how long its decisions stand"

    def what_skips(self) -> str:
        if not self.engine.use_kv_cache:
            return "with one (engine.use_kv_cache) steps are skipped"
        return "the steps of a plan that says so (stands=True) are skipped"

    def lend(self, planned: Step | None) -> list[Chunk] | None:
        if self.block_map is not None and not self.block_map.is_truncated:
            return None
        self.free, self.batch.members = self.kv.free, None  # which block is whose matters to nobody now
        return []

    def take_back(self, shown: object, chunks: Sequence[Chunk]) -> None:
        self.kv.free = self.free
        self._check_free()

    def _check_free(self) -> None:
        if self.kv.free < 0:
            raise InvariantError(f"{-self.kv.free} KV units more in use than there are: {self.running}")

    # a step is planned

    def schedule(self, now_ps: int = 0) -> Step:
        step, running = Step(), tuple(self.running.values())
        self._plan, self._decodes = StepPlan(), False
        if self.kept and not running:
            return step  # the last members were aborted: ``update`` ends the batch
        if self.is_counted:
            view = KVView(self.kv, now_ps, running, self.batch)
            plan = self.entry.policy(self.waiting, running, view, self.limits)
        else:
            for request in running:
                self.batch.settle(request)
            view = KVView(self.kv, now_ps, running)
            plan = self.entry.policy(tuple(self.waiting), running, view, self.limits)
        self._plan = plan
        self._num_steps += 1
        self._has_stood = self._has_stood or plan.stands
        self._preempt(plan, step)
        self._add_prompts(plan, step)
        self._add_decodes(plan, step)
        self._check(plan)
        step.levels = self.kv.levels(*self._held_tokens(), view.is_blocked)
        # The shipped policies are first come, first served: nobody passes the head of the queue.
        is_full = (
            len(self.running) >= self.limits.max_num_seqs or bool(self.waiting) or self.entry.pads_batches
        )
        self._is_closed = plan.is_closed or (self.is_counted and is_full)
        if plan.stands and step.num_requests and not plan.prefill and self.skips:
            free = self.kv.free + self.batch.num_growing()  # that of the first step is taken already
            step.num_steps = self.batch.steps_that_stand(free)
        if self._batch_size:
            self._pad(step)
        if not self.engine.use_kv_cache:
            self._recompute(step)
        return step

    def _preempt(self, plan: StepPlan, step: Step) -> None:
        preempted = {}
        for victim in plan.preempted:
            self._stop(victim)
            preempted[victim] = victim.num_computed_tokens
            victim.num_computed_tokens = victim.target = 0
            victim.status = Status.PREEMPTED
            victim.num_preemptions += 1
            self.waiting.appendleft(victim)
        step.preempted = preempted

    def _stop(self, request: Request) -> None:
        """Takes it out of everything that runs."""
        self.batch.leave(request)
        self.prefilling.pop(request.order, None)
        del self.running[request.order]
        request.order = -1

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
        step.admitted, step.emitting = admitted, emitting
        if self.entry.pads_batches and plan.prefill:
            self._batch_size = len(plan.prefill)
            self._longest_prompt = max(queries for _, queries in plan.prefill) - self.batch.step

    def _admit(self, request: Request) -> None:
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
                if request not in chosen:
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
        tokens = num_decodes + sum(queries for _, queries in plan.prefill)
        if len(self.running) > limits.max_num_seqs:
            raise self._broken(f"{len(self.running)} sequences run, max_num_seqs is {limits.max_num_seqs}")
        if tokens > limits.max_num_batched_tokens and not self.entry.pads_batches:
            most = limits.max_num_batched_tokens
            raise self._broken(f"{tokens} tokens in a step, max_num_batched_tokens is {most}")
        if tokens == 0 and (self.running or not plan.preempted):
            raise self._broken("an empty step while requests wait")
        if self.kv.free < 0 or self.kv.used_tokens() > self.kv.capacity_tokens:
            raise self._broken(f"{self.kv.used_tokens()} of {self.kv.capacity_tokens} KV tokens are in use")

    def _broken(self, problem: str) -> ScenarioError | InvariantError:
        said = f"the batching policy {self.engine.batching} broke a law in step {self._num_steps}: {problem}"
        if not self.entry.is_users:
            running, waiting = list(self.running.values())[:5], list(self.waiting)[:5]
            return InvariantError(f"{said}; running {running}, waiting {waiting}")
        hint = "admit and extend through kv, and stay within limits"
        return ScenarioError(said, path="engine.batching", hint=hint)

    def _held_tokens(self) -> tuple[int, int]:
        """(tokens that hold KV in this step, tokens of admitted prompts that do not yet)."""
        batch, half_done = self.batch, self.prefilling.values()
        loose = half_done if self.is_counted else [one for one in self.running.values() if one.end_step < 0]
        held = sum([one.num_computed_tokens for one in (*loose, *self.kept)])
        held += batch.num_context_tokens - (0 if self._decodes else batch.num_decoding)
        return held, sum([one.target - one.num_computed_tokens for one in half_done])

    def _pad(self, step: Step) -> None:
        """A static batch computes as many sequences, and as long ones, as it began with."""
        if step.chunks:
            longest = max(chunk[0] for chunk in step.chunks)
            step.chunks = [(longest, 0, True, chunk[3]) for chunk in step.chunks]
        if self._decodes:
            step.num_padded = self._batch_size - step.num_decode
            step.context_tokens = self._batch_size * (self._longest_prompt + 1 + self.batch.step)

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
            finished = self.batch.take_steps(step.num_steps)
        self._made = {*finished, *step.emitting}
        for request, queries in self._plan.prefill:
            request.num_computed_tokens += queries
        for request in step.emitting:
            self._append_first(request, finished)
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

    def _append_first(self, request: Request, finished: list[Request]) -> None:
        """Its prompt is computed: the first token, or the next one after a preemption."""
        del self.prefilling[request.order]
        request.num_tokens += 1
        if request.num_tokens >= request.end_tokens:
            finished.append(request)
        elif self.is_counted:  # else it joins when the policy chooses it
            self.batch.join(request)

    def _end(self, finished: list[Request], now_ps: int) -> list[Request]:
        """Memory of the finished comes back; in a padded batch that of all, at its end."""
        for request in finished:
            request.status = Status.FINISHED
            self._let_go(request, now_ps)
        if not self._batch_size:
            return finished
        returns_at_end = self.engine.static_returns == "at_end"
        if self.running:
            return [] if returns_at_end else finished
        kept, self.kept, self._batch_size = self.kept, [], 0
        for request in kept:
            self.kv.release(request, now_ps)
        return [one for one in kept if not one.is_ended] if returns_at_end else finished

    def _let_go(self, request: Request, now_ps: int) -> None:
        """Frees one that no longer runs; memory of a padded batch's member is taken until the batch ends."""
        self._stop(request)
        if self._batch_size:
            self.kept.append(request)
        else:
            self.kv.release(request, now_ps)

    def abort(self, request: Request, now_ps: int = 0) -> int:
        """A padded batch is computed on for a member that left."""
        if request.order >= 0:
            self._let_go(request, now_ps)
        elif request not in self.kept:
            self.waiting.remove(request)
        return request.num_output_tokens

    def num_just_made(self, request: Request) -> int:
        return int(request in self._made or (self._decodes and request.end_step >= 0))
