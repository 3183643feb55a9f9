"""What a batching policy is given and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field

from sim.scenario.dataclass import dataclass
from sim.serving.decoding import DecodeBatch
from sim.serving.kv.allocator import KVAllocator
from sim.serving.request import Request
from sim.serving.scenario import Scenario, max_model_len


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a batching policy must keep to, and the scenario's choices that it may read."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_chunked_prefill: bool
    is_prefill_first: bool


def limits_of(scenario: Scenario) -> Limits:
    """The engine section of a scenario, as limits."""
    engine = scenario.engine
    return Limits(
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=max_model_len(scenario),
        enable_chunked_prefill=engine.enable_chunked_prefill,
        is_prefill_first=engine.schedule_order == "prefill_first",
    )


@dataclass(slots=True)
class StepPlan:
    """One step. ``prefill`` holds (request, tokens): running prompts that go on, and newly admitted ones.

    ``stands`` says that the same decision would follow in the next steps as long as the requests only grow:
    nobody ends, no memory runs short, and, unless ``is_closed``, nobody arrives. Such steps are skipped.
    """

    decode: list[Request] = field(default_factory=list)
    prefill: list[tuple[Request, int]] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)  # in the order of preemption
    decode_all: bool = False  # every running request whose prompt is computed; ``decode`` is empty then
    stands: bool = False
    is_closed: bool = False  # a request that arrives now would not change the decision

    def decoding(self, running: Sequence[Request]) -> list[Request]:
        """Who decodes in this step, of the requests that ran before it."""
        return [one for one in running if one.is_decoding] if self.decode_all else self.decode


class KVView:
    """The KV memory as a policy sees it: questions, and the actions admit, extend and release.

    ``batch``: the decoding requests, where they are counted together.
    """

    def __init__(
        self, kv: KVAllocator, now_ps: int, running: Sequence[Request], batch: DecodeBatch | None = None
    ) -> None:
        self._kv, self._now_ps, self._running, self._batch = kv, now_ps, running, batch
        self.is_blocked = False

    @property
    def is_counted(self) -> bool:
        """Whether decoding requests are counted together: a plan then names them by ``decode_all``."""
        return self._batch is not None

    def can_admit(self, request: Request, *, is_first: bool = False) -> bool:
        """Whether its prompt (with what it had generated) finds memory now; ``is_first``: nothing runs."""
        self.is_blocked = not self._kv.can_admit(request, is_first=is_first)
        return not self.is_blocked

    def admit(self, request: Request) -> None:
        """Reserves that memory."""
        self._kv.admit(request, self._now_ps)

    def can_extend(self, request: Request) -> bool:
        """Whether its next token finds memory."""
        return self._kv.growth(request) <= self._kv.free

    def extend(self, request: Request) -> None:
        """Reserves memory for its next token."""
        growth = self._kv.growth(request)
        if growth:
            self._kv.grow(request, growth, self._now_ps)

    def extend_all(self) -> bool:
        """Reserves memory for the next token of every decoding request; if it lacks, False and nothing."""
        kv, batch = self._kv, self._batch
        if batch is None:
            growing = {one: kv.growth(one) for one in self._running if one.is_decoding}
            need = sum(growing.values())
        else:
            growing, need = dict.fromkeys(batch.growing(), 1), batch.num_growing()
        if need > kv.free:
            if batch is not None:
                for one in self._running:
                    batch.settle(one)
            return False
        for one, growth in growing.items():
            if growth:
                kv.grow(one, growth, self._now_ps)
        if not growing:
            kv.free -= need  # counted, not handed out one by one
        return True

    def release(self, request: Request) -> None:
        """Takes all its memory back (before it goes into ``preempted``)."""
        self._kv.release(request, self._now_ps)


Policy = Callable[[Sequence[Request], Sequence[Request], KVView, Limits], StepPlan]
"""Decides a step from (waiting, running, kv, limits).

``waiting`` is in order of arrival, preempted requests in front; ``running`` in order of admission. It may
reserve and release KV memory through ``kv`` and touches nothing else.
"""
