"""Steps of steady decode: each costs only what changes in it, and many can be taken at once.

Used with synchronous scheduling, without drafts and with ``prefill_schedule_interval`` 1. Where a step
needs more than this (priority preemption, a budget too small for every decode, a chunk ahead of decodes
that uses the budget up) ``schedule`` returns None, ``dissolve`` settles everybody, and the step is
planned request by request. Both ways lead to the same state: tests compare them.

Blocks are given out in order of admission, so the decode batch lists who grows in each phase. The blocks that
a request's output fills get their hash when somebody could see it: at its end, at its preemption, or at once,
if another request's tokens repeat its output (``registrars``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter

from sim.serving.decoding import DecodeBatch
from sim.serving.request import Request, Status
from sim.serving.vllm.phases import schedule_waiting
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State

by_order = attrgetter("order")


class DecodingGroup(DecodeBatch):
    """The running requests, split into those that decode in step and those in mid-prefill."""

    members: list[dict[int, Request]]

    def __init__(self, state: State) -> None:
        super().__init__(state.limits.block_size, lists_members=True)
        self._state = state
        self._block_size = state.limits.block_size
        self.prefilling: dict[int, Request] = {}
        self.registrars: dict[int, Request] = {}
        self._is_planned = False
        self.is_stuck = False

    def join(self, request: Request) -> None:
        """A running request, as it stands between two steps."""
        if request.is_prefill_chunk:
            self.prefilling[request.order] = request
            return
        super().join(request)
        num_full = request.end_tokens // self._block_size if request.path else 0
        if num_full > request.num_registered_blocks and not request.registers_late:
            self.registrars[request.order] = request

    def leave(self, request: Request) -> None:
        """Settles a request that stops running, and registers what its output has filled."""
        if self.prefilling.pop(request.order, None) is None:
            super().leave(request)

    def part(self, request: Request) -> None:
        """See ``DecodeBatch``."""
        super().part(request)
        self.registrars.pop(request.order, None)
        self._register(request)

    def is_decoding(self, request: Request) -> bool:
        """Whether the request's counts stand still because it decodes in step."""
        return request.end_step >= 0

    def _register(self, request: Request) -> None:
        done = request.num_tokens if self._is_planned else request.num_computed_tokens
        self._state.kv.register(request, done)

    def register_promptly(self, request: Request) -> None:
        """From now on somebody might look this request's output up: no block's hash may wait."""
        request.registers_late = False
        if self.is_decoding(request):
            self.settle(request)
            self._register(request)
            self.registrars[request.order] = request

    def look_again(self, *, new: bool = False) -> None:
        """The head of the queue may be another one, or might fit now (``new``: a request was queued)."""
        limits = self._state.limits
        if not new or limits.policy != "fcfs" or limits.long_prefill_token_threshold:
            self.is_stuck = False

    def dissolve(self) -> None:
        """Settles everybody: the next step is planned request by request."""
        for phase in self.members:
            for request in phase.values():
                self.settle(request)
                self._register(request)
                request.end_step = -1
        self.clear()
        self.prefilling.clear()
        self.registrars.clear()
        self.is_stuck = False

    def gather(self, running: Iterable[Request]) -> None:
        """Takes up the running requests after such a step."""
        for request in running:
            self.join(request)

    def chunks(self) -> Iterable[Request]:
        """The running requests in mid-prefill."""
        return self.prefilling.values()


class SteadyDecode(DecodingGroup):
    """Plans steps in which every decoding request computes one token."""

    def schedule(self) -> Plan | None:
        """Plans a step; None, with nothing changed, if it has to be planned request by request."""
        state, limits = self._state, self._state.limits
        plan = Plan(limits.max_num_batched_tokens, state.threshold())
        plan.budget -= self.num_decoding
        if plan.budget < 0:
            return None
        chunks = self._chunk_tokens(plan)
        if chunks is None:
            return None
        phase = self.members[self.step % self._block_size]
        registrars = self._due_registrars() if self.registrars else ()
        if registrars:
            self.is_stuck = False
        if not chunks and not registrars and len(phase) <= state.kv.pool.num_free:
            if phase:
                growing = list(phase.values())
                plan.grown = growing, self._grow(growing)
        elif not self._grow_in_order(plan, phase, chunks, registrars):
            return None
        plan.count_uniform(self.num_decoding, state.running)
        if not plan.preempted and state.waiting and not self.is_stuck:
            is_refused = schedule_waiting(state, plan)
            is_lasting = limits.scheduler_reserve_full_isl and limits.policy != "user"
            self.is_stuck = is_refused and not plan.chosen and is_lasting
        self._is_planned = True
        return plan

    def _grow(self, requests: Collection[Request]) -> list[int]:
        """A block for each of these requests, in this order."""
        taken = self._state.kv.pool.take(len(requests))
        for request, block in zip(requests, taken, strict=True):
            request.blocks.append(block)
        return taken

    def _chunk_tokens(self, plan: Plan) -> dict[Request, int] | None:
        """Tokens of each half-done prefill; None if one would take the budget of decodes after it."""
        if not self.prefilling:
            return {}
        self.is_stuck = False
        chosen, budget, max_model_len = {}, plan.budget, self._state.limits.max_model_len
        wanted = 0
        for order in sorted(self.prefilling):
            request = self.prefilling[order]
            tokens = request.num_tokens - request.num_computed_tokens
            if 0 < plan.threshold < tokens:
                tokens = plan.threshold
            tokens = min(tokens, max_model_len - request.num_computed_tokens - 1)
            wanted += tokens
            if min(tokens, budget) > 0:
                chosen[request] = min(tokens, budget)
                budget -= chosen[request]
        if wanted > plan.budget and not self._chunks_are_last():
            return None
        return chosen

    def _chunks_are_last(self) -> bool:
        newest = reversed(self._state.running.values())
        return all(next(newest).is_prefill_chunk for _ in self.prefilling)

    def _due_registrars(self) -> list[Request]:
        """Those whose blocks are registered at once and that fill one in this step."""
        size, step = self._block_size, self.step
        return [
            request
            for request in self.registrars.values()
            if (request.num_tokens + step - request.settled_step) % size == 0
        ]

    def _grow_in_order(
        self, plan: Plan, phase: dict[int, Request], chunks: dict[Request, int], registrars: Iterable[Request]
    ) -> bool:
        """Requests that need a block, or register one, in order of admission; False: not possible here.

        Under fcfs the latest admitted is preempted where blocks run out, so that all who come after
        somebody preempted are preempted as well.
        """
        state, size = self._state, self._block_size
        pool = state.kv.pool
        need = len(phase) + sum(
            -(-(request.num_computed_tokens + tokens) // size) - len(request.blocks)
            for request, tokens in chunks.items()
        )
        if need > pool.num_free and state.limits.policy != "fcfs":
            return False
        for request in sorted({*phase.values(), *chunks, *registrars}, key=by_order):
            if request.status is not Status.RUNNING:
                break
            tokens = chunks.get(request)
            if tokens is None:
                self.settle(request)
            while (fresh := state.kv.extend(request, tokens or 1)) is None:
                victim = state.victim()
                self._preempt(plan, victim)
                if victim is request:
                    return True
            if tokens is not None:
                plan.choose(request, tokens, fresh)
            elif fresh:
                plan.give(request, fresh)
        return True

    def _preempt(self, plan: Plan, request: Request) -> None:
        self.is_stuck = False
        if not request.is_prefill_chunk:
            plan.budget += 1
        self.leave(request)
        self._state.preempt(plan, request)

    def update(self, plan: Plan) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished, in scheduling order."""
        self._is_planned = False
        finished = self.take_steps(1)
        for request in plan.emitting():
            if request.status is Status.RUNNING:
                self._append_first(request, finished)
        for request in plan.partial:
            if request.status is Status.RUNNING:
                self.prefilling[request.order] = request
        self._finish(finished)
        return finished

    def _finish(self, finished: list[Request]) -> None:
        """Frees those who made their last token, in order of admission."""
        if finished:
            self.is_stuck = False
            finished.sort(key=by_order)
            for request in finished:
                self._state.finish(request)

    def _append_first(self, request: Request, finished: list[Request]) -> None:
        """The token that ends a prefill."""
        self.prefilling.pop(request.order, None)
        request.num_tokens += 1
        if request.num_tokens >= request.end_tokens:
            finished.append(request)
        else:
            self.join(request)

    # many steps

    def uniform_steps(self) -> int:
        """For how many steps from now on nothing but decoding happens, if nothing arrives or is aborted.

        No admission, no shortage of blocks, no prefill, no hash registered that a waiting request could
        wait for, and no end but in the last step.
        """
        if not self.num_decoding or self.prefilling or not self._queue_is_still():
            return 0
        if self.num_decoding > self._state.limits.max_num_batched_tokens:
            return 0
        return self.steps_to_shortage(self.steps_to_first_end(), self._state.kv.pool.num_free)

    def _queue_is_still(self) -> bool:
        """Nobody can be admitted until a running request ends."""
        state, limits = self._state, self._state.limits
        if not state.waiting or len(state.running) >= limits.max_running:
            return True
        if self.num_decoding >= limits.max_num_batched_tokens:
            return True
        return self.is_stuck and not self.registrars

    def advance(self, num_steps: int) -> list[Request]:
        """Takes so many uniform steps at once, with the effect of as many single ones; who finished."""
        first, size, phases = self.step, self._block_size, self.members
        if self.registrars:
            for step in range(first, first + num_steps):
                self.step = step
                self._grow(phases[step % size].values())
                for request in self._due_registrars():
                    self.settle(request)
                    self._state.kv.register(request, request.num_tokens)
        else:
            growing: list[Request] = []
            for step in range(first, first + num_steps):
                growing += phases[step % size].values()
            self._grow(growing)
        self.step = first
        finished = self.take_steps(num_steps)
        self._finish(finished)
        return finished
