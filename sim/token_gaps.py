"""Gaps between consecutive tokens (``itl_s``), read off the engine's segments."""

from __future__ import annotations

import numpy as np

from sim.arrays import Int64
from sim.records import RequestColumns, RunResult, SegmentColumns
from sim.serving.front_end import FrontEnd
from sim.statistics import ArithmeticRuns


def segment_length_ps(segments: SegmentColumns) -> Int64:
    """How long each segment lasts: the sum of its steps."""
    n = segments.num_steps
    return n * segments.first_step_ps + segments.step_growth_ps * (n * (n - 1) // 2)


def token_gaps(result: RunResult) -> ArithmeticRuns:
    """Every gap between consecutive tokens, as a weighted sample, without a list of tokens.

    A step gives one gap of its length to each decoding sequence. Where steps without decoding (only
    prompts) came in between, the gap reaches back to the sequence's last token: its first one, for
    a sequence whose prompt was among them, else the last decoding step. Taken are the gaps of
    segments that start inside the measured window, warm-up requests' tokens among them. The gap
    across a preemption is not here: it counts in ``e2e_s`` and ``tpot_s``. Accepted drafts arrive together
    with their step's token: gaps of zero.
    """
    requests = FrontEnd.of(result.scenario).at_engine(result.requests)
    parts = [
        _replica_gaps(result.segments, requests, int(replica), result.window_ps)
        for replica in np.unique(result.segments.replica)
    ]
    return ArithmeticRuns(
        **{
            name: np.concatenate([np.empty(0, np.int64), *(getattr(part, name) for part in parts)])
            for name in ("first", "growth", "num", "weight")
        }
    )


def _replica_gaps(
    segments: SegmentColumns, requests: RequestColumns, replica: int, window_ps: tuple[int, int]
) -> ArithmeticRuns:
    chosen = np.flatnonzero((segments.replica == replica) & (segments.num_decode > 0))
    chosen = chosen[np.argsort(segments.start_ps[chosen], kind="stable")]
    start, first = segments.start_ps[chosen], segments.first_step_ps[chosen]
    end = start + segment_length_ps(segments)[chosen]
    reach = np.empty_like(start)  # where the decoding step before this one ended
    reach[:1], reach[1:] = start[:1], end[:-1]
    measured = (start >= window_ps[0]) & (start < window_ps[1])
    new_gaps, owner = _gaps_after_first_token(requests, replica, (start, first, reach))
    num_new = np.bincount(owner, minlength=start.size)
    num_old = np.maximum(segments.num_decode[chosen] - num_new, 0)
    growth, num_steps = segments.step_growth_ps[chosen], segments.num_steps[chosen]
    one, none = np.ones_like(start), np.zeros_like(start)
    kept_new = measured[owner]
    new = new_gaps[kept_new]
    accepted = np.zeros(0, dtype=np.int64)
    if segments.num_accepted_tokens is not None:
        accepted = segments.num_accepted_tokens[chosen][measured]
    together = np.zeros_like(accepted)
    ones = np.ones(len(new) + len(accepted), dtype=np.int64)
    return ArithmeticRuns(
        first=np.concatenate([(first + start - reach)[measured], (first + growth)[measured], new, together]),
        growth=np.concatenate([none[measured], growth[measured], np.zeros_like(ones)]),
        num=np.concatenate([one[measured], num_steps[measured] - 1, ones]),
        weight=np.concatenate(
            [num_old[measured], segments.num_decode[chosen][measured], np.ones_like(new), accepted]
        ),
    )


def _gaps_after_first_token(
    requests: RequestColumns, replica: int, decoding: tuple[Int64, Int64, Int64]
) -> tuple[Int64, Int64]:
    """Second tokens of prompts that finished in a step without decoding: (gap, index of its segment)."""
    start, first, reach = decoding
    ids = np.flatnonzero((requests.replica == replica) & (requests.first_token_ps >= 0))
    token = requests.first_token_ps[ids]
    at = np.searchsorted(start, token, side="left")
    inside = at < start.size
    ids, token, at = ids[inside], token[inside], at[inside]
    step_end = start[at] + first[at]
    after_stall = (token > reach[at]) | ((at == 0) & (token < start[at]))
    decodes = (requests.generated_tokens[ids] > 1) & (
        (requests.finish_ps[ids] < 0) | (requests.finish_ps[ids] >= step_end)
    )
    new = after_stall & decodes
    return (step_end - token)[new], at[new]


def decode_step_ends(segments: SegmentColumns, replica: int) -> tuple[Int64, Int64]:
    """(when each decoding step of a replica ends, how many sequences decode in it), by time."""
    chosen = np.flatnonzero((segments.replica == replica) & (segments.num_decode > 0))
    chosen = chosen[np.argsort(segments.start_ps[chosen], kind="stable")]
    num = segments.num_steps[chosen]
    step = np.arange(int(num.sum())) - np.repeat(np.cumsum(num) - num, num)
    first, growth = (
        np.repeat(segments.first_step_ps[chosen], num),
        np.repeat(segments.step_growth_ps[chosen], num),
    )
    ends = np.repeat(segments.start_ps[chosen], num) + (step + 1) * first + growth * (step * (step + 1) // 2)
    return ends, np.repeat(segments.num_decode[chosen], num)
