"""What both engines share: arrivals, time-outs, ends, and the row that a step leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush

from simpy.events import Event

from sim.cost.step import ServiceTimePrice, StepPrice
from sim.serving.clock import Clock
from sim.serving.kv.contiguous import ContiguousKV
from sim.serving.kv.paged import PagedKV
from sim.serving.limits import Limits
from sim.serving.recorder import Recorder
from sim.serving.sequence import NEVER, Feed, Sequence
from sim.serving.vllm_kv import VllmKV

Chunk = tuple[int, int, bool, Sequence]  # queries, cached, whether it samples at the end of the step, whose


class EngineBase(ABC):
    """State and bookkeeping of one replica; ``SkippingEngine`` and ``SteppedEngine`` decide and advance."""

    def __init__(
        self,
        env: Clock,
        index: int,
        *,
        feed: Feed,
        recorder: Recorder,
        kv: PagedKV | ContiguousKV | VllmKV,
        price: StepPrice,
        limits: Limits,
    ) -> None:
        self.env, self.index, self.feed, self.recorder = env, index, feed, recorder
        self.kv, self.price, self.limits = kv, price, limits
        self.waiting: deque[Sequence] = deque()
        self.running: dict[Sequence, None] = {}
        self.num_events = 0
        self.is_blocked = False  # the head of the queue finds no KV memory
        self.is_shared_queue = False
        self.on_requeue: Callable[[EngineBase], None] | None = None  # a shared queue got a request back
        self.is_measuring = recorder.table.num_warmup == 0 and recorder.table.warmup_ps == 0
        self.window_is_due = False
        self.window_from_ps = 0
        self.grown_tokens_ps = 0  # KV added inside jumps × time, since the window began
        self.on_window = self.begin_window
        self.deadlines: list[tuple[int, int, Sequence]] = []
        self.admissions = index << 40  # numbers of different replicas never meet
        self.pending: Event | None = None  # the one event that the engine waits for
        self.service = price if isinstance(price, ServiceTimePrice) else None

    @property
    def stages_ps(self) -> int:
        """Busy time of all pipeline stages, where there are several."""
        return 0

    def start(self) -> None:
        """Waits for the first request, if one is known."""
        if self.feed.next_ps < NEVER:
            self._wake_at(self.feed.next_ps)

    @abstractmethod
    def poke(self, was_open: bool) -> None:
        """A request was put into ``waiting``; ``was_open``: one more could have been admitted."""

    def begin_window(self) -> None:
        """The measured window begins: KV usage counts from the next decision on."""
        self.is_measuring = True
        self.window_is_due = True

    def _wake_at(self, time_ps: int) -> None:
        self.pending = self.env.after(time_ps - self.env.now_ps, self._on_wake, self.index)

    def _on_wake(self, event: Event) -> None:
        if event is self.pending:
            self.pending = None
            self._decide(self.env.now_ps)

    @abstractmethod
    def _decide(self, now: int) -> None:
        """What happens next, and the event at its end."""

    def _begin(self, now: int) -> None:
        """What comes before every decision, in order of time: arrivals, queued clients that left."""
        feed, deadlines = self.feed, self.deadlines
        while True:
            arrival = feed.next_ps
            deadline = deadlines[0][0] if deadlines else NEVER
            if arrival <= now and arrival <= deadline:
                self.receive(feed.take())
            elif deadline <= now:
                self._expire_waiting(heappop(deadlines)[2])
            else:
                break
        if self.window_is_due:
            self.window_is_due = False
            self.window_from_ps = now
            self.grown_tokens_ps = 0

    def load(self) -> int:
        """Unfinished requests, for the router."""
        return len(self.running) + len(self.waiting)

    def is_open_for_one(self) -> bool:
        """Whether a request that comes now could be admitted at the next step."""
        return not self.waiting and len(self.running) < self.limits.max_num_seqs

    def receive(self, sequence: Sequence, *, has_own_deadline: bool = True) -> None:
        """An arrival: into the queue, unless it can never be served."""
        recorder, request = self.recorder, sequence.id
        recorder.arrival_ps[request] = sequence.arrival_ps
        if not self.is_shared_queue:
            recorder.replica[request] = self.index
        if not self.is_measuring and self._is_measured(sequence):
            self.on_window()
        is_too_long = sequence.prompt_tokens + sequence.output_tokens > self.limits.max_model_len
        if is_too_long or not self.kv.can_ever_fit(sequence):
            recorder.refuse(sequence, self._refusal(is_too_long))
            self.feed.on_end(sequence, sequence.arrival_ps)
            return
        self.waiting.append(sequence)
        if sequence.deadline_ps < NEVER and has_own_deadline:
            heappush(self.deadlines, (sequence.deadline_ps, request, sequence))

    def _is_measured(self, sequence: Sequence) -> bool:
        table = self.recorder.table
        return sequence.id >= table.num_warmup and sequence.arrival_ps >= table.warmup_ps

    def _refusal(self, is_too_long: bool) -> str:
        if is_too_long:
            return f"prompt + answer longer than max_model_len {self.limits.max_model_len}"
        return f"needs more KV memory than the whole pool of {self.kv.capacity_tokens} tokens"

    def _is_elsewhere(self, sequence: Sequence) -> bool:
        """Whether another replica runs it by now: it went back to a shared queue."""
        return self.is_shared_queue and sequence.order >= 0 and sequence not in self.running

    def _expire_waiting(self, sequence: Sequence) -> None:
        """The client of a queued request left."""
        if not sequence.is_ended and sequence.order < 0:
            self.waiting.remove(sequence)
            self.recorder.abort(sequence, sequence.generated)
            self.feed.on_end(sequence, sequence.deadline_ps)

    def _is_holding(self, now: int) -> bool:
        """Static batching waits for a fuller batch; wakes when it is full, or the oldest waited enough."""
        full_at = self.waiting[0].arrival_ps + self.limits.static_wait_ps
        if len(self.waiting) >= self.limits.max_num_seqs or now >= full_at:
            return False
        soonest = self.deadlines[0][0] if self.deadlines else NEVER
        self._wake_at(min(full_at, self.feed.next_ps, soonest))
        return True

    def _admit(self, sequence: Sequence, now: int) -> None:
        """Into the running list; its KV memory is reserved already."""
        self.admissions += 1
        sequence.order = self.admissions
        sequence.computed = 0
        sequence.target = sequence.prompt_tokens + sequence.generated
        self.running[sequence] = None
        recorder, request = self.recorder, sequence.id
        if recorder.first_scheduled_ps[request] < 0:
            recorder.first_scheduled_ps[request] = now
        if self.is_shared_queue:
            recorder.replica[request] = self.index
            if sequence.deadline_ps < NEVER:
                heappush(self.deadlines, (sequence.deadline_ps, request, sequence))
        if self.service:
            self.service.begin(request, sequence.output_tokens)

    def _end(self, sequence: Sequence, now: int) -> None:
        """Its last token came: out of the running list, KV memory back, whoever waited for it released."""
        del self.running[sequence]
        self.kv.release(sequence, now)
        self.recorder.finish(sequence, now)
        self.feed.on_end(sequence, now)
