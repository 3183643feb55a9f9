"""SimPy's environment with an integer picosecond clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simpy import Environment
from simpy.events import NORMAL, URGENT, Event

Callback = Callable[[Any], None]


class Alarm(Event):
    """An event that happens by itself after ``delay_ps``, like SimPy's ``Timeout``, with a priority.

    At one instant arrivals come first, then engines in the order of their index: with the order in which
    events were made, the result would depend on how many steps were skipped.
    """

    def __init__(self, env: Environment, delay_ps: int, callback: Callback, priority: int) -> None:
        super().__init__(env)
        self._ok, self._value = True, None
        self.callbacks = [callback]
        env.schedule(self, priority, delay_ps)  # type: ignore[arg-type]


class Clock(Environment):
    """Time is an ``int`` of picoseconds: adding steps up never rounds."""

    def __init__(self) -> None:
        super().__init__(initial_time=0)
        self.num_events = 0
        self.acted = (-1, -1)  # (when, rank) of the engine that acted last

    @property
    def now_ps(self) -> int:
        """The current time: an int, as it begins at 0 and delays are."""
        return self.now  # type: ignore[return-value]

    def after(self, delay_ps: int, callback: Callback, rank: int = 0) -> Event:
        """Calls back after ``delay_ps``. At one instant arrivals go first, then the lower ``rank``."""
        self.num_events += 1
        return Alarm(self, delay_ps, callback, NORMAL + rank)

    def arrival(self, time_ps: int, callback: Callback) -> None:
        """Calls back at ``time_ps`` (now, if that is past), before any engine acts at that instant."""
        self.num_events += 1
        Alarm(self, max(0, time_ps - self.now_ps), callback, URGENT)
