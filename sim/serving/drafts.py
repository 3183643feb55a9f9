"""How many drafts of a speculative step are right: drawn, as no model runs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim.rng import stream
from sim.serving.request import Request
from sim.serving.scenario import Speculative


class Drafts:
    """Each draft is right with ``acceptance_rate`` if all before it were (Leviathan et al., 2211.17192).

    Every request has a stream of its own, so that what else runs does not change its draws.
    """

    def __init__(self, speculative: Speculative, seed: int) -> None:
        self._speculative, self._seed = speculative, seed
        self._streams: dict[Request, np.random.Generator] = {}

    def accepted(self, drafts: Mapping[Request, int]) -> Mapping[Request, int]:
        """Right drafts by request, of a step's drafts."""
        return {request: min(self._draw(request), count) for request, count in drafts.items() if count}

    def _draw(self, request: Request) -> int:
        generator = self._streams.get(request)
        if generator is None:
            generator = self._streams[request] = stream(self._seed, f"acceptance/{request.request_id}")
        if self._speculative.acceptance_rate >= 1.0:
            return self._speculative.num_speculative_tokens
        return int(generator.geometric(1.0 - self._speculative.acceptance_rate)) - 1

    def forget(self, request: Request) -> None:
        """The request has ended."""
        self._streams.pop(request, None)
