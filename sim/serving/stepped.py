"""The reference engine: one SimPy event per step, one sequence at a time, any policy.

Slow and plain on purpose. ``SkippingEngine`` must agree with it on every timestamp, preemption and block.
It also runs what cannot be skipped: policies of one's own, and generation without a KV cache.
"""

from __future__ import annotations

from typing import Any

from simpy.events import Event

from sim.errors import ScenarioError
from sim.serving.batching.plan import KVView, Policy, StepPlan
from sim.serving.engine import Chunk, EngineBase
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER, Sequence
from sim.serving.skipping import padded
from sim.serving.usage import levels_of
from sim.serving.vllm_kv import VllmKV


class SteppedEngine(EngineBase):
    """Asks the policy at every step and touches every sequence."""

    policy: Policy
    policy_name = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert not isinstance(self.kv, VllmKV)
        self.memory = self.kv
        self.plan = StepPlan()
        self.chunks: list[Chunk] = []
        self.started_ps = 0
        self.step_time_ps = 0
        self.batch_size = 0
        self.batch_context = 0
        self.kept: list[Sequence] = []
        self.is_stepping = False

    def poke(self, was_open: bool) -> None:
        """See ``EngineBase``."""
        if not self.is_stepping:
            self._wake_at(self.env.now_ps)

    def _decide(self, now: int) -> None:
        self.is_stepping = False
        self._begin(now)
        if self.limits.is_static and not self.running and self.waiting and self._is_holding(now):
            return
        if not (self.running or self.waiting):
            self.pending = None
            if self.feed.next_ps < NEVER:
                self._wake_at(self.feed.next_ps)
            return
        view = KVView(self.memory, now)
        plan = self.policy(tuple(self.waiting), tuple(self.running), view, self.limits)
        self.is_blocked = view.is_blocked
        self._apply(plan, now)
        if self.limits.is_static and not self.running:
            self._end_batch_if_done(now)  # the last member was preempted
            self._decide(now)
            return
        self._launch(plan, now)

    def _apply(self, plan: StepPlan, now: int) -> None:
        """Moves sequences as the plan says."""
        for victim in plan.preempted:
            lost = victim.computed
            del self.running[victim]
            victim.order = -1
            self.waiting.appendleft(victim)
            self.recorder.preempt(victim, now, self.index, lost)
            if self.on_requeue:
                self.on_requeue(self)
        self.chunks = []
        for sequence, queries in plan.prefill:
            if sequence not in self.running:
                self.waiting.remove(sequence)
                self._admit(sequence, now)
            is_last = sequence.computed + queries == sequence.target
            self.chunks.append((queries, sequence.computed, is_last, sequence))
        if self.limits.is_static and self.chunks:
            self.batch_size = len(self.chunks)
            self.batch_context = self.batch_size * (max(chunk[0] for chunk in self.chunks) + 1)
        self._check(plan)

    def _check(self, plan: StepPlan) -> None:
        """A policy of one's own that breaks a law is told which."""
        tokens = len(plan.decode) + sum(queries for _, queries in plan.prefill)
        limits = self.limits
        problem = ""
        if len(self.running) > limits.max_num_seqs:
            problem = f"{len(self.running)} sequences run, max_num_seqs is {limits.max_num_seqs}"
        elif tokens > limits.max_num_batched_tokens and not limits.is_static:
            problem = f"{tokens} tokens in a step, max_num_batched_tokens is {limits.max_num_batched_tokens}"
        elif tokens == 0 and (self.running or not plan.preempted):
            problem = "an empty step while requests wait"
        if problem:
            raise ScenarioError(
                f"the batching policy {self.policy_name} broke a law: {problem}",
                path="engine.batching",
                hint="admit and extend through kv, and stay within limits",
            )

    def _launch(self, plan: StepPlan, now: int) -> None:
        self.plan = plan
        self.started_ps = now
        context = sum(sequence.prompt_tokens + sequence.generated for sequence in plan.decode)
        decode = (len(plan.decode), context)
        if self.batch_size:
            decode = (self.batch_size, self.batch_context) if plan.decode else (0, 0)
        chunks = padded(self.chunks) if self.limits.is_static and self.chunks else self.chunks
        if not self.limits.uses_kv_cache:
            decode, chunks = (
                (0, 0),
                chunks + [(s.prompt_tokens + s.generated, 0, True, s) for s in plan.decode],
            )
        self.decode = decode
        self.step_time_ps = self.price.step_ps(*decode, chunks)
        residents = [*self.running, *self.kept]
        held = sum(sequence.computed for sequence in residents) + len(plan.decode)
        unfilled = sum(max(0, sequence.target - sequence.computed) for sequence in self.running)
        self.levels = levels_of(self.memory, held, unfilled, self.is_blocked)
        self.pending = self.env.after(self.step_time_ps, self._on_step_end, self.index)
        self.is_stepping = True

    def _on_step_end(self, event: Event) -> None:
        self.num_events += 1
        now = self.env.now_ps
        live = len(self.plan.decode) if self.limits.uses_kv_cache else 0
        self.recorder.segments += pack_segment(
            self.index,
            self.started_ps,
            1,
            self.step_time_ps,
            0,
            live,
            self.decode[1],
            len(self.chunks),
            sum(chunk[0] for chunk in self.chunks),
            len(self.running),
            len(self.waiting),
            self.decode[0] - live,
            *self.levels,
        )
        for sequence in self.plan.decode:
            sequence.computed += 1
            self._token(sequence, now)
        for queries, _, is_last, sequence in self.chunks:
            sequence.computed += queries
            if is_last:
                self._token(sequence, now)
        if self.plan.decode:
            self.batch_context += self.batch_size
        self._expire_running(now)
        self._finish_due(now)
        if self.batch_size:
            self._end_batch_if_done(now)
        self._decide(now)

    def _token(self, sequence: Sequence, now: int) -> None:
        """One more token, delivered if the client is still there."""
        sequence.generated += 1
        if sequence.deadline_ps < now:
            return
        if self.recorder.first_token_ps[sequence.id] < 0 and not self.limits.returns_at_end:
            self.recorder.first_token_ps[sequence.id] = now

    def _expire_running(self, now: int) -> None:
        """Clients that left during the step, or now with an unfinished answer."""
        touched = {*self.plan.decode, *(chunk[3] for chunk in self.chunks if chunk[2])}
        late = [
            s for s in (*self.running, *self.kept, *self.waiting) if s.deadline_ps <= now and not s.is_ended
        ]
        for sequence in sorted(late, key=lambda s: (s.deadline_ps, s.id)):
            returns_at_end = self.limits.returns_at_end
            is_done = sequence.generated == sequence.output_tokens
            if sequence in self.running:
                if sequence.deadline_ps == now and is_done and not returns_at_end:
                    continue
                del self.running[sequence]
                sequence.order = -1
                if self.batch_size:
                    self.kept.append(sequence)
                else:
                    self.kv.release(sequence, now)
            elif sequence in self.waiting:
                self.waiting.remove(sequence)
            delivered = sequence.generated - (sequence in touched and sequence.deadline_ps < now)
            self.recorder.abort(sequence, 0 if returns_at_end else delivered)
            self.feed.on_end(sequence, sequence.deadline_ps)

    def _finish_due(self, now: int) -> None:
        for sequence in [s for s in self.running if s.generated == s.output_tokens]:
            if not self.batch_size:
                self._end(sequence, now)
                continue
            del self.running[sequence]
            sequence.order = -1
            self.kept.append(sequence)
            if not self.limits.returns_at_end:
                self.recorder.finish(sequence, now)
                self.feed.on_end(sequence, now)

    def _end_batch_if_done(self, now: int) -> None:
        if self.running:
            return
        self.batch_size = self.batch_context = 0
        for sequence in self.kept:
            self.kv.release(sequence, now)
            if not sequence.is_ended:
                self.recorder.first_token_ps[sequence.id] = now
                self.recorder.finish(sequence, now)
                self.feed.on_end(sequence, now)
        self.kept.clear()
