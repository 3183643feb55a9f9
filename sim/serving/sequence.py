"""One request inside an engine, and the queue of those to come."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Protocol

from sim.records import RequestTable

NEVER = 1 << 62
CHUNK_ROWS = 1 << 16


class Sequence:
    """A request from arrival to its end. Mutable; it belongs to one engine.

    While it decodes, ``end_step`` is the engine's decode-step count at which its last token comes, so
    that nothing has to be touched per step: tokens left = ``end_step`` − steps done.
    """

    __slots__ = (
        "arrival_ps",
        "blocks",
        "computed",
        "deadline_ps",
        "end_step",
        "generated",
        "id",
        "is_ended",
        "order",
        "output_tokens",
        "phase",
        "prompt_tokens",
        "reserved",
        "target",
    )

    # Set at admission:
    computed: int  # tokens whose KV is written (prefill progress; decode: as ``generated``)
    target: int  # tokens that the prefill under way must reach
    phase: int
    blocks: list[int] | None  # physical ids, where they are tracked
    reserved: int  # blocks (paged) or tokens (contiguous) given to it

    def __init__(self, request: int, arrival_ps: int, prompt_tokens: int, output_tokens: int) -> None:
        self.id = request
        self.arrival_ps = arrival_ps
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.deadline_ps = NEVER
        self.generated = 0  # tokens made; kept current by the stepped engine, at events by the skipping one
        self.end_step = -1  # -1: not decoding
        self.order = -1  # admission number; -1: not running
        self.is_ended = False


class Feed(Protocol):
    """Where an engine's requests come from.

    ``has_triggers``: ends trigger arrivals. ``must_see_all``: as a refusal or a time-out in the queue is such
    an end, every arrival has to be seen in time.
    """

    next_ps: int
    must_see_all: bool
    has_triggers: bool

    def take(self) -> Sequence:
        """The next request (its arrival is ``next_ps``)."""
        ...

    def on_end(self, sequence: Sequence, now_ps: int) -> None:
        """A request is over: triggers what waited for it."""
        ...

    def is_exhausted(self) -> bool:
        """Whether nobody will come unless some request ends."""
        ...


class Source:
    """All requests of a run in order of arrival, read from a ``RequestTable`` chunk by chunk.

    Rows with ``arrival_ps`` −1 wait for another's end (sessions, closed loop). Ties: lower id first.
    """

    __slots__ = (
        "_chunk_end",
        "_chunk_start",
        "_columns",
        "_followers",
        "_is_plain",
        "_loop_rows",
        "_row",
        "_table",
        "_triggered",
        "_waiting_row_ps",
        "has_triggers",
        "must_see_all",
        "next_ps",
        "num_rows",
    )

    def __init__(self, table: RequestTable) -> None:
        self._table = table
        self.num_rows = len(table.arrival_ps)
        self._row = self._chunk_start = self._chunk_end = 0
        self._columns: tuple[list[int], list[int], list[int]] = ([], [], [])
        self._triggered: list[tuple[int, int]] = []
        self._followers: dict[int, int] = {}
        self._loop_rows: list[int] = []
        self._is_plain = bool((table.arrival_ps >= 0).all())
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

    def take(self) -> Sequence:
        """The next request to arrive; ``next_ps`` moves on."""
        triggered = self._triggered
        if triggered and triggered[0] < (self._waiting_row_ps, self._row):
            arrival, row = heappop(triggered)
            table = self._table
            sequence = Sequence(row, arrival, int(table.prompt_tokens[row]), int(table.output_tokens[row]))
            self._refresh()
        else:
            offset = self._row - self._chunk_start
            arrivals, prompts, outputs = self._columns
            sequence = Sequence(self._row, arrivals[offset], prompts[offset], outputs[offset])
            row = self._row
            self._row = row + 1
            if self._is_plain and self._row < self._chunk_end:
                self.next_ps = self._waiting_row_ps = arrivals[offset + 1]
            else:
                self._advance()
        timeouts = self._table.timeout_ps
        if timeouts is not None and timeouts[row] >= 0:
            sequence.deadline_ps = sequence.arrival_ps + int(timeouts[row])
        return sequence

    def is_exhausted(self) -> bool:
        """See ``Feed``."""
        return self.next_ps >= NEVER

    def on_end(self, sequence: Sequence, now_ps: int) -> None:
        """Releases the next turn of its session, or the next request of the closed loop."""
        if self._is_plain:
            return
        row = self._followers.pop(sequence.id, -1)
        if row < 0 and self._loop_rows:
            row = self._loop_rows.pop()
        if row >= 0:
            think = 0 if self._table.think_ps is None else int(self._table.think_ps[row])
            heappush(self._triggered, (now_ps + think, row))
            self._refresh()
