"""An engine's first step: kernels that are compiled, loaded or tuned when they are first used."""

from __future__ import annotations

from sim.cost.pipeline import PipelinePrice
from sim.cost.step import Chunks, StepPrice


class ColdStart:
    """The price of one replica whose first step takes longer; each replica has one of its own.

    Not modelled: later first uses (a batch size seen for the first time), and requests that arrive while the
    host still prepares the first step: the queue of asynchronous scheduling does not see them sooner.
    """

    def __init__(self, price: StepPrice, cold_start_ps: int) -> None:
        self._price = price
        self._left_ps = cold_start_ps
        self.decode_run = price.decode_run  # never first: a first step has a prompt

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        added, self._left_ps = self._left_ps, 0
        return self._price.step_ps(num_decode, context_tokens, chunks, drafts) + added


def cold(price: StepPrice, cold_start_ps: int) -> StepPrice:
    """The price as one replica meets it; a pipeline's stations spend the cold start themselves."""
    if isinstance(price, PipelinePrice):
        return price
    return ColdStart(price, cold_start_ps) if cold_start_ps else price
