"""Compute times of every worker and step, and what its data loader makes it wait, in whole picoseconds.

Each worker draws from streams of its own, one value per step and in order: the times of worker w do not
depend on how many workers there are, nor on how far a run goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S, Int64
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.csv_files import read_column
from sim.scenario.distribution import DrawPlace, draw_values
from sim.scenario.shared import Shared
from sim.training.delays import DELAYS, DataLoaderStall, MarkovSlow, RecordedTimes, StepVariation

Float64 = npt.NDArray[np.float64]

BLOCK = 1024
MAX_RUN_S = 4e6  # 46 days; picoseconds in 64 bits end at twice that


class StepTimes:
    """The times of all workers, drawn as far as they are asked for."""

    def __init__(self, nominal_s: Float64, variation: StepVariation, seed: int, base_dir: Path) -> None:
        self.num_workers = nominal_s.size
        self.has_stalls = variation.data_loader is not None
        self._nominal_s = nominal_s * slowdowns(variation, nominal_s.size)
        self._variation, self._seed, self._base_dir = variation, seed, base_dir
        self._drawn = factors_of(variation, seed)
        self._recorded = None if variation.recorded is None else read_recorded(variation.recorded, base_dir)

    def without_stalls(self) -> StepTimes:
        """The same compute times, and no data loader to wait for."""
        clean = copy(self)
        clean.has_stalls, clean._variation = False, replace(self._variation, data_loader=None)
        return clean

    def matrix(self, num_steps: int) -> tuple[Int64, Int64 | None]:
        """(compute, data-loader stall) of the first ``num_steps`` steps, a row per worker."""
        compute = np.empty((self.num_workers, num_steps), dtype=np.int64)
        stall = np.zeros_like(compute) if self.has_stalls else None
        for worker in range(self.num_workers):
            times = self.of_worker(worker)
            compute[worker], waits = times(num_steps)
            if stall is not None:
                stall[worker] = waits
        return compute, stall

    def of_worker(self, worker: int) -> Callable[[int], tuple[Int64, Int64 | int]]:
        """A function that draws the worker's next ``count`` steps: (compute, stall)."""
        factor = self._factors(worker)
        stalls = self._stalls(worker)

        def take(count: int) -> tuple[Int64, Int64 | int]:
            compute_s = factor(count)
            if count and not compute_s.max() <= MAX_RUN_S:
                raise _too_long(worker, float(compute_s.max()))
            return np.rint(compute_s * PS_PER_S).astype(np.int64), stalls(count)

        return take

    def steps_of(self, worker: int) -> Iterator[int]:
        """Compute time plus stall of the worker's steps, one by one and without end."""
        take = self.of_worker(worker)
        while True:
            compute, stall = take(BLOCK)
            yield from (compute + stall).tolist()

    def pairs_of(self, worker: int) -> Iterator[tuple[int, int]]:
        """(stall, compute) of the worker's steps, one by one and without end."""
        take = self.of_worker(worker)
        while True:
            compute, stall = take(BLOCK)
            waits = np.broadcast_to(stall, compute.shape)
            yield from zip(waits.tolist(), compute.tolist(), strict=True)

    def _factors(self, worker: int) -> Callable[[int], Float64]:
        """Seconds of the next steps."""
        variation, nominal = self._variation, float(self._nominal_s[worker])
        if self._recorded is not None:
            return _replayed(self._recorded, worker, nominal)
        draw = self._drawn.of_worker(worker)
        markov = variation.markov and _Spells(variation.markov, stream(self._seed, f"slow spells {worker}"))

        def seconds(count: int) -> Float64:
            values = nominal * draw(count)
            return values * markov.take(count) if markov else values

        return seconds

    def _stalls(self, worker: int) -> Callable[[int], Int64 | int]:
        given = self._variation.data_loader
        if given is None:
            return lambda count: 0
        when, how_long = (
            stream(self._seed, f"data loader {what} {worker}") for what in ("stalls", "seconds")
        )
        return lambda count: _draw_stalls(given, count, when, how_long, self._base_dir)


MAX_KEPT = 4_000_000  # factors: 32 MB


class Factors:
    """The factors of all workers under one seed, drawn as far as anybody asked, and kept while they are few.

    Variants and numbers of workers see the same ones (common random numbers), and so do the parts of a
    report: drawing them for each was much of what many short runs cost.
    """

    def __init__(self, variation: StepVariation, seed: int) -> None:
        self._variation, self._seed = variation, seed
        self._draw = DELAYS[variation.distribution].draw
        self._kept: dict[int, tuple[np.random.Generator, Float64]] = {}
        self.num_kept = 0

    def _stream(self, worker: int) -> np.random.Generator:
        return stream(self._seed, f"step time {worker}")

    def of_worker(self, worker: int) -> Callable[[int], Float64]:
        """A function that gives the worker's next ``count`` factors, from its first on."""
        at, own = 0, None

        def take(count: int) -> Float64:
            nonlocal at, own
            begin, at = at, at + count
            if own is None and self.num_kept + count <= MAX_KEPT:
                return self._first(worker, at)[begin:]
            if own is None:
                own = self._stream(worker)
                self._draw(self._variation, own, begin)
            return self._draw(self._variation, own, count)

        return take

    def _first(self, worker: int, count: int) -> Float64:
        rng, values = self._kept.get(worker) or (self._stream(worker), np.zeros(0))
        if count > values.size:
            more = self._draw(self._variation, rng, count - values.size)
            self.num_kept += more.size
            values = np.concatenate([values, more])
            values.flags.writeable = False  # others are given the same ones
            self._kept[worker] = rng, values
        return values[:count]


_FACTORS: Shared[tuple[object, ...], Factors] = Shared(32)


def factors_of(variation: StepVariation, seed: int) -> Factors:
    """Factors under that seed, the same for all that differ only in what is not drawn from this stream."""
    own = replace(variation, markov=None, slow_workers=(), data_loader=None, recorded=None)
    found = _FACTORS.get((DELAYS[own.distribution].draw, own, seed), lambda asked: Factors(own, seed))
    while len(_FACTORS.values()) > 1 and sum(one.num_kept for one in _FACTORS.values()) > MAX_KEPT:
        _FACTORS.drop_oldest()
    return found


class AlikeTimes(StepTimes):
    """In each step every worker takes the mean compute time of the step, and nobody waits for data."""

    def __init__(self, times: StepTimes) -> None:
        self.num_workers, self.has_stalls = times.num_workers, False
        self._takes = [times.of_worker(worker) for worker in range(times.num_workers)]
        self._means = np.zeros(0, dtype=np.int64)

    def of_worker(self, worker: int) -> Callable[[int], tuple[Int64, Int64 | int]]:
        """The same for every worker."""
        at = 0

        def take(count: int) -> tuple[Int64, Int64 | int]:
            nonlocal at
            at += count
            return self._first(at)[at - count :], 0

        return take

    def _first(self, count: int) -> Int64:
        """The means of the first ``count`` steps."""
        if count > self._means.size:
            more = max(count - self._means.size, BLOCK)
            drawn = np.stack([take(more)[0] for take in self._takes])
            self._means = np.concatenate([self._means, np.rint(drawn.mean(axis=0)).astype(np.int64)])
        return self._means[:count]


def _too_long(worker: int, step_s: float) -> ScenarioError:
    return ScenarioError(
        f"a step of worker {worker} takes {step_s:.3g} s",
        path="variation",
        given=f"{step_s:.3g} s",
        allowed=f"steps of at most {MAX_RUN_S:,.0f} s",
        hint="smaller slowdowns or recorded times, or a law with a lighter tail",
    )


def slowdowns(variation: StepVariation, num_workers: int) -> Float64:
    """The persistent factor of each worker."""
    factors = np.ones(num_workers)
    for one in variation.slow_workers:
        factors[one.worker] *= one.slowdown
    return factors


class _Spells:
    """The slow and fast spells of one worker; geometric lengths, so any moment is as good as the start."""

    def __init__(self, markov: MarkovSlow, rng: np.random.Generator) -> None:
        self._markov, self._rng = markov, rng
        total = markov.mean_slow_steps + markov.mean_fast_steps
        self._is_slow = bool(rng.random() < markov.mean_slow_steps / total)
        self._left = self._length()

    def take(self, count: int) -> Float64:
        """The factors of the next steps."""
        factors = np.ones(count)
        at = 0
        while at < count:
            size = min(self._left, count - at)
            if self._is_slow:
                factors[at : at + size] = self._markov.slowdown
            at += size
            self._left -= size
            if self._left == 0:
                self._is_slow = not self._is_slow
                self._left = self._length()
        return factors

    def _length(self) -> int:
        mean = self._markov.mean_slow_steps if self._is_slow else self._markov.mean_fast_steps
        return int(self._rng.geometric(1 / mean))


def _draw_stalls(
    given: DataLoaderStall,
    count: int,
    when: np.random.Generator,
    how_long: np.random.Generator,
    base_dir: Path,
) -> Int64:
    stalls = np.zeros(count, dtype=np.int64)
    late = np.flatnonzero(when.random(count) < given.probability)
    place = DrawPlace(path="variation.data_loader.stall_s", base_dir=base_dir)
    seconds = draw_values(given.stall_s, late.size, how_long, place)
    stalls[late] = np.rint(seconds * PS_PER_S).astype(np.int64)
    return stalls


def read_recorded(given: RecordedTimes, base_dir: Path) -> Float64:
    """Seconds, a row per recorded worker."""
    columns = [read_column(base_dir, given.path, name, "variation.recorded.path") for name in given.columns]
    shortest = min(column.size for column in columns)
    return np.stack([column[:shortest] for column in columns])


def _replayed(recorded: Float64, worker: int, factor: float) -> Callable[[int], Float64]:
    """The recorded times over and over; ``factor`` is the worker's slowdown (its nominal time is 1)."""
    row = recorded[worker % len(recorded)]
    at = 0

    def seconds(count: int) -> Float64:
        nonlocal at
        index = (at + np.arange(count)) % row.size
        at += count
        values: Float64 = row[index] * factor
        return values

    return seconds
