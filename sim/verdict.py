"""Does the queue grow? STABLE, BACKLOGGED or OVERLOADED, by one stated test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.intervals import student_t_quantile
from sim.records import PS_PER_S, UNFINISHED, Int64, RequestColumns, RunResult
from sim.request_times import count

Word = Literal["STABLE", "BACKLOGGED", "OVERLOADED", "UNTESTED"]

_NUM_BATCHES = 8
_LEAST_PER_BATCH = 10
_ALPHA = 0.001
_LEAST_GROWTH = 0.02  # seconds of waiting gained per second of arrivals


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The word, why, and the trend behind it (seconds of waiting gained per second of arrivals)."""

    word: Word
    reason: str
    growth: float | None = None
    t_statistic: float | None = None


def judge(result: RunResult) -> Verdict:
    """The verdict on a run's queue.

    The waiting times (``queue_s``) of the measured requests, in order of arrival, are cut into eight
    batches of equal count; a straight line is fitted through the batch means against arrival time,
    so that the autocorrelation of neighbours does not pass for a trend. The queue *grows* where the
    line rises by at least 0.02 s per second of arrivals (work arrives about 2 % faster than it is
    done) and its slope is significant (one-sided t test, 6 degrees of freedom, level 0.001).
    BACKLOGGED: it grew, and every request had ended within one arrival span after the last arrival;
    OVERLOADED: it grew, and not. UNTESTED: fewer than 80 arrivals.

    Not seen: overload below 2 %, a queue that grew and shrank again while requests still came, and
    (as in any such test) a load within a few percent of capacity in a short run.
    """
    arrivals = result.scenario.workload.arrivals
    if arrivals is not None and arrivals.process == "closed_loop" and result.scenario.workload.trace is None:
        return Verdict(word="STABLE", reason="closed loop: clients wait for answers, so no queue can grow")
    requests = result.requests
    ids = np.flatnonzero(requests.is_measured & (requests.arrival_ps >= 0))
    if ids.size == 0:
        return Verdict(word="UNTESTED", reason="no request arrived in the measured time")
    ids = ids[np.argsort(requests.arrival_ps[ids], kind="stable")]
    arrival_ps = requests.arrival_ps[ids]
    span_ps = int(arrival_ps[-1] - arrival_ps[0])
    if span_ps == 0 and ids.size > 1:
        word: Word = "OVERLOADED" if (requests.status[ids] == UNFINISHED).any() else "BACKLOGGED"
        return Verdict(word=word, reason="all requests came at once: a queue by construction")
    waits = _waits_ps(requests, ids, _last_moment_ps(result))
    kept = waits >= 0
    if count(kept) < _NUM_BATCHES * _LEAST_PER_BATCH:
        return Verdict(
            word="UNTESTED",
            reason=f"{count(kept)} arrivals: a trend needs {_NUM_BATCHES * _LEAST_PER_BATCH}",
        )
    growth, t_statistic = trend(arrival_ps[kept] / PS_PER_S, waits[kept] / PS_PER_S)
    return _word_for(growth, t_statistic, _drain_spans(requests, ids, span_ps))


def trend(arrival_s: npt.NDArray[np.float64], wait_s: npt.NDArray[np.float64]) -> tuple[float, float]:
    """(slope, t statistic) of the line through eight batch means of the waits."""
    x = np.array([batch.mean() for batch in np.array_split(arrival_s, _NUM_BATCHES)])
    y = np.array([batch.mean() for batch in np.array_split(wait_s, _NUM_BATCHES)])
    centred = x - x.mean()
    square = float((centred**2).sum())
    if square == 0.0:
        return 0.0, 0.0
    slope = float((centred * y).sum()) / square
    residual = y - y.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / (_NUM_BATCHES - 2) / square))
    return slope, slope / error if error > 0 else float(np.sign(slope)) * np.inf


def is_growing(growth: float, t_statistic: float) -> bool:
    """The test: steep enough to matter, and significant."""
    return growth >= _LEAST_GROWTH and t_statistic > student_t_quantile(1 - _ALPHA, _NUM_BATCHES - 2)


def _word_for(growth: float, t_statistic: float, drain_spans: float | None) -> Verdict:
    finite = t_statistic if np.isfinite(t_statistic) else None
    if not is_growing(growth, t_statistic):
        return Verdict(
            word="STABLE",
            reason="the queue has no upward trend over the arrivals",
            growth=growth,
            t_statistic=finite,
        )
    gained = f"waiting grew by {growth:.2g} s per second of arrivals"
    if drain_spans is not None and drain_spans <= 1:
        reason = f"{gained}; all was done {drain_spans:.2g} arrival spans after the last arrival"
        return Verdict(word="BACKLOGGED", reason=reason, growth=growth, t_statistic=finite)
    after = "some requests never ended" if drain_spans is None else "the rest took longer than the arrivals"
    return Verdict(word="OVERLOADED", reason=f"{gained}; {after}", growth=growth, t_statistic=finite)


def _waits_ps(requests: RequestColumns, ids: Int64, last_ps: int) -> Int64:
    """Waiting time of each; until it left, or so far, where it was never scheduled; -1: refused."""
    scheduled, finish = requests.first_scheduled_ps[ids], requests.finish_ps[ids]
    until = np.where(scheduled >= 0, scheduled, np.where(finish >= 0, finish, last_ps))
    return np.where(requests.status[ids] == 2, -1, until - requests.arrival_ps[ids])


def _drain_spans(requests: RequestColumns, ids: Int64, span_ps: int) -> float | None:
    """Time from the last arrival to the last end, in arrival spans; None if something never ended."""
    if (requests.status[ids] == UNFINISHED).any():
        return None
    return int(requests.finish_ps[ids].max() - requests.arrival_ps[ids].max()) / span_ps


def _last_moment_ps(result: RunResult) -> int:
    return max(
        int(result.requests.finish_ps.max()), int(result.requests.arrival_ps.max()), result.window_ps[1]
    )
