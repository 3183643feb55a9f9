"""Means, spreads and percentiles of a run, exact over runs of equal steps, and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.elementary import atan2, exp, log, sin_cos
from sim.results.metric import PERCENTILES
from sim.scenario.dataclass import dataclass

LEAST_SAMPLES_BEYOND = 10


_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate over seeds and its 95 % interval; without one (``low`` None) there was one seed."""

    estimate: float
    low: float | None
    high: float | None

    def excludes(self, value: float) -> bool | None:
        """Whether ``value`` lies outside; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return not self.low <= value <= self.high

    def inverse(self) -> Interval:
        """Of a ratio: the other way round."""
        low = None if self.high is None else 1 / self.high
        return Interval(estimate=1 / self.estimate, low=low, high=None if self.low is None else 1 / self.low)


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its 95 % interval by Student's t; no interval for one value."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(estimate=mean, low=None, high=None)
    square = math.fsum((value - mean) * (value - mean) for value in values)
    error = math.sqrt(square / (n - 1) / n)
    half = student_t_quantile((1 + _LEVEL) / 2, n - 1) * error
    return Interval(estimate=mean, low=mean - half, high=mean + half)


def relative_half_width(values: Sequence[float]) -> float:
    """How far the 95 % interval reaches to either side, as a share of the mean; infinite around 0."""
    interval = mean_interval(values)
    half = math.inf if interval.high is None else interval.high - interval.estimate
    if half == 0:
        return 0.0
    return half / abs(interval.estimate) if interval.estimate else math.inf


def ratio_interval(values: Sequence[float], base: Sequence[float]) -> Interval:
    """The geometric mean of the paired ratios and its 95 % interval (t on logarithms); all above 0."""
    if list(values) == list(base):
        return Interval(
            estimate=1.0, low=1.0 if len(values) > 1 else None, high=1.0 if len(values) > 1 else None
        )
    logs = mean_interval([log(value / other) for value, other in zip(values, base, strict=True)])
    return Interval(
        estimate=exp(logs.estimate),
        low=None if logs.low is None else exp(logs.low),
        high=None if logs.high is None else exp(logs.high),
    )


def student_t_cdf(t: float, dof: int) -> float:
    """P(T <= t) for whole degrees of freedom: the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = atan2(t, math.sqrt(dof))
    sine, cosine = sin_cos(angle)
    if dof % 2:
        term, total = cosine, cosine if dof > 1 else 0.0
        for k in range(3, dof - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term = total = 1.0
        for k in range(2, dof - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + inside / 2


@cache
def student_t_quantile(probability: float, dof: int) -> float:
    """The t below which a share ``probability`` (above 0.5) of Student's distribution lies, by bisection."""
    low, high = 0.0, 1.0
    while student_t_cdf(high, dof) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_t_cdf(middle, dof) < probability else (low, middle)
    return high


_CHUNK_STEPS = 1 << 20


_NUM_BINS_LOG2 = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a sample of times looks like, in seconds; ``num_samples`` may be counted with weights."""

    num_samples: int
    mean: float
    std: float  # population, as NumPy's default
    max: float
    percentiles: Mapping[int, float]  # linear interpolation, as NumPy's default


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticRuns:
    """A weighted sample: run i holds first, first + growth, ... (``num`` values), each ``weight`` times.

    Millions of token gaps are a few thousand runs: an engine jump of k steps is one of them.
    """

    first: Int64
    growth: Int64
    num: Int64
    weight: Int64


def is_thin(num_samples: int, percent: int) -> bool:
    """True where fewer than ten samples lie beyond the percentile, which then is mostly luck."""
    return num_samples * (100 - percent) < 100 * LEAST_SAMPLES_BEYOND


def samples_needed(percent: int) -> int:
    """From how many samples ten lie beyond the percentile."""
    return -(-100 * LEAST_SAMPLES_BEYOND // (100 - percent))


def spread(times_ps: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> Spread | None:
    """The spread of plain samples in picoseconds; None without any."""
    if times_ps.size == 0:
        return None
    percentiles = np.percentile(times_ps, PERCENTILES) / PS_PER_S
    return Spread(
        num_samples=int(times_ps.size),
        mean=float(times_ps.mean()) / PS_PER_S,
        std=float(times_ps.std()) / PS_PER_S,
        max=float(times_ps.max()) / PS_PER_S,
        percentiles=dict(zip(PERCENTILES, percentiles.tolist(), strict=True)),
    )


def spread_of_runs(runs: ArithmeticRuns) -> Spread | None:
    """The spread of a weighted sample, equal to that of the list written out; None if it is empty."""
    kept = (runs.num > 0) & (runs.weight > 0)
    runs = ArithmeticRuns(
        first=runs.first[kept], growth=runs.growth[kept], num=runs.num[kept], weight=runs.weight[kept]
    )
    num_samples = int((runs.num * runs.weight).sum())
    if num_samples == 0:
        return None
    last = runs.first + (runs.num - 1) * runs.growth
    mean, std = _mean_and_std(runs, num_samples)
    return Spread(
        num_samples=num_samples,
        mean=mean / PS_PER_S,
        std=std / PS_PER_S,
        max=int(np.maximum(runs.first, last).max()) / PS_PER_S,
        percentiles={
            percent: value / PS_PER_S
            for percent, value in zip(PERCENTILES, _percentiles(runs, num_samples), strict=True)
        },
    )


def _mean_and_std(runs: ArithmeticRuns, num_samples: int) -> tuple[float, float]:
    """Sums of arithmetic progressions, around the mean so that nothing cancels."""
    num, weight, growth = (x.astype(np.float64) for x in (runs.num, runs.weight, runs.growth))
    middle = runs.first + growth * (num - 1) / 2
    mean = float((weight * num * middle).sum()) / num_samples
    within = growth**2 * (num**2 - 1) / 12  # variance of 0, g, 2g, ...
    variance = float((weight * num * (within + (middle - mean) ** 2)).sum()) / num_samples
    return mean, math.sqrt(variance)


def _percentiles(runs: ArithmeticRuns, num_samples: int) -> list[float]:
    """Linear interpolation between the order statistics around (num_samples - 1) x percent / 100."""
    whole, rest = zip(*(divmod((num_samples - 1) * percent, 100) for percent in PERCENTILES), strict=True)
    ranks = sorted({rank for low in whole for rank in (low, min(low + 1, num_samples - 1))})
    at = dict(zip(ranks, order_statistics(runs, ranks), strict=True))
    return [
        at[low] + (at[min(low + 1, num_samples - 1)] - at[low]) * (part / 100)
        for low, part in zip(whole, rest, strict=True)
    ]


def order_statistics(runs: ArithmeticRuns, ranks: Sequence[int]) -> list[int]:
    """The values at ``ranks`` (from 0) of the sorted, written-out sample.

    One pass counts the samples in at most 65,536 equal bins, a second sorts those of the few bins
    that hold a rank. Runs that fit into one bin, or miss all of the few, are not written out.
    """
    last = runs.first + (runs.num - 1) * runs.growth
    low, high = np.minimum(runs.first, last), np.maximum(runs.first, last)
    lowest, span = int(low.min()), int(high.max() - low.min())
    shift = max(0, span.bit_length() - _NUM_BINS_LOG2)
    num_bins = (span >> shift) + 1
    low_bin, high_bin = (low - lowest) >> shift, (high - lowest) >> shift
    narrow = low_bin == high_bin
    counts = np.bincount(low_bin[narrow], (runs.num * runs.weight)[narrow], num_bins).astype(np.float64)
    for values, weights in _expanded(runs, ~narrow):
        counts += np.bincount((values - lowest) >> shift, weights, num_bins)
    upto = np.cumsum(counts.astype(np.int64))
    bins = np.searchsorted(upto, np.asarray(ranks), side="right")
    wanted = np.zeros(num_bins, dtype=np.bool_)
    wanted[bins] = True
    wanted_upto = np.concatenate([[0], np.cumsum(wanted)])
    touched = wanted_upto[high_bin + 1] > wanted_upto[low_bin]
    pieces = [
        (v[hit], w[hit]) for v, w in _expanded(runs, touched) if (hit := wanted[(v - lowest) >> shift]).any()
    ]
    values, weights = (np.concatenate(part) for part in zip(*pieces, strict=True))
    order = np.argsort(values, kind="stable")
    values, inside = values[order], np.cumsum(weights[order])
    # Samples below a rank's bin that were not gathered.
    skipped = np.concatenate([[0], np.cumsum(np.where(wanted, 0, counts.astype(np.int64)))])[bins]
    return [int(values[i]) for i in np.searchsorted(inside, np.asarray(ranks) - skipped, side="right")]


def _expanded(runs: ArithmeticRuns, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[Int64, Int64]]:
    """The chosen runs written out as (values, weights), about a million steps at a time."""
    columns = (runs.first, runs.growth, runs.num, runs.weight)
    first, growth, num_steps, weight = (column[chosen] for column in columns)
    upto = np.cumsum(num_steps)
    begin = 0
    while begin < upto.size:
        done = int(upto[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(upto, done + _CHUNK_STEPS, side="right")))
        num = num_steps[begin:end]
        step = np.arange(int(num.sum())) - np.repeat(upto[begin:end] - num - done, num)
        values = np.repeat(first[begin:end], num) + np.repeat(growth[begin:end], num) * step
        yield values, np.repeat(weight[begin:end], num)
        begin = end


def exact_sum(values: Int64) -> int:
    """The sum as an unbounded integer: picoseconds of a million requests do not fit 64 bits."""
    return (int((values >> 20).sum()) << 20) + int((values & 0xFFFFF).sum())


def exact_dot(counts: Int64, times_ps: Int64) -> int:
    """Sum of counts x times as an unbounded integer (counts below 2**31)."""
    return (int((counts * (times_ps >> 20)).sum()) << 20) + int((counts * (times_ps & 0xFFFFF)).sum())
