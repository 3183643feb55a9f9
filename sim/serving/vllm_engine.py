"""vLLM's own scheduler in simulated time: what ``gpuyard conformance`` proves is what runs here.

Synchronous scheduling without drafts skips: where ``Scheduler.uniform_steps`` says that only decoding
happens, those steps are one jump. Otherwise every step is planned by itself, asynchronous scheduling through
``EngineLoop``'s queue of two: while step k runs, step k + 1 is planned already. Host time is part of a
step's price; that asynchronous scheduling hides some of it is not modelled here.

KV levels: a shared block counts once, and so do its tokens; cached blocks that nobody uses count as free.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappush
from typing import Any

from simpy.events import Event

from sim.serving.drafts import Drafts
from sim.serving.jumping import JumpingEngine, steps_until
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER, Sequence
from sim.serving.usage import sum_blocks
from sim.serving.vllm.circling import endless
from sim.serving.vllm.loop import EngineLoop
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.request import Request, Segment, Status
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm_block_map import Jump, VllmBlockMapRecorder
from sim.serving.vllm_kv import VllmKV


@dataclass(frozen=True, slots=True)
class Shape:
    """A step as it was planned: later plans move the requests' counts on."""

    num_decode: int
    context: int
    chunks: list[tuple[int, int, bool, object]]
    held_tokens: int
    drafts: int = 0  # tokens that the decoding sequences verify besides


class VllmRequest(Request):
    """A scheduler's request and the sequence that it stands for."""

    sequence: Sequence


class VllmEngine(JumpingEngine):
    """Drives ``Scheduler`` with arrivals, prices and the clock."""

    is_async = False
    num_stages = 1  # batches under way at once; more than one: ``vllm_pipeline``
    is_stepwise = False
    is_order_open = False  # a newcomer may pass the head of the queue, or change what the head may ask for
    drafts: Drafts

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert isinstance(self.kv, VllmKV)
        self.scheduler: Scheduler = self.kv.scheduler
        self.loop = EngineLoop(
            self.scheduler, async_scheduling=self.is_async, pipeline_parallel_size=self.num_stages
        )
        self.waiting = self.scheduler.state.waiting  # type: ignore[assignment]
        self.running = self.scheduler.state.running  # type: ignore[assignment]
        self.pool = self.scheduler.state.kv.pool
        self.block_size = self.kv.block_size
        self.block_map = self.kv.block_map
        if self.block_map is not None:
            self.scheduler.state.kv.on_release = self._on_release
        self.requests: dict[int, VllmRequest] = {}  # whose clients may leave
        self.shapes: dict[int, Shape] = {}  # of planned steps, by the plan's identity
        self.inbox: list[VllmRequest] = []
        self.is_deciding = False
        self.due: Plan | None = None
        table = self.recorder.table
        self.are_alone = table.segment_offsets is None and table.output_stream is None
        self.last_tokens: dict[Request, int] = {}  # tokens made in the last step, where not one each

    # arrivals

    def receive(self, sequence: Sequence, *, has_own_deadline: bool = True) -> None:
        """See ``EngineBase``: the scheduler says whether it can be served."""
        recorder, row = self.recorder, sequence.id
        recorder.arrival_ps[row] = sequence.arrival_ps
        recorder.replica[row] = self.index
        if not self.is_measuring and self._is_measured(sequence):
            self.on_window()
        request = self._request(sequence)
        is_early = self._is_early(sequence)
        if is_early:  # the scheduler sees it at the next step
            reason = self.scheduler.refusal(request)
        else:
            reason = "" if self.scheduler.add(request) else self.scheduler.refusal(request)
        if reason:
            recorder.refuse(sequence, reason)
            self.feed.on_end(sequence, sequence.arrival_ps)
            return
        if is_early:
            self.inbox.append(request)
        if sequence.deadline_ps < NEVER:
            self.requests[row] = request
            heappush(self.deadlines, (sequence.deadline_ps, row, sequence))

    def _is_early(self, sequence: Sequence) -> bool:
        """Whether the scheduler is busy when the request comes."""
        return self.pending is not None and not self.is_deciding

    def _request(self, sequence: Sequence) -> VllmRequest:
        table, row = self.recorder.table, sequence.id
        output_stream = 2 * row + 1 if table.output_stream is None else int(table.output_stream[row])
        request = VllmRequest(
            f"{row:012d}",  # request ids compare as strings
            self._segments(row, sequence.prompt_tokens),
            sequence.output_tokens,
            output_stream=output_stream,
            priority=0 if table.priority is None else int(table.priority[row]),
            arrival=sequence.arrival_ps,
        )
        request.sequence = sequence
        request.is_alone = self.are_alone
        return request

    def _segments(self, row: int, prompt_tokens: int) -> list[Segment]:
        table = self.recorder.table
        offsets = table.segment_offsets
        if offsets is None or table.segment_stream is None:
            return [(2 * row, 0, prompt_tokens)]
        assert table.segment_start is not None and table.segment_length is not None
        part = slice(int(offsets[row]), int(offsets[row + 1]))
        return list(
            zip(
                table.segment_stream[part].tolist(),
                table.segment_start[part].tolist(),
                table.segment_length[part].tolist(),
                strict=True,
            )
        )

    def load(self) -> int:
        """See ``EngineBase``."""
        return super().load() + len(self.inbox)

    def _begin(self, now: int) -> None:
        for request in self.inbox:
            self.scheduler.add(request)
        self.inbox.clear()
        super()._begin(now)

    # decisions

    def _decide(self, now: int) -> None:
        self.jump = (0, 0, 0)
        self.is_deciding = True
        if self.feed.next_ps <= now or self.deadlines or self.window_is_due or self.inbox:
            self._begin(now)
        self.is_deciding = False
        self.started_ps = now
        steps = 0 if self.is_async or self.is_stepwise else self.scheduler.uniform_steps()
        if steps and self.block_map is not None:
            steps -= 1  # a jump that ends nobody: its blocks are noted before any is freed
        if steps:
            self._start_jump(now, steps)
        else:
            self._start_step(now)

    def _start_jump(self, now: int, steps: int) -> None:
        """Steps of pure decode, until something may come."""
        count, context = self.scheduler.num_decoding, self.scheduler.num_context_tokens
        first, growth, valid = self.price.decode_run(count, context)
        steps = min(steps, valid)
        feed = self.feed
        limit = feed.next_ps
        if self.is_measuring and not feed.must_see_all and not self.is_open_for_one():
            limit = NEVER
        deadlines = self.deadlines
        if deadlines:
            limit = min(limit, deadlines[0][0])
        if now + steps * first + growth * (steps * (steps - 1) // 2) > limit:
            steps = steps_until(first, growth, limit - now, steps)
        self.due = None
        self._schedule(steps, first, growth)

    def is_open_for_one(self) -> bool:
        """See ``EngineBase``: it may also pass the head of the queue."""
        if len(self.running) >= self.limits.max_num_seqs:
            return False
        return not self.waiting or self.is_order_open

    def _start_step(self, now: int) -> None:
        """The next step that is due, planned by the scheduler."""
        while True:
            planned, due = self.loop.plan()
            if planned is not None:
                self._note(planned, now)
            if due is None:
                if planned is not None:
                    continue
                self._idle()
                return
            if due.num_requests:
                break
            del self.shapes[id(due)]
            self._complete(due, now)
        self.due = due
        self._schedule(1, self._step_ps(due, now), 0)

    def _step_ps(self, due: Plan, now: int) -> int:
        """From now to the end of the step that is due."""
        shape = self.shapes[id(due)]
        return self.price.step_ps(shape.num_decode, shape.context, shape.chunks, shape.drafts)

    def _idle(self) -> None:
        self.pending = None
        if self.feed.next_ps < NEVER:
            self._wake_at(self.feed.next_ps)

    def _note(self, plan: Plan, now: int) -> None:
        """Prices and records want the step's shape; the records also who was admitted and preempted."""
        if self.block_map is not None:
            self.block_map.note(plan, self.block_size, now)
        num_decode, context = plan.num_uniform, self.scheduler.num_context_tokens if plan.num_uniform else 0
        chunks: list[tuple[int, int, bool, object]] = []
        num_drafts = 0
        for request, tokens in plan.chosen.items():
            cached = request.num_computed_tokens - tokens
            drafts = plan.drafts.get(request, 0)
            if tokens - drafts == 1 and cached > 0:
                num_decode += 1
                num_drafts += drafts
                context += cached + tokens
            else:
                chunks.append((tokens, cached, request not in plan.partial, request))
        held = self.scheduler.num_held_tokens(plan) - self._shared_tokens()
        self.shapes[id(plan)] = Shape(num_decode, context, chunks, held, num_drafts)
        recorder = self.recorder
        for request, hits in plan.new.items():
            row = sequence_of(request).id
            if recorder.first_scheduled_ps[row] < 0:
                recorder.first_scheduled_ps[row] = now
                recorder.cached_tokens[row] = hits
        if plan.preempted and self.scheduler.is_circling and not self.deadlines and self.feed.is_exhausted():
            raise endless(self.scheduler.state, plan)
        for request in plan.preempted:
            recorder.preempt(sequence_of(request), now, self.index, plan.lost_tokens[request])

    def _shared_tokens(self) -> int:
        """What the sum over requests counts more than once."""
        return self.pool.num_extra_owners * self.block_size

    # ends

    def _on_step_end(self, event: Event) -> None:
        if event is not self.pending:
            return
        self.num_events += 1
        now = self.env.now_ps
        if self.due is None:
            self._finish_jump(now)
        else:
            self._finish_step(self.due, now)
        self._decide(now)

    def _finish_jump(self, now: int) -> None:
        scheduler, pool = self.scheduler, self.pool
        steps, first, growth = self.jump
        count, context = scheduler.num_decoding, scheduler.num_context_tokens
        start, needs = scheduler.block_needs()
        self._row(
            Shape(count, context, [], context - self._shared_tokens()),
            pool.num_blocks - pool.num_free + needs[start],
        )
        held, _ = sum_blocks(needs, start, first, growth, steps)
        self.grown_tokens_ps += held * self.block_size
        self.last_tokens = {}
        for request in scheduler.advance(steps):
            self._end_request(request, now)
        if self.block_map is not None:
            self._map_jump(self.block_map)

    def _map_jump(self, block_map: VllmBlockMapRecorder) -> None:
        if block_map.is_truncated:
            return
        steps, first, growth = self.jump
        running = self.scheduler.state.running.values()
        for request in running:
            self.scheduler.settle(request)
        jump = Jump(started_ps=self.started_ps, num_steps=steps, first_ps=first, growth_ps=growth)
        block_map.note_jump(running, self.block_size, jump)

    def _on_release(self, request: Request) -> None:
        if self.block_map is not None:
            self.block_map.release(request, self.env.now_ps)

    def _row(self, shape: Shape, used_blocks: int) -> None:
        steps, first, growth = self.jump
        given_out, held = used_blocks * self.block_size, shape.held_tokens
        self.recorder.segments += pack_segment(
            self.index,
            self.started_ps,
            steps,
            first,
            growth,
            shape.num_decode,
            shape.context,
            len(shape.chunks),
            sum([chunk[0] for chunk in shape.chunks]),
            len(self.running),
            len(self.waiting),
            0,
            held,
            held,
            given_out,
            0,
        )

    def _finish_step(self, plan: Plan, now: int) -> None:
        shape = self.shapes.pop(id(plan))
        self._row(shape, self.pool.num_blocks - self.pool.num_free)
        first_token_ps = self.recorder.first_token_ps
        for request in plan.emitting():
            sequence = sequence_of(request)
            if first_token_ps[sequence.id] < 0 and sequence.deadline_ps >= now:
                first_token_ps[sequence.id] = now
        self.last_tokens = {request: 0 for request in plan.partial}
        known = sum(request.num_tokens + 1 for request in plan.drafts)
        self._complete(plan, now)
        if shape.drafts:
            kept = sum(request.num_tokens for request in plan.drafts) - known
            self.recorder.note_drafts(shape.drafts, kept)

    def _complete(self, plan: Plan, now: int) -> None:
        accepted = self.drafts.accepted(plan) if plan.drafts else {}
        for request, count in accepted.items():
            self.last_tokens[request] = 1 + count
        for request in self.loop.complete(plan, accepted):
            self._end_request(request, now)

    def _end_request(self, request: Request, now: int) -> None:
        sequence = sequence_of(request)
        self.requests.pop(sequence.id, None)
        self.drafts.forget(request)
        if sequence.deadline_ps < now:  # the client left during the step that made the last token
            made = self.last_tokens.get(request, 1)
            self.recorder.abort(sequence, request.num_output_tokens - made)
            self.feed.on_end(sequence, sequence.deadline_ps)
            return
        self.recorder.finish(sequence, now)
        self.recorder.generated_tokens[sequence.id] = request.num_output_tokens
        self.feed.on_end(sequence, now)

    def _expire_waiting(self, sequence: Sequence) -> None:
        """A client left, its request queued or running; what came after that is not delivered."""
        request = self.requests.pop(sequence.id, None)
        if request is None:
            return
        self.scheduler.settle(request)
        made = 0
        if sequence.deadline_ps < self.env.now_ps and request.num_output_tokens:
            made = self._tokens_just_made(request)
        self.recorder.abort(sequence, request.num_output_tokens - made)
        self.scheduler.abort(request)
        self.drafts.forget(request)
        self.feed.on_end(sequence, sequence.deadline_ps)

    def _tokens_just_made(self, request: Request) -> int:
        """Tokens of the step that has just ended: a client that left before does not get them."""
        return self.last_tokens.get(request, 1) if request.status is Status.RUNNING else 0


def sequence_of(request: Request) -> Sequence:
    """The sequence that a scheduler's request stands for."""
    assert isinstance(request, VllmRequest)
    return request.sequence
