"""Several replicas behind one router: who gets which request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from simpy.events import Event

from sim.serving.clock import Clock
from sim.serving.engine import EngineBase
from sim.serving.recorder import Recorder
from sim.serving.sequence import NEVER, Sequence, Source


@dataclass(slots=True)
class RouterFeed:
    """An engine's side of the router: requests are handed to it, ends are told."""

    router: Router
    next_ps: int = NEVER
    must_see_all: bool = False
    has_triggers: bool = True

    def take(self) -> Sequence:
        """Never asked for, as ``next_ps`` never comes."""
        raise LookupError("an engine behind a router does not fetch requests")

    def is_exhausted(self) -> bool:
        """See ``Feed``: nobody will come to any replica."""
        return self.router.source.is_exhausted()

    def on_end(self, sequence: Sequence, now_ps: int) -> None:
        """May trigger an arrival at the router."""
        self.router.source.on_end(sequence, now_ps)
        self.router.schedule()


class Router:
    """Routes every request at its arrival. Engines at the same instant come after it (SimPy priority)."""

    def __init__(self, env: Clock, source: Source, recorder: Recorder, routing: str) -> None:
        self.env, self.source, self.recorder, self.routing = env, source, recorder, routing
        self.engines: Seq[EngineBase] = ()
        self._next = 0
        self._scheduled_ps = NEVER
        self._shared: deque[Sequence] = deque()

    def connect(self, engines: Seq[EngineBase]) -> None:
        """The replicas, in order; ties go to the first."""
        self.engines = engines
        for engine in engines:
            engine.on_window = self._begin_window
            if self.routing == "shared_queue":
                engine.waiting = self._shared
                engine.is_shared_queue = True
                engine.on_requeue = self._poke_others

    def schedule(self) -> None:
        """An event for the next arrival, unless one is due before it."""
        time_ps = self.source.next_ps
        if time_ps < self._scheduled_ps:
            self._scheduled_ps = time_ps
            self.env.arrival(time_ps, self._on_arrival)

    def _on_arrival(self, event: Event) -> None:
        now = self.env.now_ps
        self._scheduled_ps = NEVER
        while self.source.next_ps <= now:
            self._route(self.source.take())
        self.schedule()

    def _route(self, sequence: Sequence) -> None:
        if self.routing == "shared_queue":
            self._share(sequence)
            return
        if self.routing == "least_loaded":
            engine = min(self.engines, key=lambda e: e.load())
        else:
            engine = self.engines[self._next % len(self.engines)]
            self._next += 1
        was_open = engine.is_open_for_one() or sequence.deadline_ps < NEVER
        engine.receive(sequence)
        if not sequence.is_ended:
            engine.poke(was_open)

    def _share(self, sequence: Sequence) -> None:
        first = self.engines[0]
        first.receive(sequence, has_own_deadline=False)
        if sequence.is_ended:
            return
        if sequence.deadline_ps < NEVER:
            self.env.arrival(sequence.deadline_ps, lambda event: self._expire(sequence))
        for engine in self.engines:
            engine.poke(was_open=True)

    def _poke_others(self, origin: EngineBase) -> None:
        for engine in self.engines:
            if engine is not origin:
                engine.poke(was_open=True)

    def _expire(self, sequence: Sequence) -> None:
        """The client of a request in the shared queue left."""
        if not sequence.is_ended and sequence.order < 0 and sequence in self._shared:
            self._shared.remove(sequence)
            self.recorder.abort(sequence, sequence.generated)
            self.source.on_end(sequence, self.env.now_ps)
            self.schedule()

    def _begin_window(self) -> None:
        for engine in self.engines:
            engine.begin_window()
