"""When requests (or sessions) come: arrival times drawn from a process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.errors import ScenarioError
from sim.records import PS_PER_S, Int64
from sim.rng import stream
from sim.scenario import Arrivals
from sim.workload.distributions import Float64

MAX_ROWS = 50_000_000
MAX_SPAN_PS = 2**62
"""4.6 million seconds (53 days): half of what an int64 of picoseconds holds."""

_PATH = "workload.arrivals"


def arrival_times(arrivals: Arrivals, num_requests: int | None, duration_s: float | None, seed: int) -> Int64:
    """Arrival times in ps, ascending: the first ``num_requests``, those before ``duration_s``, or both.

    closed_loop gives -1 from row ``concurrency`` on: another request's end triggers those. Fewer than
    ``num_requests`` come back where a schedule ends at rate 0. A shorter run is the beginning of a
    longer one, and a higher rate the same draws closer together.
    """
    if arrivals.process in ("closed_loop", "all_at_once"):
        return _untimed(arrivals, num_requests, duration_s)
    if num_requests is None and duration_s is None:
        raise ScenarioError(
            "nothing says how many requests there are",
            path="workload",
            hint="num_requests: 1000, or duration_s: 60",
        )
    draw = _PROCESSES[arrivals.process]
    if num_requests is None:
        assert duration_s is not None
        times = _all_before(arrivals, duration_s, seed)
    else:
        times = draw(arrivals, num_requests, stream(seed, "arrivals"))
    if duration_s is not None:
        times = times[: np.searchsorted(times, duration_s)]
    if len(times) == 0:
        raise ScenarioError(
            "no request arrives", path=_PATH, given=arrivals.process, hint="a higher rate or a longer run"
        )
    return to_ps(times)


def to_ps(times_s: Float64) -> Int64:
    """Seconds as whole picoseconds."""
    if times_s[-1] * PS_PER_S >= MAX_SPAN_PS:
        raise ScenarioError(
            "the run is too long for a clock of picoseconds",
            path="workload",
            given=f"last arrival after {times_s[-1]:.4g} s",
            allowed=f"{MAX_SPAN_PS / PS_PER_S:.3g} s",
            hint="fewer requests or a higher rate",
        )
    scaled: Float64 = times_s * PS_PER_S
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int64)


def _untimed(arrivals: Arrivals, num_requests: int | None, duration_s: float | None) -> Int64:
    if num_requests is None or (arrivals.process == "closed_loop" and duration_s is not None):
        raise ScenarioError(
            f"{arrivals.process} needs num_requests and has no end by duration_s",
            path="workload",
            hint="num_requests: 1000",
        )
    if arrivals.process == "all_at_once":
        return np.zeros(num_requests, dtype=np.int64)
    times = np.full(num_requests, -1, dtype=np.int64)
    times[: int(needed(arrivals, "concurrency"))] = 0
    return times


def _all_before(arrivals: Arrivals, duration_s: float, seed: int) -> Float64:
    count = 1024
    while True:
        times = _PROCESSES[arrivals.process](arrivals, count, stream(seed, "arrivals"))
        if len(times) < count or times[-1] >= duration_s:
            return times
        reach = count * duration_s / max(float(times[-1]), 1e-12)
        if count >= MAX_ROWS or reach > 1000 * MAX_ROWS:
            raise ScenarioError(
                "too many requests",
                path="workload.duration_s",
                given=duration_s,
                allowed=f"at most {MAX_ROWS:,} requests",
                hint="a shorter run or a lower rate",
            )
        count = int(min(MAX_ROWS, max(2 * count, 1.05 * reach)))


def needed(arrivals: Arrivals, name: str) -> float:
    """The arrival process's number ``name``, or an error that says that it is needed."""
    value: float | None = getattr(arrivals, name)
    if value is None:
        raise ScenarioError(
            f"{arrivals.process} needs {name}",
            path=_PATH,
            allowed=f"{{process: {arrivals.process}, {name}: ...}}",
        )
    return value


def _poisson(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    times = rng.standard_exponential(count)
    np.cumsum(times, out=times)
    times /= needed(arrivals, "requests_per_s")
    return times


def _gamma(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    shape = needed(arrivals, "cv") ** -2.0
    times = rng.standard_gamma(shape, count)
    np.cumsum(times, out=times)
    times /= shape * needed(arrivals, "requests_per_s")
    return times


def _constant(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    times: Float64 = np.arange(count, dtype=np.float64)
    times /= needed(arrivals, "requests_per_s")
    return times


def _on_off(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    """Poisson at ``requests_per_s`` for ``on_s``, then at ``off_requests_per_s`` for ``off_s``, and again."""
    on_s, off_s = needed(arrivals, "on_s"), needed(arrivals, "off_s")
    on_rate, off_rate = needed(arrivals, "requests_per_s"), arrivals.off_requests_per_s
    in_burst = on_s * on_rate
    cycles, rest = np.divmod(np.cumsum(rng.standard_exponential(count)), in_burst + off_s * off_rate)
    times = rest / on_rate
    if off_rate > 0:
        in_pause = rest > in_burst
        times[in_pause] = on_s + (rest[in_pause] - in_burst) / off_rate
    times += cycles * (on_s + off_s)
    return times


def _schedule(arrivals: Arrivals, count: int, rng: np.random.Generator) -> Float64:
    """Poisson with piecewise constant rate: unit-rate times through the inverse of the expected count."""
    steps = arrivals.rates or ()
    starts = np.array([0.0, *(step.start_s for step in steps)])
    rates = np.array([0.0, *(step.requests_per_s for step in steps)])
    if len(steps) == 0 or np.any(np.diff(starts[1:]) <= 0) or not np.any(rates > 0):
        raise ScenarioError(
            "a schedule needs rates in the order of their start, one of them above 0",
            path=f"{_PATH}.rates",
            given=[(step.start_s, step.requests_per_s) for step in steps],
            allowed="[{start_s: 0, requests_per_s: 2}, {start_s: 60, requests_per_s: 8}]",
        )
    expected = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(starts))])
    targets = np.cumsum(rng.standard_exponential(count))
    if rates[-1] == 0:
        targets = targets[targets <= expected[-1]]
    piece = np.searchsorted(expected, targets, side="left") - 1
    times: Float64 = starts[piece] + (targets - expected[piece]) / rates[piece]
    return times


_PROCESSES: dict[str, Callable[[Arrivals, int, np.random.Generator], Float64]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "constant": _constant,
    "on_off": _on_off,
    "schedule": _schedule,
}
