"""vLLM's engine loop over the bare scheduler, as recorded decisions are replayed."""

from __future__ import annotations

from collections.abc import Mapping

from sim.serving.in_flight import InFlight, queue_length
from sim.serving.request import Request
from sim.serving.scheduler import NOTHING_ACCEPTED
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.scheduler import Scheduler


class EngineLoop:
    """Synchronous: plan, run, take in. Asynchronous: step k + 1 is planned before step k's tokens are
    known."""

    def __init__(
        self, scheduler: Scheduler, *, async_scheduling: bool, pipeline_parallel_size: int = 1
    ) -> None:
        self.scheduler = scheduler
        self._in_flight: InFlight[Plan] = InFlight(
            queue_length(async_scheduling=async_scheduling, pipeline_parallel_size=pipeline_parallel_size)
        )

    @property
    def is_idle(self) -> bool:
        """Nothing to plan and nothing under way."""
        return self._in_flight.is_idle(self.scheduler.num_unfinished)

    def plan(self) -> tuple[Plan | None, Plan | None]:
        """See ``InFlight.plan``."""
        return self._in_flight.plan(self.scheduler.schedule, self.scheduler.num_unfinished)

    def complete(self, plan: Plan, accepted: Mapping[Request, int] = NOTHING_ACCEPTED) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished."""
        finished = self.scheduler.update(plan, accepted)
        self._in_flight.note_finished(bool(finished))
        return finished
