"""What one call of ``schedule()`` decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sim.serving.request import Request


class Plan:
    """One step's work, in scheduling order: running requests first, then admissions.

    ``num_uniform`` running requests that are not in ``chosen`` compute one token each; they are counted,
    not listed, so that a step costs what changes in it. ``scheduled`` lists all of them and must be
    read before the step's ``update()``.
    """

    __slots__ = (
        "_fresh",
        "_order",
        "_running",
        "budget",
        "chosen",
        "drafts",
        "grown",
        "held",
        "is_steady",
        "lost_tokens",
        "new",
        "num_uniform",
        "partial",
        "preempted",
        "threshold",
    )

    def __init__(self, budget: int, threshold: int, *, held: bool = False) -> None:
        self.budget = budget
        """Tokens that may still be scheduled in this step."""
        self.threshold = threshold
        """Most prompt tokens of one request in this step; 0: no such limit."""
        self.held = held
        """Prefill waits in this step (``prefill_schedule_interval``)."""
        self.chosen: dict[Request, int] = {}
        self.new: dict[Request, int] = {}
        """Admitted or resumed in this step, with the tokens found in the prefix cache."""
        self.preempted: list[Request] = []
        self.lost_tokens: dict[Request, int] = {}
        """Computed tokens of the preempted, thrown away."""
        self.grown: tuple[list[Request], list[int]] = ([], [])
        """Decoding requests that got one block each, and those blocks."""
        self.drafts: dict[Request, int] = {}
        self.partial: set[Request] = set()
        """Requests that are still in mid-prefill after this step: no token comes out of it."""
        self.num_uniform = 0
        self.is_steady = False
        """The decoding requests are counted, not listed."""
        self._fresh: dict[Request, list[int]] = {}
        self._running: Mapping[int, Request] = {}
        self._order: dict[Request, int] | None = None

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
        requests, blocks = self.grown
        if requests:
            return {**{r: [b] for r, b in zip(requests, blocks, strict=True)}, **self._fresh}
        return self._fresh

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

    def emitting(self) -> Iterable[Request]:
        """Listed requests that a token comes out for."""
        return (request for request in self.chosen if request not in self.partial)
