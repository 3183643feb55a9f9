"""Multi-turn sessions and shared prefixes: which tokens a prompt consists of.

Streams of tokens are integers. Request i's own prompt part is stream 2i and its answer 2i + 1; the
prefixes of all classes come after those. So two prompts agree exactly as far as they were said
to: over a common prefix, and over what was said before in their session.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.arrays import Int64
from sim.errors import ScenarioError

MAX_SEGMENTS = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Rows (requests) of arrivals, session by session: turn 0, 1, ... of the first, then of the next."""

    arrival: Int64  # per row: which arrival (session) it belongs to
    turn: Int64  # per row: 0 for the first of its session
    first_row: Int64  # per arrival
    num_turns: Int64  # per arrival

    @property
    def last_row(self) -> Int64:
        """Per arrival: the row of its last turn."""
        return self.first_row + self.num_turns - 1


def lay_out_turns(num_turns: Int64, num_requests: int | None) -> Turns:
    """The rows of sessions of ``num_turns``; the last session is cut where ``num_requests`` are reached."""
    ends = np.cumsum(num_turns)
    if num_requests is not None and ends[-1] > num_requests:
        kept = int(np.searchsorted(ends, num_requests)) + 1
        num_turns, ends = num_turns[:kept].copy(), ends[:kept].copy()
        num_turns[-1] -= ends[-1] - num_requests
        ends[-1] = num_requests
    first_row = ends - num_turns
    arrival = np.repeat(np.arange(len(num_turns)), num_turns)
    turn = np.arange(int(ends[-1])) - first_row[arrival]
    return Turns(arrival=arrival, turn=turn, first_row=first_row, num_turns=num_turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What each row adds to its session's text, and the prefix that the session begins with."""

    new_tokens: Int64  # per row: the new part of the prompt
    output_tokens: Int64  # per row
    prefix_group: Int64  # per arrival: number of the group over all classes, -1 for none
    prefix_tokens: Int64  # per arrival: 0 for none


def whole_prompts(turns: Turns, parts: Parts) -> Int64:
    """Prompt length of every row: prefix, all turns before with their answers, the new part."""
    said = np.cumsum(parts.new_tokens + parts.output_tokens)
    before_row = said - parts.new_tokens - parts.output_tokens
    before_session = before_row[turns.first_row]
    earlier = before_row - before_session[turns.arrival]
    prompts: Int64 = parts.prefix_tokens[turns.arrival] + earlier + parts.new_tokens
    return prompts


def token_segments(turns: Turns, parts: Parts) -> dict[str, Any]:
    """The ``segment_*`` and ``output_stream`` columns of the request table."""
    has_prefix = (parts.prefix_group >= 0).astype(np.int64)[turns.arrival]
    counts = has_prefix + 2 * turns.turn + 1
    total = int(counts.sum())
    if total > MAX_SEGMENTS:
        raise ScenarioError(
            "the sessions are too long to keep track of their tokens",
            path="workload.sessions.turns",
            given=f"{total:,} parts of prompts",
            allowed=f"{MAX_SEGMENTS:,}",
            hint="fewer turns or requests",
        )
    offsets = np.concatenate([[0], np.cumsum(counts)])
    row = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(total) - offsets[row] - has_prefix[row]  # -1: the prefix
    owner = turns.first_row[turns.arrival[row]] + place // 2
    is_output = place % 2
    stream = 2 * owner + is_output
    length = np.where(is_output == 1, parts.output_tokens[owner], parts.new_tokens[owner])
    prefixed = place == -1
    in_arrival = turns.arrival[row[prefixed]]
    stream[prefixed] = 2 * len(counts) + parts.prefix_group[in_arrival]
    length[prefixed] = parts.prefix_tokens[in_arrival]
    return {
        "segment_offsets": offsets,
        "segment_stream": stream,
        "segment_start": np.zeros(total, dtype=np.int64),
        "segment_length": length,
        "output_stream": 2 * np.arange(len(counts), dtype=np.int64) + 1,
    }
