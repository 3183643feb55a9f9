"""How many drafts of a speculative step are right: drawn, as no model runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import numpy as np

from sim.arrays import Int64
from sim.rng import Streams
from sim.serving.request import Request
from sim.serving.scenario import Speculative

NONE_YET = np.empty(0, dtype=np.int64)
FEWEST_DRAWN = 32


class Drafts:
    """Each draft is right with ``acceptance_rate`` if all before it were (Leviathan et al., 2211.17192).

    Every request has a stream of its own, so that what else runs does not change its draws. They are drawn in
    blocks, each again from the beginning of the stream.
    """

    def __init__(self, speculative: Speculative, seed: int) -> None:
        self.per_step, self._rate = speculative.num_speculative_tokens, speculative.acceptance_rate
        self.tokens_per_step = sum(self._rate**right for right in range(self.per_step + 1))  # in the mean
        self._streams = Streams(seed)
        self._made: dict[Request, Int64] = {}  # tokens of each step from the first with drafts on
        self._used: dict[Request, int] = {}
        self._wrong = 1.0 - self._rate
        chances = [self._wrong]
        for _ in range(self.per_step - 1):
            chances.append(chances[-1] * (1.0 - self._wrong))
        self._at_most = np.array(list(accumulate(chances)))  # of so many right ones; as NumPy adds it up

    def accepted(self, drafts: Mapping[Request, int]) -> Mapping[Request, int]:
        """Right drafts by request, of a step's drafts."""
        return {request: min(self._draw(request), count) for request, count in drafts.items() if count}

    def _draw(self, request: Request) -> int:
        right = int(self.ahead(request, 1)[0]) - 1
        self.use(request, 1)
        return right

    def ahead(self, request: Request, num_steps: int) -> Int64:
        """Tokens that each of the next steps makes, with as many drafts as may be; they are not used up."""
        used = self._used.get(request, 0)
        made, end = self._made.get(request, NONE_YET), used + num_steps
        if len(made) < end:
            made = self._made[request] = self._drawn(request, max(end, 2 * len(made), FEWEST_DRAWN))
        return made[used:end]

    def use(self, request: Request, num_steps: int) -> None:
        """So many steps were made: their draws are gone."""
        if num_steps:
            self._used[request] = self._used.get(request, 0) + num_steps

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._made.pop(request, None)
        self._used.pop(request, None)

    def _drawn(self, request: Request, num_steps: int) -> Int64:
        """The first draws of its stream: one more than a geometric number, and no more than may be.

        NumPy finds geometric numbers with a chance of a third or more by adding up; here for many at once.
        """
        if self._rate >= 1.0:
            return np.full(num_steps, self.per_step + 1, dtype=np.int64)
        if request.name is None:
            generator = self._streams.numbered("acceptance/", request.id)
        else:
            generator = self._streams.of(f"acceptance/{request.name}")
        if self._wrong >= 1 / 3:
            return self._at_most.searchsorted(generator.random(num_steps)) + 1
        return np.minimum(generator.geometric(self._wrong, num_steps), self.per_step + 1)
