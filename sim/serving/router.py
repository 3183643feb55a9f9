"""Several replicas behind one router: who gets which request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from simpy.events import Event

from sim.serving.clock import Clock
from sim.serving.engine import Engine
from sim.serving.recorder import Recorder
from sim.serving.request import NEVER, Request
from sim.serving.routing import ROUTING
from sim.serving.workload.feed import TableFeed


@dataclass(slots=True)
class RouterFeed:
    """An engine's side of the router: it is handed requests and reports their ends."""

    router: Router
    index: int
    next_ps: int = NEVER
    must_see_all: bool = False
    has_triggers: bool = True

    def take(self) -> Request:
        """Never asked for, as ``next_ps`` never comes."""
        raise LookupError("an engine behind a router does not fetch requests")

    def is_exhausted(self) -> bool:
        """See ``Feed``: nobody will come to any replica."""
        return self.router.source.is_exhausted()

    def on_end(self, request: Request, now_ps: int) -> None:
        """May trigger an arrival at the router."""
        self.router.loads[self.index] -= 1
        self.router.source.on_end(request, now_ps)
        self.router.schedule()


class Router:
    """Routes every request at its arrival. Engines at the same instant come after it (SimPy priority)."""

    def __init__(self, env: Clock, source: TableFeed, recorder: Recorder, routing: str) -> None:
        self.env, self.source, self.recorder = env, source, recorder
        self.choose = ROUTING[routing].choose
        self.engines: Seq[Engine] = ()
        self.loads: list[int] = []  # unfinished requests by replica
        self._num_routed = 0
        self._scheduled_ps = NEVER
        self._shared: deque[Request] = deque()

    def connect(self, engines: Seq[Engine]) -> None:
        """The replicas, in order; ties go to the first."""
        self.engines, self.loads = engines, [0] * len(engines)
        for engine in engines:
            if self.choose is None:
                engine.scheduler.share_queue(self._shared)
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

    def _route(self, request: Request) -> None:
        if self.choose is None:
            self._share(request)
            return
        chosen = self.choose(self.loads, self._num_routed)
        self.loads[chosen] += 1
        self._num_routed += 1
        engine = self.engines[chosen]
        was_open = is_open(engine) or request.deadline_ps < NEVER
        engine.receive(request)
        if not request.is_ended:
            engine.poke(was_open)

    def _share(self, request: Request) -> None:
        first = self.engines[0]
        first.receive(request, has_own_deadline=False)
        if request.is_ended:
            return
        if request.deadline_ps < NEVER:
            self.env.arrival(request.deadline_ps, lambda event: self._expire(request))
        for engine in self.engines:
            engine.poke(was_open=True)

    def _poke_others(self, origin: Engine) -> None:
        for engine in self.engines:
            if engine is not origin:
                engine.poke(was_open=True)

    def _expire(self, request: Request) -> None:
        """The client of a request in the shared queue left."""
        if not request.is_ended and request.order < 0 and request in self._shared:
            self._shared.remove(request)
            self.recorder.abort(request, request.generated)
            self.source.on_end(request, self.env.now_ps)
            self.schedule()


def is_open(engine: Engine) -> bool:
    """Whether a request that comes now could be admitted at the next step."""
    scheduler = engine.scheduler
    if engine.is_lent:
        is_first = scheduler.is_ranked or not scheduler.waiting
        return is_first and len(scheduler.running) < scheduler.max_running
    return scheduler.is_open()
