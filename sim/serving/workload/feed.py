"""The requests of a run in order of arrival, as an engine or a router takes them."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from sim.serving.records import RequestTable
from sim.serving.request import NEVER, Request
from sim.serving.workload.descriptions import Descriptions

CHUNK_ROWS = 1 << 13


class Feed(Protocol):
    """Where an engine's requests come from.

    ``has_triggers``: ends trigger arrivals. ``must_see_all``: as a refusal or a time-out in the queue is such
    an end, every arrival has to be seen in time.
    """

    next_ps: int
    must_see_all: bool
    has_triggers: bool

    def take(self) -> Request:
        """The next request (its arrival is ``next_ps``)."""
        ...

    def on_end(self, request: Request, now_ps: int) -> None:
        """A request is over: triggers what waited for it."""
        ...

    def is_exhausted(self) -> bool:
        """Whether no further request comes unless one ends."""
        ...


class TableFeed:
    """All requests of a run in order of arrival, read from a ``RequestTable`` chunk by chunk.

    Rows with ``arrival_ps`` −1 wait for another's end (sessions, closed loop). Ties: lower id first.
    """

    __slots__ = (
        "_chunk_end", "_chunk_start", "_columns", "_descriptions", "_followers",
        "_is_bare", "_is_plain", "_loop_rows", "_row", "_table", "_triggered", "_waiting_row_ps",
        "has_triggers", "must_see_all", "next_ps", "num_rows",
    )  # fmt: skip

    def __init__(self, table: RequestTable) -> None:
        self._table = table
        self.num_rows = len(table.arrival_ps)
        self._row = self._chunk_start = self._chunk_end = 0
        self._descriptions = Descriptions(table)
        self._columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._triggered: list[tuple[int, int]] = []
        self._followers: dict[int, int] = {}
        self._loop_rows: list[int] = []
        self._is_plain = bool((table.arrival_ps >= 0).all())
        columns = (table.timeout_ps, table.priority, table.segment_offsets, table.output_stream)
        self._is_bare = all(column is None for column in columns)
        self.has_triggers = not self._is_plain
        self.must_see_all = not self._is_plain
        if not self._is_plain:
            self._index_triggered_rows()
        self._waiting_row_ps = NEVER
        self._advance()

    def _index_triggered_rows(self) -> None:
        table = self._table
        for row in (table.arrival_ps < 0).nonzero()[0].tolist():
            predecessor = -1 if table.follows is None else int(table.follows[row])
            if predecessor >= 0:
                self._followers[predecessor] = row
            else:
                self._loop_rows.append(row)
        self._loop_rows.reverse()

    def _advance(self) -> None:
        """Moves to the next row that has an arrival time of its own."""
        while True:
            if self._row >= self._chunk_end and not self._load_chunk():
                self._waiting_row_ps = NEVER
                break
            arrival = self._columns[0][self._row - self._chunk_start]
            if arrival >= 0:
                self._waiting_row_ps = arrival
                break
            self._row += 1
        self._refresh()

    def _load_chunk(self) -> bool:
        start = self._chunk_end
        if start >= self.num_rows:
            return False
        end = min(start + CHUNK_ROWS, self.num_rows)
        table = self._table
        self._columns = (
            table.arrival_ps[start:end].tolist(),
            table.prompt_tokens[start:end].tolist(),
            table.output_tokens[start:end].tolist(),
        )
        self._chunk_start, self._chunk_end = start, end
        return True

    def _refresh(self) -> None:
        triggered = self._triggered
        self.next_ps = min(self._waiting_row_ps, triggered[0][0]) if triggered else self._waiting_row_ps

    def take(self) -> Request:
        """The next request to arrive; ``next_ps`` moves on."""
        triggered = self._triggered
        if triggered and triggered[0] < (self._waiting_row_ps, self._row):
            arrival, row = heappop(triggered)
            table = self._table
            request = Request(row, arrival, int(table.prompt_tokens[row]), int(table.output_tokens[row]))
            self._refresh()
        else:
            row = self._row
            offset = row - self._chunk_start
            arrivals, prompts, outputs = self._columns
            request = Request(row, arrivals[offset], prompts[offset], outputs[offset])
            self._row = row + 1
            if self._is_plain and self._row < self._chunk_end:
                self.next_ps = self._waiting_row_ps = arrivals[offset + 1]
            else:
                self._advance()
        if not self._is_bare:
            self._descriptions.put_on(request, row)
        return request

    def is_exhausted(self) -> bool:
        """See ``Feed``."""
        return self.next_ps >= NEVER

    def on_end(self, request: Request, now_ps: int) -> None:
        """Releases the next turn of its session, or the next request of the closed loop."""
        if self._is_plain:
            return
        row = self._followers.pop(request.id, -1)
        if row < 0 and self._loop_rows:
            row = self._loop_rows.pop()
        if row >= 0:
            think = 0 if self._table.think_ps is None else int(self._table.think_ps[row])
            heappush(self._triggered, (now_ps + think, row))
            self._refresh()
