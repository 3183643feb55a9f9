"""An inlined loop over decisions: decodes first, in order of arrival or priority, memory that is counted.

For every scheduler. Which block is whose does not matter while nobody can find a cached block; then decisions
need a few numbers, which a scheduler lends (``Scheduler.lend``) and gets back where a step needs more. Where
cached blocks can be found the scheduler keeps its pool, and is asked at admissions, preemptions and ends.
Decisions are a loop over local variables, because calls and attribute traffic were most of the time
(``benchmarks/``), and those that nothing else can fall between need no SimPy event. The stepped engine must
agree with it bit for bit; the tests run all ways on the same workloads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

from sim.price.step import ServiceTimePrice, StepPrice
from sim.serving.clock import Clock
from sim.serving.decoding import steps_until
from sim.serving.in_flight import InFlight
from sim.serving.recorder import MAX_GROWN, Recorder, pack_segment
from sim.serving.records import FINISHED
from sim.serving.request import NEVER, Request, Status
from sim.serving.scheduler import Scheduler, Step, is_decode
from sim.serving.usage import sum_blocks
from sim.serving.workload.feed import Feed

NOTHING: list[Any] = []


@dataclass(slots=True, kw_only=True, eq=False)
class FastPath(ABC):
    """What an engine is, as far as this loop goes; ``Engine`` says the rest."""

    env: Clock
    index: int
    feed: Feed
    recorder: Recorder
    scheduler: Scheduler
    price: StepPrice
    in_flight: InFlight[Step]
    # In place of this one, with drafts:
    other_loop: Callable[[int], Generator[None, None, bool]] | None = None
    is_common: bool = False  # clients wait, and the scheduler lends what it needs
    is_only_engine: bool = True
    inbox: list[Request] = field(default_factory=list)  # came during a step: not seen by the scheduler
    deadlines: list[tuple[int, int, Request]] = field(default_factory=list)  # a heap; some have ended
    step: Step | None = None  # under way
    is_lent: bool = False
    loop: Generator[None, None, bool] | None = None  # at rest while a step of it is under way
    _step: Step = field(default_factory=Step)  # the step under way of this loop, always the same object

    @abstractmethod
    def receive(self, request: Request) -> None: ...

    @abstractmethod
    def begin(self, now: int) -> None: ...

    @abstractmethod
    def wait_for(self, step: Step, end_ps: int) -> None: ...

    @abstractmethod
    def plan_at(self, time_ps: int) -> None: ...

    @abstractmethod
    def idle(self) -> None: ...

    @abstractmethod
    def leave(self, request: Request, num_delivered: int) -> None: ...

    @abstractmethod
    def next_deadline(self) -> int: ...

    def _withdraw(self, request: Request, done: int) -> int:
        """A decoding request stops before its end; its tokens, with that of the step under way."""
        batch, end_step = self.scheduler.batch, request.end_step
        ending = batch.ends[end_step]
        ending.remove(request)
        if not ending:
            del batch.ends[end_step]
            batch.end_steps.remove(end_step)
            heapify(batch.end_steps)
        batch.counts[request.phase] -= 1
        return request.end_tokens - (end_step - done + 1)

    def run(self, now: int) -> bool:
        """From here on until the engine idles or waits for an event; False: the scheduler has to plan."""
        loop = self.loop
        if loop is None:
            loop = self.loop = (self.other_loop or self._decide)(now)
        try:
            next(loop)
        except StopIteration as end:
            self.loop = None
            return bool(end.value)
        return True

    def _decide(self, now: int) -> Generator[None, None, bool]:
        """One decision after another; it rests while a step is under way that others may fall into.

        With asynchronous scheduling (``ahead`` 1) the step that runs is the one before the newest plan. The
        plan counts on its tokens; the requests that end with it keep their places and blocks till it is over.
        ``before`` is the newest plan's prompts, ``queued`` its numbers: time if it has prompts, decodes and
        their context, prompts and their tokens, KV levels, and whether the plan after it is another one.
        ``stale``: who was preempted while a token of theirs was made.
        """
        scheduler, ahead, before = self.scheduler, self.in_flight.length - 1, NOTHING
        queued: tuple[Any, ...] | None = None
        newest = self.in_flight.take()
        lent = scheduler.lend(newest)
        if lent is None:
            self.in_flight.put(newest)
            return False
        self.is_lent, before = True, lent
        if newest is not None and newest.num_requests:
            asked = newest.num_decode, newest.context_tokens
            price_ps = self.price.step_ps(*asked, newest.chunks) if lent else None
            queued = (
                price_ps, *asked, newest.num_prefill, newest.prefill_tokens, *newest.levels[:3], True,
            )  # fmt: skip
        feed, recorder, price, batch = self.feed, self.recorder, self.price, scheduler.batch
        waiting, running, prefilling = scheduler.waiting, scheduler.running, scheduler.prefilling
        assert isinstance(waiting, deque)
        counts, ends, end_steps, size = batch.counts, batch.ends, batch.end_steps, scheduler.block_size
        max_running, watermark, num_blocks, takes_all, gates_all, cuts = (
            scheduler.max_running, scheduler.watermark, scheduler.num_blocks,
            scheduler.takes_whole_prompt, scheduler.gates_whole_prompt, scheduler.cuts_answers,
        )  # fmt: skip
        limits = scheduler.limits
        max_tokens, longest = limits.max_num_batched_tokens, limits.max_model_len
        most_tokens, index, is_running = num_blocks * size + 1, self.index, Status.RUNNING
        must_see_all, has_triggers, inbox = feed.must_see_all, feed.has_triggers, self.inbox
        deadlines, is_ranked, has_left = self.deadlines, scheduler.is_ranked, False
        keeps_tables, shared, must_plan = scheduler.keeps_tables, scheduler.shared_tokens, False
        preempts, drawn, stale = scheduler.preempts_newest, scheduler.drawn, NOTHING
        arrival_ps, first_scheduled_ps = recorder.arrival_ps, recorder.first_scheduled_ps
        first_token_ps, finish_ps, replica = recorder.first_token_ps, recorder.finish_ps, recorder.replica
        generated_tokens, status = recorder.generated_tokens, recorder.status
        cached_tokens, segments = recorder.cached_tokens, recorder.segments
        step_ps, decode_run, extend_rows = price.step_ps, price.decode_run, segments.rows.extend
        begin_service = price.begin if isinstance(price, ServiceTimePrice) else None
        done, count, context, free = batch.step, batch.num_decoding, batch.num_context_tokens, scheduler.free
        num_admissions, partial = scheduler.num_admissions, next(iter(prefilling.values()), None)
        env, is_only, own, ended = self.env, self.is_only_engine, self._step, NOTHING
        peek = env.peek
        started = steps = first = growth = num_decode = shown_context = num_prefill = prefill_tokens = 0
        held = wanted = used = 0
        unfilled = sum([one.target - one.num_computed_tokens for one in prefilling.values()])
        while True:
            # What ran is over: ``count`` sequences decoded ``steps`` times, or once beside prompts.
            if steps:
                grown = 0
                if drawn is not None:
                    drawn.note_steps(done, steps, started, first, growth)
                if steps > 1:
                    begun = done - ahead
                    if steps > size:
                        held_ps, taken = sum_blocks(counts, begun % size, first, growth, steps)
                    else:
                        last = (at := (begun + 1) % size) + steps - 1
                        needs = counts[at:last] if last <= size else counts[at:] + counts[: last - size]
                        taken = taken_sum = sum_of_sums = 0  # small numbers: times are multiplied at the end
                        for need in needs:
                            taken += need
                            taken_sum += taken
                            sum_of_sums += taken_sum
                        held_ps = taken_sum * (first + steps * growth) - growth * sum_of_sums
                    grown = held_ps * size
                    if grown > MAX_GROWN:
                        grown = segments.keep(grown)
                    free -= taken
                    if ahead:  # the first of these blocks were taken with the plan, those of the next are due
                        free += counts[done % size] - counts[(done + steps - 1) % size]
                        done += steps - 1
                        context += count * (steps - 1)
                        used_then = (num_blocks - free) * size
                        alone = context - shared
                        queued = None, count, context, 0, 0, alone, alone, used_then, False
                extend_rows(pack_segment(
                    index, started, steps, first, growth, num_decode, shown_context, num_prefill,
                    prefill_tokens, len(running), len(waiting), 0, held, wanted, used, 0, grown,
                ))  # fmt: skip
            # What the newest plan makes is known: who decodes from now on, and who ends.
            then = now
            if ahead:
                over, steps, then = ended, *((1, now + (queued[0] or 0)) if queued else (0, now))
            ended = NOTHING
            if steps:
                if count:
                    done += steps
                    context += count * steps
                    if end_steps[0] < done:
                        ended = ends.pop(heappop(end_steps))
                        count -= len(ended)
                        for request in ended:
                            counts[request.phase] -= 1
                            context -= request.end_tokens
                if before:
                    partial = None
                    for queries, cached, samples, request in before:
                        unfilled -= queries
                        request.num_computed_tokens = cached + queries
                        if not samples:
                            partial = request
                            continue
                        request.num_tokens = tokens = request.num_tokens + 1
                        row = request.id
                        if first_token_ps[row] < 0 and request.deadline_ps >= then:
                            first_token_ps[row] = then
                        request.settled_step = done
                        left = request.end_tokens - tokens
                        if not left:
                            ended = [*ended, request]
                            continue
                        request.end_step = end_step = done + left - 1
                        ending = ends.get(end_step)
                        if ending is None:
                            ends[end_step] = [request]
                            heappush(end_steps, end_step)
                        else:
                            ending.append(request)
                        request.phase = phase = (done + 1 - tokens) % size
                        counts[phase] += 1
                        count += 1
                        context += tokens
            for request in over if ahead else ended:
                tokens = request.end_tokens
                if is_preempted := request.status is not is_running:  # as its last token was made
                    waiting.remove(request)
                else:
                    del running[request.order]
                if keeps_tables:
                    free = scheduler.release_lent(request, 0 if is_preempted else tokens, tokens, free)
                    shared = scheduler.shared_tokens
                elif not is_preempted:
                    free += (tokens - 2) // size + 1
                if request.deadline_ps < now:  # the client left during the step that made the last token
                    self.leave(request, tokens - request.num_prompt_tokens - 1)
                    continue
                row = request.id
                if not row & 1023:
                    segments.pack_if_full()
                finish_ps[row] = now
                generated_tokens[row] = tokens - request.num_prompt_tokens
                status[row] = FINISHED
                request.is_ended = True
                if has_triggers:
                    feed.on_end(request, now)
            # Who has come, and whose client has left.
            if feed.next_ps <= now or inbox or (deadlines and deadlines[0][0] <= now):
                for request in inbox:
                    must_plan = scheduler.enter(request) or must_plan
                inbox.clear()
                while True:
                    due = deadlines[0][0] if deadlines else NEVER
                    if feed.next_ps > (due if due < now else now):
                        if due > now:
                            break
                        request = heappop(deadlines)[2]
                        if request.is_ended:
                            continue
                        has_left, is_late = True, due < now  # late: not even the last step's token came
                        known, tokens, blocks = request.num_tokens, 0, 0
                        if request.status is not is_running:
                            waiting.remove(request)
                            is_late = is_late and request in stale
                        else:
                            del running[request.order]
                            if request is partial:
                                unfilled -= request.target - request.num_computed_tokens
                                partial, is_late, blocks = None, False, request.reserved
                            else:
                                if request in ended:
                                    ended.remove(request)
                                    tokens = request.end_tokens
                                else:
                                    tokens = self._withdraw(request, done)
                                    count -= 1
                                    context -= tokens
                                is_late = is_late and not (ahead and request.settled_step == done)
                                known, blocks = tokens - ahead, (tokens - 2) // size + 1
                        if keeps_tables:
                            free = scheduler.release_lent(request, tokens, known, free)
                            shared = scheduler.shared_tokens
                        else:
                            free += blocks
                        made = max(known - request.num_prompt_tokens - is_late, 0)
                        self.leave(request, made)
                        continue
                    request = feed.take()
                    end_tokens = request.end_tokens
                    if end_tokens > longest and cuts and request.num_prompt_tokens < longest:
                        request.end_tokens = end_tokens = longest
                    if end_tokens > longest or end_tokens > most_tokens or request.max_tokens < 1:
                        self.receive(request)
                        continue
                    row = request.id
                    arrival_ps[row] = request.arrival
                    replica[row] = index
                    if request.deadline_ps < NEVER:
                        heappush(deadlines, (request.deadline_ps, row, request))
                    if keeps_tables or is_ranked:
                        must_plan = scheduler.enter(request) or must_plan
                    else:
                        waiting.append(request)
            # What is next.
            need = counts[done % size] if count else 0
            budget, more = max_tokens - count, 0
            if partial is not None and not takes_all:
                tokens = min(partial.num_tokens - partial.num_computed_tokens, budget)
                more = -(-(partial.num_computed_tokens + tokens) // size) - partial.reserved
            is_short, stale = need + more > free, NOTHING
            if (
                must_plan
                or (budget <= 0 and (budget < 0 or partial is not None))
                or (is_short and not preempts)
            ):
                break  # somebody has to wait, or to be preempted: the scheduler plans it
            while is_short:  # the newest are preempted, until what is free does for the others
                taken = need if need <= free else free
                free -= taken
                need -= taken
                if need + more <= free:
                    break
                request = running.popitem()[1]
                if request is partial:
                    unfilled -= request.target - request.num_computed_tokens
                    computed, known, tokens, blocks = (
                        request.num_computed_tokens, request.num_tokens, 0, request.reserved,
                    )  # fmt: skip
                    partial, more = None, 0
                else:
                    if request in ended:
                        tokens = request.end_tokens
                    else:
                        tokens = self._withdraw(request, done)
                        count -= 1
                        context -= tokens
                        need -= request.phase == done % size
                    computed, known, blocks = tokens - 1, tokens - ahead, (tokens - 2) // size + 1
                    if ahead:
                        stale = [*stale, request]
                recorder.preempt(request, now, index, computed)
                free = scheduler.preempt_lent(request, tokens, known, free, blocks)
                shared, has_left = scheduler.shared_tokens, True
            free -= need
            if drawn is not None:
                must_plan = drawn.note_plan(done, now)  # it is full: as many rectangles as are kept
            work, is_refused = NOTHING, False
            num_prefill = prefill_tokens = 0
            if (waiting or partial is not None) and not is_short:
                work = []
                if partial is not None:
                    tokens = partial.num_tokens - partial.num_computed_tokens
                    queries = tokens if tokens <= budget else budget
                    if keeps_tables:
                        free = scheduler.extend_lent(partial, queries, free)
                        partial.reserved += more
                    elif not takes_all:
                        free -= more
                        partial.reserved += more
                    work.append((queries, partial.num_computed_tokens, queries == tokens, partial))
                    budget -= queries
                    prefill_tokens = queries
                while budget > 0 and waiting and len(running) < max_running:
                    head, cached = waiting[0], 0
                    tokens = queries = head.num_tokens
                    if keeps_tables:
                        admitted = scheduler.admit_lent(head, budget, free)
                        if admitted is None:
                            is_refused = True
                            break
                        queries, cached, free = admitted
                        shared = scheduler.shared_tokens
                    else:
                        if tokens > budget:
                            if not limits.enable_chunked_prefill:
                                is_refused = True
                                break
                            queries = budget
                        whole = (tokens - 1) // size + 1
                        more = whole if takes_all else (queries - 1) // size + 1
                        if (whole if gates_all else more) + (watermark if running else 0) > free:
                            is_refused = True
                            break
                        free -= more
                        head.reserved = more
                    waiting.popleft()
                    num_admissions += 1
                    head.order = num_admissions
                    head.status = is_running
                    head.num_computed_tokens = cached
                    head.target = tokens
                    running[num_admissions] = head
                    if begin_service:
                        begin_service(head.id, head.max_tokens)
                    if first_scheduled_ps[head.id] < 0:
                        first_scheduled_ps[head.id] = now
                        if cached:
                            cached_tokens[head.id] = cached
                    tokens -= cached
                    unfilled += tokens
                    work.append((queries, cached, queries == tokens, head))
                    budget -= queries
                    prefill_tokens += queries
            if not (work or count or queued):
                break
            num_decode, shown_context, price_ps = count, context, None
            if work:
                priced = work
                if partial is not None or keeps_tables:
                    for queries, cached, _, _ in work:
                        if queries == 1 and is_decode(queries, cached):
                            num_decode += 1
                            shown_context += cached + 1
                            prefill_tokens -= 1
                            priced = NOTHING
                    if not priced:
                        priced = [chunk for chunk in work if not is_decode(*chunk[:2])]
                num_prefill = len(priced)
                price_ps = step_ps(num_decode, shown_context, priced)
            used = (num_blocks - free) * size
            if takes_all:
                held = context + (partial.num_computed_tokens if partial is not None else 0)
                wanted = held + unfilled
            else:
                wanted = held = context - shared + sum([chunk[0] + chunk[1] for chunk in work])
            before = work
            if ahead:
                held += sum([request.end_tokens - 1 for request in ended if request.status is is_running])
                numbers = num_decode, shown_context, num_prefill, prefill_tokens, held, held, used
                planned = (price_ps, *numbers, bool(ended) or is_short) if work or count else None
                if queued is None:
                    queued, steps = planned, 0
                    continue
                is_single = work or ended or has_left or queued[8] or queued[0]
                is_refused, has_left = bool((is_refused and not gates_all) or is_single), False
                price_ps, num_decode, shown_context, num_prefill, prefill_tokens, held, wanted, used = queued[
                    :8
                ]
                queued = planned
            started = now
            if price_ps is not None:
                first, end = price_ps, now + price_ps
                steps, growth = 1, 0
            else:
                first, growth, steps = decode_run(num_decode, shown_context)
                if is_short or (is_refused and (ahead or not gates_all)):  # somebody may fit soon
                    steps = 1
                elif (left := end_steps[0] - done) < steps:
                    steps = left + 1
                if steps == 1:
                    end = now + first
                else:
                    if count * (steps // size + 1) > free:
                        batch.step, batch.num_decoding = done + 1, count
                        steps = min(steps, 1 + batch.steps_that_stand(free))
                    limit = feed.next_ps
                    is_full = (waiting and not is_ranked) or len(running) >= max_running
                    if is_full and not must_see_all:
                        limit = NEVER
                    if deadlines:
                        limit = min(limit, self.next_deadline())
                    end = now + steps * first + growth * (steps * (steps - 1) // 2)
                    if end > limit:
                        steps = steps_until(first, growth, limit - now, steps)
                        end = now + steps * first + growth * (steps * (steps - 1) // 2)
            if not is_only and (end >= peek() or (deadlines and deadlines[0][0] <= end)):
                own.num_steps, own.started_ps, own.first_ps, own.growth_ps = steps, started, first, growth
                self.wait_for(own, end)
                yield
                steps, end, self.step = own.num_steps, env.now_ps, None
            now = end
        batch.step, batch.num_decoding, batch.num_context_tokens = done, count, context
        scheduler.free, scheduler.num_admissions = free, num_admissions
        prefilling.clear()
        if partial is not None:
            prefilling[partial.order] = partial
        self.is_lent = False
        self.in_flight.put(scheduler.take_back(queued and (then if before else -1, *queued[1:]), before))
        if self.in_flight.is_idle(scheduler.num_unfinished):
            self.idle()
        elif now == env.now_ps:
            return False
        else:
            self.plan_at(now)
        return True
