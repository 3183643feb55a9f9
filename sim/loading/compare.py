"""The ``compare:`` section, and whom to name when a part of a scenario is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.errors import ScenarioError
from sim.loading.place import Place
from sim.loading.tree import Override, has_path
from sim.suggest import did_you_mean

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+=-]{0,59}")
# What a variant may not change: seeds are common (common random numbers), the rest is about the file.
_FIXED = ("schema_version", "question", "kind", "seeds", "thresholds", "compare")
MAX_VARIANTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    """Named differences from the file. Without ``compare:`` there is one variant, ``base``."""

    reference: str
    differences: Mapping[str, Mapping[str, Any]]
    is_given: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The variants, in the order of the file."""
        return tuple(self.differences)


def split_compare(tree: Mapping[str, Any], file: str) -> tuple[dict[str, Any], Compare]:
    """The tree without ``compare:``, and what that section says."""
    rest = {name: value for name, value in tree.items() if name != "compare"}
    if "compare" not in tree:
        return rest, Compare(reference="base", differences={"base": {}}, is_given=False)
    place = Place(file=file, path="compare")
    section = tree["compare"]
    keys = "reference, variants"
    if not isinstance(section, Mapping):
        raise place.error(
            "expected a mapping",
            given=section,
            allowed=f"a mapping with keys of {keys}",
            hint="{reference: a, variants: {a: {}, b: {engine: {...}}}}",
        )
    for name in section:
        if name not in ("reference", "variants"):
            problem = f"unknown field{did_you_mean(name, ('reference', 'variants'))}"
            raise place.child(name).error(problem, allowed=keys)
    differences = _read_variants(section.get("variants"), place.child("variants"))
    reference = section.get("reference")
    if not isinstance(reference, str) or reference not in differences:
        problem = "missing" if reference is None else f"no such variant{did_you_mean(reference, differences)}"
        raise place.child("reference").error(
            problem,
            given=reference,
            allowed=", ".join(differences),
            hint=f"reference: {next(iter(differences))}",
        )
    return rest, Compare(reference=reference, differences=differences, is_given=True)


def _read_variants(given: object, place: Place) -> dict[str, Mapping[str, Any]]:
    if not isinstance(given, Mapping) or not 2 <= len(given) <= MAX_VARIANTS:
        raise place.error(
            "expected at least two variants to compare",
            given=given,
            allowed=f"2 to {MAX_VARIANTS} names, each with its differences from the file",
            hint="{a: {}, b: {engine: {max_num_seqs: 64}}}",
        )
    differences: dict[str, Mapping[str, Any]] = {}
    for name, value in given.items():
        there = place.child(str(name))
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise there.error(
                "not a name for a variant",
                given=name,
                allowed="letters, digits, space and _ . + = -, at most 60, a letter or digit first",
            )
        if value is not None and not isinstance(value, Mapping):
            raise there.error(
                "expected a mapping of differences", given=value, allowed="{} or {engine: {...}}"
            )
        for key in value or ():
            if key in _FIXED:
                raise there.child(key).error(
                    f"{key} is the same for all variants",
                    given=key,
                    allowed="hardware, model, workload, engine, replicas, routing, slo",
                    hint=f"set {key} in the file",
                )
        differences[name] = value or {}
    return differences


def blame(
    error: ScenarioError,
    file: str,
    overrides: Sequence[Override],
    *,
    variant: str = "",
    differences: Mapping[str, Any] | None = None,
) -> ScenarioError:
    """``error`` with the place where the wrong value was written: the file, a variant, or --set."""
    path, problem, where = error.path, error.problem, error.file
    if where != file:
        return error
    if variant and has_path(differences, _steps(path)):
        path = f"compare.variants.{variant}.{path}"
    elif variant:
        problem = f"{problem} (in variant {variant})"
    if any(_begins(_steps(path), override.steps) for override in overrides):
        where = "--set"
    return ScenarioError(
        problem, file=where, path=path, given=error.given, allowed=error.allowed, hint=error.hint
    )


def _steps(path: str) -> tuple[str | int, ...]:
    parts = path.replace("[", ".[").split(".")
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def _begins(steps: tuple[str | int, ...], start: tuple[str | int, ...]) -> bool:
    return steps[: len(start)] == start
