"""A jump: several steps as one event, cut short where a router hands in a request meanwhile."""

from __future__ import annotations

from abc import abstractmethod
from math import isqrt
from typing import Any

from simpy.events import Event

from sim.serving.engine import EngineBase


class JumpingEngine(EngineBase):
    """What engines that skip have in common: the jump under way, its end, and its cutting."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.jump = (0, 0, 0)  # steps, first, growth; no steps: idle, or holding for a fuller batch
        self.started_ps = self.end_ps = 0

    def poke(self, was_open: bool) -> None:
        """See ``EngineBase``: starts an idle engine, cuts a jump at the next step's end."""
        if self.pending is None or self.jump[0] == 0:
            self._wake_at(self.env.now_ps)
        elif was_open:
            self._cut()

    def begin_window(self) -> None:
        """See ``EngineBase``."""
        super().begin_window()
        if self.pending is not None:
            self._cut()

    def _cut(self) -> None:
        """Ends the jump with the step that is under way."""
        steps, first, growth = self.jump
        if steps > 1:
            cut = steps_until(first, growth, self.env.now_ps - self.started_ps, steps)
            if cut < steps:
                self._schedule(cut, first, growth)

    def _schedule(self, steps: int, first: int, growth: int) -> None:
        self.jump = (steps, first, growth)
        self.end_ps = end = self.started_ps + steps * first + growth * (steps * (steps - 1) // 2)
        self.pending = self.env.after(end - self.env.now_ps, self._on_step_end, self.index)

    @abstractmethod
    def _on_step_end(self, event: Event) -> None:
        """The step or jump is over."""


def steps_until(first: int, growth: int, time_ps: int, most: int) -> int:
    """The fewest steps (at least 1, at most ``most``) that last ``time_ps`` or longer.

    Solves k·first + growth·k(k − 1)/2 ≥ time_ps in integers.
    """
    if growth == 0:
        steps = -(-time_ps // first) if first else most
    elif time_ps < 64 * first:
        steps = -(-time_ps // first)  # enough without growth; growth makes it a few fewer
        while (steps - 1) * first + growth * ((steps - 1) * (steps - 2) // 2) >= time_ps:
            steps -= 1
    else:
        linear = 2 * first - growth
        steps = (isqrt(linear * linear + 8 * growth * time_ps) - linear) // (2 * growth)
        while steps * first + growth * (steps * (steps - 1) // 2) < time_ps:
            steps += 1
    return min(max(steps, 1), most)
