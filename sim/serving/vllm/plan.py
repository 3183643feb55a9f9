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
    partial: list[Request] = field(default_factory=list)
    """Requests that are still in mid-prefill after this step: no token comes out of it."""
    taken: dict[Request, list[int]] = field(default_factory=dict)
    """The blocks that each of them needed, or none, taken from the free queue."""
    grown: tuple[Sequence[Request], Sequence[int]] = ((), ())
    """Decoding requests that got one block each, and those blocks."""
    num_uniform: int = 0
    running: Mapping[int, Request] | None = None
    """In steady decode: all running requests, of whom ``num_uniform`` are counted and not listed."""
    _order: dict[Request, int] | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens that the step computes."""
        return self.num_uniform + sum(self.chosen.values())

    @property
    def scheduled(self) -> dict[Request, int]:
        """Tokens by request, in scheduling order."""
        if self.running is None:
            return self.chosen
        if self._order is None:
            self._order = {
                request: self.chosen.get(request, 1)
                for request in self.running.values()
                if request in self.chosen or not request.is_prefill_chunk
            }
        return self._order

    @property
    def fresh(self) -> dict[Request, list[int]]:
        """Blocks taken from the free queue, by request; hits are not among them."""
        grown = {request: [block] for request, block in zip(*self.grown, strict=True)}
        return {**grown, **{request: blocks for request, blocks in self.taken.items() if blocks}}

    def choose(self, request: Request, num_tokens: int, fresh: list[int]) -> None:
        """Schedules a request in this step."""
        self.chosen[request], self.taken[request] = num_tokens, fresh
        self.budget -= num_tokens

    def drop(self, request: Request) -> None:
        """A request that was scheduled in this step is preempted after all: its tokens come back."""
        if request in self.chosen:
            self.budget += self.chosen.pop(request)
            del self.taken[request]
            self.drafts.pop(request, None)
