"""In which order vLLM's engine core plans steps and takes their results in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from sim.serving.vllm.plan import Plan
from sim.serving.vllm.request import Request
from sim.serving.vllm.scheduler import NOTHING_ACCEPTED, Scheduler

QUEUE_LENGTH = 2


class EngineLoop:
    """Synchronous: plan, run, take in. Asynchronous: step k + 1 is planned before step k's tokens are known.

    With a pipeline as many steps are under way as there are stages. One turn is ``plan()``, then
    ``complete()`` of the step that it names, if any.
    """

    def __init__(
        self, scheduler: Scheduler, *, async_scheduling: bool, pipeline_parallel_size: int = 1
    ) -> None:
        self.scheduler = scheduler
        self._in_flight: deque[Plan] = deque()
        self._length = QUEUE_LENGTH if async_scheduling else pipeline_parallel_size
        self._must_tell_finished = False

    @property
    def is_idle(self) -> bool:
        """Nothing to plan and nothing under way."""
        return not self._has_requests and not self._in_flight

    @property
    def _has_requests(self) -> bool:
        return self.scheduler.num_unfinished > 0 or self._must_tell_finished

    def plan(self) -> tuple[Plan | None, Plan | None]:
        """The step planned in this turn, and the step whose result is to be taken in now.

        While the queue has room the engine plans on; a step that schedules nothing is queued as well,
        but the engine does not plan another one after it.
        """
        planned = None
        if self._has_requests:
            planned = self.scheduler.schedule()
            self._must_tell_finished = False
            self._in_flight.append(planned)
            if planned.num_requests and len(self._in_flight) < self._length:
                return planned, None
        return planned, self._in_flight.popleft() if self._in_flight else None

    def complete(self, plan: Plan, accepted: Mapping[Request, int] = NOTHING_ACCEPTED) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished.

        With a queue, the engine makes one more call of ``schedule()`` after the last request, to pass
        on that it has finished. The synchronous recordings leave that call out, and it decides nothing.
        """
        finished = self.scheduler.update(plan, accepted)
        if finished and self._length > 1:
            self._must_tell_finished = True
        return finished
