"""Which keys a distribution and an arrival process need, and which say nothing there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from sim.loading.place import Place
from sim.scenario import Arrivals, Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of one law: those it cannot do without, and those it may have."""

    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Both, as an error shows them."""
        parts = [", ".join(self.needed), f"optional: {', '.join(self.optional)}" if self.optional else ""]
        return "; ".join(part for part in parts if part) or "no other key"


_CLAMPS = ("min", "max")
LAWS: Mapping[str, Keys] = {
    "fixed": Keys(needed=("value",)),
    "uniform": Keys(needed=("max",), optional=("min",)),
    "lognormal": Keys(needed=("mean",), optional=("stddev", "sigma", *_CLAMPS)),
    "normal": Keys(needed=("mean", "stddev"), optional=_CLAMPS),
    "exponential": Keys(needed=("mean",), optional=_CLAMPS),
    "geometric": Keys(needed=("mean",), optional=_CLAMPS),
    "empirical": Keys(optional=("values", "weights", "file", "column", *_CLAMPS)),
}
PROCESSES: Mapping[str, Keys] = {
    "poisson": Keys(needed=("requests_per_s",)),
    "gamma": Keys(needed=("requests_per_s", "cv")),
    "constant": Keys(needed=("requests_per_s",)),
    "on_off": Keys(needed=("requests_per_s", "on_s", "off_s"), optional=("off_requests_per_s",)),
    "schedule": Keys(needed=("rates",)),
    "closed_loop": Keys(needed=("concurrency",), optional=("think_time_s",)),
    "all_at_once": Keys(),
}
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


def _check_keys(given: Distribution | Arrivals, tag: str, table: Mapping[str, Keys], place: Place) -> None:
    """Refuses a missing key of the law that ``tag`` names, and a key that belongs to another law."""
    law = getattr(given, tag)
    keys = table[law]
    for name in keys.needed:
        if getattr(given, name) is None:
            raise place.child(name).error(
                f"missing: {law} needs it",
                allowed=f"{tag}: {law} with {keys.text}",
                hint=f"{name}: {_EXAMPLES[name]}",
            )
    for one in fields(given):
        default = None if one.default is MISSING else one.default
        value = getattr(given, one.name)
        if one.name != tag and value != default and one.name not in (*keys.needed, *keys.optional):
            users = [other for other, its in table.items() if one.name in (*its.needed, *its.optional)]
            raise place.child(one.name).error(
                f"has no effect with {tag}: {law}",
                given=_shown(value),
                allowed=f"{tag}: {law} with {keys.text}",
                hint=f"remove it, or {tag}: {' or '.join(users)}",
            )


def _shown(value: Any) -> object:
    return list(value) if isinstance(value, tuple) else value


def check_distribution(given: Distribution, place: Place, base_dir: Path, *, least: float = 0) -> None:
    """A distribution that can be drawn from, none of whose keys is without effect.

    ``least`` is the smallest sensible value: 1 for tokens and turns.
    """
    _check_keys(given, "distribution", LAWS, place)
    if given.stddev is not None and given.sigma is not None:
        raise place.error(
            f"stddev {given.stddev:g} and sigma {given.sigma:g} both give the spread",
            allowed="stddev (of the value) or sigma (of its logarithm)",
            hint="keep one of them",
        )
    _check_range(given, place, least)
    if given.distribution == "geometric" and given.mean is not None and given.mean < 1:
        raise place.child("mean").error(
            "a geometric number is 1 or more", given=given.mean, allowed="at least 1"
        )
    if given.distribution == "empirical":
        _check_empirical(given, place, base_dir)


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


def _check_empirical(given: Distribution, place: Place, base_dir: Path) -> None:
    if (given.values is None) == (given.file is None):
        problem = "values and file both given" if given.file else "nothing to draw from"
        raise place.error(
            f"empirical: {problem}",
            allowed="values: [...], or file: and column:",
            hint="values: [100, 200, 400], or {file: lengths.csv, column: prompt_tokens}",
        )
    if given.file is not None:
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


def check_file(given: str, place: Place, base_dir: Path) -> None:
    """Refuses a path behind which there is no file, so that nothing starts without it."""
    from sim.suggest import closest

    path = base_dir / given
    try:
        if path.is_file():
            return
        names = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError):
        names = []
    near = closest(path.name, names)
    raise place.error(
        "no such file",
        given=given,
        allowed="a path relative to the scenario file",
        hint=str(Path(given).parent / near) if near else f"looked for {path}",
    )


def check_arrivals(given: Arrivals, place: Place, base_dir: Path) -> None:
    """An arrival process with its own keys and no others."""
    _check_keys(given, "process", PROCESSES, place)
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
