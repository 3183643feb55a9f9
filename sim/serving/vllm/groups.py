"""The running requests in steady decode: who decodes in step, who is in mid-prefill.

While requests decode, each computes one token per step. So their counts are not touched:

- ``step`` counts the steps; a request has grown by ``step - settled_step`` tokens since it was settled;
- it needs a block whenever ``step`` is congruent to its phase modulo ``block_size``, so requests lie in
  one dictionary per phase, by order of admission, the order in which blocks are given out;
- the step in which it makes its last token is known when it begins to decode (``ends``);
- the blocks that its output fills get their hash when somebody could see it: at the request's end,
  at its preemption, or at once, if another request's tokens repeat its output (``registrars``).
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from sim.serving.vllm.request import Request
from sim.serving.vllm.state import State


class DecodingGroup:
    """The running requests, split into those that decode in step and those in mid-prefill."""

    def __init__(self, state: State) -> None:
        self.step = 0
        self.num_decoding = 0
        self.num_context_tokens = 0
        """Sum of the decoding requests' tokens."""
        self._state = state
        self._block_size = state.limits.block_size
        self.phases: list[dict[int, Request]] = [{} for _ in range(self._block_size)]
        self.ends: dict[int, list[Request]] = {}
        self.end_steps: list[int] = []
        self.prefilling: dict[int, Request] = {}
        self.registrars: dict[int, Request] = {}
        self._is_planned = False
        self.is_stuck = False

    def join(self, request: Request) -> None:
        """A running request, as it stands between two steps."""
        if request.is_prefill_chunk:
            self.prefilling[request.order] = request
            return
        request.settled_step = self.step
        tokens, order = request.num_tokens, request.order
        phase = self.phases[(self.step + 1 - tokens) % self._block_size]
        is_late = bool(phase) and next(reversed(phase)) > order
        phase[order] = request
        if is_late:
            in_order = sorted(phase.items())
            phase.clear()
            phase.update(in_order)
        end = self.step + request.end_tokens - 1 - tokens
        ending = self.ends.get(end)
        if ending is None:
            self.ends[end] = [request]
            heappush(self.end_steps, end)
        else:
            ending.append(request)
        self.num_decoding += 1
        self.num_context_tokens += tokens
        num_full = request.end_tokens // self._block_size if request.path else 0
        if num_full > request.num_registered_blocks and not request.registers_late:
            self.registrars[order] = request

    def leave(self, request: Request) -> None:
        """Settles a request that stops running, and registers what its output has filled."""
        if self.prefilling.pop(request.order, None) is not None or not self.is_decoding(request):
            return
        end = request.settled_step + request.end_tokens - 1 - request.num_tokens
        ending = self.ends.get(end)
        if ending is not None:
            ending.remove(request)
        self.part(request)

    def part(self, request: Request) -> None:
        phase = (request.settled_step + 1 - request.num_tokens) % self._block_size
        del self.phases[phase][request.order]
        self.settle(request)
        self.num_decoding -= 1
        self.num_context_tokens -= request.num_tokens
        self.registrars.pop(request.order, None)
        self._register(request)

    def settle(self, request: Request) -> None:
        """Brings a decoding request's counts up to date."""
        grown = self.step - request.settled_step
        request.num_tokens += grown
        request.num_computed_tokens += grown
        request.settled_step = self.step

    def is_decoding(self, request: Request) -> bool:
        """Whether the request's counts stand still because it decodes in step."""
        phase = (request.settled_step + 1 - request.num_tokens) % self._block_size
        return self.phases[phase].get(request.order) is request

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
        for phase in self.phases:
            for request in phase.values():
                self.settle(request)
                self._register(request)
            phase.clear()
        self.ends.clear()
        self.end_steps.clear()
        self.prefilling.clear()
        self.registrars.clear()
        self.num_decoding = self.num_context_tokens = 0
        self.is_stuck = False

    def gather(self, running: Iterable[Request]) -> None:
        """Takes up the running requests after such a step."""
        for request in running:
            self.join(request)

    def chunks(self) -> Iterable[Request]:
        """The running requests in mid-prefill."""
        return self.prefilling.values()

    def block_needs(self) -> tuple[int, list[int]]:
        """(phase of the next step, how many requests take a block in the steps of each phase)."""
        return self.step % self._block_size, [len(phase) for phase in self.phases]

    def steps_to_first_end(self) -> int:
        """Steps until some decoding request has made its last token."""
        while not self.ends.get(self.end_steps[0]):
            self.ends.pop(heappop(self.end_steps), None)
        return self.end_steps[0] - self.step + 1

    def steps_to_shortage(self, limit: int) -> int:
        """Whole steps, ``limit`` at most, for which the free blocks last."""
        size, left = self._block_size, self._state.kv.pool.num_free
        if self.num_decoding * (limit // size + 1) <= left:
            return limit
        rounds, left = divmod(left, self.num_decoding)
        steps = rounds * size
        while steps < limit:
            left -= len(self.phases[(self.step + steps) % size])
            if left < 0:
                break
            steps += 1
        return min(steps, limit)
