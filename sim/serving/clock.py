"""SimPy's environment with an integer picosecond clock."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappush
from typing import Any

from simpy import Environment
from simpy.events import NORMAL, URGENT, Event

from sim.errors import InvariantError

Callback = Callable[[Any], None]


class Clock(Environment):
    """Time is an ``int`` of picoseconds: adding steps up never rounds."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)

    @property
    def now_ps(self) -> int:
        """The current time."""
        return int(self._now)

    def after(self, delay_ps: int, callback: Callback, rank: int = 0) -> Event:
        """Calls back after ``delay_ps``. At one instant arrivals go first, then the lower ``rank``."""
        event = Event(self)
        event._ok, event._value = True, None
        event.callbacks = [callback]
        # SimPy's schedule() with a priority of our own: NORMAL and above.
        heappush(self._queue, (self._now + delay_ps, NORMAL + rank, next(self._eid), event))  # type: ignore[misc]
        return event

    def pass_to(self, time_ps: int) -> None:
        """Time goes on to ``time_ps`` without an event: nothing is scheduled before."""
        if self._queue and self._queue[0][0] < time_ps:
            raise InvariantError(f"an event at {self._queue[0][0]} ps was passed over at {time_ps} ps")
        self._now = time_ps

    def again(self, event: Event, callbacks: list[Callback], time_ps: int) -> None:
        """The same event at ``time_ps``: for an engine whose only event has just been processed."""
        event.callbacks = callbacks
        heappush(self._queue, (time_ps, NORMAL, next(self._eid), event))

    def arrival(self, time_ps: int, callback: Callback) -> None:
        """Calls back at ``time_ps`` (now, if that is past), before any engine acts at that instant."""
        event = Event(self)
        event._ok, event._value = True, None
        event.callbacks = [callback]
        self.schedule(event, URGENT, max(0, time_ps - self.now_ps))
