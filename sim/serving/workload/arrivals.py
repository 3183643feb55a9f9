"""When requests come: the keys of ``arrivals:`` and the processes that they choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from sim.arrays import PS_PER_S, Float64, Int64
from sim.elementary import exp_of
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import Distribution, Keys
from sim.scenario.fields import key


def _arrival_processes() -> Mapping[str, ArrivalProcess]:

    return ARRIVAL_PROCESSES


@dataclass(frozen=True, slots=True, kw_only=True)
class RateStep:
    """From ``start_s`` on, arrivals come at ``requests_per_s``."""

    start_s: float = key("when this rate begins, seconds from the start", ge=0)
    requests_per_s: float = key("rate from then on", ge=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """When requests come."""

    process: str = key("how arrivals are spaced", choices=_arrival_processes)
    requests_per_s: float | None = key("mean arrival rate", default=None, gt=0)
    cv: float | None = key("gamma: coefficient of variation of the gaps", default=None, gt=0)
    on_s: float | None = key("on_off: length of a burst", default=None, gt=0)
    off_s: float | None = key("on_off: length of a pause", default=None, ge=0)
    off_requests_per_s: float = key("on_off: rate in the pause", default=0.0, ge=0)
    rates: tuple[RateStep, ...] | None = key("schedule: Poisson rates by time", default=None)
    concurrency: int | None = key(
        "closed_loop: clients, each with one request", default=None, ge=1, le=1_000_000
    )
    think_time_s: Distribution | None = key("closed_loop: pause after an answer", default=None)

    @property
    def is_closed_loop(self) -> bool:
        """Whether clients wait for their answers, so that no queue can grow."""
        return _arrival_processes()[self.process].is_closed_loop

    @property
    def is_random(self) -> bool:
        """Whether another seed gives other times."""
        return _arrival_processes()[self.process].is_random

    @property
    def stated_mean_per_s(self) -> float | None:
        """How many come a second, where that is what ``requests_per_s`` says."""
        return self.requests_per_s if _arrival_processes()[self.process].states_mean else None

    @property
    def is_drawn(self) -> bool:
        """Whether each request has a drawn time, so that ``duration_s`` can end the run."""
        return _arrival_processes()[self.process].draw is not None


MAX_ROWS = 50_000_000


MAX_SPAN_PS = 2**62
"""4.6 million seconds (53 days): half of what an int64 of picoseconds holds."""


_PATH = "workload.arrivals"


class RateKeys(Protocol):
    """One of the ``rates`` of a schedule."""

    @property
    def start_s(self) -> float: ...
    @property
    def requests_per_s(self) -> float: ...


class ArrivalKeys(Protocol):
    """What an arrival process reads of the scenario's ``Arrivals``."""

    @property
    def process(self) -> str: ...
    @property
    def requests_per_s(self) -> float | None: ...
    @property
    def cv(self) -> float | None: ...
    @property
    def on_s(self) -> float | None: ...
    @property
    def off_s(self) -> float | None: ...
    @property
    def off_requests_per_s(self) -> float: ...
    @property
    def rates(self) -> Sequence[RateKeys] | None: ...
    @property
    def concurrency(self) -> int | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalProcess:
    """One entry of ``ARRIVAL_PROCESSES``: its line in the documentation, its keys, and when requests come.

    ``draw`` gives ascending times in seconds, and fewer than it was asked for where arrivals end; the run may
    then end by ``duration_s``. ``place`` is for what has no times to draw: ps, -1 where another
    request's end triggers one.
    """

    doc: str
    keys: Keys
    draw: Callable[[ArrivalKeys, int, np.random.Generator], Float64] | None = None
    place: Callable[[ArrivalKeys, int], Int64] | None = None
    is_closed_loop: bool = False  # clients wait for their answers
    is_random: bool = False  # another seed, other times
    states_mean: bool = False  # ``requests_per_s`` is the mean over any time


def arrival_times(
    arrivals: ArrivalKeys, num_requests: int | None, duration_s: float | None, seed: int
) -> Int64:
    """Arrival times in ps, ascending: the first ``num_requests``, those before ``duration_s``, or both.

    closed_loop gives -1 from row ``concurrency`` on: another request's end triggers those. Fewer than
    ``num_requests`` come back where a schedule ends at rate 0. A shorter run is the beginning of a
    longer one, and a higher rate the same draws closer together.
    """
    process = ARRIVAL_PROCESSES[arrivals.process]
    if process.draw is None:
        return _placed(arrivals, process, num_requests, duration_s)
    if num_requests is None and duration_s is None:
        raise ScenarioError(
            "nothing says how many requests there are",
            path="workload",
            hint="num_requests: 1000, or duration_s: 60",
        )
    if num_requests is None:
        assert duration_s is not None
        times = _all_before(arrivals, duration_s, seed)
    else:
        times = process.draw(arrivals, num_requests, stream(seed, "arrivals"))
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


def _placed(
    arrivals: ArrivalKeys, process: ArrivalProcess, num_requests: int | None, duration_s: float | None
) -> Int64:
    if num_requests is None or (process.is_closed_loop and duration_s is not None):
        raise ScenarioError(
            f"{arrivals.process} needs num_requests and has no end by duration_s",
            path="workload",
            hint="num_requests: 1000",
        )
    assert process.place is not None
    return process.place(arrivals, num_requests)


def _all_before(arrivals: ArrivalKeys, duration_s: float, seed: int) -> Float64:
    count = 1024
    draw = ARRIVAL_PROCESSES[arrivals.process].draw
    assert draw is not None
    while True:
        times = draw(arrivals, count, stream(seed, "arrivals"))
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


def needed(arrivals: ArrivalKeys, name: str) -> float:
    """The arrival process's number ``name``, or an error that says that it is needed."""
    value: float | None = getattr(arrivals, name)
    if value is None:
        raise ScenarioError(
            f"{arrivals.process} needs {name}",
            path=_PATH,
            allowed=f"{{process: {arrivals.process}, {name}: ...}}",
        )
    return value


def _poisson(arrivals: ArrivalKeys, count: int, rng: np.random.Generator) -> Float64:
    times = rng.standard_exponential(count)
    np.cumsum(times, out=times)
    times /= needed(arrivals, "requests_per_s")
    return times


def _gamma(arrivals: ArrivalKeys, count: int, rng: np.random.Generator) -> Float64:
    cv = needed(arrivals, "cv")
    shape = 1 / (cv * cv)
    times = _standard_gamma(shape, count, rng)
    np.cumsum(times, out=times)
    times /= shape * needed(arrivals, "requests_per_s")
    return times


def _standard_gamma(shape: float, count: int, rng: np.random.Generator) -> Float64:
    """Gamma numbers; of a shape below 1, where NumPy's values are libm's, as G(shape + 1) U^(1/shape)."""
    if shape >= 1:
        return rng.standard_gamma(shape, count)
    (shrinking,) = rng.spawn(1)  # draws of its own, so that a shorter run stays the beginning of a longer one
    values = rng.standard_gamma(shape + 1, count)
    values *= exp_of(shrinking.standard_exponential(count) * (-1 / shape))
    return values


def _constant(arrivals: ArrivalKeys, count: int, rng: np.random.Generator) -> Float64:
    times: Float64 = np.arange(count, dtype=np.float64)
    times /= needed(arrivals, "requests_per_s")
    return times


def _on_off(arrivals: ArrivalKeys, count: int, rng: np.random.Generator) -> Float64:
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


def _schedule(arrivals: ArrivalKeys, count: int, rng: np.random.Generator) -> Float64:
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


def _clients(arrivals: ArrivalKeys, count: int) -> Int64:
    times = np.full(count, -1, dtype=np.int64)
    times[: int(needed(arrivals, "concurrency"))] = 0
    return times


def _zeros(arrivals: ArrivalKeys, count: int) -> Int64:
    return np.zeros(count, dtype=np.int64)


ARRIVAL_PROCESSES: Mapping[str, ArrivalProcess] = {
    "poisson": ArrivalProcess(
        doc="independent of each other, `requests_per_s` on average",
        draw=_poisson,
        keys=Keys(needed=("requests_per_s",)),
        is_random=True,
        states_mean=True,
    ),
    "gamma": ArrivalProcess(
        doc="gaps with coefficient of variation `cv`: above 1 in bursts, below 1 more even than poisson",
        draw=_gamma,
        keys=Keys(needed=("requests_per_s", "cv")),
        is_random=True,
        states_mean=True,
    ),
    "constant": ArrivalProcess(
        doc="one every 1 / `requests_per_s`",
        draw=_constant,
        keys=Keys(needed=("requests_per_s",)),
        states_mean=True,
    ),
    "on_off": ArrivalProcess(
        doc="poisson for `on_s`, then at `off_requests_per_s` for `off_s`, and again",
        draw=_on_off,
        keys=Keys(needed=("requests_per_s", "on_s", "off_s"), optional=("off_requests_per_s",)),
        is_random=True,
    ),
    "schedule": ArrivalProcess(
        doc="poisson with `rates` that change at stated times",
        draw=_schedule,
        keys=Keys(needed=("rates",)),
        is_random=True,
    ),
    "closed_loop": ArrivalProcess(
        doc="`concurrency` clients, each sends its next request after an answer (and `think_time_s`)",
        place=_clients,
        keys=Keys(needed=("concurrency",), optional=("think_time_s",)),
        is_closed_loop=True,
    ),
    "all_at_once": ArrivalProcess(doc="all at the start", place=_zeros, keys=Keys()),
}
"""What ``process:`` may be: the loader, the schema, the checks and the reports read it here."""
