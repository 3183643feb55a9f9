"""The engine of one replica: requests come, the scheduler plans, a step takes its time, tokens come out.

One SimPy event per decision, not per step. Between two decisions a decode batch grows by one token per
sequence and step; for how many steps that holds is the scheduler's to say (``Step.num_steps``), and the
engine takes fewer where the price leaves its linear piece, a request comes that could be admitted, or a
client's patience ends. A scheduler that skips nothing makes every step an event of its own: the reference,
which must agree on every timestamp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from simpy.events import Event

from sim.errors import InvariantError
from sim.price.pipeline import PipelinePrice, Stations
from sim.price.step import ServiceTimePrice
from sim.serving.decoding import steps_until
from sim.serving.draft_path import DraftPath
from sim.serving.drafts import Drafts
from sim.serving.fast_path import FastPath
from sim.serving.request import NEVER, Request
from sim.serving.scheduler import NOBODY, Step


@dataclass(slots=True, kw_only=True, eq=False)
class Engine(FastPath):
    """Drives one scheduler with arrivals, prices and the clock."""

    schedules_ahead: bool = False
    """The next step was scheduled before this one is over: who comes meanwhile waits one step more.

    Only that wait is modelled: what is planned, and when memory is free again, are those of the synchronous
    engine. Asynchronous scheduling (``in_flight`` of length 2) plays the whole queue.
    """
    returns_at_end: bool = False  # static batching: clients see their tokens when all of it is done
    drafts: Drafts | None = None
    stations: Stations | None = None
    is_shared_queue: bool = False
    on_requeue: Callable[[Engine], None] | None = None  # a shared queue got a request back
    scheduled_ps: int = 0  # when the next step was scheduled: later arrivals are not in it
    pending: Event | None = None  # the one event that the engine waits for
    must_plan: bool = False

    def __post_init__(self) -> None:
        if self.is_common and self.drafts is not None:
            self.other_loop = DraftPath(engine=self, drafts=self.drafts).decide
        if isinstance(self.price, PipelinePrice):
            self.stations = Stations(len(self.price.stages), self.price.cold_start_ps)

    def wake_at(self, time_ps: int) -> None:
        """Decides at that time."""
        self.step = None
        self.pending = self.env.after(time_ps - self.env.now_ps, self._on_event, self.index)

    def _on_event(self, event: Event) -> None:
        if event is not self.pending:
            return  # the jump was cut short
        now, self.pending = self.env.now_ps, None
        self.env.acted = (now, self.index)
        if self.step is not None and self.loop is None:
            self._end_step(self.step, now)
        self.decide(now)

    # arrivals and clients that leave

    def receive(self, request: Request, *, has_own_deadline: bool = True) -> None:
        """An arrival: into the queue, unless it can never be served."""
        recorder, row = self.recorder, request.id
        recorder.arrival_ps[row] = request.arrival
        if not self.is_shared_queue:
            recorder.replica[row] = self.index
        reason = self.scheduler.refusal(request)
        if reason:
            recorder.refuse(request, reason)
            self.feed.on_end(request, request.arrival)
            return
        is_early = self.pending is not None and not self.is_shared_queue
        if is_early or (self.schedules_ahead and request.arrival > self.scheduled_ps):
            self.inbox.append(request)
        else:
            self.scheduler.add(request)
        if request.deadline_ps < NEVER and has_own_deadline:
            heappush(self.deadlines, (request.deadline_ps, row, request))

    def begin(self, now: int) -> None:
        """What comes before every decision, in order of time: arrivals, clients that left."""
        self._add_from_inbox(self.scheduled_ps if self.schedules_ahead else NEVER)
        feed, deadlines = self.feed, self.deadlines
        while True:
            arrival = feed.next_ps
            deadline = deadlines[0][0] if deadlines else NEVER
            if arrival <= now and arrival <= deadline:
                self.receive(feed.take())
            elif deadline <= now:
                self._expire(heappop(deadlines)[2], now)
            else:
                break
        if not self.scheduler.num_unfinished:  # nothing runs: nothing was scheduled ahead
            self._add_from_inbox(NEVER)

    def _add_from_inbox(self, until_ps: int) -> None:
        """The scheduler gets what came before it scheduled the next step."""
        if self.inbox:
            for request in self.inbox:
                if request.arrival <= until_ps:
                    self.scheduler.add(request)
            self.inbox[:] = [request for request in self.inbox if request.arrival > until_ps]

    def _expire(self, request: Request, now: int) -> None:
        """A client left, its request queued or running; what came after that is not delivered."""
        if request.is_ended or (self.is_shared_queue and self._is_elsewhere(request)):
            return
        if request in self.inbox:
            self.inbox.remove(request)
            made = 0
        else:
            late = self.scheduler.num_just_made(request) if request.deadline_ps < now else 0
            made = max(self.scheduler.abort(request, now) - late, 0)
        if self.drafts:
            self.drafts.forget(request)
        self.leave(request, made)

    def leave(self, request: Request, num_delivered: int) -> None:
        self.recorder.abort(request, 0 if self.returns_at_end else num_delivered)
        self.feed.on_end(request, request.deadline_ps)

    def _is_elsewhere(self, request: Request) -> bool:
        """Whether another replica runs it by now, or nobody: it went back to a shared queue."""
        return request.order >> 40 != self.index

    def poke(self, was_open: bool) -> None:
        """A request came; ``was_open``: it could be admitted at the end of this step."""
        if self.pending is None or self.step is None:
            self.wake_at(self.env.now_ps)
        elif was_open:
            self._cut()

    def _cut(self) -> None:
        """Ends a jump with the step that is under way.

        A step that ends just now is over if engines of a higher rank have acted at this instant already.
        """
        step, now = self.step, self.env.now_ps
        if step is not None and step.num_steps > 1:
            passed = now - step.started_ps + (self.env.acted > (now, self.index))
            steps = steps_until(step.first_ps, step.growth_ps, passed, step.num_steps)
            if steps < step.num_steps:
                step.num_steps = steps
                self.wait_for(step, step.end_ps)

    # decisions

    def decide(self, now: int) -> None:
        """What happens next, and the event at its end."""
        if self.must_plan or not self.is_common or not self.run(now):
            self.must_plan = False
            self._plan(now)

    def plan_at(self, time_ps: int) -> None:
        """The scheduler itself plans the step that begins then."""
        self.must_plan = True
        self.wake_at(time_ps)

    def _plan(self, now: int) -> None:
        scheduler, feed = self.scheduler, self.feed
        if not scheduler.num_unfinished:
            self.scheduled_ps = now
        if feed.next_ps <= now or self.deadlines or self.inbox:
            self.begin(now)
        held = scheduler.hold_until_ps(now)
        if held:
            self.wake_at(min(held, feed.next_ps, self.next_deadline()))
            return
        step = self._planned(now)
        if step is None:
            self.idle()
            return
        step.started_ps = now
        if step.num_steps > 1:
            self._bound(step, now)
        elif step.done_ps >= 0:
            step.first_ps = step.done_ps - now
        else:
            sequences = step.num_decode + step.num_padded
            step.first_ps = self.price.step_ps(sequences, step.context_tokens, step.chunks, step.num_drafts)
        self.wait_for(step, step.end_ps)

    def _planned(self, now: int) -> Step | None:
        """The next step that is due; None: there is nothing to do."""
        scheduler = self.scheduler
        while True:
            planned, due = self.in_flight.plan(lambda: scheduler.schedule(now), scheduler.num_unfinished)
            if planned is not None:
                self._note(planned, now)
            if due is None:
                if planned is None:
                    return None
            elif due.num_requests:
                return due
            else:
                self._complete(due, now)

    def _bound(self, step: Step, now: int) -> None:
        """Limits a jump to the steps during which no arrival or deadline can intervene."""
        sequences, feed = step.num_decode + step.num_padded, self.feed
        step.first_ps, step.growth_ps, valid = self.price.decode_run(sequences, step.context_tokens)
        step.num_steps = min(step.num_steps, valid)
        is_awaited = self.is_shared_queue and self.scheduler.waiting
        if is_awaited or (self.schedules_ahead and self.inbox):
            step.num_steps = 1
        is_closed = not feed.must_see_all and not self.scheduler.is_open()
        limit = min(NEVER if is_closed else feed.next_ps, self.next_deadline())
        if step.end_ps > limit:
            step.num_steps = steps_until(step.first_ps, step.growth_ps, limit - now, step.num_steps)

    def next_deadline(self) -> int:
        deadlines = self.deadlines
        while deadlines and deadlines[0][2].is_ended:
            heappop(deadlines)
        return deadlines[0][0] if deadlines else NEVER

    def wait_for(self, step: Step, end_ps: int) -> None:
        """An event at the end of the step."""
        self.step = step
        self.pending = self.env.after(end_ps - self.env.now_ps, self._on_event, self.index)

    def idle(self) -> None:
        """Nothing to do until somebody comes."""
        if self.scheduler.num_unfinished and not self.scheduler.hold_until_ps(self.env.now_ps):
            raise InvariantError(
                f"replica {self.index} idles with {len(self.scheduler.running)} running and "
                f"{len(self.scheduler.waiting)} waiting requests"
            )
        self.pending = self.step = None
        if self.feed.next_ps < NEVER:
            self.wake_at(self.feed.next_ps)

    def _note(self, step: Step, now: int) -> None:
        """Records who was admitted and preempted; over stages the step sets off."""
        recorder = self.recorder
        for request, num_hit_tokens in step.admitted.items():
            recorder.admit(request, now, num_hit_tokens)
            if self.is_shared_queue:
                recorder.replica[request.id] = self.index
                if request.deadline_ps < NEVER:
                    heappush(self.deadlines, (request.deadline_ps, request.id, request))
            if isinstance(self.price, ServiceTimePrice):
                self.price.begin(request.id, request.max_tokens)
        is_last_word = not self.deadlines and self.feed.is_exhausted()
        if step.preempted and is_last_word and (endless := self.scheduler.endless(step)):
            raise endless
        for request, recompute_tokens in step.preempted.items():
            recorder.preempt(request, now, self.index, recompute_tokens)
            if self.on_requeue:
                self.on_requeue(self)
        if self.stations is not None and step.num_requests:
            assert isinstance(self.price, PipelinePrice)
            passage = self.price.passage(step.num_decode, step.context_tokens, step.chunks, step.num_drafts)
            step.done_ps = self.stations.enter(now, passage)

    # a step is over

    def _end_step(self, step: Step, now: int) -> None:
        if self.schedules_ahead:
            self.scheduled_ps = step.start_of(step.num_steps - 1)
        num_running, num_waiting = len(self.scheduler.running), len(self.scheduler.waiting)
        self._deliver(step, now)
        known = sum([request.num_tokens + 1 for request in step.drafts])
        self._complete(step, now)
        self.recorder.note_step(step, self.index, num_running, num_waiting)
        if step.num_drafts:
            kept = sum([request.num_tokens for request in step.drafts]) - known
            self.recorder.segments.note_drafts(step.num_drafts, kept)
        self.step = None

    def _deliver(self, step: Step, now: int) -> None:
        """First tokens, to clients that are still there."""
        first_token_ps = self.recorder.first_token_ps
        for request in () if self.returns_at_end else step.emitting:
            if first_token_ps[request.id] < 0 and request.deadline_ps >= now:
                first_token_ps[request.id] = now

    def _complete(self, step: Step, now: int) -> None:
        accepted = self.drafts.accepted(step.drafts) if self.drafts and step.drafts else NOBODY
        finished = self.scheduler.update(step, accepted, now)
        self.in_flight.note_finished(bool(finished))
        self._end_all(finished, now)

    def _end_all(self, finished: list[Request], now: int) -> None:
        for request in finished:
            if self.drafts:
                self.drafts.forget(request)
            if request.is_ended:
                continue
            if request.deadline_ps < now:  # the client left during the step that made the last token
                self.leave(request, request.num_output_tokens - self.scheduler.num_just_made(request))
                continue
            if self.returns_at_end:
                self.recorder.first_token_ps[request.id] = now
            self.recorder.finish(request, now)
            self.feed.on_end(request, now)
