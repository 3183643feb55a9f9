"""An inlined loop for the common case: first come, first served, decodes first, memory that is only counted.

For every scheduler, as long as no request can find a cached block and nobody has to be preempted: then it
does not matter which block is whose, and decisions need a few numbers. Those are ``Ground``, which a
scheduler lends and gets back where a step needs more. Decisions are a loop over local variables, because
calls and attribute traffic were most of the time (``benchmarks/``), and those that nothing else can fall
between need no SimPy event. The stepped engine must agree with it bit for bit; the tests run all ways on the
same workloads.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from sim.price.step import StepPrice
from sim.serving.clock import Clock
from sim.serving.decoding import DecodeBatch, steps_until
from sim.serving.recorder import Recorder, pack_segment
from sim.serving.records import FINISHED
from sim.serving.request import NEVER, Request, Status
from sim.serving.scheduler import Chunk, Ground, Scheduler, Step, is_decode
from sim.serving.usage import sum_blocks
from sim.serving.workload.feed import Feed

NO_CHUNKS: list[Chunk] = []


class Driver(Protocol):
    """What the fast path asks of the engine that it runs for."""

    index: int
    feed: Feed
    recorder: Recorder
    price: StepPrice
    env: Clock
    scheduler: Scheduler
    inbox: list[Request]
    step: Step | None
    is_measuring: bool
    window_is_due: bool
    grown_tokens_ps: int

    def begin(self, now: int) -> None: ...

    def receive(self, request: Request) -> None: ...

    def wait_for(self, step: Step) -> None: ...

    def plan_at(self, time_ps: int) -> None: ...

    def idle(self) -> None: ...


class FastPath:
    """Runs an engine on lent ground."""

    def __init__(self, ground: Ground, *, is_only_engine: bool) -> None:
        self.ground = ground
        self.is_only_engine = is_only_engine
        self.is_under_way = False
        self._work = NO_CHUNKS  # prompt chunks of the step under way, priced as decodes or not

    def give_back(self) -> None:
        """The scheduler's state is its own again."""
        ground = self.ground
        if ground.is_lent:
            ground.is_lent = False
            ground.leave(ground)

    def run(self, engine: Driver, now: int) -> bool:
        """From here on until the engine is idle or waits for an event; False: the scheduler has to plan
        the step."""
        ground = self.ground
        if not ground.is_lent:
            if not ground.enter(ground):
                return False
            ground.is_lent = True
        feed, recorder, price, batch = engine.feed, engine.recorder, engine.price, ground.batch
        waiting, running, counts, ends, end_steps = (
            ground.waiting, ground.running, batch.counts, batch.ends, batch.end_steps
        )  # fmt: skip
        size, max_running, max_tokens, watermark = (
            ground.block_size, ground.max_running, ground.max_num_batched_tokens, ground.watermark
        )  # fmt: skip
        longest, takes_all, gates_all, cuts, is_alone, chunked = (
            ground.max_model_len, ground.takes_whole_prompt, ground.gates_whole_prompt, ground.cuts_answers,
            ground.is_alone, ground.enable_chunked_prefill,
        )  # fmt: skip
        most_tokens, index, num_blocks = ground.num_blocks * size + 1, engine.index, ground.num_blocks
        must_see_all, has_triggers, inbox = feed.must_see_all, feed.has_triggers, engine.inbox
        arrival_ps, first_scheduled_ps, replica = (
            recorder.arrival_ps, recorder.first_scheduled_ps, recorder.replica
        )  # fmt: skip
        first_token_ps, finish_ps, generated_tokens, status = (
            recorder.first_token_ps, recorder.finish_ps, recorder.generated_tokens, recorder.status
        )  # fmt: skip
        extend_rows, pack, step_ps, decode_run = (
            recorder.segments.extend, pack_segment, price.step_ps, price.decode_run
        )  # fmt: skip
        done, count, context, free = batch.step, batch.num_decoding, batch.num_context_tokens, ground.free
        num_admissions, grown_tokens_ps = ground.num_admissions, engine.grown_tokens_ps
        partial = next(iter(ground.prefilling.values()), None)
        is_only, peek, work = self.is_only_engine, engine.env.peek, self._work
        half_done = [chunk[3] for chunk in work] if self.is_under_way else ground.prefilling.values()
        unfilled = sum([request.target - request.num_computed_tokens for request in half_done])
        started = steps = first = growth = num_decode = shown_context = num_prefill = prefill_tokens = 0
        held = wanted = used = 0
        suspended = engine.step if self.is_under_way else None
        if suspended is not None:
            started, steps, first, growth = (
                suspended.started_ps, suspended.num_steps, suspended.first_ps, suspended.growth_ps
            )  # fmt: skip
            num_decode, shown_context = suspended.num_decode, suspended.context_tokens
            num_prefill, prefill_tokens = suspended.num_prefill, suspended.prefill_tokens
            held, wanted, used, _ = suspended.levels
            engine.step, self.is_under_way, self._work = None, False, NO_CHUNKS
        while True:
            # What ran is over: ``count`` sequences decoded ``steps`` times, or once beside ``work``.
            if steps:
                extend_rows(
                    pack(
                        index, started, steps, first, growth, num_decode, shown_context, num_prefill,
                        prefill_tokens, len(running), len(waiting), 0, held, wanted, used, 0,
                    )
                )  # fmt: skip
                if count:
                    if steps > 1:
                        if steps > size:
                            held_ps, taken = sum_blocks(counts, done % size, first, growth, steps)
                        else:
                            start = (done + 1) % size
                            last = start + steps - 1
                            if last <= size:
                                growing = counts[start:last]
                            else:
                                growing = counts[start:] + counts[: last - size]
                            time_ps = first + growth
                            taken = held_ps = 0
                            for need in growing:
                                taken += need
                                held_ps += taken * time_ps
                                time_ps += growth
                        grown_tokens_ps += held_ps * size
                        free -= taken
                    done += steps
                    context += count * steps
                    finished = ends.pop(done - 1, None)
                    if finished is not None:
                        heappop(end_steps)
                        for request in finished:
                            tokens = request.end_tokens
                            free += (tokens - 2) // size + 1
                            counts[request.phase] -= 1
                            count -= 1
                            context -= tokens
                            del running[request.order]
                            row = request.id
                            finish_ps[row] = now
                            generated_tokens[row] = tokens - request.num_prompt_tokens
                            status[row] = FINISHED
                            request.is_ended = True
                            if has_triggers:
                                feed.on_end(request, now)
                if work:
                    partial = None
                    for queries, cached, samples, request in work:
                        unfilled -= queries
                        computed = request.num_computed_tokens = cached + queries
                        if not samples:
                            partial = request
                            continue
                        request.num_tokens = tokens = request.num_tokens + 1
                        row = request.id
                        if first_token_ps[row] < 0:
                            first_token_ps[row] = now
                        left = request.end_tokens - tokens
                        if left:
                            request.settled_step = done
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
                            continue
                        free += (computed - 1) // size + 1
                        del running[request.order]
                        finish_ps[row] = now
                        generated_tokens[row] = tokens - request.num_prompt_tokens
                        status[row] = FINISHED
                        request.is_ended = True
                        if has_triggers:
                            feed.on_end(request, now)
                    work = NO_CHUNKS
            # Who has come.
            if feed.next_ps <= now or inbox or engine.window_is_due:
                if not engine.is_measuring or engine.window_is_due:  # the measured window may begin here
                    engine.grown_tokens_ps = grown_tokens_ps
                    engine.begin(now)
                    grown_tokens_ps = engine.grown_tokens_ps
                for request in inbox:
                    engine.scheduler.add(request)
                inbox.clear()
                while feed.next_ps <= now:
                    request = feed.take()
                    end_tokens = request.end_tokens
                    if end_tokens > longest and cuts and request.num_prompt_tokens < longest:
                        request.end_tokens = end_tokens = longest
                    if end_tokens > longest or end_tokens > most_tokens or request.max_tokens < 1:
                        engine.receive(request)
                        continue
                    row = request.id
                    arrival_ps[row] = request.arrival
                    replica[row] = index
                    request.is_alone = request.registers_late = is_alone
                    waiting.append(request)
            # What is next.
            need = counts[done % size] if count else 0
            more = 0
            if partial is not None and not takes_all:
                tokens = min(partial.num_tokens - partial.num_computed_tokens, max_tokens - count)
                more = -(-(partial.num_computed_tokens + tokens) // size) - partial.reserved
            if need + more > free or count > max_tokens - (partial is not None):
                break  # somebody has to be preempted, or to wait: the scheduler plans it
            free -= need
            is_refused = False
            prefill_tokens = num_prefill = 0
            if waiting or partial is not None:
                work = []
                budget = max_tokens - count
                if partial is not None:
                    tokens = partial.num_tokens - partial.num_computed_tokens
                    queries = tokens if tokens <= budget else budget
                    if not takes_all:
                        free -= more
                        partial.reserved += more
                    work.append((queries, partial.num_computed_tokens, queries == tokens, partial))
                    budget -= queries
                    prefill_tokens = queries
                while budget > 0 and waiting and len(running) < max_running:
                    head = waiting[0]
                    tokens = queries = head.num_tokens
                    if tokens > budget:
                        if not chunked:
                            is_refused = True
                            break
                        queries = budget
                    whole = (tokens - 1) // size + 1
                    more = whole if takes_all else (queries - 1) // size + 1
                    if (whole if gates_all else more) + (watermark if running else 0) > free:
                        is_refused = True
                        break
                    waiting.popleft()
                    free -= more
                    head.reserved = more
                    num_admissions += 1
                    head.order = num_admissions
                    head.status = Status.RUNNING
                    head.num_computed_tokens = 0
                    head.target = tokens
                    running[num_admissions] = head
                    if first_scheduled_ps[head.id] < 0:
                        first_scheduled_ps[head.id] = now
                    unfilled += tokens
                    work.append((queries, 0, queries == tokens, head))
                    budget -= queries
                    prefill_tokens += queries
            elif not count:
                break
            num_decode, shown_context = count, context
            if work:
                priced = work
                if partial is not None:
                    queries, cached = work[0][:2]
                    if queries == 1 and is_decode(queries, cached):
                        num_decode += 1
                        shown_context += cached + 1
                        prefill_tokens -= 1
                        priced = work[1:]
                num_prefill = len(priced)
                steps, growth = 1, 0
                first = step_ps(num_decode, shown_context, priced)
                end = now + first
            elif not count:
                break
            else:
                first, growth, steps = decode_run(count, context)
                until_end = (end_steps[0] if ends.get(end_steps[0]) else self._first_end(batch)) - done + 1
                if until_end < steps:
                    steps = until_end
                if is_refused and not gates_all:  # a shorter chunk of it may fit soon
                    steps = 1
                if steps == 1:
                    end = now + first
                else:
                    if count * (steps // size + 1) > free:
                        batch.step, batch.num_decoding = done, count
                        steps = batch.steps_to_shortage(steps, free + need)
                    limit = feed.next_ps
                    is_full = waiting or len(running) >= max_running
                    if is_full and not must_see_all and engine.is_measuring:
                        limit = NEVER
                    end = now + steps * first + growth * (steps * (steps - 1) // 2)
                    if end > limit:
                        steps = steps_until(first, growth, limit - now, steps)
                        end = now + steps * first + growth * (steps * (steps - 1) // 2)
            started = now
            used = (num_blocks - free) * size
            held = context + (partial.num_computed_tokens if partial is not None else 0)
            if takes_all:
                wanted = held + unfilled
            else:
                wanted = held = held + sum([chunk[0] for chunk in work])
            if not is_only and end >= peek():
                self._suspend(engine, Step(
                    num_decode=num_decode, context_tokens=shown_context, num_prefill=num_prefill,
                    prefill_tokens=prefill_tokens, levels=(held, wanted, used, 0), num_steps=steps,
                    started_ps=started, first_ps=first, growth_ps=growth,
                ), work)  # fmt: skip
                break
            now = end
        batch.step, batch.num_decoding, batch.num_context_tokens = done, count, context
        ground.free, ground.num_admissions, engine.grown_tokens_ps = free, num_admissions, grown_tokens_ps
        ground.prefilling.clear()
        if partial is not None:
            ground.prefilling[partial.order] = partial
        if self.is_under_way:
            return True
        self.give_back()
        if now == engine.env.now_ps and engine.scheduler.num_unfinished:
            return False
        if engine.scheduler.num_unfinished:
            engine.plan_at(now)
        else:
            engine.idle()
        return True

    def _suspend(self, engine: Driver, step: Step, work: list[Chunk]) -> None:
        """Something may happen before the step is over: an event at its end."""
        self.is_under_way, self._work = True, work
        engine.wait_for(step)

    def _first_end(self, batch: DecodeBatch) -> int:
        """Where the soonest end was that of a request which was preempted: the next one."""
        while not batch.ends.get(batch.end_steps[0]):
            batch.ends.pop(heappop(batch.end_steps), None)
        return batch.end_steps[0]
