"""A step scheduled ahead, which a request waits for besides the one under way.

Under ``EngineOverheads.schedules_ahead`` the engine core schedules step k + 1 while step k runs (its batch
queue of two), so that a request that comes during step k is looked at for step k + 2. Only that wait is
modelled here: what is planned, and when memory is free again, are those of the synchronous engine, and jumps
stay possible. ``async_scheduling`` plays the whole queue, step by step.
"""

from __future__ import annotations

from typing import Any

from simpy.events import Event

from sim.serving.sequence import Sequence
from sim.serving.vllm_engine import VllmEngine, VllmRequest


class VllmAheadEngine(VllmEngine):
    """``VllmEngine`` whose scheduler sees a request one step later, unless the engine was idle."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.scheduled_ps = 0  # when the next step was scheduled: later arrivals are not in it
        self.late: list[VllmRequest] = []

    def load(self) -> int:
        """See ``EngineBase``."""
        return super().load() + len(self.late)

    def _is_early(self, sequence: Sequence) -> bool:
        return super()._is_early(sequence) or sequence.arrival_ps > self.scheduled_ps

    def _on_step_end(self, event: Event) -> None:
        if event is self.pending:
            steps, first, growth = self.jump
            before = steps - 1
            self.scheduled_ps = self.started_ps + before * first + growth * (before * (before - 1) // 2)
        super()._on_step_end(event)

    def _decide(self, now: int) -> None:
        if not self.scheduler.num_unfinished:  # nothing runs: nothing was scheduled ahead
            self.scheduled_ps = now
        self.inbox, self.late = self.late + self.inbox, []
        super()._decide(now)

    def _begin(self, now: int) -> None:
        self.late = [one for one in self.inbox if one.sequence.arrival_ps > self.scheduled_ps]
        self.inbox = [one for one in self.inbox if one.sequence.arrival_ps <= self.scheduled_ps]
        super()._begin(now)
        self.late += self.inbox
        self.inbox = []
        if not self.scheduler.num_unfinished:  # all others have left
            for request in self.late:
                self.scheduler.add(request)
            self.late.clear()

    def _start_jump(self, now: int, steps: int) -> None:
        super()._start_jump(now, 1 if self.late else steps)

    def _expire_waiting(self, sequence: Sequence) -> None:
        request = self.requests.get(sequence.id)
        for waiting in (self.late, self.inbox):
            if request in waiting:
                del self.requests[sequence.id]
                waiting.remove(request)
                self.recorder.abort(sequence, 0)
                self.feed.on_end(sequence, sequence.deadline_ps)
                return
        super()._expire_waiting(sequence)
