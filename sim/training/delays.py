"""How the compute times of steps differ, by name: factors on the mean, drawn per worker and step.

``DELAYS`` is the only place that names a delay model: loader, schema, checks and draws ask its entry. A
worker draws from a stream of its own, one value per step and in order, so that its times do not depend on how
many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sim.arrays import Float64
from sim.elementary import exp_of
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import Distribution
from sim.scenario.fields import key


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkovSlow:
    """A worker is fast or slow; both states last a geometric number of steps."""

    slowdown: float = key("compute time in the slow state, times this", ge=1, le=1e6)
    mean_slow_steps: float = key("mean length of a slow spell, in steps", ge=1, le=1e9)
    mean_fast_steps: float = key("mean length of a fast spell, in steps", ge=1, le=1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowWorker:
    """One worker that is slow all the time."""

    worker: int = key("which one, from 0", ge=0, le=65_535)
    slowdown: float = key("its compute time, times this", gt=0, le=1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLoaderStall:
    """Steps that wait for their batch before they can begin."""

    probability: float = key("of a stall, per worker and step", gt=0, le=1)
    stall_s: Distribution = key("how long it lasts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTimes:
    """Measured compute times, a row per step; worker w uses column w modulo the columns, over and over."""

    path: str = key("a CSV file (optionally .gz) of seconds, relative to the scenario file")
    columns: tuple[str, ...] = key("its columns, one per recorded worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepVariation:
    """Factors on a step's compute time, per worker and step; their mean is 1 except for ``uniform``."""

    distribution: str = key("which delay model", default="none", choices=lambda: DELAYS)
    random_fraction: float = key(
        "shifted_exponential: share of the mean that is exponential", default=0.1, gt=0, le=1
    )
    sigma: float | None = key("lognormal: standard deviation of the logarithm", default=None, gt=0, le=10)
    alpha: float | None = key("pareto: tail index; the mean exists above 1", default=None, gt=1, le=1e6)
    min: float | None = key("uniform: smallest factor", default=None, ge=0, le=1e6)
    max: float | None = key("uniform: largest factor", default=None, gt=0, le=1e6)
    markov: MarkovSlow | None = key("slow and fast spells", default=None)
    slow_workers: tuple[SlowWorker, ...] = key("persistent stragglers", default=())
    data_loader: DataLoaderStall | None = key("batches that come late", default=None)
    recorded: RecordedTimes | None = key("measured times in place of compute_s", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A delay model. ``draw`` gives the next factors; their mean is 1 unless ``meaning`` says otherwise."""

    meaning: str
    draw: Callable[[StepVariation, np.random.Generator, int], Float64]
    keys: tuple[str, ...] = ()  # of ``variation``: needed by it, refused where no such model is chosen
    optional_keys: tuple[str, ...] = ()
    is_random: bool = True


def _none(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    return np.ones(count)


def _exponential(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    return rng.standard_exponential(count)


def _shifted_exponential(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    share = variation.random_fraction
    return (1 - share) + share * rng.standard_exponential(count)


def _uniform(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    return rng.uniform(variation.min or 0.0, variation.max or 1.0, count)


def _lognormal(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    sigma = variation.sigma or 0.0
    return exp_of(sigma * rng.standard_normal(count) - sigma * sigma / 2)


def _pareto(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
    alpha = variation.alpha or 2.0
    return (alpha - 1) / alpha * exp_of(rng.standard_exponential(count) / alpha)


DELAYS: dict[str, Delay] = {
    "none": Delay(meaning="every step alike", draw=_none, is_random=False),
    "exponential": Delay(meaning="no memory", draw=_exponential),
    "shifted_exponential": Delay(
        meaning="1 - random_fraction for certain, the rest exponential", draw=_shifted_exponential
    ),
    "uniform": Delay(
        meaning="from min to max, whatever their mean", draw=_uniform, keys=("max",), optional_keys=("min",)
    ),
    "lognormal": Delay(meaning="by sigma", draw=_lognormal, keys=("sigma",)),
    "pareto": Delay(meaning="by alpha", draw=_pareto, keys=("alpha",)),
}


def delays_with(key: str) -> str:
    """The names of the models that have a use for this key of ``variation``."""
    return ", ".join(name for name, one in DELAYS.items() if key in (*one.keys, *one.optional_keys))
