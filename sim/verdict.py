"""Does the queue grow? STABLE, BACKLOGGED or OVERLOADED, by one stated test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.arrays import Int64
from sim.intervals import student_t_quantile
from sim.records import UNFINISHED, RequestColumns, RunResult

Word = Literal[
    "COMPUTE_BOUND",
    "EXCHANGE_BOUND",
    "STRAGGLER_BOUND",
    "DATA_BOUND",
    "FAILURE_BOUND",
    "STABLE",
    "BACKLOGGED",
    "OVERLOADED",
    "UNTESTED",
    # A kernel's: what held it back, and "COMPUTE_BOUND".
    "MEMORY_BOUND",
    "LATENCY_BOUND",
    "LAUNCH_BOUND",
    "LINK_BOUND",
    "OUT_OF_MEMORY",
]

_NUM_BATCHES = 8
_LEAST_PER_BATCH = 10
_ALPHA = 0.005
_LEAST_GROWTH = 0.02  # requests that stay waiting per request that arrives


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The word, why, and the trend behind it (requests that stay waiting per request that arrives)."""

    word: Word
    reason: str
    growth: float | None = None
    t_statistic: float | None = None


def judge(result: RunResult) -> Verdict:
    """The verdict on a run's queue.

    Each measured request notes how many wait before it when it arrives. In order of arrival these
    counts are cut into eight batches of equal size, and a straight line is fitted through the batch
    means, so that the autocorrelation of neighbours does not pass for a trend. The queue *grows*
    where its slope is significant (one-sided t test, 6 degrees of freedom, level 0.005), at least 0.02
    requests per arrival (about 2 % more come than are served), and over all n arrivals more than
    2 sqrt(n) requests: what chance alone piles up at a load equal to capacity (arrivals and services
    each as variable as Poisson's).
    BACKLOGGED: it grew, and every request had ended within one arrival span after the last arrival;
    OVERLOADED: it grew, and not. UNTESTED: fewer than 80 arrivals.

    Not seen: overload below 2 %, a queue that grew and shrank again while requests still came,
    clients whose time-outs keep the queue short (they count as aborted), and a load within a few
    percent of capacity in a short run. Under a closed loop no queue can grow.
    """
    workload, requests = result.scenario.workload, result.requests
    if workload.arrivals is not None and workload.arrivals.is_closed_loop:
        return Verdict(word="STABLE", reason="closed loop: clients wait for answers, so no queue can grow")
    ids = np.flatnonzero(requests.is_measured & (requests.arrival_ps >= 0))
    if ids.size == 0:
        return Verdict(word="UNTESTED", reason="no request arrived in the measured time")
    ids = ids[np.argsort(requests.arrival_ps[ids], kind="stable")]
    span_ps = int(requests.arrival_ps[ids[-1]] - requests.arrival_ps[ids[0]])
    if span_ps == 0 and ids.size > 1:
        word: Word = "OVERLOADED" if (requests.status[ids] == UNFINISHED).any() else "BACKLOGGED"
        return Verdict(word=word, reason="all requests came at once: a queue by construction")
    if ids.size < _NUM_BATCHES * _LEAST_PER_BATCH:
        needed = _NUM_BATCHES * _LEAST_PER_BATCH
        return Verdict(word="UNTESTED", reason=f"{ids.size} arrivals: a trend needs {needed}")
    growth, t_statistic = trend(num_waiting_at_arrival(requests, ids))
    if not is_growing(growth, t_statistic, ids.size):
        reason = "the queue has no upward trend over the arrivals"
        return Verdict(word="STABLE", reason=reason, growth=growth, t_statistic=_finite(t_statistic))
    return _word_for(growth, t_statistic, _drain_spans(requests, ids, span_ps))


def num_waiting_at_arrival(requests: RequestColumns, ids: Int64) -> Int64:
    """How many requests wait when each of ``ids`` (in order of arrival) comes; warm-up ones count too.

    A request waits until it is first scheduled, or leaves unserved; one preempted later does not count.
    """
    arrived = np.sort(requests.arrival_ps[requests.arrival_ps >= 0])
    scheduled, finish = requests.first_scheduled_ps, requests.finish_ps
    left = np.where(scheduled >= 0, scheduled, finish)
    left = np.sort(left[(left >= 0) & (requests.arrival_ps >= 0)])
    moments = requests.arrival_ps[ids]
    waiting: Int64 = np.searchsorted(arrived, moments) - np.searchsorted(left, moments)
    return waiting


def trend(series: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> tuple[float, float]:
    """(slope per entry, its t statistic) of the line through eight batch means."""
    x = np.array([batch.mean() for batch in np.array_split(np.arange(series.size), _NUM_BATCHES)])
    y = np.array([batch.mean() for batch in np.array_split(series, _NUM_BATCHES)])
    centred = x - x.mean()
    square = float((centred**2).sum())
    slope = float((centred * y).sum()) / square
    residual = y - y.mean() - slope * centred
    error = float(np.sqrt((residual**2).sum() / (_NUM_BATCHES - 2) / square))
    return slope, slope / error if error > 0 else float(np.sign(slope)) * np.inf


def is_growing(growth: float, t_statistic: float, num_arrivals: int) -> bool:
    """The test of ``judge``: significant, steep enough to matter, and more than chance piles up."""
    least = max(_LEAST_GROWTH, 2 / math.sqrt(num_arrivals))
    return growth >= least and t_statistic > student_t_quantile(1 - _ALPHA, _NUM_BATCHES - 2)


def _finite(t_statistic: float) -> float | None:
    return t_statistic if np.isfinite(t_statistic) else None


def _word_for(growth: float, t_statistic: float, drain_spans: float | None) -> Verdict:
    """BACKLOGGED or OVERLOADED, for a queue that grew."""
    gained = f"of 100 arrivals {growth * 100:.2g} stayed waiting"
    if drain_spans is not None and drain_spans <= 1:
        reason = f"{gained}; all was done {drain_spans:.2g} arrival spans after the last arrival"
        return Verdict(word="BACKLOGGED", reason=reason, growth=growth, t_statistic=_finite(t_statistic))
    after = "some requests never ended" if drain_spans is None else "the rest took longer than the arrivals"
    return Verdict(
        word="OVERLOADED", reason=f"{gained}; {after}", growth=growth, t_statistic=_finite(t_statistic)
    )


def _drain_spans(requests: RequestColumns, ids: Int64, span_ps: int) -> float | None:
    """Time from the last arrival to the last end, in arrival spans; None if something never ended."""
    if (requests.status[ids] == UNFINISHED).any():
        return None
    return int(requests.finish_ps[ids].max() - requests.arrival_ps[ids].max()) / span_ps
