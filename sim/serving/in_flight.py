"""Steps that are planned and not over: one, or more with asynchronous scheduling and pipeline stages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from sim.serving.scheduler import Step

ASYNC_QUEUE_LENGTH = 2
Planned = TypeVar("Planned", bound=Step)


def queue_length(async_scheduling: bool, pipeline_parallel_size: int = 1) -> int:
    """How many steps may be planned at a time: asynchronous scheduling plans step k + 1 while k runs."""
    return ASYNC_QUEUE_LENGTH if async_scheduling else pipeline_parallel_size


class InFlight(Generic[Planned]):
    """vLLM's engine loop. One turn is ``plan()``, then the end of the step that it names, if any."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._queue: deque[Planned] = deque()
        self._must_tell_finished = False

    def is_idle(self, num_unfinished: int) -> bool:
        """Nothing to plan and nothing under way."""
        return not (num_unfinished or self._must_tell_finished or self._queue)

    def plan(
        self, schedule: Callable[[], Planned], num_unfinished: int
    ) -> tuple[Planned | None, Planned | None]:
        """The step planned in this turn, and the step whose result is to be taken in now.

        While the queue has room the engine plans on; a step that schedules nothing is queued as well,
        but the engine does not plan another one after it.
        """
        planned = None
        if num_unfinished or self._must_tell_finished:
            planned = schedule()
            self._must_tell_finished = False
            if self.length == 1:
                return planned, planned
            self._queue.append(planned)
            if planned.num_requests and len(self._queue) < self.length:
                return planned, None
        return planned, self._queue.popleft() if self._queue else None

    def take(self) -> Planned | None:
        """The step that was planned last and is not over, for somebody else to go on with."""
        return self._queue.pop() if self._queue else None

    def put(self, step: Planned | None) -> None:
        """The same, back again."""
        if step is not None:
            self._queue.append(step)

    def note_finished(self, is_somebody: bool) -> None:
        """A step is over, and requests ended with it.

        With a queue, the engine makes one more call of ``schedule()`` after the last request, to pass
        on that it has finished. The synchronous recordings leave that call out, and it decides nothing.
        """
        if is_somebody and self.length > 1:
            self._must_tell_finished = True
