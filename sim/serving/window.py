"""The window: from the end of the warm-up to the last arrival.

Rates, cost and all that is averaged over time (busy time, mean batch, queue, KV memory) are of what happened
inside it; latencies and goodput are of the requests that arrived inside it, followed to their end. Divided by
the time until the last answer, a rate would contain the ramp-down: nobody comes any more, and the batch runs
empty.

Where the scenario states no warm-up, MSER-5 finds its end (White, Cobb and Spratt, "A comparison of five
steady-state truncation heuristics for simulation", WSC 2000): of all cuts d through the means Y of five
observations each, the one that minimises the squared standard error of what is left, sum (Y - mean)^2 /
(n - d)^2, for d up to n / 2. With drawn arrivals the observations are how many requests are in the system
when one arrives: what the first ones find too few is what the rates would be too low by. In a closed loop
that number is constant, and the observations are the times between completions. An error that still falls at
n / 2 means that the run has not settled.

Not modelled: a warm-up for traces (a trace is what it is).
"""

from __future__ import annotations

import numpy as np

from sim.arrays import PS_PER_S, Bools, Int64
from sim.scenario.dataclass import dataclass
from sim.serving.records import FINISHED, RequestColumns
from sim.serving.scenario import Workload
from sim.units import format_s

LEAST_ARRIVALS = 100
LEAST_COMPLETIONS = 100
BATCH = 5
PS_PER_US = 10**6
_HOW_FOUND = "found as the start without which the mean is known best (MSER-5)"
_OF_WINDOW = "rates, cost and averages over time"
PARTS = 1000  # a share is taken in so many parts, as an integer: sums are then the same everywhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """``is_whole``: there is no such window, and the whole run is taken; ``note`` says why.

    ``warm_up`` is what ends where it begins, in words: "stated", "found"; empty without one.
    """

    begin_ps: int
    end_ps: int
    is_whole: bool
    note: str
    warm_up: str = ""

    @property
    def bounds_ps(self) -> tuple[int, int]:
        return self.begin_ps, self.end_ps

    def said(self, first_arrival_ps: int) -> str:
        """Its length, and what was left out before it, for a reader of the answer."""
        length = format_s((self.end_ps - self.begin_ps) / PS_PER_S)
        if self.is_whole:
            return f"all {length} of the run"
        if self.begin_ps <= first_arrival_ps:
            return f"{length}, from the first arrival to the last"
        warm_up = format_s((self.begin_ps - first_arrival_ps) / PS_PER_S)
        how = f" ({self.warm_up})" if self.warm_up else ""
        return f"{length} up to the last arrival, after {warm_up} of warm-up{how}"


def window_of(requests: RequestColumns, workload: Workload) -> Window:
    """The window of a run. ``requests.is_measured`` leaves out the warm-up that the scenario states."""
    measured = requests.is_measured & (requests.arrival_ps >= 0)
    num_came = int(np.count_nonzero(measured))
    if not num_came:
        return Window(begin_ps=0, end_ps=0, is_whole=True, note="nothing was measured")
    came = requests.arrival_ps[measured]
    begin, end = int(came.min()), int(came.max())
    del came
    finished = requests.status == FINISHED
    last = max(begin, int(requests.finish_ps[finished].max(initial=begin)))
    if num_came < LEAST_ARRIVALS or begin == end:
        what = "all requests came at once" if num_came > 1 and begin == end else f"{num_came} arrivals"
        return _whole(begin, last, f"{what}, and a window takes {LEAST_ARRIVALS} over some time")
    cut, said, warm_up = _warm_up_end(requests, workload, measured)
    done = requests.finish_ps[finished]
    inside = int(((done > max(begin, cut)) & (done <= end)).sum())
    if inside < LEAST_COMPLETIONS:
        return _whole(begin, last, f"only {inside} requests finished before the last one came")
    begin = max(begin, cut)
    of = "sent" if _is_closed(workload) else "that came"
    note = f"{_OF_WINDOW}: {said}, to the last request {of}"
    return Window(begin_ps=begin, end_ps=end, is_whole=False, note=note, warm_up=warm_up)


def _whole(begin_ps: int, last_ps: int, why: str) -> Window:
    note = f"{_OF_WINDOW}: of the whole run, its ramp-down included ({why})"
    return Window(begin_ps=begin_ps, end_ps=last_ps, is_whole=True, note=note)


def _is_closed(workload: Workload) -> bool:
    return workload.arrivals is not None and workload.arrivals.is_closed_loop


def _warm_up_end(requests: RequestColumns, workload: Workload, measured: Bools) -> tuple[int, str, str]:
    """(when the warm-up ends, in words, what found it); 0: with the first measured arrival."""
    if workload.states_warmup:
        return 0, "from the end of the warm-up that the scenario states", "stated"
    if workload.arrivals is None:
        return 0, "from the first request of the trace", ""
    found = None if _is_closed(workload) else _cut(*in_system_at_arrivals(requests, measured))
    if found is None:
        found = _cut(*completion_gaps(requests))
        if found is None:
            why = "no end of the warm-up was found: the run does not settle"
            return 0, f"from the first arrival ({why})", ""
    return found, f"from the end of the warm-up, {_HOW_FOUND}", "found, not stated"


def _cut(series: Int64, times_ps: Int64) -> int | None:
    at = mser5(series)
    return None if at is None else int(times_ps[at]) if at else 0


def mser5(series: Int64) -> int | None:
    """How many entries to leave out at the start; None where the error still falls at half of them.

    The sums are of integers and the rest is done entry by entry, so the answer is the same everywhere.
    """
    count = len(series) // BATCH
    if count < 2:
        return None
    batches = series[: count * BATCH].reshape(count, BATCH).sum(axis=1)
    left = np.arange(count, 0, -1)
    total = batches[::-1].cumsum()[::-1]
    squares = (batches * batches)[::-1].cumsum()[::-1]
    mean = total / left
    error = (squares / left - mean * mean) / left
    best = int(np.argmin(error[: count // 2 + 1]))
    return best * BATCH if best < count // 2 else None


def in_system_at_arrivals(requests: RequestColumns, measured: Bools) -> tuple[Int64, Int64]:
    """(requests in the system when each measured one arrives, when that is), in order of arrival."""
    moments = np.sort(requests.arrival_ps[measured])
    return num_in_system(requests, moments), moments


def num_in_system(requests: RequestColumns, moments_ps: Int64) -> Int64:
    """How many requests wait or run at each of these moments, who arrives just then left out."""
    has_come = requests.arrival_ps >= 0
    present: Int64 = np.searchsorted(_in_order(requests.arrival_ps[has_come]), moments_ps)
    left = _in_order(requests.finish_ps[(requests.finish_ps >= 0) & has_come])
    present -= np.searchsorted(left, moments_ps, side="right")
    return present


def _in_order(times_ps: Int64) -> Int64:
    """The same array, sorted."""
    times_ps.sort()
    return times_ps


def completion_gaps(requests: RequestColumns) -> tuple[Int64, Int64]:
    """(microseconds from one completion to the next, when it begins); the first from the first arrival."""
    arrived = requests.arrival_ps[requests.arrival_ps >= 0]
    done = np.sort(requests.finish_ps[requests.status == FINISHED])
    moments = np.concatenate([arrived.min(keepdims=True), done])
    return np.diff(moments) // PS_PER_US, moments[:-1]


def inside(times_ps: Int64, window: tuple[int, int]) -> Bools:
    """Which moments lie in the window, its beginning left out."""
    return (times_ps > window[0]) & (times_ps <= window[1])


def served_inside(requests: RequestColumns, done: Bools, window: tuple[int, int]) -> float:
    """How many of the ``done`` requests were served inside the window; one partly inside counts by that part.

    Service is from the first scheduling to the last token. Counting whole requests where they end would
    give away what those under way had got done when the window ends, and take in what those had that were
    under way when it began: as many only where the system was as full.
    """
    begun, ended = requests.first_scheduled_ps[done], requests.finish_ps[done]
    overlap = np.clip(np.minimum(ended, window[1]) - np.maximum(begun, window[0]), 0, None)
    span = ended - begun
    share = np.where(span > 0, overlap * PARTS // np.maximum(span, 1), PARTS * inside(ended, window))
    return int(share.sum()) / PARTS


def tokens_inside(requests: RequestColumns, window: tuple[int, int]) -> Int64:
    """Output tokens of each request that came inside the window.

    The first token counts where it came; the others are spread evenly from there to the last one.
    """
    first, last = requests.first_token_ps, requests.finish_ps
    span = np.maximum(last - first, 1)
    overlap = np.clip(np.minimum(last, window[1]) - np.maximum(first, window[0]), 0, None)
    later = np.maximum(requests.generated_tokens - 1, 0)
    share = (2 * later * overlap + span) // (2 * span)  # rounded to whole tokens
    share = np.where(last > first, share, np.where(inside(last, window), later, 0))
    return share + inside(first, window)
