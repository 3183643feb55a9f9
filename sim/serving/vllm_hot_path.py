"""The common case of vLLM's scheduler, written out: one replica, fcfs, one step at a time under way.

State and decisions are ``Scheduler``'s, whose steady-decode state this changes in the same order; where a
step needs more (preemption, blocks registered at once for others, half-done prompts that are not the newest)
the scheduler plans it (``VllmEngine``). Calls and attribute traffic were most of the time (``benchmarks/``),
so decisions are a loop over local variables, and those that nothing else can fall between are one SimPy
event. The tests run both ways, and every step planned request by request, on the same workloads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import heappush
from itertools import chain
from operator import attrgetter
from typing import Any

from sim.records import FINISHED
from sim.serving.jumping import steps_until
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER
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
        self.has_grown = False

    def _decide(self, now: int) -> None:
        """From here on until the engine is idle or the scheduler has to plan a step."""
        env, feed, recorder, pool, price = self.env, self.feed, self.recorder, self.pool, self.price
        steady, state, queue, size = self.steady, self.scheduler.state, self.queue, self.block_size
        phases, ends, end_steps, running = steady.phases, steady.ends, steady.end_steps, state.running
        prefilling, registrars = steady.prefilling, steady.registrars
        max_tokens, max_running, max_num_seqs = (
            self.max_num_batched_tokens, self.max_running, self.limits.max_num_seqs
        )  # fmt: skip
        first_token_ps, finish_ps, status = recorder.first_token_ps, recorder.finish_ps, recorder.status
        generated_tokens = recorder.generated_tokens
        must_see_all, has_triggers = feed.must_see_all, feed.has_triggers
        extend_rows, pack, step_ps, decode_run = (
            recorder.segments.extend, pack_segment, price.step_ps, price.decode_run
        )  # fmt: skip
        are_alone, is_caching = self.are_alone, self.settings.enable_prefix_caching
        num_blocks, take, retire = pool.num_blocks, pool.take, pool.retire
        is_chunked, watermark = self.settings.enable_chunked_prefill, self.blocks.watermark_blocks
        reserves_all, first_scheduled_ps = (
            self.settings.scheduler_reserve_full_isl, recorder.first_scheduled_ps
        )  # fmt: skip
        step, count, context = steady.step, steady.num_decoding, steady.num_context_tokens
        self.jump, self.pending = (0, 0, 0), None
        mixed = NO_CHUNKS
        has_grown = False
        steps = first = growth = 0
        while True:
            # What ran is over: ``count`` sequences decoded ``steps`` times, or once beside ``mixed``.
            if steps:
                if not has_grown:  # its blocks
                    if steps <= size:
                        index = step % size
                        growing: Collection[Request] = phases[index].values()
                        if steps > 1:
                            growing = list(growing)
                            time_ps = first
                            used = total = 0
                            for _ in range(steps - 1):
                                index += 1
                                if index == size:
                                    index = 0
                                phase = phases[index]
                                time_ps += growth
                                if phase:
                                    growing += phase.values()
                                    used += len(phase)
                                total += used * time_ps
                            self.grown_tokens_ps += total * size
                    else:
                        growing = self._growing_in(step, first, growth, steps)
                    if growing:
                        for request, block in zip(growing, take(len(growing)), strict=False):
                            request.blocks.append(block)
                step += steps
                context += steps * count
                finished = ends.pop(step - 1, None)
                if not are_alone:
                    steady.step, steady.num_decoding, steady.num_context_tokens = step, count, context
                    self._end_of_step(mixed, finished or [], now)
                    count, context = steady.num_decoding, steady.num_context_tokens
                else:
                    if finished:
                        for request in finished:
                            tokens = request.end_tokens
                            del phases[(request.settled_step + 1 - request.num_tokens) % size][request.order]
                            count -= 1
                            context -= tokens
                            request.num_tokens = tokens
                            request.num_computed_tokens = tokens - 1
                            if is_caching:
                                request.num_registered_blocks = (tokens - 1) // size
                    for _, _, samples, request in mixed:
                        order = request.order
                        if not samples:
                            prefilling[order] = request
                            continue
                        if prefilling:
                            prefilling.pop(order, None)
                        request.num_tokens = tokens = request.num_tokens + 1
                        row = sequence_of(request).id
                        if first_token_ps[row] < 0:
                            first_token_ps[row] = now
                        left = request.end_tokens - tokens
                        if not left:
                            finished = [*(finished or ()), request]
                            continue
                        request.settled_step = step
                        phases[(step + 1 - tokens) % size][order] = request
                        end = step + left - 1
                        ending = ends.get(end)
                        if ending is None:
                            ends[end] = [request]
                            heappush(end_steps, end)
                        else:
                            ending.append(request)
                        count += 1
                        context += tokens
                    if finished:
                        steady.is_stuck = False
                        if len(finished) > 1:
                            finished.sort(key=by_order)
                        for request in finished:
                            del running[request.order]
                            request.status = Status.FINISHED
                            if request.num_preemptions:
                                self.blocks.close(request)
                            else:
                                retire(request.blocks, request.num_registered_blocks)
                            sequence = sequence_of(request)
                            row = sequence.id
                            finish_ps[row] = now
                            generated_tokens[row] = request.end_tokens - sequence.prompt_tokens
                            status[row] = FINISHED
                            sequence.is_ended = True
                            if has_triggers:
                                feed.on_end(sequence, now)
            # Who has come.
            if feed.next_ps <= now or self.window_is_due:
                self.is_deciding = True
                self._begin(now)
                self.is_deciding = False
            # What is next.
            mixed = NO_CHUNKS
            has_grown = False
            if queue or prefilling:
                if count >= max_tokens or registrars:
                    break
                if not prefilling and (steady.is_stuck or len(running) >= max_running):
                    pass
                elif are_alone and not prefilling and not state.num_preemptions:
                    phase = phases[step % size]
                    if len(phase) > pool.num_free:
                        break
                    budget = max_tokens - count
                    mixed = []
                    is_refused = False
                    while budget > 0 and queue and len(running) < max_running:
                        request = queue[0]
                        wanted = tokens = request.num_tokens
                        if tokens > budget:
                            if not is_chunked:
                                is_refused = True
                                break
                            tokens = budget
                        need = -(-tokens // size)
                        available = pool.num_free - (watermark if running else 0)
                        if not has_grown:
                            available -= len(phase)
                        if (-(-wanted // size) if reserves_all else need) > available:
                            is_refused = True
                            break
                        if not has_grown:
                            has_grown = True
                            if phase:
                                for other, block in zip(phase.values(), take(len(phase)), strict=False):
                                    other.blocks.append(block)
                        queue.popleft()
                        request.blocks = take(need)
                        if is_caching:
                            request.num_registered_blocks = tokens // size
                        state.num_admissions = order = state.num_admissions + 1
                        request.order = order
                        request.status = Status.RUNNING
                        request.num_computed_tokens = tokens
                        request.is_prefill_chunk = tokens < wanted
                        running[order] = request
                        row = sequence_of(request).id
                        if first_scheduled_ps[row] < 0:
                            first_scheduled_ps[row] = now
                        mixed.append((tokens, 0, tokens == wanted, request))
                        budget -= tokens
                    if not mixed:
                        steady.is_stuck = is_refused and reserves_all
                        if not (steady.is_stuck and count):
                            break
                else:
                    planned = self._take_chunks(now, phases[step % size], count)
                    if planned is None:
                        break
                    mixed, has_grown = planned, self.has_grown
            if not (mixed or count) or registrars:
                break
            num_decode, shown_context, held, prefill_tokens = count, context, context, 0
            priced = mixed
            if has_grown:
                steps, growth = 1, 0
                for chunk in mixed:
                    tokens, cached = chunk[0], chunk[1]
                    held += tokens + cached
                    if tokens == 1 and cached:  # priced like a decode
                        num_decode += 1
                        shown_context += cached + 1
                        priced = [other for other in priced if other is not chunk]
                    else:
                        prefill_tokens += tokens
                first = step_ps(num_decode, shown_context, priced)
                end = now + first
                used = num_blocks - pool.num_free
            else:
                first, growth, steps = decode_run(count, context)
                if ends.get(end_steps[0]):
                    until_end = end_steps[0] - step + 1
                else:
                    steady.step = step
                    until_end = steady.steps_to_first_end()
                if until_end < steps:
                    steps = until_end
                if count * (steps // size + 1) > pool.num_free:
                    steady.step, steady.num_decoding = step, count
                    steps = steady.steps_to_shortage(steps)
                    if steps < 1:
                        break
                limit = feed.next_ps
                is_full = queue or len(running) >= max_num_seqs
                if is_full and not must_see_all and self.is_measuring:
                    limit = NEVER
                end = now + steps * first + growth * (steps * (steps - 1) // 2)
                if end > limit:
                    steps = steps_until(first, growth, limit - now, steps)
                    end = now + steps * first + growth * (steps * (steps - 1) // 2)
                used = num_blocks - pool.num_free + len(phases[step % size])
            held -= pool.num_extra_owners * size
            extend_rows(
                pack(
                    0, now, steps, first, growth, num_decode, shown_context, len(priced), prefill_tokens,
                    len(running), len(queue), 0, held, held, used * size, 0,
                )
            )  # fmt: skip
            self.num_events += 1
            now = end
        steady.step, steady.num_decoding, steady.num_context_tokens = step, count, context
        env.pass_to(now)
        super()._decide(now)

    def _begin(self, now: int) -> None:
        feed = self.feed
        if not self.are_alone or not self.is_measuring or self.window_is_due:
            super()._begin(now)
            return
        recorder, size, most, queue = self.recorder, self.block_size, self.settings.max_model_len, self.queue
        most_tokens = self.pool.num_blocks * size + 1
        while feed.next_ps <= now:
            sequence = feed.take()
            end = sequence.prompt_tokens + sequence.output_tokens
            if end > most:
                end = most
            if sequence.prompt_tokens >= most or end > most_tokens:
                self.receive(sequence)
                continue
            recorder.arrival_ps[sequence.id] = sequence.arrival_ps
            recorder.replica[sequence.id] = 0
            request = self._request(sequence)
            request.end_tokens = end
            request.registers_late = True
            queue.append(request)

    def _growing_in(self, step: int, first_ps: int, growth_ps: int, steps: int) -> list[Request]:
        """Who takes a block in the steps of a long jump, in order; notes KV added in it × time."""
        phases, size = self.steady.phases, self.block_size
        start = step % size
        turned = phases[start:] + phases[:start]
        rounds, rest = divmod(steps, size)
        growing = list(in_order(turned)) * rounds
        growing += in_order(turned[:rest])
        total, _ = sum_blocks([len(phase) for phase in phases], start, first_ps, growth_ps, steps)
        self.grown_tokens_ps += total * size
        return growing

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
        self.has_grown = False
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
                is_refused = not num_hits and not blocks.can_admit(
                    head, 0, tokens, len(growing), spare=bool(running)
                )
                if is_refused:
                    break
                self._grow(growing.values())
                growing = {}
                if num_hits:  # of which the decodes may have taken some
                    self.has_grown = True
                    continue
            is_refused = blocks.admit(head, num_hits, tokens, spare=bool(running)) is None
            if is_refused:
                break
            self._admit_head(head, num_hits * self.block_size, tokens, now)
            chunks.append((tokens, num_hits * self.block_size, tokens == missing, head))
            budget -= tokens
        if chunks:
            self.has_grown = True
        steady.is_stuck = is_refused and not chunks and self.settings.scheduler_reserve_full_isl
        return chunks if self.has_grown or (steady.is_stuck and count) else None

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

    def _end_of_step(self, mixed: list[MixedChunk], finished: list[Request], now: int) -> None:
        """What came out of a step, where requests may share content: who ended, first tokens, who joins."""
        steady, first_token_ps = self.steady, self.recorder.first_token_ps
        for request in finished:
            steady.part(request)
        for _, _, samples, request in mixed:
            if not samples:
                steady.prefilling[request.order] = request
                continue
            steady.prefilling.pop(request.order, None)
            request.num_tokens += 1
            row = sequence_of(request).id
            if first_token_ps[row] < 0:
                first_token_ps[row] = now
            if request.num_tokens >= request.end_tokens:
                finished.append(request)
            else:
                steady.join(request)
        if finished:
            self._finish_all(finished, now)

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


def in_order(phases: list[dict[int, Request]]) -> Iterable[Request]:
    """The requests of these phases, one after another."""
    return chain.from_iterable(phase.values() for phase in phases)
