"""What a table says of its requests beyond sizes: patience, priority, and whose tokens theirs are."""

from __future__ import annotations

import numpy as np

from sim.arrays import Int64
from sim.serving.records import RequestTable
from sim.serving.request import NEVER, Request


class Descriptions:
    """Handed out request by request.

    A turn of a conversation gets the request that it continues and only what comes after that one's answer,
    so that a turn costs the same however late it is.
    """

    # Turns are asked for in no order, and of a memoryview an element or a slice costs less than of an array.
    __slots__ = (
        "_before", "_columns", "_common", "_is_continued", "_offsets", "_output_streams", "_priorities",
        "_skipped", "_timeouts_ps", "_turns",
    )  # fmt: skip

    def __init__(self, table: RequestTable) -> None:
        self._timeouts_ps, self._priorities = _viewed(table.timeout_ps), _viewed(table.priority)
        streams = table.segment_stream, table.segment_start, table.segment_length
        self._offsets = _viewed(table.segment_offsets)
        self._columns = [view for column in streams if (view := _viewed(column)) is not None]
        self._output_streams = _viewed(table.output_stream)
        self._common, before = _viewed(num_common_tokens(table)), continued_rows(table)
        self._before = _viewed(before)
        self._turns: dict[int, Request] = {}
        if before is not None and table.segment_offsets is not None:
            self._is_continued = np.isin(np.arange(len(before)), before).tolist()
            self._skipped = _viewed(np.diff(table.segment_offsets)[before] + 1)

    def put_on(self, request: Request, row: int) -> None:
        if self._timeouts_ps is not None and (patience_ps := self._timeouts_ps[row]) >= 0:
            request.deadline_ps = request.arrival + patience_ps
        if self._priorities is not None:
            request.priority = self._priorities[row]
        if self._output_streams is not None:
            request.output_stream = self._output_streams[row]
        if self._offsets is None or self._common is None:
            return
        self._tell_tokens(request, row, self._offsets, self._common)

    def _tell_tokens(
        self, request: Request, row: int, offsets: memoryview[int], common: memoryview[int]
    ) -> None:
        request.num_common_tokens = common[row]
        start, end = offsets[row], offsets[row + 1]
        if self._before is not None and self._skipped is not None:
            before = self._before[row]
            if before >= 0:
                request.continues = self._turns.pop(before, None)
                if request.continues is not None:
                    start += self._skipped[row]
            if self._is_continued[row]:
                self._turns[row] = request
        streams, firsts, lengths = self._columns
        request.segments = [(streams[at], firsts[at], lengths[at]) for at in range(start, end)]


def are_alone(table: RequestTable) -> bool:
    """Whether no two requests have a token in common."""
    return table.segment_offsets is None and table.output_stream is None


def num_common_tokens(table: RequestTable) -> Int64 | None:
    """How many first tokens of each request others might have, too: up to the first of a stream of its own.

    ``NEVER``: all, with those of its answer. None: the prompts are not made of segments.
    """
    offsets, lengths, segment_streams = table.segment_offsets, table.segment_length, table.segment_stream
    if offsets is None or lengths is None or segment_streams is None:
        return None
    num_rows, sizes = len(offsets) - 1, np.diff(offsets)
    rows = np.arange(num_rows)
    streams = _numbered(np.concatenate([_answers(table), segment_streams]))
    owners = np.concatenate([rows, np.repeat(rows, sizes)])
    first, last = np.full(len(streams), num_rows), np.full(len(streams), -1)
    np.minimum.at(first, streams, owners)
    np.maximum.at(last, streams, owners)
    is_own = (first == last)[streams]
    begins = np.concatenate([[0], np.cumsum(lengths)])
    is_own[num_rows:] &= lengths > 0
    own_from = np.where(is_own, np.concatenate([begins[offsets[1:]], begins[:-1]]), NEVER)
    common, has_segments = own_from[:num_rows].copy(), sizes > 0
    if has_segments.any():
        least = np.minimum.reduceat(own_from[num_rows:], offsets[:-1][has_segments])
        common[has_segments] = np.minimum(common[has_segments], least)
    return np.where(common == NEVER, NEVER, common - begins[offsets[:-1]])


def continued_rows(table: RequestTable) -> Int64 | None:
    """The row with all of whose prompt and answer a row's prompt begins; -1: there is none.

    None: no row continues another, or the prompts are not made of segments.
    """
    offsets, streams = table.segment_offsets, table.segment_stream
    starts, lengths = table.segment_start, table.segment_length
    if offsets is None or streams is None or starts is None or lengths is None or not len(streams):
        return None
    answers, sizes = _answers(table), np.diff(offsets)
    order = np.argsort(answers, kind="stable")
    place = np.minimum(np.searchsorted(answers[order], streams), len(answers) - 1)
    is_answer = answers[order][place] == streams
    at = np.where(is_answer, np.arange(len(streams)), -1)  # the last answer in each prompt
    rows = np.flatnonzero(sizes > 0)
    at = np.maximum.reduceat(at, offsets[:-1][rows])
    rows, at = rows[at >= 0], at[at >= 0]
    before = order[place[at]]
    is_whole = (starts[at] == 0) & (lengths[at] == table.output_tokens[before]) & (before != rows)
    is_whole &= (at - offsets[rows] == sizes[before]) & (sizes[before] > 0)
    rows, before = rows[is_whole], before[is_whole]
    if not len(rows):
        return None
    counts = sizes[before]
    firsts = np.cumsum(counts) - counts
    inside = np.arange(int(counts.sum())) - np.repeat(firsts, counts)
    here, there = np.repeat(offsets[rows], counts) + inside, np.repeat(offsets[before], counts) + inside
    is_same = np.ones(len(inside), dtype=bool)
    for column in (streams, starts, lengths):
        is_same &= column[here] == column[there]
    is_same = np.logical_and.reduceat(is_same, firsts)
    result = np.full(len(offsets) - 1, -1)
    result[rows[is_same]] = before[is_same]
    return result


def _answers(table: RequestTable) -> Int64:
    """Each row's output stream."""
    if table.output_stream is not None:
        return table.output_stream
    return 2 * np.arange(len(table.output_tokens)) + 1


def _numbered(streams: Int64) -> Int64:
    """The same streams by numbers below their count, if they are not below it."""
    if int(streams.min(initial=0)) >= 0 and int(streams.max(initial=0)) < len(streams):
        return streams
    numbered: Int64 = np.unique(streams, return_inverse=True)[1]
    return numbered


def _viewed(column: Int64 | None) -> memoryview[int] | None:
    return None if column is None else column.data
