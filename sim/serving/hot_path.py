"""The common case, written out: one replica, continuous batching over paged KV, decodes first, no time-outs.

Decisions and state are ``SkippingEngine``'s; here each decision is one long function, because calls and
attribute traffic were most of its time (``benchmarks/``). The tests run all engines on the same workloads.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from simpy.events import Event

from sim.records import FINISHED
from sim.serving.clock import Callback
from sim.serving.engine import Chunk
from sim.serving.jumping import steps_until
from sim.serving.kv.paged import PagedKV
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER
from sim.serving.skipping import NO_CHUNKS, SkippingEngine


class HotPathEngine(SkippingEngine):
    """``SkippingEngine`` without block map, time-outs, prefill-first order, static batches and router."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert isinstance(self.kv, PagedKV)
        self.pool: PagedKV = self.kv
        self.tick = Event(self.env)
        self.tick._ok, self.tick._value = True, None
        self.tick_callbacks: list[Callback] = [self._turn]
        self.steps = self.first_ps = self.growth_ps = 0

    def _decide(self, now: int) -> None:
        """After an idle time: nothing was under way."""
        self.end_ps = now
        self.decodes = False
        self.chunks = NO_CHUNKS
        self._turn(self.tick)

    def _turn(self, event: Event) -> None:
        """The end of a step or jump, and the next decision: what is done, for how many steps, and its row."""
        now = self.end_ps
        if self.decodes:
            steps = self.steps
            if steps > 1:
                if steps > self.period:
                    self._advance_blocks(steps, self.first_ps, self.growth_ps)
                else:
                    self._advance_few(steps)
            self.step += steps
            self.context += self.num_decode * steps
        ends = self.ends
        if ends and ends[0][0] <= self.step:
            self._finish_due(now)
        if self.chunks:
            self._finish_chunks(now)
        feed = self.feed
        if feed.next_ps <= now:
            self._begin(now)
        waiting, pool, count, step = self.waiting, self.pool, self.num_decode, self.step
        chunks = NO_CHUNKS
        is_single = False
        if count:
            need = self.phase_counts[step % self.period]
            if need <= pool.free:
                pool.free -= need
            else:
                is_single = self._grow_first(now, need)
                count = self.num_decode
        if (waiting or self.partial) and not is_single:
            chunks = self._take_chunks(self.max_num_batched_tokens - count, now)
        elif not count:
            self._idle()
            return
        context = self.context if count else 0
        num_running = len(self.running)
        if chunks:
            first = self.price.step_ps(count, context, chunks)
            steps, growth, end = 1, 0, now + first
            prefill_tokens = chunks[0][0] if len(chunks) == 1 else sum([c[0] for c in chunks])
        else:
            prefill_tokens = 0
            first, growth, steps = self.price.decode_run(count, context)
            soonest = ends[0]
            until_end = (soonest[0] if soonest[2].order == soonest[1] else self._next_end()) - step
            if until_end < steps:
                steps = until_end
            if is_single:
                steps = 1
            if steps == 1:
                end = now + first
            else:
                if count * (steps // self.period + 1) > pool.free:
                    steps = self._steps_with_blocks(steps)
                limit = feed.next_ps
                is_full = waiting or num_running >= self.max_num_seqs
                if is_full and self.is_measuring and not feed.must_see_all:
                    limit = NEVER
                end = now + steps * first + growth * (steps * (steps - 1) // 2)
                if end > limit:
                    steps = steps_until(first, growth, limit - now, steps)
                    end = now + steps * first + growth * (steps * (steps - 1) // 2)
            self.first_ps, self.growth_ps = first, growth
        self.chunks = chunks
        self.decodes = count > 0
        self.steps, self.end_ps = steps, end
        held = self.context + self.extra_held
        self.extend_rows(
            pack_segment(
                0, now, steps, first, growth, count, context, len(chunks), prefill_tokens, num_running,
                len(waiting), 0, held, held + self.unfilled, (pool.total - pool.free) * self.period, 0,
            )
        )  # fmt: skip
        self.num_events += 1
        self.env.again(event, self.tick_callbacks, end)

    def _advance_few(self, steps: int) -> None:
        """``_advance_blocks`` for no more steps than a block has tokens: every phase comes once at most."""
        start = (self.step + 1) % self.period
        end = start + steps - 1
        counts = self.phase_counts
        taken = counts[start:end] if end <= self.period else counts[start:] + counts[: end - self.period]
        growth = self.growth_ps
        time_ps = self.first_ps + growth
        used = total = 0
        for count in taken:
            used += count
            total += used * time_ps
            time_ps += growth
        self.grown_tokens_ps += total * self.period
        self.pool.free -= used

    def _take_chunks(self, budget: int, now: int) -> list[Chunk]:
        chunks: list[Chunk] = []
        partial = self.partial
        if partial is not None:
            left = partial.target - partial.computed
            queries = left if left <= budget else budget
            chunks.append((queries, partial.computed, queries == left, partial))
            budget -= queries
        waiting, running, pool, period = self.waiting, self.running, self.pool, self.period
        first_scheduled_ps = self.recorder.first_scheduled_ps
        while budget > 0 and waiting and len(running) < self.max_num_seqs:
            head = waiting[0]
            size = queries = head.prompt_tokens + head.generated
            need = (size - 1) // period + 1
            if need + (pool.watermark if running else 0) > pool.free:
                break
            if size > budget:
                if not self.limits.enable_chunked_prefill:
                    break
                queries = budget
            waiting.popleft()
            pool.free -= need
            head.reserved = need
            self.admissions += 1
            head.order = self.admissions
            head.computed = 0
            head.target = size
            running[head] = None
            if first_scheduled_ps[head.id] < 0:
                first_scheduled_ps[head.id] = now
            self.unfilled += size
            chunks.append((queries, 0, queries == size, head))
            budget -= queries
        return chunks

    def _finish_chunks(self, now: int) -> None:
        self.partial = None
        first_token_ps = self.recorder.first_token_ps
        for queries, cached, samples, sequence in self.chunks:
            self.unfilled -= queries
            if not samples:
                sequence.computed += queries
                self.extra_held += queries
                self.partial = sequence
                continue
            self.extra_held -= cached
            sequence.generated = generated = sequence.generated + 1
            if first_token_ps[sequence.id] < 0:
                first_token_ps[sequence.id] = now
            left = sequence.output_tokens - generated
            if left == 0:
                self._finish(sequence, now)
                continue
            target, step = sequence.target, self.step
            sequence.end_step = step + left
            heappush(self.ends, (step + left, sequence.order, sequence))
            self.num_decode += 1
            self.context += target + 1
            sequence.phase = phase = (step - target) % self.period
            self.phase_counts[phase] += 1

    def _finish_due(self, now: int) -> None:
        ends, step, recorder, running = self.ends, self.step, self.recorder, self.running
        while ends and ends[0][0] <= step:
            _, order, sequence = heappop(ends)
            if sequence.order != order:
                continue
            request = sequence.id
            total = sequence.prompt_tokens + sequence.output_tokens
            self.pool.free += (total - 2) // self.period + 1
            self.phase_counts[sequence.phase] -= 1
            self.num_decode -= 1
            self.context -= total
            del running[sequence]
            recorder.finish_ps[request] = now
            recorder.generated_tokens[request] = sequence.output_tokens
            recorder.status[request] = FINISHED
            sequence.is_ended = True
            if self.feed.has_triggers:
                self.feed.on_end(sequence, now)
