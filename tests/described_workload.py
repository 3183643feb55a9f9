"""What a workload looks like in numbers: for the report's "question as understood"."""

from __future__ import annotations

from typing import Any

import numpy as np

from sim.arrays import PS_PER_S, Int64
from sim.serving.records import RequestTable

_UINT64 = np.uint64


def describe(table: RequestTable) -> dict[str, Any]:
    """Counts, rate, spread of gaps and lengths, classes and shared tokens of a workload; plain numbers.

    ``requests_per_s`` and ``gap_cv`` are of the requests with an arrival time of their own; None where
    fewer than two moments are known. ``shared_token_fraction`` is the share of prompt tokens that a
    prefix cache without bounds, asked in the order of the ids, would hold.
    """
    timed = table.arrival_ps[table.arrival_ps >= 0]
    span_s = float(timed[-1] - timed[0]) / PS_PER_S if timed.size else 0.0
    gaps = np.diff(timed)
    described: dict[str, Any] = {
        "num_requests": len(table.arrival_ps),
        "num_triggered": len(table.arrival_ps) - len(timed),
        "num_sessions": None if table.follows is None else int(_first_turns(table).sum()),
        "span_s": span_s,
        "requests_per_s": len(gaps) / span_s if span_s > 0 else None,
        "gap_cv": float(gaps.std() / gaps.mean()) if span_s > 0 else None,
        "prompt_tokens": _spread(table.prompt_tokens),
        "output_tokens": _spread(table.output_tokens),
        "shared_token_fraction": float(shared_prompt_tokens(table).sum() / table.prompt_tokens.sum()),
        "num_warmup": table.num_warmup,
        "warmup_s": table.warmup_ps / PS_PER_S,
        "notes": list(table.notes),
    }
    if table.class_id is not None:
        described["classes"] = {
            name: _class_numbers(table, index) for index, name in enumerate(table.class_names)
        }
    return described


def _first_turns(table: RequestTable) -> Any:
    """Rows that begin a session: their prompt does not hold the answer that they wait for, if any.

    A client's next session in a closed loop waits for an answer too. A later turn's prompt ends with
    that answer and a new part.
    """
    assert table.follows is not None and table.segment_offsets is not None
    assert table.segment_stream is not None and table.output_stream is not None
    before_last = table.segment_stream[table.segment_offsets[1:] - 2]
    return (table.follows < 0) | (before_last != table.output_stream[table.follows])


def _class_numbers(table: RequestTable, index: int) -> dict[str, Any]:
    rows = table.class_id == index
    count = int(np.count_nonzero(rows))
    return {
        "num_requests": count,
        "prompt_tokens": _spread(table.prompt_tokens[rows]) if count else None,
        "output_tokens": _spread(table.output_tokens[rows]) if count else None,
    }


def _spread(lengths: Int64) -> dict[str, float]:
    p50, p90, p99 = np.percentile(lengths, (50, 90, 99))
    return {
        "mean": float(lengths.mean()),
        "min": int(lengths.min()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": int(lengths.max()),
        "total": int(lengths.sum()),
    }


def shared_prompt_tokens(table: RequestTable) -> Int64:
    """Per request: how many of its first prompt tokens an earlier row's prompt and answer begin with.

    Segment by segment: a segment counts where an earlier row has the same one after the same
    beginning. Beginnings are compared as chained 64-bit hashes.
    """
    if table.segment_offsets is None:
        return np.zeros(len(table.prompt_tokens), dtype=np.int64)
    assert table.segment_length is not None and table.output_stream is not None
    offsets, lengths = table.segment_offsets, table.segment_length
    counts = np.diff(offsets)
    beginnings, whole = _chained(table)
    answers = _mixed(whole, table.output_stream, np.zeros_like(offsets[:-1]), table.output_tokens)
    row = np.repeat(np.arange(len(counts)), counts)
    known = _first_row(beginnings, row, beginnings) < row
    known |= _first_row(answers, np.arange(len(counts)), beginnings) < row
    missed = np.concatenate([[0], np.cumsum(~known)])
    is_shared = missed[1:] == missed[offsets[:-1]][row]
    shared = np.concatenate([[0], np.cumsum(np.where(is_shared, lengths, 0))])
    held: Int64 = shared[offsets[1:]] - shared[offsets[:-1]]
    return held


def _chained(table: RequestTable) -> tuple[Any, Any]:
    """Hash of every segment with all before it in its prompt, and of every whole prompt."""
    assert table.segment_offsets is not None and table.segment_stream is not None
    assert table.segment_start is not None and table.segment_length is not None
    counts = np.diff(table.segment_offsets)
    whole = np.zeros(len(counts), dtype=_UINT64)
    beginnings = np.empty(len(table.segment_stream), dtype=_UINT64)
    rows = np.arange(len(counts))
    for depth in range(int(counts.max())):
        rows = rows[counts[rows] > depth]
        at = table.segment_offsets[rows] + depth
        whole[rows] = beginnings[at] = _mixed(
            whole[rows], table.segment_stream[at], table.segment_start[at], table.segment_length[at]
        )
    return beginnings, whole


def _mixed(state: Any, *columns: Int64) -> Any:
    for column in columns:
        state = (state ^ column.astype(_UINT64)) * _UINT64(0x9E3779B97F4A7C15)
        state = state ^ (state >> _UINT64(32))
        state = state * _UINT64(0xD6E8FEB86659FD93)
        state = state ^ (state >> _UINT64(29))
    return state


def _first_row(keys: Any, rows: Int64, asked: Any) -> Int64:
    """The first row (rows ascend) that has each asked key; a number beyond every row where none has."""
    unique, first = np.unique(keys, return_index=True)
    place = np.minimum(np.searchsorted(unique, asked), len(unique) - 1)
    found: Int64 = np.where(unique[place] == asked, rows[first[place]], np.iinfo(np.int64).max)
    return found
