"""Overrides (``--set``), ``compare:`` and its variants: differences applied to the tree of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sim.errors import ScenarioError, did_you_mean
from sim.scenario.caution import Caution
from sim.scenario.dataclass import dataclass
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
    """``differences`` laid over ``base``: mappings key by key, everything else replaced, null takes away.

    A null of a key that ``base`` has not stays, so that the loader can tell a misspelt one.
    """
    merged = dict(base)
    for name, value in differences.items():
        old = merged.get(name)
        if value is None and name in merged:
            del merged[name]
            continue
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
            hint=f"{name}=null to take the key away, so that its default holds",
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


def empty_merge(override: Override) -> ScenarioError:
    """``--set`` lays a mapping over the one that is there: an empty one would change nothing, in silence."""
    return ScenarioError(
        "an empty mapping is laid over what the file says, and changes nothing",
        file="--set",
        path=override.path,
        given=override.text,
        allowed="a mapping with keys, or null for the key's default",
    )


def taken_away(override: Override) -> ScenarioError:
    """A later ``--set`` chose what does not understand this key, or replaced what it stands in."""
    return ScenarioError(
        "has no effect: a later --set takes it away",
        file="--set",
        path=override.path,
        given=override.text,
        allowed="keys that go with what the other --set choose",
        hint="leave one of the two out",
    )


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
    """A copy of ``tree`` in which the override's key has its value, or is not there where that is null."""
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
    is_taken_away = override.value is None and depth + 1 == len(override.steps)
    if isinstance(step, int):
        items = _list_with(node, override, depth, step)
        kept = [] if is_taken_away else [_set(items[step], override, depth + 1, choices)]
        return [*items[:step], *kept, *items[step + 1 :]]
    if isinstance(node, str) and depth == 1 and override.steps[0] in NAMED:
        node = {"base": node}
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        raise _cannot_descend(node, override, depth)
    if is_taken_away and step in node:
        return {name: value for name, value in node.items() if name != step}
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


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree by key path; lists stay whole, and so do variants, whose differences are read together."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not prefix.startswith("compare.variants."):
            flat |= flattened(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def dropped_keys(before: Mapping[str, Any], after: Mapping[str, Any], override: Override) -> Caution | None:
    """What left ``before`` with an override that did not name it: keys of the choice that it replaced.

    A null, or a plain value in the place of a mapping, names all that it takes away. A device or a model in
    the place of another does not name the differences from that one.
    """
    path, value = override.path, override.value
    if value is None or (not isinstance(value, Mapping) and path not in NAMED):
        named = f"{path}."
    else:
        named = f"{path}.base." if path in NAMED else ""
    asked = flattened(value, f"{path}.") if isinstance(value, Mapping) else {}
    kept = [f"{name}." for name in flattened(after)]
    gone = [
        name
        for name in flattened(before)
        if not any(one.startswith(f"{name}.") for one in kept)
        and not (named and f"{name}.".startswith(named))
        and asked.get(name, name) is not None
    ]
    if not gone:
        return None
    return Caution(
        kind="keys_dropped",
        observation=f"{override.text} takes {', '.join(gone)} away",
        meaning=f"{'they belong' if len(gone) > 1 else 'it belongs'} to what was chosen before",
        remedy="set what the new choice needs beside it",
    )


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


_NAME = r"[A-Za-z0-9][A-Za-z0-9 _.+=-]{0,59}"  # compiled for the first variant: few commands have one


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


def check_reach(
    tree: Mapping[str, Any], overrides: Sequence[Override], compare: Compare, choices: Choices
) -> tuple[dict[str, tuple[str, ...]], tuple[Caution, ...]]:
    """Of each override that some variants do not take those that do, and a warning; none may reach nobody."""
    given = _with_all(tree, overrides, choices)
    reached, cautions = {}, []
    for index, override in enumerate(overrides if compare.is_given else ()):
        try:
            without = _with_all(tree, [*overrides[:index], *overrides[index + 1 :]], choices)
        except ScenarioError:
            continue  # another one goes on from it
        left = [] if without == given else _unreached((without, given), compare, choices)
        if len(left) == len(compare.names):
            raise _reaches_none(override, compare)
        if left:
            reached[override.text] = tuple(name for name in compare.names if name not in left)
            cautions.append(_reaches_some(override, left))
    return reached, tuple(cautions)


def _with_all(tree: Mapping[str, Any], overrides: Sequence[Override], choices: Choices) -> dict[str, Any]:
    changed = dict(tree)
    for override in overrides:
        changed = apply_override(changed, override, choices)
    return {name: value for name, value in changed.items() if name != "compare"}


def _unreached(trees: tuple[dict[str, Any], dict[str, Any]], compare: Compare, choices: Choices) -> list[str]:
    """The variants that come out the same of both trees."""
    without, given = trees
    return [
        name
        for name, differences in compare.differences.items()
        if merge(without, differences, choices) == merge(given, differences, choices)
    ]


def _reaches_none(override: Override, compare: Compare) -> ScenarioError:
    return ScenarioError(
        "has no effect: every variant of compare sets this key itself",
        file="--set",
        path=override.path,
        given=override.text,
        allowed="keys that some variant takes from the file",
        hint=f"--set compare.variants.{compare.names[0]}.{override.text}, or --set compare=null to run the "
        "scenario without its variants",
    )


def _reaches_some(override: Override, left: Sequence[str]) -> Caution:
    who, verb = ("variant", "sets") if len(left) == 1 else ("variants", "set")
    return Caution(
        kind="variants_not_reached",
        observation=f"{override.text} does not reach {who} {', '.join(left)}",
        meaning=f"{'it' if len(left) == 1 else 'they'} {verb} {override.path} {_itself(left)}",
        remedy=f"--set compare.variants.{left[0]}.{override.text} changes that",
    )


def _itself(names: Sequence[str]) -> str:
    return "itself" if len(names) == 1 else "themselves"


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
        if not isinstance(name, str) or re.fullmatch(_NAME, name) is None:
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
    return error.told(problem=problem, file=where, path=path, others=others)


def _steps(path: str) -> tuple[str | int, ...]:
    parts = path.replace("[", ".[").split(".")
    return tuple(int(part[1:-1]) if part.startswith("[") else part for part in parts)


def _begins(steps: tuple[str | int, ...], start: tuple[str | int, ...]) -> bool:
    return steps[: len(start)] == start
