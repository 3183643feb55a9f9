"""Overrides (``--set``), ``compare:`` and its variants: differences applied to the tree of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sim.errors import ScenarioError, did_you_mean
from sim.scenario.fields import Announced
from sim.scenario.place import Place
from sim.scenario.strict_yaml import parse_value

# A mapping whose tag changes is another object: the rest of the old one says nothing about it.
TAGS = ("process", "distribution", "base")


# Named objects: a name stands for {base: name} when differences from it are given.
NAMED = ("hardware", "model")


Choices = Mapping[str, Announced]
"""By field: choices that each understand keys of their own beside it."""


_STEP = re.compile(r"([^\[\]]*)((?:\[\d{1,6}\])*)")


def merge(
    base: Mapping[str, Any], differences: Mapping[str, Any], choices: Choices, *, is_top: bool = True
) -> dict[str, Any]:
    """``differences`` laid over ``base``: mappings key by key, everything else replaced."""
    merged = dict(base)
    for name, value in differences.items():
        old = merged.get(name)
        if (
            is_top
            and name in NAMED
            and isinstance(old, str)
            and isinstance(value, Mapping)
            and "base" not in value
        ):
            old = {"base": old}
        if isinstance(value, Mapping) and isinstance(old, Mapping) and not _is_another(old, value):
            merged[name] = merge(old, value, choices, is_top=False)
        else:
            merged[name] = value
    return _without_orphans(merged, differences, choices)


def _is_another(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return any(tag in new and tag in old and new[tag] != old[tag] for tag in TAGS)


def _without_orphans(
    merged: dict[str, Any], differences: Mapping[str, Any], choices: Choices
) -> dict[str, Any]:
    """Without the keys of a choice that ``differences`` replace by one that does not understand them."""
    for field, known in choices.items():
        chosen = differences.get(field)
        if isinstance(chosen, str):
            for key in known.foreign_keys(chosen) - differences.keys():
                merged.pop(key, None)
    return merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One ``--set a.b.c=value``."""

    text: str
    steps: tuple[str | int, ...]
    value: Any

    @property
    def path(self) -> str:
        """The key path, as errors show it."""
        shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.steps)
        return shown.lstrip(".")


def parse_override(text: str) -> Override:
    """The key path and the value of ``engine.max_num_seqs=512``; the value is YAML."""
    name, equals, written = text.partition("=")
    steps = _parse_steps(name.strip())
    if not equals or steps is None:
        raise ScenarioError(
            "not of the form key=value",
            file="--set",
            given=text,
            allowed="a.b.c=value, the value in YAML",
            hint="--set engine.max_num_seqs=512",
        )
    if not written.strip():
        raise ScenarioError(
            "no value",
            file="--set",
            path=name,
            given=text,
            allowed=f"{name}=value",
            hint=f"{name}=null to take the key's default",
        )
    try:
        value = parse_value(written, file="--set")
    except ScenarioError as error:
        error.path = name.strip()
        error.problem = re.sub(r"^line 1: ", "", error.problem)
        raise
    return Override(text=text, steps=steps, value=value)


def override_of(path: str, value: object, place: Place) -> Override:
    """The key path and a value that has been read already; ``place`` is where the value stands."""
    steps = _parse_steps(path)
    if steps is None:
        raise place.error(
            "not a key path", given=path, allowed="names with dots between, e.g. engine.max_num_seqs"
        )
    return Override(text=f"{path}={value}", steps=steps, value=value)


def _parse_steps(name: str) -> tuple[str | int, ...] | None:
    steps: list[str | int] = []
    for part in name.split("."):
        match = _STEP.fullmatch(part)
        if match is None or not match[1]:
            return None
        steps.append(int(part) if part.isdigit() and steps else match[1])
        steps.extend(int(index) for index in re.findall(r"\d+", match[2]))
    return tuple(steps) if len(steps) <= 20 else None


def apply_override(tree: dict[str, Any], override: Override, choices: Choices) -> dict[str, Any]:
    """A copy of ``tree`` in which the override's key has its value."""
    changed = _set(tree, override, 0, choices)
    assert isinstance(changed, dict)  # a key path has a first key
    return changed


def _set(node: object, override: Override, depth: int, choices: Choices) -> object:
    if depth == len(override.steps):
        new = override.value
        if isinstance(node, Mapping) and isinstance(new, Mapping) and not _is_another(node, new):
            return merge(node, new, choices, is_top=False)
        return new
    step = override.steps[depth]
    if isinstance(step, int):
        items = _list_with(node, override, depth, step)
        return [*items[:step], _set(items[step], override, depth + 1, choices), *items[step + 1 :]]
    if isinstance(node, str) and depth == 1 and override.steps[0] in NAMED:
        node = {"base": node}
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        raise _cannot_descend(node, override, depth)
    child = _set(node.get(step), override, depth + 1, choices)
    return _without_orphans({**node, step: child}, {step: child}, choices)


def _list_with(node: object, override: Override, depth: int, index: int) -> list[Any]:
    if not isinstance(node, list):
        raise _cannot_descend(node, override, depth)
    if index >= len(node):
        raise ScenarioError(
            f"there is no item {index}",
            file="--set",
            path=override.path,
            given=override.text,
            allowed=f"0 to {len(node) - 1}" if node else "none: the list is empty",
        )
    return node


def _cannot_descend(node: object, override: Override, depth: int) -> ScenarioError:
    above = ".".join(str(step) for step in override.steps[:depth])
    return ScenarioError(
        f"{above} is {node!r:.60} in the scenario and has no keys",
        file="--set",
        path=override.path,
        given=override.text,
        allowed=f"{above}=... as a whole",
    )


def has_path(node: object, steps: tuple[str | int, ...]) -> bool:
    """Whether ``node`` says anything about the key path: it has the key, or replaces one above it."""
    for step in steps:
        if not isinstance(node, Mapping):
            return node is not None
        if step not in node:
            return False
        node = node[step]
    return True


def with_trace(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """The tree with the trace at ``path``: it replaces a trace's file, or all that would be drawn."""
    workload = tree.get("workload")
    if not isinstance(workload, Mapping):
        return {**tree, "workload": {"trace": {"path": path}}}
    trace = workload.get("trace")
    if isinstance(trace, Mapping):
        return {**tree, "workload": {**workload, "trace": {**trace, "path": path}}}
    drawn = (
        "arrivals",
        "prompt_tokens",
        "output_tokens",
        "classes",
        "sessions",
        "shared_prefix",
        "duration_s",
        "num_requests",
        "warmup_requests",
        "warmup_s",
    )
    kept = {name: value for name, value in workload.items() if name not in drawn}
    return {**tree, "workload": {**kept, "trace": {"path": path}}}


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
    others = [blame(one, file, overrides, variant=variant, differences=differences) for one in error.others]
    path, problem, where = error.path, error.problem, error.file
    if where != file:
        error.others = tuple(others)
        return error
    if variant and has_path(differences, _steps(path)):
        path = f"compare.variants.{variant}.{path}"
    elif variant:
        problem = f"{problem} (in variant {variant})"
    if any(_begins(_steps(path), override.steps) for override in overrides):
        where = "--set"
    return type(error)(
        problem,
        file=where,
        path=path,
        given=error.given,
        allowed=error.allowed,
        hint=error.hint,
        others=others,
    )


def _steps(path: str) -> tuple[str | int, ...]:
    parts = path.replace("[", ".[").split(".")
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def _begins(steps: tuple[str | int, ...], start: tuple[str | int, ...]) -> bool:
    return steps[: len(start)] == start
