"""The grid of a sweep: ``--over replicas=1:8 --over engine.max_num_seqs=64,128,256``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product

from sim.errors import ScenarioError

_NUMBER = r"-?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::({_NUMBER}))?")
_ALLOWED = "KEY=A:B (every whole number from A to B), KEY=A:B:STEP, or KEY=VALUE,VALUE,..."
MAX_POINTS = 100_000


def parse_over(given: str) -> tuple[str, tuple[str, ...]]:
    """(key path, values as one would write them with ``--set``) of one ``--over``."""
    key, equals, values = given.partition("=")
    if not equals or not key.strip() or not values.strip():
        raise ScenarioError("not a key with values", path="--over", given=given, allowed=_ALLOWED)
    match = _RANGE.fullmatch(values.strip())
    written = _range(given, *match.groups()) if match else tuple(_split(values))
    if any(not value for value in written):
        raise ScenarioError("an empty value between commas", path="--over", given=given, allowed=_ALLOWED)
    twice = {value for value in written if written.count(value) > 1}
    if twice:
        raise ScenarioError(f"{', '.join(sorted(twice))} stands there twice", path="--over", given=given)
    return key.strip(), written


def _range(given: str, low: str, high: str, step: str | None) -> tuple[str, ...]:
    """Both ends included, where the step hits the upper one. Decimal: 0.1 steps stay 0.1 steps."""
    first, last, by = Decimal(low), Decimal(high), Decimal(step or 1)
    if by <= 0 or last < first:
        problem = "the step must be above 0" if by <= 0 else "the range runs backwards"
        raise ScenarioError(problem, path="--over", given=given, allowed=_ALLOWED)
    count = int((last - first) / by) + 1
    if count > MAX_POINTS:
        raise ScenarioError(
            f"{count:,} values", path="--over", given=given, allowed=f"at most {MAX_POINTS:,}"
        )
    return tuple(str(first + index * by) for index in range(count))


def _split(values: str) -> Iterator[str]:
    """The values between commas; a comma inside brackets or braces belongs to its value."""
    depth, begin = 0, 0
    for index, letter in enumerate(values):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            yield values[begin:index].strip()
            begin = index + 1
    yield values[begin:].strip()


def grid(overs: Sequence[str]) -> list[Mapping[str, str]]:
    """Every combination, the last key varying fastest."""
    axes = [parse_over(given) for given in overs]
    if not axes:
        raise ScenarioError("nothing to sweep over", path="--over", allowed=_ALLOWED)
    keys = [key for key, _ in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ScenarioError(
                f"{key} is swept twice", path="--over", hint="give all its values in one --over"
            )
    total = 1
    for _, values in axes:
        total *= len(values)
    if total > MAX_POINTS:
        raise ScenarioError(
            f"the grid has {total:,} points", path="--over", allowed=f"at most {MAX_POINTS:,}"
        )
    return [dict(zip(keys, values, strict=True)) for values in product(*(values for _, values in axes))]
