"""What one call of vLLM's ``schedule()`` decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sim.serving.request import Request
from sim.serving.scheduler import Step


@dataclass(slots=True, kw_only=True, eq=False)
class Plan(Step):
    """One step's work, in scheduling order: running requests first, then admissions.

    ``num_uniform`` running requests that are not in ``chosen`` compute one token each; they are counted,
    not listed, so that a step costs what changes in it. ``scheduled`` lists all of them and must be
    read before the step's ``update()``.
    """

    budget: int  # tokens that may still be scheduled in this step
    threshold: int = 0  # most prompt tokens of one request in this step; 0: no such limit
    held: bool = False  # prefill waits for its interval
    chosen: dict[Request, int] = field(default_factory=dict)
    """Tokens by request, of those that are listed."""
    admitted: dict[Request, int] = field(default_factory=dict)
    preempted: dict[Request, int] = field(default_factory=dict)
    drafts: dict[Request, int] = field(default_factory=dict)
    partial: set[Request] = field(default_factory=set)
    """Requests that are still in mid-prefill after this step: no token comes out of it."""
    grown: tuple[Sequence[Request], Sequence[int]] = ((), ())
    """Decoding requests that got one block each, and those blocks."""
    num_uniform: int = 0
    is_steady: bool = False
    """The decoding requests are counted, not listed."""
    _fresh: dict[Request, list[int]] = field(default_factory=dict)
    _running: Mapping[int, Request] = field(default_factory=dict)
    _order: dict[Request, int] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return self.num_uniform + sum(self.chosen.values())

    @property
    def num_requests(self) -> int:
        """Requests that take part."""
        return self.num_uniform + len(self.chosen)

    @property
    def scheduled(self) -> dict[Request, int]:
        """Tokens by request, in scheduling order."""
        if not self.num_uniform:
            return self.chosen
        if self._order is None:
            self._order = {
                request: self.chosen.get(request, 1)
                for request in self._running.values()
                if request in self.chosen or not request.is_prefill_chunk
            }
        return self._order

    @property
    def fresh(self) -> dict[Request, list[int]]:
        """Blocks taken from the free queue, by request; hits are not among them."""
        return {**{r: [b] for r, b in zip(*self.grown, strict=True)}, **self._fresh}

    def choose(self, request: Request, num_tokens: int, fresh: list[int]) -> None:
        """Schedules a request in this step."""
        self.chosen[request] = num_tokens
        self.budget -= num_tokens
        self.give(request, fresh)

    def give(self, request: Request, fresh: list[int]) -> None:
        """Notes the blocks that a request got."""
        if fresh:
            self._fresh[request] = fresh

    def drop(self, request: Request) -> None:
        """A request that was scheduled in this step is preempted after all: its tokens come back."""
        if request in self.chosen:
            self.budget += self.chosen.pop(request)
            self._fresh.pop(request, None)
            self.drafts.pop(request, None)

    def count_uniform(self, count: int, running: Mapping[int, Request]) -> None:
        """``count`` of the running requests, all that are not chosen and decode, compute one token."""
        self.is_steady = True
        self.num_uniform = count
        self._running = running
