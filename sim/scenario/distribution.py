"""A number drawn per request, sequence or step: its keys, what must hold between them, and the draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from sim.arrays import Float64, Int64
from sim.elementary import exp_of, log, log1p
from sim.errors import ScenarioError
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key
from sim.scenario.place import Place

if TYPE_CHECKING:
    from sim.scenario.place import Place as KeyPlace


def _distributions() -> Mapping[str, DistributionKind]:

    return DISTRIBUTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A number drawn per request (tokens, turns or seconds). Token counts are rounded and clamped."""

    distribution: str = key("how it is drawn", choices=_distributions)
    value: float | None = key("the value of `fixed`", default=None, ge=0)
    mean: float | None = key("mean of the drawn value (before clamping)", default=None, gt=0)
    stddev: float | None = key("standard deviation, for normal and lognormal", default=None, ge=0)
    sigma: float | None = key("lognormal: standard deviation of the logarithm", default=None, ge=0)
    min: float | None = key("smallest value; smaller draws are clamped", default=None, ge=0)
    max: float | None = key("largest value; larger draws are clamped", default=None, gt=0)
    values: tuple[float, ...] | None = key("empirical: the values to draw from", default=None)
    weights: tuple[float, ...] | None = key("empirical: a weight per value", default=None)
    file: str | None = key("empirical: a CSV file (optionally .gz) to draw rows from", default=None)
    column: str | None = key("empirical: the CSV column", default=None)


MAX_TOKENS, MAX_SIGMA = 10_000_000, 5.0  # (of the logarithm: one in six is 148 times the median, or more)
"""More tokens than this in one prompt or answer is taken for a mistake (a byte count, a wrong column)."""


DEFAULT_SIGMA = 1.0
"""Lognormal without ``stddev`` or ``sigma``: stddev is then 1.31 times the mean, p99 6.2 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawPlace:
    """Where a distribution stands in the scenario, for its errors and its files."""

    path: str = ""
    base_dir: Path = Path(".")


class DrawKeys(Protocol):
    """What a draw reads of the scenario's ``Distribution``."""

    @property
    def distribution(self) -> str: ...
    @property
    def value(self) -> float | None: ...
    @property
    def mean(self) -> float | None: ...
    @property
    def stddev(self) -> float | None: ...
    @property
    def sigma(self) -> float | None: ...
    @property
    def min(self) -> float | None: ...
    @property
    def max(self) -> float | None: ...
    @property
    def values(self) -> tuple[float, ...] | None: ...
    @property
    def weights(self) -> tuple[float, ...] | None: ...
    @property
    def file(self) -> str | None: ...
    @property
    def column(self) -> str | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys that one choice reads: those it cannot do without, and those it may have."""

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Both, as an error shows them."""
        parts = [", ".join(self.needed), f"optional: {', '.join(self.optional)}" if self.optional else ""]
        return "; ".join(part for part in parts if part) or "no other key"


Draw = Callable[["DrawKeys", int, "np.random.Generator", DrawPlace], Float64]


DrawWhole = Callable[["DrawKeys", int, "np.random.Generator", DrawPlace], Int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributionKind:
    """One entry of ``DISTRIBUTIONS``: its line in the documentation, its keys, and how it is drawn."""

    doc: str
    draw: Draw
    keys: Keys
    draw_whole: DrawWhole | None = None  # token counts, where rounding ``draw`` would not do
    check: Callable[[DrawKeys, KeyPlace, Path], None] | None = None  # what its keys must be together


def draw_values(
    distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace = DrawPlace()
) -> Float64:
    """``count`` values of ``distribution``, clamped to its ``min`` and ``max``; not rounded.

    ``mean`` is the mean before clamping. lognormal: sigma from ``sigma``, or
    sqrt(ln(1 + (stddev/mean)^2)), or 1; mu = ln(mean) - sigma^2/2. geometric: support 1, 2, ...
    """
    _check_bounds(distribution, place)
    values = DISTRIBUTIONS[distribution.distribution].draw(distribution, count, rng, place)
    if distribution.min is not None or distribution.max is not None:
        np.clip(values, distribution.min, distribution.max, out=values)
    if not np.all(np.isfinite(values)):
        raise ScenarioError(
            "the distribution gives numbers without end",
            path=place.path,
            given=distribution.distribution,
            hint="smaller mean, sigma or stddev, or a max",
        )
    return values


def draw_tokens(
    distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace = DrawPlace()
) -> Int64:
    """``count`` whole numbers of ``distribution``: rounded, then clamped to [max(1, min), max].

    uniform gives every whole number from min (default 1) to max, both included, alike.
    """
    if distribution.max is not None and distribution.max < 1:
        raise ScenarioError(
            "no whole number from 1 up is allowed by this maximum",
            path=f"{place.path}.max",
            given=distribution.max,
            allowed="1 or more",
        )
    draw_whole = DISTRIBUTIONS[distribution.distribution].draw_whole
    if draw_whole is not None:
        _check_bounds(distribution, place)
        return _checked_tokens(draw_whole(distribution, count, rng, place), place)
    values = draw_values(distribution, count, rng, place)
    np.rint(values, out=values)
    np.maximum(values, max(1, math.ceil(distribution.min or 0)), out=values)
    if distribution.max is not None:
        np.minimum(values, math.floor(distribution.max), out=values)
    return _checked_tokens(values, place)


def _checked_tokens(values: Float64 | Int64, place: DrawPlace) -> Int64:
    if values.size and values.max() > MAX_TOKENS:
        raise ScenarioError(
            "a drawn number of tokens is beyond belief",
            path=place.path,
            given=float(values.max()),
            allowed=f"at most {MAX_TOKENS:,}",
            hint="give the distribution a max",
        )
    return values.astype(np.int64, copy=False)


def _check_bounds(distribution: DrawKeys, place: DrawPlace) -> None:
    for name in ("value", "mean", "stddev", "sigma", "min", "max"):
        number = getattr(distribution, name)
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ScenarioError("must be a number of 0 or more", path=f"{place.path}.{name}", given=number)
    if distribution.min is not None and distribution.max is not None and distribution.min > distribution.max:
        raise ScenarioError(
            "min is above max", path=place.path, given=f"min {distribution.min:g}, max {distribution.max:g}"
        )


def _needed(distribution: DrawKeys, name: str, place: DrawPlace) -> float:
    value: float | None = getattr(distribution, name)
    if value is None:
        raise ScenarioError(
            f"{distribution.distribution} needs {name}",
            path=place.path,
            allowed=f"{{distribution: {distribution.distribution}, {name}: ...}}",
        )
    return value


def _fixed(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    return np.full(count, _needed(distribution, "value", place), dtype=np.float64)


def _uniform(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    return rng.uniform(distribution.min or 0.0, _needed(distribution, "max", place), count)


def _uniform_whole(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Int64:
    low = max(1, math.ceil(distribution.min or 0))
    high = math.floor(_needed(distribution, "max", place))
    if low > high:
        raise ScenarioError(
            "there is no whole number between min and max",
            path=place.path,
            given=(distribution.min, distribution.max),
        )
    return rng.integers(low, high, size=count, endpoint=True, dtype=np.int64)


def _lognormal(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    mean = _needed(distribution, "mean", place)
    if distribution.sigma is not None and distribution.stddev is not None:
        raise ScenarioError(
            "lognormal takes stddev or sigma, not both",
            path=place.path,
            given=f"stddev {distribution.stddev:g}, sigma {distribution.sigma:g}",
        )
    if mean <= 0:
        raise ScenarioError("must be above 0", path=f"{place.path}.mean", given=mean)
    sigma = DEFAULT_SIGMA if distribution.sigma is None else distribution.sigma
    if distribution.stddev is not None:
        spread = distribution.stddev / mean
        sigma = math.sqrt(log1p(spread * spread))
    values = rng.standard_normal(count)
    values *= sigma
    values += log(mean) - sigma * sigma / 2
    with np.errstate(over="ignore"):
        return exp_of(values)


def _normal(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    values = rng.standard_normal(count)
    values *= _needed(distribution, "stddev", place)
    values += _needed(distribution, "mean", place)
    np.maximum(values, 0.0, out=values)
    return values


def _exponential(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    values = rng.standard_exponential(count)
    values *= _needed(distribution, "mean", place)
    return values


def _geometric(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    mean = _needed(distribution, "mean", place)
    if mean < 1:
        raise ScenarioError(
            "the mean of a geometric number is at least 1",
            path=f"{place.path}.mean",
            given=mean,
            allowed="1 or more (its support is 1, 2, ...)",
        )
    return rng.geometric(1.0 / mean, count).astype(np.float64)


def _empirical(distribution: DrawKeys, count: int, rng: np.random.Generator, place: DrawPlace) -> Float64:
    values = _empirical_values(distribution, place)
    if distribution.weights is None:
        return values[rng.integers(0, len(values), size=count)]
    weights = np.asarray(distribution.weights, dtype=np.float64)
    if len(weights) != len(values):
        raise ScenarioError(
            "one weight per value is needed",
            path=f"{place.path}.weights",
            given=f"{len(weights)} weights for {len(values)} values",
        )
    if not np.all(np.isfinite(weights)) or weights.min() < 0 or weights.sum() <= 0:
        raise ScenarioError(
            "weights are numbers of 0 or more, not all 0",
            path=f"{place.path}.weights",
            given=distribution.weights,
        )
    edges = np.cumsum(weights)
    drawn = np.searchsorted(edges, rng.random(count) * edges[-1], side="right")
    picked: Float64 = values[np.minimum(drawn, np.flatnonzero(weights)[-1])]
    return picked


def _empirical_values(distribution: DrawKeys, place: DrawPlace) -> Float64:
    if (distribution.values is None) == (distribution.file is None):
        raise ScenarioError(
            "empirical needs values, or a file and its column",
            path=place.path,
            allowed="{distribution: empirical, values: [...]} or {..., file: lengths.csv, column: tokens}",
        )
    if distribution.values is None:
        from sim.scenario.csv_files import read_column

        return read_column(place.base_dir, distribution.file or "", distribution.column, f"{place.path}.file")
    values = np.asarray(distribution.values, dtype=np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)) or values.min() < 0:
        raise ScenarioError(
            "values are numbers of 0 or more, at least one",
            path=f"{place.path}.values",
            given=distribution.values,
        )
    return values


def _check_geometric(given: DrawKeys, place: KeyPlace, base_dir: Path) -> None:
    if given.mean is not None and given.mean < 1:
        raise place.child("mean").error(
            "a geometric number is 1 or more", given=given.mean, allowed="at least 1"
        )


def _check_empirical(given: DrawKeys, place: KeyPlace, base_dir: Path) -> None:
    if (given.values is None) == (given.file is None):
        problem = "values and file both given" if given.file else "nothing to draw from"
        raise place.error(
            f"empirical: {problem}",
            allowed="values: [...], or file: and column:",
            hint="values: [100, 200, 400], or {file: lengths.csv, column: prompt_tokens}",
        )
    if given.file is not None:
        from sim.scenario.csv_files import check_file

        check_file(given.file, place.child("file"), base_dir)
        if given.weights is not None:
            raise place.child("weights").error(
                "weights belong to values, not to a file", allowed="values, weights", hint="remove weights"
            )
        return
    if given.column is not None:
        raise place.child("column").error(
            "a column without a file",
            given=given.column,
            allowed="file and column",
            hint="add file, or remove column",
        )
    values, weights = given.values or (), given.weights
    if not values or min(values) < 0:
        raise place.child("values").error(
            "expected numbers to draw from", given=list(values), allowed="at least one, each 0 or more"
        )
    if weights is not None and (len(weights) != len(values) or min(weights) < 0 or sum(weights) <= 0):
        raise place.child("weights").error(
            f"{len(weights)} weights for {len(values)} values",
            given=list(weights),
            allowed="one weight per value, each 0 or more and not all 0",
        )


_CLAMPS = ("min", "max")


DISTRIBUTIONS: Mapping[str, DistributionKind] = {
    "fixed": DistributionKind(doc="always `value`", draw=_fixed, keys=Keys(needed=("value",))),
    "uniform": DistributionKind(
        doc="between `min` (0) and `max`, all alike",
        draw=_uniform,
        keys=Keys(needed=("max",), optional=("min",)),
        draw_whole=_uniform_whole,
    ),
    "lognormal": DistributionKind(
        doc="`mean` of the value, with `stddev` of the value or `sigma` of its logarithm (1)",
        draw=_lognormal,
        keys=Keys(needed=("mean",), optional=("stddev", "sigma", *_CLAMPS)),
    ),
    "normal": DistributionKind(
        doc="`mean` and `stddev`, nothing below 0",
        draw=_normal,
        keys=Keys(needed=("mean", "stddev"), optional=_CLAMPS),
    ),
    "exponential": DistributionKind(
        doc="`mean`", draw=_exponential, keys=Keys(needed=("mean",), optional=_CLAMPS)
    ),
    "geometric": DistributionKind(
        doc="`mean`, of 1, 2, ...",
        draw=_geometric,
        keys=Keys(needed=("mean",), optional=_CLAMPS),
        check=_check_geometric,
    ),
    "empirical": DistributionKind(
        doc="drawn from `values` (by `weights`), or from a `column` of a CSV `file`",
        draw=_empirical,
        keys=Keys(optional=("values", "weights", "file", "column", *_CLAMPS)),
        check=_check_empirical,
    ),
}
"""What ``distribution:`` may be: the loader, the schema, the checks and every draw read it here."""


EXAMPLES = {
    "requests_per_s": "8",
    "cv": "2",
    "on_s": "10 s",
    "off_s": "20 s",
    "concurrency": "16",
    "value": "512",
    "mean": "256",
    "stddev": "64",
    "max": "1024",
    "rates": "[{start_s: 0, requests_per_s: 2}, {start_s: 60 s, requests_per_s: 8}]",
}


class Choice(Protocol):
    """An entry of a dict of choices that says which keys go with it."""

    @property
    def keys(self) -> Keys: ...


class Choosing(Protocol):
    """A dataclass of a scenario in which one key chooses what the others mean."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def check_keys(given: Choosing, tag: str, table: Mapping[str, Choice], place: Place) -> None:
    """Refuses a missing key of the choice that ``tag`` names, and a key that belongs to another choice."""
    chosen = getattr(given, tag)
    keys = table[chosen].keys
    for name in keys.needed:
        if getattr(given, name) is None:
            raise place.child(name).error(
                f"missing: {chosen} needs it",
                allowed=f"{tag}: {chosen} with {keys.text}",
                hint=f"{name}: {EXAMPLES.get(name, '...')}",
            )
    for one in fields(given):
        default = None if one.default is MISSING else one.default
        value = getattr(given, one.name)
        if one.name != tag and value != default and one.name not in (*keys.needed, *keys.optional):
            users = [
                other for other, its in table.items() if one.name in (*its.keys.needed, *its.keys.optional)
            ]
            raise place.child(one.name).error(
                f"has no effect with {tag}: {chosen}",
                given=_shown(value),
                allowed=f"{tag}: {chosen} with {keys.text}",
                hint=f"remove it, or {tag}: {' or '.join(users)}",
            )


def _shown(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def check_distribution(given: Distribution, place: Place, base_dir: Path, *, least: float = 0) -> None:
    """A distribution that can be drawn from, none of whose keys is without effect.

    ``least`` is the smallest sensible value: 1 for tokens and turns.
    """
    check_keys(given, "distribution", DISTRIBUTIONS, place)
    if given.stddev is not None and given.sigma is not None:
        raise place.error(
            f"stddev {given.stddev:g} and sigma {given.sigma:g} both give the spread",
            allowed="stddev (of the value) or sigma (of its logarithm)",
            hint="keep one of them",
        )
    if given.sigma is not None and given.sigma > MAX_SIGMA:
        raise place.child("sigma").error(
            "the spread of the logarithm: this one covers many orders of magnitude",
            given=given.sigma,
            allowed=f"0 to {MAX_SIGMA:g}",
            hint=f"stddev: {given.sigma:g}, if that is the spread of the value itself",
        )
    _check_range(given, place, least)
    check = DISTRIBUTIONS[given.distribution].check
    if check is not None:
        check(given, place, base_dir)


def _check_range(given: Distribution, place: Place, least: float) -> None:
    low, high, mean = given.min, given.max, given.mean
    if low is not None and high is not None and low > high:
        raise place.error(f"min {low:g} is above max {high:g}", allowed="min <= max", hint="exchange the two")
    if mean is not None and high is not None and mean > high:
        raise place.child("mean").error(
            f"mean {mean:g} is above max {high:g}: most draws would be clamped",
            given=mean,
            allowed=f"at most max ({high:g})",
            hint="a larger max, or a smaller mean",
        )
    if mean is not None and low is not None and mean < low:
        raise place.child("mean").error(
            f"mean {mean:g} is below min {low:g}: most draws would be clamped",
            given=mean,
            allowed=f"at least min ({low:g})",
            hint="a smaller min, or a larger mean",
        )
    for name in ("value", "max"):
        number = getattr(given, name)
        if number is not None and number < least:
            raise place.child(name).error("out of bounds", given=number, allowed=f"at least {least:g}")
