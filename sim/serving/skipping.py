"""The engine that skips: one SimPy event per decision, not per step.

Between two decisions a decode batch grows by one token per sequence and step. How long nothing can be
decided is known beforehand: until the first sequence ends, the price leaves its linear piece, blocks run
out, a request arrives that could be admitted, or a client's patience ends. Those steps are one jump.
State that would change at every step is kept relative to ``step``, the count of decode steps done:

- a sequence ends at decode step ``end_step`` (a heap finds the first);
- it needs a new block whenever ``step ≡ phase (mod block_size)``: ``phase_counts`` says how many do;
- ``context`` is the sum of the contexts that the next decode step attends to.

``SteppedEngine`` does the same one step and one sequence at a time; both agree on every timestamp.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import isqrt

from simpy.events import Event

from sim.errors import InvariantError
from sim.serving.engine import Chunk, EngineBase
from sim.serving.kv.paged import PagedKV
from sim.serving.sequence import NEVER, Sequence
from sim.serving.usage import sum_blocks, sum_linear


class SkippingEngine(EngineBase):
    """Continuous and static batching by jumps."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.step = 0
        self.num_decode = 0
        self.context = 0
        self.extra_held = 0  # tokens of sequences that do not decode: half-done prompts, members kept to the end
        self.unfilled = 0  # prompt tokens admitted but not yet computed
        self.ends: list[tuple[int, int, Sequence]] = []
        self.partial: Sequence | None = None
        paged = self.kv if isinstance(self.kv, PagedKV) else None
        self.paged = paged
        self.period = paged.block_size if paged else 1
        self.phase_counts = [0] * self.period
        self.members: list[dict[Sequence, None]] | None = None
        if paged and paged.block_map is not None:
            self.members = [{} for _ in range(self.period)]
        self.started_ps = 0
        self.jump = (1, 0, 0)  # steps, first, growth
        self.levels = (0, 0, 0, 0)
        self.chunks: list[Chunk] = []
        self.decodes = False
        self.priced = (0, 0)
        self.is_open = False
        # static batching
        self.batch_size = 0
        self.batch_context = 0
        self.kept: list[Sequence] = []

    def poke(self, was_open: bool) -> None:
        """See ``EngineBase``: starts an idle engine, cuts a jump at the next step's end."""
        if self.pending is None or self.jump[0] == 0:  # idle, or holding for a fuller batch
            self._wake_at(self.env.now)
        elif was_open:
            self._cut()

    def begin_window(self) -> None:
        """See ``EngineBase``."""
        super().begin_window()
        if self.pending is not None and self.jump[0] > 1:
            self._cut()

    def _cut(self) -> None:
        """Ends the jump with the step that is under way."""
        steps, first, growth = self.jump
        if steps > 1:
            cut = steps_until(first, growth, self.env.now - self.started_ps, steps)
            if cut < steps:
                self._schedule(cut, first, growth)

    # decisions

    def _decide(self, now: int) -> None:
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
        self.is_blocked = False
        limits = self.limits
        chunks: list[Chunk] = []
        preempted = False
        if limits.is_prefill_first:
            chunks = self._take_chunks(limits.max_num_batched_tokens, now)
        self.decodes = self.num_decode > 0 and not chunks
        if self.decodes:
            preempted = self.paged is not None and self._grow_first(now)
            self.decodes = self.num_decode > 0
            if not preempted and not limits.is_prefill_first and (self.partial or self.waiting):
                chunks = self._take_chunks(limits.max_num_batched_tokens - self.num_decode, now)
        elif not chunks:
            chunks = self._take_chunks(limits.max_num_batched_tokens, now)
        self._launch(now, chunks, is_single=preempted)

    def _grow_first(self, now: int) -> bool:
        """Blocks for the next decode step; preempts the latest admitted while they cannot be had."""
        paged = self.paged
        assert paged is not None
        phase = self.step % self.period
        if self.phase_counts[phase] <= paged.free:
            paged.free -= self.phase_counts[phase]
            if self.members is not None:
                self._track_growth(phase, now)
            return False
        if self.members is None:
            while self.phase_counts[phase] > paged.free:
                self._preempt_last(now)
            paged.free -= self.phase_counts[phase]
        else:
            self._grow_one_by_one(phase, now)
        return True

    def _grow_one_by_one(self, phase: int, now: int) -> None:
        """The same in order of admission, so that physical ids are those of single steps."""
        assert self.members is not None and self.paged is not None
        for sequence in list(self.members[phase]):
            while sequence.order >= 0 and self.paged.free == 0:
                self._preempt_last(now)
            if sequence.order >= 0:
                self.paged.grow(sequence, 1, now)
                sequence.reserved -= 1

    def _track_growth(self, phase: int, now: int) -> None:
        """Physical ids of blocks already counted as taken."""
        assert self.members is not None and self.paged is not None
        for sequence in self.members[phase]:
            self.paged.free += 1
            self.paged.grow(sequence, 1, now)
            sequence.reserved -= 1  # counted in bulk, see ``_leave_decode``

    def _preempt_last(self, now: int) -> None:
        victim = next(reversed(self.running))
        del self.running[victim]
        if victim is self.partial:
            lost = victim.computed
            self.partial = None
            self.extra_held -= lost
            self.unfilled -= victim.target - lost
        else:
            self._leave_decode(victim, self.step)
            lost = victim.prompt_tokens + victim.generated - 1
        self.kv.release(victim, now)
        victim.order = -1
        self.waiting.appendleft(victim)
        self.recorder.preempt(victim, now, self.index, lost)
        if self.on_requeue:
            self.on_requeue(self)

    def _leave_decode(self, sequence: Sequence, step: int) -> None:
        """Out of the aggregates; its own counts become current as of decode step ``step``."""
        generated = sequence.output_tokens - (sequence.end_step - step)
        if self.paged is not None:
            held = sequence.prompt_tokens + generated - 1
            sequence.reserved = -(-held // self.period)
            self.phase_counts[sequence.phase] -= 1
            if self.members is not None:
                del self.members[sequence.phase][sequence]
        self.num_decode -= 1
        self.context -= sequence.prompt_tokens + generated
        sequence.generated = generated
        sequence.end_step = -1

    def _take_chunks(self, budget: int, now: int) -> list[Chunk]:
        """Prompt chunks of the step: the half-done prompt first, then new admissions while they fit."""
        chunks: list[Chunk] = []
        partial = self.partial
        if partial is not None:
            budget -= self._take_chunk(partial, budget, chunks)
        waiting, running, limits = self.waiting, self.running, self.limits
        while budget > 0 and waiting and len(running) < limits.max_num_seqs:
            head = waiting[0]
            if not self.kv.can_admit(head, is_first=not running):
                self.is_blocked = True
                break
            size = head.prompt_tokens + head.generated
            if size > budget and not limits.enable_chunked_prefill:
                break
            waiting.popleft()
            self.kv.admit(head, now)
            self._admit(head, now)
            self.unfilled += size
            budget -= self._take_chunk(head, budget, chunks)
        return chunks

    def _take_chunk(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        left = sequence.target - sequence.computed
        queries = left if left <= budget else budget
        chunks.append((sequence, queries, sequence.computed, queries == left))
        return queries

    # one jump

    def _launch(self, now: int, chunks: list[Chunk], *, is_single: bool) -> None:
        """Prices the step or the jump and schedules its end."""
        self.started_ps = now
        self.chunks = chunks
        self.priced = (0, 0)
        if self.decodes:
            self.priced = (self.num_decode, self.context) if not self.batch_size else (self.batch_size, self.batch_context)
        if chunks:
            first = self.price.step_ps(*self.priced, self._priced_chunks(chunks))
            growth, steps = 0, 1
        else:
            steps, first, growth = self._plan_jump(now, is_single)
        held = self.context - self.num_decode + self.extra_held
        self.levels = self._levels(held + (self.num_decode if self.decodes else 0), self.unfilled)
        self._schedule(steps, first, growth)

    def _priced_chunks(self, chunks: list[Chunk]) -> list[tuple[int, int, bool]]:
        if not self.limits.is_static:
            return [chunk[1:] for chunk in chunks]
        longest = max(chunk[1] for chunk in chunks)
        return [(longest, 0, True)] * len(chunks)

    def _plan_jump(self, now: int, is_single: bool) -> tuple[int, int, int]:
        """(steps, first, growth) of pure decode: as many steps as nothing is decided in."""
        ends = self.ends
        while ends[0][2].order != ends[0][1]:
            heappop(ends)
        first, growth, steps = self.price.decode_run(*self.priced)
        if is_single or (self.is_shared_queue and self.waiting):
            return 1, first, growth
        until_end = ends[0][0] - self.step
        if until_end < steps:
            steps = until_end
        if steps > 1 and self.paged is not None:
            steps = self._steps_with_blocks(steps)
        limit = self._next_change()
        if steps > 1 and now + steps * first + growth * (steps * (steps - 1) // 2) > limit:
            steps = steps_until(first, growth, limit - now, steps)
        return steps, first, growth

    def _next_change(self) -> int:
        """When something may come that a decision has to see."""
        is_static = self.limits.is_static
        self.is_open = not is_static and not self.waiting and len(self.running) < self.limits.max_num_seqs
        sees = self.is_open or not self.is_measuring or self.feed.must_see_all
        limit = self.feed.next_ps if sees else NEVER
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].is_ended:
            heappop(deadlines)
        return min(limit, deadlines[0][0]) if deadlines else limit

    def _steps_with_blocks(self, steps: int) -> int:
        """At most ``steps``, as long as the pool has the blocks (those of the first step are taken)."""
        paged = self.paged
        assert paged is not None
        free, period, counts = paged.free, self.period, self.phase_counts
        if self.num_decode * (steps // period + 1) <= free:
            return steps
        whole = free // self.num_decode if self.num_decode else 0
        free -= whole * self.num_decode
        done = 1 + whole * period
        while done < steps:
            free -= counts[(self.step + done) % period]
            if free < 0:
                return done
            done += 1
        return steps

    def _schedule(self, steps: int, first: int, growth: int) -> None:
        self.jump = (steps, first, growth)
        end = self.started_ps + steps * first + growth * (steps * (steps - 1) // 2)
        self._after(end - self.env.now, self._on_step_end)

    def _on_step_end(self, event: Event) -> None:
        if event is not self.pending:
            return  # the jump was cut short
        self.num_events += 1
        now = self.env.now
        self._record(self.started_ps, self.jump, self.priced, self.chunks, self.levels)
        self._advance()
        if self.deadlines and self.deadlines[0][0] <= now:
            self._expire_running(now)
        self._finish_due(now)
        if self.chunks:
            self._finish_chunks(now)
        if self.batch_size:
            self._end_batch_if_done(now)
        self._decide(now)

    def _advance(self) -> None:
        """Time and memory of the jump, and the aggregates after it."""
        steps, first, growth = self.jump
        tokens, wanted, given_out, external = self.levels
        if not self.decodes:
            self.usage.add_constant(self.levels, first)
            return
        usage, count = self.usage, self.num_decode
        if steps == 1:
            usage.add_constant(self.levels, first)
        else:
            time_ps = steps * first + growth * (steps * (steps - 1) // 2)
            held = sum_linear(first, growth, tokens, count, steps)
            usage.tokens += held
            usage.external += external * time_ps
            if self.paged is None:
                usage.wanted += wanted * time_ps
                usage.given_out += given_out * time_ps
            else:
                usage.wanted += held + (wanted - tokens) * time_ps
                self._advance_blocks(steps, first, growth)
        self.step += steps
        self.context += count * steps
        self.batch_context += self.batch_size * steps

    def _advance_blocks(self, steps: int, first: int, growth: int) -> None:
        paged, period = self.paged, self.period
        assert paged is not None
        if self.members is not None:
            for step in range(1, steps):
                time_ps = self.started_ps + step * first + growth * (step * (step - 1) // 2)
                self._track_growth((self.step + step) % period, time_ps)
        used = paged.total - paged.free
        total, used = sum_blocks(self.phase_counts, self.step % period, used, first, growth, steps)
        self.usage.given_out += total * period
        paged.free = paged.total - used
        if paged.free < 0:
            raise InvariantError(f"replica {self.index}: {-paged.free} KV blocks more in use than there are")

    # ends

    def _finish_due(self, now: int) -> None:
        """Sequences whose last token came with this step, in order of admission."""
        ends, step = self.ends, self.step
        while ends and ends[0][0] <= step:
            _, order, sequence = heappop(ends)
            if sequence.order != order:
                continue
            self._leave_decode(sequence, step)
            self._finish(sequence, now)

    def _finish(self, sequence: Sequence, now: int) -> None:
        if not self.batch_size:
            self._end(sequence, now)
            return
        sequence.order = -1
        self.kept.append(sequence)
        self.extra_held += sequence.prompt_tokens + sequence.output_tokens - 1
        del self.running[sequence]
        if not self.limits.returns_at_end:
            self.recorder.finish(sequence, now)
            self.feed.on_end(sequence, now)

    def _finish_chunks(self, now: int) -> None:
        """Prompts that were worked on: half done, or with their (next) first token."""
        self.partial = None
        first_token_ps = self.recorder.first_token_ps
        for sequence, queries, cached, samples in self.chunks:
            if sequence.order < 0:
                continue
            self.unfilled -= queries
            sequence.computed += queries
            if not samples:
                self.extra_held += queries
                self.partial = sequence
                continue
            self.extra_held -= cached
            sequence.generated += 1
            if first_token_ps[sequence.id] < 0 and not self.limits.returns_at_end:
                first_token_ps[sequence.id] = now
            if sequence.generated == sequence.output_tokens:
                self._finish(sequence, now)
            else:
                self._join_decode(sequence)

    def _join_decode(self, sequence: Sequence) -> None:
        sequence.end_step = self.step + sequence.output_tokens - sequence.generated
        heappush(self.ends, (sequence.end_step, sequence.order, sequence))
        self.num_decode += 1
        self.context += sequence.target + 1
        if self.paged is not None:
            sequence.phase = phase = (self.step - sequence.target) % self.period
            self.phase_counts[phase] += 1
            if self.members is not None:
                self.members[phase][sequence] = None

    def _expire_running(self, now: int) -> None:
        """Clients that left by ``now``: tokens of a step that ended after they left are not delivered."""
        deadlines = self.deadlines
        worked = {chunk[0]: (chunk[1], chunk[3]) for chunk in self.chunks}
        late: list[tuple[int, int, Sequence]] = []
        while deadlines and deadlines[0][0] <= now:
            late.append(heappop(deadlines))
        for deadline, _, sequence in late:
            if sequence.is_ended:
                continue
            if sequence.order < 0 and sequence not in self.kept:
                self.waiting.remove(sequence)
            elif not self._abort_running(sequence, now - deadline, worked, now):
                continue
            self.recorder.abort(sequence, 0 if self.limits.returns_at_end else sequence.generated)
            self.feed.on_end(sequence, deadline)

    def _abort_running(self, sequence: Sequence, late_ps: int, worked: dict[Sequence, tuple[int, bool]], now: int) -> bool:
        """Takes it out of the batch, unless its last token came in time."""
        if sequence in self.kept:
            return True
        if sequence.end_step >= 0:
            if late_ps == 0 and sequence.end_step <= self.step and not self.limits.returns_at_end:
                return False
            self._leave_decode(sequence, self.step)
            held = sequence.prompt_tokens + sequence.generated - 1
            if late_ps and self.decodes:
                sequence.generated -= 1
        else:
            queries, samples = worked.get(sequence, (0, False))
            is_last = samples and sequence.generated + 1 == sequence.output_tokens
            if late_ps == 0 and is_last and not self.limits.returns_at_end:
                return False
            held = queries + self._drop_prefill(sequence, late_ps == 0 and samples, now)
        del self.running[sequence]
        sequence.order = -1
        if self.batch_size:
            self.kept.append(sequence)
            self.extra_held += held
        else:
            self.kv.release(sequence, now)
        return True

    def _drop_prefill(self, sequence: Sequence, is_token_delivered: bool, now: int) -> int:
        """A prompt under way is given up; returns the tokens that it held before this step."""
        self.extra_held -= sequence.computed
        self.unfilled -= sequence.target - sequence.computed
        if sequence is self.partial:
            self.partial = None
        if is_token_delivered:
            sequence.generated += 1
            if self.recorder.first_token_ps[sequence.id] < 0:
                self.recorder.first_token_ps[sequence.id] = now
        return sequence.computed

    # static batching

    def _decide_static(self, now: int) -> None:
        self.is_blocked = False
        if self.num_decode:
            self.decodes = True
            preempted = self.paged is not None and self._grow_first(now)
            if self.num_decode:
                self._launch(now, [], is_single=preempted)
                return
            self._end_batch_if_done(now)
        if not self.waiting:
            self._idle()
            return
        if self._is_holding(now):
            self.jump = (0, 0, 0)
            return
        self._begin_batch(now)

    def _begin_batch(self, now: int) -> None:
        """As many of the queue as ``max_num_seqs`` and KV memory allow; prompts padded to the longest."""
        chunks: list[Chunk] = []
        while self.waiting and len(chunks) < self.limits.max_num_seqs:
            head = self.waiting[0]
            if not self.kv.can_admit(head, is_first=not chunks):
                self.is_blocked = True
                break
            self.waiting.popleft()
            self.kv.admit(head, now)
            self._admit(head, now)
            self.unfilled += head.target
            chunks.append((head, head.target, 0, True))
        self.decodes = False
        self.batch_size = len(chunks)
        self.batch_context = self.batch_size * (max(chunk[1] for chunk in chunks) + 1)
        self._launch(now, chunks, is_single=True)

    def _end_batch_if_done(self, now: int) -> None:
        """Once the longest member is done, all memory comes back at once."""
        if self.running:
            return
        self.batch_size = self.batch_context = self.extra_held = 0
        for sequence in self.kept:
            self.kv.release(sequence, now)
            if not sequence.is_ended:
                self.recorder.first_token_ps[sequence.id] = now
                self.recorder.finish(sequence, now)
                self.feed.on_end(sequence, now)
        self.kept.clear()


def steps_until(first: int, growth: int, time_ps: int, most: int) -> int:
    """The fewest steps (at least 1, at most ``most``) that last ``time_ps`` or longer.

    Solves k·first + growth·k(k − 1)/2 ≥ time_ps in integers.
    """
    if growth == 0:
        steps = -(-time_ps // first) if first else most
    else:
        linear = 2 * first - growth
        steps = (isqrt(linear * linear + 8 * growth * time_ps) - linear) // (2 * growth)
        while steps * first + growth * (steps * (steps - 1) // 2) < time_ps:
            steps += 1
    return min(max(steps, 1), most)
