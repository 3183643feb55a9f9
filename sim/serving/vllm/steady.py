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

from collections.abc import Collection
from operator import attrgetter

from sim.errors import InvariantError
from sim.serving.decoding import DecodeBatch
from sim.serving.request import Request, Status
from sim.serving.vllm.groups import GroupedKVBlocks
from sim.serving.vllm.plan import Plan
from sim.serving.vllm.state import State

by_order = attrgetter("order")


class SteadyDecode(DecodeBatch):
    """The running requests: those that decode in step, and beside them those in mid-prefill."""

    members: list[dict[int, Request]]

    def __init__(self, state: State) -> None:
        super().__init__(state.limits.block_size, lists_members=True)
        self._state = state
        self.prefilling: dict[int, Request] = {}
        self.registrars: dict[int, Request] = {}
        self._is_planned = False
        self.is_stuck = False
        """The head of the queue did not fit, and that lasts until somebody ends."""

    def join(self, request: Request) -> None:
        """A running request, as it stands between two steps."""
        if request.is_prefill_chunk:
            self.prefilling[request.order] = request
            return
        super().join(request)
        num_full = request.end_tokens // self.period if request.path else 0
        if num_full > request.num_registered_blocks and not request.registers_late:
            self.registrars[request.order] = request

    def leave(self, request: Request) -> None:
        """Settles a request that stops running, and registers what its output has filled."""
        self.is_stuck = False
        if self.prefilling.pop(request.order, None) is None:
            super().leave(request)

    def part(self, request: Request) -> None:
        super().part(request)
        self.registrars.pop(request.order, None)
        self._register(request)

    def _register(self, request: Request) -> None:
        done = request.num_tokens if self._is_planned else request.num_computed_tokens
        self._state.kv.register(request, done)

    def register_promptly(self, request: Request) -> None:
        """From now on somebody might look this request's output up: no block's hash may wait."""
        request.registers_late = False
        if request.end_step >= 0:
            self.settle(request)
            self._register(request)
            self.registrars[request.order] = request

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

    # one step

    def schedule(self) -> Plan | None:
        """Plans a step; None, with nothing changed, if it has to be planned request by request."""
        state, limits = self._state, self._state.limits
        budget = limits.max_num_batched_tokens - self.num_decoding
        if budget < 0:
            return None
        plan = Plan(budget=budget, threshold=state.threshold(), running=state.running)
        phase = self.members[self.step % self.period]
        registrars = self._due_registrars() if self.registrars else ()
        if self.prefilling or registrars or len(phase) > state.kv.pool.num_free:
            if self._chunks_take_from_decodes(plan) or self._is_short(plan, phase):
                return None
            self.is_stuck = False
            asked = {*phase.values(), *self.prefilling.values(), *registrars}
            state.schedule_running(plan, sorted(asked, key=by_order))
        elif phase:
            growing = list(phase.values())
            plan.grown = growing, self._grow(growing)
        plan.num_uniform = self.num_decoding
        if not plan.preempted and state.waiting and not self.is_stuck:
            is_refused = state.schedule_waiting(plan)
            is_lasting = limits.scheduler_reserve_full_isl and limits.policy != "user"
            self.is_stuck = is_refused and not plan.chosen and is_lasting
        self._is_planned = True
        return plan

    def _chunks_take_from_decodes(self, plan: Plan) -> bool:
        """Whether half-done prefills would use the budget up ahead of a decode that comes after them."""
        wanted = sum([self._state.tokens_wanted(plan, one) for one in self.prefilling.values()])
        newest = reversed(self._state.running.values())
        return wanted > plan.budget and not all(next(newest).is_prefill_chunk for _ in self.prefilling)

    def _is_short(self, plan: Plan, phase: dict[int, Request]) -> bool:
        """Whether a request that decodes in the midst of the others might have to be preempted.

        Under fcfs it is always the latest admitted: all who come after somebody preempted are as well.
        """
        state, size = self._state, self.period
        if state.limits.policy == "fcfs":
            return False
        need = len(phase) + sum(
            -(-(one.num_computed_tokens + state.tokens_wanted(plan, one)) // size) - len(one.blocks)
            for one in self.prefilling.values()
        )
        return need > state.kv.pool.num_free

    def _grow(self, requests: Collection[Request]) -> list[int]:
        """A block for each of these requests, in this order."""
        taken = self._state.kv.pool.take(len(requests))
        for request, block in zip(requests, taken, strict=True):
            request.blocks.append(block)
        return taken

    def _due_registrars(self) -> list[Request]:
        """Those whose blocks are registered at once and that fill one in this step."""
        size, step, those = self.period, self.step, self.registrars.values()
        return [one for one in those if (one.num_tokens + step - one.settled_step) % size == 0]

    def update(self, plan: Plan) -> list[Request]:
        """Takes a step's tokens in; returns the requests that finished, in scheduling order."""
        self._is_planned = False
        finished = self.take_steps(1)
        for request in plan.emitting:  # the token that ends a prefill
            if request.status is Status.RUNNING:
                self.prefilling.pop(request.order, None)
                request.num_tokens += 1
                if request.num_tokens >= request.end_tokens:
                    finished.append(request)
                else:
                    self.join(request)
        for request in plan.partial:
            if request.status is Status.RUNNING:
                self.prefilling[request.order] = request
        return self._finish(finished)

    def _finish(self, finished: list[Request]) -> list[Request]:
        """Frees those who made their last token, in order of admission."""
        if finished:
            self.is_stuck = False
            finished.sort(key=by_order)
            for request in finished:
                self._state.finish(request)
        return finished

    # many steps

    def uniform_steps(self) -> int:
        """For how many steps from now on nothing but decoding happens, if nothing arrives or is aborted.

        No admission, no shortage of blocks, no prefill, no hash registered that a waiting request could
        wait for, and no end but in the last step.
        """
        limits, count = self._state.limits, self.num_decoding
        if not count or self.prefilling or count > limits.max_num_batched_tokens:
            return 0
        is_full = count == limits.max_num_batched_tokens or count >= limits.max_running
        if self._state.waiting and not is_full and (self.registrars or not self.is_stuck):
            return 0  # somebody might be admitted
        return self.steps_that_stand(self._state.kv.pool.num_free)

    def advance(self, num_steps: int) -> list[Request]:
        """Takes so many uniform steps at once, with the effect of as many single ones; who finished."""
        if num_steps > self.uniform_steps():
            raise InvariantError(f"{num_steps} steps at once, {self.uniform_steps()} are uniform")
        first, size, phases = self.step, self.period, self.members
        growing: list[Request] = []
        for step in range(first, first + num_steps):
            growing += phases[step % size].values()
            if self.registrars:  # blocks are taken and registered in turn, step by step
                self._grow(growing)
                growing.clear()
                self.step = step
                for request in self._due_registrars():
                    self.settle(request)
                    self._state.kv.register(request, request.num_tokens)
        self._grow(growing)
        self.step = first
        return self._finish(self.take_steps(num_steps))


class GroupedSteadyDecode(SteadyDecode):
    """Over several KV-cache groups: a step asks only those that need blocks, fill one, or give some back.

    Every step is planned by itself: what is saved is asking the many for whom nothing changes.
    """

    def __init__(self, state: State, kv: GroupedKVBlocks, *, registers: bool) -> None:
        super().__init__(state)
        size, leaves_at = self.period, [kind.leaves_at for kind in kv.kinds if kind.recycles]
        # A request in phase p has a multiple of the block size of computed tokens in the steps of its phase.
        shifts = {0, *(-at % size for at in leaves_at if at is not None)}
        if registers:
            shifts.add(1 % size)  # in the step before that it fills a block, which others may find
        self._shifts = tuple(range(size)) if None in leaves_at else tuple(sorted(shifts))
        self._num_groups = len(kv.kinds)
        self._newest: list[Request] = []  # since the last step: its prompt may have passed windows

    def join(self, request: Request) -> None:
        super().join(request)
        if not request.is_prefill_chunk:
            self.registrars[request.order] = request
            self._newest.append(request)

    def _due_registrars(self) -> list[Request]:
        """Who needs blocks in this step, fills one, or has one pass out of its reach."""
        step, size = self.step, self.period
        due = [one for shift in self._shifts for one in self.members[(step + shift) % size].values()]
        return due + [one for one in self._newest if one.end_step >= 0]

    def _is_short(self, plan: Plan, phase: dict[int, Request]) -> bool:
        """Counted without the blocks that are given back: where that is too little, each is planned for."""
        state, size = self._state, self.period
        if state.limits.policy == "fcfs":
            return False
        need = len(phase) + sum(
            -(-(one.num_computed_tokens + state.tokens_wanted(plan, one)) // size) - len(one.blocks)
            for one in self.prefilling.values()
        )
        return need * self._num_groups > state.kv.pool.num_free

    def schedule(self) -> Plan | None:
        """(Where a window passes blocks somebody is due, so that the head of the queue is asked again.)"""
        plan = super().schedule()
        self._newest.clear()
        return plan

    def uniform_steps(self) -> int:
        """No steps are skipped."""
        return 0


def steady_decode(state: State, *, registers: bool) -> SteadyDecode:
    """The decode batch of the state's KV groups. ``registers``: others may find what a request made."""
    kv = state.kv
    if isinstance(kv, GroupedKVBlocks):
        return GroupedSteadyDecode(state, kv, registers=registers)
    return SteadyDecode(state)
