"""What the API server adds around the engine: times as a client has them, and as the scheduler has them.

A request reaches the scheduler ``frontend_s`` after its client sent it (HTTP, tokeniser), and every token
reaches the client ``output_s`` after its step (detokenising, streaming). Both are constants, so a run is
simulated in the scheduler's time and moved: exact, at no cost per event. Not modelled: queues in front of a
busy API server.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import numpy as np

from sim.arrays import Int64, to_ps
from sim.scenario.dataclass import dataclass
from sim.serving.records import RequestColumns, RequestTable
from sim.serving.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontEnd:
    """The two delays, in picoseconds."""

    request_ps: int = 0
    token_ps: int = 0

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """The delays that a scenario's engine overheads name."""
        overheads = scenario.engine.overheads
        return cls(request_ps=to_ps(overheads.frontend_s), token_ps=to_ps(overheads.output_s))

    def at_scheduler(self, table: RequestTable) -> RequestTable:
        """The workload as the scheduler meets it.

        A client that waits for an answer before it asks again pauses longer by both delays. Its patience ends
        sooner by both: a token counts that is with the client in time.
        """
        both = self.request_ps + self.token_ps
        if not both:
            return table
        patience, think = table.timeout_ps, table.think_ps
        is_triggered = table.arrival_ps < 0
        if think is not None or is_triggered.any():
            think = np.where(is_triggered, (0 if think is None else think) + both, 0)
        if patience is not None:
            patience = np.where(patience < 0, patience, np.maximum(patience - both, 1))
        return replace(
            table,
            arrival_ps=_moved(table.arrival_ps, self.request_ps),
            think_ps=think,
            timeout_ps=patience,
            warmup_ps=table.warmup_ps + self.request_ps if table.warmup_ps else 0,
        )

    def at_client(self, requests: RequestColumns) -> RequestColumns:
        """What the scheduler's records mean for the clients."""
        return self._seen(requests, sent_ps=-self.request_ps, token_ps=self.token_ps)

    def at_engine(self, requests: RequestColumns) -> RequestColumns:
        """The clients' records as the engine had them: the inverse of ``at_client``."""
        return self._seen(requests, sent_ps=self.request_ps, token_ps=-self.token_ps)

    def _seen(self, requests: RequestColumns, *, sent_ps: int, token_ps: int) -> RequestColumns:
        if not (sent_ps or token_ps):
            return requests
        return replace(
            requests,
            arrival_ps=_moved(requests.arrival_ps, sent_ps),
            first_token_ps=_moved(requests.first_token_ps, token_ps),
            finish_ps=_moved(requests.finish_ps, token_ps),
        )


def _moved(times_ps: Int64, by_ps: int) -> Int64:
    """Times that exist, later by ``by_ps``; -1 stays what it is."""
    moved: Int64 = np.where(times_ps >= 0, times_ps + by_ps, times_ps)
    return moved
