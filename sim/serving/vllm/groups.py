"""The running requests of vLLM's scheduler in steady decode: who decodes in step, who is in mid-prefill.
 Blocks are given out in order of admission, so the decode batch lists who grows in each phase. The blocks
that a request's output fills get their hash when somebody could see it: at its end, at its preemption, or at
once, if another request's tokens repeat its output (``registrars``).
"""

from __future__ import annotations

from collections.abc import Iterable

from sim.serving.decoding import DecodeBatch
from sim.serving.request import Request
from sim.serving.vllm.state import State


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
