"""The aggregates of the skipping engine: who decodes, whose blocks grow when, who ends when."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from sim.errors import InvariantError
from sim.records import FINISHED
from sim.serving.engine import Chunk
from sim.serving.jumping import JumpingEngine
from sim.serving.kv.paged import PagedKV
from sim.serving.sequence import NEVER, Sequence
from sim.serving.usage import sum_blocks
from sim.serving.vllm_kv import VllmKV


class SkippingState(JumpingEngine):
    """State of ``SkippingEngine`` and its transitions; when they happen is decided there."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.step = 0
        self.num_decode = 0
        self.context = 0
        self.extra_held = (
            0  # tokens of sequences that do not decode: half-done prompts, members kept to the end
        )
        self.unfilled = 0  # prompt tokens admitted but not yet computed
        self.ends: list[tuple[int, int, Sequence]] = []
        self.partial: Sequence | None = None
        self.chunks: list[Chunk] = []
        self.decodes = False
        assert not isinstance(self.kv, VllmKV)
        self.memory = self.kv
        paged = self.kv if isinstance(self.kv, PagedKV) else None
        self.paged = paged
        self.period = paged.block_size if paged else 1
        self.phase_counts = [0] * self.period
        self.members: list[dict[Sequence, None]] | None = None  # by phase, where physical ids are tracked
        if paged and paged.block_map is not None:
            self.members = [{} for _ in range(self.period)]
        self.batch_size = 0  # static batching: members at the start, and their padded context
        self.batch_context = 0
        self.kept: list[Sequence] = []
        self.max_num_seqs = self.limits.max_num_seqs
        self.max_num_batched_tokens = self.limits.max_num_batched_tokens
        self.is_prefill_first = self.limits.is_prefill_first
        self.extend_rows = self.recorder.segments.extend

    # memory

    def _grow_first(self, now: int, count: int) -> bool:
        """Takes ``count`` blocks for the next decode step; preempts the latest admitted while they lack."""
        paged = self.paged
        assert paged is not None
        phase = self.step % self.period
        if count <= paged.free:
            paged.free -= count
            if self.members is not None:
                self._track_growth(phase, now)
            return False
        if self.members is None:
            while self.phase_counts[phase] > paged.free:
                self._preempt_last(now)
            paged.free -= self.phase_counts[phase]
        else:
            self._grow_one_by_one(phase, now)
        self.decodes = self.num_decode > 0
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

    def _steps_with_blocks(self, steps: int) -> int:
        """At most ``steps``, as long as the pool has the blocks (those of the first step are taken)."""
        assert self.paged is not None
        free, period, counts = self.paged.free, self.period, self.phase_counts
        whole = free // self.num_decode
        free -= whole * self.num_decode
        done = 1 + whole * period
        while done < steps:
            free -= counts[(self.step + done) % period]
            if free < 0:
                return done
            done += 1
        return steps

    def _advance_blocks(self, steps: int, first: int, growth: int) -> None:
        """Blocks taken in the steps of a jump after its first."""
        paged, period = self.paged, self.period
        assert paged is not None
        if self.members is not None:
            for step in range(1, steps):
                time_ps = self.started_ps + step * first + growth * (step * (step - 1) // 2)
                self._track_growth((self.step + step) % period, time_ps)
        held, used = sum_blocks(self.phase_counts, self.step % period, first, growth, steps)
        self.grown_tokens_ps += held * period
        paged.free -= used
        if paged.free < 0:
            raise InvariantError(f"replica {self.index}: {-paged.free} KV blocks more in use than there are")

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

    # joining and leaving the decode batch

    def _join_decode(self, sequence: Sequence) -> None:
        sequence.end_step = end_step = self.step + sequence.output_tokens - sequence.generated
        heappush(self.ends, (end_step, sequence.order, sequence))
        self.num_decode += 1
        self.context += sequence.target + 1
        if self.paged is not None:
            sequence.phase = phase = (self.step - sequence.target) % self.period
            self.phase_counts[phase] += 1
            if self.members is not None:
                self.members[phase][sequence] = None

    def _leave_decode(self, sequence: Sequence, step: int) -> None:
        """Out of the aggregates; its own counts become current as of decode step ``step``."""
        sequence.generated = generated = sequence.output_tokens - (sequence.end_step - step)
        if self.paged is not None:
            sequence.reserved = -(-(sequence.prompt_tokens + generated - 1) // self.period)
            self.phase_counts[sequence.phase] -= 1
            if self.members is not None:
                del self.members[sequence.phase][sequence]
        self.num_decode -= 1
        self.context -= sequence.prompt_tokens + generated
        sequence.end_step = -1

    def _next_end(self) -> int:
        """The decode step at which the first sequence ends."""
        ends = self.ends
        while ends[0][2].order != ends[0][1]:
            heappop(ends)
        return ends[0][0]

    def _next_deadline(self) -> int:
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].is_ended:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

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
        if self.batch_size:
            self._keep(sequence, sequence.prompt_tokens + sequence.output_tokens - 1)
            if not self.limits.returns_at_end:
                self.recorder.finish(sequence, now)
                self.feed.on_end(sequence, now)
            return
        del self.running[sequence]
        self.kv.release(sequence, now)
        recorder, request = self.recorder, sequence.id
        recorder.finish_ps[request] = now
        recorder.generated_tokens[request] = sequence.output_tokens
        recorder.status[request] = FINISHED
        sequence.is_ended = True
        if self.feed.has_triggers:
            self.feed.on_end(sequence, now)

    def _keep(self, sequence: Sequence, held: int) -> None:
        """A static batch's member that is done or aborted holds its memory until the batch ends."""
        del self.running[sequence]
        sequence.order = -1
        self.kept.append(sequence)
        self.extra_held += held

    def _finish_chunks(self, now: int) -> None:
        """Prompts that were worked on: half done, or with their (next) first token."""
        self.partial = None
        first_token_ps = self.recorder.first_token_ps
        for queries, cached, samples, sequence in self.chunks:
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

    def _expire_running(self, now: int) -> None:
        """Clients that left by ``now``: tokens of a step that ended after they left are not delivered."""
        deadlines = self.deadlines
        worked = {chunk[3]: (chunk[0], chunk[2]) for chunk in self.chunks}
        late: list[tuple[int, int, Sequence]] = []
        while deadlines and deadlines[0][0] <= now:
            late.append(heappop(deadlines))
        for deadline, _, sequence in late:
            if sequence.is_ended or self._is_elsewhere(sequence):
                continue
            if sequence.order < 0 and sequence not in self.kept:
                self.waiting.remove(sequence)
            elif not self._abort_running(sequence, worked.get(sequence, (0, False)), now):
                continue
            self.recorder.abort(sequence, 0 if self.limits.returns_at_end else sequence.generated)
            self.feed.on_end(sequence, deadline)

    def _abort_running(self, sequence: Sequence, worked: tuple[int, bool], now: int) -> bool:
        """Takes it out of the batch, unless its last token came in time. ``worked``: queries, samples."""
        if sequence in self.kept:
            return True
        in_time = sequence.deadline_ps == now
        returns_tokens = not self.limits.returns_at_end
        queries, samples = worked
        if sequence.end_step >= 0:
            if in_time and sequence.end_step <= self.step and returns_tokens:
                return False
            self._leave_decode(sequence, self.step)
            held = sequence.prompt_tokens + sequence.generated - 1
            sequence.generated -= self.decodes and not in_time
        else:
            if in_time and samples and sequence.generated + 1 == sequence.output_tokens and returns_tokens:
                return False
            held = queries + self._drop_prefill(sequence, in_time and samples, now)
        if self.batch_size:
            self._keep(sequence, held)
            return True
        del self.running[sequence]
        sequence.order = -1
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
