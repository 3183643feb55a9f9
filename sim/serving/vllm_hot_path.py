"""The common case of vLLM's scheduler, written out: one replica, fcfs, one step at a time under way.

State and decisions are ``Scheduler``'s, whose steady-decode state this changes in the same order; where a
step needs more (preemption, blocks registered at once for others, half-done prompts that are not the newest)
the scheduler plans it (``VllmEngine``). Calls and attribute traffic were most of the time (``benchmarks/``);
the tests run both ways, and every step planned request by request, on the same workloads.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import attrgetter
from typing import Any

from simpy.events import Event

from sim.records import FINISHED
from sim.serving.clock import Callback
from sim.serving.jumping import steps_until
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER, Sequence
from sim.serving.usage import sum_blocks
from sim.serving.vllm.queue import FcfsQueue
from sim.serving.vllm.request import Request, Status
from sim.serving.vllm_engine import VllmEngine, sequence_of

MixedChunk = tuple[int, int, bool, Request]  # queries, cached, whether a token comes out, whose
NO_CHUNKS: list[MixedChunk] = []
by_order = attrgetter("order")


class VllmHotPath(VllmEngine):
    """``VllmEngine`` without time-outs, router, priorities, drafts and asynchronous scheduling."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        state = self.scheduler.state
        assert self.scheduler.steady is not None and isinstance(state.waiting, FcfsQueue)
        self.steady = self.scheduler.steady
        self.blocks = state.kv
        self.queue = state.waiting.requests
        self.settings = state.limits
        self.max_running = state.limits.max_running
        self.max_num_batched_tokens = state.limits.max_num_batched_tokens
        self.extend_rows = self.recorder.segments.extend
        self.tick = Event(self.env)
        self.tick._ok, self.tick._value = True, None
        self.tick_callbacks: list[Callback] = [self._turn]
        self.steps = self.first_ps = self.growth_ps = 0
        self.mixed: list[MixedChunk] = NO_CHUNKS
        self.has_grown = False

    def _decide(self, now: int) -> None:
        """After an idle time, or a step that the scheduler planned."""
        self.end_ps = now
        self.steps = 0
        self._turn(self.tick)

    def _begin(self, now: int) -> None:
        feed = self.feed
        while feed.next_ps <= now:
            self.receive(feed.take())
        if self.window_is_due:
            super()._begin(now)

    def receive(self, sequence: Sequence, *, has_own_deadline: bool = True) -> None:
        """See ``EngineBase``; written out for a request whose tokens nobody else has."""
        prompt, end = sequence.prompt_tokens, sequence.prompt_tokens + sequence.output_tokens
        most = self.settings.max_model_len
        if end > most:
            end = most
        fits = prompt < most and -(-(end - 1) // self.block_size) <= self.pool.num_blocks
        if not (self.are_alone and self.is_measuring and fits):
            super().receive(sequence)
            return
        recorder, row = self.recorder, sequence.id
        recorder.arrival_ps[row] = sequence.arrival_ps
        recorder.replica[row] = 0
        request = self._request(sequence)
        request.end_tokens = end
        request.registers_late = True
        self.queue.append(request)

    def _turn(self, event: Event) -> None:
        """The end of a step or jump, and the next decision: what is done, for how many steps, and its row."""
        now = self.end_ps
        steady, pool, size, running = self.steady, self.pool, self.block_size, self.running
        steps = self.steps
        if steps:
            mixed = self.mixed
            if not self.has_grown and (steps > 1 or steady.phases[steady.step % size]):
                self._hand_out(steps)
            steady.step = step = steady.step + steps
            steady.num_context_tokens += steps * steady.num_decoding
            finished = steady.ends.pop(step - 1, None)
            if finished:
                self._part_all(finished)
            if mixed:
                finished = self._first_tokens(mixed, finished, now)
            if finished:
                self._finish_all(finished, now)
        feed = self.feed
        if feed.next_ps <= now or self.window_is_due:
            self.jump, self.pending = (0, 0, 0), None
            self.is_deciding = True
            self._begin(now)
            self.is_deciding = False
        count, step = steady.num_decoding, steady.step
        mixed = NO_CHUNKS
        self.has_grown = False
        growing = steady.phases[step % size]
        if self.queue or steady.prefilling:
            is_open = not steady.is_stuck and len(running) < self.max_running
            if count >= self.max_num_batched_tokens or steady.registrars:
                self._leave_to_scheduler(now)
                return
            if is_open or steady.prefilling:
                planned = self._take_chunks(now, growing, count)
                if planned is None:
                    self._leave_to_scheduler(now)
                    return
                mixed = planned
        if not (mixed or count) or steady.registrars:
            self._leave_to_scheduler(now)
            return
        context = steady.num_context_tokens
        if self.has_grown:
            steps, growth, prefill_tokens = 1, 0, 0
            held, num_decode, priced = context, count, mixed
            for chunk in mixed:
                tokens, cached = chunk[0], chunk[1]
                held += tokens + cached
                if tokens == 1 and cached:  # priced like a decode
                    num_decode += 1
                    context += cached + 1
                    priced = [other for other in priced if other is not chunk]
                else:
                    prefill_tokens += tokens
            first = self.price.step_ps(num_decode, context, priced)
            end = now + first
            num_prefill = len(priced)
            used = pool.num_blocks - pool.num_free
        else:
            num_decode, held, num_prefill, prefill_tokens = count, context, 0, 0
            first, growth, steps = self.price.decode_run(count, context)
            ends, end_steps = steady.ends, steady.end_steps
            until_end = end_steps[0] - step + 1 if ends.get(end_steps[0]) else steady.steps_to_first_end()
            if until_end < steps:
                steps = until_end
            if count * (steps // size + 1) > pool.num_free:
                steps = steady.steps_to_shortage(steps)
                if steps < 1:
                    self._leave_to_scheduler(now)
                    return
            limit = feed.next_ps
            is_full = self.queue or len(running) >= self.limits.max_num_seqs
            if is_full and self.is_measuring and not feed.must_see_all:
                limit = NEVER
            end = now + steps * first + growth * (steps * (steps - 1) // 2)
            if end > limit:
                steps = steps_until(first, growth, limit - now, steps)
                end = now + steps * first + growth * (steps * (steps - 1) // 2)
            self.first_ps, self.growth_ps = first, growth
            used = pool.num_blocks - pool.num_free + len(growing)
        self.mixed = mixed
        self.steps, self.end_ps = steps, end
        held -= pool.num_extra_owners * size
        self.extend_rows(
            pack_segment(
                0, now, steps, first, growth, num_decode, context, num_prefill, prefill_tokens,
                len(running), len(self.queue), 0, held, held, used * size, 0,
            )
        )  # fmt: skip
        self.num_events += 1
        self.env.again(event, self.tick_callbacks, end)

    def _leave_to_scheduler(self, now: int) -> None:
        """A step or jump by ``Scheduler``'s own plan, or nothing to do."""
        self.steps = 0
        super()._decide(now)

    def _hand_out(self, steps: int) -> None:
        """The blocks that decoding requests took in the steps of a jump, and KV added in it × time."""
        phases, size = self.steady.phases, self.block_size
        start = self.steady.step % size
        if steps <= size:
            growing = list(phases[start].values())
            time_ps, growth = self.first_ps, self.growth_ps
            used = total = 0
            for index in range(start + 1, start + steps):
                phase = phases[index % size]
                if phase:
                    growing += phase.values()
                    used += len(phase)
                time_ps += growth
                total += used * time_ps
        else:
            turned = phases[start:] + phases[:start]
            rounds, rest = divmod(steps, size)
            growing = [request for phase in turned for request in phase.values()] * rounds
            growing += [request for phase in turned[:rest] for request in phase.values()]
            total, _ = sum_blocks(
                [len(phase) for phase in phases], start, self.first_ps, self.growth_ps, steps
            )
        self.grown_tokens_ps += total * size
        if growing:
            self._grow(growing)

    def _grow(self, growing: Collection[Request]) -> None:
        """A block for each, in this order."""
        for request, block in zip(growing, self.pool.take(len(growing)), strict=False):
            request.blocks.append(block)

    def _take_chunks(self, now: int, growing: dict[int, Request], count: int) -> list[MixedChunk] | None:
        """Prompt chunks of the next step, all counted as computed; None if the scheduler has to plan it.

        First the newest request's half-done prompt, then admissions while they fit. ``has_grown``: the
        decodes have got the step's blocks, before any admission looked.
        """
        steady, running, queue, blocks = self.steady, self.running, self.queue, self.blocks
        if len(growing) > self.pool.num_free:
            return None
        budget = self.max_num_batched_tokens - count
        chunks: list[MixedChunk] = []
        if steady.prefilling:
            chunk = self._next_chunk(growing, budget)
            if chunk is None:
                return None
            chunks.append(chunk)
            budget -= chunk[0]
            growing = {}
        is_refused = False
        while budget > 0 and queue and len(running) < self.max_running:
            head = queue[0]
            num_hits = blocks.find_hits(head) if head.path else 0
            missing = head.num_tokens - num_hits * self.block_size
            tokens = missing if missing <= budget else budget
            is_refused = tokens < missing and not self.settings.enable_chunked_prefill
            if is_refused:
                break
            if growing:
                is_refused = not num_hits and not self._can_admit(head, tokens, len(growing))
                if is_refused:
                    break
                self._grow(growing.values())
                growing = {}
                if num_hits:  # of which the decodes may have taken some
                    self.has_grown = True
                    continue
            is_refused = not self._allocate(head, num_hits, tokens)
            if is_refused:
                break
            self._admit_head(head, num_hits * self.block_size, tokens, now)
            chunks.append((tokens, num_hits * self.block_size, tokens == missing, head))
            budget -= tokens
        if chunks:
            self.has_grown = True
        steady.is_stuck = is_refused and not chunks and self.settings.scheduler_reserve_full_isl
        return chunks if self.has_grown or (steady.is_stuck and count) else None

    def _can_admit(self, head: Request, tokens: int, num_growing: int) -> bool:
        """``KVBlocks.can_admit`` without hits."""
        wanted = head.num_tokens if self.settings.scheduler_reserve_full_isl else tokens
        available = self.pool.num_free - num_growing
        if self.running:
            available -= self.blocks.watermark_blocks
        return -(-wanted // self.block_size) <= available

    def _allocate(self, head: Request, num_hits: int, tokens: int) -> bool:
        """``KVBlocks.admit``: False if there are too few blocks."""
        if num_hits or not head.is_alone:
            return self.blocks.admit(head, num_hits, tokens, spare=bool(self.running)) is not None
        if not self._can_admit(head, tokens, 0):
            return False
        size = self.block_size
        head.blocks = self.pool.take(-(-tokens // size))
        head.num_registered_blocks = tokens // size if self.settings.enable_prefix_caching else 0
        return True

    def _next_chunk(self, growing: dict[int, Request], budget: int) -> MixedChunk | None:
        """More of a half-done prompt, after the decodes' blocks; None if that is not how this step goes."""
        steady = self.steady
        request = next(iter(steady.prefilling.values()))
        if len(steady.prefilling) > 1 or next(reversed(self.scheduler.state.running)) != request.order:
            return None
        computed = request.num_computed_tokens
        left = request.num_tokens - computed
        tokens = min(left, budget, self.settings.max_model_len - computed - 1)
        need = -(-(computed + tokens) // self.block_size) - len(request.blocks)
        if tokens <= 0 or len(growing) + max(0, need) > self.pool.num_free:
            return None
        if growing:
            self._grow(growing.values())
        self.blocks.extend(request, tokens)
        request.num_computed_tokens = computed + tokens
        request.is_prefill_chunk = tokens < left
        return tokens, computed, tokens == left, request

    def _admit_head(self, request: Request, hit_tokens: int, tokens: int, now: int) -> None:
        """``State.admit`` and what counts its tokens as computed, and its records."""
        state = self.scheduler.state
        self.queue.popleft()
        state.num_admissions += 1
        request.order = order = state.num_admissions
        request.status = Status.RUNNING
        request.num_computed_tokens = computed = hit_tokens + tokens
        request.is_prefill_chunk = computed < request.num_tokens
        state.running[order] = request
        recorder, row = self.recorder, sequence_of(request).id
        if recorder.first_scheduled_ps[row] < 0:
            recorder.first_scheduled_ps[row] = now
            recorder.cached_tokens[row] = hit_tokens

    def _part_all(self, finished: list[Request]) -> None:
        """Decoding requests that have made their last token leave the group."""
        for request in finished:
            self.steady.part(request)

    def _first_tokens(
        self, mixed: list[MixedChunk], finished: list[Request] | None, now: int
    ) -> list[Request]:
        """What came out of a step's chunks; ``finished``, with those whose first token was the last."""
        finished = finished or []
        steady, first_token_ps = self.steady, self.recorder.first_token_ps
        for _, _, samples, request in mixed:
            if not samples:
                steady.prefilling[request.order] = request
                continue
            if steady.prefilling:
                steady.prefilling.pop(request.order, None)
            request.num_tokens += 1
            row = sequence_of(request).id
            if first_token_ps[row] < 0:
                first_token_ps[row] = now
            if request.num_tokens >= request.end_tokens:
                finished.append(request)
            else:
                steady.join(request)
        return finished

    def _finish_all(self, finished: list[Request], now: int) -> None:
        """Frees those who made their last token, in order of admission."""
        self.steady.is_stuck = False
        if len(finished) > 1:
            finished.sort(key=by_order)
        for request in finished:
            self.scheduler.state.finish(request)
            self._end_request(request, now)

    def _end_request(self, request: Request, now: int) -> None:
        recorder, sequence = self.recorder, sequence_of(request)
        row = sequence.id
        recorder.finish_ps[row] = now
        recorder.generated_tokens[row] = request.num_tokens - request.num_prompt_tokens
        recorder.status[row] = FINISHED
        recorder.num_ended += 1
        sequence.is_ended = True
        if self.feed.has_triggers:
            self.feed.on_end(sequence, now)
