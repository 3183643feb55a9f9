"""Steps with drafts, without a look at each request: who decodes is known for the rest of its life.

A request's drafts are right or not by its own draws. So when it begins to decode its tokens after each of its
steps are known, and with them when it ends, as long as nobody is preempted and the token budget does for all.
What its steps add to those of the batch (sequences, context, drafts, right ones, blocks) is added up in
``_ahead`` by number of step, in one go; a step then is five sums. As ``fast_path`` it decides only what that
leaves open (arrivals, prompts, memory by count, prices) and gives the rest back to the scheduler
(``Scheduler.lend_drafts``, ``take_back_drafts``). The stepped engine must agree with it bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import Int64
from sim.serving.drafts import Drafts
from sim.serving.recorder import pack_segment
from sim.serving.request import Request, Status
from sim.serving.scheduler import Chunk, Step, is_decode

if TYPE_CHECKING:
    from sim.serving.fast_path import FastPath

SEQUENCES, CONTEXT, DRAFTS, MADE, BLOCKS = range(5)
by_order = attrgetter("order")
FEWEST_STEPS = 1 << 12
LOOK_AHEAD = 8  # steps
REST_STEPS = 32  # are planned by the scheduler before this is tried again: lending costs about as many


@dataclass(slots=True)
class Life:
    """A decoding request: its first step here, and its tokens then.

    ``known``: its tokens when the step before was planned, if that was planned here; else 0.
    """

    first: int
    tokens: int
    known: int


@dataclass(slots=True, kw_only=True, eq=False)
class DraftPath:
    """The loop of one engine, and what it knows while the scheduler is lent to it."""

    engine: FastPath
    drafts: Drafts
    _step: int = 0  # that is planned next
    _ahead: Int64 = field(default_factory=lambda: np.zeros((FEWEST_STEPS, 5), dtype=np.int64))
    _lives: dict[Request, Life] = field(default_factory=dict)
    _ends: dict[int, list[Request]] = field(default_factory=dict)  # by step
    _partial: Request | None = None  # in mid-prefill
    _planned: tuple[int, ...] = ()  # the row of the step under way
    _work: list[Chunk] = field(default_factory=list)  # its prompts
    _added: Int64 = field(default_factory=lambda: np.empty((0, 5), dtype=np.int64))  # of one request
    _rests: int = 0
    _must_plan: bool = False

    def decide(self, now: int) -> Generator[None, None, bool]:
        """As ``FastPath``'s own decisions, until the engine idles; False: the scheduler has to plan."""
        if self._rests or not self._enter():
            self._rests = max(self._rests - 1, 0)
            return False
        engine, is_only, peek = self.engine, self.engine.is_only_engine, self.engine.env.peek
        waiting = engine.scheduler.waiting
        assert isinstance(waiting, deque)
        while True:
            if self._planned:
                self._end_step(now)
            if engine.feed.next_ps <= now or engine.inbox:
                num_waiting = len(waiting)
                engine.begin(now)
                came = islice(reversed(waiting), len(waiting) - num_waiting)
                self._must_plan |= any(request.num_tokens == 1 for request in came)
            if is_only and self._is_closed():
                step = self._step
                now = self._decode(now)
                if self._step != step:
                    continue
            end = self._plan(now)
            if end < 0:
                return self._leave(now)
            if not is_only and end >= peek():
                engine.wait_for(Step(started_ps=now, first_ps=end - now), end)
                yield
                engine.step = None
            now = end

    # from the scheduler, and back

    def _enter(self) -> bool:
        scheduler = self.engine.scheduler
        if not scheduler.lend_drafts():
            return False
        self.engine.is_lent, self._must_plan = True, False
        for request in scheduler.running.values():
            if request.is_prefill_chunk:
                self._partial = request
            else:
                self._begin(request, 0)
        return True

    def _leave(self, now: int) -> bool:
        """The scheduler plans from here on, or there is nothing to do."""
        engine, step = self.engine, self._step
        scheduler = engine.scheduler
        for request, life in self._lives.items():
            made, known = step - life.first, life.known
            if made:
                tokens = self.drafts.ahead(request, made)
                self.drafts.use(request, made)
                request.num_tokens = life.tokens + int(tokens.sum())
                known = request.num_tokens - int(tokens[-1])
                reach = min(known + self.drafts.per_step, scheduler.limits.max_model_len - 1)
                request.reserved = -(-reach // scheduler.block_size)
            request.num_computed_tokens = request.num_tokens - 1
            scheduler.take_back_drafts(request, known, self.drafts.per_step)
        if self._partial is not None:
            scheduler.take_back_drafts(self._partial, self._partial.num_computed_tokens, 0)
        if self._lives:
            self._ahead[:] = 0
            self._lives.clear()
            self._ends.clear()
        self._partial, engine.is_lent = None, False
        if not scheduler.num_unfinished:
            engine.idle()
            return True
        self._rests = REST_STEPS
        if now != engine.env.now_ps:
            engine.plan_at(now)
        return now != engine.env.now_ps

    # a request decodes from the next step on

    def _begin(self, request: Request, known: int) -> None:
        """Adds up what its steps will be, to its end."""
        tokens, left, drafts = request.num_tokens, request.end_tokens - request.num_tokens, self.drafts
        scheduler, most = self.engine.scheduler, drafts.per_step
        made = drafts.ahead(request, min(left, int(left / drafts.tokens_per_step) + 16))
        total = made.cumsum()
        if total[-1] < left:
            made = drafts.ahead(request, left)
            total = made.cumsum()
        steps = int(total.searchsorted(left)) + 1
        if self._step + steps >= len(self._ahead):
            self._make_room(steps)
        first = self._step
        if steps > len(self._added):
            self._added = np.ones((2 * steps, 5), dtype=np.int64)
            self._added[:, DRAFTS] = most
        added = self._added[:steps]
        reach = added[:, CONTEXT]
        reach[0] = tokens + most
        np.add(total[: steps - 1], tokens + most, out=reach[1:])
        added[:, MADE] = made[:steps]
        added[-1, MADE] -= total[steps - 1] - left
        is_cut = request.end_tokens + most >= scheduler.limits.max_model_len
        if is_cut:
            cut = np.minimum(reach, scheduler.limits.max_model_len - 1)
            added[:, DRAFTS] -= reach - cut
            reach[:] = cut
        up, size = reach + (scheduler.block_size - 1), scheduler.block_size
        if size & (size - 1):
            np.floor_divide(up, size, out=added[:, BLOCKS])
        else:  # the same for powers of two, several times as fast
            np.right_shift(up, size.bit_length() - 1, out=added[:, BLOCKS])
        self._ahead[first : first + steps] += added
        if is_cut:
            added[:, DRAFTS] = most
        self._lives[request] = Life(first, tokens, known)
        self._ends.setdefault(first + steps - 1, []).append(request)

    def _make_room(self, steps: int) -> None:
        """Forgets the steps that are over: the next one has number 0."""
        done, ahead = self._step, self._ahead
        left = ahead[done : max(self._ends, default=done) + 1]
        rows = len(ahead)
        while rows < 2 * max(len(left), steps):
            rows *= 2
        self._ahead, self._step = np.zeros((rows, 5), dtype=np.int64), 0
        self._ahead[: len(left)] = left
        for life in self._lives.values():
            life.first -= done
        self._ends = {step - done: ending for step, ending in self._ends.items()}

    # one step

    def _end_step(self, now: int) -> None:
        """Its row, its tokens, and who ends with it."""
        engine, step = self.engine, self._step
        segments = engine.recorder.segments
        *row, verified, kept = self._planned
        segments.rows += pack_segment(*row)
        if verified:
            segments.note_drafts(verified, kept)
        self._planned, self._step = (), step + 1
        ended = self._ended(step)
        if self._work:
            self._end_prompts(ended, now)
        if ended:
            self._finish(ended, now)
        if self._step == len(self._ahead):
            self._make_room(1)

    def _ended(self, step: int) -> list[Request]:
        """Who made the last token in that step, by order of admission."""
        ended = self._ends.pop(step, [])
        ended.sort(key=by_order)
        for request in ended:
            del self._lives[request]
        return ended

    def _finish(self, ended: list[Request], now: int) -> None:
        engine, recorder, running = self.engine, self.engine.recorder, self.engine.scheduler.running
        for request in ended:
            del running[request.order]
            if not request.id & 255:
                recorder.segments.pack_if_full()
            self.drafts.forget(request)
            request.num_tokens = request.end_tokens
            recorder.finish(request, now)
            engine.feed.on_end(request, now)

    def _is_closed(self) -> bool:
        """Whether the next step has no prompts, unless somebody comes."""
        scheduler = self.engine.scheduler
        is_open = scheduler.waiting and len(scheduler.running) < scheduler.max_running
        return self._partial is None and not is_open and not self._must_plan

    def _decode(self, now: int) -> int:
        """Steps of decoding alone, until somebody comes or could be admitted; when the last of them ends."""
        engine, feed, price = self.engine, self.engine.feed, self.engine.price
        scheduler, segments, index = engine.scheduler, engine.recorder.segments, engine.index
        num_running, num_waiting = len(scheduler.running), len(scheduler.waiting)
        num_blocks, size, max_tokens = (
            scheduler.num_blocks, scheduler.block_size, scheduler.limits.max_num_batched_tokens,
        )  # fmt: skip
        extend, note, step_ps = segments.rows.extend, segments.note_drafts, price.step_ps
        while True:
            step = self._step
            for count, context, verified, made, blocks in self._ahead[step : step + LOOK_AHEAD].tolist():
                if not count or blocks > num_blocks or count + verified > max_tokens:
                    return now
                price_ps = step_ps(count, context, (), verified)
                extend(pack_segment(
                    index, now, 1, price_ps, 0, count, context, 0, 0, num_running, num_waiting, 0,
                    context, context, blocks * size, 0, 0,
                ))  # fmt: skip
                if verified:
                    note(verified, made - count)
                now += price_ps
                self._step = step + 1
                if step in self._ends:
                    self._finish(self._ended(step), now)
                    num_running = len(scheduler.running)
                    if num_waiting:
                        return now
                step += 1
                if feed.next_ps <= now:
                    return now
            if step == len(self._ahead):
                self._make_room(1)

    def _end_prompts(self, ended: list[Request], now: int) -> None:
        """The first tokens, or the first after a preemption."""
        first_token_ps = self.engine.recorder.first_token_ps
        for queries, cached, samples, request in self._work:
            request.num_computed_tokens = cached + queries
            if not samples:
                self._partial = request
                continue
            if request is self._partial:
                self._partial = None
            request.num_tokens += 1
            if first_token_ps[request.id] < 0:
                first_token_ps[request.id] = now
            if request.num_tokens < request.end_tokens:
                self._begin(request, request.num_tokens - 1)
            else:
                ended.append(request)

    def _plan(self, now: int) -> int:
        """When the next step ends; −1: somebody has to be preempted, to wait or to be padded, or nobody runs.

        One token alone is a prompt that some versions pad with drafts.
        """
        engine, partial = self.engine, self._partial
        scheduler = engine.scheduler
        limits, size, running = scheduler.limits, scheduler.block_size, scheduler.running
        waiting = scheduler.waiting
        count, context, verified, made, blocks = self._ahead[self._step].tolist()
        right = made - count
        budget = limits.max_num_batched_tokens - count - verified
        free = scheduler.num_blocks - blocks
        work: list[Chunk] = []
        held, prefill_tokens = context, 0
        if self._must_plan or budget < 0 or (partial is not None and budget == 0):
            return -1
        if partial is not None:
            tokens = partial.num_tokens - partial.num_computed_tokens
            queries = min(tokens, budget)
            needed = -(-(partial.num_computed_tokens + queries) // size)
            free -= needed
        if free < 0:
            return -1
        if partial is not None:
            partial.reserved = needed
            work.append((queries, partial.num_computed_tokens, queries == tokens, partial))
            budget -= queries
            prefill_tokens = queries
            held += partial.num_computed_tokens + queries
        if waiting and budget > 0 and len(running) < scheduler.max_running:
            admitted = self._admit(work, budget, free, now)
            free -= admitted[0]
            held += admitted[1]
            prefill_tokens += admitted[1]
        if not (work or count):
            return -1
        self._work, priced = work, work
        if partial is not None and is_decode(*work[0][:2]):
            count += 1
            context += work[0][1] + 1
            prefill_tokens -= 1
            priced = work[1:]
        price_ps = engine.price.step_ps(count, context, priced, verified)
        used = (scheduler.num_blocks - free) * size
        self._planned = (
            engine.index, now, 1, price_ps, 0, count, context, len(priced), prefill_tokens, len(running),
            len(waiting), 0, held, held, used, 0, 0, verified, right,
        )  # fmt: skip
        return now + price_ps

    def _admit(self, work: list[Chunk], budget: int, free: int, now: int) -> tuple[int, int]:
        """From the head of the queue until one does not fit: blocks taken, tokens planned."""
        scheduler, first_scheduled_ps = self.engine.scheduler, self.engine.recorder.first_scheduled_ps
        waiting, running, size = scheduler.waiting, scheduler.running, scheduler.block_size
        assert isinstance(waiting, deque)
        taken = planned = 0
        while budget > 0 and waiting and len(running) < scheduler.max_running:
            head = waiting[0]
            tokens = queries = head.num_tokens
            if tokens > budget:
                if not scheduler.limits.enable_chunked_prefill:
                    break
                queries = budget
            blocks = -(-queries // size)
            asked = -(-tokens // size) if scheduler.gates_whole_prompt else blocks
            if asked + (scheduler.watermark if running else 0) > free - taken:
                break
            waiting.popleft()
            scheduler.num_admissions += 1
            head.reserved, head.order, head.status = blocks, scheduler.num_admissions, Status.RUNNING
            head.num_computed_tokens = 0
            running[head.order] = head
            if first_scheduled_ps[head.id] < 0:
                first_scheduled_ps[head.id] = now
            work.append((queries, 0, queries == tokens, head))
            budget -= queries
            taken += blocks
            planned += queries
        return taken, planned
