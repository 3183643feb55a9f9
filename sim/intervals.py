"""Means and ratios over seeds with their 95 % intervals, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sim.elementary import atan2, cos, exp, log, sin

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
    sine, cosine = sin(angle), cos(angle)
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
