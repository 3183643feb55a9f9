"""``prefill_schedule_interval``: prefill in every N-th step only, while decodes run."""

from __future__ import annotations

from collections.abc import Iterable

from sim.serving.request import Request
from sim.serving.vllm.plan import Plan


class PrefillInterval:
    """Counts steps since the last one that carried prefill (data_parallel_size 1).

    Prefill is never held back while the last free look at the waiting queue left something in it: then
    the engine is bound by its limits, and waiting longer gains nothing.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._steps = 0
        self._last_prefill = -interval
        self._bound = False

    def holds(self, running: Iterable[Request]) -> bool:
        """Whether prefill waits in the step that is being planned."""
        if self._interval == 1 or self._bound:
            return False
        if self._steps + 1 - self._last_prefill >= self._interval:
            return False
        return any(not request.is_prefill_chunk for request in running)

    def phase(self) -> tuple[int, bool]:
        """What the next answers depend on."""
        return min(self._steps - self._last_prefill, self._interval), self._bound

    def looked_at_waiting(self, *, left_over: bool) -> None:
        """A waiting phase that was not held back has ended."""
        self._bound = left_over

    def note(self, plan: Plan) -> None:
        """Counts a planned step; call before the requests' progress is written down."""
        if self._interval == 1 or not plan.num_requests:
            return
        self._steps += 1
        if any(_is_prefill(plan, request) for request in plan.chosen):
            self._last_prefill = self._steps


def _is_prefill(plan: Plan, request: Request) -> bool:
    if request in plan.new:
        return plan.new[request] < request.num_tokens - 1
    return request.is_prefill_chunk
