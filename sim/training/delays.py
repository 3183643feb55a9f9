"""How the compute times of steps differ, by name: factors on the mean, drawn per worker and step.

``DELAYS`` is the only place that names a delay model: loader, schema, checks and draws ask its entry. A
worker draws from a stream of its own, one value per step and in order, so that its times do not depend on how
many workers there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sim.arrays import Float64
from sim.elementary import exp_of

if TYPE_CHECKING:
    from sim.training.scenario import StepVariation


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A delay model. ``draw`` gives the next factors; their mean is 1 unless ``meaning`` says otherwise."""

    meaning: str
    draw: Callable[[StepVariation, np.random.Generator, int], Float64]
    keys: tuple[str, ...] = ()  # of ``variation``: needed by it, refused where no such model is chosen
    optional_keys: tuple[str, ...] = ()


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
    "none": Delay(meaning="every step alike", draw=_none),
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
