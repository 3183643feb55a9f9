"""Which keys a distribution and an arrival process need, and which say nothing there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

from sim.loading.place import Place
from sim.scenario import Arrivals, Distribution
from sim.workload.arrivals import ARRIVAL_PROCESSES
from sim.workload.distributions import DISTRIBUTIONS, Keys

_EXAMPLES = {
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


def _check_keys(given: Choosing, tag: str, table: Mapping[str, Choice], place: Place) -> None:
    """Refuses a missing key of the choice that ``tag`` names, and a key that belongs to another choice."""
    chosen = getattr(given, tag)
    keys = table[chosen].keys
    for name in keys.needed:
        if getattr(given, name) is None:
            raise place.child(name).error(
                f"missing: {chosen} needs it",
                allowed=f"{tag}: {chosen} with {keys.text}",
                hint=f"{name}: {_EXAMPLES.get(name, '...')}",
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
    _check_keys(given, "distribution", DISTRIBUTIONS, place)
    if given.stddev is not None and given.sigma is not None:
        raise place.error(
            f"stddev {given.stddev:g} and sigma {given.sigma:g} both give the spread",
            allowed="stddev (of the value) or sigma (of its logarithm)",
            hint="keep one of them",
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


def check_arrivals(given: Arrivals, place: Place, base_dir: Path) -> None:
    """An arrival process with its own keys and no others."""
    _check_keys(given, "process", ARRIVAL_PROCESSES, place)
    if given.think_time_s is not None:
        check_distribution(given.think_time_s, place.child("think_time_s"), base_dir)
    if given.rates is None:
        return
    there = place.child("rates")
    if not any(step.requests_per_s > 0 for step in given.rates):
        raise there.error(
            "no request would ever arrive",
            given=[step.requests_per_s for step in given.rates],
            allowed="at least one rate above 0",
            hint=_EXAMPLES["rates"],
        )
    for index in range(1, len(given.rates)):
        before, after = given.rates[index - 1].start_s, given.rates[index].start_s
        if after <= before:
            raise (
                there.item(index)
                .child("start_s")
                .error(
                    f"{after:g} s is not after the step before, which starts at {before:g} s",
                    given=after,
                    allowed="starts in ascending order",
                )
            )
