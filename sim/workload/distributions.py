"""Numbers drawn from a scenario's ``Distribution``: token counts, turns and seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.errors import ScenarioError
from sim.records import Int64
from sim.scenario import Distribution
from sim.workload.csv_files import read_column

Float64 = npt.NDArray[np.float64]

MAX_TOKENS = 10_000_000
"""More tokens than this in one prompt or answer is taken for a mistake (a byte count, a wrong column)."""

DEFAULT_SIGMA = 1.0
"""Lognormal without ``stddev`` or ``sigma``: stddev is then 1.31 times the mean, p99 6.2 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a distribution stands in the scenario, for its errors and its files."""

    path: str = ""
    base_dir: Path = Path(".")


def draw_values(law: Distribution, count: int, rng: np.random.Generator, place: Place = Place()) -> Float64:
    """``count`` values of ``law``, clamped to its ``min`` and ``max``; not rounded.

    ``mean`` is the mean before clamping. lognormal: sigma from ``sigma``, or
    sqrt(ln(1 + (stddev/mean)^2)), or 1; mu = ln(mean) - sigma^2/2. geometric: support 1, 2, ...
    """
    _check_bounds(law, place)
    values = _LAWS[law.distribution](law, count, rng, place)
    if law.min is not None or law.max is not None:
        np.clip(values, law.min, law.max, out=values)
    if not np.all(np.isfinite(values)):
        raise ScenarioError(
            "the distribution gives numbers without end",
            path=place.path,
            given=law.distribution,
            hint="smaller mean, sigma or stddev, or a max",
        )
    return values


def draw_tokens(law: Distribution, count: int, rng: np.random.Generator, place: Place = Place()) -> Int64:
    """``count`` whole numbers of ``law``: rounded, then clamped to [max(1, min), max].

    uniform gives every whole number from min (default 1) to max, both included, alike.
    """
    if law.max is not None and law.max < 1:
        raise ScenarioError(
            "no whole number from 1 up is allowed by this maximum",
            path=f"{place.path}.max",
            given=law.max,
            allowed="1 or more",
        )
    if law.distribution == "uniform":
        _check_bounds(law, place)
        low = max(1, math.ceil(law.min or 0))
        high = math.floor(_needed(law, "max", place))
        if low > high:
            raise ScenarioError(
                "there is no whole number between min and max", path=place.path, given=(law.min, law.max)
            )
        tokens: Int64 = rng.integers(low, high, size=count, endpoint=True, dtype=np.int64)
        return _checked_tokens(tokens, place)
    values = draw_values(law, count, rng, place)
    np.rint(values, out=values)
    np.maximum(values, max(1, math.ceil(law.min or 0)), out=values)
    if law.max is not None:
        np.minimum(values, math.floor(law.max), out=values)
    return _checked_tokens(values, place)


def _checked_tokens(values: Float64 | Int64, place: Place) -> Int64:
    if values.size and values.max() > MAX_TOKENS:
        raise ScenarioError(
            "a drawn number of tokens is beyond belief",
            path=place.path,
            given=float(values.max()),
            allowed=f"at most {MAX_TOKENS:,}",
            hint="give the distribution a max",
        )
    return values.astype(np.int64, copy=False)


def _check_bounds(law: Distribution, place: Place) -> None:
    for name in ("value", "mean", "stddev", "sigma", "min", "max"):
        number = getattr(law, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ScenarioError("must be a number of 0 or more", path=f"{place.path}.{name}", given=number)
    if law.min is not None and law.max is not None and law.min > law.max:
        raise ScenarioError("min is above max", path=place.path, given=f"min {law.min:g}, max {law.max:g}")


def _needed(law: Distribution, name: str, place: Place) -> float:
    value: float | None = getattr(law, name)
    if value is None:
        raise ScenarioError(
            f"{law.distribution} needs {name}",
            path=place.path,
            allowed=f"{{distribution: {law.distribution}, {name}: ...}}",
        )
    return value


def _fixed(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    return np.full(count, _needed(law, "value", place), dtype=np.float64)


def _uniform(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    return rng.uniform(law.min or 0.0, _needed(law, "max", place), count)


def _lognormal(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    mean = _needed(law, "mean", place)
    if law.sigma is not None and law.stddev is not None:
        raise ScenarioError(
            "lognormal takes stddev or sigma, not both",
            path=place.path,
            given=f"stddev {law.stddev:g}, sigma {law.sigma:g}",
        )
    if mean <= 0:
        raise ScenarioError("must be above 0", path=f"{place.path}.mean", given=mean)
    sigma = DEFAULT_SIGMA if law.sigma is None else law.sigma
    if law.stddev is not None:
        sigma = math.sqrt(math.log1p((law.stddev / mean) ** 2))
    values = rng.standard_normal(count)
    values *= sigma
    values += math.log(mean) - sigma * sigma / 2
    with np.errstate(over="ignore"):
        np.exp(values, out=values)
    return values


def _normal(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    values = rng.standard_normal(count)
    values *= _needed(law, "stddev", place)
    values += _needed(law, "mean", place)
    np.maximum(values, 0.0, out=values)
    return values


def _exponential(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    values = rng.standard_exponential(count)
    values *= _needed(law, "mean", place)
    return values


def _geometric(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    mean = _needed(law, "mean", place)
    if mean < 1:
        raise ScenarioError(
            "the mean of a geometric number is at least 1",
            path=f"{place.path}.mean",
            given=mean,
            allowed="1 or more (its support is 1, 2, ...)",
        )
    return rng.geometric(1.0 / mean, count).astype(np.float64)


def _empirical(law: Distribution, count: int, rng: np.random.Generator, place: Place) -> Float64:
    values = _empirical_values(law, place)
    if law.weights is None:
        return values[rng.integers(0, len(values), size=count)]
    weights = np.asarray(law.weights, dtype=np.float64)
    if len(weights) != len(values):
        raise ScenarioError(
            "one weight per value is needed",
            path=f"{place.path}.weights",
            given=f"{len(weights)} weights for {len(values)} values",
        )
    if not np.all(np.isfinite(weights)) or weights.min() < 0 or weights.sum() <= 0:
        raise ScenarioError(
            "weights are numbers of 0 or more, not all 0", path=f"{place.path}.weights", given=law.weights
        )
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    picked: Float64 = values[np.minimum(drawn, np.flatnonzero(weights)[-1])]
    return picked


def _empirical_values(law: Distribution, place: Place) -> Float64:
    if (law.values is None) == (law.file is None):
        raise ScenarioError(
            "empirical needs values, or a file and its column",
            path=place.path,
            allowed="{distribution: empirical, values: [...]} or {..., file: lengths.csv, column: tokens}",
        )
    if law.values is None:
        return read_column(place.base_dir, law.file or "", law.column, f"{place.path}.file")
    values = np.asarray(law.values, dtype=np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)) or values.min() < 0:
        raise ScenarioError(
            "values are numbers of 0 or more, at least one", path=f"{place.path}.values", given=law.values
        )
    return values


_LAWS: dict[str, Callable[[Distribution, int, np.random.Generator, Place], Float64]] = {
    "fixed": _fixed,
    "uniform": _uniform,
    "lognormal": _lognormal,
    "normal": _normal,
    "exponential": _exponential,
    "geometric": _geometric,
    "empirical": _empirical,
}
