"""The common case, written out: one replica, continuous batching over paged KV, decodes first, no time-outs.

Decisions and state are ``SkippingEngine``'s. Here they are one loop over local variables, because calls and
attribute traffic were most of the time (``benchmarks/``), and decisions that nothing else can fall between
are one SimPy event: with a single replica that is from an arrival at an idle engine until it is idle again.
The tests run all engines on the same workloads.
"""

from __future__ import annotations

from heapq import heappop, heappush

from sim.records import FINISHED
from sim.serving.jumping import steps_until
from sim.serving.kv.paged import PagedKV
from sim.serving.recorder import pack_segment
from sim.serving.sequence import NEVER
from sim.serving.skipping import NO_CHUNKS, SkippingEngine
from sim.serving.usage import sum_blocks


class HotPathEngine(SkippingEngine):
    """``SkippingEngine`` without block map, time-outs, prefill-first order, static batches and router."""

    def _decide(self, now: int) -> None:
        """From a request that finds the engine idle until it is idle again."""
        env, feed, recorder, pool, price = self.env, self.feed, self.recorder, self.kv, self.price
        assert isinstance(pool, PagedKV)
        waiting, running, ends, phase_counts = self.waiting, self.running, self.ends, self.phase_counts
        period, max_num_seqs, max_tokens = self.period, self.max_num_seqs, self.max_num_batched_tokens
        total_blocks, watermark, longest = pool.total, pool.watermark, self.limits.max_model_len
        chunked, must_see_all, has_triggers = (
            self.limits.enable_chunked_prefill, feed.must_see_all, feed.has_triggers
        )  # fmt: skip
        arrival_ps, first_scheduled_ps = recorder.arrival_ps, recorder.first_scheduled_ps
        first_token_ps, finish_ps = recorder.first_token_ps, recorder.finish_ps
        generated_tokens, status, replica = recorder.generated_tokens, recorder.status, recorder.replica
        extend_rows, pack, step_ps, decode_run = (
            self.extend_rows, pack_segment, price.step_ps, price.decode_run
        )  # fmt: skip
        step, num_decode, context, partial = self.step, self.num_decode, self.context, self.partial
        extra_held, unfilled, free = self.extra_held, self.unfilled, pool.free
        admissions, grown_tokens_ps = self.admissions, self.grown_tokens_ps
        num_events = self.num_events
        chunks = NO_CHUNKS
        count = steps = first = growth = 0
        while True:
            # What ran is over: ``count`` sequences decoded ``steps`` times, or once beside ``chunks``.
            if count:
                if steps > 1:
                    if steps > period:
                        held_ps, used = sum_blocks(phase_counts, step % period, first, growth, steps)
                    else:
                        start = (step + 1) % period
                        last = start + steps - 1
                        if last <= period:
                            taken = phase_counts[start:last]
                        else:
                            taken = phase_counts[start:] + phase_counts[: last - period]
                        time_ps = first + growth
                        used = held_ps = 0
                        for need in taken:
                            used += need
                            held_ps += used * time_ps
                            time_ps += growth
                    grown_tokens_ps += held_ps * period
                    free -= used
                step += steps
                context += num_decode * steps
            while ends and ends[0][0] <= step:
                _, order, sequence = heappop(ends)
                if sequence.order != order:
                    continue
                request = sequence.id
                tokens = sequence.prompt_tokens + sequence.output_tokens
                free += (tokens - 2) // period + 1
                phase_counts[sequence.phase] -= 1
                num_decode -= 1
                context -= tokens
                del running[sequence]
                finish_ps[request] = now
                generated_tokens[request] = sequence.output_tokens
                status[request] = FINISHED
                sequence.is_ended = True
                if has_triggers:
                    feed.on_end(sequence, now)
            if chunks:
                partial = None
                for queries, cached, samples, sequence in chunks:
                    unfilled -= queries
                    if not samples:
                        sequence.computed += queries
                        extra_held += queries
                        partial = sequence
                        continue
                    extra_held -= cached
                    sequence.generated = generated = sequence.generated + 1
                    request = sequence.id
                    if first_token_ps[request] < 0:
                        first_token_ps[request] = now
                    left = sequence.output_tokens - generated
                    if left:
                        target = sequence.target
                        sequence.end_step = step + left
                        heappush(ends, (step + left, sequence.order, sequence))
                        num_decode += 1
                        context += target + 1
                        sequence.phase = phase = (step - target) % period
                        phase_counts[phase] += 1
                        continue
                    free += sequence.reserved
                    sequence.reserved = 0
                    del running[sequence]
                    finish_ps[request] = now
                    generated_tokens[request] = generated
                    status[request] = FINISHED
                    sequence.is_ended = True
                    if has_triggers:
                        feed.on_end(sequence, now)
                chunks = NO_CHUNKS
            # Who has come.
            while feed.next_ps <= now:
                if not self.is_measuring:  # the measured window may begin here
                    self.grown_tokens_ps = grown_tokens_ps
                    self._begin(now)
                    grown_tokens_ps = self.grown_tokens_ps
                    break
                sequence = feed.take()
                tokens = sequence.prompt_tokens + sequence.output_tokens
                if tokens > longest or not pool.can_ever_fit(sequence):
                    self.receive(sequence)
                    continue
                request = sequence.id
                arrival_ps[request] = sequence.arrival_ps
                replica[request] = 0
                waiting.append(sequence)
            # What is next.
            count = num_decode
            is_single = False
            if count:
                need = phase_counts[step % period]
                if need <= free:
                    free -= need
                else:
                    self.step, self.num_decode, self.context, self.partial = (
                        step,
                        num_decode,
                        context,
                        partial,
                    )
                    self.extra_held, self.unfilled, pool.free = extra_held, unfilled, free
                    is_single = self._grow_first(now, need)
                    num_decode, context, partial = self.num_decode, self.context, self.partial
                    extra_held, unfilled, free = self.extra_held, self.unfilled, pool.free
                    count = num_decode
            prefill_tokens = 0
            if (waiting or partial is not None) and not is_single:
                chunks = []
                budget = max_tokens - count
                if partial is not None:
                    left = partial.target - partial.computed
                    queries = left if left <= budget else budget
                    chunks.append((queries, partial.computed, queries == left, partial))
                    budget -= queries
                    prefill_tokens = queries
                while budget > 0 and waiting and len(running) < max_num_seqs:
                    head = waiting[0]
                    tokens = queries = head.prompt_tokens + head.generated
                    need = (tokens - 1) // period + 1
                    if need + (watermark if running else 0) > free:
                        break
                    if tokens > budget:
                        if not chunked:
                            break
                        queries = budget
                    waiting.popleft()
                    free -= need
                    head.reserved = need
                    admissions += 1
                    head.order = admissions
                    head.computed = 0
                    head.target = tokens
                    running[head] = None
                    if first_scheduled_ps[head.id] < 0:
                        first_scheduled_ps[head.id] = now
                    unfilled += tokens
                    chunks.append((queries, 0, queries == tokens, head))
                    budget -= queries
                    prefill_tokens += queries
            elif not count:
                break
            num_running = len(running)
            if chunks:
                steps, growth = 1, 0
                first = step_ps(count, context, chunks)
                end = now + first
            else:
                first, growth, steps = decode_run(count, context)
                soonest = ends[0]
                until_end = (soonest[0] if soonest[2].order == soonest[1] else self._next_end()) - step
                if until_end < steps:
                    steps = until_end
                if is_single:
                    steps = 1
                if steps == 1:
                    end = now + first
                else:
                    if count * (steps // period + 1) > free:
                        self.step, self.num_decode, pool.free = step, num_decode, free
                        steps = self._steps_with_blocks(steps)
                    limit = feed.next_ps
                    is_full = waiting or num_running >= max_num_seqs
                    if is_full and not must_see_all and self.is_measuring:
                        limit = NEVER
                    end = now + steps * first + growth * (steps * (steps - 1) // 2)
                    if end > limit:
                        steps = steps_until(first, growth, limit - now, steps)
                        end = now + steps * first + growth * (steps * (steps - 1) // 2)
            held = context + extra_held
            extend_rows(
                pack(
                    0, now, steps, first, growth, count, context, len(chunks), prefill_tokens, num_running,
                    len(waiting), 0, held, held + unfilled, (total_blocks - free) * period, 0,
                )
            )  # fmt: skip
            num_events += 1
            now = end
        self.step, self.num_decode, self.context, self.partial = step, num_decode, context, partial
        self.extra_held, self.unfilled, pool.free = extra_held, unfilled, free
        self.admissions, self.grown_tokens_ps, self.num_events = admissions, grown_tokens_ps, num_events
        env.pass_to(now)
        self._idle()
