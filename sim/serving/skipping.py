"""The engine that skips: one SimPy event per decision, not per step.

Between two decisions a decode batch grows by one token per sequence and step. How long nothing can be
decided is known beforehand: until the first sequence ends, the price leaves its linear piece, blocks run
out, a request arrives that could be admitted, or a client's patience ends. Those steps are one jump.
State that would change at every step is kept relative to ``step``, the count of decode steps done:

- a sequence ends at decode step ``end_step`` (a heap finds the first);
- it needs a new block whenever ``step ≡ phase (mod block_size)``: ``phase_counts`` says how many do;
- ``context`` is the sum of the contexts that the next decode step attends to.

``SteppedEngine`` does the same one step and one sequence at a time; both agree on every timestamp. This file
is the hot path: attributes are bound to locals and small calls are written out where they were measured.
"""

from __future__ import annotations

from typing import Any

from simpy.events import Event

from sim.serving.engine import Chunk
from sim.serving.jumping import steps_until
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER
from sim.serving.skipping_state import SkippingState
from sim.serving.usage import levels_of

NO_CHUNKS: list[Chunk] = []


class SkippingEngine(SkippingState):
    """Continuous and static batching by jumps."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.levels = (0, 0, 0, 0)
        self.priced = (0, 0)  # sequences and context that the decode part was priced at

    # decisions

    def _decide(self, now: int) -> None:
        if self.feed.next_ps <= now or self.deadlines or self.window_is_due:
            self._begin(now)
        if self.limits.is_static:
            self._decide_static(now)
        elif self.running or self.waiting:
            self._decide_continuous(now)
        else:
            self._idle()

    def _idle(self) -> None:
        self.pending = None
        self.jump = (0, 0, 0)
        if self.feed.next_ps < NEVER:
            self._wake_at(self.feed.next_ps)

    def _decide_continuous(self, now: int) -> None:
        chunks = NO_CHUNKS
        is_prefill_first, is_single = self.is_prefill_first, False
        self.is_blocked = False
        if is_prefill_first and (self.waiting or self.partial):
            chunks = self._take_chunks(self.max_num_batched_tokens, now)
        self.decodes = decodes = self.num_decode > 0 and not chunks
        if decodes and self.paged is not None:
            count = self.phase_counts[self.step % self.period]
            if count:
                if count <= self.paged.free and self.members is None:
                    self.paged.free -= count
                else:
                    is_single = self._grow_first(now, count)
        if not (is_single or is_prefill_first) and (self.waiting or self.partial):
            chunks = self._take_chunks(self.max_num_batched_tokens - self.num_decode, now)
        self._launch(now, chunks, is_single)

    def _take_chunks(self, budget: int, now: int) -> list[Chunk]:
        """Prompt chunks of the step: the half-done prompt first, then new admissions while they fit."""
        chunks: list[Chunk] = []
        partial = self.partial
        if partial is not None:
            left = partial.target - partial.computed
            queries = left if left <= budget else budget
            chunks.append((queries, partial.computed, queries == left, partial))
            budget -= queries
        waiting, running, kv = self.waiting, self.running, self.memory
        while budget > 0 and waiting and len(running) < self.max_num_seqs:
            head = waiting[0]
            if not kv.can_admit(head, is_first=not running):
                self.is_blocked = True
                break
            size = queries = head.prompt_tokens + head.generated
            if size > budget:
                if not self.limits.enable_chunked_prefill:
                    break
                queries = budget
            waiting.popleft()
            kv.admit(head, now)
            self._admit(head, now)
            self.unfilled += size
            chunks.append((queries, 0, queries == size, head))
            budget -= queries
        return chunks

    # one jump

    def _launch(self, now: int, chunks: list[Chunk], is_single: bool) -> None:
        """Prices the step or the jump and schedules its end."""
        self.started_ps = now
        self.chunks = chunks
        count, context = (self.num_decode, self.context) if self.decodes else (0, 0)
        held = self.context - self.num_decode + self.extra_held + count
        if self.batch_size:
            count, context = (self.batch_size, self.batch_context) if self.decodes else (0, 0)
        self.priced = count, context
        if chunks:
            priced = padded(chunks) if self.batch_size else chunks
            steps, first, growth = 1, self.price.step_ps(count, context, priced), 0
        else:
            steps, first, growth = self._plan_jump(now, is_single, count, context)
        paged = self.paged
        if paged is None:
            self.levels = levels_of(self.memory, held, self.unfilled, self.is_blocked)
        else:
            self.levels = (held, held + self.unfilled, (paged.total - paged.free) * self.period, 0)
        self._schedule(steps, first, growth)

    def _plan_jump(self, now: int, is_single: bool, count: int, context: int) -> tuple[int, int, int]:
        """(steps, first, growth) of pure decode: as many steps as nothing is decided in."""
        first, growth, steps = self.price.decode_run(count, context)
        soonest = self.ends[0]
        until_end = (soonest[0] if soonest[2].order == soonest[1] else self._next_end()) - self.step
        steps = min(steps, until_end)
        if steps == 1 or is_single or (self.is_shared_queue and self.waiting):
            return 1, first, growth
        if self.paged is not None and self.num_decode * (steps // self.period + 1) > self.paged.free:
            steps = self._steps_with_blocks(steps)
        feed = self.feed
        if self.waiting or len(self.running) >= self.max_num_seqs or self.limits.is_static:
            limit = NEVER if self.is_measuring and not feed.must_see_all else feed.next_ps
        else:
            limit = feed.next_ps
        if self.deadlines:
            limit = min(limit, self._next_deadline())
        if now + steps * first + growth * (steps * (steps - 1) // 2) > limit:
            steps = steps_until(first, growth, limit - now, steps)
        return steps, first, growth

    def _on_step_end(self, event: Event) -> None:
        if event is not self.pending:
            return  # the jump was cut short
        self.num_events += 1
        now = self.end_ps
        steps, first, growth = self.jump
        chunks, decodes, count = self.chunks, self.decodes, self.num_decode
        prefill_tokens = sum([chunk[0] for chunk in chunks]) if chunks else 0
        live = count if decodes else 0
        self.extend_rows(
            pack_segment(
                self.index,
                self.started_ps,
                steps,
                first,
                growth,
                live,
                self.priced[1],
                len(chunks),
                prefill_tokens,
                len(self.running),
                len(self.waiting),
                self.priced[0] - live,
                *self.levels,
            )
        )
        if decodes:
            if steps > 1 and self.paged is not None:
                self._advance_blocks(steps, first, growth)
            self.step += steps
            self.context += count * steps
            self.batch_context += self.batch_size * steps
        if self.deadlines and self.deadlines[0][0] <= now:
            self._expire_running(now)
        ends = self.ends
        if ends and ends[0][0] <= self.step:
            self._finish_due(now)
        if chunks:
            self._finish_chunks(now)
        if self.batch_size:
            self._end_batch_if_done(now)
        self._decide(now)

    # static batching

    def _decide_static(self, now: int) -> None:
        self.is_blocked = False
        if self.num_decode:
            self.decodes = True
            count = self.phase_counts[self.step % self.period] if self.paged is not None else 0
            preempted = count > 0 and self._grow_first(now, count)
            if self.num_decode:
                self._launch(now, NO_CHUNKS, preempted)
                return
            self._end_batch_if_done(now)
        if not self.waiting:
            self._idle()
        elif self._is_holding(now):
            self.jump = (0, 0, 0)
        else:
            self._begin_batch(now)

    def _begin_batch(self, now: int) -> None:
        """As many of the queue as ``max_num_seqs`` and KV memory allow; prompts padded to the longest."""
        chunks: list[Chunk] = []
        while self.waiting and len(chunks) < self.max_num_seqs:
            head = self.waiting[0]
            if not self.memory.can_admit(head, is_first=not chunks):
                self.is_blocked = True
                break
            self.waiting.popleft()
            self.memory.admit(head, now)
            self._admit(head, now)
            self.unfilled += head.target
            chunks.append((head.target, 0, True, head))
        self.decodes = False
        self.batch_size = len(chunks)
        self.batch_context = self.batch_size * (max(chunk[0] for chunk in chunks) + 1)
        self._launch(now, chunks, is_single=True)


def padded(chunks: list[Chunk]) -> list[Chunk]:
    """All prompts as long as the longest: what a static batch computes."""
    longest = max(chunk[0] for chunk in chunks)
    return [(longest, 0, True, chunk[3]) for chunk in chunks]
